//! Requests for an SVID (PKCS #10, RFC 2986): how we ask for one, and what we take when others ask.
//!
//! Nothing of a request goes into a certificate but its key and its SPIFFE ID; what else it may want, it does not get.

use std::fmt;

use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{Id, PKey, Private, Public},
    stack::Stack,
    x509::{X509NameBuilder, X509Req, extension::SubjectAlternativeName},
};
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::FromDer,
};

use super::{SpiffeId, SvidError, leaf::uris_in, parse_id};
use crate::trust::{ROCA, is_roca};

/// One with an RSA key of 4096 bits takes less than 2 KiB.
pub const LARGEST: usize = 16 * 1024;
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=4096;
const CURVES: [Nid; 3] = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];

/// What is asked for, by whoever has the key.
#[derive(Debug)]
pub struct Csr {
    pub id: SpiffeId,
    pub key: PKey<Public>,
}

/// Displayed it reads as the end of a sentence about the request.
#[derive(Clone, Debug, PartialEq)]
pub enum CsrError {
    TooLarge,
    Unreadable,
    /// Whoever asks does not have the key.
    BadSignature,
    WeakKey,
    BrokenKey,
    /// It wants to sign for others.
    WantsCa,
    OtherNames,
    /// About its SPIFFE ID.
    Name(SvidError),
}

/// A request for `id`, in DER.
pub(super) fn request(id: &SpiffeId, key: &PKey<Private>) -> Result<Vec<u8>, ErrorStack> {
    let mut builder = X509Req::builder()?;
    builder.set_version(0)?;
    builder.set_pubkey(key)?;
    builder.set_subject_name(&X509NameBuilder::new()?.build())?;
    let name = SubjectAlternativeName::new().uri(&id.to_string()).build(&builder.x509v3_context(None))?;
    let mut extensions = Stack::new()?;
    extensions.push(name)?;
    builder.add_extensions(&extensions)?;
    builder.sign(key, MessageDigest::sha256())?;
    builder.build().to_der()
}

/// What `der` asks for: exactly one name, a SPIFFE ID with a path, for a key that is strong and that signed this.
///
/// # Errors
///
/// The first of these rules that it breaks.
pub fn read(der: &[u8]) -> Result<Csr, CsrError> {
    if der.len() > LARGEST {
        return Err(CsrError::TooLarge);
    }
    let (rest, parsed) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Unreadable)?;
    if !rest.is_empty() {
        return Err(CsrError::Unreadable);
    }
    let id = requested_id(&parsed)?;
    let request = X509Req::from_der(der).map_err(|_| CsrError::Unreadable)?;
    let key = request.public_key().map_err(|_| CsrError::Unreadable)?;
    check_key(&key)?;
    if !request.verify(&key).unwrap_or(false) {
        return Err(CsrError::BadSignature);
    }
    Ok(Csr { id, key })
}

fn requested_id(request: &X509CertificationRequest<'_>) -> Result<SpiffeId, CsrError> {
    let attributes = request.certification_request_info.iter_attributes();
    let extensions: Vec<&X509Extension<'_>> = attributes
        .filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            _ => None,
        })
        .flatten()
        .collect();
    let mut names: Vec<&GeneralName<'_>> = Vec::new();
    for extension in extensions {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(found) => names.extend(&found.general_names),
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(CsrError::WantsCa);
            }
            _ if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME => return Err(CsrError::Unreadable),
            _ => {}
        }
    }
    let uris = uris_in(names.iter().copied()).map_err(CsrError::Name)?;
    match &uris[..] {
        [] => Err(CsrError::Name(SvidError::NoId)),
        _ if uris.len() < names.len() => Err(CsrError::OtherNames),
        [uri] => match parse_id(uri) {
            Err(why) => Err(CsrError::Name(SvidError::BadId(why))),
            Ok(id) if id.path().is_empty() => Err(CsrError::Name(SvidError::NoPath)),
            Ok(id) => Ok(id),
        },
        several => Err(CsrError::Name(SvidError::SeveralUris(several.len()))),
    }
}

/// As strong as the chains that are believed elsewhere: 112 bits of security.
fn check_key(key: &PKey<Public>) -> Result<(), CsrError> {
    let is_strong = match key.id() {
        Id::ED25519 => true,
        Id::RSA if is_roca(key) => return Err(CsrError::BrokenKey),
        Id::RSA => RSA_BITS.contains(&key.bits()),
        Id::EC => {
            let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
            curve.is_some_and(|curve| CURVES.contains(&curve))
        }
        _ => false,
    };
    if is_strong { Ok(()) } else { Err(CsrError::WeakKey) }
}

