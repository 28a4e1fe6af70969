//! Sockets that a service manager has opened: taken by name, never shut, and there for the next process.

use std::{
    net::TcpListener,
    os::unix::net::{UnixListener, UnixStream},
};

use nix::sys::signal::Signal;

use crate::support::{
    RawConnection, get,
    service::{Service, ServiceBuilder},
};

fn yaml(body: &str, address: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nlog: {{access: {{to: off}}}}\nshutdown: {{grace: 1s}}\n\
         listeners: [{{name: edge, address: '{address}'}}]\nroutes: [{{respond: {{body: {body}}}}}]\n"
    )
}

async fn activated(socket: &TcpListener, yaml: &str) -> Service {
    let service = ServiceBuilder::new(yaml).activate(socket.try_clone().unwrap().into(), 1, "edge");
    service.process.wait_for_output("\"ready\"").await;
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_between_two_processes_is_served_by_the_second() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let first = activated(&socket, &yaml("first", "systemd:edge")).await;
    assert_eq!(first.address("edge"), address);
    assert_eq!(get(address, "/").await.text(), "first");
    first.process.signal(Signal::SIGTERM);
    assert_eq!(first.process.wait_exit().await.code(), Some(0));
    let mut waits = RawConnection::open(address);
    waits.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let _second = activated(&socket, &yaml("second", "systemd:edge")).await;
    assert_eq!(waits.read_response().text(), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_a_socket_and_takes_it_again_and_so_does_a_successor() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let service = activated(&socket, &yaml("one", "systemd:edge")).await;
    service.write_config(&yaml("elsewhere", "127.0.0.1:0"));
    service.process.signal(Signal::SIGHUP);
    service.wait_for("configuration reloaded", 1).await;
    // Nobody accepts, and it is not shut either.
    let mut waits = RawConnection::open(address);
    waits.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    service.process.signal(Signal::SIGUSR2);
    service.wait_for("\"ready\"", 2).await;
    // The successor has it from its predecessor, which had no use for it.
    let admin = service.address("admin");
    service.write_config(&yaml("again", "systemd:edge"));
    crate::support::send(admin, "POST", "/reload", &[], "").await.assert_status(200);
    assert_eq!(waits.read_response().text(), "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_not_there_or_is_not_one_is_exit_4() {
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for (service, why) in [
        (
            ServiceBuilder::new(&yaml("x", "systemd:edge")).activate(tcp().into(), 1, "other"),
            "no such socket, but other",
        ),
        (ServiceBuilder::new(&yaml("x", "systemd:edge")).spawn(), "none at all"),
        (
            ServiceBuilder::new(&yaml("x", "systemd:edge")).activate(tcp().into(), 2, "edge:edge"),
            "2 sockets of this name",
        ),
        (
            ServiceBuilder::new(&yaml("x", "systemd:edge")).activate(datagrams.into(), 1, "edge"),
            "listens for streams",
        ),
    ] {
        assert_eq!(service.process.wait_exit().await.code(), Some(4), "{why}");
        assert!(service.process.stderr().contains(why), "{}", service.process.stderr());
    }
}

/// The environment of a parent that has forgotten to tidy up.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_for_another_process_are_not_taken() {
    let yaml = yaml("x", "127.0.0.1:0");
    let started = ServiceBuilder::new(&yaml).environment("LISTEN_FDS", "5").environment("LISTEN_PID", "1");
    let service = started.start().await;
    assert_eq!(get(service.address("edge"), "/").await.text(), "x");
    // One that promises what is not there is not believed.
    let lied = ServiceBuilder::new(&yaml).activate(std::fs::File::open("/dev/null").unwrap().into(), 0, "");
    lied.process.wait_for_output("\"ready\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_taken_and_its_file_stays() {
    let home = tempfile::TempDir::new().unwrap();
    let path = home.path().join("edge.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let service = ServiceBuilder::new(&yaml("x", "systemd:edge")).activate(socket.into(), 1, "edge");
    service.process.wait_for_output("\"ready\"").await;
    let mut client = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('x'), "{answer}");
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.process.wait_exit().await.code(), Some(0));
    assert!(path.exists());
}
