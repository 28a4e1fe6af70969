//! Certificates made to order, well-formed or not, with OpenSSL. Read by the unit tests too, so it needs nothing but
//! `openssl` and `std`.
#![allow(dead_code, reason = "unit and integration tests each use a part")]

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, BigNumContext, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{HasPublic, PKey, Private, Public},
    rsa::{Rsa, RsaPrivateKeyBuilder},
    x509::{
        CrlNumber, X509, X509Builder, X509CrlBuilder, X509Name, X509NameBuilder, X509NameRef,
        X509RevokedBuilder,
        extension::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
            SubjectKeyIdentifier,
        },
    },
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// What a certificate is to say; start from [`svid`] or [`signer`] and change what matters.
#[derive(Clone)]
pub(crate) struct Order {
    pub subject: String,
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub ips: Vec<String>,
    /// A CA, with its path length.
    pub ca: Option<Option<u32>>,
    /// As in `openssl.cnf`; none leaves the extension out.
    pub key_usage: Option<Vec<&'static str>>,
    pub extended_key_usage: Option<Vec<&'static str>>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// None is a new one.
    pub key: Option<PKey<Private>>,
}

/// A good SVID, valid from an hour ago for two.
pub(crate) fn svid(id: &str) -> Order {
    let now = SystemTime::now();
    Order {
        subject: "svid".into(),
        uris: vec![id.into()],
        dns: Vec::new(),
        ips: Vec::new(),
        ca: None,
        key_usage: Some(vec!["digitalSignature"]),
        extended_key_usage: Some(vec!["serverAuth", "clientAuth"]),
        not_before: now - HOUR,
        not_after: now + HOUR,
        key: None,
    }
}

/// A certificate of a web server with these names.
pub(crate) fn server(names: &[&str]) -> Order {
    let dns = names.iter().map(|name| (*name).to_owned()).collect();
    Order {
        subject: names.first().copied().unwrap_or("server").to_owned(),
        dns,
        uris: Vec::new(),
        ..svid("")
    }
}

/// A good signing certificate of a trust domain.
pub(crate) fn signer(trust_domain: &str) -> Order {
    Order {
        subject: format!("{trust_domain} signer"),
        ca: Some(None),
        key_usage: Some(vec!["keyCertSign", "cRLSign"]),
        extended_key_usage: None,
        ..svid(&format!("spiffe://{trust_domain}"))
    }
}

#[derive(Clone)]
pub(crate) struct Issued {
    pub certificate: X509,
    pub key: PKey<Private>,
}

/// A self-signed authority for a trust domain.
pub(crate) fn authority(trust_domain: &str) -> Issued {
    self_signed(&Order { subject: format!("{trust_domain} root"), ..signer(trust_domain) })
}

pub(crate) fn self_signed(order: &Order) -> Issued {
    make(order, None)
}

impl Issued {
    pub(crate) fn issue(&self, order: &Order) -> Issued {
        make(order, Some(self))
    }