impl fmt::Display for CsrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CsrError::TooLarge => "is larger than 16 KiB",
            CsrError::Unreadable => "is no PKCS #10 in DER",
            CsrError::BadSignature => "is not signed with the key in it",
            CsrError::WeakKey => {
                "has a key that is not taken (make one on P-256, P-384, P-521 or Ed25519, or RSA of 2048 to 4096 bits)"
            }
            CsrError::BrokenKey => return write!(f, "has a key that is not taken: {ROCA}"),
            CsrError::WantsCa => "wants to be a CA, and an SVID is a leaf",
            CsrError::OtherNames => "has other names beside the SPIFFE ID, which an SVID does not get",
            CsrError::Name(why) => return why.fmt(f),
        })
    }
}

impl std::error::Error for CsrError {}

#[cfg(test)]
mod tests {
    use openssl::{
        ec::{EcGroup, EcKey},
        rsa::Rsa,
        x509::{X509Extension, extension::BasicConstraints},
    };

    use super::*;
    use crate::identity::certificates::{breakable_key, key};

    const ID: &str = "spiffe://mesh.local/payments";

    /// A request with these names and extensions, signed with `signer`.
    fn asking(names: &[&str], is_ca: bool, key: &PKey<Private>, signer: &PKey<Private>) -> Vec<u8> {
        let mut builder = X509Req::builder().unwrap();
        builder.set_pubkey(key).unwrap();
        let mut extensions: Stack<X509Extension> = Stack::new().unwrap();
        if !names.is_empty() {
            let mut san = SubjectAlternativeName::new();
            for name in names {
                match name.strip_prefix("DNS:") {
                    Some(name) => san.dns(name),
                    None => san.uri(name),
                };
            }
            extensions.push(san.build(&builder.x509v3_context(None)).unwrap()).unwrap();
        }
        if is_ca {
            extensions.push(BasicConstraints::new().ca().build().unwrap()).unwrap();
        }
        builder.add_extensions(&extensions).unwrap();
        builder.sign(signer, MessageDigest::sha256()).unwrap();
        builder.build().to_der().unwrap()
    }

    fn refused(der: &[u8]) -> CsrError {
        read(der).expect_err("it is refused")
    }

    #[test]
    fn what_we_ask_for_is_read() {
        let (id, key) = (parse_id(ID).unwrap(), key());
        let csr = read(&request(&id, &key).unwrap()).unwrap();
        assert_eq!(csr.id, id);
        assert!(csr.key.public_eq(&key));
    }

    #[test]
    fn a_request_has_one_name_and_that_is_a_spiffe_id() {
        let key = key();
        let asked = |names: &[&str]| refused(&asking(names, false, &key, &key));
        assert_eq!(asked(&[]), CsrError::Name(SvidError::NoId));
        assert_eq!(asked(&["DNS:mesh.local"]), CsrError::Name(SvidError::NoId));
        assert_eq!(asked(&[ID, "DNS:mesh.local"]), CsrError::OtherNames);
        assert_eq!(asked(&[ID, "spiffe://mesh.local/b"]), CsrError::Name(SvidError::SeveralUris(2)));
        assert_eq!(asked(&["spiffe://mesh.local"]), CsrError::Name(SvidError::NoPath));
        assert!(matches!(asked(&["https://mesh.local/a"]), CsrError::Name(SvidError::BadId(_))));
        assert_eq!(refused(&asking(&[ID], true, &key, &key)), CsrError::WantsCa);
    }

    #[test]
    fn whoever_asks_has_the_key() {
        let (own, other) = (key(), key());
        assert_eq!(refused(&asking(&[ID], false, &own, &other)), CsrError::BadSignature);
    }

    #[test]
    fn keys_are_strong() {
        let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
        let ec = |curve| {
            let group = EcGroup::from_curve_name(curve).unwrap();
            PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
        };
        for (key, expected) in [
            (rsa(2048), None),
            (ec(Nid::SECP384R1), None),
            (rsa(1024), Some(CsrError::WeakKey)),
            (ec(Nid::SECP224R1), Some(CsrError::WeakKey)),
            (ec(Nid::SECP256K1), Some(CsrError::WeakKey)),
            (breakable_key(), Some(CsrError::BrokenKey)),
        ] {
            assert_eq!(read(&asking(&[ID], false, &key, &key)).err(), expected, "{:?}", key.id());
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (id, key) = (parse_id(ID).unwrap(), key());
        let good = request(&id, &key).unwrap();
        let behind = [good.clone(), vec![0]].concat();
        for garbage in [&b""[..], b"hello", &good[..good.len() - 1], &behind] {
            assert_eq!(refused(garbage), CsrError::Unreadable);
        }
        assert_eq!(refused(&vec![0x30; 1024 * 1024]), CsrError::TooLarge);
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let mut changed = good.clone();
            let at = rng.usize(..changed.len());
            changed[at] ^= rng.u8(1..);
            assert!(read(&changed).is_err(), "byte {at}");
        }
    }
}
