//! When certificates end, and how reading renewed ones went.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::exposition::Exposition;

/// A certificate in use; it is written for as long as somebody holds this.
pub struct CertificateMetrics {
    subject: Arc<str>,
    expiry: f64,
}

impl CertificateMetrics {
    pub(super) fn new(subject: Arc<str>, expiry: SystemTime) -> CertificateMetrics {
        let expiry = expiry.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        CertificateMetrics { subject, expiry }
    }
}

/// How often renewed certificates were taken, and how often what was found could not be.
#[derive(Default)]
pub struct CertificateReloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl CertificateReloads {
    pub fn succeeded(&self) {
        self.succeeded.fetch_add(1, Relaxed);
    }

    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }
}

/// Of several with one subject, such as an RSA and an ECDSA certificate, the one that ends first.
pub(super) fn write(
    out: &mut Exposition,
    certificates: &[Arc<CertificateMetrics>],
    reloads: &CertificateReloads,
) {
    let mut first = BTreeMap::<&str, f64>::new();
    for certificate in certificates {
        let expiry = first.entry(&certificate.subject).or_insert(f64::INFINITY);
        *expiry = expiry.min(certificate.expiry);
    }
    out.gauge("tidegate_certificate_expiry_timestamp_seconds", "When a certificate in use ends.");
    for (subject, expiry) in first {
        out.sample(&[("subject", subject)], expiry);
    }
    out.counter("tidegate_certificate_reloads_total", "Changed certificate files, by what came of them.");
    for (result, count) in [("success", &reloads.succeeded), ("failure", &reloads.failed)] {
        out.sample(&[("result", result)], count.load(Relaxed));
    }
}
