//! A Redis that lies, over real sockets: what it says to a limit costs no request more than `timeout`, and `on_error` decides.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{Backend, Yaml, get, metric, observe::peak_memory, within_deadline};

/// What is said in answer to the script.
#[derive(Clone)]
enum Lie {
    Say(Vec<u8>),
    /// And no more, for ever.
    SayAndClose(Vec<u8>),
    /// First the one, and then the other again and again.
    Endless(&'static [u8], &'static [u8]),
    /// The same instead of an answer to anything, from the first.
    Greet(&'static [u8]),
    /// The truth, and this to a PING.
    Pong(&'static [u8]),
    /// The same for the name of the script.
    Rename(&'static [u8]),
    /// To who asks for the slots of a cluster, and then to the script.
    Slots(Vec<u8>, Vec<u8>),
}

fn say(bytes: impl AsRef<[u8]>) -> Lie {
    Lie::Say(bytes.as_ref().to_vec())
}

fn lies() -> Vec<Lie> {
    let huge = i64::MAX;
    let types = [
        "+OK\r\n",
        ":1\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*1\r\n:1\r\n",
        "*2\r\n:7\r\n:1\r\n",
        "*2\r\n:257\r\n:1\r\n",
        "*2\r\n:1\r\n:-5\r\n",
        "*2\r\n$1\r\nx\r\n:0\r\n",
        "*2\r\n:1\r\n:99999999999999999999999\r\n",
        "*3\r\n:1\r\n:0\r\n:0\r\n",
        "_\r\n",
        "#t\r\n",
        ",inf\r\n",
        "(3492890328409238509324850943850943825024385\r\n",
        "%1\r\n:7\r\n:0\r\n",
        "~2\r\n:7\r\n:0\r\n",
        "|1\r\n:7\r\n:0\r\n+OK\r\n",
        ">2\r\n+message\r\n:0\r\n",
        "=7\r\ntxt:abc\r\n",
        "-ERR no\r\n",
        "-NOSCRIPT no\r\n",
        "-MOVED 1 127.0.0.1:1\r\n",
        "-\r\n",
    ];
    let garbage: [&[u8]; 4] = [b"\0\xff\x17 what\r\n", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"*x\r\n"];
    let lengths = [
        format!("${huge}\r\n"),
        format!("$-{huge}\r\n"),
        format!("*{huge}\r\n:1\r\n"),
        format!("*-{huge}\r\n:1\r\n"),
        format!("%{huge}\r\n:1\r\n"),
        format!("|{}\r\n:1\r\n", huge / 2),
        format!("~{huge}\r\n"),
        format!(">{huge}\r\n"),
        format!("!{huge}\r\n"),
        format!("=-{huge}\r\n"),
        "*1\r\n".repeat(5000),
        "*4096\r\n".repeat(99),
        format!("-ERR {}\r\n", "x".repeat(100_000)),
    ];
    let cut: [&[u8]; 3] = [b"*2\r\n:1\r\n", b"*2\r", b""];
    let endless: [(&[u8], &[u8]); 4] = [
        (b"+", b"aaaaaaaaaaaaaaaa"),
        (b"", b":1\r\n"),
        (b"", b"*2\r\n:7\r\n:0\r\n"),
        (b"$9000000000\r\n", b"xxxx"),
    ];
    types
        .iter()
        .map(say)
        .chain(garbage.iter().map(say))
        .chain(lengths.iter().map(say))
        .chain(cut.iter().map(|bytes| Lie::SayAndClose(bytes.to_vec())))
        .chain(endless.map(|(first, then)| Lie::Endless(first, then)))
        .chain([Lie::Greet(b"\0\xff\xfe"), Lie::Greet(b"SSH-2.0-OpenSSH_9.6\r\n")])
        .chain([Lie::Rename(b"$3\r\nabc\r\n"), Lie::Rename(b":1\r\n"), Lie::Rename(b"$-1\r\n")])
        .collect()
}

/// Answers as a Redis does, but for the script.
struct Liar {
    address: SocketAddr,
    lied: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Liar {
    async fn start(lie: Lie) -> Liar {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, lied) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let lie = match lie {
            Lie::Slots(slots, answer) => Lie::Slots(here(&slots, address), here(&answer, address)),
            lie => lie,
        };
        let counted = lied.clone();
        let serving = tokio::spawn(async move {
            let mut talks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                talks.spawn(talk(stream, lie.clone(), counted.clone()));
            }
        });
        Liar { address, lied, serving }
    }
}

/// `PORT` is its own.
fn here(bytes: &[u8], address: SocketAddr) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replace("PORT", &address.port().to_string()).into_bytes()
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Until the gateway closes, or the lie ends it.
async fn talk(stream: TcpStream, lie: Lie, lied: Arc<AtomicUsize>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut loaded;
    loop {
        let words = read_command(&mut stream).await?;
        let answer: &[u8] = match (words[0].as_str(), &lie) {
            (_, Lie::Greet(bytes)) => {
                lied.fetch_add(1, Relaxed);
                bytes
            }
            ("PING", Lie::Pong(bytes)) => bytes,
            ("CLUSTER", Lie::Slots(bytes, _)) => {
                lied.fetch_add(1, Relaxed);
                bytes
            }
            ("PING", _) => b"+PONG\r\n",
            ("SCRIPT", Lie::Rename(bytes)) => {
                lied.fetch_add(1, Relaxed);
                bytes
            }
            ("SCRIPT", _) => {
                let name = openssl::sha::sha1(words[2].as_bytes()).map(|byte| format!("{byte:02x}")).concat();
                loaded = format!("$40\r\n{name}\r\n");
                loaded.as_bytes()
            }
            ("EVALSHA", lie) => {
                lied.fetch_add(1, Relaxed);
                match lie {
                    Lie::Say(bytes) => bytes,
                    Lie::Slots(_, bytes) => bytes,
                    Lie::SayAndClose(bytes) => {
                        stream.write_all(bytes).await.ok()?;
                        return None;
                    }
                    Lie::Endless(first, then) => {
                        stream.write_all(first).await.ok()?;
                        let many = then.repeat(4096);
                        loop {
                            stream.write_all(&many).await.ok()?;
                        }
                    }
                    Lie::Greet(_) | Lie::Pong(_) | Lie::Rename(_) => b"*2\r\n:1\r\n:0\r\n",
                }
            }
            _ => b"+OK\r\n",
        };
        stream.write_all(answer).await.ok()?;
    }
}

/// An array of bulk strings. `None` when the gateway has closed.
async fn read_command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = read_number(stream, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; read_number(stream, '$').await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned());
    }
    Some(words)
}

