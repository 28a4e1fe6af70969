//! The processes that are measured, each on the first core.

use std::{
    fs,
    ops::Deref,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint};

use crate::v1::registry_client::RegistryClient;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
}

/// One, or two that share a store.
pub(crate) struct Planes {
    processes: Vec<Process>,
    /// Ends after those that use it.
    _etcd: Option<Process>,
}

/// Whoever there is many of is spread over them.
#[derive(Clone)]
pub(crate) struct Ports(Rc<[u16]>);

impl Ports {
    pub(crate) fn of_one(port: u16) -> Ports {
        Ports([port].into())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn of(&self, number: usize) -> u16 {
        self.0[number % self.0.len()]
    }

    /// One of each.
    pub(crate) async fn clients(&self) -> Vec<RegistryClient<Channel>> {
        let mut clients = Vec::new();
        for port in &*self.0 {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
            clients.push(RegistryClient::new(endpoint.connect().await.unwrap()));
        }
        clients
    }
}

impl Planes {
    pub(crate) fn alone(plane: Process) -> Planes {
        Planes { processes: vec![plane], _etcd: None }
    }

    pub(crate) async fn over_etcd(binary: &Path, program: &Path, directory: &Path) -> Planes {
        let (etcd, url) = Process::etcd(program, directory).await;
        let mut processes = Vec::new();
        for name in ["one", "two"] {
            let port = free_port();
            let yaml = format!(
                "admin: false\nthreads: 1\nlog: {{level: warn}}\ncontrol: {{serve: {{address: '127.0.0.1:{port}', \
                 advertise: '127.0.0.1:{port}', store: {{etcd: {{endpoints: ['{url}']}}}}}}}}\n"
            );
            processes.push(Process::start(binary, directory, name, &yaml, port).await);
        }
        Planes { processes, _etcd: Some(etcd) }
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports(self.processes.iter().map(|process| process.port).collect())
    }

    /// Of all of them.
    pub(crate) fn resident(&self) -> f64 {
        self.processes.iter().map(Process::resident).sum()
    }

    /// Of all of them.
    pub(crate) fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }

    pub(crate) fn only(mut self) -> Process {
        self.processes.remove(0)
    }
}

impl Deref for Planes {
    type Target = [Process];

    fn deref(&self) -> &[Process] {
        &self.processes
    }
}

/// Threads that begin later go with it.
pub(crate) fn move_to_core(core: usize) {
    let pid = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", &core.to_string(), &pid]).stdout(Stdio::null()).status();
    assert!(moved.is_ok_and(|moved| moved.success()), "taskset is needed, and a second core");
}

impl Process {
    pub(crate) async fn plane(binary: &Path, directory: &Path) -> Process {
        Process::plane_at(binary, directory, free_port()).await
    }

    pub(crate) async fn plane_at(binary: &Path, directory: &Path, port: u16) -> Process {
        let state = directory.join("state");
        fs::create_dir_all(&state).unwrap();
        let yaml = format!(
            "state_dir: {}\nadmin: false\nthreads: 1\nlog: {{level: warn}}\ncontrol: {{serve: {{address: '127.0.0.1:{port}'}}}}\n",
            state.display()
        );
        Process::start(binary, directory, "plane", &yaml, port).await
    }

    /// One that has `service` behind it.
    pub(crate) async fn gateway(binary: &Path, directory: &Path, plane: &Process, service: &str) -> Process {
        let port = free_port();
        let yaml = format!(
            "admin: false\nthreads: 1\nlog: {{level: warn}}\ncontrol: {{join: {{servers: ['127.0.0.1:{}']}}}}\n\
             listeners: [{{address: '127.0.0.1:{port}'}}]\nroutes: [{{upstream: u}}]\n\
             upstreams: {{u: {{endpoints: [{{registry: {service}}}]}}}}\n",
            plane.port
        );
        Process::start(binary, directory, "gateway", &yaml, port).await
    }

    /// And where its clients find it.
    async fn etcd(program: &Path, directory: &Path) -> (Process, String) {
        let port = free_port();
        let (url, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new(program);
        command.args(["--name", "m", "--initial-cluster", &format!("m={peers}"), "--log-level", "error"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.arg("--data-dir").arg(directory.join("etcd"));
        (Process::listening(command, "etcd", port).await, url)
    }

    async fn start(binary: &Path, directory: &Path, name: &str, yaml: &str, port: u16) -> Process {
        let file = directory.join(format!("{name}.yaml"));
        fs::write(&file, yaml).unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(binary).args(["run", "-c"]).arg(&file);
        Process::listening(command, name, port).await
    }

    async fn listening(mut command: Command, name: &str, port: u16) -> Process {
        let child = command.stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|why| panic!("{name} does not start: {why}"));
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "{name} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Process { child, port }
    }

    /// As its operator ends it.
    pub(crate) async fn end(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What all its threads have used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// In KiB.
    pub(crate) fn resident(&self) -> f64 {
        self.status("VmRSS:")
    }

    pub(crate) fn most_resident(&self) -> f64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// One of its metrics.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn cpu_between(before: Duration, after: Duration) -> Duration {
    after.saturating_sub(before)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
