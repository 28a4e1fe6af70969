//! `grpc_web`: gRPC for browsers, which see no trailers. Requests of gRPC-Web go on as gRPC; what comes back has its
//! trailers in the body.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::Path,
    filter::{BodyFlow, Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason},
    grpc::{self, Call, Dialect, web},
};

/// Translate gRPC-Web, binary and text, to gRPC and back. Other requests pass as they are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcWeb {}

impl Options for GrpcWeb {
    fn build(self, _at: &Path, _live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        Ok(Arc::new(Translate))
    }
}

struct Translate;

impl Filter for Translate {
    fn phases(&self) -> Phases {
        Phases::REQUEST
            | Phases::FORWARD
            | Phases::RESPONSE
            | Phases::REQUEST_BODY
            | Phases::RESPONSE_BODY
            | Phases::RESPONSE_TRAILERS
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let request = &*exchange.request;
        if request.method == Method::POST
            && let Some(dialect) = web::dialect(&request.headers)
        {
            exchange.facts.grpc = Some(Call::new(dialect, &request.headers));
        }
        Ok(Flow::Continue)
    }

    fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        let Some(dialect) = spoken(exchange) else { return Ok(()) };
        let request = &mut *exchange.request;
        let content_type = web::to_grpc(request.headers.get(header::CONTENT_TYPE));
        if dialect == Dialect::WebText {
            // That of the Base64.
            request.remove_header(&header::CONTENT_LENGTH);
        }
        let fields =
            [(header::CONTENT_TYPE, content_type), (header::TE, HeaderValue::from_static("trailers"))];
        for (name, value) in fields {
            request.insert_header(name, value).map_err(|_| Reason::HeaderTooLarge)?;
        }
        Ok(())
    }

    fn on_response(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        // That of a response that is not sent after all.
        exchange.forget::<Translated>(self);
        let Some(dialect) = spoken(exchange) else { return Ok(()) };
        let Some(response) = exchange.response.as_deref_mut() else { return Ok(()) };
        let is_told = response.headers.contains_key(&grpc::STATUS);
        expose_status(response, exchange.facts.grpc.as_ref())?;
        let content_type = response.headers.get(header::CONTENT_TYPE);
        // What is no gRPC, such as the page of another proxy, passes as it is.
        let Some(content_type) = content_type.and_then(|found| web::from_grpc(found, dialect)) else {
            return Ok(());
        };
        response.insert_header(header::CONTENT_TYPE, content_type).map_err(|_| Reason::Internal)?;
        if is_told {
            return Ok(());
        }
        response.remove_header(&header::CONTENT_LENGTH);
        exchange.keep(self, Translated(dialect));
        Ok(())
    }

    fn on_request_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        if spoken(exchange) != Some(Dialect::WebText) {
            return Ok(BodyFlow::Pass);
        }
        if exchange.state::<web::Decoder>(self).is_none() {
            exchange.keep(self, web::Decoder::default());
        }
        let decoder = exchange.state::<web::Decoder>(self).ok_or(Reason::Internal)?;
        *data = decoder.decode(data, is_last).map_err(|_| Reason::BadRequest)?;
        Ok(BodyFlow::Pass)
    }

    fn on_response_body(
        &self,
        exchange: &mut Exchange<'_>,
        data: &mut Bytes,
        _is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        if let Some(Translated(Dialect::WebText)) = exchange.state(self) {
            *data = web::encode(data);
        }
        Ok(BodyFlow::Pass)
    }

    /// They are the last frame of the body.
    fn on_response_trailers(
        &self,
        exchange: &mut Exchange<'_>,
        trailers: &mut HeaderMap,
    ) -> Result<Bytes, Reason> {
        let Some(Translated(dialect)) = exchange.state(self) else { return Ok(Bytes::new()) };
        Ok(web::trailers(&std::mem::take(trailers), *dialect))
    }
}

/// The response is gRPC, and goes out as gRPC-Web of this kind.
struct Translated(Dialect);

/// How the client speaks gRPC-Web, where it does.
fn spoken(exchange: &Exchange<'_>) -> Option<Dialect> {
    let dialect = exchange.facts.grpc.as_ref()?.dialect;
    (dialect != Dialect::Http2).then_some(dialect)
}

