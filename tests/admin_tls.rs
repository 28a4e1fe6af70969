//! The operator's API over TLS: whom it shows its certificate, and whose it asks for.

use std::{fs, net::SocketAddr, path::Path};

use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use crate::support::{
    Answer, Connection, Gateway, TlsClient,
    certificates::{Issued, Order, authority, svid, write},
    raw, send, tidegate, within_deadline,
};

fn order(subject: &str) -> Order {
    Order { subject: subject.into(), uris: Vec::new(), dns: vec!["localhost".into()], ..svid("") }
}

/// `edge.pem`, `edge.key` and `clients.pem`, by this authority.
fn write_files(directory: &Path, authority: &Issued) {
    let server = authority.issue(&order("admin"));
    write(&directory.join("edge.key"), &server.key_pem(), 0o600);
    write(&directory.join("edge.pem"), &server.pem(), 0o644);
    write(&directory.join("clients.pem"), &authority.pem(), 0o644);
}

fn yaml(admin: &str) -> String {
    format!("admin: {admin}\nlisteners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{}}}}]\n")
}

/// Asks over TLS, with this client certificate.
async fn ask(
    address: SocketAddr,
    trusted: &Issued,
    client: Option<&Issued>,
    request: (&str, &str),
    headers: &[(&str, &str)],
) -> Result<Answer, String> {
    let ours = TlsClient::of(trusted);
    let ours = client.map_or(ours.clone(), |client| ours.showing(client));
    let asking = async {
        let stream = ours.connect(address, "localhost").await?;
        let mut connection = Connection::http1_over(TokioIo::new(stream), "localhost".to_owned())
            .await
            .map_err(|error| format!("{error:?}"))?;
        connection.send(request.0, request.1, headers, "").await.map_err(|error| format!("{error:?}"))
    };
    within_deadline("an answer over TLS", asking).await
}

