//! Unix sockets in place of ports, in front and behind.

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};

use super::*;
use crate::support::{Answer, Backend, Connection, Process, certificates::authority, tidegate};

/// A server at a path, until it is dropped; its file stays, as that of a process that was killed.
struct Server(JoinHandle<()>);

impl Server {
    /// Says the `host` and the path it is asked for.
    fn http(path: &Path) -> Server {
        let answer = |request: Request<Incoming>| async move {
            let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
            let host = host.or(request.uri().authority().map(ToString::to_string)).unwrap();
            let said = format!("{:?} {host} {}", request.version(), request.uri().path());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(said))))
        };
        Server::start(path, move |stream| async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        })
    }

    fn echo(path: &Path) -> Server {
        Server::start(path, |mut stream| async move {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        })
    }

    fn start<F>(path: &Path, serve: impl Fn(UnixStream) -> F + Send + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        Server(tokio::spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.spawn(serve(stream));
            }
        }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A directory, and the path of a socket in it.
fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("gateway.sock");
    (directory, path)
}

/// The listener `main` at `path`, and what stands behind it.
fn yaml(path: &Path, listener: &str, rest: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{level: debug}}\nupgrade: {{socket: upgrade.sock, timeout: 20s}}\n\
         listeners: [{{name: main, address: 'unix:{}'{listener}}}]\n{rest}\n",
        path.display()
    )
}

const HELLO: &str = "routes: [{respond: {body: hello}}]";

async fn ask(path: &Path, target: &str) -> Answer {
    let stream = TokioIo::new(UnixStream::connect(path).await.unwrap());
    let mut connection = Connection::http1_over(stream, "a.example".into()).await.unwrap();
    within_deadline("an answer", connection.send("GET", target, &[], "")).await.unwrap()
}

