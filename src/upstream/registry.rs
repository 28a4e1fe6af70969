//! A registry of services as upstreams see it: a [`Selector`] says which instances are wanted, a [`Directory`] keeps telling which
//! there are. The directory belongs to whoever hears of them, a control plane in this process or one that it has joined; what an
//! endpoint makes of them is the source's, beside DNS (`source/registry.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Instant,
};

use tokio::sync::watch;

use crate::{identity::SpiffeId, names::check_host};

/// Tells of instances for as long as anybody listens.
pub trait Directory: Send + Sync {
    /// What matches `selector`, now and after each change. `None` while nothing has been heard of the service. Two that ask for
    /// the same see the same; dropping the receiver is all it takes to stop.
    fn follow(&self, selector: &Selector) -> watch::Receiver<Option<Arc<Listed>>>;
}

/// Which instances of a service are wanted: those with all of the tags and all of the pairs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    name: Arc<str>,
    tags: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Unique in the registry.
    pub id: Arc<str>,
    /// `ip:port` or `hostname:port`, as registered.
    pub address: Arc<str>,
    pub weight: u16,
    /// Whether it is sent anything new: neither critical nor about to leave.
    pub takes_requests: bool,
    pub tags: BTreeSet<String>,
    pub metadata: BTreeMap<String, String>,
    /// Who has registered it, where that was proved by an SVID.
    pub owner: Option<SpiffeId>,
}

/// The SPIFFE IDs with which the instances at one address were registered, in order; none where they were registered without.
pub type Owners = Arc<[SpiffeId]>;

/// What a selector finds.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// In the order of their ids.
    pub instances: Vec<Arc<Instance>>,
    /// Where there are none because silence took the last of them: who they were, and when the last was gone.
    pub silent: Option<(Vec<Arc<Instance>>, Instant)>,
}

impl Selector {
    /// The longest name of a service.
    const LONGEST: usize = 128;

    /// # Errors
    ///
    /// Why `name` is none, to be read after it.
    pub fn new<'a>(
        name: &str,
        tags: impl IntoIterator<Item = &'a String>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Selector, &'static str> {
        check_name(name)?;
        Ok(Selector {
            name: name.into(),
            tags: tags.into_iter().cloned().collect(),
            metadata: metadata.clone(),
        })
    }

    /// The service.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Not all instances of the service are wanted.
    pub fn is_narrow(&self) -> bool {
        !self.tags.is_empty() || !self.metadata.is_empty()
    }

    pub fn matches(&self, instance: &Instance) -> bool {
        self.takes(&instance.tags, &instance.metadata)
    }

    /// Whether one with these is among those that are asked for.
    pub fn takes(&self, tags: &BTreeSet<String>, metadata: &BTreeMap<String, String>) -> bool {
        self.tags.is_subset(tags) && self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value))
    }
}

/// A name is that of a host in lower case, so that it can be one of a request.
///
/// # Errors
///
/// Why it is none, to be read after the name.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.len() > Selector::LONGEST {
        return Err("is longer than 128 characters");
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("has capital letters (services are named in lower case)");
    }
    if name.ends_with('.') || name.contains('~') || check_host(name).is_err() {
        return Err("is not the name of a service (letters, digits, `-` and `_`, with dots between)");
    }
    Ok(())
}

/// The same text for the same selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registry:{}", self.name)?;
        for tag in &self.tags {
            write!(f, " #{tag}")?;
        }
        for (key, value) in &self.metadata {
            write!(f, " {key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tags_and_all_pairs_must_hold() {
        let instance = Instance {
            id: "a".into(),
            address: "10.0.0.1:80".into(),
            weight: 1,
            takes_requests: true,
            tags: ["v2", "canary"].map(String::from).into(),
            metadata: [("region", "eu"), ("zone", "a")].map(|(key, value)| (key.into(), value.into())).into(),
            owner: None,
        };
        for (tags, pairs, matches) in [
            (vec![], vec![], true),
            (vec!["v2"], vec![], true),
            (vec!["v2", "canary"], vec![("region", "eu"), ("zone", "a")], true),
            (vec!["v2", "v3"], vec![], false),
            (vec![], vec![("region", "us")], false),
            (vec![], vec![("region", "eu"), ("rack", "1")], false),
        ] {
            let tags: Vec<String> = tags.into_iter().map(String::from).collect();
            let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let selector = Selector::new("users", &tags, &pairs).unwrap();
            assert_eq!(selector.matches(&instance), matches, "{selector}");
        }
    }

    #[test]
    fn selectors_that_mean_the_same_are_written_the_same() {
        let selector = |tags: [&str; 2]| {
            let pairs = [("region".to_owned(), "eu".to_owned())].into();
            Selector::new("users", &tags.map(String::from), &pairs).unwrap().to_string()
        };
        assert_eq!(selector(["v2", "blue"]), "registry:users #blue #v2 region=eu");
        assert_eq!(selector(["v2", "blue"]), selector(["blue", "v2"]));
    }

    #[test]
    fn names_are_those_of_hosts_in_lower_case() {
        for name in ["users", "cart.shop", "app_web_1", "a-b"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(129);
        for name in ["", "Users", "a..b", "us ers", "users.", "a~b", "1.2.3.4", "users:80", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
