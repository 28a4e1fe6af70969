//! Why a certificate is not taken for somebody's identity, in words for a log line and an operator.

use std::{error, fmt, path::PathBuf};

use openssl::error::ErrorStack;

use super::{IdError, SpiffeId, TrustDomain};

/// Displayed it reads as the end of a sentence about the certificate: "the certificate" + "has expired".
#[derive(Clone, Debug, PartialEq)]
pub enum SvidError {
    Unreadable,
    /// It has no URI among its subject alternative names.
    NoId,
    SeveralUris(usize),
    BadId(IdError),
    /// Only those that sign have a SPIFFE ID without a path.
    NoPath,
    LeafIsCa,
    NoKeyUsage,
    NoDigitalSignature,
    /// The key usage that a leaf must not have.
    LeafSigns(&'static str),
    ExtendedKeyUsage,
    NotYetValid,
    Expired,
    SignerNotYetValid,
    SignerExpired,
    /// There is no bundle for its trust domain.
    UnknownTrustDomain(TrustDomain),
    /// No authority of its own trust domain's bundle vouches for it.
    NotTrusted(TrustDomain),
    BadSignature,
    /// Its own, or that of one who signs above it.
    BrokenKey,
    PathTooLong,
    SignerIsNoCa,
    SignerMayNotSign,
    SignerHasPath,
    ForeignSigner,
    AuthorityIsNoCa,
    EmptyBundle,
    /// The private key cannot be read: it is not PEM, or it wants a passphrase.
    BadKey,
    /// The private key is another certificate's.
    KeyMismatch,
    /// What OpenSSL calls it.
    Chain(&'static str),
}

impl fmt::Display for SvidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SvidError::Unreadable => "cannot be read as a certificate with well-formed extensions",
            SvidError::NoId => "has no SPIFFE ID: there is no URI among its subject alternative names",
            SvidError::SeveralUris(count) => {
                return write!(
                    f,
                    "has {count} URIs among its subject alternative names, and an SVID has one"
                );
            }
            SvidError::BadId(why) => return write!(f, "has a URI that is not a SPIFFE ID: {why}"),
            SvidError::NoPath => "has a SPIFFE ID without a path, which only those that sign have",
            SvidError::LeafIsCa => "is a CA, and must be a leaf",
            SvidError::NoKeyUsage => "has no key usage",
            SvidError::NoDigitalSignature => "has a key usage without digitalSignature",
            SvidError::LeafSigns(usage) => {
                return write!(f, "has the key usage {usage}, which a leaf must not");
            }
            SvidError::ExtendedKeyUsage => {
                "has an extended key usage that does not allow both serverAuth and clientAuth"
            }
            SvidError::NotYetValid => "is not valid yet",
            SvidError::Expired => "has expired",
            SvidError::SignerNotYetValid => "is signed by one that is not valid yet",
            SvidError::SignerExpired => "is signed by one that has expired",
            SvidError::UnknownTrustDomain(domain) => {
                return write!(f, "is of trust domain {domain}, for which there is no bundle");
            }
            SvidError::NotTrusted(domain) => {
                return write!(f, "is not signed by an authority in the bundle of its trust domain {domain}");
            }
            SvidError::BadSignature => "has a signature that is not its issuer's",
            SvidError::BrokenKey => {
                return write!(f, "cannot be trusted: of its chain, or of itself, {}", crate::trust::ROCA);
            }
            SvidError::PathTooLong => "has more signers above it than they allow",
            SvidError::SignerIsNoCa => "is signed by one that is not a CA",
            SvidError::SignerMayNotSign => "is signed by one whose key usage lacks keyCertSign",
            SvidError::SignerHasPath => "is signed by one whose SPIFFE ID has a path",
            SvidError::ForeignSigner => "is signed by one of another trust domain",
            SvidError::AuthorityIsNoCa => "is not a CA, and only CAs stand in a bundle",
            SvidError::EmptyBundle => "holds no certificate",
            SvidError::BadKey => "has a private key that is not PEM or wants a passphrase",
            SvidError::KeyMismatch => "does not match the private key",
            SvidError::Chain(why) => return write!(f, "cannot be verified: {why}"),
        })
    }
}

impl error::Error for SvidError {}

/// Why the built-in CA cannot do what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum CaError {
    Read(PathBuf, String),
    Write(PathBuf, String),
    /// What is there is never overwritten.
    Exists(PathBuf),
    Expired,
    /// The ID asked for is not of this CA's trust domain.
    Foreign {
        id: SpiffeId,
        ours: TrustDomain,
    },
    NoPath,
    /// About its certificate.
    Certificate(SvidError),
    /// OpenSSL failed at something that cannot be wrong with what it was given.
    Internal(String),
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaError::Read(path, why) => write!(f, "cannot read {}: {why}", path.display()),
            CaError::Write(path, why) => write!(f, "cannot write {}: {why}", path.display()),
            CaError::Exists(path) => {
                write!(f, "{} exists already and is not overwritten (name another directory)", path.display())
            }
            CaError::Expired => f.write_str("the CA has expired (make a new one with `tidegate ca init`)"),
            CaError::Foreign { id, ours } => {
                write!(f, "{id} is not of this CA's trust domain (it issues spiffe://{ours}/...)")
            }
            CaError::NoPath => f.write_str("an SVID's ID has a path (try spiffe://TRUST_DOMAIN/NAME)"),
            CaError::Certificate(why) => write!(f, "the CA's certificate {why}"),
            CaError::Internal(why) => write!(f, "openssl failed: {why}"),
        }
    }
}

impl error::Error for CaError {}

impl From<SvidError> for CaError {
    fn from(error: SvidError) -> CaError {
        CaError::Certificate(error)
    }
}

impl From<ErrorStack> for CaError {
    fn from(error: ErrorStack) -> CaError {
        CaError::Internal(error.to_string())
    }
}
