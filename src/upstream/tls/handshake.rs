//! One handshake with an endpoint, as its witness saw it. The verdict is reached within the handshake's last step. An endpoint
//! that is not trusted finds its connection dead, before anything of a request, or of HTTP/2, has been written to it; and
//! whoever wants to use a connection, a kept one too, asks here whether it was verified under the terms of today.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use openssl::{
    ssl::SslRef,
    x509::{X509, X509Ref, X509VerifyResult},
};
use pingora_core::{protocols::Digest, tls::ssl_sys};

use super::{
    Alternatives, Ids,
    terms::{Accepted, Terms},
};
use crate::{
    config::{TUNNEL_PROTOCOL, TlsVersion},
    identity::{self, SpiffeId, SvidError},
    policy::failure::Kind,
    trust,
    upstream::registry::Owners,
};

pub struct Handshake {
    terms: Arc<Terms>,
    name: Option<Arc<str>>,
    /// One of whom the endpoint must be, where that is whoever has registered it.
    owners: Option<Owners>,
    /// Empty while there was none, as on a kept connection.
    verdict: OnceLock<Result<(), Distrust>>,
    /// Whose SPIFFE ID was shown, where that is what is verified.
    met: OnceLock<Arc<str>>,
}

/// Why an endpoint with which the handshake succeeded is not trusted all the same; written for the operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Distrust {
    NoCertificate,
    /// The chain does not end at an authority that is trusted for this.
    Chain(String),
    /// It is no SVID, or none that its trust domain vouches for.
    Svid {
        expected: String,
        got: String,
        why: SvidError,
    },
    /// It is somebody else.
    Identity {
        expected: String,
        got: String,
    },
    /// It has to be whoever has registered it, and nobody is known to have.
    Unregistered,
    Version {
        got: String,
        oldest: TlsVersion,
    },
    NoHttp2,
    /// It was verified for something else, or not at all.
    Unverified,
}

/// What a connection remembers of how it was verified.
struct Verified {
    terms: [u8; 32],
    name: Option<Arc<str>>,
    owners: Option<Owners>,
}

impl Handshake {
    /// `host` is the endpoint's, as configured; `owners` have registered it.
    pub(super) fn new(terms: Arc<Terms>, host: &str, owners: &Owners) -> Handshake {
        let owners = match &terms.expects {
            Accepted::Spiffe { ids: Ids::Owners, .. } => Some(owners.clone()),
            _ => None,
        };
        let name = match &terms.expects {
            Accepted::Name(Some(name)) => Some(name.clone()),
            Accepted::Name(None) => Some(host.into()),
            Accepted::Spiffe { .. } | Accepted::OneOf(_) | Accepted::Anybody => None,
        };
        Handshake { terms, name, owners, verdict: OnceLock::new(), met: OnceLock::new() }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The name that the endpoint's certificate must bear.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What connections with this handshake may be shared by, within the upstream's `group`.
    pub fn group(&self, group: u64) -> u64 {
        self.terms.group(group, self.name(), self.owners.as_deref())
    }

    /// What this handshake, if there was one, found wrong.
    pub fn distrust(&self) -> Option<&Distrust> {
        self.verdict.get()?.as_ref().err()
    }

    /// The SPIFFE ID of who was reached, where it is by that that an endpoint is known.
    pub fn met(&self) -> Option<&Arc<str>> {
        self.met.get()
    }

    pub(super) fn shows_certificate(&self) -> bool {
        self.terms.certificate.is_some()
    }

    /// Whether there was a handshake that went well: the connection is new.
    pub(super) fn succeeded(&self) -> bool {
        matches!(self.verdict.get(), Some(Ok(())))
    }

    /// Whether the connection with this digest, new or kept, may be used for what this handshake was to reach.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn check(&self, digest: Option<&Digest>) -> Result<(), Distrust> {
        let ssl = digest.and_then(|digest| digest.ssl_digest.as_ref());
        match ssl.and_then(|ssl| ssl.extension.get::<Verified>()) {
            Some(verified) if verified.is_for(self) => Ok(()),
            _ => Err(self.distrust().cloned().unwrap_or(Distrust::Unverified)),
        }
    }

