//! What a token whose signature is valid must say (RFC 7519, section 4.1), and what of it is handed on.

use std::{ops::Range, sync::Arc};

use http::HeaderValue;
use serde_json::{Map, Value};

use crate::{
    filter::{
        Exchange, Reason,
        builtin::jwt::{issuers::Accepts, refusal::Refusal},
        shared::proven::ProvenHeader,
    },
    identity::Claims,
};

/// A claim by its name, or by the names that lead to it: `realm_access.roles`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimPath(String);

impl ClaimPath {
    pub(crate) fn new(path: &str) -> Option<ClaimPath> {
        (!path.is_empty()).then(|| ClaimPath(path.to_owned()))
    }

    /// The whole, and each name in it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.0.as_str()).chain(self.0.split('.'))
    }

    /// A name may have dots itself, as those that are URIs have: the whole comes first.
    pub(crate) fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        if let Some(value) = claims.get(&self.0) {
            return Some(value);
        }
        let (first, rest) = self.0.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.get(name))
    }
}

pub(crate) struct Policy {
    /// Seconds.
    pub skew: u64,
    pub scopes: Vec<String>,
    /// Each must have one of the values.
    pub required: Vec<(ClaimPath, Vec<Value>)>,
    pub forward: Vec<(ClaimPath, ProvenHeader)>,
}

/// What is known of a token that was verified.
pub(crate) struct Verified {
    claims: Arc<Claims>,
    headers: Vec<(ProvenHeader, HeaderValue)>,
    /// Else it is valid, but says too little.
    pub permitted: bool,
    /// When it need not be looked at again, in seconds since 1970: up to `exp`, without the skew.
    pub valid: Range<u64>,
}

impl Policy {
    /// `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// It is not valid now or here. That it permits too little is not an error.
    pub(crate) fn judge(
        &self,
        claims: Map<String, Value>,
        accepts: &Accepts,
        now: u64,
    ) -> Result<Verified, Refusal> {
        let exp = expiry(&claims)?.ok_or(Refusal::Expiry)?;
        self.judge_until(claims, exp, accepts, now)
    }

    /// The same of what an issuer has just said to be active: it need not say until when, and is not to be believed for longer than
    /// `most` seconds.
    ///
    /// # Errors
    ///
    /// It is not valid now or here.
    pub(crate) fn judge_active(
        &self,
        claims: Map<String, Value>,
        accepts: &Accepts,
        now: u64,
        most: u64,
    ) -> Result<Verified, Refusal> {
        let exp = expiry(&claims)?.unwrap_or(u64::MAX);
        let mut verified = self.judge_until(claims, exp, accepts, now)?;
        verified.valid.end = verified.valid.end.min(now.saturating_add(most));
        Ok(verified)
    }

    fn judge_until(
        &self,
        claims: Map<String, Value>,
        exp: u64,
        accepts: &Accepts,
        now: u64,
    ) -> Result<Verified, Refusal> {
        if now >= exp.saturating_add(self.skew) {
            return Err(Refusal::Expired);
        }
        let begin = |name: &str, malformed: Refusal| match claims.get(name) {
            None => Ok(0),
            Some(value) => date(value).map(|begin| begin.ceil() as u64).ok_or(malformed),
        };
        let from = begin("nbf", Refusal::NotYet)?.saturating_sub(self.skew);
        if now < from {
            return Err(Refusal::NotYet);
        }
        // A token from the future is forged, or by a clock that nothing else it says can be trusted with.
        let issued = begin("iat", Refusal::Issued)?.saturating_sub(self.skew);
        if now < issued {
            return Err(Refusal::Issued);
        }
        accepts.judge(&claims)?;
        let value = |(path, header): &(ClaimPath, ProvenHeader)| {
            Some((header.clone(), header_value(path.find(&claims)?)?))
        };
        Ok(Verified {
            headers: self.forward.iter().filter_map(value).collect(),
            permitted: self.permits(&claims),
            valid: from.max(issued)..exp,
            claims: Arc::new(claims),
        })
    }

    fn permits(&self, claims: &Claims) -> bool {
        // `scp` is what some issuers call it.
        let granted = claims.get("scope").or_else(|| claims.get("scp"));
        let has_scope = |wanted: &String| match granted {
            Some(Value::String(scopes)) => scopes.split(' ').any(|scope| scope == wanted),
            Some(Value::Array(scopes)) => scopes.iter().any(|scope| scope == wanted),
            _ => false,
        };
        let has_claim = |(path, values): &(ClaimPath, Vec<Value>)| match path.find(claims) {
            Some(Value::Array(found)) => found.iter().any(|value| values.contains(value)),
            Some(found) => values.contains(found),
            None => false,
        };
        self.scopes.iter().all(has_scope) && self.required.iter().all(has_claim)
    }