#[tokio::test]
async fn only_a_certificate_by_a_known_authority_opens() {
    let (ours, theirs) = (authority("mesh.local"), authority("other.local"));
    let directory = TempDir::new().unwrap();
    write_files(directory.path(), &ours);
    let yaml = yaml("{address: '0.0.0.0:0', tls: {cert: edge.pem, key: edge.key, client_ca: clients.pem}}");
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let at = SocketAddr::from(([127, 0, 0, 1], gateway.admin().port()));
    let (known, stranger) = (ours.issue(&order("operator")), theirs.issue(&order("stranger")));

    ask(at, &ours, Some(&known), ("GET", "/stats"), &[]).await.unwrap().assert_status(200);
    ask(at, &ours, Some(&known), ("POST", "/reload"), &[]).await.unwrap().assert_status(200);
    // An order is logged with whose it is.
    ask(at, &ours, Some(&known), ("DELETE", "/v1/upstreams/none"), &[]).await.unwrap().assert_status(404);
    let refused = gateway.wait_for_message("part refused").await;
    assert!(refused["by"].as_str().unwrap().contains("operator at 127.0.0.1:"), "{refused}");
    let wrong = ask(at, &ours, Some(&known), ("GET", "/reload"), &[]).await.unwrap();
    assert_eq!(wrong.assert_status(405).header("allow"), Some("POST"));
    ask(at, &ours, None, ("GET", "/livez"), &[]).await.unwrap().assert_status(200);
    for path in ["/", "/stats", "/config", "/metrics", "/nowhere"] {
        let refused = ask(at, &ours, None, ("GET", path), &[]).await.unwrap();
        assert!(refused.assert_status(403).text().contains("admin.tls.client_ca"), "{}", refused.text());
    }
    ask(at, &ours, None, ("POST", "/drain"), &[]).await.unwrap().assert_status(403);
    assert!(ask(at, &ours, Some(&stranger), ("GET", "/livez"), &[]).await.is_err());
    assert!(ask(at, &theirs, None, ("GET", "/livez"), &[]).await.is_err(), "the client looks, too");
    let plain = raw(at, "GET /stats HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(!String::from_utf8_lossy(&plain).contains("200"), "{plain:?}");
}

#[tokio::test]
async fn where_both_are_asked_for_both_are_needed() {
    let ours = authority("mesh.local");
    let directory = TempDir::new().unwrap();
    write_files(directory.path(), &ours);
    let yaml = yaml(
        "{address: '127.0.0.1:0', token: open-sesame, tls: {cert: edge.pem, key: edge.key, client_ca: clients.pem}}",
    );
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let known = ours.issue(&order("operator"));
    let token = [("authorization", "Bearer open-sesame")];
    for (client, headers, status) in
        [(Some(&known), &token[..], 200), (Some(&known), &[], 401), (None, &token, 403), (None, &[], 403)]
    {
        let answer = ask(gateway.admin(), &ours, client, ("GET", "/stats"), headers).await.unwrap();
        answer.assert_status(status);
    }
}

#[tokio::test]
async fn roles_go_by_the_certificate_that_is_shown() {
    let ours = authority("mesh.local");
    let directory = TempDir::new().unwrap();
    write_files(directory.path(), &ours);
    let roles = "roles: {operator: ['spiffe://mesh.local/ops/*'], viewer: ['*']}";
    let tls = format!("tls: {{cert: edge.pem, key: edge.key, client_ca: clients.pem, {roles}}}");
    let gateway =
        Gateway::start_in(directory, &yaml(&format!("{{address: '127.0.0.1:0', {tls}}}")), &[]).await;
    let at = gateway.admin();
    let with_id = |id: &str| ours.issue(&Order { uris: vec![id.into()], ..order("somebody") });
    let (anna, shop) = (with_id("spiffe://mesh.local/ops/anna"), with_id("spiffe://mesh.local/shop"));
    // Without an identity it is on no list.
    let nameless = ours.issue(&order("ops"));
    for (client, role) in [(&anna, "operator"), (&shop, "viewer"), (&nameless, "viewer")] {
        let me =
            ask(at, &ours, Some(client), ("GET", "/v1/me"), &[]).await.unwrap().assert_status(200).json();
        assert_eq!((&me["role"], &me["via"]), (&role.into(), &"certificate".into()), "{me}");
        ask(at, &ours, Some(client), ("GET", "/stats"), &[]).await.unwrap().assert_status(200);
        let order = ask(at, &ours, Some(client), ("POST", "/v1/reload"), &[]).await.unwrap();
        if role == "operator" {
            order.assert_status(200);
            continue;
        }
        let told = order.assert_status(403).json();
        assert!(told["detail"].as_str().unwrap().contains("may look and not order"), "{told}");
    }
    // It is logged as whose it is.
    ask(at, &ours, Some(&anna), ("DELETE", "/v1/upstreams/none"), &[]).await.unwrap().assert_status(404);
    let refused = gateway.wait_for_message("part refused").await;
    assert!(refused["by"].as_str().unwrap().contains("spiffe://mesh.local/ops/anna"), "{refused}");
}

#[tokio::test]
async fn a_certificate_and_a_token_together_give_the_lesser_role() {
    let ours = authority("mesh.local");
    let directory = TempDir::new().unwrap();
    write_files(directory.path(), &ours);
    let tls = "tls: {cert: edge.pem, key: edge.key, client_ca: clients.pem, roles: {operator: ['spiffe://mesh.local/ops/*']}}";
    let tokens = "tokens: [{name: boss, role: operator, token: open-sesame}, {name: wall, role: viewer, token: just-looking}]";
    let gateway =
        Gateway::start_in(directory, &yaml(&format!("{{address: '127.0.0.1:0', {tokens}, {tls}}}")), &[])
            .await;
    let with_id = |id: &str| ours.issue(&Order { uris: vec![id.into()], ..order("somebody") });
    let (anna, shop) = (with_id("spiffe://mesh.local/ops/anna"), with_id("spiffe://mesh.local/shop"));
    for (client, token, status) in [
        (&anna, "open-sesame", 200),
        (&anna, "just-looking", 403),
        (&shop, "open-sesame", 403),
        (&shop, "just-looking", 403),
        (&anna, "wrong", 401),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let order = ask(gateway.admin(), &ours, Some(client), ("POST", "/reload"), &headers).await.unwrap();
        order.assert_status(status);
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_bad_one_is_not() {
    let (old, new) = (authority("old.local"), authority("new.local"));
    let directory = TempDir::new().unwrap();
    write_files(directory.path(), &old);
    let yaml = yaml("{address: '127.0.0.1:0', tls: {cert: edge.pem, key: edge.key}}");
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let by = async |trusted: &Issued| ask(gateway.admin(), trusted, None, ("GET", "/stats"), &[]).await;
    by(&old).await.unwrap().assert_status(200);
    fs::write(gateway.directory().join("edge.pem"), "nothing").unwrap();
    by(&old).await.unwrap().assert_status(200);
    gateway.wait_for_message("admin certificate refused, the one before stays").await;
    write_files(gateway.directory(), &new);
    by(&new).await.unwrap().assert_status(200);
    assert!(by(&old).await.is_err());
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token_or_a_client_ca() {
    let directory = TempDir::new().unwrap();
    let ours = authority("mesh.local");
    write_files(directory.path(), &ours);
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (cert, key) = (at("edge.pem"), at("edge.key"));
    for (admin, message) in [
        ("{address: '0.0.0.0:0'}".to_owned(), "admin.tls.client_ca"),
        ("{address: '[::]:0'}".to_owned(), "admin.token"),
        (format!("{{address: '0.0.0.0:0', tls: {{cert: '{cert}', key: '{key}'}}}}"), "admin.token"),
        (format!("{{tls: {{cert: '{cert}', key: '{cert}'}}}}"), "admin.tls.key"),
        (format!("{{tls: {{cert: /nonexistent.pem, key: '{key}'}}}}"), "admin.tls.cert"),
        (format!("{{tls: {{cert: '{cert}', key: '{key}', client_ca: '{key}'}}}}"), "admin.tls.client_ca"),
    ] {
        let (code, stderr, _) = Gateway::start_expecting_failure(&yaml(&admin), &["run"]).await;
        assert_eq!(code, 3, "{admin}: {stderr}");
        assert!(stderr.contains(message), "{admin}: {stderr}");
    }
    let gateway = Gateway::start(&yaml("{address: '0.0.0.0:0', token: open-sesame}")).await;
    gateway
        .wait_for_line(|line| line["msg"].as_str().is_some_and(|told| told.contains("in clear text")))
        .await;
    let at = SocketAddr::from(([127, 0, 0, 1], gateway.admin().port()));
    let token = [("authorization", "Bearer open-sesame"), ("host", "gateway.internal")];
    send(at, "GET", "/stats", &token, "").await.assert_status(200);
    send(at, "GET", "/stats", &token[1..], "").await.assert_status(401);
}

/// `tidegate ARGS` beside the gateway's configuration: its exit code, and all it said.
fn run(gateway: &Gateway, args: &str) -> (i32, String) {
    let mut command = tidegate(gateway.directory());
    let output = command.current_dir(gateway.directory()).args(args.split_whitespace()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn the_command_line_speaks_tls_and_trusts_as_it_is_told() {
    let (ours, theirs) = (authority("mesh.local"), authority("other.local"));
    let directory = TempDir::new().unwrap();
    write_files(directory.path(), &ours);
    let known = ours.issue(&order("operator"));
    let at = directory.path().to_owned();
    write(&at.join("me.key"), &known.key_pem(), 0o600);
    write(&at.join("me.pem"), &known.pem(), 0o644);
    write(&at.join("others.pem"), &theirs.pem(), 0o644);
    write(&at.join("other-edge.pem"), &theirs.issue(&order("admin")).pem(), 0o644);
    let tls = "{address: '127.0.0.1:0', tls: {cert: edge.pem, key: edge.key, client_ca: clients.pem}}";
    let gateway = Gateway::start_in(directory, &yaml(tls), &[]).await;
    let port = gateway.admin().port();
    // What a configuration says whose port is not 0.
    for (file, cert) in [("known.yaml", "edge.pem"), ("wrong.yaml", "other-edge.pem")] {
        let text = yaml(tls).replacen(":0", &format!(":{port}"), 1).replace("edge.pem", cert);
        fs::write(gateway.directory().join(file), text).unwrap();
    }
    let me = "--cert me.pem --key me.key";
    for (args, code, said) in [
        (format!("status -c known.yaml {me}"), 0, "ready  tidegate"),
        (format!("reload -c known.yaml {me}"), 0, "unchanged"),
        (format!("status --admin https://localhost:{port} --ca clients.pem {me}"), 0, "ready  tidegate"),
        (format!("status -c known.yaml --admin localhost:{port} --ca clients.pem {me}"), 0, "ready"),
        ("status -c known.yaml".to_owned(), 1, "(give it with --cert and --key)"),
        (
            format!("status -c wrong.yaml {me}"),
            1,
            "does not show the certificate that the configuration names",
        ),
        (format!("status --admin https://127.0.0.1:{port} --ca clients.pem {me}"), 1, "ip address mismatch"),
        (format!("status --admin https://localhost:{port} --ca others.pem {me}"), 1, "is not trusted"),
        (format!("status --admin https://localhost:{port} {me}"), 1, "is not trusted"),
        (format!("status --admin http://localhost:{port} --ca clients.pem"), 1, "plain http is asked for"),
        (format!("status --admin localhost:{port} --ca none.pem"), 1, "cannot read none.pem"),
        (format!("status --admin localhost:{port} --ca me.key"), 1, "me.key holds no certificate"),
        (format!("status --admin localhost:{port} --cert me.pem"), 2, "--key"),
        ("status -c known.yaml --cert me.pem --key edge.key".to_owned(), 1, "and the key of me.pem"),
        (format!("drain -c known.yaml {me}"), 0, "draining"),
    ] {
        let (found, text) = run(&gateway, &args);
        assert_eq!((found, text.contains(said)), (code, true), "{args}: {text}");
        assert!(!text.contains("PRIVATE"), "{args}: {text}");
    }
    assert!(gateway.wait_exit().await.success());
}
