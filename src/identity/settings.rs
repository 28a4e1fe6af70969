//! Where the identity comes from, and reading it once: what `tidegate check` does, and what the gateway does whenever
//! something has changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Bundle, Bundles, CaError, JoinToken, Material, SpiffeId, Svid, SvidError, TrustDomain,
    ca::{self, Authority},
    files::{self, Print},
    held::{self, Held},
    verify,
};

/// The `identity:` section, checked: paths as seen from the working directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    pub source: Source,
    /// Files with the authorities of other trust domains.
    pub bundles: Vec<(TrustDomain, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Files {
        cert: PathBuf,
        key: PathBuf,
        bundle: PathBuf,
    },
    /// `id` is the SVID to take where there are several.
    WorkloadApi {
        endpoint: String,
        id: Option<SpiffeId>,
    },
    Ca {
        directory: PathBuf,
        id: SpiffeId,
        ttl: Duration,
    },
    /// A control plane signs for us. `held` is where that is kept over restarts.
    Control {
        id: SpiffeId,
        token: Option<JoinToken>,
        held: Option<PathBuf>,
    },
}

/// Something that is wrong with one part of the section.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub part: Part,
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Cert,
    Key,
    Bundle,
    Ca,
    Token,
    Control,
    Federated(TrustDomain),
}

/// What was read at one moment.
pub struct Reading {
    pub material: Material,
    /// What works and should not be so.
    pub warnings: Vec<Fault>,
    /// Of the files, from before they were read.
    pub(super) print: Print,
    /// When an SVID that was held had come.
    pub(super) issued: Option<SystemTime>,
}

impl Settings {
    /// Read the files, or issue from the CA. Neither a Workload API nor a control plane is asked: their SVIDs come later.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them at `now`.
    pub fn read(&self, now: SystemTime) -> Result<Reading, Vec<Fault>> {
        let print = Print::of(&self.files());
        let mut faults = Vec::new();
        let mut bundles = self.federated(&mut faults);
        let mut warnings = Vec::new();
        let mut issued = None;
        let svid = match &self.source {
            Source::WorkloadApi { .. } => None,
            Source::Files { key, .. } => {
                if files::is_exposed(key) {
                    warnings.push(exposed(Part::Key, key));
                }
                self.read_files(now, &mut bundles, &mut faults)
            }
            Source::Ca { directory, id, ttl } => {
                let key = directory.join(ca::KEY);
                if files::is_exposed(&key) {
                    warnings.push(exposed(Part::Ca, &key));
                }
                self.issue(directory.clone(), id, *ttl, now, &mut bundles, &mut faults)
            }
            Source::Control { id, token, held } => {
                let held = self.read_held(id, held.as_deref(), now, &mut warnings);
                if held.is_none() && token.is_none() {
                    faults.push(without_token(id));
                }
                held.map(|Held { svid, bundles: own, issued: at }| {
                    bundles.extend(own);
                    issued = Some(at);
                    svid
                })
            }
        };
        let svid = svid.map(Arc::new);
        let material = Material { svid, bundles };
        if faults.is_empty() { Ok(Reading { material, warnings, print, issued }) } else { Err(faults) }
    }

