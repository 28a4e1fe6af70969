//! Certificates that others present, wherever one is verified: names count where names stand, and no key of a chain may be one
//! that can be broken.

use openssl::ssl::SslContextBuilder;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Answer, Backend, Gateway, TlsClient, Yaml,
    certificates::{Issued, Order, breakable_key, keep, self_signed, server, signer, svid, write},
    connect::shake,
    get,
    issuer::{Issuer, Signer, set},
    send, tidegate,
    tls::{HTTP1, TlsServer, acceptor, speaks},
    within_deadline,
};

const ID: &str = "spiffe://mesh.local/users";

fn root() -> Issued {
    self_signed(&Order { subject: "internal root".into(), ..signer("mesh.local") })
}

fn broken(order: Order) -> Order {
    Order { key: Some(breakable_key()), ..order }
}

/// A name that stands in the subject alone.
fn in_subject(name: &str) -> Order {
    Order { dns: Vec::new(), ..server(&[name]) }
}

/// A leaf, and who stands between it and the root.
type Chain = (Issued, Vec<Issued>);

/// One with a key that can be broken, and one whose signer has such a key; what they have in common is good.
fn broken_chains(root: &Issued, order: &Order) -> [Chain; 2] {
    let between = root.issue(&broken(Order { subject: "between".into(), ..signer("mesh.local") }));
    [(root.issue(&broken(order.clone())), Vec::new()), (between.issue(order), vec![between])]
}

fn good_chain(root: &Issued, order: &Order) -> Chain {
    let between = root.issue(&Order { subject: "between".into(), ..signer("mesh.local") });
    (between.issue(order), vec![between])
}

fn serving((leaf, between): &Chain) -> openssl::ssl::SslAcceptorBuilder {
    let between: Vec<_> = between.iter().map(|issued| &issued.certificate).collect();
    acceptor(&leaf.certificate, &leaf.key, &between)
}

/// A service of HTTP/1.1 at `localhost` with this chain, which answers everything with a key set.
fn service(chain: &Chain, signer: &Signer) -> Issuer {
    let mut builder = serving(chain);
    speaks(&mut builder, HTTP1);
    Issuer::with(200, set(&[signer]), Some(builder.build()))
}

/// A gateway whose `/jwt` asks that service for keys, and whose `/ext` asks it whom to let in.
async fn asking(service: &Issuer, backend: &Backend, root: &Issued) -> Gateway {
    let (directory, url) = (TempDir::new().unwrap(), service.url());
    write(&directory.path().join("ca.pem"), &root.pem(), 0o644);
    let route = |path: &str, filter: &str| {
        format!(
            "match: {{path: {path}}}, upstream: origin, filters: [{{{filter}}}, {{rewrite: {{path: /}}}}]"
        )
    };
    let yaml = Yaml::new()
        .with_upstream("origin", [backend.address()], "")
        .with_route(&route("/jwt", &format!("jwt: {{keys: {{jwks: '{url}', ca: ca.pem, cooldown: 1h}}}}")))
        .with_route(&route("/ext", &format!("ext_auth: {{url: '{url}', ca: ca.pem, timeout: 15s}}")));
    Gateway::start_in(directory, &yaml.to_string(), &[]).await
}

async fn ask(gateway: &Gateway, path: &str, signer: &Signer) -> Answer {
    let bearer = format!("Bearer {}", signer.token("u"));
    send(gateway.address("main"), "GET", path, &[("authorization", &bearer)], "").await
}

/// Nothing is sent to that service, and both who ask it say why.
async fn is_refused(chain: &Chain, root: &Issued, backend: &Backend, why: &str) {
    let signer = Signer::new("k");
    let service = service(chain, &signer);
    let gateway = asking(&service, backend, root).await;
    for path in ["/jwt", "/ext"] {
        ask(&gateway, path, &signer).await.assert_reason(503, "auth_unavailable");
    }
    assert_eq!(service.fetches(), 0);
    let said = |filter: &'static str| {
        gateway.wait_for_line(move |line| {
            let line = line.to_string();
            line.contains(filter) && line.contains(why)
        })
    };
    said("keys of the token issuer").await;
    said("ext_auth").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_known_by_the_names_in_their_certificates() {
    let (root, backend, signer) = (root(), Backend::start().await, Signer::new("k"));
    let service = service(&good_chain(&root, &server(&["localhost"])), &signer);
    let gateway = asking(&service, &backend, &root).await;
    for path in ["/jwt", "/ext"] {
        ask(&gateway, path, &signer).await.assert_status(200);
    }
}

