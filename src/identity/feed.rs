//! What every source does with what it got: put it in force, and tell.

use std::{sync::Arc, time::SystemTime};

use super::{Bundles, Fault, Material, Settings, live::State};
use crate::observe::{
    log::event,
    metrics::{CertificateMetrics, Metrics},
};

pub(super) struct Feed {
    pub settings: Settings,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    /// Of the SVID in force.
    certificate: Option<Arc<CertificateMetrics>>,
    /// What was told last, while it goes on.
    failing: Option<String>,
    is_told: bool,
}

impl Feed {
    pub(crate) fn new(state: Arc<State>, settings: Settings, metrics: Arc<Metrics>) -> Feed {
        Feed { settings, state, metrics, certificate: None, failing: None, is_told: false }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    pub(crate) fn current(&self) -> Arc<Material> {
        self.state.current()
    }

    /// Put `material` in force, if it is any different.
    pub(crate) fn put(&mut self, material: Material) {
        let source = self.settings.source_name();
        if self.failing.take().is_some() {
            self.state.fails(None);
            event!(Info, "the identity's source is fine again", source = source);
        }
        let current = self.current();
        if current.is_same(&material) {
            return;
        }
        let print = |material: &Material| material.svid.as_ref().map(|svid| svid.fingerprint);
        if print(&current) != print(&material)
            && let Some(svid) = &material.svid
        {
            let not_after = humantime::format_rfc3339_seconds(svid.not_after);
            event!(Info, "new SVID", id = svid.id, not_after = not_after, source = source);
            let certificate = self.metrics.certificate(&svid.id.to_string());
            certificate.expires(svid.not_after);
            self.certificate = Some(certificate);
            self.is_told = false;
        }
        if !current.bundles.is_same(&material.bundles) {
            event!(Info, "new trust bundles", trust_domains = domains(&material.bundles), source = source);
        }
        self.metrics.count_identity_update(source, "success");
        self.state.replace(material);
    }

    /// There is nothing new, and what was before stays. Told and counted once, until something else is wrong.
    pub(crate) fn fail(&mut self, why: String) {
        if self.failing.as_ref() == Some(&why) {
            return;
        }
        let source = self.settings.source_name();
        let kept = match &self.current().svid {
            Some(svid) => format!("kept, until {}", humantime::format_rfc3339_seconds(svid.not_after)),
            None => "none: mTLS is refused until there is one".to_owned(),
        };
        event!(Warn, "no new identity", why = why, source = source, svid = kept);
        self.metrics.count_identity_update(source, "failure");
        self.state.fails(Some(&why));
        self.failing = Some(why);
    }

    pub(crate) fn fail_with(&mut self, faults: &[Fault]) {
        let why: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
        self.fail(why.join("; "));
    }

    /// Tell, once, that nobody will believe us any more, or not yet: a clock that went back makes an SVID one of the future.
    pub(crate) fn look_at_times(&mut self, now: SystemTime) {
        let Some(svid) = &self.current().svid else { return };
        let (is_over, is_early) = (svid.not_after <= now, svid.is_early(now));
        if !is_over && !is_early {
            self.is_told = false;
        } else if !std::mem::replace(&mut self.is_told, true) {
            match is_over {
                true => event!(Error, "the SVID has expired; peers will refuse it", id = svid.id),
                false => {
                    let from = humantime::format_rfc3339_seconds(svid.not_before);
                    event!(
                        Error,
                        "the SVID is not valid yet; peers will refuse it",
                        id = svid.id,
                        not_before = from
                    );
                }
            }
        }
    }
}

fn domains(bundles: &Bundles) -> String {
    bundles.iter().map(|bundle| bundle.trust_domain.as_str()).collect::<Vec<_>>().join(" ")
}
