//! An issuer of tokens that rotates its keys, is away, or answers what it is told to.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{
    bn::{BigNum, BigNumContext},
    ec::{EcGroup, EcKey},
    ecdsa::EcdsaSig,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    sha::sha256,
    sign,
    ssl::SslAcceptor,
};
use serde_json::{Value, json};

/// A key with which an issuer signs.
pub(crate) struct Signer {
    pub kid: String,
    pub key: PKey<Private>,
}

impl Signer {
    pub(crate) fn new(kid: &str) -> Signer {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        Signer { kid: kid.to_owned(), key }
    }

    pub(crate) fn jwk(&self) -> Value {
        let ec = self.key.ec_key().unwrap();
        let (mut x, mut y) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        let mut context = BigNumContext::new().unwrap();
        ec.public_key().affine_coordinates(ec.group(), &mut x, &mut y, &mut context).unwrap();
        let text = |n: BigNum| URL_SAFE_NO_PAD.encode(n.to_vec_padded(32).unwrap());
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": text(x), "y": text(y)})
    }

    pub(crate) fn token(&self, subject: &str) -> String {
        self.token_of(json!({"sub": subject}))
    }

    /// With these claims, and an expiry.
    pub(crate) fn token_of(&self, mut claims: Value) -> String {
        claims["exp"] = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600).into();
        self.sign(&json!({"alg": "ES256", "kid": self.kid}), &claims)
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = EcdsaSig::sign(&sha256(message.as_bytes()), &self.key.ec_key().unwrap()).unwrap();
        let signature = [signature.r(), signature.s()].map(|n| n.to_vec_padded(32).unwrap()).concat();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// With HS256.
pub(crate) fn token_by_secret(secret: &str, claims: &str) -> String {
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let key = PKey::hmac(secret.as_bytes()).unwrap();
    let mut signer = sign::Signer::new(MessageDigest::sha256(), &key).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signer.sign_oneshot_to_vec(message.as_bytes()).unwrap()))
}

/// A key set with all of them.
pub(crate) fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Answers every request with the same, but for what it answers at a path of its own.
pub(crate) struct Issuer {
    pub address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answer: Mutex<(u16, String)>,
    documents: Mutex<HashMap<String, (u16, String)>>,
    fetches: AtomicUsize,
    asked: Mutex<Vec<String>>,
    /// Whether answers are to wait.
    held: Mutex<bool>,
    released: Condvar,
}

impl Issuer {
    pub(crate) fn start(status: u16, body: String) -> Issuer {
        Issuer::with(status, body, None)
    }

    pub(crate) fn with(status: u16, body: String, tls: Option<SslAcceptor>) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared { answer: Mutex::new((status, body)), ..Shared::default() });
        let serving = Arc::downgrade(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Some(shared), Ok(stream)) = (serving.upgrade(), stream) else { return };
                let tls = tls.clone();
                thread::spawn(move || match tls {
                    None => shared.serve(stream),
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream) {
                            shared.serve(stream);
                        }
                    }
                });
            }
        });
        Issuer { address, scheme, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/jwks.json", self.name())
    }

    /// As it would stand in `iss`.
    pub(crate) fn name(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    pub(crate) fn answer_at(&self, path: &str, status: u16, body: String) {
        self.shared.documents.lock().unwrap().insert(path.to_owned(), (status, body));
    }

    /// Which paths were asked for, since this was last asked.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }

    pub(crate) fn answer(&self, status: u16, body: String) {
        *self.shared.answer.lock().unwrap() = (status, body);
    }

    /// Answers wait from now on, or no longer.
    pub(crate) fn hold(&self, held: bool) {
        *self.shared.held.lock().unwrap() = held;
        self.shared.released.notify_all();
    }

    pub(crate) fn fetches(&self) -> usize {
        self.shared.fetches.load(Relaxed)
    }
}

impl Shared {
    fn serve(&self, mut stream: impl Read + Write) {
        let (mut head, mut chunk) = (Vec::new(), [0; 1024]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut chunk) {
                Ok(read @ 1..) => head.extend_from_slice(&chunk[..read]),
                _ => return,
            }
        }
        self.fetches.fetch_add(1, Relaxed);
        drop(self.released.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        let head = String::from_utf8_lossy(&head);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let document = self.documents.lock().unwrap().get(&path).cloned();
        let (status, body) = document.unwrap_or_else(|| self.answer.lock().unwrap().clone());
        self.asked.lock().unwrap().push(path);
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let _ = stream.flush();
    }
}