    /// For Pingora's hook at the end of the handshake.
    pub(super) fn judge(&self, ssl: &SslRef) -> Option<Arc<dyn Any + Send + Sync>> {
        let verdict = self.look_at(ssl);
        let verified = match verdict {
            Ok(()) => Some(Verified {
                terms: self.terms.fingerprint,
                name: self.name.clone(),
                owners: self.owners.clone(),
            }),
            Err(_) => {
                silence(ssl);
                None
            }
        };
        // A second connection for the same try has a verdict of its own in its digest, or none.
        let _ = self.verdict.set(verdict);
        Some(Arc::new(verified?))
    }

    fn look_at(&self, ssl: &SslRef) -> Result<(), Distrust> {
        let spoken = ssl.version_str();
        let version = match spoken {
            "TLSv1.3" => Some(TlsVersion::V1_3),
            "TLSv1.2" => Some(TlsVersion::V1_2),
            _ => None,
        };
        if version.is_none_or(|version| version < self.terms.oldest) {
            return Err(Distrust::Version { got: spoken.into(), oldest: self.terms.oldest });
        }
        if self.terms.verifies() {
            let leaf = ssl.peer_certificate().ok_or(Distrust::NoCertificate)?;
            let result = ssl.verify_result();
            if self.terms.by_openssl && result != X509VerifyResult::OK {
                return Err(Distrust::Chain(result.error_string().into()));
            }
            // Where OpenSSL has not verified the chain, `identity::verify` looks at its keys.
            let mut verified = ssl.verified_chain().into_iter().flatten();
            if trust::has_broken_key(&leaf) || verified.any(trust::has_broken_key) {
                return Err(Distrust::Chain(format!("of its chain, or of itself, {}", trust::ROCA)));
            }
            let chain = ssl.peer_cert_chain().into_iter().flatten().skip(1);
            let between: Vec<X509> = chain.map(|link| link.to_owned()).collect();
            self.identify(&leaf, &between)?;
        }
        let agreed = ssl.selected_alpn_protocol();
        // A tunnel is agreed on only where one was asked for.
        if self.terms.needs_http2 && agreed != Some(b"h2") && agreed != Some(TUNNEL_PROTOCOL) {
            return Err(Distrust::NoHttp2);
        }
        Ok(())
    }

    /// Whether the certificate is that of whom we expect.
    pub(super) fn identify(&self, leaf: &X509Ref, between: &[X509]) -> Result<(), Distrust> {
        if let Accepted::Spiffe { ids, material } = &self.terms.expects {
            let owners: &[SpiffeId] = match (ids, &self.owners) {
                (Ids::These(_), _) => &[],
                (Ids::Owners, Some(owners)) if !owners.is_empty() => owners,
                (Ids::Owners, _) => return Err(Distrust::Unregistered),
            };
            let is_expected = |id: &SpiffeId| match ids {
                Ids::These(ids) => ids.iter().any(|known| known.matches(id)),
                Ids::Owners => owners.contains(id),
            };
            let expected = || match ids {
                Ids::These(ids) => list(ids),
                Ids::Owners => list(owners),
            };
            // By the bundle of its own trust domain: OpenSSL was given those of all that are expected.
            let id = identity::verify(leaf, between, &material.bundles, SystemTime::now());
            return match id {
                Ok(id) if is_expected(&id) => {
                    let _ = self.met.set(id.to_string().into());
                    Ok(())
                }
                Ok(id) => Err(Distrust::Identity { expected: expected(), got: id.to_string() }),
                Err(why) => Err(Distrust::Svid { expected: expected(), got: names(leaf), why }),
            };
        }
        if let Accepted::OneOf(one_of) = &self.terms.expects {
            let Alternatives { uris, hosts } = one_of;
            if has_uri(leaf, uris) || hosts.iter().any(|host| bears(leaf, host)) {
                return Ok(());
            }
            let all: Vec<&str> =
                uris.iter().map(String::as_str).chain(hosts.iter().map(|host| &**host)).collect();
            return Err(Distrust::Identity { expected: all.join(" or "), got: names(leaf) });
        }
        match &self.name {
            Some(name) if !bears(leaf, name) => {
                Err(Distrust::Identity { expected: name.to_string(), got: names(leaf) })
            }
            Some(_) => Ok(()),
            None => Err(Distrust::Unverified),
        }
    }
}

impl Verified {
    fn is_for(&self, handshake: &Handshake) -> bool {
        let Verified { terms, name, owners } = self;
        *terms == handshake.terms.fingerprint && *name == handshake.name && *owners == handshake.owners
    }
}