/// A call that failed at once has its status in the header, which a page of another origin sees where it is named: once,
/// whichever filter comes first.
pub(in crate::filter) fn expose_status(
    response: &mut ResponseHeader,
    call: Option<&Call>,
) -> Result<(), Reason> {
    let exposed = header::ACCESS_CONTROL_EXPOSE_HEADERS;
    if call.is_none_or(|call| call.dialect == Dialect::Http2)
        || !response.headers.contains_key(&grpc::STATUS)
        || !response.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        || crate::http::has_token(&response.headers, &exposed, grpc::STATUS.as_str())
    {
        return Ok(());
    }
    let names = HeaderValue::from_static("grpc-status, grpc-message");
    response.append_header(exposed, names).map(drop).map_err(|_| Reason::Internal)
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn request(content_type: &str) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/a.B/C", None).unwrap();
        request.insert_header("content-type", content_type).unwrap();
        request.insert_header("content-length", "8").unwrap();
        request
    }

    struct Seen {
        forwarded: RequestHeader,
        response: ResponseHeader,
        facts: Facts,
        encodes: bool,
    }

    impl Seen {
        fn response(&self, name: &str) -> Option<&str> {
            self.response.headers.get(name).map(|value| value.to_str().unwrap())
        }

        fn forwarded(&self, name: &str) -> Option<&str> {
            self.forwarded.headers.get(name).map(|value| value.to_str().unwrap())
        }
    }

    fn run(content_type: &str, answer: &[(&'static str, &str)]) -> Seen {
        let translate = Translate;
        let (mut received, mut facts) = (request(content_type), Facts::default());
        let mut forwarded = received.clone();
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in answer {
            response.append_header(*name, *value).unwrap();
        }
        let mut exchange = Exchange { request: &mut received, response: None, facts: &mut facts };
        translate.on_request(&mut exchange).unwrap();
        let mut exchange = Exchange { request: &mut forwarded, response: None, facts: &mut facts };
        translate.on_forward(&mut exchange).unwrap();
        let mut exchange =
            Exchange { request: &mut received, response: Some(&mut response), facts: &mut facts };
        translate.on_response(&mut exchange).unwrap();
        let mut data = Bytes::from_static(b"text");
        translate.on_response_body(&mut exchange, &mut data, false).unwrap();
        Seen { forwarded, response, facts, encodes: data != "text" }
    }

    const PROTO: (&str, &str) = ("content-type", "application/grpc+proto");

    #[test]
    fn a_request_goes_on_as_grpc() {
        for (content_type, length) in
            [("application/grpc-web+proto", Some("8")), ("application/grpc-web-text+proto", None)]
        {
            let seen = run(content_type, &[PROTO, ("content-length", "5")]);
            assert_eq!(seen.forwarded("content-type"), Some("application/grpc+proto"));
            assert_eq!(seen.forwarded("te"), Some("trailers"));
            assert_eq!(seen.forwarded("content-length"), length);
            assert_eq!(seen.response("content-type"), Some(content_type));
            assert_eq!(seen.response("content-length"), None);
            assert_eq!(seen.encodes, length.is_none());
        }
    }

    #[test]
    fn other_requests_pass_as_they_are() {
        for content_type in ["application/grpc+proto", "application/json"] {
            let seen = run(content_type, &[("content-type", "application/json"), ("content-length", "5")]);
            assert_eq!(seen.forwarded.headers, request(content_type).headers);
            assert_eq!(seen.response("content-length"), Some("5"));
            assert!(!seen.encodes && seen.facts.grpc.is_none());
        }
    }

    #[test]
    fn an_answer_that_is_no_grpc_passes_as_it_is() {
        let seen =
            run("application/grpc-web-text", &[("content-type", "text/html"), ("content-length", "5")]);
        assert_eq!(
            (seen.response("content-type"), seen.response("content-length")),
            (Some("text/html"), Some("5"))
        );
        assert!(!seen.encodes);
    }

    #[test]
    fn a_status_in_the_header_is_shown_to_pages_of_other_origins() {
        let told = [PROTO, ("grpc-status", "5"), ("access-control-allow-origin", "*")];
        let seen = run("application/grpc-web-text", &told);
        assert_eq!(seen.response("access-control-expose-headers"), Some("grpc-status, grpc-message"));
        assert!(!seen.encodes);
        assert_eq!(run("application/grpc-web", &told[..2]).response("access-control-expose-headers"), None);
    }
}
