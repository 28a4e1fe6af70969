//! `registry: NAME`: every instance of a service that is registered, as the [`Directory`](crate::upstream::Directory) tells of
//! it. One that is critical or about to leave stays an endpoint, with its state, and gets nothing new. Host names in
//! registered addresses are asked for like those in the file.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::timeout};

use super::{Address, EndpointSource, Found, Refusal, Supply, dns::Refresh};
use crate::{
    config,
    names::Resolve,
    observe::log::event,
    upstream::{
        Live,
        endpoint::lock,
        registry::{Instance, Listed, Selector},
    },
};

/// How long a service is waited for of which nothing was heard, before that is said.
const FIRST: Duration = Duration::from_secs(60);
/// Host names that are asked for at once.
const CONCURRENT: usize = 16;
/// Changes of the other instances wait for a name no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What `endpoint` selects.
///
/// # Errors
///
/// The name cannot be one.
pub(in crate::upstream) fn selector(endpoint: &config::RegistryEndpoint) -> Result<Selector, Refusal> {
    let config::RegistryEndpoint { registry, tags, metadata, keep_last: _ } = endpoint;
    Selector::new(registry, tags, metadata)
        .map_err(|why| Refusal { path: "registry".into(), why: format!("{registry:?} {why}") })
}

/// # Errors
///
/// The name cannot be one.
pub(super) fn supply(endpoint: &config::RegistryEndpoint, live: &Live) -> Result<Supply, Refusal> {
    let selector = selector(endpoint)?;
    let listed = match &live.directory {
        Some(directory) => directory.follow(&selector),
        // Nobody tells: as one that has not been heard of yet.
        None => watch::channel(None).1,
    };
    Ok(Supply::Followed(Box::new(Registered {
        name: selector.to_string(),
        keep_last: endpoint.keep_last.into(),
        resolver: live.resolver.clone(),
        listed: Mutex::new(listed),
        hosts: Mutex::default(),
        due: Mutex::default(),
    })))
}

struct Registered {
    name: String,
    /// How long those that silence has taken stay, where they were the last.
    keep_last: Duration,
    resolver: Arc<dyn Resolve>,
    /// Has seen what was last discovered.
    listed: Mutex<watch::Receiver<Option<Arc<Listed>>>>,
    hosts: Mutex<HashMap<String, Host>>,
    due: Mutex<Due>,
}

/// What is known of a host name that instances are registered at.
struct Host {
    addresses: Vec<IpAddr>,
    refresh: Refresh,
    asked: Instant,
}

/// When to look again though nothing was heard.
#[derive(Default)]
struct Due {
    at: Option<Instant>,
    /// Of this machine's names; counts only where there are names.
    edition: Option<u64>,
}

#[async_trait]
impl EndpointSource for Registered {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_lookup(&self) -> bool {
        false
    }

    async fn discover(&self) -> Result<Vec<Found>, String> {
        let mut receiver = lock(&self.listed).clone();
        // Until then nobody knows whether it is settled.
        let _ = timeout(FIRST, receiver.wait_for(Option::is_some)).await;
        let listed = receiver.borrow_and_update().clone();
        *lock(&self.listed) = receiver;
        let Some(listed) = listed else {
            *lock(&self.due) = Due::default();
            event!(
                Warn,
                "nothing is known of a service",
                service = self.name,
                endpoints = "stay as they are"
            );
            return Err("nothing has been heard of the service yet".into());
        };
        let now = Instant::now();
        let (instances, kept_until) = present(&listed, self.keep_last, now);
        self.resolve(instances, now).await;
        let hosts = lock(&self.hosts);
        let edition = (!hosts.is_empty()).then(|| self.resolver.edition());
        let refresh = hosts.values().map(|host| host.asked + host.refresh.wait).min();
        *lock(&self.due) = Due { at: refresh.into_iter().chain(kept_until).min(), edition };
        let found: Vec<Found> = instances.iter().flat_map(|instance| found(instance, &hosts)).collect();
        if found.is_empty() && !instances.is_empty() {
            return Err("none of the host names that instances are registered at resolves".into());
        }
        Ok(found)
    }

