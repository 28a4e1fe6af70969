//! What certificates say, for operators who look.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use openssl::{
    sha::sha256,
    x509::{GeneralNameRef, X509CrlRef, X509Ref},
};

use super::{caller::subject, terminator::time};
use crate::identity::{hex, leaf_id};

/// A certificate, without its key.
#[derive(Clone, Debug)]
pub(crate) struct CertificateReport {
    pub subject: String,
    /// DNS names, addresses and URIs.
    pub names: Vec<String>,
    pub spiffe: Option<String>,
    pub issuer: String,
    /// In hexadecimal.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// `None` where it never was a file.
    pub file: Option<PathBuf>,
    /// SHA-256 of it in DER.
    pub fingerprint: String,
}

/// A list of those that an authority has revoked.
#[derive(Clone, Debug)]
pub(crate) struct RevocationReport {
    pub issuer: String,
    pub this_update: SystemTime,
    pub next_update: Option<SystemTime>,
    pub revoked: usize,
}

impl CertificateReport {
    pub(crate) fn of(certificate: &X509Ref, file: Option<PathBuf>) -> CertificateReport {
        let names = certificate.subject_alt_names();
        let name = |name: &GeneralNameRef| {
            let text = name.dnsname().or(name.uri()).map(str::to_owned);
            text.or_else(|| address(name.ipaddress()?))
        };
        let serial = certificate.serial_number().to_bn().and_then(|number| number.to_hex_str());
        CertificateReport {
            subject: subject(certificate.subject_name()),
            names: names.iter().flatten().filter_map(name).collect(),
            spiffe: leaf_id(certificate).ok().map(|id| id.to_string()),
            issuer: subject(certificate.issuer_name()),
            serial: serial.map(|serial| serial.to_lowercase()).unwrap_or_default(),
            not_before: time(certificate.not_before()),
            not_after: time(certificate.not_after()),
            file,
            fingerprint: certificate.to_der().map(|der| hex(&sha256(&der))).unwrap_or_default(),
        }
    }
}

impl RevocationReport {
    pub(super) fn of(list: &X509CrlRef) -> RevocationReport {
        RevocationReport {
            issuer: subject(list.issuer_name()),
            this_update: time(list.last_update()),
            next_update: list.next_update().map(time),
            revoked: list.get_revoked().map_or(0, |revoked| revoked.len()),
        }
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(bytes).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())
}

/// How long something lasts from now on, in whole days; negative where it is over.
pub(crate) fn days_left(end: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: SystemTime| {
        i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
    };
    (seconds(end) - seconds(now)).div_euclid(86_400)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days_are_whole_and_negative_when_it_is_over() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let day = Duration::from_secs(86_400);
        assert_eq!(days_left(now + day * 3 + day / 2, now), 3);
        assert_eq!((days_left(now + day / 2, now), days_left(now - day / 2, now)), (0, -1));
    }

    #[test]
    fn addresses_are_written_as_people_write_them() {
        assert_eq!(address(&[127, 0, 0, 1]).as_deref(), Some("127.0.0.1"));
        assert_eq!(address(&[0; 16]).as_deref(), Some("::"));
        assert_eq!(address(&[1, 2]), None);
    }
}
