//! Endpoints from SRV records (RFC 2782): hosts with their ports, weights and priorities. The records are asked for again as their
//! answer, or that of one of their hosts, expires. A host that does not resolve keeps the addresses that it had.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures::{StreamExt, stream};

use super::{
    EndpointSource, Found, Supply,
    dns::{Refresh, is_due},
};
use crate::{
    config,
    names::{Resolve, ServiceRecord, check_host},
    upstream::{Live, Refusal, endpoint::lock},
};

/// More than anybody writes down. A name server that says more is not followed there.
const MOST_RECORDS: usize = 1000;
/// So many hosts are asked for at once.
const AT_ONCE: usize = 16;
/// Beside others, a weight of 0 is a small chance and not none (RFC 2782): this part of a weight of 1, where there is room.
const SMALL: u32 = 100;

/// # Errors
///
/// What is no name.
pub(super) fn supply(endpoint: &config::SrvEndpoint, live: &Live) -> Result<Supply, Refusal> {
    let refuse = |why: String| Refusal { path: "srv".into(), why };
    let name = &endpoint.srv;
    if let Some((bare, _)) = name.rsplit_once(':') {
        return Err(refuse(format!(
            "{name:?} has a port, which the records have themselves (write {bare:?})"
        )));
    }
    check_host(name).map_err(|why| refuse(format!("{name:?} {why}")))?;
    Ok(Supply::Followed(Box::new(Srv {
        name: name.clone(),
        resolver: live.resolver.clone(),
        refresh: Mutex::default(),
        known: Mutex::default(),
    })))
}

struct Srv {
    name: String,
    resolver: Arc<dyn Resolve>,
    refresh: Mutex<Refresh>,
    /// The last good answer of each host.
    known: Mutex<HashMap<String, Vec<IpAddr>>>,
}

#[async_trait]
impl EndpointSource for Srv {
    fn name(&self) -> &str {
        &self.name
    }

    async fn discover(&self) -> Result<Vec<Found>, String> {
        // Before the question: what changes meanwhile is asked again.
        lock(&self.refresh).begins(self.resolver.edition());
        let answer = match self.resolver.services(&self.name).await {
            Ok(answer) => answer,
            Err(error) => {
                lock(&self.refresh).failed(&mut fastrand::Rng::new());
                return Err(error.to_string());
            }
        };
        let mut records = answer.records;
        records.truncate(MOST_RECORDS);
        let hosts: BTreeSet<String> = records.iter().map(|record| record.target.clone()).collect();
        let asked = stream::iter(hosts.into_iter().map(|host| async move {
            let resolved = self.resolver.resolve(&host).await;
            (host, resolved)
        }));
        let resolved: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        let (mut ttl, mut why) = (answer.ttl, None);
        {
            let mut known = lock(&self.known);
            known.retain(|host, _| resolved.iter().any(|(present, _)| present == host));
            for (host, outcome) in resolved {
                match outcome {
                    Ok(answer) => {
                        ttl = ttl.min(answer.ttl);
                        known.insert(host, answer.addresses);
                    }
                    Err(error) => why = Some(format!("{host}: {error}")),
                }
            }
        }
        match &why {
            None => lock(&self.refresh).resolved(ttl),
            Some(_) => lock(&self.refresh).failed(&mut fastrand::Rng::new()),
        }
        let found = found(&records, &lock(&self.known));
        match why {
            // Records without any host say that the service is not there.
            Some(why) if found.is_empty() => Err(why),
            _ => Ok(found),
        }
    }

    async fn changed(&self) {
        is_due(&self.refresh, &*self.resolver).await;
    }
}

/// An address that several records name counts as the most important one says.
fn found(records: &[ServiceRecord], addresses: &HashMap<String, Vec<IpAddr>>) -> Vec<Found> {
    let mut endpoints: HashMap<SocketAddr, Found> = HashMap::new();
    for record in records {
        let origin: Arc<str> = format!("{}:{}", record.target, record.port).into();
        for ip in addresses.get(&record.target).into_iter().flatten() {
            let address = SocketAddr::new(*ip, record.port);
            let one = Found {
                weight: weight(record, records),
                priority: Some(record.priority),
                origin: Some(origin.clone()),
                ..Found::at(address)
            };
            let known = endpoints.entry(address).or_insert_with(|| one.clone());
            if (one.priority, u32::MAX - one.weight) < (known.priority, u32::MAX - known.weight) {
                *known = one;
            }
        }
    }
    endpoints.into_values().collect()
}

