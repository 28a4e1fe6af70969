//! `protocol: tcp` over real sockets: what is said arrives, ends arrive as ends and breaks as breaks, and whatever keeps a
//! connection from its endpoint has a reason in the log.

mod limits;
mod reloads;
mod secure;
mod urgent;

use std::{io, net::SocketAddr, sync::Arc};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{
    Gateway,
    observe::descriptors,
    series,
    silent::Refusing,
    streams::{hear, reset, rest, say},
    within_deadline,
};

/// A server that does the same with each connection.
struct Server {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Server
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream));
            }
        });
        Server { address, accepting }
    }

    /// Says what it hears, and ends when it has heard all.
    async fn echo() -> Server {
        Server::start(|mut stream| async move {
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.map(drop)
        })
        .await
    }

    /// Says its name first, and then what it hears.
    async fn named(name: &'static str) -> Server {
        Server::start(move |mut stream| async move {
            stream.write_all(name.as_bytes()).await?;
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.map(drop)
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The listener `db` and its upstream, each with more settings.
fn yaml(endpoints: &[SocketAddr], listener: &str, upstream: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlisteners:\n\
         - {{name: db, address: '127.0.0.1:0', protocol: tcp, upstream: pg{listener}}}\n\
         upstreams: {{pg: {{endpoints: {endpoints:?}{upstream}}}}}\n"
    )
}

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address("db")).await.unwrap()
}

#[tokio::test]
async fn the_client_may_say_its_end_first() {
    let server = Server::start(|mut stream| async move {
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await?;
        stream.write_all(format!("you said {heard}").as_bytes()).await
    })
    .await;
    let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
    let mut client = connect(&gateway).await;
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), "you said hello");
    let line = gateway.wait_for_message("connection").await;
    let expected = serde_json::json!({
        "level": "info", "msg": "connection", "listener": "db", "upstream": "pg",
        "endpoint": server.address.to_string(), "attempts": 1, "bytes_in": 5, "bytes_out": 14,
        "client": "127.0.0.1", "protocol": "TCP",
    });
    let mut rest = line.as_object().unwrap().clone();
    assert!(rest.remove("ts").is_some() && rest.remove("duration_ms").is_some(), "{line}");
    assert_eq!(Value::from(rest), expected);
    for (name, expected) in [
        ("tidegate_tcp_bytes_total{listener=\"db\",direction=\"in\"}", 5.0),
        ("tidegate_tcp_bytes_total{listener=\"db\",direction=\"out\"}", 14.0),
        ("tidegate_connections_total{listener=\"db\"}", 1.0),
        ("tidegate_connections_active{listener=\"db\"}", 0.0),
    ] {
        assert_eq!(series(&gateway, name, &[]).await, Some(expected), "{name}");
    }
}

#[tokio::test]
async fn the_server_may_say_its_end_first() {
    let (heard, mut told) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let heard = heard.clone();
        async move {
            stream.write_all(b"greetings").await?;
            stream.shutdown().await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            heard.send(said).await.map_err(io::Error::other)
        }
    })
    .await;
    let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
    let mut client = connect(&gateway).await;
    assert_eq!(rest(&mut client).await.unwrap(), "greetings");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(within_deadline("what the server heard", told.recv()).await.unwrap(), "still here");
    assert_eq!(gateway.wait_for_message("connection").await.get("reason"), None);
}

#[tokio::test]
async fn much_goes_both_ways_at_once_and_arrives_as_it_was() {
    let server = Server::echo().await;
    let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
    let mut rng = fastrand::Rng::with_seed(7);
    let said: Vec<u8> = (0..20_000_000).map(|_| rng.u8(..)).collect();
    let (mut from, mut to) = connect(&gateway).await.into_split();
    let sent = said.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut heard = Vec::new();
    within_deadline("all of it", from.read_to_end(&mut heard)).await.unwrap();
    sending.await.unwrap();
    assert!(heard == said, "what came back is not what was sent");
    let line = gateway.wait_for_message("connection").await;
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&20_000_000.into(), &20_000_000.into()));
}

#[tokio::test]
async fn a_break_on_one_side_is_no_end_on_the_other() {
    let server = Server::start(|mut stream| async move {
        // Once it has been asked for, so that the client has a connection to lose.
        stream.read_u8().await?;
        reset(&stream);
        Ok(())
    })
    .await;
    let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
    let mut client = connect(&gateway).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "upstream_reset");

    let (broken, mut told) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream| {
        let broken = broken.clone();
        async move {
            stream.write_all(b"x").await?;
            let ended = stream.read_u8().await.unwrap_err().kind();
            broken.send(ended).await.map_err(io::Error::other)
        }
    })
    .await;
    let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
    let mut client = connect(&gateway).await;
    hear(&mut client, 1).await;
    reset(&client);
    drop(client);
    let kind = within_deadline("how it ended for the server", told.recv()).await.unwrap();
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "client_closed");
}

