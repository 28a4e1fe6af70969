//! What is not HTTP, between two applications that know nothing of it: iptables brings it to a sidecar, a tunnel over mTLS to
//! the other, and nobody on the way sees more than TLS.

mod inbound;

use std::io;

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    sidecar::authority,
    support::{
        Process,
        namespace::{Network, PAYMENTS},
        streams::{hear, reset, rest, say},
        within_deadline,
    },
};

/// Two hosts with a sidecar each, and all that must live as long.
struct Mesh {
    orders: Process,
    payments: Process,
    network: Network,
    home: TempDir,
}

/// What differs from the usual: lines below `outbound.original_destination` and `inbound`.
#[derive(Clone, Copy)]
struct Case {
    /// Where upstream `payments` is, if there is one.
    known: Option<&'static str>,
    captured: &'static str,
    inbound: &'static str,
    allow: &'static str,
    /// Ports of payments that its rules leave alone: no sidecar is there.
    bare: &'static str,
}

const USUAL: Case = Case {
    known: None,
    captured: "true",
    inbound: "original_destination: true",
    allow: "spiffe://mesh.local/orders",
    bare: "9001",
};

fn identity(service: &str) -> String {
    format!(
        "mode: sidecar\nadmin: false\nidentity: {{trust_domain: mesh.local, ca: ca, id: \"spiffe://mesh.local/{service}\"}}\n"
    )
}

impl Mesh {
    /// `None` where the kernel allows no namespaces.
    async fn start(case: Case) -> Option<Mesh> {
        let network = Network::new()?;
        let home = authority().await;
        let Case { known, captured, inbound, allow, bare } = case;
        let upstreams = known.map_or(String::new(), |endpoint| {
            format!(
                "upstreams:\n  payments:\n    endpoints: [\"{endpoint}\"]\n    protocol: http2\n    tls: {{verify: {{spiffe: \
                 [\"spiffe://mesh.local/payments\"]}}, client_identity: true}}\n"
            )
        });
        let orders = format!(
            "{}sidecar:\n  outbound:\n    address: 127.0.0.1:15001\n    original_destination: {captured}\n{upstreams}",
            identity("orders")
        );
        let payments = format!(
            "{}sidecar:\n  inbound:\n    address: 0.0.0.0:15006\n    {inbound}\n    allow: [\"{allow}\"]\n",
            identity("payments")
        );
        let (orders_sidecar, payments_sidecar) = (
            network.orders.gateway(home.path(), &orders).await,
            network.payments.gateway(home.path(), &payments).await,
        );
        std::fs::write(home.path().join("orders.yaml"), orders).unwrap();
        std::fs::write(home.path().join("payments.yaml"), payments).unwrap();
        let apply = ["--apply", "--no-ipv6", "-c"];
        let applied = network.orders.iptables(home.path(), &[&apply[..], &["orders.yaml"]].concat());
        assert!(applied.status.success(), "{applied:?}");
        if inbound.contains("original_destination") {
            let args = [&apply[..], &["payments.yaml", "--exclude-inbound-ports", bare]].concat();
            let applied = network.payments.iptables(home.path(), &args);
            assert!(applied.status.success(), "{applied:?}");
        }
        Some(Mesh { orders: orders_sidecar, payments: payments_sidecar, network, home })
    }

    fn connect(&self, port: u16) -> TcpStream {
        self.network.orders.connect(PAYMENTS, port).unwrap()
    }
}

/// The next line about a connection at that port.
async fn line(sidecar: &Process, sign: &str) -> Value {
    let of_connection = |line: &str| {
        (line.contains("\"msg\":\"connection\"") && line.contains(sign)).then(|| line.to_owned())
    };
    let line = sidecar.find(sign, of_connection).await;
    serde_json::from_str(&line).unwrap()
}

/// Says back what it hears, once it has heard it all or not.
async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await
        });
    }
}

/// One connection with this server, by what it does with it.
fn serve<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    listener: TcpListener,
    once: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        once(stream).await
    })
}

const SECRET: &str = "the secret of orders";

