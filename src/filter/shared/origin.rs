//! Origins (RFC 6454) that an operator trusts: `https://app.example.com`, or `https://*.example.com` for every host
//! below it. Browsers send them in lower case and without a default port, so bytes are compared.

/// A pattern for one origin or a family of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Exact(String),
    /// `https://` and `.example.com:8443`: one or more labels stand in between.
    Below {
        scheme: String,
        suffix: String,
    },
}

impl OriginPattern {
    /// # Errors
    ///
    /// No browser would ever send it.
    pub(crate) fn parse(text: &str) -> Result<OriginPattern, String> {
        let refuse = |why: &str| Err(format!("{text:?} {why}"));
        let origin = text.to_ascii_lowercase();
        if origin == "null" {
            return Ok(OriginPattern(Kind::Exact(origin)));
        }
        let Some((scheme, rest)) = origin.split_once("://") else {
            return refuse("is not an origin (try \"https://app.example.com\")");
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return refuse("has a port that is none");
        }
        if matches!((scheme, port), ("https", Some("443")) | ("http", Some("80"))) {
            return refuse("names the default port, which browsers leave out (leave it out too)");
        }
        if rest.contains(['/', '?', '#', '@']) {
            return refuse("has a path; an origin is a scheme, a host and a port");
        }
        let is_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return refuse("has a scheme that is none");
        }
        match host.strip_prefix("*.") {
            Some(below) if is_host(below) => Ok(OriginPattern(Kind::Below {
                scheme: format!("{scheme}://"),
                suffix: rest[1..].to_owned(),
            })),
            None if is_host(host) || is_ipv6(host) => Ok(OriginPattern(Kind::Exact(origin))),
            _ => refuse("has a host that is none (`*` may only be its first label; write IDNs as `xn--...`)"),
        }
    }

    pub(crate) fn matches(&self, origin: &str) -> bool {
        match &self.0 {
            Kind::Exact(exact) => exact == origin,
            Kind::Below { scheme, suffix } => {
                let labels = origin.strip_prefix(&**scheme).and_then(|rest| rest.strip_suffix(&**suffix));
                labels.is_some_and(is_host)
            }
        }
    }

    /// Whether anybody may have a host that it matches: all below `com`, `co.uk` or `github.io`, by the public suffix list.
    pub(crate) fn is_everybodys(&self) -> bool {
        let Kind::Below { suffix, .. } = &self.0 else { return false };
        let name = suffix.split(':').next().unwrap_or_default().trim_start_matches('.');
        let is_suffix = |name: &str| psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix == name);
        match name.contains('.') {
            // Whoever is at the top sells what is below, but for the names that are nobody's.
            false => !PRIVATE.contains(&name),
            // The list has wildcards: each name below `compute.amazonaws.com` is one.
            true => is_suffix(name) || is_suffix(&format!("0.{name}")) || HOSTERS.contains(&name),
        }
    }

    /// `null` is what every sandboxed page and local file sends: it is nobody in particular.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.0, Kind::Exact(exact) if exact == "null")
    }
}

/// Names at the top that nobody can register below (RFC 6761, RFC 6762, RFC 9476 and custom).
const PRIVATE: [&str; 12] = [
    "alt",
    "corp",
    "example",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localhost",
    "private",
    "test",
];

/// Where anybody can have a host, below names that are on the list themselves or that it lacks.
const HOSTERS: [&str; 4] = ["amazonaws.com", "cloudapp.net", "googleusercontent.com", "windows.net"];

fn is_host(text: &str) -> bool {
    text.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

fn is_ipv6(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_whole_origin() {
        for (pattern, origin, expected) in [
            ("https://app.example.com", "https://app.example.com", true),
            ("https://App.Example.com", "https://app.example.com", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com", "https://app.example.com:8443", false),
            ("https://app.example.com", "https://app.example.com.evil.test", false),
            ("https://app.example.com:8443", "https://app.example.com:8443", true),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "https://evil.test/.example.com", false),
            ("https://*.example.com", "https://evil.test:1.example.com", false),
            ("https://*.example.com", "https://evil.test#.example.com", false),
            ("https://*.example.com", "https://a.example.com:8443", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
            ("https://*.example.com", "http://a.example.com", false),
            ("http://[::1]:3000", "http://[::1]:3000", true),
            ("http://localhost:3000", "http://localhost:3000", true),
            ("capacitor://localhost", "capacitor://localhost", true),
            ("null", "null", true),
        ] {
            let parsed = OriginPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(origin), expected, "{pattern} against {origin}");
        }
    }

    #[test]
    fn below_a_name_that_registries_and_hosters_give_out_is_everybody() {
        for (pattern, expected) in [
            ("https://*.com", true),
            ("https://*.com:8443", true),
            ("https://*.CO.UK", true),
            ("https://*.com.au", true),
            ("https://*.github.io", true),
            ("https://*.vercel.app", true),
            // On no short list: a registry of a city, a hoster, a wildcard, one in another script.
            ("https://*.shibuya.tokyo.jp", true),
            ("https://*.eu.ngrok.io", true),
            ("https://*.compute.amazonaws.com", true),
            ("https://*.amazonaws.com", true),
            ("https://*.ck", true),
            ("https://*.xn--55qx5d.cn", true),
            ("https://*.www.ck", false),
            ("https://*.city.kawasaki.jp", false),
            ("https://*.example.com", false),
            ("https://*.example.co.uk", false),
            ("https://*.me.github.io", false),
            ("http://*.localhost:3000", false),
            ("https://*.shop.internal", false),
            ("https://github.io", false),
            ("https://com", false),
        ] {
            assert_eq!(OriginPattern::parse(pattern).unwrap().is_everybodys(), expected, "{pattern}");
        }
    }

    #[test]
    fn refuses_what_no_browser_sends() {
        for text in [
            "",
            "app.example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a:b",
            "https://a:443",
            "http://a:80",
            "https://*",
            "https://a.*.b",
            "https://*a.com",
            "https://a..b",
            "https://u@a",
            "://a",
            "https://[::g]",
            "https://é.example",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text:?}");
        }
    }
}
