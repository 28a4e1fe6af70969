//! Which Redis is meant, from what the operator wrote, and how it is spoken to.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::{Path as FilePath, PathBuf},
};

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use super::tls::Tls;
use crate::{
    config::{self, Path, RedisServers, RedisTls, Secret},
    names::check_host,
    trust,
};

/// Equal ones are one Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct Servers {
    pub(super) which: Which,
    pub(super) login: Login,
    /// Also towards the sentinels.
    pub(super) tls: Option<Tls>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Which {
    One(Address),
    /// Some of its nodes.
    Cluster(Vec<Address>),
    Sentinels(Sentinels),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sentinels {
    pub addresses: Vec<Address>,
    /// At the sentinels.
    pub login: Login,
    /// What they call the master.
    pub master: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Address {
    /// As another server names it. `None` where nobody can be there.
    pub(super) fn named(host: &str, port: u16) -> Option<Address> {
        let bare = host.trim_matches(['[', ']']);
        let is_host = bare.parse::<IpAddr>().is_ok() || check_host(bare).is_ok();
        (is_host && port > 0).then(|| Address::Tcp(bare.to_owned(), port))
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Login {
    user: Option<String>,
    password: Option<Secret>,
    database: i64,
    protocol: ProtocolVersion,
}

/// What cannot be used of it, and where. It never holds what was written where that may be a password.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub at: Path,
    pub message: String,
    pub hint: &'static str,
}

const NOT_A_URL: (&str, &str) =
    ("not the URL of a Redis", "try \"redis://127.0.0.1:6379\", percent-encode passwords");
const NO_ADDRESS: (&str, &str) = ("this is not `host:port`", "such as \"redis-1.internal:6379\"");
const USUAL_PORT: u16 = 6379;
const USUAL_SENTINEL_PORT: u16 = 26_379;

impl Servers {
    /// `full_path` is where a file is that is named at a place of the configuration.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub(crate) fn new(
        redis: &config::Redis,
        at: &Path,
        full_path: impl Fn(&Path, &FilePath) -> PathBuf,
    ) -> Result<Servers, Vec<Wrong>> {
        let mut reading = Reading { wrong: Vec::new(), full_path: &full_path };
        let servers = match redis {
            config::Redis::Url(url) => reading.url(url, at).map(|(address, login, over_tls)| Servers {
                which: Which::One(address),
                login,
                tls: over_tls.then(Tls::default),
            }),
            config::Redis::Servers(servers) => reading.servers(servers, at),
        };
        match (servers, reading.wrong) {
            (Some(servers), wrong) if wrong.is_empty() => Ok(servers),
            (_, wrong) => Err(wrong),
        }
    }

    /// Which Redis, without its password: in messages, and the label of metrics.
    pub(crate) fn label(&self) -> String {
        let all =
            |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match &self.which {
            Which::One(address) => address.to_string(),
            Which::Cluster(addresses) => all(addresses),
            Which::Sentinels(Sentinels { addresses, master, .. }) => format!("{master}@{}", all(addresses)),
        }
    }
}

struct Reading<'a> {
    wrong: Vec<Wrong>,
    full_path: &'a dyn Fn(&Path, &FilePath) -> PathBuf,
}

impl Reading<'_> {
    fn refuse(&mut self, at: Path, message: impl Into<String>, hint: &'static str) {
        self.wrong.push(Wrong { at, message: message.into(), hint });
    }

    /// And whether it is spoken to over TLS.
    fn url(&mut self, url: &Secret, at: &Path) -> Option<(Address, Login, bool)> {
        let read = read_url(url.expose());
        read.map_err(|(message, hint)| self.refuse(at.clone(), message, hint)).ok()
    }

    fn servers(&mut self, servers: &RedisServers, at: &Path) -> Option<Servers> {
        let RedisServers { url, cluster, sentinel, user, password, database, tls } = servers;
        let at_tls = at.key("tls");
        let tls = tls.as_ref().map(|tls| self.tls(tls, &at_tls));
        let login = Login {
            user: user.clone(),
            password: password.clone(),
            database: database.unwrap_or_default().into(),
            ..Login::default()
        };
        if user.is_some() && password.is_none() {
            self.refuse(at.key("user"), "a user has a password", "add `password`");
        }
        let which = match (url, cluster, sentinel) {
            (Some(url), None, None) => {
                let (address, of_url, over_tls) = self.url(url, &at.key("url"))?;
                let login = self.both(of_url, login, at);
                if tls.is_some() && !over_tls {
                    self.refuse(
                        at_tls,
                        "this Redis is not reached over TLS",
                        "write rediss://, or remove `tls`",
                    );
                }
                let tls = over_tls.then(|| tls.unwrap_or_default());
                return Some(Servers { which: Which::One(address), login, tls });
            }
            (None, Some(nodes), None) => {
                if login.database != 0 {
                    self.refuse(at.key("database"), "a cluster has one database", "remove it");
                }
                Which::Cluster(self.addresses(nodes, USUAL_PORT, &at.key("cluster")))
            }
            (None, None, Some(sentinel)) => {
                let (nodes, at) = (&sentinel.nodes, at.key("sentinel"));
                if sentinel.user.is_some() && sentinel.password.is_none() {
                    self.refuse(at.key("user"), "a user has a password", "add `password`");
                }
                if sentinel.master.is_empty() {
                    self.refuse(at.key("master"), "names no master", "such as `mymaster`");
                }
                let login = Login {
                    user: sentinel.user.clone(),
                    password: sentinel.password.clone(),
                    ..Login::default()
                };
                let addresses = self.addresses(nodes, USUAL_SENTINEL_PORT, &at.key("nodes"));
                Which::Sentinels(Sentinels { addresses, login, master: sentinel.master.clone() })
            }
            _ => {
                let hint = "such as `cluster: [\"redis-1:6379\", \"redis-2:6379\"]`";
                self.refuse(at.clone(), "expected exactly one of `url`, `cluster` and `sentinel`", hint);
                return None;
            }
        };
        Some(Servers { which, login, tls })
    }

    /// What the URL says and what stands beside it.
    fn both(&mut self, of_url: Login, beside: Login, at: &Path) -> Login {
        let says_who = |login: &Login| login.user.is_some() || login.password.is_some();
        if says_who(&of_url) && says_who(&beside) {
            self.refuse(
                at.key("url"),
                "a user or a password stands in it and beside it",
                "remove one of them",
            );
        }
        if of_url.database != 0 && beside.database != 0 {
            self.refuse(at.key("database"), "the URL names a database as well", "remove one of them");
        }
        Login {
            user: of_url.user.or(beside.user),
            password: of_url.password.or(beside.password),
            database: if of_url.database != 0 { of_url.database } else { beside.database },
            protocol: of_url.protocol,
        }
    }

    fn addresses(&mut self, texts: &[String], usual_port: u16, at: &Path) -> Vec<Address> {
        if texts.is_empty() {
            self.refuse(at.clone(), "names nobody to ask", "such as [\"redis-1.internal:6379\"]");
        }
        let read = texts.iter().enumerate().filter_map(|(index, text)| {
            let read = read_address(text, usual_port);
            read.map_err(|(message, hint)| self.refuse(at.index(index), message, hint)).ok()
        });
        read.collect()
    }

    /// Its files are read when somebody connects; whether they can be is looked at now.
    fn tls(&mut self, tls: &RedisTls, at: &Path) -> Tls {
        let RedisTls { ca, cert, key, server_name } = tls;
        let full = |name: &str, file: &Option<PathBuf>| {
            file.as_ref().map(|file| (self.full_path)(&at.key(name), file))
        };
        let (ca, own) = (full("ca", ca), full("cert", cert).zip(full("key", key)));
        if cert.is_some() != key.is_some() {
            self.refuse(at.clone(), "`cert` and `key` go together", "give both");
        }
        if let Some(name) = server_name
            && name.parse::<IpAddr>().is_err()
            && let Err(why) = check_host(name)
        {
            self.refuse(at.key("server_name"), format!("{name:?} {why}"), "such as redis.internal");
        }
        if let Err((key, why)) = look(ca.as_deref(), own.as_ref()) {
            self.refuse(at.key(key), why, "a file in PEM that the gateway may read");
        }
        Tls { ca, cert: own, server_name: server_name.clone() }
    }
}

