//! TLS towards clients: the certificates a listener shows, whose it asks for, and what OpenSSL makes of both.
//!
//! Everything that can be wrong is found when a configuration is compiled ([`Material::read`]). From then on a
//! [`Terminator`] lives with its listener: it begins handshakes, and looks at its files again when it is told to. What it
//! finds wrong then changes nothing: the old certificate is shown until there is a good one.

mod caller;
mod certificate;
mod client_cert;
mod client_verify;
mod context;
mod ffi;
mod isolation;
mod issued;
pub(crate) mod keylog;
mod report;
mod revocation;
mod terminator;
mod tickets;

use std::{fmt, path::PathBuf, sync::Arc};

use openssl::{ssl::SslRef, x509::X509};

pub(crate) use self::{
    certificate::{Certificate, Part, Unusable},
    client_cert::client_cert,
    context::{Plan, Protocol, expect_notice_of_end, has_broken_off, without_root},
    isolation::Isolated,
    issued::{ACME_TLS, Elsewhere, Issued, OnDemand, Ordered, Want},
    report::{CertificateReport, RevocationReport, days_left},
    revocation::RevocationLists,
    terminator::{Terminator, time},
};
use crate::{
    config::AdminTls,
    identity::{Identity, Svid},
    tls::{
        client_verify::Judgement,
        context::{Bad, Clients, Common, Judge},
        revocation::Revoked,
        tickets::TicketKeys,
    },
    trust,
};

/// `listeners[].tls`, with full paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub certificates: Vec<Source>,
    pub clients: ClientAuth,
    pub protocol: Protocol,
    /// Of session tickets, shared with other gateways.
    pub ticket_keys: Option<TicketFile>,
    pub speaks: Speaks,
    pub isolated: Arc<Isolated>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketFile {
    /// By the operator, who is told what is wrong with it.
    Written(PathBuf),
    /// It is kept fresh from elsewhere, and may be still to come.
    Kept(PathBuf),
}

/// What is said inside TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// Its version is agreed on by ALPN.
    #[default]
    Http,
    /// That, or what another sidecar carries here in a tunnel.
    Mesh,
    /// Whatever client and server agree on by themselves: what the client offers by ALPN is not answered.
    Anything,
}

/// Whence a certificate comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Our own SVID, whichever it is at the time.
    Identity,
    Files {
        cert: PathBuf,
        key: PathBuf,
    },
    /// As a CA issues them.
    Issued {
        account: Arc<str>,
        ordered: Vec<Ordered>,
    },
    /// For whatever name a client asks for, where the account is allowed to order it.
    OnDemand {
        account: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// One that is no good counts as none.
    Lenient(Trust),
    Request(Trust),
    Require(Trust),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// SVIDs, by the bundles that we have at the time.
    Spiffe,
    Ca {
        file: PathBuf,
        /// The lists of those they have revoked.
        crl: Option<Revocation>,
    },
}

/// A file with lists of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub file: PathBuf,
    pub kind: Lists,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// By the operator, who is told what is wrong with it.
    Written,
    /// It may be still to come.
    Fetched(Stale),
}

/// What becomes of clients whose authority has no list that is valid at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    Refuse,
    /// They are looked for in the list that we have, if there is one.
    Allow,
}

/// What the settings name, read and checked. Our own identity is not in it: it comes and goes by itself.
pub struct Material {
    /// One for each source.
    certificates: Vec<Slot>,
    authorities: Vec<X509>,
    revoked: Revoked,
    ticket_keys: Option<TicketKeys>,
}

enum Slot {
    Read(Arc<Certificate>),
    /// Our identity's.
    Own,
    Issued {
        account: Arc<str>,
        ordered: Vec<Ordered>,
    },
    OnDemand,
}

/// What is wrong with the files that the settings name.
#[derive(Debug)]
pub enum Problem {
    /// With the certificate of this index.
    Certificate(usize, Unusable),
    /// Nobody will ever see it: others serve its names.
    Unused(usize),
    Authorities(Unusable),
    Revoked(Unusable),
    TicketKeys(Unusable),
    /// OpenSSL will not have it.
    Refused(String),
}

impl Material {
    /// Whether a client that asks for `host` is shown a certificate for it. `host` may be a wildcard; what our identity is shown for is not known.
    pub fn serves(&self, host: &str) -> bool {
        self.certificates.iter().any(|slot| matches!(slot, Slot::Own | Slot::OnDemand)) || self.names(host)
    }

