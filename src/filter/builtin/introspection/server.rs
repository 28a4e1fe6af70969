//! The server that knows which tokens are active: where it is, how it is asked (RFC 7662, section 2.1), and what its answer is.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value};

use crate::{
    config::Secret,
    fetch::{Document, Metadata, Trusting, Undiscovered},
    filter::builtin::jwt::json,
};

pub(super) struct Server {
    pub endpoint: Endpoint,
    pub credentials: Credentials,
    pub client: Arc<Trusting>,
    /// For an answer, and as much for finding out where to ask.
    pub timeout: Duration,
}

pub(super) enum Endpoint {
    Fixed(Uri),
    /// Its document says where.
    Found(Arc<Document<Uri>>),
}

/// Who we are to the server.
pub(super) enum Credentials {
    /// In `Authorization: Basic` (RFC 6749, section 2.3.1).
    Basic(HeaderValue),
    /// In the body, as it stands there.
    Body(String),
}

/// The document is read again after so long.
pub(super) const FRESH: Duration = Duration::from_secs(600);
/// An answer may have so many bytes.
const LARGEST: usize = 64 * 1024;
/// What stays as it is in a form.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

impl Credentials {
    /// # Errors
    ///
    /// None: what is encoded is ASCII.
    pub(super) fn basic(id: &str, secret: &Secret) -> Result<Credentials, http::header::InvalidHeaderValue> {
        let pair = format!("{}:{}", encoded(id.as_bytes()), encoded(secret.expose().as_bytes()));
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))?;
        value.set_sensitive(true);
        Ok(Credentials::Basic(value))
    }

    pub(super) fn body(id: &str, secret: &Secret) -> Credentials {
        let (id, secret) = (encoded(id.as_bytes()), encoded(secret.expose().as_bytes()));
        Credentials::Body(format!("&client_id={id}&client_secret={secret}"))
    }
}

impl Server {
    /// What the server says of this token.
    ///
    /// # Errors
    ///
    /// Why it says nothing. It is never a word of the token or of the credentials.
    pub(super) async fn ask(&self, token: &[u8]) -> Result<Map<String, Value>, String> {
        let client = self.client.client();
        let url = self.url().await?;
        let answer = client.send(self.question(url, token)?, self.timeout, LARGEST).await;
        let answer = answer.map_err(|why| why.to_string())?;
        match answer.status() {
            StatusCode::OK => json::object(answer.body())
                .ok_or_else(|| "its answer is no object of JSON, or a name stands twice in it".to_owned()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(format!(
                "it answered {}: `client_id` and `client_secret` are not those of a client that may ask",
                status.as_u16()
            )),
            status => Err(format!("it answered {}", status.as_u16())),
        }
    }

    fn question(&self, url: Uri, token: &[u8]) -> Result<Request<Bytes>, String> {
        let mut form = format!("token={}&token_type_hint=access_token", encoded(token));
        let mut question = Request::post(url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(USER_AGENT, "tidegate");
        match &self.credentials {
            Credentials::Basic(value) => question = question.header(AUTHORIZATION, value.clone()),
            Credentials::Body(more) => form += more,
        }
        question.body(form.into()).map_err(|error| error.to_string())
    }

    async fn url(&self) -> Result<Uri, String> {
        match &self.endpoint {
            Endpoint::Fixed(url) => Ok(url.clone()),
            Endpoint::Found(document) => {
                let said = document.said().await;
                said.map(|url| Uri::clone(&url)).map_err(|undiscovered| undiscovered.why)
            }
        }
    }
}

/// What the issuer's document says of it.
pub(super) fn place(document: &Metadata) -> Result<Uri, Undiscovered> {
    document.endpoint("introspection_endpoint")
}

fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, FORM).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_before_they_are_joined() {
        let secret: Secret = serde_json::from_value("p:&ä %".into()).unwrap();
        let Ok(Credentials::Basic(value)) = Credentials::basic("a:b", &secret) else { panic!() };
        assert_eq!(value, format!("Basic {}", STANDARD.encode("a%3Ab:p%3A%26%C3%A4%20%25")));
        assert!(value.is_sensitive());
        let Credentials::Body(more) = Credentials::body("a:b", &secret) else { panic!() };
        assert_eq!(more, "&client_id=a%3Ab&client_secret=p%3A%26%C3%A4%20%25");
    }
}
