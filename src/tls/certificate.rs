//! A certificate, those that lead to its root, and its key: read from files and checked before anything shows it.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use openssl::{
    asn1::Asn1Time,
    pkey::{Id, PKey, Private},
    sha::sha256,
    x509::{X509, X509Ref},
};

use super::terminator::time;
use crate::{
    identity::Svid,
    trust::{ROCA, has_broken_key, is_roca},
};

/// Nothing that stands in a PEM file of ours is near this size; a device or a log may be.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// A certificate that may be shown to clients.
pub(crate) struct Certificate {
    /// Whence the chain came; `None` where it never was a file.
    pub file: Option<PathBuf>,
    /// It is our identity's, which tells itself how long it lasts.
    pub is_svid: bool,
    /// The leaf first.
    pub chain: Vec<X509>,
    pub key: PKey<Private>,
    /// The DNS names it is valid for, in lower case; some may be `*.suffix`.
    pub names: Vec<String>,
}

/// RSA, ECDSA, EdDSA: of each kind a server may have one for the same name.
pub(crate) type Kind = Id;

/// Which of the two files is to blame, and what for.
#[derive(Debug)]
pub struct Unusable {
    pub part: Part,
    pub message: String,
    pub hint: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Cert,
    Key,
}

/// What is wrong with a certificate that was issued.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub why: String,
    pub is_about_key: bool,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

impl Certificate {
    /// # Errors
    ///
    /// A file cannot be read or is no PEM, the key is another one's or can be broken, or the certificate is not valid now.
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Certificate, Unusable> {
        let in_cert = |message, hint| Unusable { part: Part::Cert, message, hint };
        let in_key = |message, hint| Unusable { part: Part::Key, message, hint };
        let pem =
            read(cert).map_err(|error| in_cert(unreadable(cert, &error), "it must exist and be readable"))?;
        let chain = chain(&pem).ok_or_else(|| {
            let message = format!("{} holds no certificate", cert.display());
            in_cert(message, "PEM is expected: -----BEGIN CERTIFICATE-----")
        })?;
        let pem =
            read(key).map_err(|error| in_key(unreadable(key, &error), "it must exist and be readable"))?;
        // A passphrase would be asked for on the terminal otherwise.
        let private = PKey::private_key_from_pem_callback(&pem, |_| Ok(0)).map_err(|_| {
            let message = format!("{} holds no private key that can be read", key.display());
            in_key(message, "PEM without a passphrase is expected: -----BEGIN PRIVATE KEY-----")
        })?;
        let leaf = &chain[0];
        if !leaf.public_key().is_ok_and(|public| public.public_eq(&private)) {
            let message = format!("{} is not the key of {}", key.display(), cert.display());
            return Err(in_key(message, "the leaf stands first in `cert`, and `key` is its own"));
        }
        if is_roca(&private) {
            return Err(in_key(format!("{} cannot be used", key.display()), ROCA));
        }
        if chain[1..].iter().any(|issuer| has_broken_key(issuer)) {
            return Err(in_cert(format!("an issuer in {} cannot be trusted", cert.display()), ROCA));
        }
        if let Some((message, hint)) = out_of_time(leaf) {
            return Err(in_cert(format!("{} {message}", cert.display()), hint));
        }
        Ok(Certificate {
            file: Some(cert.to_owned()),
            is_svid: false,
            names: names(leaf),
            chain,
            key: private,
        })
    }

