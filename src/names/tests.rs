//! A name server of our own, and files that change under the resolver.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::*;

#[path = "../../tests/support/name_server.rs"]
pub(crate) mod name_server;

/// Long enough for a loaded machine; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers each name with the one address that it was given, and counts.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
}

impl NameServer {
    async fn start(answer: &str) -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, answer) = (socket.local_addr().unwrap(), answer.parse().unwrap());
        let (asked, count) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (names, questions) = (asked.clone(), count.clone());
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut packet).await {
                let Ok(mut message) = Message::from_vec(&packet[..length]) else { continue };
                let query = message.queries[0].clone();
                let labels: Vec<_> = query.name().iter().map(String::from_utf8_lossy).collect();
                names.lock().unwrap().push(labels.join("."));
                questions.fetch_add(1, Relaxed);
                message.metadata.message_type = MessageType::Response;
                message.metadata.response_code = ResponseCode::NoError;
                let wanted =
                    if query.query_type() == RecordType::A { IpAddr::is_ipv4 } else { IpAddr::is_ipv6 };
                if wanted(&answer) {
                    message.add_answer(Record::from_rdata(query.name().clone(), 60, RData::from(answer)));
                }
                let _ = socket.send_to(&message.to_vec().unwrap(), client).await;
            }
        });
        NameServer { address, asked, count }
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort();
        asked.dedup();
        asked
    }
}

/// A machine's two files.
struct Machine {
    directory: TempDir,
    port: u16,
}

impl Machine {
    fn new(hosts: &str, resolv_conf: &str, port: u16) -> Machine {
        let machine = Machine { directory: TempDir::new().unwrap(), port };
        machine.write("hosts", hosts);
        machine.write("resolv.conf", resolv_conf);
        machine
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As tools do: beside it, and then over it.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file("new"), text).unwrap();
        std::fs::rename(self.file("new"), self.file(name)).unwrap();
    }

    fn resolver(&self) -> SystemResolver {
        let (hosts, resolv_conf) = (self.file("hosts"), self.file("resolv.conf"));
        SystemResolver::of(Files { hosts, resolv_conf, port: self.port })
    }
}

async fn addresses(resolver: &SystemResolver, host: &str) -> Vec<String> {
    let answer = tokio::time::timeout(PATIENCE, resolver.resolve(host)).await.expect("an answer");
    answer.unwrap().addresses.iter().map(IpAddr::to_string).collect()
}

#[tokio::test]
async fn names_with_underscores_and_hyphens_anywhere_are_asked_for() {
    let server = NameServer::start("127.0.0.7").await;
    let machine = Machine::new("", "nameserver 127.0.0.1", server.address.port());
    let resolver = machine.resolver();
    for host in ["app_web_1", "db-", "-db.internal", "a_b.c~d.internal."] {
        assert_eq!(addresses(&resolver, host).await, ["127.0.0.7"], "{host}");
    }
    assert_eq!(server.asked(), ["-db.internal", "a_b.c~d.internal", "app_web_1", "db-"]);
}

#[tokio::test]
async fn the_hosts_file_answers_without_a_name_server_and_for_both_families() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let hosts = "127.0.0.8 app_web_1 both\n::1 both six\n127.0.0.9 own.localhost\n";
    for resolv_conf in ["nameserver 127.0.0.1", "# none", "options timeout:1"] {
        let machine = Machine::new(hosts, resolv_conf, silent.local_addr().unwrap().port());
        let resolver = machine.resolver();
        assert_eq!(addresses(&resolver, "App_Web_1").await, ["127.0.0.8"]);
        assert_eq!(addresses(&resolver, "six.").await, ["::1"]);
        assert_eq!(addresses(&resolver, "both").await[0], "127.0.0.8");
        assert_eq!(addresses(&resolver, "localhost").await, ["127.0.0.1"]);
        assert_eq!(addresses(&resolver, "own.localhost").await, ["127.0.0.9"]);
    }
    let mut packet = [0; 512];
    assert!(silent.try_recv_from(&mut packet).is_err(), "nobody was asked");
}

#[tokio::test]
async fn without_name_servers_the_reason_names_the_file() {
    let machine = Machine::new("", "", 53);
    let why = machine.resolver().resolve("users.internal").await.unwrap_err().to_string();
    assert!(why.contains("resolv.conf") && why.contains("nameserver"), "{why}");
    std::fs::remove_file(machine.file("resolv.conf")).unwrap();
    let why = machine.resolver().resolve("users.internal").await.unwrap_err().to_string();
    assert!(why.contains("resolv.conf") && why.contains("No such file"), "{why}");
}

#[tokio::test]
async fn changes_of_both_files_are_seen_while_it_runs() {
    let server = NameServer::start("127.0.0.7").await;
    let machine = Machine::new("127.0.0.2 web\n", "", server.address.port());
    let resolver = machine.resolver();
    let first = resolver.edition();
    assert_eq!(addresses(&resolver, "web").await, ["127.0.0.2"]);
    assert!(resolver.resolve("users").await.is_err());
    machine.write("hosts", "127.0.0.3 web\n");
    tokio::time::timeout(PATIENCE, resolver.changed(first)).await.expect("the hosts file was looked at");
    assert_eq!(addresses(&resolver, "web").await, ["127.0.0.3"]);
    let second = resolver.edition();
    machine.write("resolv.conf", "nameserver 127.0.0.1\n");
    tokio::time::timeout(PATIENCE, resolver.changed(second)).await.expect("the name servers were looked at");
    assert_eq!(addresses(&resolver, "users").await, ["127.0.0.7"]);
    assert!(server.count.load(Relaxed) > 0);
}

#[tokio::test]
async fn srv_records_are_asked_for_and_what_says_that_there_is_no_service_is_none() {
    let server = name_server::NameServer::start().await;
    let machine = Machine::new("", "nameserver 127.0.0.1", server.address().port());
    let resolver = machine.resolver();
    let name = "_http._tcp.users.internal";
    server.say(
        30,
        &[
            "_http._tcp.users.internal SRV 10 60 8080 A.users.internal.",
            "_http._tcp.users.internal SRV 20 0 8081 b_1.users.internal.",
            "_http._tcp.users.internal SRV 30 0 0 c.users.internal.",
            "_none._tcp.users.internal SRV 0 0 0 .",
            "users.internal A 127.0.0.1",
        ],
    );
    let answer = tokio::time::timeout(PATIENCE, resolver.services(name)).await.expect("an answer").unwrap();
    let shown = |record: &ServiceRecord| {
        format!("{} {} {} {}", record.priority, record.weight, record.port, record.target)
    };
    let mut records: Vec<String> = answer.records.iter().map(shown).collect();
    records.sort();
    assert_eq!(records, ["10 60 8080 a.users.internal", "20 0 8081 b_1.users.internal"]);
    assert!(answer.ttl <= Duration::from_secs(30) && answer.ttl > Duration::from_secs(5), "{answer:?}");
    assert_eq!(resolver.services("_none._tcp.users.internal").await.unwrap().records, []);
    assert!(resolver.services("users.internal").await.is_err(), "a host is no service");
    assert!(resolver.services("_other._tcp.users.internal").await.is_err());
}
