//! The caller: what is proved of the other end of a connection, or by a token in a request.

use std::time::SystemTime;

use super::SpiffeId;

/// The owner of the certificate with which a client opened its connection. There is one only where the certificate was
/// verified against what the listener trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `None` where a certificate that is no SVID is trusted by its CA.
    pub id: Option<SpiffeId>,
    /// The end of the certificate, which a connection may outlive.
    pub until: SystemTime,
    /// The subject as RFC 2253 writes it.
    pub subject: String,
    /// The SHA-256 of the certificate in DER, in lower-case hexadecimal.
    pub hash: String,
    /// Subject alternative names of each kind, as the certificate has them.
    pub uris: Vec<String>,
    pub dns: Vec<String>,
}

impl Caller {
    /// The SPIFFE ID, else the subject, else the first name in the certificate.
    pub fn name(&self) -> &str {
        let name = match (&self.id, self.subject.as_str()) {
            // An SVID has that one URI and no other.
            (Some(_), _) => self.uris.first(),
            (None, "") => self.dns.first().or(self.uris.first()),
            (None, _) => Some(&self.subject),
        };
        name.map_or("", String::as_str)
    }
}

/// The claims of a token that was verified (RFC 7519, section 4).
pub type Claims = serde_json::Map<String, serde_json::Value>;
