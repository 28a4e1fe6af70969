//! SPIFFE IDs as rules name them: one, or all below a path of a trust domain.

use std::fmt;

use super::{SpiffeId, TrustDomain, parse_id};

#[derive(Clone, Debug, PartialEq)]
pub enum IdPattern {
    Exact(SpiffeId),
    /// `path` ends in a slash.
    Below {
        trust_domain: TrustDomain,
        path: String,
    },
}

impl IdPattern {
    /// # Errors
    ///
    /// Why it is neither a SPIFFE ID nor one with `/*` behind it.
    pub fn parse(text: &str) -> Result<IdPattern, String> {
        let (text, is_below) = text.strip_suffix("/*").map_or((text, false), |above| (above, true));
        let id = parse_id(text).map_err(|why| {
            format!("{text:?} is not a SPIFFE ID: {why} (try \"spiffe://mesh.local/orders\" or \"spiffe://mesh.local/team/*\")")
        })?;
        match is_below {
            true => Ok(IdPattern::Below {
                trust_domain: id.trust_domain().clone(),
                path: format!("{}/", id.path()),
            }),
            false if id.path().is_empty() => {
                Err(format!("a workload's SPIFFE ID has a path (all of the trust domain is \"{text}/*\")"))
            }
            false => Ok(IdPattern::Exact(id)),
        }
    }

    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            IdPattern::Exact(known) => known == id,
            IdPattern::Below { trust_domain, path } => {
                id.trust_domain() == trust_domain && id.path().starts_with(path.as_str())
            }
        }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            IdPattern::Exact(id) => id.trust_domain(),
            IdPattern::Below { trust_domain, .. } => trust_domain,
        }
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdPattern::Exact(id) => id.fmt(f),
            IdPattern::Below { trust_domain, path } => write!(f, "spiffe://{trust_domain}{path}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_id_or_all_below_a_segment() {
        for (pattern, id, matching) in [
            ("spiffe://mesh.local/orders", "spiffe://mesh.local/orders", true),
            ("spiffe://mesh.local/orders", "spiffe://mesh.local/orders/eu", false),
            ("spiffe://mesh.local/orders", "spiffe://mesh.local/Orders", false),
            ("spiffe://mesh.local/orders", "spiffe://other.local/orders", false),
            ("spiffe://mesh.local/team/*", "spiffe://mesh.local/team/a", true),
            ("spiffe://mesh.local/team/*", "spiffe://mesh.local/team/a/b", true),
            ("spiffe://mesh.local/team/*", "spiffe://mesh.local/team", false),
            ("spiffe://mesh.local/team/*", "spiffe://mesh.local/team2/a", false),
            ("spiffe://mesh.local/team/*", "spiffe://mesh.local.evil/team/a", false),
            ("spiffe://mesh.local/*", "spiffe://mesh.local/a", true),
            ("spiffe://mesh.local/*", "spiffe://mesh.local", false),
            ("spiffe://mesh.local/*", "spiffe://other.local/a", false),
        ] {
            let read = IdPattern::parse(pattern).unwrap();
            assert_eq!(read.matches(&id.parse().unwrap()), matching, "{pattern} {id}");
            assert_eq!(read.to_string(), pattern);
        }
    }

    #[test]
    fn refuses_what_no_caller_can_have() {
        for text in [
            "",
            "*",
            "orders",
            "https://mesh.local/orders",
            "spiffe://mesh.local",
            "spiffe://mesh.local/",
            "spiffe:///orders",
            "spiffe://mesh.local/orders/",
            "spiffe://mesh.local/or*",
            "spiffe://mesh.local/*/a",
            "spiffe://mesh.local/a//*",
            "spiffe://mesh.local/../a",
            "spiffe://mesh.local/a?b",
            "spiffe://mesh.local:80/a",
            "spiffe://user@mesh.local/a",
            "spiffe://mesh.local/%61",
            "spiffe://Mesh.local/a",
            "SPIFFE://mesh.local/a",
        ] {
            assert!(IdPattern::parse(text).is_err(), "{text}");
        }
    }
}
