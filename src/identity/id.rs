//! SPIFFE IDs and trust domains as text, to the letter of the SPIFFE-ID specification.
//!
//! The `spiffe` crate folds upper case in the scheme and the trust domain and takes an ID of any length. Two spellings
//! of one name are one too many where names decide who gets in, so what is read here must be the canonical one.

use std::{error, fmt};

use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// The longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3).
pub const LONGEST_ID: usize = 2048;

const SCHEME: &str = "spiffe://";

/// What is wrong with the text of a SPIFFE ID or of a trust domain.
#[derive(Clone, Debug, PartialEq)]
pub enum IdError {
    TooLong,
    UpperCase,
    /// A trust domain was wanted, and this is a whole ID.
    NotATrustDomain,
    Invalid(SpiffeIdError),
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdError::TooLong => write!(f, "it is longer than {LONGEST_ID} bytes"),
            IdError::UpperCase => f.write_str("the scheme and the trust domain are lower case"),
            IdError::NotATrustDomain => f.write_str("a trust domain is a name such as mesh.local"),
            IdError::Invalid(why) => fmt::Display::fmt(why, f),
        }
    }
}

impl error::Error for IdError {}

/// Read a SPIFFE ID: the only way one comes into this program from outside.
///
/// # Errors
///
/// What the SPIFFE-ID specification (section 2) does not allow, and upper case where it has no meaning.
pub fn parse_id(text: &str) -> Result<SpiffeId, IdError> {
    if text.len() > LONGEST_ID {
        return Err(IdError::TooLong);
    }
    let scheme = text.get(..SCHEME.len()).unwrap_or_default();
    let authority = text[scheme.len()..].split('/').next().unwrap_or_default();
    let is_folded = scheme != SCHEME && scheme.eq_ignore_ascii_case(SCHEME);
    if is_folded || authority.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(IdError::UpperCase);
    }
    SpiffeId::new(text).map_err(IdError::Invalid)
}

/// Read the name of a trust domain.
///
/// # Errors
///
/// As for [`parse_id`]; and a whole ID is refused.
pub fn parse_trust_domain(text: &str) -> Result<TrustDomain, IdError> {
    if text.contains('/') {
        return Err(IdError::NotATrustDomain);
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(IdError::UpperCase);
    }
    TrustDomain::new(text).map_err(IdError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_the_specification_allows() {
        for (text, trust_domain, path) in [
            ("spiffe://mesh.local", "mesh.local", ""),
            ("spiffe://mesh.local/payments", "mesh.local", "/payments"),
            ("spiffe://mesh.local/ns/prod/sa/web", "mesh.local", "/ns/prod/sa/web"),
            ("spiffe://a-b_c.1/A-b_C.9", "a-b_c.1", "/A-b_C.9"),
            ("spiffe://10.0.0.1/x", "10.0.0.1", "/x"),
            ("spiffe://mesh.local/...", "mesh.local", "/..."),
            ("spiffe://mesh.local/.hidden", "mesh.local", "/.hidden"),
            ("spiffe://-/-", "-", "/-"),
        ] {
            let id = parse_id(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((id.trust_domain().as_str(), id.path()), (trust_domain, path), "{text}");
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "spiffe",
            "spiffe:",
            "spiffe:/",
            "spiffe:/mesh.local/x",
            "spiffe://",
            "spiffe:///",
            "spiffe:///x",
            "http://mesh.local/x",
            "//mesh.local/x",
            "mesh.local/x",
            " spiffe://mesh.local/x",
            "spiffe://mesh.local/x ",
            "spiffe://mesh.local/x\n",
            "spiffe://mesh.local/x\0",
            // The scheme and the trust domain are lower case.
            "SPIFFE://mesh.local/x",
            "Spiffe://mesh.local/x",
            "spiffe://Mesh.local/x",
            "spiffe://MESH.LOCAL",
            // No userinfo, port, query or fragment.
            "spiffe://user@mesh.local/x",
            "spiffe://user:secret@mesh.local/x",
            "spiffe://mesh.local:8080/x",
            "spiffe://mesh.local:/x",
            "spiffe://mesh.local?q",
            "spiffe://mesh.local/x?q=1",
            "spiffe://mesh.local/x?",
            "spiffe://mesh.local#f",
            "spiffe://mesh.local/x#f",
            "spiffe://mesh.local/x#",
            // Characters of the trust domain.
            "spiffe://mesh%2elocal/x",
            "spiffe://mesh local/x",
            "spiffe://mésh.local/x",
            "spiffe://[::1]/x",
            "spiffe://mesh*/x",
            "spiffe://mesh.local\\x",
            // Path segments.
            "spiffe://mesh.local/",
            "spiffe://mesh.local//",
            "spiffe://mesh.local//x",
            "spiffe://mesh.local/x/",
            "spiffe://mesh.local/x//y",
            "spiffe://mesh.local/.",
            "spiffe://mesh.local/..",
            "spiffe://mesh.local/x/./y",
            "spiffe://mesh.local/x/../y",
            "spiffe://mesh.local/%61",
            "spiffe://mesh.local/a%2Fb",
            "spiffe://mesh.local/a%00",
            "spiffe://mesh.local/a b",
            "spiffe://mesh.local/a:b",
            "spiffe://mesh.local/a@b",
            "spiffe://mesh.local/a*",
            "spiffe://mesh.local/a,b",
            "spiffe://mesh.local/a~b",
            "spiffe://mesh.local/ü",
            "spiffe://mesh.local/a\\b",
        ] {
            assert!(parse_id(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_id_has_2048_bytes_at_most_and_its_trust_domain_255() {
        let of = |length: usize| {
            let start = "spiffe://mesh.local/";
            format!("{start}{}", "x".repeat(length - start.len()))
        };
        assert!(parse_id(&of(2048)).is_ok());
        assert_eq!(parse_id(&of(2049)), Err(IdError::TooLong));
        assert!(parse_id(&format!("spiffe://{}/x", "a".repeat(255))).is_ok());
        assert!(parse_id(&format!("spiffe://{}/x", "a".repeat(256))).is_err());
    }

    #[test]
    fn a_trust_domain_is_a_bare_name() {
        assert_eq!(parse_trust_domain("mesh.local").unwrap().as_str(), "mesh.local");
        for text in
            ["", "spiffe://mesh.local", "mesh.local/x", "Mesh.local", "mesh.local:80", "a b", "a@b", "ä"]
        {
            assert!(parse_trust_domain(text).is_err(), "{text:?}");
        }
    }
}
