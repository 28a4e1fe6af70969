//! `body_limit`: fewer bytes of request body than the listener's `body_size` allows. It only ever tightens: what the
//! listener refuses has been refused before a route is known.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason};
use crate::config::{ByteSize, Path};

/// The largest request body, where that is less than the listener's `body_size`: 413 beyond.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BodyLimit(ByteSize);

impl Options for BodyLimit {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(Limit(self.0.bytes())))
    }
}

struct Limit(u64);

impl Filter for Limit {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    /// A body that announces no length is counted as it arrives, against the limit set here.
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let limit = exchange.facts.body_limit.map_or(self.0, |other| other.min(self.0));
        exchange.facts.body_limit = Some(limit);
        let length = exchange.request.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match length.is_some_and(|length| length > limit) {
            true => Err(Reason::RequestTooLarge),
            false => Ok(Flow::Continue),
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::{super::Facts, *};

    fn run(limits: &[u64], length: Option<&str>) -> (Result<Flow, Reason>, Option<u64>) {
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        if let Some(length) = length {
            request.insert_header(CONTENT_LENGTH, length).unwrap();
        }
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let mut flows = limits.iter().map(|limit| Limit(*limit).on_request(&mut exchange));
        let flow = flows.find(Result::is_err).unwrap_or(Ok(Flow::Continue));
        (flow, facts.body_limit)
    }

    #[test]
    fn refuses_what_announces_too_much() {
        assert!(run(&[10], Some("10")).0.is_ok());
        assert!(matches!(run(&[10], Some("11")).0, Err(Reason::RequestTooLarge)));
        assert!(matches!(run(&[0], Some("1")).0, Err(Reason::RequestTooLarge)));
        assert!(run(&[0], None).0.is_ok());
    }

    #[test]
    fn the_tighter_of_two_limits_holds() {
        assert_eq!(run(&[10, 20], None).1, Some(10));
        assert_eq!(run(&[20, 10], None).1, Some(10));
        assert!(run(&[10, 20], Some("11")).0.is_err());
    }
}
