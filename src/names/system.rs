//! This machine's own way to addresses: its hosts file and its name servers, as both are now.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use hickory_resolver::{
    TokioResolver,
    config::LookupIpStrategy,
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name, RData, rdata::SRV},
    system_conf::parse_resolv_conf,
};
use tokio::{sync::watch, task::AbortHandle};

use super::{Resolve, ResolveError, Resolved, ServiceRecord, Services, hosts_file::HostsFile};
use crate::observe::log::event;

/// How often the two files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// For what no name server has said. The files are followed, so nothing has to be asked again by the clock.
const LONG: Duration = Duration::from_secs(3600);

/// Where this machine says what names mean.
#[derive(Clone, Debug)]
pub struct Files {
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    /// On which port name servers listen, as `resolv.conf` cannot say it.
    pub port: u16,
}

impl Default for Files {
    fn default() -> Files {
        Files { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: 53 }
    }
}

/// Asks the hosts file, then the name servers. Follows both files from the first question on.
pub struct SystemResolver {
    shared: Arc<Shared>,
    follower: OnceLock<AbortHandle>,
}

struct Shared {
    files: Files,
    known: watch::Sender<Arc<Known>>,
}

/// What the files say.
struct Known {
    edition: u64,
    prints: [Option<Print>; 2],
    hosts: HostsFile,
    servers: Result<TokioResolver, ResolveError>,
}

/// What tells that a file is another than before: its inode, when it was written and its length.
type Print = (u64, SystemTime, u64);

impl SystemResolver {
    /// Reads `/etc/hosts` and `/etc/resolv.conf`. Where there are no name servers, each look-up that needs one fails and says
    /// why: a gateway that needs no names does not need them.
    pub fn new() -> SystemResolver {
        SystemResolver::of(Files::default())
    }

    pub fn of(files: Files) -> SystemResolver {
        let (known, _) = watch::channel(Arc::new(Known::read(&files, 0)));
        SystemResolver { shared: Arc::new(Shared { files, known }), follower: OnceLock::new() }
    }

    fn known(&self) -> Arc<Known> {
        self.shared.known.borrow().clone()
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        SystemResolver::new()
    }
}

impl Drop for SystemResolver {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
        self.follower.get_or_init(|| tokio::spawn(self.shared.clone().follow()).abort_handle());
        self.known().resolve(host).await
    }

    async fn services(&self, name: &str) -> Result<Services, ResolveError> {
        self.follower.get_or_init(|| tokio::spawn(self.shared.clone().follow()).abort_handle());
        self.known().services(name).await
    }

    fn edition(&self) -> u64 {
        self.shared.known.borrow().edition
    }

    async fn changed(&self, seen: u64) {
        let mut known = self.shared.known.subscribe();
        if known.wait_for(|known| known.edition != seen).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Shared {
    async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let known = self.known.borrow().clone();
            if known.prints == prints(&self.files) {
                continue;
            }
            let next = Known::read(&self.files, known.edition + 1);
            let servers = next.servers.as_ref().err().map_or("known", |why| &why.0);
            event!(Info, "the hosts file or the name servers have changed", name_servers = servers);
            self.known.send_replace(Arc::new(next));
        }
    }
}

impl Known {
    fn read(files: &Files, edition: u64) -> Known {
        // Before the files are read: one that changes meanwhile is read again.
        let prints = prints(files);
        let hosts = fs::read(&files.hosts).unwrap_or_default();
        let hosts = HostsFile::parse(&String::from_utf8_lossy(&hosts));
        Known { edition, prints, hosts, servers: servers(files) }
    }

    async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
        let listed = self.hosts.addresses(host);
        if is_localhost(host) {
            // Only IPv4 where there is some: most hosts files name ::1 too, and a server that listens on one of the two
            // is the rule.
            let v4: Vec<IpAddr> = listed.iter().copied().filter(IpAddr::is_ipv4).collect();
            let addresses = match (v4.is_empty(), listed) {
                (false, _) => v4,
                (true, []) => vec![Ipv4Addr::LOCALHOST.into()],
                (true, v6) => v6.to_vec(),
            };
            return Ok(Resolved { addresses, ttl: LONG });
        }
        if !listed.is_empty() {
            return Ok(Resolved { addresses: reachable(listed.to_vec()), ttl: LONG });
        }
        let servers = self.servers.as_ref().map_err(Clone::clone)?;
        let answer =
            servers.lookup_ip(asked(host)?).await.map_err(|error| ResolveError(error.to_string()))?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now());
        let addresses = reachable(answer.iter().collect());
        if addresses.is_empty() {
            return Err(ResolveError("the name has no addresses".into()));
        }
        Ok(Resolved { addresses, ttl })
    }
}

