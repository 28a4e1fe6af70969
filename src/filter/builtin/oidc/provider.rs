//! The provider (OpenID Connect Core 1.0), as it is asked: its document, tokens for a code or a refresh token, what it says of a user.
//!
//! It is asked over the house's own client, so every question ends in time, and every answer has a bound. What cannot be understood is the
//! same as no answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::{
    config::Secret,
    fetch::{self, Change, Document, Metadata, Undiscovered},
    filter::builtin::{
        jwt::json,
        oidc::{session::text, trouble::Trouble},
    },
    observe::log::event,
};

/// RFC 3986, section 2.3: these mean the same encoded or not.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// An answer of the provider may have so many bytes.
const LARGEST: usize = 256 * 1024;
/// The document is read again after so long.
const FRESH: Duration = Duration::from_secs(3600);

pub(super) struct Provider {
    document: Arc<Document<Endpoints>>,
    client_id: String,
    client_secret: Option<Secret>,
    client: Arc<fetch::Trusting>,
    timeout: Duration,
    room: Semaphore,
    /// Of it, what logins may take.
    room_for_logins: Semaphore,
}

/// What the provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Any stranger can begin one.
    Login,
    /// Of a session that there is.
    Renewal,
}

/// Where the provider is asked for what.
pub(super) struct Endpoints {
    pub authorization: Uri,
    token: Uri,
    userinfo: Option<Uri>,
    pub end_session: Option<Uri>,
    /// Each answer names the issuer (RFC 9207), so one that does not is not the provider's.
    pub names_issuer: bool,
    /// The secret goes into the body, as the provider takes it nowhere else.
    secret_in_body: bool,
}

/// What the provider gives for a code, or for a refresh token.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub access_token: String,
    pub id_token: Option<String>,
    pub refresh_token: Option<String>,
    pub expires_in: Option<u64>,
}

impl Endpoints {
    fn read(metadata: &Metadata) -> Result<Endpoints, Undiscovered> {
        Ok(Endpoints {
            authorization: metadata.endpoint("authorization_endpoint")?,
            token: metadata.endpoint("token_endpoint")?,
            userinfo: metadata.endpoint_if_any("userinfo_endpoint")?,
            end_session: metadata.endpoint_if_any("end_session_endpoint")?,
            names_issuer: metadata.is_true("authorization_response_iss_parameter_supported"),
            secret_in_body: wants_secret_in_body(metadata),
        })
    }
}

impl Provider {
    pub(super) fn new(
        issuer: fetch::Issuer,
        client_id: String,
        client_secret: Option<Secret>,
        client: Arc<fetch::Trusting>,
        timeout: Duration,
        most: usize,
    ) -> Provider {
        Provider {
            document: Document::new(issuer, client.clone(), timeout, FRESH, Endpoints::read),
            client_id,
            client_secret,
            client,
            timeout,
            room: Semaphore::new(most),
            room_for_logins: Semaphore::new(most - most / 4),
        }
    }

    pub(super) fn issuer(&self) -> &str {
        self.document.issuer()
    }

    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// What is known without asking.
    pub(super) fn known(&self) -> Option<Arc<Endpoints>> {
        self.document.known()
    }

    /// # Errors
    ///
    /// The document cannot be read, and was not read before.
    pub(super) async fn endpoints(&self) -> Result<Arc<Endpoints>, Trouble> {
        self.follow_authorities();
        Ok(self.document.said().await?)
    }

    /// # Errors
    ///
    /// The provider does not take the code, or gives no answer that counts.
    pub(super) async fn exchange(
        &self,
        endpoints: &Endpoints,
        code: &str,
        redirect_uri: &str,
        verifier: &str,
    ) -> Result<Tokens, Trouble> {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        self.tokens(endpoints, &fields, Purpose::Login).await
    }

    /// # Errors
    ///
    /// [`Trouble::Code`]: the provider has ended the session. Or there is no answer that counts.
    pub(super) async fn refresh(
        &self,
        endpoints: &Endpoints,
        refresh_token: &str,
    ) -> Result<Tokens, Trouble> {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        self.tokens(endpoints, &fields, Purpose::Renewal).await
    }

    async fn tokens(
        &self,
        endpoints: &Endpoints,
        fields: &[(&str, &str)],
        purpose: Purpose,
    ) -> Result<Tokens, Trouble> {
        let mut request =
            Request::post(&endpoints.token).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let mut fields = fields.to_vec();
        match &self.client_secret {
            // RFC 6749, section 2.3.1.
            Some(secret) if !endpoints.secret_in_body => {
                let pair = format!("{}:{}", encoded(&self.client_id), encoded(secret.expose()));
                request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
            }
            Some(secret) => {
                fields.extend([("client_id", self.client_id.as_str()), ("client_secret", secret.expose())]);
            }
            None => fields.push(("client_id", &self.client_id)),
        }
        let answer = self.ask(request, query(&fields), purpose).await?;
        match answer.status() {
            StatusCode::OK => serde_json::from_slice(answer.body())
                .map_err(|_| Trouble::unavailable("the provider's token endpoint answers no tokens")),
            status => Err(refused(status, answer.body())),
        }
    }