/// Whether the files can be used.
///
/// # Errors
///
/// Which cannot, and why.
fn look(ca: Option<&FilePath>, own: Option<&(PathBuf, PathBuf)>) -> Result<(), (&'static str, String)> {
    // Whom the system trusts is another's business.
    if ca.is_none() && own.is_none() {
        return Ok(());
    }
    let read = |key, file: &FilePath| {
        let unreadable = |error| (key, format!("cannot read {}: {error}", file.display()));
        std::fs::read(file).map_err(unreadable)
    };
    let ca = ca.map(|file| read("ca", file)).transpose()?;
    let mut connector = trust::connector(ca.as_deref()).map_err(|why| ("ca", why))?;
    if let Some((cert, key)) = own {
        let (cert, key) = (read("cert", cert)?, read("key", key)?);
        trust::identify(&mut connector, &cert, &key).map_err(|why| ("cert", why))?;
    }
    Ok(())
}

/// Where it is, who we are there, and whether it is reached over TLS. The library reads no URL with TLS without its own.
fn read_url(text: &str) -> Result<(Address, Login, bool), (&'static str, &'static str)> {
    let mut url = redis::parse_redis_url(text).ok_or(NOT_A_URL)?;
    let over_tls = matches!(url.scheme(), "rediss" | "valkeys");
    if over_tls {
        if url.fragment().is_some() {
            let hint =
                "remove what stands behind `#`; a CA of your own is `redis: {url: ..., tls: {ca: ca.pem}}`";
            return Err(("verification cannot be turned off", hint));
        }
        url.set_scheme("redis").map_err(|()| NOT_A_URL)?;
    }
    let read = url.into_connection_info().map_err(|_| NOT_A_URL)?;
    let address = match read.addr() {
        ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port),
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return Err(NOT_A_URL),
    };
    let login = read.redis_settings();
    let login = Login {
        user: login.username().map(str::to_owned),
        password: login.password().map(Secret::new),
        database: login.db(),
        protocol: login.protocol(),
    };
    Ok((address, login, over_tls))
}

