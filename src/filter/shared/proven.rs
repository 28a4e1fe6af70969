//! Header fields by which the upstream learns who the client is. It believes them, so only a filter that has proof may
//! write them, and whatever the client wrote there goes first.

use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;

use crate::filter::{Exchange, Reason, builtin::headers::header_name, shared::spelling::take_off};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProvenHeader(HeaderName);

impl ProvenHeader {
    /// # Errors
    ///
    /// It is no header's name, or that of one which is not a filter's to write.
    pub(crate) fn parse(name: &str) -> Result<ProvenHeader, String> {
        let name = header_name(name)?;
        if name == http::header::HOST {
            return Err(format!("`{name}` says where the request goes and cannot say who sent it"));
        }
        Ok(ProvenHeader(name))
    }

    pub(crate) fn name(&self) -> &HeaderName {
        &self.0
    }

    /// In `on_request`: nothing the client sent stays there, and filters that follow see the proven value, if there is
    /// one.
    ///
    /// # Errors
    ///
    /// The request has too many fields already.
    pub(crate) fn prove(
        &self,
        exchange: &mut Exchange<'_>,
        value: Option<HeaderValue>,
    ) -> Result<(), Reason> {
        take_off(exchange.request, &self.0);
        exchange.facts.proven.retain(|(name, _)| *name != self.0);
        if let Some(value) = value {
            self.write(exchange.request, value.clone())?;
            exchange.facts.proven.push((self.0.clone(), value));
        }
        Ok(())
    }

    /// In `on_forward`: what was proven, again. On its way here the request lost the fields that the client had its
    /// `Connection` field nominate, which may have been this one.
    ///
    /// # Errors
    ///
    /// The request has too many fields already.
    pub(crate) fn forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        match exchange.facts.proven.iter().find(|(name, _)| *name == self.0) {
            Some((_, value)) => self.write(exchange.request, value.clone()),
            None => Ok(()),
        }
    }

    fn write(&self, request: &mut RequestHeader, value: HeaderValue) -> Result<(), Reason> {
        request.insert_header(self.0.clone(), value).map_err(|_| Reason::HeaderTooLarge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Facts;

    fn request(headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn whatever_reads_as_the_field_is_taken_off() {
        let header = ProvenHeader::parse("X-User-Id").unwrap();
        let forged = [("x-user-id", "a"), ("X-USER-ID", "b"), ("x_user_id", "c"), ("X-User_Id", "d")];
        let mut request = request(&[&forged[..], &[("x-user-ids", "kept"), ("x-user", "kept")]].concat());
        let mut facts = Facts::default();
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        header.prove(&mut exchange, None).unwrap();
        let mut left: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user", "x-user-ids"]);
    }

    #[test]
    fn what_is_proven_stands_alone_and_reaches_the_upstream_again() {
        let header = ProvenHeader::parse("x-user").unwrap();
        let (mut request, mut facts) =
            (request(&[("x-user", "forged"), ("x_user", "forged")]), Facts::default());
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let value = HeaderValue::from_static("alice");
        header.prove(&mut exchange, Some(value.clone())).unwrap();
        assert_eq!((exchange.request.headers.len(), &exchange.request.headers["x-user"]), (1, &value));
        exchange.request.remove_header(header.name());
        header.forward(&mut exchange).unwrap();
        assert_eq!(exchange.request.headers["x-user"], "alice");
        header.prove(&mut exchange, None).unwrap();
        header.forward(&mut exchange).unwrap();
        assert!(exchange.request.headers.is_empty());
    }

    #[test]
    fn a_field_that_frames_or_directs_the_request_is_refused() {
        for name in ["content-length", "connection", "host", "no such name", ""] {
            assert!(ProvenHeader::parse(name).is_err(), "{name}");
        }
    }
}