    /// Every file that is read.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let own = match &self.source {
            Source::Files { cert, key, bundle } => vec![cert.clone(), key.clone(), bundle.clone()],
            Source::Ca { directory, .. } => vec![directory.join(ca::CERTIFICATE), directory.join(ca::KEY)],
            Source::WorkloadApi { .. } | Source::Control { .. } => Vec::new(),
        };
        own.into_iter().chain(self.bundles.iter().map(|(_, path)| path.clone())).collect()
    }

    /// The label of its metrics.
    pub(crate) fn source_name(&self) -> &'static str {
        match self.source {
            Source::Files { .. } => "files",
            Source::WorkloadApi { .. } => "workload_api",
            Source::Ca { .. } => "ca",
            Source::Control { .. } => "control",
        }
    }

    /// The bundles of other trust domains.
    pub(super) fn federated(&self, faults: &mut Vec<Fault>) -> Bundles {
        let read = self.bundles.iter().filter_map(|(domain, path)| {
            let part = Part::Federated(domain.clone());
            let pem = content(part.clone(), path, faults)?;
            let fault = |why| bundle_fault(part, path, &why);
            Bundle::from_pem(domain.clone(), &pem).map_err(|why| faults.push(fault(why))).ok()
        });
        read.collect()
    }

    /// What cannot be used is no reason not to start where there is a token.
    fn read_held(
        &self,
        id: &SpiffeId,
        held: Option<&Path>,
        now: SystemTime,
        warnings: &mut Vec<Fault>,
    ) -> Option<Held> {
        let path = held?;
        held::read(path, id, now).unwrap_or_else(|why| {
            let message = format!("{} is not used: {why}", path.display());
            warnings.push(Fault { part: Part::Control, message, hint: "another SVID is asked for" });
            None
        })
    }

    fn read_files(&self, now: SystemTime, bundles: &mut Bundles, faults: &mut Vec<Fault>) -> Option<Svid> {
        let Source::Files { cert, key, bundle } = &self.source else { return None };
        let read = [(Part::Cert, cert), (Part::Key, key), (Part::Bundle, bundle)]
            .map(|(part, path)| content(part, path, faults));
        let [chain, private, authorities] = read;
        let own = authorities.and_then(|pem| {
            let fault = |why| bundle_fault(Part::Bundle, bundle, &why);
            Bundle::from_pem(self.trust_domain.clone(), &pem).map_err(|why| faults.push(fault(why))).ok()
        });
        let svid = match Svid::from_pem(&chain?, &private?) {
            Ok(svid) => svid,
            Err(SvidError::BadKey) => {
                let message = format!("{} is not a private key in PEM", key.display());
                faults.push(Fault { part: Part::Key, message, hint: "keys with a passphrase are not read" });
                return None;
            }
            Err(SvidError::KeyMismatch) => {
                let message = format!("{} is not the key of {}", key.display(), cert.display());
                faults.push(Fault {
                    part: Part::Key,
                    message,
                    hint: "name the key that the SVID was issued for",
                });
                return None;
            }
            Err(why) => {
                let message = format!("{} {why}", cert.display());
                faults.push(Fault { part: Part::Cert, message, hint: "name a file with an X509-SVID" });
                return None;
            }
        };
        bundles.insert(own?);
        match check(&svid, &self.trust_domain, bundles, now) {
            Ok(()) => Some(svid),
            Err((message, hint)) => {
                let message = format!("{} {message}", cert.display());
                faults.push(Fault { part: Part::Cert, message, hint });
                None
            }
        }
    }

    fn issue(
        &self,
        directory: PathBuf,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
        bundles: &mut Bundles,
        faults: &mut Vec<Fault>,
    ) -> Option<Svid> {
        let issued = Authority::open(&directory).and_then(|authority| {
            if authority.trust_domain != self.trust_domain {
                return Err(CaError::Foreign { id: id.clone(), ours: authority.trust_domain });
            }
            Ok((authority.issue(id, ttl, now)?, authority.bundle()?))
        });
        match issued {
            Ok((svid, bundle)) => {
                bundles.insert(bundle);
                Some(svid)
            }
            Err(why) => {
                let message = format!("{}: {why}", directory.display());
                faults.push(Fault { part: Part::Ca, message, hint: "`tidegate ca init` makes a CA" });
                None
            }
        }
    }
}

fn without_token(id: &SpiffeId) -> Fault {
    let message = format!("there is neither a token for {id} nor an SVID that an earlier process was given");
    Fault {
        part: Part::Token,
        message,
        hint: "`tidegate token create --id ID` at the control plane makes one",
    }
}

/// Whether our own SVID is what it should be; else what is wrong with it, and what to do.
pub(super) fn check(
    svid: &Svid,
    trust_domain: &TrustDomain,
    bundles: &Bundles,
    now: SystemTime,
) -> Result<(), (String, &'static str)> {
    if svid.id.trust_domain() != trust_domain {
        let message = format!("is the SVID of {}, which is not of trust domain {trust_domain}", svid.id);
        return Err((message, "name an SVID of that trust domain, or set `trust_domain` to its own"));
    }
    let refused = match svid.chain.first() {
        Some(leaf) => verify(leaf, svid.intermediates(), bundles, now).err(),
        None => Some(SvidError::Unreadable),
    };
    let Some(why) = refused else { return Ok(()) };
    let hint = match why {
        SvidError::Expired => "issue a new one",
        SvidError::NotYetValid => "is the clock of this machine right?",
        SvidError::NotTrusted(_) => "are it and the bundle of the same CA?",
        _ => "issue a new one, or name another bundle",
    };
    Err((why.to_string(), hint))
}

fn content(part: Part, path: &Path, faults: &mut Vec<Fault>) -> Option<Vec<u8>> {
    let fault = |why| {
        let message = format!("cannot read {}: {why}", path.display());
        Fault { part, message, hint: "paths are relative to the file they stand in" }
    };
    files::read(path).map_err(|why| faults.push(fault(why))).ok()
}

fn bundle_fault(part: Part, path: &Path, why: &SvidError) -> Fault {
    let message = match why {
        SvidError::EmptyBundle => format!("{} holds no certificate in PEM", path.display()),
        why => format!("{}: a certificate in it {why}", path.display()),
    };
    Fault { part, message, hint: "a bundle holds the CA certificates of a trust domain" }
}

fn exposed(part: Part, key: &Path) -> Fault {
    let message = format!("{} can be read by others than its owner", key.display());
    Fault { part, message, hint: "chmod 600" }
}
