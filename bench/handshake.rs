//! What the post-quantum key exchange costs: processor time of the gateway for a full handshake with X25519MLKEM768, its default, beside
//! X25519 alone; one process for each, a connection for each request, in turns. Ends with 1 where the ratio is above what was promised.
//! Run with `cargo bench --bench handshake`; `-- --binary PATH` measures another build.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

const ROUNDS: usize = 7;
const HANDSHAKES: usize = 1000;
const MOST: f64 = 1.35;
/// The kernel counts in these (`man 5 proc_pid_stat`, on all architectures that we build for).
const TICKS_PER_SECOND: f64 = 100.0;

struct Gateway {
    process: Child,
    port: u16,
    client: SslConnector,
}

fn main() -> ExitCode {
    let given = env::args().skip_while(|argument| argument != "--binary").nth(1);
    let binary = given.map_or_else(|| env!("CARGO_BIN_EXE_tidegate").into(), PathBuf::from);
    let directory = tempfile::TempDir::new().expect("a directory");
    let made = Command::new("openssl")
        .current_dir(directory.path())
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench.example"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let classic = Gateway::start(&binary, directory.path(), "X25519");
    let hybrid = Gateway::start(&binary, directory.path(), "X25519MLKEM768");
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (without, with) = (classic.microseconds(), hybrid.microseconds());
        println!("X25519 {without:.0} us, X25519MLKEM768 {with:.0} us: {:.2}", with / without);
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    println!("CPU for a full handshake, of one without ML-KEM: {median:.2} (at most {MOST})");
    if median <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Gateway {
    /// With its defaults but for the one group.
    fn start(binary: &Path, directory: &Path, group: &str) -> Gateway {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            free.local_addr().expect("an address").port()
        };
        let file = directory.join(format!("{group}.yaml"));
        let config = format!(
            "admin: false\nthreads: 1\nlog: {{level: warn, access: {{to: false}}}}\nlisteners:\n  - address: 127.0.0.1:{port}\n    \
             tls: {{certificates: [{{cert: cert.pem, key: key.pem}}], groups: [{group}]}}\n\
             routes: [{{respond: {{body: hello}}}}]\n"
        );
        fs::write(&file, config).expect("written");
        let mut command = Command::new(binary);
        command.arg("run").arg("-c").arg(&file).stdout(Stdio::null());
        let process = command.spawn().expect("the gateway");
        let mut client = SslConnector::builder(SslMethod::tls_client()).expect("a client");
        client.set_verify(SslVerifyMode::NONE);
        client.set_groups_list(group).expect("a group");
        let gateway = Gateway { process, port, client: client.build() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nothing listens on port {port}");
        }
        gateway.microseconds();
        gateway
    }

    /// Of the process, for each handshake with the request after it.
    fn microseconds(&self) -> f64 {
        let before = self.ticks();
        for _ in 0..HANDSHAKES {
            self.request();
        }
        (self.ticks() - before) / TICKS_PER_SECOND * 1e6 / HANDSHAKES as f64
    }

    fn request(&self) {
        let plain = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        plain.set_nodelay(true).expect("an option");
        // A session for each: nothing is resumed.
        let mut secret = self.client.connect("bench.example", plain).expect("a handshake");
        secret
            .write_all(b"GET / HTTP/1.1\r\nHost: bench.example\r\nConnection: close\r\n\r\n")
            .expect("a request");
        let mut answer = Vec::new();
        secret.read_to_end(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    }

    fn ticks(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("it runs");
        let (_, behind) = stat.rsplit_once(')').expect("a name in brackets");
        let user_and_system = behind.split_whitespace().skip(11).take(2);
        user_and_system.map(|ticks| ticks.parse::<f64>().expect("a number")).sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
