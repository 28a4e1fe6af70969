//! Host patterns: a name, or `*.suffix` for every name below it. Names compare without regard to case and to a
//! trailing dot (RFC 9110 §4.2.3, RFC 1034 §3.1); ports are not part of them.

use std::{borrow::Cow, fmt};

use super::PatternError;

/// The longest name DNS can carry in text form (RFC 1035 §2.3.4); no pattern and so no match is longer.
pub(super) const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A host name as an operator may write it in a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(pub(super) Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Exact(Box<str>),
    /// What follows `*.`: one or more labels stand before it.
    Below(Box<str>),
}

impl HostPattern {
    /// Parses `api.example.com`, `*.example.com`, `10.0.0.1` or `[::1]`.
    pub fn parse(text: &str) -> Result<HostPattern, PatternError> {
        let refuse = |why: &str| Err(PatternError::new(format!("host {text:?} {why}")));
        if text == "*" {
            return refuse("would match every host (leave `hosts` out instead)");
        }
        let name = canonical(text);
        if let Some(literal) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return match literal.parse::<std::net::Ipv6Addr>() {
                Ok(_) => Ok(HostPattern(Kind::Exact(name.as_ref().into()))),
                Err(_) => refuse("is not an IPv6 address in brackets"),
            };
        }
        let (suffix, wildcard) = match name.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (name.as_ref(), false),
        };
        if suffix.is_empty() || suffix.len() > LONGEST {
            return refuse("must have between 1 and 253 characters");
        }
        if suffix.contains('*') {
            return refuse("may hold `*` only as its whole first label (try `*.example.com`)");
        }
        if suffix.contains([' ', ',']) && !suffix.contains(['^', '(']) {
            let names = text.split([' ', ',']).filter(|name| !name.is_empty());
            let names = names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            return refuse(&format!("is not a host name, but several (write `hosts: [{names}]`)"));
        }
        if suffix.contains(['/', ':']) {
            let bare = name.split_once("://").map_or(name.as_ref(), |(_, rest)| rest);
            let bare = bare.split(['/', ':']).next().unwrap_or_default();
            return refuse(&format!("must be a bare name, without scheme, port or path (write {bare:?})"));
        }
        if text == "_" || text == "default" || text == "default_server" {
            return refuse("names no host (leave `hosts` out for any)");
        }
        if let Some(below) = text.strip_prefix('.') {
            return refuse(&format!("begins with a dot (write \"*.{below}\")"));
        }
        if text.starts_with('~') || text.contains(['^', '$', '\\', '(']) {
            return refuse("is no expression here (write names, or \"*.example.com\" for all below one)");
        }
        if !suffix.is_ascii() {
            return refuse("must be ASCII (write international names as `xn--...`)");
        }
        if !suffix.split('.').all(is_label) {
            return refuse("is not a host name (labels of letters, digits, `-` and `_`, joined by dots)");
        }
        Ok(HostPattern(if wildcard { Kind::Below(suffix.into()) } else { Kind::Exact(suffix.into()) }))
    }

    /// A name that it matches.
    pub fn example(&self) -> String {
        match &self.0 {
            Kind::Exact(name) => name.to_string(),
            Kind::Below(suffix) => format!("x.{suffix}"),
        }
    }

    /// Whether a request for `host`, in any case and without its port, is meant.
    pub fn matches(&self, host: &str) -> bool {
        self.accepts(&canonical(host))
    }

    pub(super) fn accepts(&self, canonical: &str) -> bool {
        match &self.0 {
            Kind::Exact(name) => **name == *canonical,
            Kind::Below(suffix) => {
                canonical.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
        }
    }

    /// Higher wins: every exact name over every wildcard, then the longer suffix.
    pub(super) fn specificity(&self) -> usize {
        match &self.0 {
            Kind::Exact(_) => usize::MAX,
            Kind::Below(suffix) => suffix.len(),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(name) => f.write_str(name),
            Kind::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The form in which names are compared. Copies only when there is something to lower.
pub(super) fn canonical(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

fn is_label(label: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_names_in_any_case_and_with_a_trailing_dot() {
        for (pattern, host, expected) in [
            ("api.example.com", "API.Example.com", true),
            ("API.example.com.", "api.example.com", true),
            ("api.example.com", "api.example.com.", true),
            ("api.example.com", "xapi.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("[::1]", "[::1]", true),
        ] {
            let parsed = HostPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(host), expected, "{pattern} against {host}");
        }
    }

    #[test]
    fn refuses_what_could_never_match() {
        for text in [
            "", ".", "*", "*.", "a.*.b", "*a.com", "http://a", "a:80", "a/b", "a..b", "é.com", "a b", "[::g]",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
        assert!(HostPattern::parse(&"a.".repeat(200)).is_err());
    }
}