/// `host:port`, or a host alone.
fn read_address(text: &str, usual_port: u16) -> Result<Address, (&'static str, &'static str)> {
    if text.contains("://") || text.contains('@') {
        return Err(("this is not `host:port`", "`user`, `password` and `tls` stand beside the addresses"));
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(NO_ADDRESS)?)),
        None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(usual_port), str::parse).map_err(|_| NO_ADDRESS)?;
    match port > 0 && (host.parse::<IpAddr>().is_ok() || check_host(host).is_ok()) {
        true => Ok(Address::Tcp(host.to_owned(), port)),
        false => Err(NO_ADDRESS),
    }
}

impl Login {
    pub(super) fn info(&self) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default().set_db(self.database).set_protocol(self.protocol);
        if let Some(user) = &self.user {
            info = info.set_username(user);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password.expose());
        }
        info
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Servers, Vec<String>> {
        let redis: config::Redis = serde_yaml::from_str(yaml).unwrap();
        let read = Servers::new(&redis, &Path::root().key("redis"), |_, file| file.to_owned());
        read.map_err(|wrong| {
            wrong.iter().map(|Wrong { at, message, .. }| format!("{at}: {message}")).collect()
        })
    }

    #[test]
    fn a_label_names_the_servers_and_no_password() {
        for (yaml, label) in [
            ("redis://u:hunter2@a:1/2", "a:1"),
            ("rediss://:hunter2@[::1]", "[::1]:6379"),
            ("redis+unix:///run/redis.sock?pass=hunter2", "/run/redis.sock"),
            ("{cluster: [a, 'b:7'], password: hunter2}", "a:6379,b:7"),
            ("{sentinel: {nodes: [a, '[::1]:1'], master: m, password: hunter2}}", "m@a:26379,[::1]:1"),
        ] {
            let servers = read(yaml).unwrap();
            assert_eq!(servers.label(), label, "{yaml}");
            assert!(!format!("{servers:?}").contains("hunter2"), "{servers:?}");
        }
    }

    #[test]
    fn what_stands_beside_a_url_is_as_if_it_stood_in_it() {
        let beside = read("{url: 'rediss://a', user: u, password: 'p w', database: 3}").unwrap();
        assert_eq!(beside, read("rediss://u:p%20w@a:6379/3").unwrap());
        assert!(beside.tls.is_some());
        assert!(read("redis://a").unwrap().tls.is_none());
    }

    #[test]
    fn what_cannot_work_is_refused_where_it_stands() {
        let exactly = "redis: expected exactly one of `url`, `cluster` and `sentinel`";
        let no_address = "redis.cluster[0]: this is not `host:port`";
        for (yaml, expected) in [
            ("{}", exactly),
            ("{url: 'redis://a', cluster: [b]}", exactly),
            ("http://a", "redis: not the URL of a Redis"),
            ("'rediss://a#insecure'", "redis: verification cannot be turned off"),
            ("{url: 'redis://a', tls: {}}", "redis.tls: this Redis is not reached over TLS"),
            (
                "{url: 'redis://:p@a', password: q}",
                "redis.url: a user or a password stands in it and beside it",
            ),
            ("{url: 'redis://a/1', database: 2}", "redis.database: the URL names a database as well"),
            ("{url: 'redis://a', user: u}", "redis.user: a user has a password"),
            ("{cluster: []}", "redis.cluster: names nobody to ask"),
            ("{cluster: ['redis://:hunter2@a']}", no_address),
            ("{cluster: ['a:b']}", no_address),
            ("{cluster: ['a:0']}", no_address),
            ("{cluster: ['a b']}", no_address),
            ("{cluster: ['[::1]x']}", no_address),
            ("{cluster: [a], database: 1}", "redis.database: a cluster has one database"),
            ("{cluster: [a], tls: {cert: a.crt}}", "redis.tls: `cert` and `key` go together"),
            ("{cluster: [a], tls: {ca: /none}}", "redis.tls.ca: cannot read /none"),
            (
                "{cluster: [a], tls: {server_name: 'a b'}}",
                "redis.tls.server_name: \"a b\" is not a host name",
            ),
            ("{sentinel: {nodes: [], master: m}}", "redis.sentinel.nodes: names nobody to ask"),
            ("{sentinel: {nodes: [a], master: ''}}", "redis.sentinel.master: names no master"),
            ("{sentinel: {nodes: [a], master: m, user: u}}", "redis.sentinel.user: a user has a password"),
        ] {
            let wrong = read(yaml).unwrap_err();
            assert!(wrong.iter().any(|wrong| wrong.starts_with(expected)), "{yaml}: {wrong:?}");
            assert!(!format!("{wrong:?}").contains("hunter2"));
        }
    }
}