impl Distrust {
    pub fn kind(&self) -> Kind {
        match self {
            Distrust::NoHttp2 => Kind::Unreachable,
            _ => Kind::Distrusted,
        }
    }

    /// As a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Distrust::NoCertificate | Distrust::Chain(_) | Distrust::Svid { .. } => "certificate",
            Distrust::Identity { .. } | Distrust::Unverified => "identity",
            Distrust::Unregistered => "unregistered",
            Distrust::Version { .. } => "version",
            Distrust::NoHttp2 => "protocol",
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distrust::NoCertificate => f.write_str("it shows no certificate"),
            Distrust::Chain(why) => write!(f, "its certificate is not trusted: {why}"),
            Distrust::Svid { expected, got, why } => {
                write!(f, "expected {expected}, got {got}: the certificate {why}")
            }
            Distrust::Identity { expected, got } => write!(f, "expected {expected}, got {got}"),
            Distrust::Version { got, oldest } => {
                let oldest = if *oldest == TlsVersion::V1_2 { "1.2" } else { "1.3" };
                write!(f, "it speaks {got}, and `min_version` is {oldest}")
            }
            Distrust::Unregistered => f.write_str(
                "it was registered without a SPIFFE ID, so nothing can prove that it is the right one (register it \
                 with a certificate of its own)",
            ),
            Distrust::NoHttp2 => f.write_str("it offers no HTTP/2 (set `protocol: auto` or `http1`)"),
            Distrust::Unverified => f.write_str("the connection was not verified for this"),
        }
    }
}

fn list(ids: &[impl fmt::Display]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(" or ")
}

/// The names for which a certificate was issued, for the operator.
pub(super) fn names(leaf: &X509Ref) -> String {
    const SHOWN: usize = 4;
    const NONE: &str =
        "a certificate without names (they stand in its subjectAltName; its subject does not count)";
    let Some(names) = leaf.subject_alt_names() else { return NONE.into() };
    let text = |name: &openssl::x509::GeneralNameRef| {
        let name = name.uri().or_else(|| name.dnsname())?;
        // Whatever the other end has written there must not write our log.
        Some(name.chars().filter(|c| !c.is_control()).take(256).collect::<String>())
    };
    let mut shown: Vec<String> = names.iter().filter_map(text).take(SHOWN + 1).collect();
    if shown.len() > SHOWN {
        shown[SHOWN] = "and more".into();
    }
    if shown.is_empty() { NONE.into() } else { shown.join(", ") }
}

/// Whether it was issued for one of these URIs.
fn has_uri(leaf: &X509Ref, uris: &[String]) -> bool {
    let names = leaf.subject_alt_names();
    names.iter().flatten().filter_map(|name| name.uri()).any(|uri| uris.iter().any(|known| known == uri))
}

/// Whether the certificate was issued for `name` (RFC 9525). The `openssl` crate has this only as part of verifying a chain.
fn bears(leaf: &X509Ref, name: &str) -> bool {
    /// No `f*.example.com`: browsers do not take it either.
    const FLAGS: std::ffi::c_uint =
        ssl_sys::X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | ssl_sys::X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
    // SAFETY: an `X509Ref` is what an `X509` points to, and is borrowed for the call, which does not write to it nor keep it;
    // the name's length is given, so it needs no NUL.
    let found = unsafe {
        let leaf = std::ptr::from_ref(leaf).cast_mut().cast::<ssl_sys::X509>();
        ssl_sys::X509_check_host(leaf, name.as_ptr().cast(), name.len(), FLAGS, std::ptr::null_mut())
    };
    found == 1
}

/// From here on nothing is written to this connection, and nothing read from it. Pingora's hook can only look; this is what
/// keeps it from going on to HTTP/2 and from keeping the connection for others.
fn silence(ssl: &SslRef) {
    // SAFETY: an `SslRef` is what an `SSL` points to. The handshake has returned, so nobody else uses it now; all that is
    // written are the two flags that tell reads and writes that there is nothing more to do.
    unsafe {
        let ssl = std::ptr::from_ref(ssl).cast_mut().cast::<ssl_sys::SSL>();
        ssl_sys::SSL_set_shutdown(ssl, ssl_sys::SSL_SENT_SHUTDOWN | ssl_sys::SSL_RECEIVED_SHUTDOWN);
    }
}
