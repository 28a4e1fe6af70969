//! The control plane signs SVIDs: for whoever has a token, and for whoever still has an SVID of the same ID.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use openssl::x509::X509;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::identity::{ca::Authority, parse_trust_domain};

use super::{Plane, assert_refused, tls::ask};
use crate::support::{
    Answer, Connection, Gateway, Process, TlsClient,
    certificates::{Issued, key},
    get,
    grpc::message,
    installed::installed,
    metric, tidegate, within_deadline,
};

const OPERATOR: (&str, &str) = ("authorization", "Bearer ops");
pub(super) const PAYMENTS: &str = "spiffe://mesh.local/payments";
const H2: &[u8] = b"\x02h2";

/// As in authority.proto.
#[derive(Clone, PartialEq, Message)]
struct IssueRequest {
    #[prost(bytes = "vec", tag = "1")]
    csr: Vec<u8>,
    #[prost(string, tag = "2")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IssueResponse {
    #[prost(bytes = "vec", repeated, tag = "1")]
    chain: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    bundle: Option<Bundle>,
    #[prost(int64, tag = "3")]
    until: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Bundle {
    #[prost(bytes = "vec", repeated, tag = "1")]
    authorities: Vec<Vec<u8>>,
}

/// Of `mesh.local`.
pub(super) fn authority() -> Authority {
    let domain = parse_trust_domain("mesh.local").unwrap();
    Authority::new(domain, Duration::from_secs(86_400), SystemTime::now()).unwrap()
}

/// A control plane with a CA of its own.
pub(super) struct Mesh {
    pub(super) plane: Plane,
    /// Its authority. The key is another one.
    root: Issued,
}

impl Mesh {
    async fn start(ttl: &str) -> Mesh {
        Mesh::of(&authority(), &format!("issue: {{ttl: {ttl}}}")).await
    }

    /// With the authority's key, and more in `control.serve`.
    pub(super) async fn of(authority: &Authority, serve: &str) -> Mesh {
        let directory = TempDir::new().unwrap();
        authority.write_to(&directory.path().join("ca")).unwrap();
        let root = Issued { certificate: authority.certificate.clone(), key: key() };
        let yaml = format!(
            "admin: {{address: '127.0.0.1:0'}}\nstate_dir: state\nidentity: {{trust_domain: mesh.local, ca: ca, id: \
             'spiffe://mesh.local/control'}}\ncontrol:\n  serve:\n    address: '127.0.0.1:0'\n    tls: {{certificates: \
             [identity], client_auth: {{mode: request, trust: spiffe}}}}\n    authorize: [{{token: ops, operate: true}}, \
             {{spiffe: ['spiffe://mesh.local/*'], register: own, discover: ['*']}}]\n    {serve}\n"
        );
        Mesh { plane: Plane::of(Gateway::start_in(directory, &yaml, &[]).await), root }
    }

    pub(super) fn stranger(&self) -> TlsClient {
        TlsClient::of(&self.root)
    }

    pub(super) async fn operate(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask(&self.plane, &self.stranger(), method, path, &[OPERATOR], &body).await.unwrap()
    }

    /// A new token for `id`: its own id, and all of it.
    pub(super) async fn token(&self, id: &str, uses: u32) -> (String, String) {
        let made = self.operate("POST", "/v1/tokens", &json!({"id": id, "uses": uses})).await;
        let made = made.assert_status(201).json();
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        (text("id"), text("token"))
    }

    /// What is answered, or the reason with its words.
    pub(super) async fn issue(
        &self,
        client: &TlsClient,
        csr: &[u8],
        token: &str,
    ) -> Result<IssueResponse, (String, String)> {
        let stream = client.clone().speaking(H2).connect(self.plane.address(), "").await.unwrap();
        let mut connection = Connection::http2_over(TokioIo::new(stream), "localhost".into()).await.unwrap();
        let request = IssueRequest { csr: csr.to_vec(), token: token.to_owned() }.encode_to_vec();
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let path = "/tidegate.control.v1.Authority/Issue";
        let answer = connection.send("POST", path, &headers, message(&request)).await.unwrap();
        if let Some(reason) = answer.header("x-tidegate-reason") {
            let words = answer.header("grpc-message").unwrap_or_default();
            let words = percent_encoding::percent_decode_str(words).decode_utf8().unwrap().into_owned();
            return Err((reason.to_owned(), words));
        }
        Ok(IssueResponse::decode(&answer.body[5..]).unwrap())
    }

