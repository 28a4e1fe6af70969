//! `ip_rules`: who may come in, by address.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{Path, networks},
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason},
};

/// Lets requests in by address. `deny` wins over `allow`; with `allow`, nobody else is let in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IpRules {
    /// Networks such as `10.0.0.0/8`, or addresses. With any, only these are let in.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    allow: Vec<IpNet>,
    /// These are not let in, even where `allow` has them.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    deny: Vec<IpNet>,
    /// Whose address is looked at.
    #[serde(default)]
    by: By,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    /// The client: the connection's other end, or whom one of `trusted_proxies` names.
    #[default]
    Client,
    /// The connection's other end, whatever it says.
    Peer,
}

impl Options for IpRules {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        if self.allow.is_empty() && self.deny.is_empty() {
            let why =
                "without `allow` and `deny` everyone is let in (name networks, or leave the filter out)";
            return Err(vec![Invalid::new(at.clone(), why)]);
        }
        let canonical = |networks: Vec<IpNet>| networks.into_iter().map(canonical).collect();
        Ok(Arc::new(Rules { allow: canonical(self.allow), deny: canonical(self.deny), by: self.by }))
    }
}

/// An IPv4 network written as IPv6 (`::ffff:10.0.0.0/104`, RFC 4291, section 2.5.5.2) in the form that canonical
/// addresses are compared with.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let v4 = mapped.network().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    v4.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4)
}

struct Rules {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    by: By,
}

impl Rules {
    /// Which rule keeps it out.
    fn refusal(&self, address: IpAddr) -> Option<Cow<'static, str>> {
        let address = address.to_canonical();
        let among = |networks: &[IpNet]| networks.iter().position(|network| network.contains(&address));
        match among(&self.deny) {
            Some(index) => Some(format!("ip_rules.deny[{index}]").into()),
            None if self.allow.is_empty() || among(&self.allow).is_some() => None,
            None => Some("ip_rules.allow".into()),
        }
    }
}

impl Filter for Rules {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let address = match self.by {
            By::Client => exchange.facts.client,
            By::Peer => exchange.facts.peer,
        };
        let Some(why) = self.refusal(address) else { return Ok(Flow::Continue) };
        exchange.facts.explain(why);
        Err(Reason::Forbidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        let networks = |texts: &[&str]| texts.iter().map(|text| canonical(text.parse().unwrap())).collect();
        Rules { allow: networks(allow), deny: networks(deny), by: By::Client }
    }

    #[test]
    fn deny_wins_and_allow_shuts_out_the_rest() {
        for (allow, deny, address, expected) in [
            (&["10.0.0.0/8"][..], &[][..], "10.1.2.3", true),
            (&["10.0.0.0/8"], &[], "11.1.2.3", false),
            (&["10.0.0.0/8"], &["10.9.0.0/16"], "10.9.2.3", false),
            (&["10.9.0.0/16"], &["10.0.0.0/8"], "10.9.2.3", false),
            (&[], &["10.0.0.0/8"], "10.1.2.3", false),
            (&[], &["10.0.0.0/8"], "11.1.2.3", true),
            (&["10.0.0.0/8"], &[], "::1", false),
            (&["2001:db8::/32"], &[], "2001:db8::7", true),
        ] {
            assert_eq!(
                rules(allow, deny).refusal(address.parse().unwrap()).is_none(),
                expected,
                "{allow:?} {deny:?} {address}"
            );
        }
    }

    #[test]
    fn an_ipv4_address_is_the_same_when_mapped_into_ipv6() {
        let lets_in = |rules: Rules, address: &str| rules.refusal(address.parse().unwrap()).is_none();
        assert!(lets_in(rules(&["10.0.0.0/8"], &[]), "::ffff:10.1.2.3"));
        assert!(!lets_in(rules(&[], &["10.0.0.0/8"]), "::ffff:10.1.2.3"));
        assert!(lets_in(rules(&["::ffff:10.0.0.0/104"], &[]), "10.1.2.3"));
        assert!(!lets_in(rules(&["::ffff:10.0.0.0/104"], &[]), "11.1.2.3"));
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let why = |allow, deny| rules(allow, deny).refusal("10.9.2.3".parse().unwrap());
        assert_eq!(why(&[], &["192.0.2.0/24", "10.9.0.0/16"]).as_deref(), Some("ip_rules.deny[1]"));
        assert_eq!(why(&["192.0.2.0/24"], &[]).as_deref(), Some("ip_rules.allow"));
    }
}