    /// No client says by itself what only a token may say.
    ///
    /// # Errors
    ///
    /// None, as nothing is added.
    pub(crate) fn strip(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        self.forward.iter().try_for_each(|(_, header)| header.prove(exchange, None))
    }
}

impl Verified {
    /// Tells the filters that follow, and the upstream.
    ///
    /// # Errors
    ///
    /// The request has too many fields already.
    pub(crate) fn tell(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        for (header, value) in &self.headers {
            header.prove(exchange, Some(value.clone()))?;
        }
        exchange.facts.claims = Some(self.claims.clone());
        Ok(())
    }
}

/// `None` where there is none.
fn expiry(claims: &Map<String, Value>) -> Result<Option<u64>, Refusal> {
    let read = |value: &Value| date(value).map(|exp| exp.floor() as u64).ok_or(Refusal::Expiry);
    claims.get("exp").map(read).transpose()
}

/// A `NumericDate` up to the end of the year 9999; what is beyond is no date but a mistake, or an attempt at an overflow.
fn date(value: &Value) -> Option<f64> {
    const LAST: f64 = 253_402_300_799.0;
    value.as_f64().filter(|seconds| (0.0..=LAST).contains(seconds))
}

/// `None` for what would read as something else in a header field, or as several.
pub(crate) fn header_value(claim: &Value) -> Option<HeaderValue> {
    let plain = |claim: &Value| match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    };
    let text = match claim {
        Value::Array(several) => {
            let one = |value: &Value| plain(value).filter(|text| !text.contains(','));
            several.iter().map(one).collect::<Option<Vec<_>>>()?.join(",")
        }
        one => plain(one)?,
    };
    HeaderValue::try_from(&text).ok().filter(|_| !text.is_empty() && text.trim_ascii() == text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn policy() -> Policy {
        Policy { skew: 60, scopes: Vec::new(), required: Vec::new(), forward: Vec::new() }
    }

    /// Good claims, changed by `change`; null takes one away.
    fn judge(policy: &Policy, change: Value) -> Result<Verified, Refusal> {
        let mut claims =
            json!({"exp": NOW + 100, "iat": NOW, "iss": "https://a.test", "aud": "api", "sub": "u"});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims = claims.as_object().unwrap().clone();
        let accepts = Accepts {
            issuers: vec!["https://a.test".to_owned(), "https://b.test".to_owned()],
            audiences: vec!["api".to_owned(), "web".to_owned()],
        };
        policy.judge(claims.into_iter().filter(|(_, value)| !value.is_null()).collect(), &accepts, NOW)
    }

    #[test]
    fn each_claim_is_judged() {
        for (change, expected) in [
            (json!({}), None),
            (json!({"exp": NOW - 59}), None),
            (json!({"exp": NOW as f64 + 0.5}), None),
            (json!({"nbf": NOW + 60, "iat": NOW + 60}), None),
            (json!({"iat": null}), None),
            (json!({"aud": ["x", "web"]}), None),
            (json!({"iss": "https://b.test"}), None),
            (json!({"exp": null}), Some(Refusal::Expiry)),
            (json!({"exp": (NOW + 100).to_string()}), Some(Refusal::Expiry)),
            (json!({"exp": [NOW + 100]}), Some(Refusal::Expiry)),
            (json!({"exp": true}), Some(Refusal::Expiry)),
            (json!({"exp": -1}), Some(Refusal::Expiry)),
            (json!({"exp": 1e300}), Some(Refusal::Expiry)),
            (json!({"exp": u64::MAX}), Some(Refusal::Expiry)),
            (json!({"exp": 253_402_300_800_u64}), Some(Refusal::Expiry)),
            (json!({"exp": NOW - 60}), Some(Refusal::Expired)),
            (json!({"exp": 0}), Some(Refusal::Expired)),
            (json!({"nbf": NOW + 61}), Some(Refusal::NotYet)),
            (json!({"nbf": "now"}), Some(Refusal::NotYet)),
            (json!({"nbf": u64::MAX}), Some(Refusal::NotYet)),
            (json!({"iat": NOW + 61}), Some(Refusal::Issued)),
            (json!({"iat": "1"}), Some(Refusal::Issued)),
            (json!({"iat": -1}), Some(Refusal::Issued)),
            (json!({"iss": null}), Some(Refusal::Issuer)),
            (json!({"iss": "https://a.test/"}), Some(Refusal::Issuer)),
            (json!({"iss": ["https://a.test"]}), Some(Refusal::Issuer)),
            (json!({"aud": null}), Some(Refusal::Audience)),
            (json!({"aud": "API"}), Some(Refusal::Audience)),
            (json!({"aud": []}), Some(Refusal::Audience)),
            (json!({"aud": ["api", 7]}), Some(Refusal::Audience)),
            (json!({"aud": {"api": true}}), Some(Refusal::Audience)),
        ] {
            assert_eq!(judge(&policy(), change.clone()).err(), expected, "{change}");
        }
    }

    #[test]
    fn is_remembered_up_to_its_expiry_and_not_for_the_skew_beyond() {
        let valid = |change| judge(&policy(), change).unwrap().valid;
        assert_eq!(valid(json!({})), NOW - 60..NOW + 100);
        assert_eq!(valid(json!({"exp": NOW as f64 + 99.9, "nbf": NOW as f64 + 0.1})), NOW - 59..NOW + 99);
        assert!(!valid(json!({"exp": NOW - 1})).contains(&NOW));
    }

    #[test]
    fn what_is_active_is_believed_for_a_while_and_never_beyond_its_expiry() {
        let judge = |claims: Value| {
            let claims = claims.as_object().unwrap().clone();
            policy().judge_active(claims, &Accepts::default(), NOW, 60).map(|verified| verified.valid)
        };
        assert_eq!(judge(json!({})).unwrap(), 0..NOW + 60);
        assert_eq!(judge(json!({"exp": NOW + 10})).unwrap(), 0..NOW + 10);
        assert_eq!(judge(json!({"exp": NOW + 600, "nbf": NOW})).unwrap(), NOW - 60..NOW + 60);
        assert_eq!(judge(json!({"exp": NOW - 60})).unwrap_err(), Refusal::Expired);
        assert_eq!(judge(json!({"exp": "soon"})).unwrap_err(), Refusal::Expiry);
    }

    #[test]
    fn what_is_required_must_all_be_there() {
        let required = [
            ("role", json!(["admin", "root"])),
            ("realm.groups", json!(["a"])),
            ("https://x.test/n", json!([7])),
        ];
        let required = required
            .map(|(path, values)| (ClaimPath::new(path).unwrap(), values.as_array().unwrap().clone()));
        let scopes = vec!["read".to_owned(), "write".to_owned()];
        let policy = Policy { scopes, required: required.to_vec(), ..policy() };
        let good = json!({
            "scope": "write other read", "role": "root", "realm": {"groups": ["b", "a"]}, "https://x.test/n": 7,
        });
        assert!(judge(&policy, good.clone()).unwrap().permitted);
        for (name, value, expected) in [
            ("scope", json!(["read", "write"]), true),
            ("scope", json!("read"), false),
            ("scope", json!("read writer"), false),
            ("scope", json!(null), false),
            ("role", json!(["user", "admin"]), true),
            ("role", json!("Admin"), false),
            ("role", json!({"admin": true}), false),
            ("realm", json!({"groups": "a"}), true),
            ("realm", json!({"groups": []}), false),
            ("realm", json!("a"), false),
            ("https://x.test/n", json!("7"), false),
        ] {
            let mut claims = good.clone();
            claims[name] = value.clone();
            assert_eq!(judge(&policy, claims).unwrap().permitted, expected, "{name} {value}");
        }
        let mut azure = good;
        azure["scp"] = azure["scope"].take();
        assert!(judge(&policy, azure).unwrap().permitted);
    }

    #[test]
    fn only_what_reads_as_itself_becomes_a_header() {
        for (claim, expected) in [
            (json!("u-7"), Some("u-7")),
            (json!(7), Some("7")),
            (json!(true), Some("true")),
            (json!(["a", 7]), Some("a,7")),
            (json!("a,b"), Some("a,b")),
            (json!(["a,b"]), None),
            (json!("a\r\nx-admin: 1"), None),
            (json!("a\0"), None),
            (json!(" a"), None),
            (json!(""), None),
            (json!([]), None),
            (json!(null), None),
            (json!({"a": 1}), None),
            (json!([["a"]]), None),
        ] {
            let value = header_value(&claim);
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), expected, "{claim}");
        }
    }
}