/// As PostgreSQL does over TLS: it has heard that the client is done, and does not read how TLS ends.
#[tokio::test]
async fn a_reset_behind_the_clients_end_is_no_error_where_nothing_was_left_to_say() {
    let answers = Arc::new(tokio::sync::Notify::new());
    let broken = Some("upstream_reset");
    for (greeting, answer, reason) in
        [(2, 0, None), (2, 24, None), (2, 1000, broken), (0, 0, broken), (0, 24, broken)]
    {
        let heard = answers.clone();
        let server = Server::start(move |mut stream| {
            let heard = heard.clone();
            async move {
                stream.write_all(&vec![b'x'; greeting]).await?;
                let mut said = String::new();
                stream.read_to_string(&mut said).await?;
                stream.write_all(&vec![b'x'; answer]).await?;
                heard.notified().await;
                reset(&stream);
                Ok(())
            }
        })
        .await;
        let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
        let mut client = connect(&gateway).await;
        hear(&mut client, greeting).await;
        client.write_all(b"goodbye").await.unwrap();
        client.shutdown().await.unwrap();
        hear(&mut client, answer).await;
        answers.notify_one();
        // A client that is still there sees it as it is.
        assert_eq!(rest(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let line = gateway.wait_for_message("connection").await;
        assert_eq!(line.get("reason").and_then(Value::as_str), reason, "{greeting}, {answer}: {line}");
        let errors = "tidegate_errors_total{route=\"db\",reason=\"upstream_reset\"}";
        assert_eq!(series(&gateway, errors, &[]).await.unwrap_or(0.0) > 0.0, reason.is_some());
    }
}

#[tokio::test]
async fn goes_to_another_endpoint_where_the_first_cannot_be_reached() {
    let (nobody, server) = (Refusing::start(), Server::echo().await);
    let gateway = Gateway::start(&yaml(&[nobody.address(), server.address], "", "")).await;
    let mut client = connect(&gateway).await;
    assert_eq!(say(&mut client, "hello").await, "hello");
    drop(client);
    let line = gateway.wait_for_message("connection").await;
    assert_eq!(
        (&line["attempts"], line["endpoint"].as_str()),
        (&2.into(), Some(&*server.address.to_string()))
    );
    assert_eq!(
        series(&gateway, "tidegate_retries_total{route=\"db\",reason=\"connect_error\"}", &[]).await,
        Some(1.0)
    );
}

#[tokio::test]
async fn no_endpoint_is_asked_twice_for_one_connection() {
    let nobody = [Refusing::start(), Refusing::start()];
    let endpoints = [nobody[0].address(), nobody[1].address()];
    let gateway = Gateway::start(&yaml(&endpoints, "", "")).await;
    assert_eq!(rest(&mut connect(&gateway).await).await.unwrap(), "");
    let line = gateway.wait_for_message("connection").await;
    assert_eq!((&line["attempts"], &line["reason"]), (&2.into(), &"connect_failed".into()));
    let errors = "tidegate_errors_total{route=\"db\",reason=\"connect_failed\"}";
    assert_eq!(series(&gateway, errors, &[]).await, Some(1.0));
}

#[tokio::test]
async fn breakers_and_health_checks_keep_connections_from_endpoints() {
    let nobody = Refusing::start();
    let breaker = ", circuit_breaker: {consecutive_failures: 2, open_for: 10m}";
    let gateway = Gateway::start(&yaml(&[nobody.address()], "", breaker)).await;
    let mut reasons = Vec::new();
    for _ in 0..3 {
        rest(&mut connect(&gateway).await).await.unwrap();
        let line = gateway.wait_for_message("connection").await;
        reasons.push((line["reason"].as_str().unwrap().to_owned(), line["attempts"].as_u64().unwrap()));
    }
    let expected = [("connect_failed", 1), ("connect_failed", 1), ("circuit_open", 0)];
    assert_eq!(reasons, expected.map(|(reason, attempts)| (reason.to_owned(), attempts)));

    let check = ", health_check: {tcp: {}, interval: 50ms}";
    let gateway = Gateway::start(&yaml(&[nobody.address()], "", check)).await;
    rest(&mut connect(&gateway).await).await.unwrap();
    let line = gateway.wait_for_message("connection").await;
    assert_eq!((&line["reason"], &line["attempts"]), (&"upstream_unhealthy".into(), &0.into()));
}

#[tokio::test]
async fn an_open_connection_counts_at_its_endpoint() {
    let (one, two) = (Server::named("one").await, Server::named("two").await);
    let endpoints = [one.address, two.address];
    let gateway = Gateway::start(&yaml(&endpoints, "", ", balancer: least_requests")).await;
    let mut open = Vec::new();
    let mut names = Vec::new();
    for _ in 0..6 {
        let mut client = connect(&gateway).await;
        names.push(hear(&mut client, 3).await);
        open.push(client);
    }
    assert_eq!(names.iter().filter(|name| *name == "one").count(), 3, "{names:?}");
    for address in endpoints {
        let active = format!("tidegate_upstream_active_requests{{upstream=\"pg\",endpoint=\"{address}\"}}");
        assert_eq!(series(&gateway, &active, &[]).await, Some(3.0));
    }
    drop(open);
    for _ in 0..6 {
        gateway.wait_for_message("connection").await;
    }
    for address in endpoints {
        let labels = format!("upstream=\"pg\",endpoint=\"{address}\"");
        let active = format!("tidegate_upstream_active_requests{{{labels}}}");
        assert_eq!(series(&gateway, &active, &[]).await, Some(0.0));
        let attempts = format!("tidegate_upstream_attempts_total{{{labels},outcome=\"success\"}}");
        assert_eq!(series(&gateway, &attempts, &[]).await, Some(3.0));
    }
}

#[tokio::test]
async fn open_connections_are_shared_out_by_weight_from_the_first_on() {
    let (heavy, light) = (Server::named("big").await, Server::named("low").await);
    let yaml = yaml(&[heavy.address, light.address], "", ", balancer: least_requests");
    let weighted = format!("[{{address: '{}', weight: 2}}", heavy.address);
    let gateway = Gateway::start(&yaml.replacen(&format!("[{}", heavy.address), &weighted, 1)).await;
    let (mut open, mut names) = (Vec::new(), Vec::new());
    for number in 1..=12 {
        let mut client = connect(&gateway).await;
        names.push(hear(&mut client, 3).await);
        open.push(client);
        let big = names.iter().filter(|name| *name == "big").count();
        assert!((3 * big).abs_diff(2 * number) <= 2, "{names:?}");
    }
}

#[tokio::test]
async fn reloads_leave_open_connections_alone() {
    let (old, new) = (Server::named("old").await, Server::named("new").await);
    let gateway = Gateway::start(&yaml(&[old.address], "", "")).await;
    let mut client = connect(&gateway).await;
    hear(&mut client, 3).await;
    let outcome = gateway.reload(&yaml(&[new.address], "", "")).await;
    assert_eq!(outcome["msg"], "configuration reloaded");
    assert_eq!(say(&mut client, "still there").await, "still there");
    assert_eq!(hear(&mut connect(&gateway).await, 3).await, "new");

    let gone = yaml(&[new.address], "", "").replace("name: db", "name: other");
    assert_eq!(gateway.reload(&gone).await["msg"], "configuration reloaded");
    assert_eq!(say(&mut client, "and now?").await, "and now?");
    assert!(TcpStream::connect(gateway.address("db")).await.is_err(), "the listener is gone");
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), "");
}