/// Here a weight of 0 would be none. Where all have it, they are equal.
fn weight(record: &ServiceRecord, records: &[ServiceRecord]) -> u32 {
    let beside = records.iter().filter(|other| other.priority == record.priority);
    let (most, least) =
        beside.fold((0, u16::MAX), |(most, least), other| (most.max(other.weight), least.min(other.weight)));
    let most = u32::from(most);
    let scale = if least == 0 && most > 0 && most * SMALL <= u32::from(u16::MAX) { SMALL } else { 1 };
    (u32::from(record.weight) * scale).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::names::{ResolveError, Resolved, Services};

    /// `priority weight port target`.
    fn records(lines: &[&str]) -> Vec<ServiceRecord> {
        let record = |line: &&str| {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse().unwrap();
            ServiceRecord { priority: number(0), weight: number(1), port: number(2), target: words[3].into() }
        };
        lines.iter().map(record).collect()
    }

    #[derive(Default)]
    struct Names {
        records: Mutex<Vec<ServiceRecord>>,
        hosts: Mutex<HashMap<String, Vec<IpAddr>>>,
    }

    impl Names {
        fn say(&self, lines: &[&str], hosts: &[(&str, &[&str])]) {
            *lock(&self.records) = records(lines);
            let addresses = |list: &[&str]| list.iter().map(|one| one.parse().unwrap()).collect();
            *lock(&self.hosts) =
                hosts.iter().map(|(host, list)| ((*host).to_owned(), addresses(list))).collect();
        }
    }

    #[async_trait]
    impl Resolve for Names {
        async fn resolve(&self, host: &str) -> Result<Resolved, ResolveError> {
            let addresses = lock(&self.hosts).get(host).cloned();
            let addresses = addresses.ok_or(ResolveError("no such host".into()))?;
            Ok(Resolved { addresses, ttl: Duration::from_secs(20) })
        }

        async fn services(&self, _name: &str) -> Result<Services, ResolveError> {
            Ok(Services { records: lock(&self.records).clone(), ttl: Duration::from_secs(60) })
        }
    }

    fn source(names: &Arc<Names>) -> Box<dyn EndpointSource> {
        let live = Live::offline(names.clone(), Arc::new(()));
        match supply(&config::SrvEndpoint { srv: "_http._tcp.users.internal".into() }, &live) {
            Ok(Supply::Followed(source)) => source,
            _ => panic!("SRV records are followed"),
        }
    }

    async fn seen(source: &dyn EndpointSource) -> Result<Vec<String>, String> {
        let mut found = source.discover().await?;
        found.sort_by_key(|one| (one.priority, one.address.to_string()));
        let shown = |one: &Found| {
            format!(
                "{} {} {} {}",
                one.priority.unwrap(),
                one.weight,
                one.address,
                one.origin.as_deref().unwrap()
            )
        };
        Ok(found.iter().map(shown).collect())
    }

    #[tokio::test]
    async fn each_address_of_each_host_is_an_endpoint_with_the_port_weight_and_priority_of_its_record() {
        let names = Arc::new(Names::default());
        names.say(
            &["10 60 8080 a.internal", "10 40 8081 b.internal", "20 0 8080 c.internal"],
            &[
                ("a.internal", &["10.0.0.1", "fd00::1"]),
                ("b.internal", &["10.0.0.2"]),
                ("c.internal", &["10.0.0.3"]),
            ],
        );
        let expected = [
            "10 60 10.0.0.1:8080 a.internal:8080",
            "10 40 10.0.0.2:8081 b.internal:8081",
            "10 60 [fd00::1]:8080 a.internal:8080",
            "20 1 10.0.0.3:8080 c.internal:8080",
        ];
        assert_eq!(seen(&*source(&names)).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_host_that_does_not_resolve_keeps_what_it_had_and_alone_it_is_an_error() {
        let names = Arc::new(Names::default());
        let source = source(&names);
        let two = ["1 1 80 a.internal", "1 1 80 b.internal"];
        names.say(&two, &[("a.internal", &["10.0.0.1"])]);
        assert_eq!(seen(&*source).await.unwrap(), ["1 1 10.0.0.1:80 a.internal:80"]);
        names.say(&two, &[("b.internal", &["10.0.0.2"])]);
        let both = ["1 1 10.0.0.1:80 a.internal:80", "1 1 10.0.0.2:80 b.internal:80"];
        assert_eq!(seen(&*source).await.unwrap(), both);
        names.say(&["1 1 80 c.internal"], &[]);
        assert_eq!(seen(&*source).await.unwrap_err(), "c.internal: no such host");
        names.say(&[], &[]);
        assert_eq!(seen(&*source).await.unwrap(), [""; 0], "there is no such service");
    }

    #[test]
    fn a_weight_of_zero_is_a_small_chance_beside_others_and_an_equal_one_alone() {
        for (lines, weights) in [
            (&["1 0 80 a", "1 0 80 b"][..], &[1, 1][..]),
            (&["1 0 80 a", "1 1 80 b", "1 3 80 c", "2 7 80 d"], &[1, 100, 300, 7]),
            (&["1 0 80 a", "1 60000 80 b"], &[1, 60000]),
            (&["1 5 80 a", "1 65535 80 b"], &[5, 65535]),
        ] {
            let records = records(lines);
            let found: Vec<u32> = records.iter().map(|record| weight(record, &records)).collect();
            assert_eq!(found, weights);
        }
    }

    #[test]
    fn an_address_that_several_records_name_counts_as_the_most_important_says() {
        let records = records(&["20 9 80 a", "10 2 80 b", "10 5 80 c"]);
        let at = |host: &str| (host.to_owned(), vec!["10.0.0.1".parse().unwrap()]);
        let found = found(&records, &HashMap::from([at("a"), at("b"), at("c")]));
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].priority, found[0].weight, found[0].origin.as_deref()),
            (Some(10), 5, Some("c:80"))
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let live = Live::offline(Arc::new(Names::default()), Arc::new(()));
        for (name, says) in [
            ("users.internal:80", "has a port, which the records have themselves (write \"users.internal\")"),
            ("_http._tcp.us ers", "is not a host name"),
            ("", "is not a host name"),
        ] {
            let refusal = supply(&config::SrvEndpoint { srv: name.into() }, &live).err().unwrap();
            assert!(refusal.path == "srv" && refusal.why.contains(says), "{}", refusal.why);
        }
    }
}
