//! Certificates in use: when each ends, and how often renewed ones were taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::exposition::Exposition;

/// A certificate that is presented to others, for as long as somebody holds this.
pub struct CertificateMetrics {
    subject: Arc<str>,
    /// Seconds since 1970; 0 until it is known.
    expiry: AtomicU64,
}

impl CertificateMetrics {
    pub(super) fn new(subject: Arc<str>) -> CertificateMetrics {
        CertificateMetrics { subject, expiry: AtomicU64::new(0) }
    }

    pub fn expires(&self, at: SystemTime) {
        self.expiry.store(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), Relaxed);
    }
}

/// How often the changed files of listeners' certificates were taken, and how often they could not be.
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

pub(super) fn write(
    out: &mut Exposition,
    certificates: &[Arc<CertificateMetrics>],
    reloads: &CertificateReloads,
) {
    out.gauge("tidegate_certificate_expiry_timestamp_seconds", "When a certificate in use ends.");
    for certificate in certificates {
        let expiry = certificate.expiry.load(Relaxed);
        if expiry > 0 {
            out.sample(&[("subject", &certificate.subject)], expiry);
        }
    }
    out.counter("tidegate_certificate_reloads_total", "Changed certificate files, by what came of them.");
    for (result, count) in [("success", &reloads.succeeded), ("failure", &reloads.failed)] {
        out.sample(&[("result", result)], count.load(Relaxed));
    }
}
