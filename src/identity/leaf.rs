//! What the X509-SVID specification asks of one certificate by itself: of a leaf (sections 2 to 4 and 5.2), and of those
//! that sign (section 3.2). Whether anybody vouches for it is `verify`'s to say.
//!
//! It is read with `x509-parser`, since OpenSSL's binding shows neither the basic constraints nor which extensions could
//! not be read, and passes over a URI that is not text.

use openssl::x509::X509Ref;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{
        OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
    },
    prelude::FromDer,
};

use super::{SpiffeId, SvidError, TrustDomain, parse_id};

/// The SPIFFE ID of a leaf certificate that keeps the rules of X509-SVID: exactly one URI, which is a SPIFFE ID with a
/// path; no CA; a key usage with `digitalSignature` and without `keyCertSign` and `cRLSign`; and where there is an
/// extended key usage, one for both ends of a connection.
///
/// # Errors
///
/// The first of these rules that it breaks.
pub fn leaf_id(leaf: &X509Ref) -> Result<SpiffeId, SvidError> {
    let der = leaf.to_der().map_err(|_| SvidError::Unreadable)?;
    let leaf = parsed(&der)?;
    let id = match &uris(&leaf)?[..] {
        [] => return Err(SvidError::NoId),
        [uri] => parse_id(uri).map_err(SvidError::BadId)?,
        several => return Err(SvidError::SeveralUris(several.len())),
    };
    if id.path().is_empty() {
        return Err(SvidError::NoPath);
    }
    if is_ca(&leaf)? {
        return Err(SvidError::LeafIsCa);
    }
    match extension(&leaf, &OID_X509_EXT_KEY_USAGE)? {
        None => return Err(SvidError::NoKeyUsage),
        Some(ParsedExtension::KeyUsage(usage)) if !usage.digital_signature() => {
            return Err(SvidError::NoDigitalSignature);
        }
        Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => {
            return Err(SvidError::LeafSigns("keyCertSign"));
        }
        Some(ParsedExtension::KeyUsage(usage)) if usage.crl_sign() => {
            return Err(SvidError::LeafSigns("cRLSign"));
        }
        Some(ParsedExtension::KeyUsage(_)) => {}
        Some(_) => return Err(SvidError::Unreadable),
    }
    match extension(&leaf, &OID_X509_EXT_EXTENDED_KEY_USAGE)? {
        None => {}
        Some(ParsedExtension::ExtendedKeyUsage(usage)) if usage.any => {}
        Some(ParsedExtension::ExtendedKeyUsage(usage)) if usage.server_auth && usage.client_auth => {}
        Some(ParsedExtension::ExtendedKeyUsage(_)) => return Err(SvidError::ExtendedKeyUsage),
        Some(_) => return Err(SvidError::Unreadable),
    }
    Ok(id)
}

/// Whether a certificate between the leaf and the bundle may sign in `trust_domain`.
pub(super) fn check_signer(signer: &X509Ref, trust_domain: &TrustDomain) -> Result<(), SvidError> {
    let der = signer.to_der().map_err(|_| SvidError::Unreadable)?;
    let signer = parsed(&der)?;
    if !is_ca(&signer)? {
        return Err(SvidError::SignerIsNoCa);
    }
    match extension(&signer, &OID_X509_EXT_KEY_USAGE)? {
        Some(ParsedExtension::KeyUsage(usage)) if usage.key_cert_sign() => {}
        _ => return Err(SvidError::SignerMayNotSign),
    }
    match &uris(&signer)?[..] {
        [] => Ok(()),
        [uri] => match parse_id(uri).map_err(SvidError::BadId)? {
            id if !id.path().is_empty() => Err(SvidError::SignerHasPath),
            id if id.trust_domain() != trust_domain => Err(SvidError::ForeignSigner),
            _ => Ok(()),
        },
        several => Err(SvidError::SeveralUris(several.len())),
    }
}

/// Whether it may stand in a bundle.
pub(super) fn check_authority(authority: &X509Ref) -> Result<(), SvidError> {
    let der = authority.to_der().map_err(|_| SvidError::Unreadable)?;
    if is_ca(&parsed(&der)?)? { Ok(()) } else { Err(SvidError::AuthorityIsNoCa) }
}

/// The trust domain that a CA's certificate says it is the authority of.
///
/// # Errors
///
/// It is not a CA, or has not exactly one URI, a SPIFFE ID without a path.
pub fn authority_domain(authority: &X509Ref) -> Result<TrustDomain, SvidError> {
    check_authority(authority)?;
    let der = authority.to_der().map_err(|_| SvidError::Unreadable)?;
    match &uris(&parsed(&der)?)?[..] {
        [] => Err(SvidError::NoId),
        [uri] => match parse_id(uri).map_err(SvidError::BadId)? {
            id if id.path().is_empty() => Ok(id.trust_domain().clone()),
            _ => Err(SvidError::SignerHasPath),
        },
        several => Err(SvidError::SeveralUris(several.len())),
    }
}

fn parsed(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(SvidError::Unreadable),
    }
}

/// An extension that stands there twice would be read differently by different readers.
fn extension<'a>(
    certificate: &'a X509Certificate<'_>,
    oid: &Oid<'_>,
) -> Result<Option<&'a ParsedExtension<'a>>, SvidError> {
    let found = certificate.get_extension_unique(oid).map_err(|_| SvidError::Unreadable)?;
    Ok(found.map(|extension| extension.parsed_extension()))
}

fn is_ca(certificate: &X509Certificate<'_>) -> Result<bool, SvidError> {
    match extension(certificate, &OID_X509_EXT_BASIC_CONSTRAINTS)? {
        None => Ok(false),
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(constraints.ca),
        Some(_) => Err(SvidError::Unreadable),
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, SvidError> {
    let names = match extension(certificate, &OID_X509_EXT_SUBJECT_ALT_NAME)? {
        None => return Ok(Vec::new()),
        Some(ParsedExtension::SubjectAlternativeName(names)) => &names.general_names,
        Some(_) => return Err(SvidError::Unreadable),
    };
    uris_in(names)
}

pub(super) fn uris_in<'a>(
    names: impl IntoIterator<Item = &'a GeneralName<'a>>,
) -> Result<Vec<&'a str>, SvidError> {
    let uri = |name: &'a GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        GeneralName::Invalid(..) => Some(Err(SvidError::Unreadable)),
        _ => None,
    };
    names.into_iter().filter_map(uri).collect()
}
