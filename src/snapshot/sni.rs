//! Where a TLS connection goes: by the server name and the application protocols in its ClientHello. As it is, or without its TLS.

use std::collections::HashMap;

/// `listeners[].sni`, leading to upstreams by name as it is planned, and to live ones as it is used.
#[derive(Clone)]
pub struct Passthrough<To> {
    exact: HashMap<Box<str>, Passed<To>>,
    /// By what follows `*.`: one or more labels stand before it.
    below: HashMap<Box<str>, Passed<To>>,
    /// For all others, and for those who name no server.
    others: Option<Passed<To>>,
    /// TLS ends before the connection goes on.
    pub ends_tls: bool,
}

/// Where one name leads.
#[derive(Clone)]
pub struct Passed<To> {
    pub by_protocol: HashMap<Box<[u8]>, To>,
    pub default: Option<To>,
}

impl Passed<String> {
    /// Whatever the client offers.
    pub fn to(upstream: &str) -> Passed<String> {
        Passed { by_protocol: HashMap::new(), default: Some(upstream.to_owned()) }
    }
}

/// Which names an entry is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Names {
    Exact(Box<str>),
    Below(Box<str>),
    Others,
}

/// Why a connection is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    Name,
    /// The name is known, but not with any of the protocols that are offered.
    Protocol,
}

impl<To> FromIterator<(Names, Passed<To>)> for Passthrough<To> {
    fn from_iter<I: IntoIterator<Item = (Names, Passed<To>)>>(entries: I) -> Passthrough<To> {
        let (exact, below) = (HashMap::new(), HashMap::new());
        let mut passthrough = Passthrough { exact, below, others: None, ends_tls: false };
        for (names, passed) in entries {
            match names {
                Names::Exact(name) => drop(passthrough.exact.insert(name, passed)),
                Names::Below(suffix) => drop(passthrough.below.insert(suffix, passed)),
                Names::Others => passthrough.others = Some(passed),
            }
        }
        passthrough
    }
}

impl<To> Passthrough<To> {
    /// `name` is in lower case, without a dot at its end. An exact entry wins, then the longest wildcard.
    ///
    /// # Errors
    ///
    /// No entry is for it.
    pub fn find(&self, name: Option<&str>, protocols: &[Vec<u8>]) -> Result<&To, Unmatched> {
        let named = name.and_then(|name| {
            let mut suffixes =
                name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &name[at + 1..]);
            self.exact.get(name).or_else(|| suffixes.find_map(|suffix| self.below.get(suffix)))
        });
        let passed = named.or(self.others.as_ref()).ok_or(Unmatched::Name)?;
        let by_protocol = protocols.iter().find_map(|protocol| passed.by_protocol.get(&**protocol));
        by_protocol.or(passed.default.as_ref()).ok_or(Unmatched::Protocol)
    }

    /// The same, leading to what `to` makes of each upstream; where it makes nothing, nowhere.
    pub fn lead<Other>(&self, to: impl Fn(&To) -> Option<Other>) -> Passthrough<Other> {
        let passed = |passed: &Passed<To>| Passed {
            by_protocol: passed.by_protocol.iter().filter_map(|(p, up)| Some((p.clone(), to(up)?))).collect(),
            default: passed.default.as_ref().and_then(&to),
        };
        let all =
            |map: &HashMap<Box<str>, Passed<To>>| map.iter().map(|(n, p)| (n.clone(), passed(p))).collect();
        Passthrough {
            exact: all(&self.exact),
            below: all(&self.below),
            others: self.others.as_ref().map(passed),
            ends_tls: self.ends_tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(to: &'static str) -> Passed<&'static str> {
        Passed { by_protocol: HashMap::new(), default: Some(to) }
    }

    fn split(by_protocol: &[(&str, &'static str)], default: Option<&'static str>) -> Passed<&'static str> {
        let by_protocol =
            by_protocol.iter().map(|(protocol, to)| (protocol.as_bytes().into(), *to)).collect();
        Passed { by_protocol, default }
    }

    fn passthrough(others: bool) -> Passthrough<&'static str> {
        let mut entries = vec![
            (Names::Exact("db.example.com".into()), one("db")),
            (Names::Below("example.com".into()), one("any")),
            (Names::Below("apps.example.com".into()), one("apps")),
            (Names::Exact("web.test".into()), split(&[("h2", "grpc"), ("http/1.1", "web")], None)),
        ];
        if others {
            entries.push((Names::Others, one("others")));
        }
        entries.into_iter().collect()
    }

    #[test]
    fn the_most_specific_entry_wins() {
        for (name, expected) in [
            (Some("db.example.com"), Ok(&"db")),
            (Some("a.example.com"), Ok(&"any")),
            (Some("a.b.apps.example.com"), Ok(&"apps")),
            (Some("apps.example.com"), Ok(&"any")),
            (Some("example.com"), Err(Unmatched::Name)),
            (Some(".example.com"), Err(Unmatched::Name)),
            (Some("other.test"), Err(Unmatched::Name)),
            (None, Err(Unmatched::Name)),
        ] {
            assert_eq!(passthrough(false).find(name, &[]), expected, "{name:?}");
            let expected = expected.or(Ok(&"others"));
            assert_eq!(passthrough(true).find(name, &[]), expected, "{name:?}");
        }
    }

    #[test]
    fn the_first_protocol_that_is_known_decides() {
        let find = |protocols: &[&str]| {
            let protocols: Vec<_> = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
            passthrough(true).find(Some("web.test"), &protocols).copied()
        };
        assert_eq!(find(&["h2", "http/1.1"]), Ok("grpc"));
        assert_eq!(find(&["\x5a\x5a", "http/1.1", "h2"]), Ok("web"));
        assert_eq!(find(&["ftp"]), Err(Unmatched::Protocol), "a name that is known is nobody else's");
        assert_eq!(find(&[]), Err(Unmatched::Protocol));
    }

    #[test]
    fn what_leads_nowhere_is_left_out() {
        let live = passthrough(true).lead(|to| (*to != "grpc").then_some(to.len()));
        assert_eq!(live.find(Some("db.example.com"), &[]), Ok(&2));
        assert_eq!(live.find(Some("web.test"), &[b"h2".to_vec()]), Err(Unmatched::Protocol));
    }
}