    /// Whether `host` is one of the names that are configured, also where its certificate is still to come.
    fn names(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let above = host.split_once('.').map(|(_, above)| format!("*.{above}"));
        let is_meant = |name: &str| *name == *host || Some(name) == above.as_deref();
        self.certificates.iter().any(|slot| match slot {
            Slot::Own | Slot::OnDemand => false,
            Slot::Read(certificate) => certificate.names.iter().any(|name| is_meant(name)),
            Slot::Issued { ordered, .. } => {
                ordered.iter().flat_map(|ordered| ordered.names.iter()).any(|name| is_meant(name))
            }
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Certificate(_, unusable)
            | Problem::Authorities(unusable)
            | Problem::Revoked(unusable)
            | Problem::TicketKeys(unusable) => unusable.fmt(f),
            Problem::Unused(index) => {
                write!(f, "certificate {index} would never be shown: others before it have its names")
            }
            Problem::Refused(reasons) => write!(f, "OpenSSL refuses to serve with this: {reasons}"),
        }
    }
}

impl Settings {
    /// Of the admin API. Clients without a certificate are not turned away here: probes have none.
    pub fn of_admin(admin: &AdminTls) -> Settings {
        let AdminTls { cert, key, client_ca, roles: _ } = admin.clone();
        Settings {
            certificates: vec![Source::Files { cert, key }],
            clients: client_ca
                .map_or(ClientAuth::None, |file| ClientAuth::Request(Trust::Ca { file, crl: None })),
            protocol: Protocol::default(),
            ticket_keys: None,
            speaks: Speaks::Http,
            isolated: Arc::default(),
        }
    }

    /// The files to watch.
    pub fn files(&self) -> Vec<PathBuf> {
        let certificates = self.certificates.iter().flat_map(|source| match source {
            Source::Files { cert, key } => vec![cert.clone(), key.clone()],
            Source::Identity | Source::Issued { .. } | Source::OnDemand { .. } => Vec::new(),
        });
        let tickets = self.ticket_keys.as_ref().map(|keys| match keys {
            TicketFile::Written(file) | TicketFile::Kept(file) => file,
        });
        let authorities = match self.clients.trust() {
            Some(Trust::Ca { file, crl }) => [Some(file.clone()), crl.as_ref().map(|crl| crl.file.clone())],
            Some(Trust::Spiffe) | None => [None, None],
        };
        certificates.chain(authorities.into_iter().flatten()).chain(tickets.cloned()).collect()
    }

    fn clients_file(&self) -> Option<PathBuf> {
        match self.clients.trust() {
            Some(Trust::Ca { file, .. }) => Some(file.clone()),
            Some(Trust::Spiffe) | None => None,
        }
    }

    fn shows_identity(&self) -> bool {
        self.certificates.contains(&Source::Identity)
    }

    fn shows_issued(&self) -> bool {
        let is_issued = |source: &Source| matches!(source, Source::Issued { .. } | Source::OnDemand { .. });
        self.certificates.iter().any(is_issued)
    }

