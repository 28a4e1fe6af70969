//! The built-in CA: one directory that vouches for one trust domain, for those who run no SPIRE.
//!
//! `ca.pem` holds the signing certificate first, and then those that are trusted besides, such as the one it follows;
//! `ca.key` its key. Every certificate is made by OpenSSL: ECDSA on P-256, a random serial, the extensions that
//! X509-SVID asks for and no others.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{HasPublic, PKey, PKeyRef, Private},
    sha::sha256,
    x509::{
        X509, X509Builder, X509Name, X509NameBuilder,
        extension::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
            SubjectKeyIdentifier,
        },
    },
};

use super::{
    Bundle, CaError, SpiffeId, Svid, SvidError, TrustDomain, authority_domain, files,
    svid::{private_key, system_time},
};

pub const CERTIFICATE: &str = "ca.pem";
pub const KEY: &str = "ca.key";

/// Clocks of those who verify may be behind by this much.
const SKEW: Duration = Duration::from_secs(60);
/// What an RFC 5280 name attribute holds at most.
const LONGEST_NAME: usize = 64;

/// A CA with its key.
pub struct Authority {
    pub trust_domain: TrustDomain,
    pub certificate: X509,
    pub not_after: SystemTime,
    /// Trusted besides, and without a key here.
    others: Vec<X509>,
    key: PKey<Private>,
}

impl Authority {
    /// A new CA, valid from `now` for `ttl`.
    ///
    /// # Errors
    ///
    /// OpenSSL has no randomness to give.
    pub fn new(trust_domain: TrustDomain, ttl: Duration, now: SystemTime) -> Result<Authority, CaError> {
        let key = new_key()?;
        let serial = new_serial()?;
        // Two CAs of one trust domain have different names, so that a chain leads to one of them.
        let number = serial.to_bn()?.to_hex_str()?.to_string();
        let subject =
            name(&[(Nid::ORGANIZATIONNAME, "Tidegate"), (Nid::COMMONNAME, "CA"), (SERIAL, &number)])?;
        let not_after = seconds(now + ttl);
        let mut builder = certificate(&serial, &subject, &subject, &key, (seconds(now - SKEW), not_after))?;
        builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        let context = builder.x509v3_context(None, None);
        let own = SubjectKeyIdentifier::new().build(&context)?;
        let id = SubjectAlternativeName::new().uri(&trust_domain.id_string()).build(&context)?;
        builder.append_extension(own)?;
        builder.append_extension(id)?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        let not_after = system_time(certificate.not_after());
        Ok(Authority { trust_domain, certificate, not_after, others: Vec::new(), key })
    }

    /// The CA kept in `directory`.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or they do not belong together.
    pub fn open(directory: &Path) -> Result<Authority, CaError> {
        let file = |name| {
            let path = directory.join(name);
            files::read(&path).map_err(|why| CaError::Read(path, why))
        };
        let (certificates, key) = (file(CERTIFICATE)?, file(KEY)?);
        let mut certificates = X509::stack_from_pem(&certificates).map_err(|_| SvidError::Unreadable)?;
        if certificates.is_empty() {
            return Err(SvidError::EmptyBundle.into());
        }
        let others = certificates.split_off(1);
        let certificate = certificates.swap_remove(0);
        let key = private_key(&key)?;
        if !certificate.public_key()?.public_eq(&key) {
            return Err(SvidError::KeyMismatch.into());
        }
        let trust_domain = authority_domain(&certificate)?;
        let not_after = system_time(certificate.not_after());
        Ok(Authority { trust_domain, certificate, not_after, others, key })
    }

    /// Keep it in `directory`, which is made when it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be written, or one is there already.
    pub fn write_to(&self, directory: &Path) -> Result<(), CaError> {
        files::create(
            directory,
            0o700,
            &[
                (KEY, &self.key.private_key_to_pem_pkcs8()?, 0o600),
                (CERTIFICATE, &self.certificate.to_pem()?, 0o644),
            ],
        )
    }