async fn say(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut heard = vec![0; text.len()];
    within_deadline("an answer", stream.read_exact(&mut heard)).await.unwrap();
    String::from_utf8(heard).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_over_a_socket_and_its_file_goes_with_the_gateway() {
    let (directory, path) = place();
    let backend = Backend::start().await;
    let origin = format!(
        "routes: [{{upstream: origin}}]\nupstreams: {{origin: {{endpoints: ['{}']}}}}",
        backend.address()
    );
    let gateway = Gateway::start_in(directory, &yaml(&path, ", mode: \"0600\"", &origin), &[]).await;
    assert_eq!(gateway.wait_for_message("listening").await["listener"], "admin");
    assert_eq!(gateway.wait_for_message("listening").await["address"], format!("unix:{}", path.display()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = path.to_str().unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let asked = [version, "--unix-socket", socket, "http://a.example/headers"];
        let seen = curl(&asked).unwrap();
        // Who comes over a socket has no address.
        assert!(seen.contains(r#"["x-forwarded-for","unknown"]"#), "{seen}");
        let line = gateway.wait_for_message("request").await;
        assert_eq!([&line["client"], &line["host"]], ["unix", "a.example"]);
    }
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert!(!path.exists(), "nobody would answer there");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_over_a_socket_as_well() {
    let (directory, path) = place();
    let root = authority("test");
    keep(directory.path(), "edge", &root.issue(&server(&["a.example"])));
    keep(directory.path(), "root", &root);
    let tls = ", tls: {certificates: [{cert: edge.crt, key: edge.key}]}";
    let gateway = Gateway::start_in(directory, &yaml(&path, tls, HELLO), &[]).await;
    let trusted = gateway.directory().join("root.crt");
    let asked = [
        "--unix-socket",
        path.to_str().unwrap(),
        "--cacert",
        trusted.to_str().unwrap(),
        "https://a.example/",
    ];
    assert_eq!(curl(&asked).unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_by_address_do_not_take_all_who_come_over_a_socket_for_one() {
    let (directory, path) = place();
    let limits = ", limits: {connections_per_ip: 1, connection_rate_per_ip: 1/h}";
    let _gateway = Gateway::start_in(directory, &yaml(&path, limits, HELLO), &[]).await;
    let _open = UnixStream::connect(&path).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&path, "/").await.text(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_connect_to_a_socket_may_say_for_whom() {
    let (directory, path) = place();
    let gateway = Gateway::start_in(directory, &yaml(&path, ", proxy_protocol: accept", HELLO), &[]).await;
    for (header, client) in
        [("PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", "192.0.2.7"), ("PROXY UNKNOWN\r\n", "unix")]
    {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(header.as_bytes()).await.unwrap();
        let mut connection = Connection::http1_over(TokioIo::new(stream), "h".into()).await.unwrap();
        assert_eq!(connection.send("GET", "/", &[], "").await.unwrap().text(), "hello");
        assert_eq!(gateway.wait_for_message("request").await["client"], client);
    }
}

/// A web server in front that says it in `X-Forwarded-For`. `::` is no address that anybody could come from.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_come_over_sockets_are_trusted_as_the_unspecified_address() {
    for (trusted, client) in [("['::/128']", "192.0.2.7"), ("[127.0.0.0/8]", "unix")] {
        let (directory, path) = place();
        let settings = format!("trusted_proxies: {trusted}\n{}", yaml(&path, "", HELLO));
        let gateway = Gateway::start_in(directory, &settings, &[]).await;
        let stream = TokioIo::new(UnixStream::connect(&path).await.unwrap());
        let mut connection = Connection::http1_over(stream, "h".into()).await.unwrap();
        connection.send("GET", "/", &[("x-forwarded-for", "192.0.2.7")], "").await.unwrap();
        assert_eq!(gateway.wait_for_message("request").await["client"], client);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_goes_from_sockets_to_ports_and_back() {
    let (directory, path) = place();
    let echo = directory.path().join("echo.sock");
    let _server = Server::echo(&echo);
    let settings = format!(
        "{}- {{name: port, address: '127.0.0.1:0', protocol: tcp, upstream: echo}}\n\
         upstreams: {{echo: {{endpoints: ['unix://{}'], health_check: {{tcp: {{}}}}}}}}\n",
        yaml(&path, "", "")
            .replace("[{name: main", "\n- {name: main")
            .replace("'}]", "', protocol: tcp, upstream: echo}"),
        echo.display()
    );
    let gateway = Gateway::start_in(directory, &settings, &[]).await;
    let long = "long ".repeat(200_000);
    let mut clients = (
        UnixStream::connect(&path).await.unwrap(),
        TcpStream::connect(gateway.address("port")).await.unwrap(),
    );
    assert_eq!(say(&mut clients.0, "hello").await, "hello");
    assert_eq!(say(&mut clients.1, "hello").await, "hello");
    let (mut from, mut to) = clients.0.into_split();
    let sent = long.clone();
    tokio::spawn(async move {
        to.write_all(sent.as_bytes()).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut heard = String::new();
    within_deadline("all of it", from.read_to_string(&mut heard)).await.unwrap();
    assert!(heard == long);
    let line = gateway.wait_for_message("connection").await;
    assert_eq!([&line["client"], &line["endpoint"]], ["unix", &*format!("unix:{}", echo.display())]);
    assert_eq!((&line["bytes_in"], line.get("reason")), (&1_000_005.into(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_may_be_sockets_and_are_probed_there() {
    let (directory, path) = place();
    let at = directory.path().join("app.sock");
    let server = Server::http(&at);
    let upstream = |protocol: &str| {
        format!(
            "routes: [{{upstream: app}}]\nupstreams: {{app: {{endpoints: ['unix:{}'], protocol: {protocol}, \
             health_check: {{http: {{path: /health}}, interval: 20ms, unhealthy_after: 1, healthy_after: 1}}}}}}",
            at.display()
        )
    };
    let gateway = Gateway::start_in(directory, &yaml(&path, "", &upstream("http1")), &[]).await;
    gateway.wait_for_message("endpoint is healthy").await;
    for _ in 0..2 {
        assert_eq!(ask(&path, "/a").await.text(), "HTTP/1.1 a.example /a");
    }
    let name = format!("unix:{}", at.display());
    assert_eq!(gateway.wait_for_message("request").await["endpoint"], name);
    drop(server);
    assert_eq!(gateway.wait_for_message("endpoint is unhealthy").await["endpoint"], name);
    ask(&path, "/a").await.assert_reason(503, "upstream_unhealthy");
    let _server = Server::http(&at);
    gateway.wait_for_message("endpoint is healthy").await;
    assert_eq!(ask(&path, "/b").await.text(), "HTTP/1.1 a.example /b");
    assert_eq!(gateway.reload(&yaml(&path, "", &upstream("http2"))).await["msg"], "configuration reloaded");
    assert_eq!(ask(&path, "/c").await.text(), "HTTP/2.0 a.example /c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_file_is_replaced_and_nothing_else_is() {
    let (directory, path) = place();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let gateway = Gateway::start_in(directory, &yaml(&path, "", HELLO), &[]).await;
    assert_eq!(ask(&path, "/").await.text(), "hello");

    let (code, said, _) = Gateway::start_expecting_failure(&yaml(&path, "", HELLO), &["run"]).await;
    assert_ne!(code, 0);
    assert!(
        said.contains(&*path.to_string_lossy()) && said.contains("another process listens there"),
        "{said}"
    );
    assert_eq!(ask(&path, "/").await.text(), "hello");

    let file = gateway.directory().join("precious");
    fs::write(&file, "data").unwrap();
    let (code, said, _) = Gateway::start_expecting_failure(&yaml(&file, "", HELLO), &["run"]).await;
    assert!(code != 0 && said.contains("move that file away"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"data");

    let nowhere = gateway.directory().join("no/such/directory/s");
    let (code, said, _) = Gateway::start_expecting_failure(&yaml(&nowhere, "", HELLO), &["run"]).await;
    assert!(code != 0 && said.contains("create its directory first"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_handed_to_a_successor_with_its_file() {
    let (directory, path) = place();
    let gateway = Gateway::start_in(directory, &yaml(&path, "", HELLO), &[]).await;
    let mut kept = {
        let stream = TokioIo::new(UnixStream::connect(&path).await.unwrap());
        Connection::http1_over(stream, "h".into()).await.unwrap()
    };
    kept.send("GET", "/", &[], "").await.unwrap();
    let gateway = gateway.upgrade().await.upgrade().await;
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(ask(&path, "/").await.text(), "hello");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_fails_to_start_leaves_the_predecessor_s_socket() {
    let (directory, path) = place();
    let without_admin = |yaml: &str| yaml.replace("admin: {address: '127.0.0.1:0'}", "admin: false");
    let occupant = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = occupant.local_addr().unwrap();
    let gateway = Gateway::start_in(directory, &without_admin(&yaml(&path, "", HELLO)), &[]).await;
    let tighter = yaml(&path, ", mode: \"0600\"", HELLO);
    let one_more = format!("[{{name: taken, address: '{taken}'}}, {{name: main");
    for failing in [
        without_admin(&tighter).replace("[{name: main", &one_more),
        tighter.replace("127.0.0.1:0", &taken.to_string()),
    ] {
        gateway.write_config(&failing);
        let mut successor = tidegate(gateway.directory());
        successor.args(["run", "--upgrade", "-c"]).arg(gateway.directory().join("gateway.yaml"));
        let successor = Process::spawn(successor);
        successor.wait_for_output("waiting for hand-over").await;
        gateway.signal(Signal::SIGQUIT);
        assert_eq!(successor.wait_exit().await.code(), Some(4), "{}", successor.stderr());
        let line = gateway.wait_for_line(|line| line["level"] == "error").await;
        assert!(line["msg"].as_str().unwrap().ends_with("serving on"), "{line}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(ask(&path, "/").await.text(), "hello");
    }
    gateway.write_config(&without_admin(&tighter));
    let gateway = gateway.upgrade().await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&path, "/").await.text(), "hello");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    assert!(!path.exists());
}

/// But not what another program has put in its place by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_the_successor_does_not_want_is_removed() {
    let (directory, path) = place();
    let [unwanted, replaced] = ["unwanted.sock", "replaced.sock"].map(|name| directory.path().join(name));
    let more = format!(
        "[{{name: unwanted, address: 'unix:{}'}}, {{name: replaced, address: 'unix:{}'}}, {{name: main",
        unwanted.display(),
        replaced.display()
    );
    let one = yaml(&path, "", HELLO);
    let gateway = Gateway::start_in(directory, &one.replace("[{name: main", &more), &[]).await;
    assert_eq!(ask(&unwanted, "/").await.text(), "hello");
    let _other = Server::http(&replaced);
    gateway.write_config(&one);
    let gateway = gateway.upgrade().await;
    assert!(!unwanted.exists(), "nobody would answer there");
    assert_eq!(ask(&replaced, "/").await.text(), "HTTP/1.1 a.example /");
    assert_eq!(ask(&path, "/").await.text(), "hello");
    // A listener may come back there.
    let back = one.replace("gateway.sock", "unwanted.sock");
    assert_eq!(gateway.reload(&back).await["msg"], "configuration reloaded");
    assert_eq!(ask(&unwanted, "/").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_opens_closes_and_changes_sockets() {
    let (directory, path) = place();
    let other = directory.path().join("other.sock");
    let gateway = Gateway::start_in(directory, &yaml(&path, "", HELLO), &[]).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o660);
    gateway.reload(&yaml(&path, ", mode: \"0666\"", HELLO)).await;
    assert_eq!(mode(&path), 0o666);
    // The same file in another spelling.
    let spelled = yaml(&path, "", HELLO).replace("unix:/", "unix:///");
    assert_eq!(gateway.reload(&spelled).await["msg"], "configuration reloaded");
    assert_eq!(ask(&path, "/").await.text(), "hello");
    assert_eq!(gateway.reload(&yaml(&other, "", HELLO)).await["msg"], "configuration reloaded");
    assert_eq!(ask(&other, "/").await.text(), "hello");
    assert!(!path.exists());
    let back = yaml(&path, "", HELLO);
    assert_eq!(gateway.reload(&back).await["msg"], "configuration reloaded");
    assert_eq!(ask(&path, "/").await.text(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_sockets_leave_nothing_open() {
    let (directory, path) = place();
    let at = directory.path().join("app.sock");
    let _server = Server::http(&at);
    let app = format!(
        "routes: [{{upstream: app}}]\nupstreams: {{app: {{endpoints: ['unix:{}'], pool: {{idle_connections: 0}}}}}}",
        at.display()
    );
    let gateway = Gateway::start_in(directory, &yaml(&path, "", &app), &[]).await;
    ask(&path, "/").await.assert_status(200);
    metric(&gateway, "tidegate_connections_active", &[]).await;
    wait_for_descriptors(&gateway, descriptors(&gateway)).await;
    let before = descriptors(&gateway);
    for _ in 0..20 {
        ask(&path, "/").await.assert_status(200);
        drop(UnixStream::connect(&path).await.unwrap());
    }
    wait_for_descriptors(&gateway, before).await;
}

#[tokio::test]
async fn addresses_that_name_no_file_are_refused() {
    for (listener, endpoint, expected) in [
        ("unix:gateway.sock", "127.0.0.1:1", "does not name a file by its full path"),
        ("unix:@gateway", "127.0.0.1:1", "is an abstract socket"),
        ("127.0.0.1:1', mode: '0600", "127.0.0.1:1", "only a Unix socket has permissions"),
        ("unix:/s', mode: 'rw", "127.0.0.1:1", "are no permissions"),
        ("unix:/s", "unix:app.sock", "does not name a file by its full path"),
    ] {
        let yaml = format!(
            "listeners: [{{address: '{listener}'}}]\nroutes: [{{upstream: u}}]\nupstreams: {{u: {{endpoints: ['{endpoint}']}}}}\n"
        );
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert!(code == 3 && said.contains(expected), "{listener} {endpoint}: {said}");
    }
    let twice = "listeners: [{name: a, address: 'unix:/s'}, {name: b, address: 'unix:///s'}]\nroutes: [{respond: {}}]\n";
    let (code, said, _) = Gateway::start_expecting_failure(twice, &["check"]).await;
    assert!(code == 3 && said.contains("is bound twice"), "{said}");
}