    /// One that a CA has issued while the gateway runs, or that was kept from then. One that has ended is taken too: it is better
    /// than none, and whoever shows it says so.
    ///
    /// # Errors
    ///
    /// It is none, or the key is another one's or can be broken.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Certificate, Wrong> {
        let in_chain = |why: &str| Wrong { why: why.to_owned(), is_about_key: false };
        let in_key = |why: &str| Wrong { why: why.to_owned(), is_about_key: true };
        let chain = self::chain(chain).ok_or_else(|| in_chain("what was issued is no certificate in PEM"))?;
        let key = PKey::private_key_from_pem_callback(key, |_| Ok(0))
            .map_err(|_| in_key("the private key cannot be read"))?;
        if !chain[0].public_key().is_ok_and(|public| public.public_eq(&key)) {
            return Err(in_key("the certificate is for another key than ours"));
        }
        if chain.iter().any(|issuer| has_broken_key(issuer)) {
            return Err(in_chain(ROCA));
        }
        Ok(Certificate { file: None, is_svid: false, names: names(&chain[0]), chain, key })
    }

    /// For these names and for no others, of whatever kind. They are different ones.
    pub(crate) fn is_for_exactly(&self, names: &[Arc<str>]) -> bool {
        let all = self.leaf().subject_alt_names();
        let all: Vec<_> = all.iter().flatten().collect();
        let has = |name: &Arc<str>| {
            all.iter().any(|own| own.dnsname().is_some_and(|dns| dns.eq_ignore_ascii_case(name)))
        };
        all.len() == names.len() && names.iter().all(has)
    }

    /// Why not.
    pub(crate) fn not_valid_now(&self) -> Option<String> {
        out_of_time(self.leaf()).map(|(why, _)| format!("the certificate {why}"))
    }

    /// From when until when it is valid.
    pub(crate) fn life(&self) -> (SystemTime, SystemTime) {
        (time(self.leaf().not_before()), time(self.leaf().not_after()))
    }

    /// Our own.
    pub(crate) fn of(svid: &Svid) -> Certificate {
        let names = names(&svid.chain[0]);
        Certificate { file: None, is_svid: true, chain: svid.chain.clone(), key: svid.key.clone(), names }
    }

    pub(crate) fn leaf(&self) -> &X509 {
        &self.chain[0]
    }

    pub(crate) fn kind(&self) -> Kind {
        self.key.id()
    }

    /// The SHA-256 of the leaf, and of all that comes with it.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let all: Vec<u8> = self.chain.iter().flat_map(|cert| cert.to_der().unwrap_or_default()).collect();
        sha256(&all)
    }
}

/// The certificates of a PEM file; `None` when there is none, or one that cannot be read.
pub(crate) fn chain(pem: &[u8]) -> Option<Vec<X509>> {
    X509::stack_from_pem(pem).ok().filter(|chain| !chain.is_empty())
}

/// A whole file, unless it is too large to be one of ours, or no file at all: a device may never end.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut content = Vec::new();
    match file.take(MOST_BYTES + 1).read_to_end(&mut content)? as u64 {
        ..=MOST_BYTES => Ok(content),
        _ => Err(io::Error::other("it is too large to be a PEM file")),
    }
}

pub(crate) fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn out_of_time(leaf: &X509Ref) -> Option<(String, &'static str)> {
    let now = Asn1Time::days_from_now(0).ok()?;
    if leaf.not_after() < now {
        return Some((format!("has expired on {}", leaf.not_after()), "renew it"));
    }
    if leaf.not_before() > now {
        let message = format!("is not valid before {}", leaf.not_before());
        return Some((message, "is the clock of this machine right?"));
    }
    None
}

pub(crate) fn has_ended(certificate: &X509Ref) -> bool {
    Asn1Time::days_from_now(0).is_ok_and(|now| certificate.not_after() < now)
}

fn names(leaf: &X509Ref) -> Vec<String> {
    let all = leaf.subject_alt_names();
    all.iter().flatten().filter_map(|name| Some(name.dnsname()?.to_ascii_lowercase())).collect()
}

/// Those whose signature makes a client's certificate good.
///
/// # Errors
///
/// The file cannot be read, or one of its certificates is not an authority's, or has a key that can be broken.
pub(crate) fn authorities(file: &Path) -> Result<Vec<X509>, Unusable> {
    let refuse = |message, hint| Unusable { part: Part::Cert, message, hint };
    let pem =
        read(file).map_err(|error| refuse(unreadable(file, &error), "it must exist and be readable"))?;
    let authorities = chain(&pem).ok_or_else(|| {
        let message = format!("{} holds no certificate", file.display());
        refuse(message, "PEM is expected: -----BEGIN CERTIFICATE-----")
    })?;
    if authorities.iter().any(|authority| has_broken_key(authority)) {
        return Err(refuse(format!("an authority in {} cannot be trusted", file.display()), ROCA));
    }
    // One that has ended may be left there; where all have, nobody can come in.
    match authorities.iter().map(|authority| out_of_time(authority)).collect::<Option<Vec<_>>>() {
        Some(ended) => {
            let (message, hint) = ended.into_iter().next().unwrap_or_default();
            Err(refuse(
                format!("every authority in {} is out of date: the first {message}", file.display()),
                hint,
            ))
        }
        None => Ok(authorities),
    }
}
