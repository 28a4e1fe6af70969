//! The control plane that this process serves, as far as a configuration decides it: who may what, and how connections
//! begin. What is registered is the control plane's own, and no reload touches it.

use crate::{config::Secret, identity::IdPattern, snapshot::KeptTerminator};

pub struct Control {
    /// Empty: everybody may everything.
    pub(crate) rules: Vec<Rule>,
    /// How connections begin, where not in plain text.
    pub(crate) tls: Option<KeptTerminator>,
}

/// What those whom it names may do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) who: Who,
    pub(crate) register: Register,
    pub(crate) discover: Vec<ServicePattern>,
    /// Configurations that they may take, and that they may change: named as services are.
    pub(crate) join: Vec<ServicePattern>,
    pub(crate) configure: Vec<ServicePattern>,
    pub(crate) operates: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Who {
    Spiffe(Vec<IdPattern>),
    Token(Secret),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Register {
    Nothing,
    /// The service that is named as the caller's SPIFFE ID.
    Own,
    Services(Vec<ServicePattern>),
}

/// Services by their names: `*`, `*.shop` or `cart.shop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServicePattern {
    All,
    /// With the dot.
    Below(String),
    One(String),
}

impl ServicePattern {
    /// # Errors
    ///
    /// Why it matches no service.
    pub(crate) fn parse(text: &str) -> Result<ServicePattern, String> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let is_name =
            |name: &str| name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_plain));
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(ServicePattern::All),
            Some(above) if is_name(above) => Ok(ServicePattern::Below(format!(".{above}"))),
            None if is_name(text) => Ok(ServicePattern::One(text.to_owned())),
            _ => Err(format!("{text:?} is no service's name (write \"cart.shop\", \"*.shop\" or \"*\")")),
        }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            ServicePattern::All => true,
            ServicePattern::Below(above) => name.ends_with(above.as_str()),
            ServicePattern::One(one) => name == one,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_whole_labels() {
        for (pattern, name, matching) in [
            ("*", "cart.shop", true),
            ("*.shop", "cart.shop", true),
            ("*.shop", "a.b.shop", true),
            ("*.shop", "shop", false),
            ("*.shop", "cart.workshop", false),
            ("cart.shop", "cart.shop", true),
            ("cart.shop", "cart.shop2", false),
        ] {
            assert_eq!(ServicePattern::parse(pattern).unwrap().matches(name), matching, "{pattern} {name}");
        }
        for bad in ["", "*.", "**", "a*", "*.*", "Cart", "a..b", "a b", ".a"] {
            assert!(ServicePattern::parse(bad).is_err(), "{bad}");
        }
    }
}