async fn read_number(stream: &mut BufReader<TcpStream>, kind: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.strip_prefix(kind)?.trim_end().parse().ok()
}

/// Routes `/N/allow`, `/N/deny` and `/N/local` for each of them.
fn yaml(liars: &[Liar], backend: SocketAddr) -> Yaml {
    yaml_of(liars, backend, |liar| format!("'redis://{}'", liar.address))
}

/// The same with what each is to the gateway.
fn yaml_of(liars: &[Liar], backend: SocketAddr, redis: impl Fn(&Liar) -> String) -> Yaml {
    let yaml = Yaml::new().top("log: {access: {to: off}}").with_upstream("origin", [backend], "");
    liars.iter().enumerate().fold(yaml, |yaml, (number, liar)| {
        ["allow", "deny", "local"].iter().fold(yaml, |yaml, on_error| {
            let store = format!("{{redis: {}, timeout: 200ms, on_error: {on_error}}}", redis(liar));
            yaml.with_route(&format!(
                "match: {{path: /{number}/{on_error}}}, upstream: origin, filters: [{{rate_limit: \
                 {{rate: 1/h, burst: 2, store: {store}}}}}, {{rewrite: {{path: /}}}}]"
            ))
        })
    })
}

/// Whatever was said, the policy is kept; and it was said.
async fn is_not_believed(edge: SocketAddr, number: usize, liar: &Liar) {
    let ask = async |on_error: &str| get(edge, &format!("/{number}/{on_error}")).await;
    let asked = async {
        while liar.lied.load(Relaxed) == 0 {
            ask("allow").await.assert_status(200);
        }
    };
    within_deadline(&format!("a question to liar {number}"), asked).await;
    for round in 0..3 {
        ask("allow").await.assert_status(200);
        ask("deny").await.assert_reason(429, "rate_limited");
        let local = ask("local").await;
        match round {
            2 => drop(local.assert_reason(429, "rate_limited")),
            _ => drop(local.assert_status(200)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redis_lies_is_not_believed_and_costs_nothing() {
    let backend = Backend::start().await;
    let liars = futures::future::join_all(lies().into_iter().map(Liar::start)).await;
    let gateway = yaml(&liars, backend.address()).start().await;
    let (edge, before) = (gateway.address("main"), peak_memory(&gateway));
    let asking = liars.iter().enumerate().map(|(number, liar)| is_not_believed(edge, number, liar));
    futures::future::join_all(asking).await;
    let grown = peak_memory(&gateway) - before;
    assert!(grown < 96 * 1024, "{grown} KiB");
    let store = format!("store=\"{}\"", liars[0].address);
    let errors = ["error=\"error\"", store.as_str()];
    assert!(metric(&gateway, "tidegate_rate_limit_store_errors_total", &errors).await > 0.0);
    let told = gateway.lines().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(told.iter().all(|line| line.len() < 2000), "a long lie is not repeated");
    assert!(!told.iter().any(|line| line.contains("panic")) && !gateway.stderr().contains("panic"));
    get(gateway.admin(), "/livez").await.assert_status(200);
}

/// Whoever answers a look with something else may answer questions with what was meant for others.
#[tokio::test]
async fn a_redis_that_is_out_of_step_is_left() {
    let backend = Backend::start().await;
    let liars = [Liar::start(Lie::Pong(b"+OK\r\n")).await];
    let gateway = yaml(&liars, backend.address()).start().await;
    get(gateway.address("main"), "/0/deny").await.assert_status(200);
    let away = gateway.wait_for_message("rate limit store is away, trying again").await;
    assert_eq!(away["why"], "what it answers to PING is not PONG");
}

/// All slots are here, or wherever it says; then questions are sent from one place to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lies_is_not_believed_and_costs_nothing() {
    let backend = Backend::start().await;
    let here = |last: i64| format!("*1\r\n*3\r\n:0\r\n:{last}\r\n*2\r\n$-1\r\n:PORT\r\n");
    let many: String =
        (0..2000).map(|n| format!("*3\r\n:{n}\r\n:{n}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{}\r\n", n + 1)).collect();
    let lies = [
        (here(16_383), &b"-MOVED 1 :PORT\r\n"[..]),
        (here(16_383), b"-ASK 1 :PORT\r\n"),
        (here(16_383), b"-MOVED 1 127.0.0.1:1\r\n"),
        (here(16_383), b"-ASK 1 nowhere\r\n"),
        (here(16_383), b"-MOVED\r\n"),
        (here(16_383), b"-CLUSTERDOWN no\r\n"),
        (here(16_383), b"-TRYAGAIN no\r\n"),
        (here(0), b"*2\r\n:1\r\n:0\r\n"),
        (here(99_999), b"*2\r\n:1\r\n:0\r\n"),
        (here(-1), b"*2\r\n:1\r\n:0\r\n"),
        (format!("*2000\r\n{many}"), b"*2\r\n:1\r\n:0\r\n"),
        ("*0\r\n".to_owned(), b"*2\r\n:1\r\n:0\r\n"),
        ("-ERR This instance has cluster support disabled\r\n".to_owned(), b"*2\r\n:1\r\n:0\r\n"),
        ("+OK\r\n".to_owned(), b"*2\r\n:1\r\n:0\r\n"),
        (format!("*{}\r\n", i64::MAX), b"*2\r\n:1\r\n:0\r\n"),
        (format!("${}\r\n", i64::MAX), b"*2\r\n:1\r\n:0\r\n"),
    ];
    let lies = lies.into_iter().map(|(slots, answer)| Lie::Slots(slots.into_bytes(), answer.to_vec()));
    let liars = futures::future::join_all(lies.map(Liar::start)).await;
    let gateway =
        yaml_of(&liars, backend.address(), |liar| format!("{{cluster: ['{}']}}", liar.address)).start().await;
    let (edge, before) = (gateway.address("main"), peak_memory(&gateway));
    let asking = liars.iter().enumerate().map(|(number, liar)| is_not_believed(edge, number, liar));
    futures::future::join_all(asking).await;
    let grown = peak_memory(&gateway) - before;
    assert!(grown < 96 * 1024, "{grown} KiB");
    assert!(!gateway.output().contains("panic") && !gateway.stderr().contains("panic"));
    get(gateway.admin(), "/livez").await.assert_status(200);
}
