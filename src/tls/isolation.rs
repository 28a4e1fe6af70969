//! Hosts that are kept apart on a listener, whatever its certificates say: a connection that a client opened for one of them is not for
//! the others. Each name is a group of hosts; all hosts that no name is for are one more.

/// Names of hosts, exact or `*.suffix` for every name below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolated {
    /// Lower case, the most specific first.
    names: Vec<String>,
}

impl Isolated {
    pub fn new(names: &[String]) -> Isolated {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_by_key(|name| (name.starts_with('*'), std::cmp::Reverse(name.len())));
        Isolated { names }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether a request for `host` does not belong on a connection that was opened for `name`.
    pub(crate) fn parts(&self, name: &str, host: &str) -> bool {
        self.group(name) != self.group(host)
    }

    fn group(&self, host: &str) -> Option<usize> {
        let host = super::without_root(host).to_ascii_lowercase();
        self.names.iter().position(|name| match name.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => *name == host,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_different_names_are_parted() {
        let names = ["second.example", "*.wild.example", "*.deep.wild.example", "fourth.Wild.example"];
        let isolated = Isolated::new(&names.map(str::to_owned));
        for (name, host, is_parted) in [
            ("first.example", "first.example", false),
            ("first.example", "second.example", true),
            ("second.example", "first.example", true),
            ("second.example", "SECOND.example.", false),
            ("unknown.example", "first.example", false),
            ("a.wild.example", "b.c.wild.example", false),
            ("a.wild.example", "fourth.wild.example", true),
            ("a.wild.example", "a.deep.wild.example", true),
            ("wild.example", "first.example", false),
            ("a.wild.example", "wild.example", true),
        ] {
            assert_eq!(isolated.parts(name, host), is_parted, "{name} {host}");
        }
        assert!(!Isolated::default().parts("a", "b"));
    }
}