    /// What the provider says of the user whose `access_token` it is: an object of JSON, in which `subject` is who was logged in.
    ///
    /// # Errors
    ///
    /// It is about somebody else (OpenID Connect Core, section 5.3.2), or there is no answer that counts.
    pub(super) async fn userinfo(
        &self,
        endpoints: &Endpoints,
        access_token: &str,
        subject: Option<&str>,
        purpose: Purpose,
    ) -> Result<Vec<u8>, Trouble> {
        let none = || {
            Trouble::unavailable("the provider's document names no userinfo_endpoint (turn `userinfo` off)")
        };
        let place = endpoints.userinfo.as_ref().ok_or_else(none)?;
        let request = Request::get(place).header(AUTHORIZATION, format!("Bearer {access_token}"));
        let answer = self.ask(request, String::new(), purpose).await?;
        if answer.status() != StatusCode::OK {
            let why =
                format!("the provider's userinfo_endpoint answers with status {}", answer.status().as_u16());
            return Err(Trouble::unavailable(why));
        }
        let claims = json::object(answer.body()).ok_or_else(|| {
            Trouble::unavailable("the provider's userinfo_endpoint answers no object of JSON")
        })?;
        match (text(&claims, "sub"), subject) {
            (Some(named), Some(subject)) if named == subject => {
                serde_json::to_vec(&claims).map_err(|_| Trouble::Internal)
            }
            _ => Err(Trouble::Subject),
        }
    }

    async fn ask(
        &self,
        request: http::request::Builder,
        body: String,
        purpose: Purpose,
    ) -> Result<http::Response<Bytes>, Trouble> {
        let full = |_| Trouble::Overloaded;
        let _room_for_logins = match purpose {
            Purpose::Login => Some(self.room_for_logins.try_acquire().map_err(full)?),
            Purpose::Renewal => None,
        };
        let _room = self.room.try_acquire().map_err(full)?;
        self.follow_authorities();
        let request = request.header(ACCEPT, "application/json").header(USER_AGENT, "tidegate");
        // What was read from the network may not fit into a header field.
        let request = request.body(Bytes::from(body)).map_err(|_| Trouble::Internal)?;
        Ok(self.client.client().send(request, self.timeout, LARGEST).await?)
    }

    fn follow_authorities(&self) {
        match self.client.look(Instant::now()) {
            None => {}
            Some(Change::Taken) => event!(Info, "oidc trusts new authorities", issuer = self.issuer()),
            Some(Change::Refused(why)) => event!(
                Warn,
                "oidc cannot read its authorities, those before stay",
                issuer = self.issuer(),
                problem = why
            ),
        }
    }
}

/// `client_secret_basic` is the default (OpenID Connect Discovery, section 3).
fn wants_secret_in_body(metadata: &Metadata) -> bool {
    let takes = |method| metadata.lists("token_endpoint_auth_methods_supported", method);
    takes("client_secret_basic") == Some(false) && takes("client_secret_post") == Some(true)
}

/// RFC 6749, section 5.2.
fn refused(status: StatusCode, body: &[u8]) -> Trouble {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    let error = serde_json::from_slice(body).map(|Refused { error }| error).unwrap_or_default();
    match (status.as_u16(), error.as_str()) {
        (400..=499, "invalid_grant") => Trouble::Code,
        (401, _) | (400..=499, "invalid_client" | "unauthorized_client") => Trouble::Client,
        _ => Trouble::unavailable(format!(
            "the provider's token endpoint answers with status {}",
            status.as_u16()
        )),
    }
}

pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// As it stands in a URL or a form.
pub(super) fn query(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A URL with these fields behind what its query has.
pub(super) fn with_query(url: &Uri, fields: &[(&str, &str)]) -> String {
    let joint = if url.query().is_some() { '&' } else { '?' };
    format!("{url}{joint}{}", query(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn logins_leave_room_for_the_renewals_of_those_who_are_logged_in() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place: Uri = format!("http://{}/token", listener.local_addr().unwrap()).parse().unwrap();
        let names = Arc::new(crate::names::SystemResolver::new());
        let client = Arc::new(fetch::Trusting::new(None, fetch::Options::default(), names).unwrap());
        let (forever, issuer) = (Duration::from_secs(1 << 20), fetch::Issuer::new("https://id.test", false));
        let provider = Provider::new(issuer.unwrap(), "shop".to_owned(), None, client, forever, 4);
        let ask = |purpose| provider.ask(Request::get(&place), String::new(), purpose);
        // The provider takes connections, and says nothing.
        let logins = async { tokio::join!(ask(Purpose::Login), ask(Purpose::Login), ask(Purpose::Login)) };
        let others = async {
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.push(listener.accept().await.unwrap());
            }
            assert_eq!(ask(Purpose::Login).await.unwrap_err(), Trouble::Overloaded);
            tokio::select! {
                renewed = ask(Purpose::Renewal) => panic!("{renewed:?}"),
                taken = listener.accept() => drop(taken.unwrap()),
            }
        };
        tokio::select! {
            asked = logins => panic!("{asked:?}"),
            () = others => {}
        }
    }

    #[test]
    fn what_is_sent_in_a_url_means_nothing_else_there() {
        let url = "https://id.test/auth?tenant=1".parse().unwrap();
        let with = with_query(&url, &[("scope", "openid a&b"), ("x", "é/?#=+~-._")]);
        assert_eq!(with, "https://id.test/auth?tenant=1&scope=openid%20a%26b&x=%C3%A9%2F%3F%23%3D%2B~-._");
    }

    #[test]
    fn a_refusal_is_told_from_a_provider_that_is_away() {
        let refused = |status, body: &str| refused(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(refused(400, r#"{"error":"invalid_grant"}"#), Trouble::Code);
        assert_eq!(refused(401, ""), Trouble::Client);
        assert_eq!(refused(400, r#"{"error":"unauthorized_client"}"#), Trouble::Client);
        for (status, body) in
            [(500, r#"{"error":"invalid_grant"}"#), (400, ""), (302, ""), (429, "{}"), (400, "[]")]
        {
            assert!(matches!(refused(status, body), Trouble::Unavailable(_)), "{status} {body}");
        }
    }
}