#[tokio::test]
async fn a_drain_waits_for_open_connections_and_cuts_them_when_its_grace_is_over() {
    let server = Server::echo().await;
    let gateway = Gateway::start(&yaml(&[server.address], "", "")).await;
    let mut client = connect(&gateway).await;
    say(&mut client, "hello").await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_for_message("draining").await;
    assert_eq!(say(&mut client, "still there").await, "still there");
    drop(client);
    assert!(gateway.wait_exit().await.success());
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "0");
    assert_eq!(gateway.wait_for_message("connection").await.get("reason"), None);

    let hasty = format!("shutdown: {{grace: 100ms}}\n{}", yaml(&[server.address], "", ""));
    let gateway = Gateway::start(&hasty).await;
    let mut client = connect(&gateway).await;
    say(&mut client, "hello").await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(rest(&mut client).await.unwrap(), "");
    assert!(gateway.wait_exit().await.success());
    assert_eq!(gateway.wait_for_message("stopped").await["connections_cut"], "1");
    assert_eq!(gateway.wait_for_message("connection").await["reason"], "draining");
}

#[tokio::test]
async fn nothing_is_left_open() {
    let (nobody, server) = (Refusing::start(), Server::echo().await);
    let endpoints = [nobody.address(), server.address];
    let yaml = format!("threads: 1\n{}", yaml(&endpoints, "", ""));
    let gateway = Gateway::start(&yaml).await;
    let mut after = Vec::new();
    for _ in 0..2 {
        for round in 0..20 {
            let mut client = connect(&gateway).await;
            match round % 4 {
                0 => drop(say(&mut client, "hello").await),
                1 => client.write_all(&vec![0; 300_000]).await.unwrap(),
                2 => client.shutdown().await.unwrap(),
                _ => reset(&client),
            }
            drop(client);
            // By then both of its sockets are closed.
            gateway.wait_for_message("connection").await;
        }
        after.push(descriptors(&gateway));
    }
    // Pipes are kept for the next connection, and one thread that serves one at a time has two of them.
    assert!(after[1] <= after[0] + 2, "{after:?}");
}

