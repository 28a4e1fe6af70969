//! rsyslog takes the access log over each of its transports, and reads from it what we meant.

use std::{net::SocketAddr, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    access_log::lines,
    support::{Gateway, Process, Yaml, get, installed::installed, within_deadline},
};

struct Rsyslog {
    udp: SocketAddr,
    tcp: SocketAddr,
    _process: Process,
    home: TempDir,
}

impl Rsyslog {
    async fn start() -> Rsyslog {
        let home = TempDir::new().unwrap();
        let at = home.path().display();
        // What it has understood, in columns; then the message.
        let columns = ["inputname", "pri", "hostname", "app-name", "procid", "msgid"]
            .map(|name| format!("property(name=\"{name}\") constant(value=\" \")"))
            .join(" ");
        let config = format!(
            "global(workDirectory=\"{at}\")\n\
             module(load=\"imudp\")\nmodule(load=\"imtcp\")\nmodule(load=\"imuxsock\" sysSock.use=\"off\")\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"0\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"0\" listenPortFileName=\"{at}/tcp\")\n\
             input(type=\"imuxsock\" socket=\"{at}/log\" useSpecialParser=\"off\" parseHostname=\"on\")\n\
             template(name=\"columns\" type=\"list\") {{ {columns} property(name=\"msg\") constant(value=\"\\n\") }}\n\
             action(type=\"omfile\" file=\"{at}/messages\" template=\"columns\")\n"
        );
        std::fs::write(home.path().join("rsyslog.conf"), config).unwrap();
        let mut command = installed("rsyslogd");
        command.current_dir(home.path()).arg("-n").arg("-f").arg(home.path().join("rsyslog.conf"));
        command.arg("-i").arg(home.path().join("pid"));
        let process = Process::spawn(command);
        let tcp = within_deadline("rsyslog's port", async {
            loop {
                let written = std::fs::read_to_string(home.path().join("tcp")).unwrap_or_default();
                if let Ok(port) = written.trim().parse() {
                    return port;
                }
                assert!(!process.has_ended(), "{}{}", process.output(), process.stderr());
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let tcp = local(tcp.await);
        let udp = local(within_deadline("rsyslog's other port", udp_port(&process)).await);
        Rsyslog { udp, tcp, _process: process, home }
    }

    fn messages(&self) -> std::path::PathBuf {
        self.home.path().join("messages")
    }
}

/// The one UDP socket of a process: rsyslog tells nobody which port it was given.
async fn udp_port(process: &Process) -> u16 {
    let own = format!("/proc/{}", process.pid());
    loop {
        let sockets: Vec<String> = std::fs::read_dir(format!("{own}/fd"))
            .unwrap()
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()?.to_str().map(str::to_owned))
            .collect();
        let table = std::fs::read_to_string(format!("{own}/net/udp")).unwrap();
        // sl, local address and port in hexadecimal digits, ... inode.
        let port = table.lines().skip(1).find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let is_own = sockets.contains(&format!("socket:[{}]", columns[9]));
            let (_, port) = columns[1].split_once(':').filter(|_| is_own)?;
            u16::from_str_radix(port, 16).ok()
        });
        match port {
            Some(port) => return port,
            None => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn logging(to: &str) -> Gateway {
    let syslog = format!("{{syslog: {{address: '{to}', facility: local3, app_name: edge, hostname: h1}}}}");
    Yaml::new()
        .top(&format!("log: {{access: {{to: {syslog}, fields: {{add: {{q: '{{query.q}}'}}}}}}}}"))
        .with_route("name: all, respond: {status: 200, body: ok}")
        .start()
        .await
}

/// The columns of a message, and the line of ours in it.
fn read(message: &str) -> (Vec<&str>, Value) {
    let (columns, line) = message.split_at(message.find('{').unwrap_or_else(|| panic!("no line: {message}")));
    (columns.split_whitespace().collect(), serde_json::from_str(line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_reads_each_line_over_udp_tcp_and_a_unix_socket() {
    let rsyslog = Rsyslog::start().await;
    let socket = rsyslog.home.path().join("log");
    let wait: &Path = &socket;
    within_deadline("rsyslog's socket", async {
        while !wait.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut count = 0;
    for (input, to) in [
        ("imudp", format!("udp://{}", rsyslog.udp)),
        ("imtcp", format!("tcp://{}", rsyslog.tcp)),
        ("imuxsock", format!("unix:{}", socket.display())),
    ] {
        let gateway = logging(&to).await;
        let address = gateway.address("main");
        for path in [format!("/{input}/1"), format!("/{input}/2?q=%0a%3c0%3e1%1b%5b31m%22%7d")] {
            get(address, &path).await.assert_status(200);
            count += 1;
            let messages = lines(&rsyslog.messages(), count).await;
            assert_eq!(messages.len(), count, "one message for each request: {messages:?}");
            let (columns, line) = read(&messages[count - 1]);
            // 19 is local3, and 6 is for information.
            let pid = gateway.pid().to_string();
            assert_eq!(columns[..6], [input, "158", "h1", "edge", &pid, "request"], "{messages:?}");
            assert_eq!(line["path"], path.split('?').next().unwrap());
            assert_eq!((&line["status"], &line["route"]), (&200.into(), &"all".into()));
            let own = if path.contains('?') { Value::from("\n<0>1\u{1b}[31m\"}") } else { Value::Null };
            assert_eq!(line.get("q").unwrap_or(&Value::Null), &own);
        }
    }
}
