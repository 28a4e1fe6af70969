//! `request_id`: one identifier per request, for the upstream, the client and the access log.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    config::Path,
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, shared::spelling::take_off},
    trace,
};

/// Gives each request an identifier: the one it came with where that is believed, else a new one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RequestId {
    /// The field that carries the id.
    header: String,
    /// Whose identifiers are kept.
    accept: Accept,
    /// Also tell the client.
    respond: bool,
    /// What a new one is.
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Accept {
    /// Those of `trusted_proxies`.
    Trusted,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Value {
    /// Of version 7, so that identifiers sort by time.
    Uuid,
    /// That of the trace which the request is part of, so that both are one word. A UUID where there is none.
    TraceId,
}

impl Default for RequestId {
    fn default() -> RequestId {
        RequestId {
            header: "x-request-id".into(),
            accept: Accept::Trusted,
            respond: true,
            value: Value::Uuid,
        }
    }
}

impl Options for RequestId {
    fn build(self, at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let header = HeaderName::try_from(&self.header).map_err(|_| {
            vec![Invalid::new(at.key("header"), format!("`{}` is not a header name", self.header))]
        })?;
        Ok(Arc::new(Identify { header, accept: self.accept, respond: self.respond, value: self.value }))
    }
}

struct Identify {
    header: HeaderName,
    accept: Accept,
    respond: bool,
    value: Value,
}

impl Identify {
    fn accepts(&self, exchange: &Exchange<'_>) -> bool {
        match self.accept {
            Accept::Always => true,
            Accept::Trusted => exchange.facts.from_trusted,
            Accept::Never => false,
        }
    }

    fn believed<'a>(&self, exchange: &'a Exchange<'_>) -> Option<&'a str> {
        let field = exchange.request.headers.get(&self.header).filter(|_| self.accepts(exchange));
        let id = field?.to_str().ok()?;
        is_sane(id).then_some(id)
    }

    fn made(&self, exchange: &Exchange<'_>) -> String {
        let current = exchange.facts.trace.as_ref();
        // A context that passes untouched is the client's word.
        let may_be_trace = self.value == Value::TraceId && (current.is_some() || self.accepts(exchange));
        let trace = may_be_trace.then(|| trace::id(current, &exchange.request.headers)).flatten();
        trace.map_or_else(|| Uuid::now_v7().to_string(), |id| id.to_string())
    }

    fn write(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(id) = value(exchange) else { return Ok(()) };
        exchange.request.insert_header(self.header.clone(), id).map_err(|_| Reason::HeaderTooLarge)
    }
}

/// It goes into logs and headers as it is: short, and nothing but visible characters.
fn is_sane(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Filter for Identify {
    fn phases(&self) -> Phases {
        Phases::REQUEST | Phases::FORWARD | Phases::RESPONSE
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let id = self.believed(exchange).map_or_else(|| self.made(exchange), str::to_owned);
        exchange.facts.request_id = Some(id);
        // Filters that follow, and whom they ask, see this one and no other.
        take_off(exchange.request, &self.header);
        self.write(exchange)?;
        Ok(Flow::Continue)
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        // Once more: the client's `Connection` field may have nominated it.
        self.write(exchange)
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let id = value(exchange).filter(|_| self.respond);
        match (id, exchange.response.as_deref_mut()) {
            (Some(id), Some(response)) => {
                response.insert_header(self.header.clone(), id).map_err(|_| Reason::Internal)
            }
            _ => Ok(()),
        }
    }
}

fn value(exchange: &Exchange<'_>) -> Option<HeaderValue> {
    HeaderValue::try_from(exchange.facts.request_id.as_deref()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_identifiers_that_are_safe_to_repeat() {
        assert!(is_sane("018f-abc_DEF.7"));
        assert!(!is_sane(""));
        assert!(!is_sane("with space"));
        assert!(!is_sane("tab\t"));
        assert!(!is_sane(&"x".repeat(129)));
    }
}