    /// For somebody else's key.
    pub(crate) fn issue_for(&self, order: &Order, key: &PKey<Public>) -> X509 {
        made_for(order, key, self.certificate.subject_name(), &self.key, Some(self))
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    pub(crate) fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    /// Its list of those it has revoked, in PEM, to be followed by the next in so long.
    pub(crate) fn crl(&self, revoked: &[&Issued], next: Duration) -> Vec<u8> {
        self.crl_until(revoked, SystemTime::now() + next)
    }

    pub(crate) fn crl_that_has_run_out(&self) -> Vec<u8> {
        self.crl_until(&[], SystemTime::now() - HOUR / 2)
    }

    pub(crate) fn crl_until(&self, revoked: &[&Issued], next: SystemTime) -> Vec<u8> {
        self.crl_of(revoked, SystemTime::now() - HOUR, next)
    }

    /// One that is valid, but was issued before all others.
    pub(crate) fn crl_of_yesterday(&self) -> Vec<u8> {
        self.crl_of(&[], SystemTime::now() - HOUR * 24, SystemTime::now() + HOUR)
    }

    fn crl_of(&self, revoked: &[&Issued], last: SystemTime, next: SystemTime) -> Vec<u8> {
        let mut builder = X509CrlBuilder::new().unwrap();
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        builder.set_last_update(&asn1(last)).unwrap();
        builder.set_next_update(&asn1(next)).unwrap();
        let blank = X509::builder().unwrap();
        let context = blank.x509v3_context(Some(&self.certificate), None);
        let own = AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap();
        builder.append_extension(own).unwrap();
        let number = CrlNumber::new(BigNum::from_u32(1).unwrap()).unwrap().build().unwrap();
        builder.append_extension(number).unwrap();
        for issued in revoked {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(issued.certificate.serial_number()).unwrap();
            entry.set_revocation_date(&asn1(SystemTime::now() - HOUR)).unwrap();
            builder.add_revoked(entry.build()).unwrap();
        }
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().unwrap().to_pem().unwrap()
    }

    /// `svid.pem`, `svid.key` and `bundle.pem`, each put in place whole.
    pub(crate) fn write_to(&self, directory: &Path, authority: &Issued) {
        write(&directory.join("svid.key"), &self.key_pem(), 0o600);
        write(&directory.join("svid.pem"), &self.pem(), 0o644);
        write(&directory.join("bundle.pem"), &authority.pem(), 0o644);
    }
}

/// `NAME.crt` and `NAME.key` in `directory`.
pub(crate) fn keep(directory: &Path, name: &str, issued: &Issued) {
    write(&directory.join(format!("{name}.key")), &issued.key_pem(), 0o600);
    write(&directory.join(format!("{name}.crt")), &issued.pem(), 0o644);
}

/// Put a file in place by a rename, as whoever rotates certificates does.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).unwrap();
    file.write_all(content).unwrap();
    fs::rename(&temporary, path).unwrap();
}

pub(crate) fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// An RSA key as a flawed library made them (CVE-2017-15361): each prime is k * M + 65537^a mod M, with M the product of the
/// first primes.
pub(crate) fn breakable_key() -> PKey<Private> {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    let der = KEY.get_or_init(|| flawed_rsa().private_key_to_der().unwrap());
    PKey::private_key_from_der(der).unwrap()
}

fn flawed_rsa() -> Rsa<Private> {
    let mut context = BigNumContext::new().unwrap();
    let e = BigNum::from_u32(65_537).unwrap();
    loop {
        let (p, q) = (flawed_prime(&e, 3), flawed_prime(&e, 5));
        let [mut n, mut less_p, mut less_q, mut order] = [(); 4].map(|()| BigNum::new().unwrap());
        n.checked_mul(&p, &q, &mut context).unwrap();
        let one = BigNum::from_u32(1).unwrap();
        less_p.checked_sub(&p, &one).unwrap();
        less_q.checked_sub(&q, &one).unwrap();
        order.checked_mul(&less_p, &less_q, &mut context).unwrap();
        let [mut d, mut of_p, mut of_q, mut inverse] = [(); 4].map(|()| BigNum::new().unwrap());
        // Hardly ever, there is none.
        if d.mod_inverse(&e, &order, &mut context).is_err() {
            continue;
        }
        of_p.nnmod(&d, &less_p, &mut context).unwrap();
        of_q.nnmod(&d, &less_q, &mut context).unwrap();
        inverse.mod_inverse(&q, &p, &mut context).unwrap();
        let builder = RsaPrivateKeyBuilder::new(n, e, d).unwrap();
        let builder = builder.set_factors(p, q).unwrap();
        return builder.set_crt_params(of_p, of_q, inverse).unwrap().build();
    }
}