fn contains(heard: &[u8], text: &str) -> bool {
    heard.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_goes_over_mtls_between_two_sidecars_and_is_read_on_no_wire() {
    // Nobody is known there; the application's own address is; another of its ports is; the sidecar is, which nothing redirects to.
    let cases = [
        USUAL,
        Case { known: Some("10.77.0.2:6379"), ..USUAL },
        Case { known: Some("10.77.0.2:8080"), captured: "{unknown: forward}", ..USUAL },
        Case { known: Some("10.77.0.2:15006"), inbound: "app: 127.0.0.1:6379", ..USUAL },
    ];
    for case in cases {
        let Some(mesh) = Mesh::start(case).await else { return };
        let _redis = tokio::spawn(echo(mesh.network.payments.listen(6379)));
        let sniffer = mesh.network.payments.sniffer();
        let mut client = mesh.connect(6379);
        assert_eq!(say(&mut client, SECRET).await, SECRET, "{:?}", case.known);
        drop(client);
        let heard = sniffer.heard();
        assert!(contains(&heard, "tidegate-tunnel/1"), "the cable was heard, and TLS began on it");
        assert!(!contains(&heard, SECRET), "{:?}: in clear text", case.known);
        let there = line(&mesh.payments, "\"bytes_in\":20").await;
        assert_eq!(there["peer"], "spiffe://mesh.local/orders", "{there}");
        assert_eq!(
            (&there["protocol"], &there["upstream"]),
            (&"tunnel".into(), &"inbound".into()),
            "{there}"
        );
        assert!(there["endpoint"].as_str().unwrap().ends_with(":6379"), "{there}");
        let here = line(&mesh.orders, "\"bytes_in\":20").await;
        assert_eq!(here["upstream_peer"], "spiffe://mesh.local/payments", "{here}");
        let expected = if case.known.is_some() { "payments" } else { "original_destination" };
        assert_eq!((&here["protocol"], &here["upstream"]), (&"TCP".into(), &expected.into()), "{here}");
        assert!(here.get("reason").is_none() && there.get("reason").is_none(), "{here}\n{there}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_through_a_tunnel() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let listener = mesh.network.payments.listen(3306);
    let server = serve(listener, |mut stream: TcpStream| async move {
        stream.write_all(b"8.0.36 greets you").await.unwrap();
        hear(&mut stream, 5).await
    });
    let sniffer = mesh.network.payments.sniffer();
    let mut client = mesh.connect(3306);
    assert_eq!(hear(&mut client, 17).await, "8.0.36 greets you");
    client.write_all(b"login").await.unwrap();
    assert_eq!(within_deadline("the login", server).await.unwrap(), "login");
    assert!(!contains(&sniffer.heard(), "greets"));
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_both_ways_through_a_tunnel_and_arrives_as_it_was() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let _server = tokio::spawn(echo(mesh.network.payments.listen(6379)));
    let mut rng = fastrand::Rng::with_seed(7);
    let said: Vec<u8> = (0..20_000_000).map(|_| rng.u8(..)).collect();
    let (mut from, mut to) = mesh.connect(6379).into_split();
    let sent = said.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut heard = Vec::new();
    within_deadline("all of it", from.read_to_end(&mut heard)).await.unwrap();
    sending.await.unwrap();
    assert!(heard == said, "what came back is not what was sent");
    for sidecar in [&mesh.orders, &mesh.payments] {
        let line = line(sidecar, "\"bytes_in\":20000000,\"bytes_out\":20000000").await;
        assert!(line.get("reason").is_none(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_say_its_end_first_through_a_tunnel() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let server = serve(mesh.network.payments.listen(7001), |mut stream: TcpStream| async move {
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        stream.write_all(format!("you said {said}").as_bytes()).await.unwrap();
    });
    let mut client = mesh.connect(7001);
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), "you said hello");
    server.await.unwrap();

    let server = serve(mesh.network.payments.listen(7002), |mut stream: TcpStream| async move {
        stream.write_all(b"greetings").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    });
    let mut client = mesh.connect(7002);
    assert_eq!(rest(&mut client).await.unwrap(), "greetings");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(within_deadline("what the server heard", server).await.unwrap(), "still here");
    for sign in ["\"bytes_out\":14", "\"bytes_out\":9"] {
        assert!(line(&mesh.orders, sign).await.get("reason").is_none());
        assert!(line(&mesh.payments, sign).await.get("reason").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_on_one_side_of_a_tunnel_is_no_end_on_the_other() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let _server = serve(mesh.network.payments.listen(7001), |mut stream: TcpStream| async move {
        hear(&mut stream, 1).await;
        reset(&stream);
    });
    let mut client = mesh.connect(7001);
    client.write_all(b"x").await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    line(&mesh.orders, "\"reason\":\"upstream_reset\"").await;
    line(&mesh.payments, "\"reason\":\"upstream_reset\"").await;

    let server = serve(mesh.network.payments.listen(7002), |mut stream: TcpStream| async move {
        stream.write_all(b"x").await.unwrap();
        rest(&mut stream).await.map_err(|error| error.kind())
    });
    let mut client = mesh.connect(7002);
    hear(&mut client, 1).await;
    reset(&client);
    drop(client);
    let ended = within_deadline("how it ended for the server", server).await.unwrap();
    assert_eq!(ended, Err(io::ErrorKind::ConnectionReset));
    line(&mesh.orders, "\"reason\":\"client_closed\"").await;
    line(&mesh.payments, "\"reason\":\"client_closed\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_allowed_gets_no_tunnel_and_both_sidecars_say_why() {
    let Some(mesh) = Mesh::start(Case { allow: "spiffe://mesh.local/pets", ..USUAL }).await else { return };
    let _redis = tokio::spawn(echo(mesh.network.payments.listen(6379)));
    let mut client = mesh.connect(6379);
    let _ = client.write_all(SECRET.as_bytes()).await;
    // Not an end that looks like the server's.
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let there = line(&mesh.payments, "\"reason\":\"forbidden\"").await;
    assert_eq!((&there["peer"], &there["detail"]), (&"spiffe://mesh.local/orders".into(), &"allow".into()));
    assert_eq!(there["bytes_in"], 0, "{there}");
    let here = line(&mesh.orders, "\"reason\":\"tunnel_refused\"").await;
    assert_eq!(here["detail"], "forbidden", "{here}");
    assert_eq!(here["upstream_peer"], "spiffe://mesh.local/payments", "{here}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_no_sidecar_is_not_sent_in_clear_text_unless_that_is_asked_for() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let _elsewhere = tokio::spawn(echo(mesh.network.payments.listen(9001)));
    let sniffer = mesh.network.payments.sniffer();
    let mut client = mesh.connect(9001);
    let _ = client.write_all(SECRET.as_bytes()).await;
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let heard = sniffer.heard();
    assert!(!heard.is_empty() && !contains(&heard, SECRET), "in clear text");
    let here = line(&mesh.orders, "\"reason\":\"connect_failed\"").await;
    assert_eq!(here["endpoint"], "10.77.0.2:9001", "{here}");
    drop(mesh);

    let Some(mesh) = Mesh::start(Case { captured: "{unknown: forward}", ..USUAL }).await else { return };
    let _elsewhere = tokio::spawn(echo(mesh.network.payments.listen(9001)));
    let sniffer = mesh.network.payments.sniffer();
    assert_eq!(say(&mut mesh.connect(9001), SECRET).await, SECRET);
    assert!(contains(&sniffer.heard(), SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_an_opaque_port_passes_as_it_is() {
    let case = Case {
        captured: "{opaque_ports: [7000]}",
        inbound: "original_destination: {opaque_ports: [7000]}",
        ..USUAL
    };
    let Some(mesh) = Mesh::start(case).await else { return };
    let _server = tokio::spawn(echo(mesh.network.payments.listen(7000)));
    let sniffer = mesh.network.payments.sniffer();
    assert_eq!(say(&mut mesh.connect(7000), SECRET).await, SECRET);
    assert!(contains(&sniffer.heard(), SECRET));
    let there = line(&mesh.payments, "\"bytes_in\":20").await;
    assert_eq!((&there["protocol"], there.get("peer")), (&"TCP".into(), None), "{there}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_told_of_by_the_sidecar_beside_it() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let mut client = mesh.connect(6379);
    let _ = client.write_all(b"hello").await;
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let there = line(&mesh.payments, "\"reason\":\"connect_failed\"").await;
    assert_eq!(there["endpoint"], "10.77.0.2:6379", "{there}");
    let here = line(&mesh.orders, "\"reason\":\"tunnel_refused\"").await;
    assert_eq!(here["detail"], "connect_failed", "{here}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_is_silent_for_too_long_ends_as_an_end() {
    let case = Case { captured: "{idle_timeout: 1s}", ..USUAL };
    let Some(mesh) = Mesh::start(case).await else { return };
    let server = serve(mesh.network.payments.listen(6379), |mut stream: TcpStream| async move {
        stream.write_all(b"x").await.unwrap();
        rest(&mut stream).await
    });
    let mut client = mesh.connect(6379);
    assert_eq!(rest(&mut client).await.unwrap(), "x");
    assert_eq!(within_deadline("the end", server).await.unwrap().unwrap(), "");
    line(&mesh.orders, "\"reason\":\"idle_timeout\"").await;
    assert!(line(&mesh.payments, "\"bytes_out\":1").await.get("reason").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_to_a_host_that_names_no_service_goes_over_mtls_too() {
    let Some(mesh) = Mesh::start(USUAL).await else { return };
    let _backend = mesh.network.payments.backend(mesh.home.path(), "payments", 8080).await;
    let _bare = mesh.network.payments.backend(mesh.home.path(), "bare", 9001).await;
    for extra in [&[][..], &["--http2-prior-knowledge"]] {
        let answer = mesh.network.orders.curl(&[extra, &["http://10.77.0.2:8080/"]].concat());
        assert!(answer.contains("payments") && answer.ends_with(" 200"), "{answer}");
        mesh.payments.wait_for_output("\"peer\":\"spiffe://mesh.local/orders\"").await;
    }
    let answer = mesh.network.orders.curl(&["http://10.77.0.2:9001/"]);
    assert!(answer.ends_with(" 502"), "{answer}");
}