#[tokio::test]
async fn what_would_silently_do_nothing_is_refused() {
    let refused = async |listener: &str, upstream: &str, expected: &str| {
        let yaml = format!(
            "listeners:\n- {{address: '127.0.0.1:1'{listener}}}\nroutes: [{{name: r, respond: {{}}}}]\n\
             upstreams: {{pg: {{endpoints: ['127.0.0.1:2']{upstream}}}}}\n"
        );
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert!(code == 3 && said.contains(expected), "{listener} {upstream}: {said}");
    };
    let tcp = ", protocol: tcp";
    for (listener, upstream, expected) in [
        (tcp, "", "listeners[0]: a tcp listener needs an upstream (add `upstream: NAME`)"),
        (", upstream: pg", "", "listeners[0].upstream: HTTP goes where its routes say (add `protocol: tcp`"),
        (
            ", protocol: tcp, upstream: gp",
            "",
            "names upstream `gp`, which does not exist (did you mean `pg`?)",
        ),
        (", protocol: tcp, upstream: pg, routes: [r]", "", "listeners[0].routes: only HTTP has routes"),
        (
            ", protocol: tcp, upstream: pg, filters: [{body_limit: 1MiB}]",
            "",
            "listeners[0].filters: only HTTP has filters",
        ),
        (
            ", protocol: tcp, upstream: pg, limits: {header_timeout: 1s}",
            "",
            "limits.header_timeout: only HTTP has this limit",
        ),
        (
            ", protocol: tcp, upstream: pg, limits: {connection_rate: 2000000/s}",
            "",
            "limits.connection_rate: a rate is at most a million a second",
        ),
        (", protocol: tcp, upstream: pg", ", protocol: grpc", "speaks HTTP/2, and this is no HTTP"),
        (
            ", protocol: tcp, upstream: pg",
            ", balancer: {hash: {header: x}}",
            "goes by a part of a request, which is not looked for here",
        ),
        (
            ", protocol: tcp, sni: {a.example: pg}",
            "",
            "listeners[0].sni: without TLS no client names a server",
        ),
        (", protocol: tcp, upstream: pg, sni: {}, tls: {}", "", "listeners[0].tls"),
        (
            ", protocol: tcp, sni: {a.example: {alpn: {h2: pg}}}, tls: {certificates: []}",
            "",
            "where TLS ends here no application protocol is agreed on (name one upstream",
        ),
        (
            ", protocol: tcp, upstream: pg, sni: {'*': pg}, tls: {certificates: []}",
            "",
            "`upstream` is for all other names (remove one of the two)",
        ),
    ] {
        refused(listener, upstream, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stands_in_gets_the_connections_of_one_that_cannot_be_reached() {
    let (dead, server) = (Refusing::start(), Server::named("backup ").await);
    let text = yaml(&[dead.address()], "", ", then: standby");
    let standby = format!("{{endpoints: ['{}']}}}}", server.address);
    let text = text.trim_end().strip_suffix('}').unwrap().to_owned() + ", standby: " + &standby + "\n";
    let gateway = Gateway::start(&text).await;
    for _ in 0..2 {
        let mut client = connect(&gateway).await;
        assert_eq!(hear(&mut client, 7).await, "backup ");
        assert_eq!(say(&mut client, "hello").await, "hello");
    }
    let line = gateway.wait_for_message("connection").await;
    assert_eq!(line["upstream"], "standby", "{line}");
}
