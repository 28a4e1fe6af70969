//! Real redis-servers on sockets of their own, so that they can be stopped, killed and brought back in the same place: alone, as a
//! cluster, or with a replica and a sentinel.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    Process,
    certificates::{Issued, Order, keep, server, write},
    own_address, within_deadline,
};

pub(crate) struct Redis {
    process: Process,
    home: TempDir,
    settings: Vec<String>,
    /// Where it listens besides its socket, if it does.
    address: Option<SocketAddr>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With settings as on its command line: `--requirepass`, `secret`.
    pub(crate) async fn with(settings: &[&str]) -> Self {
        Self::launched(TempDir::new().unwrap(), settings, None).await
    }

    /// At an address of its own as well.
    pub(crate) async fn listening(settings: &[&str]) -> Self {
        let ip = own_address().ip();
        Self::at(ip, TempDir::new().unwrap(), &["--port", PORT], settings).await
    }

    /// At an address of its own, over TLS alone, with a certificate of `authority` for these names.
    pub(crate) async fn over_tls(authority: &Issued, names: &[&str], settings: &[&str]) -> Self {
        let ip = own_address().ip();
        Self::over_tls_at(ip, authority, server(names), settings).await
    }

    /// The same with a certificate for its address.
    pub(crate) async fn over_tls_for_its_address(authority: &Issued, settings: &[&str]) -> Self {
        let ip = own_address().ip();
        let order = Order { ips: vec![ip.to_string()], ..server(&[]) };
        Self::over_tls_at(ip, authority, order, settings).await
    }

    async fn over_tls_at(ip: IpAddr, authority: &Issued, order: Order, settings: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        keep(home.path(), "redis", &authority.issue(&order));
        write(&home.path().join("ca.crt"), &authority.pem(), 0o644);
        let tls = [
            "--port",
            "0",
            "--tls-port",
            PORT,
            "--tls-cert-file",
            "redis.crt",
            "--tls-key-file",
            "redis.key",
            "--tls-ca-cert-file",
            "ca.crt",
            "--tls-cluster",
            "yes",
            "--tls-replication",
            "yes",
        ];
        Self::at(ip, home, &tls, settings).await
    }

    async fn at(ip: IpAddr, home: TempDir, listens: &[&str], settings: &[&str]) -> Self {
        let ip = ip.to_string();
        // Others reach it where it listens; their connections would come from elsewhere.
        let mut all = vec!["--bind", &ip, "--protected-mode", "no", "--replica-announce-ip", &ip];
        all.extend(["--repl-diskless-sync-delay", "0"]);
        all.extend(listens);
        all.extend(settings);
        let address = SocketAddr::new(ip.parse().unwrap(), PORT.parse().unwrap());
        Self::launched(home, &all, Some(address)).await
    }

    async fn launched(home: TempDir, settings: &[&str], address: Option<SocketAddr>) -> Self {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let process = launch(&home, &settings).await;
        Self { process, home, settings, address }
    }

    /// On the same socket, empty.
    pub(crate) async fn start_again(&mut self) {
        self.process = launch(&self.home, &self.settings).await;
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("one that listens")
    }

    /// For SIGSTOP and SIGCONT: one that hangs, but whose kernel still accepts connections.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_exit().await;
    }

    /// What it answers to a command.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let password = self.settings.iter().skip_while(|setting| *setting != "--requirepass").nth(1);
        let password = password.map(|password| format!("?pass={password}")).unwrap_or_default();
        let client = redis::Client::open(self.url() + &password).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    /// Waits until what it answers has `text` in it.
    pub(crate) async fn says(&self, command: &str, text: &str) {
        let said = async {
            while !self.command::<String>(command).await.contains(text) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within_deadline(&format!("{text} of {command}"), said).await;
    }
}

/// Each has a loopback address of its own.
const PORT: &str = "6379";

/// Three masters with a third of the slots each, and replicas of the first.
pub(crate) struct RedisCluster {
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    pub(crate) async fn start(replicas: usize, settings: &[&str]) -> Self {
        let starting = (0..3 + replicas).map(|_| async {
            let ip = own_address().ip();
            Redis::at(ip, TempDir::new().unwrap(), &["--port", PORT], &in_cluster(&ip.to_string(), settings))
                .await
        });
        Self::joined(futures::future::join_all(starting).await).await
    }

