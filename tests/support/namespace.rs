//! Two hosts on one machine: network namespaces joined by a cable, in which iptables may do as it likes. They are named
//! after the test's process and gone when dropped.

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::net::RecvFlags;
use tokio::net::{TcpListener, TcpStream};

use super::{Process, tidegate};

/// Whom applications run as in here; the gateway is root.
const NOBODY: &str = "65534";

pub(crate) const ORDERS: &str = "10.77.0.1";
pub(crate) const PAYMENTS: &str = "10.77.0.2";
pub(crate) const ORDERS_V6: &str = "fd77::1";
pub(crate) const PAYMENTS_V6: &str = "fd77::2";

/// Hosts `orders` and `payments`.
pub(crate) struct Network {
    pub orders: Host,
    pub payments: Host,
}

pub(crate) struct Host(String);

impl Network {
    /// Why the kernel does not let us have one. What can be installed is asked for instead.
    pub(crate) fn possible() -> Result<(), String> {
        for tool in ["ip", "iptables", "ip6tables", "setpriv", "curl", "perl", "openssl"] {
            let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
            assert!(found.status.success(), "{tool} is missing: `make tools` installs what tests need");
        }
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces take root".into());
        }
        let host = Host(format!("tidegate-{}-look-{}", std::process::id(), number()));
        for command in [
            vec!["ip", "netns", "add", &host.0],
            vec!["ip", "-n", &host.0, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"],
            vec![
                "ip", "netns", "exec", &host.0, "iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-m",
                "owner",
            ],
            vec!["ip", "netns", "exec", &host.0, "ip6tables", "-t", "nat", "-S"],
        ] {
            let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
            if command.contains(&"-m") {
                // Complains that no owner is named, where it knows the match.
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                if said.contains("Permission") || said.contains("does not exist") {
                    return Err(format!("iptables: {said}"));
                }
            } else if !output.status.success() {
                return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        Ok(())
    }

    /// `None`, with a word why, where the kernel forbids it.
    pub(crate) fn new() -> Option<Network> {
        if let Err(why) = Network::possible() {
            super::skipped(&why);
            return None;
        }
        let number = number();
        let host = |name: &str| Host(format!("tidegate-{}-{number}-{name}", std::process::id()));
        let network = Network { orders: host("orders"), payments: host("payments") };
        let (one, other) = (&network.orders.0, &network.payments.0);
        run("ip", &["netns", "add", one]);
        run("ip", &["netns", "add", other]);
        run(
            "ip",
            &["-n", one, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other],
        );
        for (host, v4, v6) in [(one, ORDERS, ORDERS_V6), (other, PAYMENTS, PAYMENTS_V6)] {
            run("ip", &["-n", host, "address", "add", &format!("{v4}/24"), "dev", "eth0"]);
            // Without asking first whether somebody else has it, which takes a second.
            run("ip", &["-n", host, "address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
            run("ip", &["-n", host, "link", "set", "lo", "up"]);
            run("ip", &["-n", host, "link", "set", "eth0", "up"]);
        }
        for host in [one, other] {
            wait_until_up(host);
        }
        Some(network)
    }
}

/// The kernel looks up to a second later whether the other end of the cable is there; until then there is no IPv6 on it.
fn wait_until_up(host: &str) {
    let deadline = Instant::now() + super::DEADLINE;
    loop {
        let output = Command::new("ip").args(["-n", host, "-o", "link", "show", "eth0"]).output().unwrap();
        let state = String::from_utf8_lossy(&output.stdout).into_owned();
        if state.contains("state UP") {
            return;
        }
        assert!(Instant::now() < deadline, "{state}");
        #[expect(clippy::disallowed_methods, reason = "not in a runtime")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn number() -> usize {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    NUMBER.fetch_add(1, Relaxed)
}

impl Host {
    /// `tidegate ARGS` as root.
    pub(crate) fn tidegate(&self, home: &Path, args: &[&str]) -> Command {
        let built = tidegate(home);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(built.get_program()).args(args).current_dir(home);
        command.env_clear();
        command.envs(built.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// What is started here from now on asks the name server at 127.0.0.1.
    pub(crate) fn asks_itself_for_names(&self) {
        std::fs::create_dir_all(self.files()).unwrap();
        std::fs::write(self.files().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    }

    /// What `ip netns exec` puts in the place of files in /etc.
    fn files(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.0)
    }

    /// A gateway with this configuration, which is ready.
    pub(crate) async fn gateway(&self, home: &Path, yaml: &str) -> Process {
        let name = format!("{}.yaml", self.0);
        let socket = home.join(format!("{}.sock", self.0));
        std::fs::write(home.join(&name), format!("{yaml}upgrade: {{socket: {socket:?}}}\n")).unwrap();
        let gateway = Process::spawn(self.tidegate(home, &["run", "-c", &name]));
        gateway.wait_for_output("\"msg\":\"ready\"").await;
        gateway
    }

    /// A backend of that name, everywhere on this port.
    pub(crate) async fn backend(&self, home: &Path, name: &str, port: u16) -> Process {
        let listen = format!("[::]:{port}");
        let backend = Process::spawn(self.tidegate(home, &["backend", "--listen", &listen, "--name", name]));
        backend.wait_for_output("listening").await;
        backend
    }

    /// A program as an application here would run it: as somebody other than the gateway.
    pub(crate) fn application(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, "setpriv", "--reuid", NOBODY, "--regid", NOBODY]);
        command.args(["--clear-groups", program]).args(args).stdin(Stdio::null()).current_dir("/");
        command
    }

    /// A server that greets whoever connects, and says back what it hears.
    pub(crate) async fn greeter(&self, port: u16) -> Process {
        let script = format!(
            "$| = 1; $s = IO::Socket::INET->new(LocalAddr => '0.0.0.0:{port}', Listen => 5, ReuseAddr => 1) or die $!; \
             print qq(listening\\n); while ($c = $s->accept) {{ print $c qq(220 hello\\r\\n); $c->flush; $l = <$c>; \
             print $c qq(heard $l); close $c }}"
        );
        let server = Process::spawn(self.application("perl", &["-MIO::Socket::INET", "-e", &script]));
        server.wait_for_output("listening").await;
        server
    }

    /// Waits to be greeted, then says a word; all that was heard.
    pub(crate) fn greeted(&self, host: &str, port: u16) -> String {
        let script = format!(
            "alarm 40; $c = IO::Socket::INET->new(PeerAddr => '{host}:{port}') or die $!; $l = <$c>; print $l; \
             print $c qq(word\\n); $c->flush; print while <$c>"
        );
        said(self.application("perl", &["-MIO::Socket::INET", "-e", &script]).output().unwrap())
    }

    /// What curl, as an application, gets for `args`; the status stands at the end.
    pub(crate) fn curl(&self, args: &[&str]) -> String {
        let common = [
            "--silent",
            "--show-error",
            "--max-time",
            "40",
            "--noproxy",
            "*",
            "--write-out",
            " %{http_code}",
        ];
        said(self.application("curl", &[&common[..], args].concat()).output().unwrap())
    }

    /// What root says here, who is left alone by the rules.
    pub(crate) fn root(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// What is made here as an application would make it: by somebody whom the rules redirect. A socket stays where it was made.
    pub(crate) fn inside<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        self.within(true, make)
    }

    fn within<T: Send + 'static>(
        &self,
        is_application: bool,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.0)).unwrap();
        let nobody = NOBODY.parse().unwrap();
        let made = std::thread::spawn(move || {
            // SAFETY: the descriptor is open; both change this thread alone, which ends with this.
            let entered = unsafe {
                let entered = libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET);
                if is_application {
                    libc::setfsuid(nobody);
                }
                entered
            };
            assert_eq!(entered, 0, "{}", std::io::Error::last_os_error());
            make()
        });
        made.join().unwrap()
    }

    /// A connection of an application here.
    pub(crate) fn connect(&self, host: &str, port: u16) -> std::io::Result<TcpStream> {
        let host = host.to_owned();
        let stream = self.inside(move || std::net::TcpStream::connect((host.as_str(), port)))?;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }

    /// An application here that is connected to.
    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        let listener = self.inside(move || std::net::TcpListener::bind(("0.0.0.0", port))).unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    /// Whoever listens on this host's cable.
    pub(crate) fn sniffer(&self) -> Sniffer {
        self.within(false, || {
            let all = libc::ETH_P_ALL as u16;
            // SAFETY: no pointer but that to the address, which is as long as it is said to be.
            unsafe {
                let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all.to_be()));
                assert!(socket >= 0, "{}", std::io::Error::last_os_error());
                let mut cable: libc::sockaddr_ll = std::mem::zeroed();
                cable.sll_family = libc::AF_PACKET as u16;
                cable.sll_protocol = all.to_be();
                cable.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()) as i32;
                let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                let bound = libc::bind(socket, (&raw const cable).cast(), length);
                assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
                Sniffer(OwnedFd::from_raw_fd(socket))
            }
        })
    }

    /// `tidegate sidecar iptables ARGS`; root is left alone.
    pub(crate) fn iptables(&self, home: &Path, args: &[&str]) -> Output {
        let args = [&["sidecar", "iptables", "--uid", "0"], args].concat();
        self.tidegate(home, &args).output().unwrap()
    }

    /// All rules of both families, without their counters.
    pub(crate) fn rules(&self) -> String {
        let save = |tool| said(self.root(tool, &["-t", "nat"]));
        let all = save("iptables-save") + &save("ip6tables-save");
        let of_rules = |line: &&str| line.starts_with('-') || line.starts_with(":TIDEGATE");
        all.lines().filter(of_rules).map(|line| format!("{line}\n")).collect()
    }
}

/// Hears every packet of a cable, as far as the kernel keeps them.
pub(crate) struct Sniffer(OwnedFd);

impl Sniffer {
    /// All that has passed since the last look.
    pub(crate) fn heard(&self) -> Vec<u8> {
        let mut heard = Vec::new();
        let mut packet = [0; 70_000];
        while let Ok((_, length)) = rustix::net::recv(&self.0, &mut packet, RecvFlags::DONTWAIT) {
            heard.extend_from_slice(&packet[..length]);
        }
        heard
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // One that was never made is gone already.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(self.files());
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn said(output: Output) -> String {
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
