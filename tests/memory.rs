//! What a configuration, a stream and an encoder cost in memory, that it is given back, and what happens at the limit.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Backend, Gateway, RawConnection, ScriptedUpstream, Step, Yaml,
    frames::{AUTHORITY, GET, HEADERS, HTTP, SETTINGS, WHOLE, WINDOW_UPDATE, Wire, field, frame, setting},
    get, metric, resident, send, within_deadline,
};

/// As many as show what one route costs beside the process itself.
const MANY: usize = 2000;

/// Routes with hosts, headers, templates, expressions and limits. Their names change with `generation`, as they do where a
/// controller writes them.
fn yaml(routes: usize, generation: usize) -> String {
    let routes: String = (0..routes)
        .map(|n| {
            let path = match n % 4 {
                0 => format!("/api/v{n}/items"),
                1 => format!("{{template: '/api/v{n}/items/{{id}}'}}"),
                2 => format!("{{exact: '/api/v{n}'}}"),
                _ => format!("{{regex: '^/api/v{n}/\\d{{4}}$'}}"),
            };
            let host = n % 100;
            format!(
                "  - name: r{n}-{generation}\n    match: {{hosts: [h{host}.test], path: {path}, headers: {{x-version: '{n}'}}}}\n    \
                 filters: [{{rate_limit: {{rate: 100/s}}}}]\n    upstream: u\n"
            )
        })
        .collect();
    format!(
        "admin: false\nthreads: 2\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         upstreams: {{u: {{endpoints: ['127.0.0.1:1']}}}}\nroutes:\n{routes}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_cost_a_few_kilobytes_each_and_a_reload_gives_back_those_that_are_gone() {
    const MIB: i64 = 1024;
    let gateway = Gateway::start(&yaml(1, 0)).await;
    let empty = resident(&gateway);
    // The allocator gives back soon after a reload is over, and not at a known moment.
    let settles = async |most: i64, what: &str| {
        let what = format!("{what}: within {} MiB of an empty gateway", most / MIB);
        let settled = async {
            while resident(&gateway) - empty > most {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within_deadline(&what, settled).await;
    };
    for generation in 1..=6 {
        assert_eq!(gateway.reload(&yaml(MANY, generation)).await["msg"], "configuration reloaded");
    }
    settles(48 * MIB, "many routes").await;
    assert_eq!(gateway.reload(&yaml(1, 7)).await["msg"], "configuration reloaded");
    settles(36 * MIB, "one route again").await;
}

/// Asks for `path` on so many streams of one connection, each with this window, and reads nothing of what comes.
async fn ask_and_do_not_read(
    edge: SocketAddr,
    streams: u32,
    window: u32,
    path: &str,
    fields: &[(&str, &str)],
) -> Wire<TcpStream> {
    let mut wire = Wire::open(edge).await;
    let mut head = [&[GET, HTTP][..], AUTHORITY, &field(":path", path)].concat();
    fields.iter().for_each(|(name, value)| head.extend(field(name, value)));
    let most: u32 = (1 << 31) - 1;
    let mut bytes = frame(SETTINGS, 0, 0, &setting(4, window));
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &(most - 65_535).to_be_bytes()));
    (0..streams).for_each(|stream| bytes.extend(frame(HEADERS, WHOLE, 2 * stream + 1, &head)));
    wire.send(&bytes).await;
    wire
}

async fn have_arrived(backend: &Backend, requests: usize) {
    let arrived = async {
        while get(backend.address(), "/count").await.text().trim().parse::<usize>().unwrap() < requests {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("all requests at the backend", arrived).await;
}

/// The most that was resident in the moments after all these requests have reached the backend.
async fn most_resident(gateway: &Gateway, backend: &Backend, requests: usize) -> i64 {
    have_arrived(backend, requests).await;
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(resident(gateway));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_holds_no_more_than_64_kib() {
    // So many that what the process takes by the way, in huge pages of 2 MiB, is little for each.
    const CONNECTIONS: usize = 10;
    const STREAMS: u32 = 100;
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).settings("connect_timeout: 20s").start().await;
    let edge = gateway.address("main");
    get(edge, "/bytes/1MiB").await.assert_status(200);
    let before = resident(&gateway);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(ask_and_do_not_read(edge, STREAMS, (1 << 31) - 1, "/bytes/4MiB", &[]).await);
    }
    let streams = CONNECTIONS * STREAMS as usize;
    let each = (most_resident(&gateway, &backend, streams + 1).await - before) / streams as i64;
    assert!(each <= 64, "{each} KiB each");
    get(edge, "/").await.assert_status(200);
}

/// Of a client that gives no window, and of one that gives all there is and does not read its socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_http2_upstream_that_is_not_read_holds_no_more_than_64_kib() {
    const CONNECTIONS: usize = 10;
    const STREAMS: u32 = 100;
    for window in [0, (1 << 31) - 1] {
        let backend = Backend::start().await;
        // So few on each connection that its own window bounds nothing.
        let settings = "protocol: http2, connect_timeout: 20s, pool: {streams_per_connection: 4}";
        let gateway = Yaml::to(backend.address()).settings(settings).start().await;
        let edge = gateway.address("main");
        get(edge, "/bytes/1MiB").await.assert_status(200);
        let before = resident(&gateway);
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(ask_and_do_not_read(edge, STREAMS, window, "/bytes/4MiB", &[]).await);
        }
        let streams = CONNECTIONS * STREAMS as usize;
        let each = (most_resident(&gateway, &backend, streams + 1).await - before) / streams as i64;
        assert!(each <= 64, "{each} KiB each with a window of {window}");
        get(edge, "/").await.assert_status(200);
    }
}