    /// Over TLS alone, with certificates of `authority` for their addresses.
    pub(crate) async fn over_tls(authority: &Issued, settings: &[&str]) -> Self {
        let starting = (0..3).map(|_| async {
            let ip = own_address().ip();
            let order = Order { ips: vec![ip.to_string()], ..server(&[]) };
            Redis::over_tls_at(ip, authority, order, &in_cluster(&ip.to_string(), settings)).await
        });
        Self::joined(futures::future::join_all(starting).await).await
    }

    async fn joined(nodes: Vec<Redis>) -> Self {
        for (number, (node, slots)) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]).enumerate() {
            let () = node.command(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
            let () = node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1)).await;
        }
        for node in &nodes[1..] {
            let meet = format!("CLUSTER MEET {} {PORT}", node.address().ip());
            let () = nodes[0].command(&meet).await;
        }
        for node in &nodes {
            node.says("CLUSTER INFO", &format!("cluster_known_nodes:{}", nodes.len())).await;
        }
        let first: String = nodes[0].command("CLUSTER MYID").await;
        for replica in &nodes[3..] {
            // It must have heard of the master itself.
            replica.says("CLUSTER NODES", &first).await;
            let () = replica.command(&format!("CLUSTER REPLICATE {first}")).await;
            replica.says("INFO replication", "master_link_status:up").await;
        }
        for node in &nodes {
            node.says("CLUSTER INFO", "cluster_state:ok").await;
        }
        RedisCluster { nodes }
    }

    /// As a list for `cluster`, of the first alone: the others are found.
    pub(crate) fn seeds(&self) -> String {
        format!("['{}']", self.nodes[0].address())
    }

    /// The node that has this key, and its number.
    pub(crate) async fn holder(&self, key: &str) -> usize {
        for (number, node) in self.nodes.iter().enumerate() {
            if node.command::<Vec<String>>("KEYS *").await.iter().any(|held| held == key) {
                return number;
            }
        }
        panic!("nobody has {key}");
    }

    /// All keys, of all masters.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for node in &self.nodes[..3] {
            keys.extend(node.command::<Vec<String>>("KEYS *").await);
        }
        keys
    }
}

fn in_cluster<'a>(ip: &'a str, settings: &[&'a str]) -> Vec<&'a str> {
    // Without it, nodes tell others the address that they see, which is 127.0.0.1.
    let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-announce-ip", ip];
    own.into_iter().chain(settings.iter().copied()).collect()
}

/// A master, its replica, and a sentinel that watches them.
pub(crate) struct Sentinel {
    pub servers: [Redis; 2],
    _process: Process,
    _home: TempDir,
    address: SocketAddr,
}

impl Sentinel {
    /// With passwords of the servers and of the sentinel.
    pub(crate) async fn start(password: &str, own_password: &str) -> Self {
        let settings = ["--requirepass", password, "--masterauth", password];
        let master = Redis::listening(&settings).await;
        let ip = master.address().ip().to_string();
        let mut of_replica = settings.to_vec();
        of_replica.extend(["--replicaof", &ip, PORT]);
        let replica = Redis::listening(&of_replica).await;
        replica.says("INFO replication", "master_link_status:up").await;
        let (home, address) = (TempDir::new().unwrap(), SocketAddr::new(own_address().ip(), 26_379));
        let settings = format!(
            "bind {}\nport 26379\nprotected-mode no\nrequirepass {own_password}\n\
             sentinel monitor primary {ip} {PORT} 1\nsentinel auth-pass primary {password}\n\
             sentinel down-after-milliseconds primary 4000\nsentinel failover-timeout primary 3000\n",
            address.ip()
        );
        write(&home.path().join("sentinel.conf"), settings.as_bytes(), 0o600);
        let mut command = Command::new("redis-server");
        command.current_dir(home.path()).args(["sentinel.conf", "--sentinel"]);
        let process = Process::spawn(command);
        process.wait_for_output("+slave slave").await;
        Sentinel { servers: [master, replica], _process: process, _home: home, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn launch(home: &TempDir, settings: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command.current_dir(home.path()).args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""]);
    command.args(settings);
    if Command::new("redis-server").arg("--version").output().is_err() {
        panic!(
            "these tests talk to a real Redis, and there is no redis-server: apt-get install redis-server"
        );
    }
    let process = Process::spawn(command);
    process.wait_for_output("eady to accept connections").await;
    process
}
