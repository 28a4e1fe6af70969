//! Decisions that are good for a while, so that the service is not asked about each request. What a decision may depend on is
//! part of what it is known by: where the request goes, who sends it, and the fields that the operator names.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderName;
use openssl::sha::Sha256;

use super::decision::Decision;
use crate::filter::{
    Exchange, Peeked,
    shared::remembered::{Digest, Remembered},
};

pub(super) struct Cache {
    by: Vec<HeaderName>,
    with_target: bool,
    ttl: Duration,
    denied_ttl: Duration,
    known: Arc<Known>,
}

/// What outlives a reload.
pub(super) struct Known {
    decisions: Remembered<Arc<Decision>>,
    began: Instant,
}

impl Known {
    pub(super) fn new(entries: usize) -> Known {
        Known { decisions: Remembered::new(entries), began: Instant::now() }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

impl Cache {
    pub(super) fn new(
        by: Vec<HeaderName>,
        with_target: bool,
        ttl: Duration,
        denied_ttl: Duration,
        known: Arc<Known>,
    ) -> Cache {
        Cache { by, with_target, ttl, denied_ttl, known }
    }

    /// Of all that a decision on this request is known by.
    pub(super) fn digest(&self, exchange: &Exchange<'_>, body: Option<&Peeked>) -> Digest {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        let facts = &*exchange.facts;
        add(facts.client.to_canonical().to_string().as_bytes());
        add(facts.caller.as_ref().map_or("", |caller| caller.hash.as_str()).as_bytes());
        if self.with_target {
            add(exchange.request.method.as_str().as_bytes());
            add(facts.scheme.as_bytes());
            add(facts.authority.as_ref().map_or(&b""[..], |authority| authority.as_bytes()));
            add(facts.target.to_string().as_bytes());
        }
        for name in &self.by {
            let values = exchange.request.headers.get_all(name);
            add(&(values.iter().count() as u64).to_le_bytes());
            values.iter().for_each(|value| add(value.as_bytes()));
        }
        if let Some(body) = body {
            add(&[u8::from(body.is_whole)]);
            add(&body.bytes);
        }
        digest.finish()
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<Arc<Decision>> {
        self.known.decisions.find(digest, self.known.now(), |_| true)
    }

    pub(super) fn keep(&self, digest: Digest, decision: &Arc<Decision>) {
        let ttl = if decision.is_allowed() { self.ttl } else { self.denied_ttl };
        if decision.is_for_all() {
            let now = self.known.now();
            let valid = now..now.saturating_add(millis(ttl));
            self.known.decisions.keep(digest, decision.clone(), valid, now, |_| false);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn cache(with_target: bool, ttl: u64, denied: u64) -> Cache {
        let by = vec![HeaderName::from_static("authorization"), HeaderName::from_static("x-tenant")];
        let [ttl, denied] = [ttl, denied].map(Duration::from_secs);
        Cache::new(by, with_target, ttl, denied, Arc::new(Known::new(100)))
    }

    fn digest(
        cache: &Cache,
        change: impl FnOnce(&mut RequestHeader, &mut Facts),
        body: Option<&str>,
    ) -> Digest {
        let mut request = RequestHeader::build("GET", b"/a", None).unwrap();
        request.insert_header("authorization", "a").unwrap();
        let mut facts = Facts { target: "/a?b=1".parse().unwrap(), ..Facts::default() };
        change(&mut request, &mut facts);
        let body = body.map(|body| Peeked { bytes: Bytes::copy_from_slice(body.as_bytes()), is_whole: true });
        cache.digest(&Exchange::new(&mut request, &mut facts), body.as_ref())
    }

    #[test]
    fn all_that_a_decision_may_depend_on_tells_requests_apart() {
        let cache = cache(true, 1, 1);
        let same = digest(&cache, |_, _| {}, None);
        assert_eq!(same, digest(&cache, |_, _| {}, None));
        let other_field = digest(&cache, |request, _| request.insert_header("x-other", "1").unwrap(), None);
        assert_eq!(same, other_field, "it is not named");
        type ChangeBy = fn(&mut RequestHeader, &mut Facts);
        let changes: [ChangeBy; 9] = [
            |request, _| request.insert_header("authorization", "b").unwrap(),
            |request, _| assert!(request.append_header("authorization", "b").unwrap()),
            |request, _| request.insert_header("x-tenant", "").unwrap(),
            |request, _| drop(request.remove_header("authorization")),
            |request, _| request.set_method(http::Method::POST),
            |_, facts| facts.target = "/a?b=2".parse().unwrap(),
            |_, facts| facts.scheme = "https",
            |_, facts| facts.authority = Some(http::HeaderValue::from_static("a.test")),
            |_, facts| facts.client = "192.0.2.7".parse().unwrap(),
        ];
        let mut seen = vec![same, digest(&cache, |_, _| {}, Some("")), digest(&cache, |_, _| {}, Some("x"))];
        seen.extend(changes.map(|change| digest(&cache, change, None)));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn one_value_of_a_field_is_not_taken_for_two() {
        let cache = cache(true, 1, 1);
        let moved = |request: &mut RequestHeader, _: &mut Facts| {
            request.remove_header("authorization");
            request.insert_header("x-tenant", "a").unwrap();
        };
        assert_ne!(digest(&cache, |_, _| {}, None), digest(&cache, moved, None));
    }

    #[test]
    fn without_the_target_a_decision_holds_wherever_the_request_goes() {
        let cache = cache(false, 1, 1);
        let elsewhere = |_: &mut RequestHeader, facts: &mut Facts| facts.target = "/b".parse().unwrap();
        assert_eq!(digest(&cache, |_, _| {}, None), digest(&cache, elsewhere, None));
    }

    #[test]
    fn refusals_are_remembered_only_where_that_is_wanted() {
        for (denied, expected) in [(0, false), (60, true)] {
            let cache = cache(true, 60, denied);
            cache.keep([7; 32], &Arc::new(Decision::Forbidden));
            assert_eq!(cache.find(&[7; 32]).is_some(), expected);
            cache.keep([8; 32], &Arc::new(Decision::Allowed(Default::default())));
            assert!(cache.find(&[8; 32]).is_some());
        }
    }
}
