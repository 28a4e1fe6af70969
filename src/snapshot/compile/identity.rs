//! The `identity:` section: names parsed, files read, and everything told that peers would find wrong.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::Compiler;
use crate::{
    config::{self, Path},
    identity::{Fault, Part, Reading, Settings, Source, SpiffeId, TrustDomain, parse_id, parse_trust_domain},
};

/// An SVID that lives for less is renewed more often than clocks can be trusted to agree.
const SHORTEST_TTL: Duration = Duration::from_secs(5);
/// A certificate of our own CA is not revoked: its end is what protects from a stolen key.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 86_400);
const DEFAULT_TTL: Duration = Duration::from_secs(86_400);
const DEFAULT_PATH: &str = "tidegate";

/// An identity that was read once, and is not followed yet.
pub struct PlannedIdentity {
    pub settings: Settings,
    pub reading: Reading,
}

impl Compiler<'_> {
    pub(super) fn identity(&mut self) -> Option<PlannedIdentity> {
        let config = self.config.identity.as_ref()?;
        let at = Path::root().key("identity");
        let trust_domain = match parse_trust_domain(&config.trust_domain) {
            Ok(trust_domain) => Some(trust_domain),
            Err(why) => {
                let message = format!("{:?} is not a trust domain: {why}", config.trust_domain);
                self.refuse_with_hint(&at.key("trust_domain"), message, "a name such as mesh.local");
                None
            }
        };
        let source = self.identity_source(config, &at, trust_domain.as_ref());
        let bundles = self.federated(config, &at.key("bundles"), trust_domain.as_ref());
        let settings = Settings { trust_domain: trust_domain?, source: source?, bundles: bundles? };
        match settings.read(SystemTime::now()) {
            Ok(reading) => {
                for fault in &reading.warnings {
                    let problem = self.sources.problem(&part(&at, fault), fault.message.as_str());
                    self.warnings.push(problem.hint(fault.hint));
                }
                Some(PlannedIdentity { settings, reading })
            }
            Err(faults) => {
                for fault in faults {
                    self.refuse_with_hint(&part(&at, &fault), fault.message, fault.hint);
                }
                None
            }
        }
    }

    fn identity_source(
        &mut self,
        config: &config::Identity,
        at: &Path,
        trust_domain: Option<&TrustDomain>,
    ) -> Option<Source> {
        let full = |key: &Path, path: &PathBuf| self.sources.full_path(key, path);
        let source = match (&config.files, &config.workload_api, &config.ca) {
            (Some(files), None, None) => {
                let at = at.key("files");
                Source::Files {
                    cert: full(&at.key("cert"), &files.cert),
                    key: full(&at.key("key"), &files.key),
                    bundle: full(&at.key("bundle"), &files.bundle),
                }
            }
            (None, Some(endpoint), None) => {
                let path = endpoint.strip_prefix("unix://").unwrap_or_default();
                if !path.starts_with('/') || path.ends_with('/') || path.contains(['?', '#', '%']) {
                    let message = format!("{endpoint:?} is not the address of a Unix socket");
                    let hint = "such as unix:///run/spire/agent.sock";
                    self.refuse_with_hint(&at.key("workload_api"), message, hint);
                    return None;
                }
                Source::WorkloadApi { endpoint: endpoint.clone(), id: self.id(config, at, trust_domain)? }
            }
            (None, None, Some(directory)) => {
                let directory = full(&at.key("ca"), directory);
                let id = self.id(config, at, trust_domain)?;
                let default = || SpiffeId::from_segments(trust_domain?.clone(), &[DEFAULT_PATH]).ok();
                let id = id.or_else(default)?;
                let ttl = config.ttl.map_or(DEFAULT_TTL, Duration::from);
                if !(SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
                    let message = "an SVID lives from 5s to 365d";
                    self.refuse_with_hint(&at.key("ttl"), message, "24h is the default");
                    return None;
                }
                Source::Ca { directory, id, ttl }
            }
            _ => {
                if !self.sources.is_doubtful(at) {
                    let message =
                        "exactly one of `files`, `workload_api` and `ca` says where the SVID comes from";
                    self.refuse(at, message);
                }
                return None;
            }
        };
        let is_ca = matches!(source, Source::Ca { .. });
        if config.ttl.is_some() && !is_ca {
            self.refuse(&at.key("ttl"), "only with `ca` does this gateway say how long its SVID lives");
        }
        if config.id.is_some() && matches!(source, Source::Files { .. }) {
            self.refuse(&at.key("id"), "the SVID in `files` says itself whose it is");
        }
        Some(source)
    }

    /// What `id` says, if it says something that can be used.
    fn id(
        &mut self,
        config: &config::Identity,
        at: &Path,
        trust_domain: Option<&TrustDomain>,
    ) -> Option<Option<SpiffeId>> {
        let Some(text) = &config.id else { return Some(None) };
        let at = at.key("id");
        match parse_id(text) {
            Err(why) => self.refuse(&at, format!("{text:?} is not a SPIFFE ID: {why}")),
            Ok(id) if id.path().is_empty() => self.refuse(&at, "an SVID's ID has a path"),
            Ok(id) if trust_domain.is_some_and(|domain| id.trust_domain() != domain) => {
                self.refuse(&at, format!("{id} is not of the trust domain {}", config.trust_domain));
            }
            Ok(id) => return Some(Some(id)),
        }
        None
    }

    fn federated(
        &mut self,
        config: &config::Identity,
        at: &Path,
        own: Option<&TrustDomain>,
    ) -> Option<Vec<(TrustDomain, PathBuf)>> {
        let mut bundles = Vec::new();
        for (name, path) in &config.bundles {
            let at = at.key(name);
            match parse_trust_domain(name) {
                Err(why) => self.refuse(&at, format!("{name:?} is not a trust domain: {why}")),
                Ok(domain) if Some(&domain) == own => {
                    let hint = "here stand those of other trust domains";
                    self.refuse_with_hint(
                        &at,
                        "the bundle of our own trust domain comes with the SVID",
                        hint,
                    );
                }
                Ok(domain) => bundles.push((domain, self.sources.full_path(&at, path))),
            }
        }
        (bundles.len() == config.bundles.len()).then_some(bundles)
    }
}

/// Where the part of the section stands that the fault is about.
fn part(at: &Path, fault: &Fault) -> Path {
    match &fault.part {
        Part::Cert => at.key("files").key("cert"),
        Part::Key => at.key("files").key("key"),
        Part::Bundle => at.key("files").key("bundle"),
        Part::Ca => at.key("ca"),
        Part::Federated(domain) => at.key("bundles").key(domain.as_str()),
    }
}
