//! What the operator wants: accounts, names, and where it is all kept. Made by compiling a configuration.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use super::{ca::CaSettings, dns::HookSettings, on_demand::OnDemandSettings};
use crate::{
    fleet,
    policy::{bucket::Limit, issuance::Pace, renewal::Renewal},
};

/// The names in each certificate, by what it is known by.
pub type Certificates = BTreeMap<Arc<str>, Arc<[Arc<str>]>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// By the names that listeners use.
    pub accounts: BTreeMap<Arc<str>, AccountSettings>,
    /// What each is to have certificates for.
    pub names: BTreeMap<Arc<str>, Certificates>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AccountSettings {
    pub email: Option<String>,
    /// The first that works; there is at least one.
    pub cas: Vec<CaSettings>,
    pub key: KeyKind,
    /// The best first; after a failure the next is tried.
    pub challenges: Vec<Challenge>,
    /// Of one request to a CA.
    pub request_timeout: Duration,
    /// Of a whole order.
    pub order_timeout: Duration,
    pub pace: Pace,
    /// How many orders there may be.
    pub orders: Limit,
    pub at_once: NonZeroUsize,
    pub renewal: Renewal,
    pub dns: Option<HookSettings>,
    /// Who is asked about names that nobody has configured.
    pub on_demand: Option<OnDemandSettings>,
    /// Where certificates, accounts and attempts are kept.
    pub storage: StorageSettings,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StorageSettings {
    /// `state_dir`.
    Folder(PathBuf),
    /// What several gateways share, with `state_dir` for copies.
    Shared { fleet: Box<fleet::Settings>, local: Option<PathBuf> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    P256,
    P384,
    Rsa2048,
    Rsa4096,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    Http01,
    TlsAlpn01,
    Dns01,
}

impl Challenge {
    /// As RFC 8555 and RFC 8737 call it.
    pub const fn word(self) -> &'static str {
        match self {
            Challenge::Http01 => "http-01",
            Challenge::TlsAlpn01 => "tls-alpn-01",
            Challenge::Dns01 => "dns-01",
        }
    }
}