fn flawed_prime(e: &BigNum, a: u32) -> BigNum {
    const BITS: i32 = 1024;
    let mut context = BigNumContext::new().unwrap();
    let mut product = BigNum::from_u32(2).unwrap();
    let is_prime = |n: &u32| (2..*n).all(|smaller| !n.is_multiple_of(smaller));
    (3..=167).filter(is_prime).for_each(|prime| product.mul_word(prime).unwrap());
    let mut rest = BigNum::new().unwrap();
    rest.mod_exp(e, &BigNum::from_u32(a).unwrap(), &product, &mut context).unwrap();
    let [mut factor, mut multiple, mut found] = [(); 3].map(|()| BigNum::new().unwrap());
    loop {
        factor.rand(BITS - product.num_bits(), MsbOption::TWO_ONES, false).unwrap();
        multiple.checked_mul(&factor, &product, &mut context).unwrap();
        found.checked_add(&multiple, &rest).unwrap();
        if found.is_prime(20, &mut context).unwrap() {
            return found;
        }
    }
}

fn make(order: &Order, issuer: Option<&Issued>) -> Issued {
    let key = order.key.clone().unwrap_or_else(key);
    let own = named(&order.subject);
    let by = issuer.map_or(&*own, |issuer| issuer.certificate.subject_name());
    let certificate = made_for(order, &key, by, issuer.map_or(&key, |issuer| &issuer.key), issuer);
    Issued { certificate, key }
}

fn named(subject: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, subject).unwrap();
    name.build()
}

fn made_for<K: HasPublic>(
    order: &Order,
    key: &PKey<K>,
    by: &X509NameRef,
    signing: &PKey<Private>,
    issuer: Option<&Issued>,
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::ONE, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&named(&order.subject)).unwrap();
    builder.set_issuer_name(by).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&asn1(order.not_before)).unwrap();
    builder.set_not_after(&asn1(order.not_after)).unwrap();
    extend(&mut builder, order, issuer);
    builder.sign(signing, MessageDigest::sha256()).unwrap();
    builder.build()
}

fn extend(builder: &mut X509Builder, order: &Order, issuer: Option<&Issued>) {
    let mut basic = BasicConstraints::new();
    basic.critical();
    if let Some(path_length) = order.ca {
        basic.ca();
        path_length.map(|length| basic.pathlen(length));
    }
    builder.append_extension(basic.build().unwrap()).unwrap();
    if let Some(names) = &order.key_usage {
        let mut usage = KeyUsage::new();
        usage.critical();
        for name in names {
            match *name {
                "digitalSignature" => usage.digital_signature(),
                "keyEncipherment" => usage.key_encipherment(),
                "keyCertSign" => usage.key_cert_sign(),
                "cRLSign" => usage.crl_sign(),
                other => panic!("{other}"),
            };
        }
        builder.append_extension(usage.build().unwrap()).unwrap();
    }
    if let Some(names) = &order.extended_key_usage {
        let mut usage = ExtendedKeyUsage::new();
        for name in names {
            usage.other(name);
        }
        builder.append_extension(usage.build().unwrap()).unwrap();
    }
    let context = builder.x509v3_context(issuer.map(|issuer| &*issuer.certificate), None);
    let own = SubjectKeyIdentifier::new().build(&context).unwrap();
    let names = (!order.uris.is_empty() || !order.dns.is_empty() || !order.ips.is_empty()).then(|| {
        let mut names = SubjectAlternativeName::new();
        for uri in &order.uris {
            names.uri(uri);
        }
        for dns in &order.dns {
            names.dns(dns);
        }
        for ip in &order.ips {
            names.ip(ip);
        }
        names.build(&context).unwrap()
    });
    builder.append_extension(own).unwrap();
    if let Some(names) = names {
        builder.append_extension(names).unwrap();
    }
    if issuer.is_some() {
        let context = builder.x509v3_context(issuer.map(|issuer| &*issuer.certificate), None);
        let theirs = AuthorityKeyIdentifier::new().keyid(true).build(&context).unwrap();
        builder.append_extension(theirs).unwrap();
    }
}

fn asn1(time: SystemTime) -> Asn1Time {
    Asn1Time::from_unix(time.duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()).unwrap()
}
