//! What begins TLS on a listener's connections, for as long as the listener's TLS settings stay as they are.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use openssl::{
    asn1::Asn1Time,
    error::ErrorStack,
    ssl::{Ssl, SslContext, SslRef},
    x509::{GeneralNameRef, X509Ref, X509VerifyResult},
};

use super::{
    ClientAuth, Material, Problem, Settings,
    caller::{self, caller},
    certificate::Certificate,
    context,
};
use crate::{
    identity::Caller,
    observe::metrics::{CertificateMetrics, Metrics},
};

pub struct Terminator {
    settings: Settings,
    metrics: Arc<Metrics>,
    shown: ArcSwap<Shown>,
    /// One at a time looks for what is new.
    turn: Mutex<()>,
}

/// What connections begin with at present.
struct Shown {
    context: SslContext,
    fingerprint: [u8; 32],
    /// Their gauges live as long as they are shown.
    _expiries: Vec<Arc<CertificateMetrics>>,
}

impl Terminator {
    /// # Errors
    ///
    /// None that [`Material::read`] would not have found.
    pub fn new(
        settings: Settings,
        material: Material,
        metrics: Arc<Metrics>,
    ) -> Result<Terminator, ErrorStack> {
        let shown = Shown::new(&settings, &material, &metrics)?;
        Ok(Terminator {
            settings,
            metrics,
            shown: ArcSwap::from_pointee(shown),
            turn: Mutex::default(),
        })
    }

    /// True when this one would do the very same with them.
    pub fn is_same(&self, settings: &Settings, material: &Material) -> bool {
        self.settings == *settings && self.shown.load().fingerprint == material.fingerprint()
    }

    /// The files to watch.
    pub fn files(&self) -> Vec<PathBuf> {
        self.settings.files()
    }

    /// A new connection's TLS, as the server.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn begin(&self) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.shown.load().context)?;
        ssl.set_accept_state();
        Ok(ssl)
    }

    /// Whose certificate the client has shown in a handshake that has come to its end; `None` where it has none, or was
    /// not asked.
    ///
    /// # Errors
    ///
    /// It was not verified.
    pub fn caller(&self, ssl: &SslRef) -> Result<Option<Caller>, String> {
        if self.settings.clients == ClientAuth::None {
            return Ok(None);
        }
        let Some(leaf) = ssl.peer_certificate() else { return Ok(None) };
        if ssl.verify_result() != X509VerifyResult::OK {
            return Err(ssl.verify_result().error_string().to_owned());
        }
        Ok(Some(caller(&leaf, None)))
    }

    /// Look at the files again: true when there was something new in them, which new connections begin with. Those that
    /// are open go on. Blocking.
    ///
    /// # Errors
    ///
    /// What is wrong with them; nothing changes then.
    pub fn refresh(&self) -> Result<bool, Vec<Problem>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let refreshed = Material::read(&self.settings).and_then(|material| {
            if self.shown.load().fingerprint == material.fingerprint() {
                return Ok(false);
            }
            let shown = Shown::new(&self.settings, &material, &self.metrics)
                .map_err(|error| vec![Problem::Refused(super::reasons(&error))])?;
            self.shown.store(Arc::new(shown));
            Ok(true)
        });
        let reloads = self.metrics.certificate_reloads();
        match &refreshed {
            Ok(true) => reloads.succeeded(),
            Ok(false) => {}
            Err(_) => reloads.failed(),
        }
        refreshed
    }
}

impl Shown {
    fn new(settings: &Settings, material: &Material, metrics: &Metrics) -> Result<Shown, ErrorStack> {
        let expiry = |certificate: &Certificate| {
            let leaf = certificate.leaf();
            metrics.certificate(&subject(leaf), certificate.fingerprint(), not_after(leaf))
        };
        Ok(Shown {
            context: context::front(&material.certificates, &material.common(settings))?,
            fingerprint: material.fingerprint(),
            _expiries: material.certificates.iter().map(expiry).collect(),
        })
    }
}

/// How operators know a certificate: its subject, or its first name where that is empty, as it is in many.
fn subject(leaf: &X509Ref) -> String {
    let subject = caller::subject(leaf.subject_name());
    if !subject.is_empty() {
        return subject;
    }
    let names = leaf.subject_alt_names();
    let name = |name: &GeneralNameRef| name.dnsname().or(name.uri()).map(str::to_owned);
    names.iter().flatten().find_map(name).unwrap_or_default()
}

fn not_after(leaf: &X509Ref) -> SystemTime {
    let epoch = Asn1Time::from_unix(0).ok();
    let left = epoch.and_then(|epoch| epoch.diff(leaf.not_after()).ok());
    let seconds = left.map_or(0, |left| i64::from(left.days) * 86_400 + i64::from(left.secs));
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