/// RFC 9525, section 2.
#[tokio::test(flavor = "multi_thread")]
async fn services_are_not_known_by_the_subjects_of_their_certificates() {
    let (root, backend) = (root(), Backend::start().await);
    is_refused(&(root.issue(&in_subject("localhost")), Vec::new()), &root, &backend, "hostname mismatch")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_whose_chains_have_keys_that_can_be_broken_are_refused() {
    let (root, backend) = (root(), Backend::start().await);
    for chain in broken_chains(&root, &server(&["localhost"])) {
        is_refused(&chain, &root, &backend, "certificate rejected").await;
    }
}

/// `tidegate status` at this gateway's admin address, by name, with the authority in `root.crt`.
fn status(gateway: &Gateway) -> (i32, String) {
    let address = format!("https://localhost:{}", gateway.admin().port());
    let mut command = tidegate(gateway.directory());
    let output = command.args(["status", "--admin", &address, "--ca", "root.crt"]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_no_name_from_a_subject() {
    for (order, code, said) in [
        (server(&["localhost"]), 0, "ready"),
        (in_subject("localhost"), 1, "hostname mismatch (give --ca, and the name in it)"),
    ] {
        let (directory, root) = (TempDir::new().unwrap(), root());
        keep(directory.path(), "root", &root);
        keep(directory.path(), "admin", &root.issue(&order));
        let yaml = "admin: {address: '127.0.0.1:0', tls: {cert: admin.crt, key: admin.key}}\n\
                    listeners: [{address: '127.0.0.1:0'}]\nroutes: [{respond: {}}]\n";
        let gateway = Gateway::start_in(directory, yaml, &[]).await;
        let (found, text) = status(&gateway);
        assert_eq!((found, text.contains(said)), (code, true), "{text}");
    }
}

/// A gateway with an SVID of its own, and an upstream that has to be who `verify` says.
async fn sending(endpoint: &TlsServer, verify: &str, root: &Issued) -> Gateway {
    let directory = TempDir::new().unwrap();
    keep(directory.path(), "root", root);
    root.issue(&svid("spiffe://mesh.local/gateway")).write_to(directory.path(), root);
    let yaml = Yaml::to(endpoint.address())
        .top("identity: {trust_domain: mesh.local, files: {cert: svid.pem, key: svid.key, bundle: bundle.pem}}")
        .settings(&format!("tls: {{verify: {verify}}}"));
    Gateway::start_in(directory, &yaml.to_string(), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_whose_chains_have_keys_that_can_be_broken_are_refused() {
    let root = root();
    let order = Order { dns: vec!["users.internal".into()], ..svid(ID) };
    for verify in ["{name: users.internal, ca: root.crt}", &format!("{{spiffe: ['{ID}']}}")] {
        let good = TlsServer::start(serving(&good_chain(&root, &order))).await;
        get(sending(&good, verify, &root).await.address("main"), "/").await.assert_status(200);
        for chain in broken_chains(&root, &order) {
            let endpoint = TlsServer::start(serving(&chain)).await;
            let gateway = sending(&endpoint, verify, &root).await;
            let refused = get(gateway.address("main"), "/").await;
            refused.assert_reason(502, "upstream_identity_mismatch");
            let said = gateway.wait_for_message("endpoint is not trusted").await;
            assert!(said["why"].as_str().unwrap().contains("CVE-2017-15361"), "{said}");
            assert!(endpoint.record().requests.is_empty());
        }
    }
}

/// One request as a client that shows this chain; what went wrong says so in OpenSSL's words.
async fn ask_showing(chain: &Chain, gateway: &Gateway, root: &Issued) -> Result<String, String> {
    let mut context: SslContextBuilder = TlsClient::of(root).showing(&chain.0).context();
    for link in &chain.1 {
        context.add_extra_chain_cert(link.certificate.clone()).unwrap();
    }
    let mut stream = shake(context, gateway.address("main"), "a.example").await?;
    // One that is refused meanwhile is told why where it reads.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await;
    let mut answer = String::new();
    let read = within_deadline("an answer", stream.read_to_string(&mut answer)).await;
    read.map(|_| answer).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_whose_chains_have_keys_that_can_be_broken_are_refused() {
    for trust in ["{ca: root.crt}", "spiffe"] {
        let (directory, root) = (TempDir::new().unwrap(), root());
        keep(directory.path(), "root", &root);
        keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
        root.issue(&svid("spiffe://mesh.local/gateway")).write_to(directory.path(), &root);
        let yaml = format!(
            "admin: {{address: '127.0.0.1:0'}}\nlog: {{level: debug}}\n\
             identity: {{trust_domain: mesh.local, files: {{cert: svid.pem, key: svid.key, bundle: bundle.pem}}}}\n\
             listeners: [{{name: main, address: '127.0.0.1:0', tls: {{certificates: [{{cert: edge.crt, key: edge.key}}], \
             client_auth: {{mode: require, trust: {trust}}}}}}}]\nroutes: [{{respond: {{body: hello}}}}]\n"
        );
        let gateway = Gateway::start_in(directory, &yaml, &[]).await;
        let known = ask_showing(&good_chain(&root, &svid(ID)), &gateway, &root).await.unwrap();
        assert!(known.ends_with("hello"), "{known}");
        for chain in broken_chains(&root, &svid(ID)) {
            let refused = ask_showing(&chain, &gateway, &root).await.unwrap_err();
            assert!(refused.contains("bad certificate"), "{trust}: {refused}");
            let said = |line: &serde_json::Value| {
                let line = line["msg"].to_string();
                line.contains("failed (certificate_invalid)") && line.contains("CVE-2017-15361")
            };
            gateway.wait_for_line(said).await;
        }
    }
}

#[tokio::test]
async fn authorities_and_issuers_with_keys_that_can_be_broken_are_refused_in_their_place() {
    let directory = TempDir::new().unwrap();
    let authority = self_signed(&broken(signer("mesh.local")));
    let own = authority.issue(&server(&["a.example"]));
    keep(directory.path(), "root", &authority);
    keep(directory.path(), "edge", &own);
    write(&directory.path().join("chain.crt"), &[own.pem(), authority.pem()].concat(), 0o644);
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (root, edge, chain, key) = (at("root.crt"), at("edge.crt"), at("chain.crt"), at("edge.key"));
    let tls = |cert: &str, more: &str| {
        format!(
            "listeners: [{{address: '127.0.0.1:0', tls: {{certificates: [{{cert: '{cert}', key: '{key}'}}]{more}}}}}]\nroutes: [{{respond: {{}}}}]\n"
        )
    };
    let filter = |filter: &str| {
        format!(
            "listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{}}, filters: [{{{filter}}}]}}]\n"
        )
    };
    for (yaml, place) in [
        (tls(&chain, ""), "listeners[0].tls.certificates[0].cert: an issuer in"),
        (
            tls(&edge, &format!(", client_auth: {{mode: require, trust: {{ca: '{root}'}}}}")),
            "listeners[0].tls.client_auth.trust.ca: an authority in",
        ),
        (
            format!(
                "listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{upstream: u}}]\nupstreams: {{u: {{endpoints: ['a.test:1'], tls: {{verify: {{ca: '{root}'}}}}}}}}\n"
            ),
            "upstreams.u.tls.verify.ca: ",
        ),
        (filter(&format!("ext_auth: {{url: 'https://a.test/', ca: '{root}'}}")), ".ext_auth.ca: "),
        (filter(&format!("jwt: {{keys: {{jwks: 'https://a.test/', ca: '{root}'}}}}")), ".jwt.keys.ca: "),
    ] {
        let (code, stderr, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!(code, 3, "{yaml}{stderr}");
        assert!(stderr.contains(place) && stderr.contains("CVE-2017-15361"), "{place}: {stderr}");
    }
}