/// All streams of a connection share a window of 8 MiB, which five hundred from nearby fill, as eight from far away do.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_hold_up_no_others_of_their_upstream() {
    const CONNECTIONS: usize = 8;
    const STREAMS: u32 = 100;
    let upstream = serve_whatever_is_asked_for(Bytes::from_static(&[0; 64 * 1024])).await;
    // One thread has one connection for all of them, unless it needs another.
    let settings = "protocol: http2, connect_timeout: 20s, pool: {streams_per_connection: 2000}";
    let gateway = Yaml::to(upstream).settings(settings).top("threads: 1").start().await;
    let edge = gateway.address("main");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut unread = ask_and_do_not_read(edge, STREAMS, 0, "/", &[]).await;
        for _ in 0..STREAMS {
            unread.wait_for(|frame| frame.kind == HEADERS).await.unwrap();
        }
        held.push(unread);
    }
    let answer = within_deadline("what nobody reads holds up others", get(edge, "/")).await;
    assert_eq!(answer.text().len(), 64 * 1024);
}

/// Over HTTP/2, on as many streams as there may be.
async fn serve_whatever_is_asked_for(body: Bytes) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = body.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut sent = respond.send_response(http::Response::new(()), false).unwrap();
                    let _ = sent.send_data(body.clone(), true);
                }
            });
        }
    });
    address
}