    async fn changed(&self) {
        let mut listed = lock(&self.listed).clone();
        let (at, edition) = {
            let due = lock(&self.due);
            (due.at, due.edition)
        };
        let heard = async {
            if listed.changed().await.is_err() {
                std::future::pending().await
            }
        };
        let due = async {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let names = async {
            match edition {
                Some(edition) => self.resolver.changed(edition).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = heard => {}
            () = due => {}
            () = names => {}
        }
    }
}

impl Registered {
    /// Asks for the names that are due, and forgets those that nobody is registered at.
    async fn resolve(&self, instances: &[Arc<Instance>], now: Instant) {
        let edition_changed = {
            let due = lock(&self.due);
            due.edition.is_some_and(|edition| edition != self.resolver.edition())
        };
        let names: BTreeSet<String> = instances.iter().filter_map(|instance| host_of(instance)).collect();
        let asked: Vec<String> = {
            let mut hosts = lock(&self.hosts);
            hosts.retain(|name, _| names.contains(name));
            let is_due = |name: &String| {
                hosts.get(name).is_none_or(|host| edition_changed || host.asked + host.refresh.wait <= now)
            };
            names.into_iter().filter(is_due).collect()
        };
        let ask = |name: String| {
            let resolver = self.resolver.clone();
            async move {
                let answer = match timeout(PATIENCE, resolver.resolve(&name)).await {
                    Ok(Ok(answer)) if answer.addresses.is_empty() => Err("the answer is empty".to_owned()),
                    Ok(answer) => answer.map_err(|error| error.to_string()),
                    Err(_) => Err("no name server answers in time".to_owned()),
                };
                (name, answer)
            }
        };
        let answers: Vec<_> =
            stream::iter(asked.into_iter().map(ask)).buffer_unordered(CONCURRENT).collect().await;
        let mut hosts = lock(&self.hosts);
        for (name, answer) in answers {
            let host = hosts.entry(name.clone()).or_insert_with(|| Host {
                addresses: Vec::new(),
                refresh: Refresh::default(),
                asked: now,
            });
            host.asked = Instant::now();
            match answer {
                Ok(answer) => {
                    host.refresh.resolved(answer.ttl);
                    host.addresses = answer.addresses;
                }
                Err(why) => {
                    host.refresh.failed(&mut fastrand::Rng::new());
                    if host.refresh.failures == 1 {
                        let message = "a registered host does not resolve, trying again";
                        event!(Warn, message, service = self.name, host = name, why = why);
                    }
                }
            }
        }
    }
}

/// Those that count now, and until when, where that is an end of its own.
fn present(listed: &Listed, keep_last: Duration, now: Instant) -> (&[Arc<Instance>], Option<Instant>) {
    match &listed.silent {
        Some((silent, since)) if listed.instances.is_empty() && now < *since + keep_last => {
            (silent, Some(*since + keep_last))
        }
        _ => (&listed.instances, None),
    }
}

fn host_of(instance: &Instance) -> Option<String> {
    match instance.address.parse() {
        Ok(Address::Host { host, .. }) => Some(host),
        _ => None,
    }
}

/// What `instance` stands for: one endpoint, or one for each address of its name.
fn found(instance: &Instance, hosts: &HashMap<String, Host>) -> Vec<Found> {
    let at = |address: SocketAddr| Found {
        weight: instance.weight.into(),
        healthy: Some(instance.takes_requests),
        metadata: instance.metadata.clone(),
        origin: Some(instance.address.clone()),
        owner: instance.owner.clone(),
        ..Found::at(address)
    };
    match instance.address.parse() {
        Ok(Address::Ip(address)) => vec![at(address)],
        Ok(Address::Host { host, port }) => {
            let addresses = hosts.get(&host).map(|host| host.addresses.as_slice()).unwrap_or_default();
            addresses.iter().map(|ip| at(SocketAddr::new(*ip, port))).collect()
        }
        // A socket's file is one of another machine, and the registry lets nothing else through.
        Ok(Address::Unix(_)) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        names::{ResolveError, Resolved},
        upstream::registry::Directory,
    };

    /// Tells what it was last told to.
    struct Told(watch::Sender<Option<Arc<Listed>>>);

    impl Directory for Told {
        fn follow(&self, _: &Selector) -> watch::Receiver<Option<Arc<Listed>>> {
            self.0.subscribe()
        }
    }

    /// Knows `users.internal`, for an hour.
    #[derive(Default)]
    struct Names(AtomicUsize);

    #[async_trait]
    impl Resolve for Names {
        async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match host {
                "users.internal" => Ok(Resolved {
                    addresses: vec!["10.0.0.8".parse().unwrap(), "10.0.0.9".parse().unwrap()],
                    ttl: Duration::from_secs(3600),
                }),
                _ => Err(ResolveError("no such host".into())),
            }
        }
    }

    fn endpoint(keep_last: Duration) -> config::RegistryEndpoint {
        config::RegistryEndpoint { keep_last: keep_last.into(), ..config::RegistryEndpoint::of("users") }
    }

    fn followed(keep_last: Duration) -> (Arc<Told>, Arc<Names>, Box<dyn EndpointSource>) {
        let (told, names) = (Arc::new(Told(watch::channel(None).0)), Arc::new(Names::default()));
        let live = Live::offline(names.clone(), Arc::new(())).with_directory(told.clone());
        match supply(&endpoint(keep_last), &live) {
            Ok(Supply::Followed(source)) => (told, names, source),
            _ => panic!("a registry is followed"),
        }
    }

    fn instance(address: &str, weight: u16, takes_requests: bool) -> Arc<Instance> {
        Arc::new(Instance {
            id: address.into(),
            address: address.into(),
            weight,
            takes_requests,
            tags: Default::default(),
            metadata: Default::default(),
            owner: None,
        })
    }

    fn tell(told: &Told, instances: &[Arc<Instance>], silent: Option<(Vec<Arc<Instance>>, Instant)>) {
        told.0.send_replace(Some(Arc::new(Listed { instances: instances.to_vec(), silent })));
    }

    async fn seen(source: &dyn EndpointSource) -> Vec<(String, u32, Option<bool>)> {
        let found = source.discover().await.unwrap();
        found.iter().map(|found| (found.address.to_string(), found.weight, found.healthy)).collect()
    }

    const KEEP: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn the_set_stays_until_something_is_heard_and_then_follows_it() {
        let (told, _, source) = followed(KEEP);
        assert!(source.discover().await.is_err());
        tell(&told, &[instance("10.0.0.1:80", 3, true), instance("10.0.0.2:80", 1, false)], None);
        source.changed().await;
        let expected = [("10.0.0.1:80".into(), 3, Some(true)), ("10.0.0.2:80".into(), 1, Some(false))];
        assert_eq!(seen(&*source).await, expected);
        tell(&told, &[], None);
        source.changed().await;
        assert_eq!(source.discover().await.unwrap(), []);
    }

    #[test]
    fn those_that_silence_took_last_stay_for_as_long_as_is_wanted() {
        let since = Instant::now();
        let silent = vec![instance("10.0.0.1:80", 1, true)];
        let emptied = Listed { instances: Vec::new(), silent: Some((silent.clone(), since)) };
        let others = Listed { instances: vec![instance("10.0.0.2:80", 1, true)], ..emptied.clone() };
        for (listed, keep, age, stay) in [
            (&emptied, 600, 0, "10.0.0.1:80"),
            (&emptied, 600, 599, "10.0.0.1:80"),
            (&emptied, 600, 600, ""),
            (&emptied, 0, 0, ""),
            (&others, 600, 0, "10.0.0.2:80"),
        ] {
            let (keep, now) = (Duration::from_secs(keep), since + Duration::from_secs(age));
            let (instances, until) = present(listed, keep, now);
            let addresses: String = instances.iter().map(|instance| &*instance.address).collect();
            assert_eq!(addresses, stay, "{keep:?} {age}");
            assert_eq!(until, (stay == "10.0.0.1:80").then(|| since + keep));
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_looked_at_again_when_its_time_is_over() {
        let (told, _, source) = followed(Duration::from_millis(100));
        tell(&told, &[], Some((vec![instance("10.0.0.1:80", 1, true)], Instant::now())));
        while !seen(&*source).await.is_empty() {
            source.changed().await;
        }
    }

    #[tokio::test]
    async fn names_are_asked_for_once_while_they_are_good_and_others_do_not_wait_for_bad_ones() {
        let (told, names, source) = followed(KEEP);
        let known = [instance("users.internal:81", 1, true), instance("10.0.0.1:80", 1, true)];
        tell(&told, &known, None);
        let addresses = async || seen(&*source).await.into_iter().map(|seen| seen.0).collect::<Vec<_>>();
        assert_eq!(addresses().await, ["10.0.0.8:81", "10.0.0.9:81", "10.0.0.1:80"]);
        assert_eq!(addresses().await.len(), 3);
        assert_eq!(names.0.load(Ordering::Relaxed), 1);
        tell(&told, &[instance("gone.internal:81", 1, true), instance("10.0.0.1:80", 1, true)], None);
        assert_eq!(addresses().await, ["10.0.0.1:80"]);
        tell(&told, &[instance("gone.internal:81", 1, true)], None);
        assert!(source.discover().await.is_err(), "the set that was there stays");
    }

    #[tokio::test]
    async fn an_endpoint_is_known_by_the_address_that_was_registered() {
        let (told, _, source) = followed(KEEP);
        tell(&told, &[instance("users.internal:81", 1, true)], None);
        let found = source.discover().await.unwrap();
        assert!(found.iter().all(|found| found.origin.as_deref() == Some("users.internal:81")));
    }
}
