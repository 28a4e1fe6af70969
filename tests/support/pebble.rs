//! A real ACME server: Let's Encrypt's `pebble`, with its DNS server beside it. `make servers` brings both. Each has an address of its
//! own, to which all names lead, and there the gateway listens: on port 8080 for http-01, and on 8443 for tls-alpn-01.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use tempfile::TempDir;

use super::{
    Process,
    certificates::{Issued, Order, authority, keep, server},
    installed::installed,
    own_address, send, within_deadline,
};

pub(crate) struct Pebble {
    pub(crate) ip: IpAddr,
    /// Whose signature its own HTTPS has.
    root: Issued,
    home: TempDir,
    settings: Settings,
    process: Option<Process>,
    _dns: Process,
}

#[derive(Clone)]
pub(crate) struct Settings {
    /// Of what it issues, in seconds.
    pub validity: u64,
    /// Of its nonces, in per cent, so many are bad.
    pub bad_nonces: u8,
    /// Key and secret of the only account that it takes.
    pub eab: Option<(&'static str, &'static str)>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { validity: 86_400, bad_nonces: 30, eab: None }
    }
}

impl Pebble {
    pub(crate) async fn start() -> Pebble {
        Pebble::start_with(Settings::default()).await
    }

    pub(crate) async fn start_with(settings: Settings) -> Pebble {
        let mut pebble = Pebble::prepare(settings).await;
        pebble.start_again().await;
        pebble
    }

    /// Its address is known, and nobody answers there yet.
    pub(crate) async fn prepare(settings: Settings) -> Pebble {
        let (ip, home, root) = (own_address().ip(), TempDir::new().unwrap(), authority("pebble"));
        keep(
            home.path(),
            "own",
            &root.issue(&Order { ips: vec![ip.to_string()], ..server(&["pebble.test"]) }),
        );
        keep(home.path(), "root", &root);
        let mut dns = installed("pebble-challtestsrv");
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        dns.args(["-defaultIPv4", &ip.to_string(), "-dns01", &format!("{ip}:8053")]);
        dns.args(["-management", &format!("{ip}:8055")]);
        let dns = Process::spawn(dns);
        let pebble = Pebble { ip, root, home, settings, process: None, _dns: dns };
        let up = async {
            while tokio::net::TcpStream::connect((ip, 8055)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within_deadline("the DNS server of pebble", up).await;
        pebble
    }

    /// It forgets all that was before.
    pub(crate) async fn start_again(&mut self) {
        let Settings { validity, bad_nonces, eab } = &self.settings;
        let (ip, home) = (self.ip, self.home.path());
        let keys: serde_json::Map<_, _> =
            eab.iter().map(|(key, secret)| ((*key).to_owned(), (*secret).into())).collect();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("{ip}:14000"),
            "managementListenAddress": format!("{ip}:15000"),
            "certificate": home.join("own.crt"),
            "privateKey": home.join("own.key"),
            "httpPort": 8080,
            "tlsPort": 8443,
            "externalAccountBindingRequired": eab.is_some(),
            "externalAccountMACKeys": keys,
            "certificateValidityPeriod": validity,
        }});
        std::fs::write(home.join("pebble.json"), config.to_string()).unwrap();
        let mut command = installed("pebble");
        command.arg("-config").arg(home.join("pebble.json")).args(["-dnsserver", &format!("{ip}:8053")]);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", bad_nonces.to_string());
        command.env("PEBBLE_AUTHZREUSE", "0");
        let process = Process::spawn(command);
        process.find("pebble", |line| line.contains("ACME directory available").then_some(())).await;
        self.process = Some(process);
        let up = async {
            while tokio::net::TcpStream::connect((ip, 14000)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        within_deadline("pebble", up).await;
    }

    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://{}:14000/dir", self.ip)
    }

    /// PEM: whom to trust for its own HTTPS.
    pub(crate) fn ca(&self) -> PathBuf {
        self.home.path().join("root.crt")
    }

    /// As an entry of `cas`.
    pub(crate) fn entry(&self) -> String {
        let eab =
            self.settings.eab.map(|(key, secret)| format!(", eab: {{key_id: {key}, hmac_key: {secret}}}"));
        format!(
            "{{directory: '{}', ca: '{}'{}}}",
            self.directory(),
            self.ca().display(),
            eab.unwrap_or_default()
        )
    }

    /// What it has said: each order and each look at a proof.
    pub(crate) fn output(&self) -> String {
        self.process.as_ref().map(|process| process.output() + &process.stderr()).unwrap_or_default()
    }

    /// Where a name leads from now on.
    pub(crate) async fn lead(&self, name: &str, to: &[IpAddr]) {
        let addresses: Vec<String> = to.iter().map(ToString::to_string).collect();
        self.tell("/add-a", &serde_json::json!({"host": format!("{name}."), "addresses": addresses})).await;
    }

    pub(crate) async fn tell(&self, path: &str, what: &serde_json::Value) {
        let dns = SocketAddr::new(self.ip, 8055);
        send(dns, "POST", path, &[], what.to_string()).await.assert_status(200);
    }

    pub(crate) fn listener(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    pub(crate) fn root(&self) -> &Issued {
        &self.root
    }
}
