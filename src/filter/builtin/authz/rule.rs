//! One rule: what must all hold of a request. A predicate that is left out is not asked; one that is written and empty
//! is refused, since a list whose entries are all commented out must not let everyone in.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{
    config::{Path, PathMatch, RouteMatch, ValueMatch, networks},
    filter::{Exchange, Invalid, builtin::ip_rules::canonical, condition},
    identity::{Claims, IdPattern},
    route,
};

/// All that is given must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RuleOptions {
    /// The caller's SPIFFE ID, by its certificate: any of these. `spiffe://mesh.local/team/*` is all below.
    #[serde(deserialize_with = "given")]
    spiffe: Option<Vec<String>>,
    /// Claims of the token that a `jwt` filter verified: each must be the value, or one of the values. A claim that is a
    /// list must hold one of them. `a.b` is `b` within `a`.
    #[serde(deserialize_with = "given")]
    claims: Option<BTreeMap<String, Value>>,
    /// Any of these; GET includes HEAD.
    #[serde(deserialize_with = "given")]
    methods: Option<Vec<String>>,
    /// The path as the client asked for it, in normal form.
    #[serde(deserialize_with = "given")]
    path: Option<PathMatch>,
    /// Header fields, all of which must be there.
    #[serde(deserialize_with = "given")]
    headers: Option<BTreeMap<String, ValueMatch>>,
    /// The client's address is in one of these networks: the connection's other end, or whom one of `trusted_proxies`
    /// names.
    #[serde(deserialize_with = "given_networks")]
    #[schemars(with = "Option<Vec<String>>")]
    ip: Option<Vec<IpNet>>,
    /// The address of the connection's other end is, whatever it says.
    #[serde(deserialize_with = "given_networks")]
    #[schemars(with = "Option<Vec<String>>")]
    peer: Option<Vec<IpNet>>,
}

/// A key with nothing after it is not the same as no key.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn given_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNet>>, D::Error> {
    networks(deserializer).map(Some)
}

impl RuleOptions {
    /// Who has this SPIFFE ID, or one below it, may do everything.
    pub(crate) fn caller(id: &str) -> RuleOptions {
        RuleOptions { spiffe: Some(vec![id.to_owned()]), ..RuleOptions::default() }
    }

    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn compile(self, at: &Path) -> Result<Rule, Vec<Invalid>> {
        let mut invalid = self.empty(at);
        let mut ids = Vec::new();
        for (index, text) in self.spiffe.iter().flatten().enumerate() {
            let parsed = IdPattern::parse(text);
            ids.extend(parsed.map_err(|why| invalid.push(Invalid::new(at.key("spiffe").index(index), why))));
        }
        let mut claims = Vec::new();
        for (name, expected) in self.claims.into_iter().flatten() {
            match ClaimPredicate::new(&name, expected) {
                Ok(claim) => claims.push(claim),
                Err(why) => invalid.push(Invalid::new(at.key("claims").key(name), why)),
            }
        }
        let matching = RouteMatch {
            path: self.path,
            methods: self.methods.unwrap_or_default(),
            headers: self.headers.unwrap_or_default(),
            ..RouteMatch::default()
        };
        let request = condition::translate(0, &matching, at);
        let canonical =
            |networks: Option<Vec<IpNet>>| networks.into_iter().flatten().map(canonical).collect();
        match request {
            Ok(request) if invalid.is_empty() => {
                Ok(Rule { ids, claims, request, ip: canonical(self.ip), peer: canonical(self.peer) })
            }
            other => {
                invalid.extend(other.err().into_iter().flatten());
                Err(invalid)
            }
        }
    }

    fn empty(&self, at: &Path) -> Vec<Invalid> {
        let given = [
            ("spiffe", self.spiffe.as_ref().map(Vec::is_empty)),
            ("claims", self.claims.as_ref().map(BTreeMap::is_empty)),
            ("methods", self.methods.as_ref().map(Vec::is_empty)),
            ("path", self.path.as_ref().map(|_| false)),
            ("headers", self.headers.as_ref().map(BTreeMap::is_empty)),
            ("ip", self.ip.as_ref().map(Vec::is_empty)),
            ("peer", self.peer.as_ref().map(Vec::is_empty)),
        ];
        if given.iter().all(|(_, is_empty)| is_empty.is_none()) {
            let why = "an empty rule matches every request (give spiffe, claims, methods, path, headers, ip or \
                 peer; what is to hold for all others is `default`)";
            return vec![Invalid::new(at.clone(), why)];
        }
        let empty = given.into_iter().filter(|(_, is_empty)| *is_empty == Some(true));
        empty
            .map(|(key, _)| {
                Invalid::new(at.key(key), format!("`{key}` is empty (name some, or leave it out)"))
            })
            .collect()
    }
}