/// Idle, then with as much for each as its buffers take, as nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_holds_no_more_than_32_kib_idle_and_128_kib_unread() {
    const SOCKETS: usize = 300;
    // Says yes, and more than anybody takes once it is sent a word.
    let upstream = ScriptedUpstream::start(vec![
        Step::ReadHead,
        Step::write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        Step::ReadBody(1),
        Step::Dribble(vec![b'x'; 256 * 1024]),
    ])
    .await;
    let gateway = Yaml::to(upstream.address()).settings("connect_timeout: 20s").start().await;
    let edge = gateway.address("main");
    let open = || {
        let mut client = RawConnection::open(edge);
        client.write(
            "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(client.read_head().status, 101);
        client
    };
    drop((0..50).map(|_| open()).collect::<Vec<_>>());
    let before = resident(&gateway);
    let mut sockets: Vec<_> = (0..SOCKETS).map(|_| open()).collect();
    let each = (resident(&gateway) - before) / SOCKETS as i64;
    assert!(each <= 32, "{each} KiB each, idle");
    for socket in &mut sockets {
        socket.write("x");
    }
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(resident(&gateway));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let each = (most - before) / SOCKETS as i64;
    assert!(each <= 128, "{each} KiB each, unread");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_encoded_and_not_read_holds_no_more_than_512_kib_at_any_level() {
    const STREAMS: u32 = 100;
    for (coding, level) in [("br", 1), ("br", 9), ("zstd", 3), ("zstd", 9), ("gzip", 9)] {
        let backend = Backend::start().await;
        let gateway = Yaml::to(backend.address())
            .route(&format!(
                "filters: [{{compression: {{level: {level}, types: [application/octet-stream, text/plain]}}}}]"
            ))
            .settings("connect_timeout: 20s")
            .start()
            .await;
        let edge = gateway.address("main");
        let encoded = send(edge, "GET", "/bytes/1MiB", &[("accept-encoding", coding)], "").await;
        assert_eq!(encoded.header("content-encoding"), Some(coding));
        let before = resident(&gateway);
        let fields = [("accept-encoding", coding)];
        let _held = ask_and_do_not_read(edge, STREAMS, 0, "/bytes/4MiB", &fields).await;
        let most = most_resident(&gateway, &backend, STREAMS as usize + 1).await;
        let each = (most - before) / i64::from(STREAMS);
        assert!(each <= 512, "{coding} at {level}: {each} KiB each");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_go_as_they_are_where_all_encoders_are_at_work() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .route("filters: [{compression: {types: [application/octet-stream, text/plain]}}]")
        .top("limits: {encoders: 2}")
        .start()
        .await;
    let edge = gateway.address("main");
    let fields = [("accept-encoding", "br")];
    let held = ask_and_do_not_read(edge, 2, 0, "/bytes/4MiB", &fields).await;
    most_resident(&gateway, &backend, 2).await;
    let asked = async || send(edge, "GET", "/bytes/1MiB", &fields, "").await;
    assert_eq!(asked().await.header("content-encoding"), None);
    drop(held);
    let encoded = async {
        while asked().await.header("content-encoding").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_deadline("an encoder that is free again", encoded).await;
}

/// What takes more than 64 MiB by itself. Clients may take their time.
fn with_limit(memory: &str, backend: &Backend) -> String {
    let yaml = yaml(8000, 0).replace("admin: false", "admin: {address: '127.0.0.1:0'}");
    let yaml = yaml.replace("127.0.0.1:1'", &format!("{}'", backend.address()));
    let yaml = yaml.replace("127.0.0.1:0'}]", "127.0.0.1:0', limits: {min_rate: off, body_timeout: 5m}}]");
    format!("limits: {{memory: {memory}}}\n{yaml}  - {{name: last, upstream: u}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_of_memory_new_requests_are_refused_and_below_it_served() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&with_limit("64MiB", &backend)).await;
    let edge = gateway.address("main");
    let answers = async |status: u16| {
        let answered = async {
            while get(edge, "/").await.status.as_u16() != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within_deadline(&format!("a {status}"), answered).await;
    };
    answers(503).await;
    get(edge, "/").await.assert_reason(503, "overloaded");
    get(gateway.admin(), "/livez").await.assert_status(200);
    assert_eq!(metric(&gateway, "tidegate_memory_limit_bytes", &[]).await, f64::from(64 << 20));
    assert!(
        metric(&gateway, "tidegate_shed_total", &["what=\"request\"", "resource=\"memory\""]).await >= 1.0
    );
    assert_eq!(gateway.reload(&with_limit("off", &backend)).await["msg"], "configuration reloaded");
    answers(200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_of_memory_idle_connections_give_way_and_requests_under_way_are_served() {
    const IDLE: usize = 20;
    let backend = Backend::start().await;
    let gateway = Gateway::start(&with_limit("off", &backend)).await;
    let edge = gateway.address("main");
    let mut idle: Vec<_> = (0..IDLE).map(|_| RawConnection::open(edge)).collect();
    for client in &mut idle {
        client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
    }
    let mut busy = RawConnection::open(edge);
    busy.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na");
    have_arrived(&backend, IDLE + 1).await;
    assert_eq!(gateway.reload(&with_limit("64MiB", &backend)).await["msg"], "configuration reloaded");
    for client in &mut idle {
        assert!(client.is_closed());
    }
    let gave_way = ["what=\"connection\"", "resource=\"memory\""];
    assert!(metric(&gateway, "tidegate_shed_total", &gave_way).await >= IDLE as f64);
    busy.write("b");
    assert_eq!(busy.read_response().status, 200);
}
