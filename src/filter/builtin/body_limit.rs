//! `body_limit`: fewer bytes of request body than the listener's `body_size` allows. It only ever tightens: what the
//! listener refuses has been refused before a route is known.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{ByteSize, Path},
    filter::{BodyFlow, Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason},
    grpc::{Dialect, Messages},
};

/// The largest request body, where that is less than the listener's `body_size`: 413 beyond.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct BodyLimit(ByteSize);

impl Options for BodyLimit {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(Limit(self.0.bytes())))
    }
}

struct Limit(u64);

/// How much of a body has come.
#[derive(Default)]
struct Counted {
    bytes: u64,
    messages: Messages,
}

impl Filter for Limit {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::REQUEST_BODY
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let length = exchange.request.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match length.is_some_and(|length| length > self.0) {
            true => Err(Reason::RequestTooLarge),
            false => Ok(Flow::Continue),
        }
    }

    /// A body that announces no length is counted as it arrives. The stream of a call may go on for ever: there it is each
    /// message that may not be too large. In Base64 messages cannot be told apart, so there the whole counts.
    fn on_request_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        _is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        let is_stream = exchange
            .facts
            .grpc
            .as_ref()
            .is_some_and(|call| call.is_streamed && call.dialect != Dialect::WebText);
        if exchange.state::<Counted>(self).is_none() {
            exchange.keep(self, Counted::default());
        }
        let counted = exchange.state::<Counted>(self).ok_or(Reason::Internal)?;
        counted.bytes += data.len() as u64;
        let length = if is_stream { counted.messages.longest(data) } else { counted.bytes };
        if length > self.0 { Err(Reason::RequestTooLarge) } else { Ok(BodyFlow::Pass) }
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn run(limit: u64, length: Option<&str>, parts: &[&'static str]) -> Result<(), Reason> {
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        if let Some(length) = length {
            request.insert_header(CONTENT_LENGTH, length).unwrap();
        }
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let limit = Limit(limit);
        limit.on_request(&mut exchange)?;
        parts.iter().try_for_each(|part| {
            limit.on_request_body(&mut exchange, &mut Bytes::from_static(part.as_bytes()), false).map(drop)
        })
    }

    #[test]
    fn a_body_that_announces_too_much_is_refused_at_once() {
        assert_eq!(run(5, Some("6"), &[]), Err(Reason::RequestTooLarge));
        assert_eq!(run(5, Some("5"), &["hello"]), Ok(()));
    }

    #[test]
    fn a_body_that_announces_nothing_is_counted() {
        assert_eq!(run(5, None, &["hel", "lo"]), Ok(()));
        assert_eq!(run(5, None, &["hel", "lo!"]), Err(Reason::RequestTooLarge));
    }
}
