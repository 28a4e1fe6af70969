//! What a token must say besides being valid, and what of it the upstream is told: options that all filters of tokens have.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    config::{Path, PathMatch},
    filter::{
        builtin::jwt::{
            claims::{ClaimPath, Policy},
            options::{Checks, OneOrMore, one_or_more},
        },
        shared::proven::ProvenHeader,
    },
    route::PathPattern,
};

/// What a token must say to be let in: else the answer is 403.
#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Require {
    /// All of these scopes.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore")]
    pub scope: Vec<String>,
    /// These claims, each with this value, or with one of these. A claim that is a list must have one of them in it.
    #[schemars(with = "BTreeMap<String, Value>")]
    claims: BTreeMap<String, Value>,
}

impl Require {
    /// `forward_claims` are to be told the upstream; `skew` is in seconds. What is wrong, `invalid` says.
    pub(crate) fn policy(
        &self,
        forward_claims: &BTreeMap<String, String>,
        skew: u64,
        at: &Path,
        invalid: &mut Checks,
    ) -> Policy {
        self.check_scopes(&at.key("require").key("scope"), invalid);
        let mut required = Vec::new();
        for (path, value) in &self.claims {
            let at = at.key("require").key("claims").key(path);
            let values = match value {
                Value::Array(values) => values.clone(),
                one => vec![one.clone()],
            };
            let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
            let wrong = values.is_empty() || !values.iter().all(plain);
            invalid.refuse_if(wrong, at.clone(), "expected text, a number, true or false, or a list of them");
            required.extend(claim(path, &at, invalid).map(|claim| (claim, values)));
        }
        let (mut forward, mut taken) = (Vec::new(), BTreeSet::new());
        for (path, header) in forward_claims {
            let at = at.key("forward_claims").key(path);
            let again = !taken.insert(header.to_ascii_lowercase());
            invalid.refuse_if(again, at.clone(), "another claim goes into this header already");
            let header = invalid.keep(&at, ProvenHeader::parse(header));
            forward.extend(claim(path, &at, invalid).zip(header));
        }
        Policy { skew, scopes: self.scope.clone(), required, forward }
    }

    fn check_scopes(&self, at: &Path, invalid: &mut Checks) {
        for (index, scope) in self.scope.iter().enumerate() {
            // RFC 6749, section 3.3.
            let is_scope = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            let wrong = scope.is_empty() || !scope.bytes().all(is_scope);
            invalid.refuse_if(
                wrong,
                at.index(index),
                "a scope is one word of ASCII, without quotes and backslashes",
            );
        }
    }
}

/// Paths that need no token.
pub(crate) fn skip(paths: &[PathMatch], at: &Path, invalid: &mut Checks) -> Vec<PathPattern> {
    let mut skip = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let pattern = match path {
            PathMatch::Exact(path) => PathPattern::exact(path),
            PathMatch::Prefix(path) => PathPattern::prefix(path),
            PathMatch::Regex(path) => PathPattern::regex(path),
            PathMatch::Template(path) => PathPattern::template(path),
        };
        skip.extend(invalid.keep(&at.index(index), pattern));
    }
    skip
}

fn claim(path: &str, at: &Path, invalid: &mut Checks) -> Option<ClaimPath> {
    invalid.keep(at, ClaimPath::new(path).ok_or("a claim has a name"))
}
