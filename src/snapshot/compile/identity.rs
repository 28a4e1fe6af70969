//! The `identity:` section: names parsed, files read, and everything told that peers would find wrong.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use super::Compiler;
use crate::{
    config::{self, Path},
    identity::{
        Fault, JoinToken, Part, Reading, Settings, Source, SpiffeId, TrustDomain, held_within, parse_id,
        parse_trust_domain,
    },
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
                    self.warnings.push(problem.hint(fault.hint).named("identity_files"));
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
        let source = match (&config.files, &config.workload_api, &config.ca, &config.control) {
            (Some(files), None, None, None) => {
                let at = at.key("files");
                Source::Files {
                    cert: full(&at.key("cert"), &files.cert),
                    key: full(&at.key("key"), &files.key),
                    bundle: full(&at.key("bundle"), &files.bundle),
                }
            }
            (None, Some(endpoint), None, None) => {
                let path = endpoint.strip_prefix("unix://").unwrap_or_default();
                if !path.starts_with('/') || path.ends_with('/') || path.contains(['?', '#', '%']) {
                    let message = format!("{endpoint:?} is not the address of a Unix socket");
                    let hint = "such as unix:///run/spire/agent.sock";
                    self.refuse_with_hint(&at.key("workload_api"), message, hint);
                    return None;
                }
                Source::WorkloadApi { endpoint: endpoint.clone(), id: self.id(config, at, trust_domain)? }
            }
            (None, None, Some(directory), None) => {
                let directory = full(&at.key("ca"), directory);
                let id = self.id(config, at, trust_domain)?;
                let default = || SpiffeId::from_segments(trust_domain?.clone(), &[DEFAULT_PATH]).ok();
                let id = id.or_else(default)?;
                let ttl = config.ttl.map_or(DEFAULT_TTL, Duration::from);
                self.svid_ttl(ttl, &at.key("ttl")).then_some(Source::Ca { directory, id, ttl })?
            }
            (None, None, None, Some(control)) => self.signed(control, &at.key("control"), trust_domain)?,
            _ => {
                if !self.sources.is_doubtful(at) {
                    let message = "exactly one of `files`, `workload_api`, `ca` and `control` says where the SVID comes from";
                    self.refuse(at, message);
                }
                return None;
            }
        };
        let is_ca = matches!(source, Source::Ca { .. });
        if config.ttl.is_some() && !is_ca {
            self.refuse(&at.key("ttl"), "only with `ca` does this gateway say how long its SVID lives");
        }
        match source {
            _ if config.id.is_none() => {}
            Source::Files { .. } => {
                self.refuse(&at.key("id"), "the SVID in `files` says itself whose it is");
            }
            Source::Control { .. } => {
                let hint = "write `control: {id: ..}`";
                self.refuse_with_hint(&at.key("id"), "the ID to be signed stands in `control`", hint);
            }
            Source::WorkloadApi { .. } | Source::Ca { .. } => {}
        }
        Some(source)
    }

    /// The control plane that is joined signs.
    fn signed(
        &mut self,
        control: &config::IdentityControl,
        at: &Path,
        trust_domain: Option<&TrustDomain>,
    ) -> Option<Source> {
        let joined = self.config.control.as_ref();
        let tls = joined.and_then(|joined| joined.join.as_ref()).map(|join| join.tls.is_some());
        if !self.sources.is_doubtful(&Path::root().key("control")) {
            match tls {
                _ if joined.is_some_and(|joined| joined.serve.is_some()) => {
                    let message = "a control plane cannot ask itself who it is";
                    self.refuse_with_hint(at, message, "use `ca`, `files` or `workload_api`");
                }
                None => {
                    let hint = "add `control: {join: {servers: [\"control:9902\"], tls: ..}}`";
                    self.refuse_with_hint(at, "needs `control.join`: its servers sign", hint);
                }
                Some(false) => {
                    let hint =
                        "add `control.join.tls: {verify: {spiffe: [\"spiffe://mesh.local/control\"]}}`";
                    self.refuse_with_hint(
                        at,
                        "needs `control.join.tls`: a token is not sent in plain text",
                        hint,
                    );
                }
                Some(true) => {}
            }
        }
        let id = self.spiffe_id(&control.id, &at.key("id"), trust_domain);
        let token = match control.token.as_ref().map(|token| JoinToken::parse(token.expose())) {
            None => None,
            Some(Ok(token)) => Some(token),
            Some(Err(why)) => {
                self.refuse(&at.key("token"), format!("this {why}"));
                return None;
            }
        };
        let held = self.config.state_dir.as_ref();
        let held = held
            .map(|directory| held_within(&self.sources.full_path(&Path::root().key("state_dir"), directory)));
        if held.is_none() {
            let message = "without `state_dir` each start needs a token that can still be used";
            let problem = self.sources.problem(at, message);
            self.warnings.push(problem.hint("add `state_dir: /var/lib/tidegate`").named("identity_not_kept"));
        }
        Some(Source::Control { id: id?, token, held })
    }

    /// What `id` says, if it says something that can be used.
    fn id(
        &mut self,
        config: &config::Identity,
        at: &Path,
        trust_domain: Option<&TrustDomain>,
    ) -> Option<Option<SpiffeId>> {
        let Some(text) = &config.id else { return Some(None) };
        self.spiffe_id(text, &at.key("id"), trust_domain).map(Some)
    }

    fn spiffe_id(&mut self, text: &str, at: &Path, trust_domain: Option<&TrustDomain>) -> Option<SpiffeId> {
        match (parse_id(text), trust_domain) {
            (Err(why), _) => self.refuse(at, format!("{text:?} is not a SPIFFE ID: {why}")),
            (Ok(id), _) if id.path().is_empty() => self.refuse(at, "an SVID's ID has a path"),
            (Ok(id), Some(domain)) if id.trust_domain() != domain => {
                self.refuse(at, format!("{id} is not of the trust domain {domain}"));
            }
            (Ok(id), _) => return Some(id),
        }
        None
    }

    /// Whether an SVID may live for so long; told where it may not.
    pub(super) fn svid_ttl(&mut self, ttl: Duration, at: &Path) -> bool {
        let may = (SHORTEST_TTL..=LONGEST_TTL).contains(&ttl);
        if !may {
            self.refuse_with_hint(at, "an SVID lives from 5s to 365d", "24h is usual");
        }
        may
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
        Part::Control => at.key("control"),
        Part::Token => at.key("control").key("token"),
        Part::Federated(domain) => at.key("bundles").key(domain.as_str()),
    }
}
