//! The service as one of HTTP: what is asked, and what its answer means (forward auth).

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, SET_COOKIE},
};

use super::decision::{Allowed, Change, Decision, Edit, Undecided, undecided};
use crate::filter::{
    Exchange, Peeked, Reason, Response, builtin::headers::header_name, shared::proven::ProvenHeader,
};

pub(super) struct Http {
    pub url: Uri,
    pub asks_with_original_method: bool,
    pub request_headers: Vec<HeaderName>,
    pub response_headers: Vec<ProvenHeader>,
    pub client_headers: Vec<HeaderName>,
    pub client_headers_allowed: Vec<HeaderName>,
}

/// Whether the body is only the beginning of one. The name is Envoy's, for services that know it.
pub(super) const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// What the service learns from us, and must not learn from the client.
const ASKED: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-method"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-forwarded-for"),
];

/// The name of a field that the service may be shown.
///
/// # Errors
///
/// It is none, or says what the gateway says.
pub(super) fn asked(name: &str) -> Result<HeaderName, String> {
    let name = header_name(name)?;
    match name == HOST || name == PARTIAL || ASKED.contains(&name) {
        true => Err(format!("`{name}` is the gateway's to say")),
        false => Ok(name),
    }
}

impl Http {
    pub(super) fn question(
        &self,
        exchange: &Exchange<'_>,
        body: Option<&Peeked>,
    ) -> Result<Request<Bytes>, Reason> {
        let facts = &*exchange.facts;
        let mut question = Request::new(body.map_or_else(Bytes::new, |body| body.bytes.clone()));
        *question.method_mut() = match self.asks_with_original_method {
            false => Method::GET,
            true => exchange.request.method.clone(),
        };
        *question.uri_mut() = self.url.clone();
        let headers = question.headers_mut();
        for name in &self.request_headers {
            for value in exchange.request.headers.get_all(name) {
                headers.try_append(name, value.clone()).map_err(|_| Reason::HeaderTooLarge)?;
            }
        }
        let [method, proto, host, uri, client] = ASKED;
        let text = |text: &str| HeaderValue::from_str(text).map_err(|_| Reason::BadRequest);
        headers.insert(method, text(exchange.request.method.as_str())?);
        headers.insert(proto, HeaderValue::from_static(facts.scheme));
        if let Some(authority) = &facts.authority {
            headers.insert(host, authority.clone());
        }
        headers.insert(uri, text(&facts.target.to_string())?);
        headers.insert(client, text(&facts.client.to_canonical().to_string())?);
        if let Some(body) = body {
            headers.insert(PARTIAL, HeaderValue::from_static(if body.is_whole { "false" } else { "true" }));
        }
        Ok(question)
    }

    /// # Errors
    ///
    /// Why nothing can be told from it.
    pub(super) fn judge(&self, answer: &http::Response<Bytes>) -> Result<Decision, Undecided> {
        Ok(match answer.status() {
            status if status.is_success() => Decision::Allowed(self.allowed(answer)),
            StatusCode::FORBIDDEN => Decision::Refused(self.pass_on(answer, Reason::Forbidden)),
            // A redirect leads to where one logs in.
            StatusCode::UNAUTHORIZED
            | StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                Decision::Refused(self.pass_on(answer, Reason::Unauthenticated))
            }
            // It did not let the request in, and has nothing to say that a client should see.
            status if status.is_client_error() => Decision::Forbidden,
            status => return Err(undecided(status)),
        })
    }

    fn allowed(&self, answer: &http::Response<Bytes>) -> Allowed {
        let mut allowed = Allowed::default();
        for header in &self.response_headers {
            let values = answer.headers().get_all(header.name()).iter().map(HeaderValue::as_bytes);
            let values: Vec<&[u8]> = values.collect();
            let joined = HeaderValue::from_bytes(&values.join(&b", "[..]));
            if let (false, Ok(value)) = (values.is_empty(), joined) {
                allowed.proven.push((header.clone(), value));
            }
        }
        for name in &self.client_headers_allowed {
            let mut values = answer.headers().get_all(name).iter().peekable();
            if values.peek().is_some() && name != SET_COOKIE {
                allowed.for_client.push(Edit { name: name.clone(), change: Change::Remove });
            }
            let add = |value: &HeaderValue| Edit { name: name.clone(), change: Change::Add(value.clone()) };
            allowed.for_client.extend(values.map(add));
        }
        allowed
    }

    fn pass_on(&self, answer: &http::Response<Bytes>, reason: Reason) -> Response {
        let mut response = Response::new(answer.status());
        let names =
            self.client_headers.iter().chain(Some(&CONTENT_TYPE).filter(|_| !answer.body().is_empty()));
        for name in names {
            let values = answer.headers().get_all(name).iter();
            response.headers.extend(values.map(|value| (name.clone(), value.clone())));
        }
        response.body = answer.body().clone();
        response.reason = Some(reason);
        response
    }
}
