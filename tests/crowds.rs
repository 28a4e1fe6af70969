//! Clients that come many at a time: what they take, they take from themselves and not from others.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpSocket, task::JoinSet};

use crate::support::{
    Answer, Connection, Gateway, RawConnection, ScriptedUpstream, Step, get, metric, send, within_deadline,
};

async fn guarded(cost: u32) -> Gateway {
    let hash = |password| bcrypt::hash_with_salt(password, cost, *b"0123456789abcdef").unwrap().to_string();
    Gateway::start(&format!(
        "listeners: [{{name: main, address: '127.0.0.1:0'}}]\nadmin: {{address: '127.0.0.1:0'}}\n\
         routes: [{{filters: [{{basic_auth: {{cache: 0s, users: [{{name: alice, hash: {}}}, {{name: bob, hash: {}}}]}}}}], \
         respond: {{body: in}}}}]\n",
        hash("alice's"),
        hash("bob's")
    ))
    .await
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// 80 connections from `address` that try one wrong password after the other.
async fn guess(gateway: &Gateway, address: [u8; 4], names: &'static [&'static str]) -> JoinSet<()> {
    let to = gateway.address("main");
    let mut guessing = JoinSet::new();
    for number in 0..80_usize {
        guessing.spawn(async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((address, 0).into()).unwrap();
            let stream = socket.connect(to).await.unwrap();
            let mut connection = Connection::http1_over(TokioIo::new(stream), to.to_string()).await.unwrap();
            for guess in 0.. {
                let name = names[number % names.len()];
                let credentials = basic(name, &format!("{number} {guess}"));
                let answer =
                    connection.send("GET", "/", &[("authorization", &credentials)], "").await.unwrap();
                assert!([401, 503].contains(&answer.status.as_u16()), "{answer:?}");
            }
        });
    }
    // They have begun to wait.
    let refused =
        async { while metric(gateway, "tidegate_errors_total", &["unauthenticated"]).await < 20.0 {} };
    within_deadline("guesses", refused).await;
    guessing
}

async fn enter(gateway: &Gateway, name: &str) -> Answer {
    send(gateway.address("main"), "GET", "/", &[("authorization", &basic(name, &format!("{name}'s")))], "")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_a_password_gets_in_beside_somebody_else_s_guesses() {
    let gateway = guarded(7).await;
    let _guessing = guess(&gateway, [127, 0, 0, 2], &["alice", "bob", "nobody"]).await;
    for name in ["alice", "bob"].into_iter().cycle().take(10) {
        enter(&gateway, name).await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_a_password_gets_in_beside_guesses_from_the_same_address() {
    let gateway = guarded(7).await;
    // Whoever has proven himself does not wait behind those who guess, even at his own name.
    enter(&gateway, "alice").await.assert_status(200);
    let _guessing = guess(&gateway, [127, 0, 0, 1], &["alice"]).await;
    for _ in 0..5 {
        // Nobody has proven to be bob here, and it is his turn all the same.
        enter(&gateway, "bob").await.assert_status(200);
        enter(&gateway, "alice").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_ipv6_has_one_share_of_the_connections() {
    let upstream = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("ok"), Step::Again]).await;
    for (prefix, third) in [("", false), (", ipv6_prefix: 128", true)] {
        let gateway = Gateway::start(&format!(
            "admin: {{address: '127.0.0.1:0'}}\ntrusted_proxies: [127.0.0.1/32]\n\
             listeners: [{{name: main, address: '127.0.0.1:0', proxy_protocol: accept, limits: {{connections_per_ip: 2{prefix}}}}}]\n\
             routes: [{{upstream: u}}]\nupstreams: {{u: {{endpoints: ['{}']}}}}\n",
            upstream.address()
        ))
        .await;
        let open = |client: &str| {
            let mut connection = RawConnection::open(gateway.address("main"));
            connection
                .write(format!("PROXY TCP6 {client} 2001:db8::1 1 2\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"));
            connection
        };
        let mut held: Vec<_> = ["2001:db8:0:7::1", "2001:db8:0:7::2"].map(open).into();
        held.iter_mut().for_each(|connection| assert_eq!(connection.read_response().status, 200));
        let mut more = open("2001:db8:0:7:ffff::3");
        match third {
            true => assert_eq!(more.read_response().status, 200),
            false => assert!(more.is_closed()),
        }
        let mut neighbour = open("2001:db8:0:8::1");
        assert_eq!(neighbour.read_response().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_however_many_connections_a_stranger_holds_at_the_admin_address() {
    let gateway = Gateway::start(
        "admin: {address: '127.0.0.1:0', token: secret}\nroutes: [{respond: {body: a}}]\n\
        listeners: [{address: '127.0.0.1:0'}]\n",
    )
    .await;
    let bearer = [("authorization", "Bearer secret")];
    let mut operator = Connection::http1(gateway.admin()).await.unwrap();
    operator.send("GET", "/stats", &bearer, "").await.unwrap().assert_status(200);
    let mut held = Vec::new();
    for number in 0..150 {
        let mut connection = RawConnection::open(gateway.admin());
        if number % 2 == 0 {
            connection.write("GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
            assert_eq!(connection.read_response().status, 200);
        }
        held.push(connection);
    }
    get(gateway.admin(), "/livez").await.assert_status(200);
    get(gateway.admin(), "/readyz").await.assert_status(200);
    gateway.wait_for_message("admin connections are closed to make room").await;
    assert!(held[0].is_closed(), "the idlest has made room");
    // Who has shown the token is not one of those who do.
    let metrics = operator.send("GET", "/metrics", &bearer, "").await.unwrap();
    let evicted = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("tidegate_admin_connections_evicted_total "));
    assert!(evicted.unwrap().parse::<f64>().unwrap() >= 118.0, "{evicted:?}");
}
