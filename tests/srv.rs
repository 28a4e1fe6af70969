//! SRV records, and names wherever one is written: a whole gateway in a network namespace of its own, whose name server is the test.

use std::fs;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::net::UdpSocket;

use crate::support::{
    name_server::NameServer,
    namespace::{Host, Network},
    within_deadline,
};

const YAML: &str = "admin: false\nlisteners: [{name: main, address: '127.0.0.1:8000'}]\nroutes: [{upstream: users}]\n\
                    upstreams: {users: {endpoints: [{srv: _http._tcp.users.internal, weight: 1}]}}\n";

fn name_server(host: &Host) -> NameServer {
    let socket = host.inside(|| std::net::UdpSocket::bind("127.0.0.1:53")).unwrap();
    socket.set_nonblocking(true).unwrap();
    NameServer::on(UdpSocket::from_std(socket).unwrap())
}

/// Who has answered a request.
fn who(host: &Host) -> String {
    let answer = host.curl(&["--include", "http://127.0.0.1:8000/"]);
    assert!(answer.ends_with(" 200"), "{answer}");
    let line = answer.lines().find_map(|line| line.strip_prefix("x-backend: "));
    line.unwrap_or_else(|| panic!("{answer}")).trim().to_owned()
}

async fn until(host: &Host, wanted: &str) {
    let answered = async {
        while who(host) != wanted {
            tokio::task::yield_now().await;
        }
    };
    within_deadline("an answer of another endpoint", answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_records_say_ports_weights_and_priorities_and_are_followed_while_it_runs() {
    let Some(network) = Network::new() else { return };
    let (host, home) = (&network.orders, TempDir::new().unwrap());
    host.asks_itself_for_names();
    let names = name_server(host);
    let hosts =
        ["a.users.internal A 127.0.0.1", "b.users.internal A 127.0.0.2", "c.users.internal A 127.0.0.3"];
    let first = [
        "_http._tcp.users.internal SRV 10 3 8081 a.users.internal.",
        "_http._tcp.users.internal SRV 10 1 8082 b.users.internal.",
        "_http._tcp.users.internal SRV 20 0 8083 c.users.internal.",
    ];
    names.say(1, &[&hosts[..], &first[..]].concat());
    let (a, b) = (host.backend(home.path(), "a", 8081).await, host.backend(home.path(), "b", 8082).await);
    let _c = host.backend(home.path(), "c", 8083).await;
    fs::write(home.path().join("online.yaml"), YAML).unwrap();
    let online = host.tidegate(home.path(), &["check", "--online", "-c", "online.yaml"]).output().unwrap();
    let said = String::from_utf8_lossy(&online.stdout);
    for endpoint in ["a.users.internal:8081 (127.0.0.1:8081)", "c.users.internal:8083 (127.0.0.3:8083)"] {
        assert!(said.contains(endpoint), "{said}");
    }
    let _gateway = host.gateway(home.path(), YAML).await;
    let answered: Vec<String> = (0..8).map(|_| who(host)).collect();
    let count = |name: &str| answered.iter().filter(|answered| *answered == name).count();
    assert_eq!((count("a"), count("b"), count("c")), (6, 2, 0), "{answered:?}");
    for gone in [a, b] {
        gone.signal(Signal::SIGKILL);
        gone.wait_exit().await;
    }
    assert_eq!(who(host), "c", "the next priority, where none of the first can be reached");
    let _d = host.backend(home.path(), "d", 8084).await;
    names.say(1, &[hosts[0], "_http._tcp.users.internal SRV 10 1 8084 a.users.internal."]);
    until(host, "d").await;
    // The last good answer stays in use.
    let before = names.questions();
    names.say(1, &[]);
    let asked = async {
        while names.questions() < before + 2 {
            tokio::task::yield_now().await;
        }
    };
    within_deadline("another question", asked).await;
    assert_eq!(who(host), "d");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_underscores_are_asked_for_wherever_they_are_written() {
    const YAML: &str = "admin: false\nlisteners: [{name: main, address: '127.0.0.1:8000'}]\nroutes:\n\
        - match: {path: /keyed}\n  upstream: app\n  filters:\n  \
        - jwt: {keys: {jwks: 'http://keys_web_1:8081/', allow_http: true}, algorithms: [ES256]}\n\
        - upstream: app\n  filters:\n  - ext_auth: {url: 'http://auth_web_1:8081/'}\n  \
        - rate_limit: {rate: 1000/s, store: {redis: 'redis://redis_web_1:6379', on_error: allow}}\n\
        upstreams: {app: {endpoints: ['app_web_1:8081']}}\n";
    let Some(network) = Network::new() else { return };
    let (host, home) = (&network.orders, TempDir::new().unwrap());
    host.asks_itself_for_names();
    let names = name_server(host);
    let written = ["app_web_1", "auth_web_1", "keys_web_1", "redis_web_1"];
    let records = written.map(|name| format!("{name} A 127.0.0.1"));
    names.say(60, &records.each_ref().map(String::as_str));
    let _app = host.backend(home.path(), "app", 8081).await;
    let _gateway = host.gateway(home.path(), YAML).await;
    // It is the authorization service as well. Nobody is there as Redis.
    assert_eq!(who(host), "app");
    let asked = async {
        while !written.iter().all(|name| names.asked().contains(*name)) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within_deadline("all of the names to be asked for", asked).await;
}