#[derive(Debug)]
pub(crate) struct Rule {
    ids: Vec<IdPattern>,
    claims: Vec<ClaimPredicate>,
    request: route::Rule,
    ip: Vec<IpNet>,
    peer: Vec<IpNet>,
}

impl Rule {
    /// Where it asks who the caller is and nobody has proved it, it does not match.
    pub(crate) fn matches(&self, request: &route::Request<'_>, exchange: &Exchange<'_>) -> bool {
        let facts = &*exchange.facts;
        let within = |networks: &[IpNet], address: IpAddr| {
            let address = address.to_canonical();
            networks.is_empty() || networks.iter().any(|network| network.contains(&address))
        };
        let caller = || facts.caller.as_ref().and_then(|caller| caller.id.as_ref());
        within(&self.ip, facts.client)
            && within(&self.peer, facts.peer)
            && self.request.matches(request)
            && (self.ids.is_empty()
                || caller().is_some_and(|id| self.ids.iter().any(|known| known.matches(id))))
            && (self.claims.is_empty()
                || facts
                    .claims
                    .as_ref()
                    .is_some_and(|claims| self.claims.iter().all(|claim| claim.holds(claims))))
    }
}

#[derive(Debug)]
struct ClaimPredicate {
    name: String,
    /// Any of these.
    expected: Vec<Value>,
}

impl ClaimPredicate {
    fn new(name: &str, expected: Value) -> Result<ClaimPredicate, &'static str> {
        let expected = match expected {
            Value::Array(values) => values,
            value => vec![value],
        };
        if expected.is_empty() || !expected.iter().all(is_scalar) {
            return Err("a claim is compared with a text, a number, true or false, or with a list of these");
        }
        Ok(ClaimPredicate { name: name.to_owned(), expected })
    }

    fn holds(&self, claims: &Claims) -> bool {
        match find(claims, &self.name) {
            Some(Value::Array(values)) => values.iter().any(|value| self.expected.contains(value)),
            Some(value) => self.expected.contains(value),
            None => false,
        }
    }
}

fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

/// The claim of that whole name goes first: names such as `https://example.com/role` have dots of their own.
fn find<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        name.match_indices('.')
            .find_map(|(dot, _)| find(claims.get(&name[..dot])?.as_object()?, &name[dot + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(name: &str, expected: Value, claims: Value) -> bool {
        ClaimPredicate::new(name, expected).unwrap().holds(claims.as_object().unwrap())
    }

    #[test]
    fn a_claim_is_one_of_the_values_or_holds_one() {
        for (expected, claim, holding) in [
            (json!("admin"), json!("admin"), true),
            (json!("admin"), json!("Admin"), false),
            (json!("admin"), json!("admin2"), false),
            (json!("admin"), json!(["user", "admin"]), true),
            (json!("admin"), json!(["user"]), false),
            (json!("admin"), json!([["admin"]]), false),
            (json!("admin"), json!({"admin": true}), false),
            (json!("admin"), json!(null), false),
            (json!(["a", "b"]), json!("b"), true),
            (json!(["a", "b"]), json!(["c", "b"]), true),
            (json!(["a", "b"]), json!(["c"]), false),
            (json!(true), json!(true), true),
            (json!(true), json!("true"), false),
            (json!(7), json!(7), true),
            (json!("7"), json!(7), false),
        ] {
            assert_eq!(
                holds("role", expected.clone(), json!({"role": claim})),
                holding,
                "{expected} {claim}"
            );
        }
        assert!(!holds("role", json!("admin"), json!({})));
    }

    #[test]
    fn dots_lead_into_claims_and_a_whole_name_goes_first() {
        let claims = json!({
            "realm_access": {"roles": ["ops"]}, "https://example.com/role": "admin", "a": {"b.c": 1}, "x.y": 2,
            "x": {"y": 3},
        });
        for (name, expected, holding) in [
            ("realm_access.roles", json!("ops"), true),
            ("realm_access.role", json!("ops"), false),
            ("realm_access.roles.0", json!("ops"), false),
            ("https://example.com/role", json!("admin"), true),
            ("a.b.c", json!(1), true),
            ("x.y", json!(2), true),
            ("x.y", json!(3), false),
        ] {
            assert_eq!(holds(name, expected, claims.clone()), holding, "{name}");
        }
    }
}