    /// A new SVID for `id`, valid from `now` for `ttl`, or as long as this CA is, whichever is shorter.
    ///
    /// # Errors
    ///
    /// `id` is of another trust domain or has no path; this CA is not valid at `now`.
    pub fn issue(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Svid, CaError> {
        let key = new_key()?;
        Ok(Svid::new(vec![self.sign(id, &key, ttl, now)?], key)?)
    }

    /// The same for a key that is somebody else's.
    ///
    /// # Errors
    ///
    /// As of [`Authority::issue`].
    pub fn sign<T: HasPublic>(
        &self,
        id: &SpiffeId,
        key: &PKeyRef<T>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<X509, CaError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(CaError::Foreign { id: id.clone(), ours: self.trust_domain.clone() });
        }
        if id.path().is_empty() {
            return Err(CaError::NoPath);
        }
        if now >= self.not_after {
            return Err(CaError::Expired);
        }
        let not_before = system_time(self.certificate.not_before());
        let valid = (seconds((now - SKEW).max(not_before)), seconds((now + ttl).min(self.not_after)));
        let path = id.path().trim_start_matches('/');
        // The end says more than the start. It is ASCII, whatever was asked for.
        let common = &path[path.len().saturating_sub(LONGEST_NAME)..];
        let subject = name(&[(Nid::ORGANIZATIONNAME, "Tidegate"), (Nid::COMMONNAME, common)])?;
        let mut builder = certificate(&new_serial()?, &subject, self.certificate.subject_name(), key, valid)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
        builder.append_extension(ExtendedKeyUsage::new().server_auth().client_auth().build()?)?;
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let own = SubjectKeyIdentifier::new().build(&context)?;
        let id = SubjectAlternativeName::new().uri(&id.to_string()).build(&context)?;
        builder.append_extension(own)?;
        builder.append_extension(id)?;
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let issuer = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        builder.append_extension(issuer)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(builder.build())
    }

    /// SHA-256 of its certificate, by which it is known to those who have nothing else.
    ///
    /// # Errors
    ///
    /// OpenSSL cannot write it.
    pub fn fingerprint(&self) -> Result<[u8; 32], CaError> {
        Ok(sha256(&self.certificate.to_der()?))
    }

    /// What those who verify need: itself, and what is trusted besides.
    ///
    /// # Errors
    ///
    /// What is trusted besides is not a CA.
    pub fn bundle(&self) -> Result<Bundle, SvidError> {
        let all = std::iter::once(&self.certificate).chain(&self.others).cloned();
        Bundle::new(self.trust_domain.clone(), all.collect())
    }
}

/// `svid.pem`, `svid.key` and `bundle.pem` in `directory`, which is made when it is not there.
///
/// # Errors
///
/// They cannot be written, or one is there already.
pub fn write_svid(svid: &Svid, bundle: &Bundle, directory: &Path) -> Result<(), CaError> {
    let pem = |all: &[X509]| -> Result<Vec<u8>, ErrorStack> {
        Ok(all.iter().map(|one| one.to_pem()).collect::<Result<Vec<_>, _>>()?.concat())
    };
    files::create(
        directory,
        0o755,
        &[
            ("svid.key", &svid.key.private_key_to_pem_pkcs8()?, 0o600),
            ("svid.pem", &pem(&svid.chain)?, 0o644),
            ("bundle.pem", &pem(&bundle.authorities)?, 0o644),
        ],
    )
}

/// `serialNumber` as an attribute of a name (X.520), not the certificate's own.
const SERIAL: Nid = Nid::SERIALNUMBER;

pub(super) fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// 158 random bits: positive, and 20 bytes at most (RFC 5280, section 4.1.2.2).
fn new_serial() -> Result<Asn1Integer, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(159, MsbOption::ONE, false)?;
    serial.to_asn1_integer()
}

fn name(entries: &[(Nid, &str)]) -> Result<X509Name, ErrorStack> {
    let mut name = X509NameBuilder::new()?;
    for (attribute, value) in entries {
        name.append_entry_by_nid(*attribute, value)?;
    }
    Ok(name.build())
}

fn certificate<T: HasPublic>(
    serial: &Asn1Integer,
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKeyRef<T>,
    (not_before, not_after): (i64, i64),
) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(serial)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&*Asn1Time::from_unix(not_before)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(not_after)?)?;
    Ok(builder)
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}
