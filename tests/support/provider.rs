//! A provider of OpenID Connect that plays by the rules, and beside them where a test tells it to; and a browser that goes where it is sent.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::sha::sha256;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    Answer,
    issuer::{Signer, set},
    send,
};

pub(crate) const CLIENT: &str = "shop";
pub(crate) const SECRET: &str = "s3cret/of+shop";
const LOGOUT: &str = "http://schemas.openid.net/event/backchannel-logout";

pub(crate) struct Provider {
    pub address: SocketAddr,
    shared: Arc<Mutex<Script>>,
}

/// What it does.
pub(crate) struct Script {
    /// Put over the claims of ID tokens; null takes one away.
    pub claims: Value,
    /// In the place of the ID token.
    pub id_token: Option<String>,
    pub signer: Signer,
    /// Whose keys it shows.
    pub shown: Signer,
    pub expires_in: u64,
    pub refresh: bool,
    /// Put over its document.
    pub document: Value,
    pub userinfo: Value,
    /// Every answer of that path.
    pub broken: HashMap<&'static str, (u16, String)>,
    /// How often it was asked, by path.
    pub asked: HashMap<String, usize>,
    codes: HashMap<String, Code>,
    used: HashSet<String>,
    count: usize,
}

#[derive(Clone)]
struct Code {
    nonce: String,
    challenge: String,
    redirect_uri: String,
}

fn same(signer: &Signer) -> Signer {
    Signer { kid: signer.kid.clone(), key: signer.key.clone() }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Provider {
    pub(crate) fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let signer = Signer::new("k");
        let script = Script {
            claims: json!({}),
            id_token: None,
            shown: same(&signer),
            signer,
            expires_in: 3600,
            refresh: true,
            document: json!({}),
            userinfo: json!({"sub": "alice", "email": "alice@example.com"}),
            broken: HashMap::new(),
            asked: HashMap::new(),
            codes: HashMap::new(),
            used: HashSet::new(),
            count: 0,
        };
        let shared = Arc::new(Mutex::new(script));
        let serving = Arc::downgrade(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Some(shared), Ok(stream)) = (serving.upgrade(), stream) else { return };
                thread::spawn(move || serve(stream, address, &shared));
            }
        });
        Provider { address, shared }
    }

    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        self.script().asked.get(path).copied().unwrap_or_default()
    }

    /// The user logs in where the gateway has sent the browser: the query of the way back.
    pub(crate) fn log_in(&self, location: &str) -> String {
        assert!(location.starts_with(&format!("{}/auth?", self.issuer())), "{location}");
        let said = fields(location.split_once('?').unwrap().1);
        let is = |name: &str, value: &str| assert_eq!(said[name], value, "{location}");
        is("response_type", "code");
        is("client_id", CLIENT);
        is("code_challenge_method", "S256");
        assert!(said["scope"].split(' ').any(|scope| scope == "openid"), "{location}");
        let mut script = self.script();
        script.count += 1;
        let code = format!("code/{}+", script.count);
        let [nonce, challenge, redirect_uri] =
            ["nonce", "code_challenge", "redirect_uri"].map(|name| said[name].clone());
        assert!(nonce.len() >= 32 && challenge.len() == 43);
        script.codes.insert(code.clone(), Code { nonce, challenge, redirect_uri });
        let encoded = |text: &str| text.replace('/', "%2F").replace('+', "%2B").replace(':', "%3A");
        format!("code={}&state={}&iss={}", encoded(&code), said["state"], encoded(&self.issuer()))
    }

    /// A logout token with these claims over the usual ones.
    pub(crate) fn logout_token(&self, over: &Value) -> String {
        let jti = {
            let mut script = self.script();
            script.count += 1;
            format!("logout-{}", script.count)
        };
        let claims = json!({
            "iss": self.issuer(), "aud": CLIENT, "iat": now(), "exp": now() + 120, "jti": jti, "sub": "alice",
            "events": {LOGOUT: {}},
        });
        sign(&self.script().signer, &put_over(claims, over))
    }
}

pub(crate) fn put_over(mut claims: Value, over: &Value) -> Value {
    for (name, value) in over.as_object().unwrap() {
        match value.is_null() {
            true => drop(claims.as_object_mut().unwrap().remove(name)),
            false => claims[name] = value.clone(),
        }
    }
    claims
}

pub(crate) fn sign(signer: &Signer, claims: &Value) -> String {
    signer.sign(&json!({"alg": "ES256", "kid": signer.kid}), claims)
}