    #[track_caller]
    fn gateway_yaml(&self, token: Option<&str>) -> String {
        let token = token.map(|token| format!(", token: {token}")).unwrap_or_default();
        format!(
            "admin: {{address: '127.0.0.1:0'}}\nstate_dir: state\nidentity: {{trust_domain: mesh.local, control: {{id: \
             '{PAYMENTS}'{token}}}}}\ncontrol:\n  join:\n    servers: ['{}']\n    wait: 300ms\n    tls: {{verify: {{spiffe: \
             ['spiffe://mesh.local/control']}}, client_identity: true}}\nlisteners: [{{name: main, address: '127.0.0.1:0', \
             tls: {{certificates: [identity]}}}}]\nroutes: [{{respond: {{body: hello}}}}]\n",
            self.plane.address()
        )
    }

    /// The SVID that a gateway shows, once it has one that `is_wanted`.
    async fn shown(&self, gateway: &Gateway, is_wanted: impl Fn(&X509) -> bool) -> X509 {
        within_deadline("an SVID", async {
            loop {
                if let Ok(stream) = self.stranger().connect(gateway.address("main"), "").await {
                    let leaf = stream.ssl().peer_certificate().unwrap();
                    if is_wanted(&leaf) {
                        return leaf;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// A key, and a request for it that OpenSSL's own tool has made.
pub(super) fn request(directory: &Path, name: &str) -> (Vec<u8>, Vec<u8>) {
    let mut command = installed("openssl");
    command.current_dir(directory).args([
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    command.args(["-nodes", "-keyout", "key.pem", "-subj", "/", "-outform", "DER", "-out", "csr.der"]);
    let made = command.args(["-addext", &format!("subjectAltName=URI:{name}")]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (fs::read(directory.join("csr.der")).unwrap(), fs::read(directory.join("key.pem")).unwrap())
}

fn issued(answer: &IssueResponse, key: &[u8]) -> Issued {
    let certificate = X509::from_der(&answer.chain[0]).unwrap();
    Issued { certificate, key: openssl::pkey::PKey::private_key_from_pem(key).unwrap() }
}

fn uri(leaf: &X509) -> String {
    let names = leaf.subject_alt_names().unwrap();
    let uris: Vec<_> = names.iter().filter_map(|name| name.uri().map(str::to_owned)).collect();
    assert_eq!((uris.len(), names.len()), (1, 1));
    uris[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_svid_and_the_svid_for_the_next() {
    let mesh = Mesh::start("1h").await;
    let directory = TempDir::new().unwrap();
    let (csr, private) = request(directory.path(), PAYMENTS);
    let (id, token) = mesh.token(PAYMENTS, 1).await;
    let answer = mesh.issue(&mesh.stranger(), &csr, &token).await.unwrap();

    // As somebody else reads it.
    let own = issued(&answer, &private);
    fs::write(directory.path().join("svid.pem"), own.pem()).unwrap();
    fs::write(directory.path().join("bundle.pem"), mesh.root.pem()).unwrap();
    let openssl = |args: &[&str]| {
        let ran = installed("openssl").current_dir(directory.path()).args(args).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    };
    let text = openssl(&["x509", "-in", "svid.pem", "-noout", "-text"]);
    for said in ["URI:spiffe://mesh.local/payments\n", "CA:FALSE", "Digital Signature", "ecdsa-with-SHA256"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("DNS:"), "{text}");
    assert_eq!(openssl(&["verify", "-CAfile", "bundle.pem", "svid.pem"]), "svid.pem: OK\n");
    assert_eq!(answer.bundle.unwrap().authorities, [mesh.root.certificate.to_der().unwrap()]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((3500..=3600).contains(&(answer.until - now)), "{}", answer.until - now);

    let (reason, words) = mesh.issue(&mesh.stranger(), &csr, &token).await.unwrap_err();
    assert_eq!(reason, "unauthenticated");
    assert!(
        words.starts_with(&format!("the token {id} was used already, and it is good for one SVID")),
        "{words}"
    );
    // What was used is on the disk, and the secret is not.
    let kept = mesh.plane.gateway.directory().join("state/tokens.json");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(kept).unwrap();
    assert!(kept.contains("\"left\":0") && !kept.contains(token.split('_').nth(2).unwrap()), "{kept}");

    // From now on its SVID is enough, for itself.
    let member = mesh.stranger().showing(&own);
    let (next, private) = request(directory.path(), PAYMENTS);
    let renewed = issued(&mesh.issue(&member, &next, "").await.unwrap(), &private);
    assert_ne!(
        renewed.certificate.serial_number().to_bn().unwrap(),
        own.certificate.serial_number().to_bn().unwrap()
    );
    let (other, _) = request(directory.path(), "spiffe://mesh.local/orders");
    let (reason, words) = mesh.issue(&member, &other, "").await.unwrap_err();
    assert_eq!(reason, "not_yours");
    assert!(
        words.contains("is for spiffe://mesh.local/orders, and you are spiffe://mesh.local/payments"),
        "{words}"
    );
    for (result, count) in [("issued", 2.0), ("unauthenticated", 1.0), ("not_yours", 1.0)] {
        let label = format!("result=\"{result}\"");
        let counted = metric(&mesh.plane.gateway, "tidegate_svids_issued_total", &[&label]).await;
        assert_eq!(counted, count, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_has_its_reason_and_costs_no_token() {
    let mesh = Mesh::start("1h").await;
    let directory = TempDir::new().unwrap();
    let (_, token) = mesh.token(PAYMENTS, 1).await;
    let (good, _) = request(directory.path(), PAYMENTS);
    let (other, _) = request(directory.path(), "spiffe://mesh.local/orders");
    let guessed = token.replace(token.split('_').nth(2).unwrap(), &"0".repeat(64));
    let large = vec![0x30; 1024 * 1024];
    for (csr, token, reason, says) in [
        (&b"hello"[..], token.as_str(), "bad_request", "is no PKCS #10 in DER"),
        (&good[..good.len() - 1], &token, "bad_request", "is no PKCS #10 in DER"),
        (&large[..20_000], &token, "bad_request", "is larger than 16 KiB"),
        (&large, &token, "too_large", "message length too large"),
        (&other, &token, "not_yours", "is for spiffe://mesh.local/orders, and the token is for"),
        (&good, "", "unauthenticated", "come with a token"),
        (&good, "hello", "unauthenticated", "is no token of `tidegate token create`"),
        (&good, &guessed, "unauthenticated", "this token is not known here"),
    ] {
        let (found, words) = mesh.issue(&mesh.stranger(), csr, token).await.unwrap_err();
        assert!(found == reason && words.contains(says), "{reason}: {found} {words}");
    }
    assert!(mesh.issue(&mesh.stranger(), &good, &token).await.is_ok(), "the token is still good");
    let (id, revoked) = mesh.token(PAYMENTS, 5).await;
    mesh.operate("DELETE", &format!("/v1/tokens/{id}"), &Value::Null).await.assert_status(204);
    let (reason, words) = mesh.issue(&mesh.stranger(), &good, &revoked).await.unwrap_err();
    assert!(reason == "unauthenticated" && words.contains("revoked"), "{words}");
    assert!(!mesh.plane.gateway.output().contains(token.split('_').nth(2).unwrap()), "no secret in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_for_operators_and_their_secrets_are_shown_once() {
    let mesh = Mesh::start("1h").await;
    let (id, token) = mesh.token(PAYMENTS, 3).await;
    let list = mesh.operate("GET", "/v1/tokens", &Value::Null).await.assert_status(200).json();
    let one = &list["tokens"][0];
    assert_eq!((&one["id"], &one["spiffe"], &one["left"]), (&json!(id), &json!(PAYMENTS), &json!(3)));
    assert_eq!((&one["state"], &one["by"]), (&json!("usable"), &json!("authorize[0].token")));
    assert!(!list.to_string().contains(token.split('_').nth(2).unwrap()));
    for (body, says) in [
        (json!({"id": "mesh"}), "is not a SPIFFE ID"),
        (json!({"id": "spiffe://mesh.local"}), "has a path"),
        (json!({"id": "spiffe://other.org/a"}), "is not of this CA's trust domain"),
        (json!({"id": PAYMENTS, "uses": 0}), "1 to 100000 uses"),
        (json!({"id": PAYMENTS, "ttl": "31d"}), "from 1s to 30d"),
        (json!({"id": PAYMENTS, "for": 1}), "unknown field"),
    ] {
        assert_refused(&mesh.operate("POST", "/v1/tokens", &body).await, 400, "bad_request", says);
    }
    let unknown = mesh.operate("DELETE", "/v1/tokens/0", &Value::Null).await;
    assert_refused(&unknown, 404, "not_found", "there is no token");
    let nobody = ask(&mesh.plane, &mesh.stranger(), "GET", "/v1/tokens", &[], "").await.unwrap();
    assert_refused(&nobody, 401, "unauthenticated", "come with");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_tokens() {
    let mesh = Mesh::start("1h").await;
    let run = async |args: &[&str]| {
        let mut command = tidegate(mesh.plane.gateway.directory());
        let place = format!("https://{}", mesh.plane.address());
        command.arg("token").args(args).args(["--server", &place, "--ca", "ca/ca.pem"]);
        command.args(["--spiffe", "spiffe://mesh.local/control"]).env("TIDEGATE_CONTROL_TOKEN", "ops");
        let process = Process::spawn(command);
        let code = process.wait_exit().await.code().unwrap();
        (code, process.output(), process.stderr())
    };
    let (code, token, told) = run(&["create", "--id", PAYMENTS, "--uses", "2", "--ttl", "10m"]).await;
    assert!(code == 0 && token.starts_with("tgj_") && token.len() == 150, "{token} {told}");
    assert!(told.contains("for spiffe://mesh.local/payments, until 2"), "{told}");
    let id = token.split('_').nth(1).unwrap();
    let (_, listed, _) = run(&["list"]).await;
    assert!(listed.contains(id) && listed.contains("2 of 2") && !listed.contains(&token), "{listed}");
    let (_, listed, _) = run(&["list", "--json"]).await;
    let tokens: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&tokens[0]["id"], &tokens[0]["left"]), (&id.into(), &2.into()), "{listed}");
    assert!(!listed.contains(&token), "{listed}");
    assert_eq!(run(&["revoke", id]).await.1, format!("revoked: {id}"));
    let (code, _, told) = run(&["revoke", id]).await;
    assert!(code == 1 && told.contains("there is no token"), "{told}");
    assert_eq!(run(&["list"]).await.1, "there are no tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_its_first_svid_by_token_and_renews_it_at_half_of_its_life() {
    let mesh = Mesh::start("6s").await;
    let (_, token) = mesh.token(PAYMENTS, 1).await;
    let gateway = Gateway::start(&mesh.gateway_yaml(Some(&token))).await;
    let first = mesh.shown(&gateway, |_| true).await;
    assert_eq!(uri(&first), PAYMENTS);
    let serial = |leaf: &X509| leaf.serial_number().to_bn().unwrap();
    let second = mesh.shown(&gateway, |leaf| serial(leaf) != serial(&first)).await;
    let third =
        mesh.shown(&gateway, |leaf| serial(leaf) != serial(&second) && serial(leaf) != serial(&first)).await;
    assert_eq!(uri(&third), PAYMENTS);
    let list = mesh.operate("GET", "/v1/tokens", &Value::Null).await.json();
    assert_eq!(list["tokens"][0]["left"], 0, "only the first took the token");
    assert!(!gateway.output().contains(token.split('_').nth(2).unwrap()), "no secret in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_plane_is_down_the_svid_stays_and_a_restart_needs_no_token() {
    let mesh = Mesh::start("12h").await;
    let (_, token) = mesh.token(PAYMENTS, 1).await;
    let gateway = Gateway::start(&mesh.gateway_yaml(Some(&token))).await;
    let first = mesh.shown(&gateway, |_| true).await;
    let held = gateway.directory().join("state/held/identity.json");
    within_deadline("the identity is kept", async {
        while !held.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(fs::metadata(&held).unwrap().permissions().mode() & 0o777, 0o600);

    // The authorities change: they are told, and connections go on.
    let domain = parse_trust_domain("mesh.local").unwrap();
    let next = Authority::new(domain, Duration::from_secs(86_400), SystemTime::now()).unwrap();
    let ca = mesh.plane.gateway.directory().join("ca/ca.pem");
    let both = [fs::read(&ca).unwrap(), next.certificate.to_pem().unwrap()].concat();
    fs::write(&ca, &both).unwrap();
    within_deadline("both authorities are kept", async {
        while fs::read_to_string(&held).unwrap_or_default().matches("BEGIN CERTIFICATE").count() != 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    let yaml = mesh.gateway_yaml(None);
    mesh.plane.gateway.signal(Signal::SIGKILL);
    mesh.plane.gateway.wait_exit().await;
    let copy = TempDir::new().unwrap();
    fs::create_dir_all(copy.path().join("state/held")).unwrap();
    fs::copy(&held, copy.path().join("state/held/identity.json")).unwrap();
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit().await;
    let gateway = Gateway::start_in(copy, &yaml, &[]).await;
    let again = mesh.shown(&gateway, |_| true).await;
    assert_eq!(again.to_der().unwrap(), first.to_der().unwrap());
    get(gateway.admin(), "/readyz").await.assert_status(200);

    let (code, told, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
    assert!(
        code == 3 && told.contains("there is neither a token for spiffe://mesh.local/payments nor an SVID"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_with_another_authority_is_not_shown_the_token() {
    let (mesh, imposter) = (Mesh::start("1h").await, Mesh::start("1h").await);
    let (_, token) = mesh.token(PAYMENTS, 1).await;
    let gateway = Gateway::start(&imposter.gateway_yaml(Some(&token))).await;
    let told = gateway.wait_for_message("no new identity").await;
    let why = told["why"].as_str().unwrap();
    assert!(why.contains("it is not the control plane that the token is for"), "{told}");
    assert_eq!(
        metric(&imposter.plane.gateway, "tidegate_svids_issued_total", &[]).await,
        0.0,
        "nothing was asked"
    );
    assert!(
        mesh.stranger().connect(gateway.address("main"), "").await.is_err(),
        "there is no certificate to show"
    );
    assert_eq!(
        metric(&gateway, "tidegate_identity_updates_total", &["source=\"control\"", "failure"]).await,
        1.0
    );
}

#[tokio::test]
async fn what_cannot_issue_or_join_is_refused_with_what_to_do() {
    let serve = |issue: &str| format!("control: {{serve: {{issue: {issue}}}}}\n");
    let join = |identity: &str, tls: &str| {
        format!(
            "identity: {{trust_domain: mesh.local, {identity}}}\ncontrol: {{join: {{servers: ['127.0.0.1:1']{tls}}}}}\n\
             listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{}}}}]\n"
        )
    };
    let control = "control: {id: 'spiffe://mesh.local/a', token: x}";
    let tls = ", tls: {verify: {spiffe: ['spiffe://mesh.local/control']}}";
    for (yaml, says) in [
        (serve("{}"), "control.serve.issue: needs `identity.ca`"),
        (serve("{}"), "control.serve.issue: needs `state_dir`"),
        (serve("{}"), "control.serve.issue: needs TLS that asks for SVIDs"),
        (serve("{}"), "control.serve.issue: needs `authorize`"),
        (serve("{ttl: 1s}"), "control.serve.issue.ttl: an SVID lives from 5s to 365d"),
        (serve("{allow: all}"), "control.serve.issue.allow: unknown value \"all\" (one of: own)"),
        (join(control, ""), "identity.control: needs `control.join.tls`"),
        (join(control, tls), "identity.control.token: this is no token"),
        (join("control: {id: 'spiffe://other.org/a'}", tls), "identity.control.id: spiffe://other.org/a is not of"),
        (join(&format!("{control}, ca: ca"), tls), "identity: exactly one of"),
        (join("control: {id: 'spiffe://mesh.local/a'}", tls), "identity.control.token: there is neither a token"),
        (
            "identity: {trust_domain: mesh.local, control: {id: 'spiffe://mesh.local/a'}}\ncontrol: {serve: {}}\n".into(),
            "identity.control: a control plane cannot ask itself",
        ),
        (
            "identity: {trust_domain: mesh.local, control: {id: 'spiffe://mesh.local/a'}}\nlisteners: [{address: \
             '127.0.0.1:0'}]\nroutes: [{respond: {}}]\n"
                .into(),
            "identity.control: needs `control.join`",
        ),
    ] {
        let (code, told, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert!(code == 3 && told.contains(says), "{says}: {told}");
    }
}