impl Known {
    /// No file knows of them.
    async fn services(&self, name: &str) -> Result<Services, ResolveError> {
        let servers = self.servers.as_ref().map_err(Clone::clone)?;
        let answer =
            servers.srv_lookup(asked(name)?).await.map_err(|error| ResolveError(error.to_string()))?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now());
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => service(srv),
            _ => None,
        });
        Ok(Services { records: records.collect(), ttl })
    }
}

/// `None` for one that says that there is none, by the root in the place of a host, or that nobody can connect to.
fn service(srv: &SRV) -> Option<ServiceRecord> {
    let labels =
        srv.target.iter().map(|label| std::str::from_utf8(label).ok()).collect::<Option<Vec<_>>>()?;
    let SRV { priority, weight, port, .. } = *srv;
    (!labels.is_empty() && port > 0).then(|| ServiceRecord {
        priority,
        weight,
        port,
        target: labels.join(".").to_ascii_lowercase(),
    })
}

fn prints(files: &Files) -> [Option<Print>; 2] {
    let print = |file: &Path| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.ino(), metadata.modified().ok()?, metadata.len()))
    };
    [print(&files.hosts), print(&files.resolv_conf)]
}

fn servers(files: &Files) -> Result<TokioResolver, ResolveError> {
    let unreadable = |why: String| {
        let file = files.resolv_conf.display();
        ResolveError(format!("no name server to ask: {file}: {why}"))
    };
    let text = fs::read(&files.resolv_conf).map_err(|error| unreadable(error.to_string()))?;
    let (config, options) = parse_resolv_conf(text).map_err(|error| unreadable(error.to_string()))?;
    let (domain, search, mut name_servers) = config.into_parts();
    for connection in name_servers.iter_mut().flat_map(|server| &mut server.connections) {
        connection.port = files.port;
    }
    let config = hickory_resolver::config::ResolverConfig::from_parts(domain, search, name_servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Ours comes first, and knows both families.
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    // Each name is asked when its answer has expired: a cache could only serve stale refusals.
    options.cache_size = 0;
    builder.build().map_err(|error| unreadable(error.to_string()))
}

/// The name as it is written: the library's own parser knows only the letters of registered names.
fn asked(host: &str) -> Result<Name, ResolveError> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    let labels = bare.split('.').map(str::as_bytes);
    let mut name = Name::from_labels(labels).map_err(|error| ResolveError(error.to_string()))?;
    // Others are looked for in the search domains as well.
    name.set_fqdn(bare.len() != host.len());
    Ok(name)
}

/// RFC 6761 section 6.3.
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host == "localhost" || host.ends_with(".localhost")
}

/// Leaves out addresses this host has no route to, which are half of them for a dual-stack name on a host without
/// IPv6 (RFC 6724 section 6, rule 1). Connecting a UDP socket looks up the route and sends nothing.
fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let has_route = |ip: &IpAddr| {
        let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((*ip, 9))).is_ok()
    };
    let reachable: Vec<IpAddr> = addresses.iter().copied().filter(has_route).collect();
    if reachable.is_empty() { addresses } else { reachable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_route_is_left_out_unless_it_is_the_only_one() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        // 0.0.0.0/8 apart, the only range no host routes to is one the socket refuses: broadcast.
        let unroutable: IpAddr = "255.255.255.255".parse().unwrap();
        assert_eq!(reachable(vec![unroutable, local]), [local]);
        assert_eq!(reachable(vec![unroutable]), [unroutable]);
    }

    #[test]
    fn a_name_is_asked_for_as_it_is_written() {
        for host in ["app_web_1", "db-", "-db.internal.", "a~b.c_d", "_x._tcp.users"] {
            let name = asked(host).unwrap();
            assert_eq!(name.is_fqdn(), host.ends_with('.'), "{host}");
            let labels: Vec<&[u8]> = name.iter().collect();
            assert_eq!(labels.join(&b"."[..]), host.trim_end_matches('.').as_bytes());
        }
    }
}