/// Of a query or a form.
pub(crate) fn fields(query: &str) -> BTreeMap<String, String> {
    let decoded =
        |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn serve(mut stream: impl Read + Write, address: SocketAddr, shared: &Mutex<Script>) {
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => read.extend_from_slice(&chunk[..count]),
            _ => return,
        }
        let text = String::from_utf8(read.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = field_of(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
    let (status, answer) = shared.lock().unwrap().answer(&path, &head, &body, &format!("http://{address}"));
    let length = answer.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}"
    );
    let _ = stream.flush();
}

fn field_of<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Script {
    fn answer(&mut self, path: &str, head: &str, body: &str, issuer: &str) -> (u16, String) {
        *self.asked.entry(path.to_owned()).or_default() += 1;
        if let Some(broken) = self.broken.get(path) {
            return broken.clone();
        }
        let error = |status, error: &str| (status, json!({"error": error}).to_string());
        match path {
            "/.well-known/openid-configuration" => {
                let document = json!({
                    "issuer": issuer,
                    "authorization_endpoint": format!("{issuer}/auth"),
                    "token_endpoint": format!("{issuer}/token"),
                    "userinfo_endpoint": format!("{issuer}/userinfo"),
                    "end_session_endpoint": format!("{issuer}/logout?a=b"),
                    "jwks_uri": format!("{issuer}/jwks"),
                    "authorization_response_iss_parameter_supported": true,
                });
                (200, put_over(document, &self.document).to_string())
            }
            "/jwks" => (200, set(&[&self.shown])),
            "/userinfo"
                if field_of(head, "authorization")
                    .is_some_and(|token| token.starts_with("Bearer access-")) =>
            {
                (200, self.userinfo.to_string())
            }
            "/token" => {
                use base64::engine::general_purpose::STANDARD;
                // RFC 6749, section 2.3.1: both are encoded as in a form.
                let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:s3cret%2Fof%2Bshop")));
                let form = fields(body);
                let in_body = form.get("client_secret").map(String::as_str) == Some(SECRET);
                if field_of(head, "authorization") != Some(&basic) && !in_body {
                    return error(401, "invalid_client");
                }
                match form["grant_type"].as_str() {
                    "authorization_code" => match self.codes.remove(&form["code"]) {
                        Some(code)
                            if code.redirect_uri == form["redirect_uri"]
                                && URL_SAFE_NO_PAD.encode(sha256(form["code_verifier"].as_bytes()))
                                    == code.challenge =>
                        {
                            self.grant(issuer, Some(&code.nonce))
                        }
                        _ => error(400, "invalid_grant"),
                    },
                    "refresh_token" if self.used.insert(form["refresh_token"].clone()) => {
                        self.grant(issuer, None)
                    }
                    _ => error(400, "invalid_grant"),
                }
            }
            _ => (404, String::new()),
        }
    }

    fn grant(&mut self, issuer: &str, nonce: Option<&str>) -> (u16, String) {
        self.count += 1;
        let claims = json!({
            "iss": issuer, "aud": CLIENT, "sub": "alice", "iat": now(), "exp": now() + 300, "nonce": nonce,
            "sid": "session-1", "groups": ["staff", "admins"], "name": "Alice",
        });
        let claims = put_over(put_over(claims, &json!({"nonce": nonce})), &self.claims);
        let id_token = self.id_token.clone().unwrap_or_else(|| sign(&self.signer, &claims));
        let mut answer = json!({
            "access_token": format!("access-{}", self.count), "token_type": "Bearer", "expires_in": self.expires_in,
            "id_token": id_token,
        });
        if id_token.is_empty() {
            answer = put_over(answer, &json!({"id_token": null}));
        }
        if self.refresh {
            answer["refresh_token"] = format!("refresh-{}", self.count).into();
        }
        (200, answer.to_string())
    }
}

/// What a browser keeps: cookies, and no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Browser {
    pub cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) async fn go(&mut self, gateway: SocketAddr, path: &str) -> Answer {
        self.send(gateway, "GET", path, &[("accept", "text/html"), ("sec-fetch-mode", "navigate")], "").await
    }

    pub(crate) async fn send(
        &mut self,
        gateway: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let cookies =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        let mut headers = headers.to_vec();
        if !cookies.is_empty() {
            headers.push(("cookie", &cookies));
        }
        let answer = send(gateway, method, path, &headers, body.to_owned()).await;
        for field in answer.headers.get_all("set-cookie") {
            let field = field.to_str().unwrap();
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            match field.contains("Max-Age=0") {
                true => drop(self.cookies.remove(name)),
                false => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        answer
    }

    /// From the first page to the last, with the login in between.
    pub(crate) async fn log_in(&mut self, gateway: SocketAddr, provider: &Provider, path: &str) -> Answer {
        let sent = self.go(gateway, path).await;
        let query = provider.log_in(sent.assert_status(302).header("location").unwrap());
        self.go(gateway, &format!("/oidc/callback?{query}")).await
    }
}