    /// Whose certificates are shown for names that nobody has configured.
    fn on_demand(&self) -> Option<&Arc<str>> {
        self.certificates.iter().find_map(|source| match source {
            Source::OnDemand { account } => Some(account),
            _ => None,
        })
    }
}

impl ClientAuth {
    fn trust(&self) -> Option<&Trust> {
        match self {
            ClientAuth::None => None,
            ClientAuth::Lenient(trust) | ClientAuth::Request(trust) | ClientAuth::Require(trust) => {
                Some(trust)
            }
        }
    }
}

impl Material {
    /// # Errors
    ///
    /// All that is wrong with what the settings name.
    pub fn read(settings: &Settings) -> Result<Material, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut certificates = Vec::new();
        for (index, source) in settings.certificates.iter().enumerate() {
            match source {
                Source::Identity => certificates.push(Slot::Own),
                Source::OnDemand { .. } => certificates.push(Slot::OnDemand),
                Source::Issued { account, ordered } => {
                    certificates.push(Slot::Issued { account: account.clone(), ordered: ordered.clone() });
                }
                Source::Files { cert, key } => match Certificate::read(cert, key) {
                    Ok(certificate) => certificates.push(Slot::Read(Arc::new(certificate))),
                    Err(unusable) => problems.push(Problem::Certificate(index, unusable)),
                },
            }
        }
        let authorities = match settings.clients.trust() {
            Some(Trust::Ca { file, .. }) => certificate::authorities(file).unwrap_or_else(|unusable| {
                problems.push(Problem::Authorities(unusable));
                Vec::new()
            }),
            Some(Trust::Spiffe) | None => Vec::new(),
        };
        let revoked = match settings.clients.trust() {
            // Of authorities that could not be read, nothing can be said.
            Some(Trust::Ca { crl: Some(crl), .. }) if !authorities.is_empty() => {
                Revoked::read(crl, &authorities).unwrap_or_else(|unusable| {
                    problems.push(Problem::Revoked(unusable));
                    Revoked::default()
                })
            }
            _ => Revoked::default(),
        };
        let ticket_keys = match &settings.ticket_keys {
            None => None,
            Some(TicketFile::Kept(file)) => TicketKeys::read(file).ok(),
            Some(TicketFile::Written(file)) => {
                TicketKeys::read(file).map_err(|unusable| problems.push(Problem::TicketKeys(unusable))).ok()
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let material = Material { certificates, authorities, revoked, ticket_keys };
        let files = material.with(None, None);
        // What our identity serves is not known yet, so nothing can be said of what comes with it; nor of what is still to be issued.
        if !settings.shows_identity() && !settings.shows_issued() {
            let unused = Plan::of(&files).unused(files.len());
            if !unused.is_empty() {
                return Err(unused.into_iter().map(Problem::Unused).collect());
            }
        }
        match context::front(&files, &material.common(settings, None)) {
            Ok(_) => Ok(material),
            Err(error) => Err(vec![Problem::Refused(reasons(&error))]),
        }
    }

    /// All certificates, with our own in its place if we have one, and what was issued so far.
    fn with(&self, svid: Option<&Svid>, issued: Option<&Issued>) -> Vec<Arc<Certificate>> {
        let mut all = Vec::new();
        for slot in &self.certificates {
            match slot {
                Slot::Read(certificate) => all.push(certificate.clone()),
                Slot::Own => all.extend(svid.map(|svid| Arc::new(Certificate::of(svid)))),
                Slot::OnDemand => {}
                Slot::Issued { account, ordered } => {
                    all.extend(issued.into_iter().flat_map(|issued| issued.of(account, ordered)))
                }
            }
        }
        all
    }

    fn common(&self, settings: &Settings, identity: Option<&Arc<Identity>>) -> Common {
        let known = |trust: &Trust, bad| Clients::Known {
            bad,
            by: match trust {
                Trust::Ca { .. } => Judge::Authorities(self.authorities.clone(), self.revoked.clone()),
                Trust::Spiffe => Judge::Bundles(Judgement::by(identity.cloned())),
            },
        };
        let clients = match &settings.clients {
            ClientAuth::None => Clients::Anyone,
            ClientAuth::Lenient(trust) => known(trust, Bad::Ignored),
            ClientAuth::Request(trust) => known(trust, Bad::Refused),
            ClientAuth::Require(trust) => known(trust, Bad::RefusedLikeNone),
        };
        let (protocol, ticket_keys) = (settings.protocol.clone(), self.ticket_keys.clone());
        Common { protocol, speaks: settings.speaks, clients, ticket_keys }
    }

    /// Equal where nothing has changed.
    fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = openssl::sha::Sha256::new();
        for slot in &self.certificates {
            if let Slot::Read(certificate) = slot {
                hasher.update(&certificate.fingerprint());
            }
        }
        for authority in &self.authorities {
            hasher.update(&authority.to_der().unwrap_or_default());
        }
        for list in self.revoked.lists.iter() {
            hasher.update(&list.to_der().unwrap_or_default());
        }
        if let Some(keys) = &self.ticket_keys {
            hasher.update(&keys.fingerprint());
        }
        hasher.finish()
    }
}

/// What was wrong with a client's certificate, in more words than an alert has.
pub(crate) fn complaint(ssl: &SslRef) -> String {
    match client_verify::verdict(ssl) {
        Some(Err(error)) => error.to_string(),
        // Whatever else is wrong has a number of its own.
        _ if ssl.verify_result() == trust::rejected() => trust::ROCA.to_owned(),
        _ => ssl.verify_result().error_string().to_owned(),
    }
}

/// OpenSSL's own words, without the places in its source.
pub(crate) fn reasons(stack: &openssl::error::ErrorStack) -> String {
    let reasons: Vec<&str> = stack.errors().iter().filter_map(|error| error.reason()).collect();
    if reasons.is_empty() { "refused by OpenSSL".to_owned() } else { reasons.join(", ") }
}
