//! What is known of one name: its certificate, when it is to be renewed, and what has become of the orders for it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{ari, order, trouble::Trouble};
use crate::{
    policy::{
        issuance::Attempts,
        renewal::{Life, Renewal, Window},
    },
    tls::{Certificate, Want},
};

/// As it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    /// Whose directory has led to it.
    pub directory: String,
    /// PEM.
    pub chain: String,
    pub key: String,
}

/// What has become of orders, as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Tried {
    /// The directories of the CAs that they are of, in order.
    pub cas: Vec<String>,
    pub attempts: Attempts,
}

pub(super) struct Holding {
    /// What it is to be for.
    pub names: Arc<[Arc<str>]>,
    pub held: Option<Held>,
    pub attempts: Attempts,
    pub want: Want,
    /// Somebody orders for it here.
    pub is_busy: bool,
    /// An operator wants a new one.
    pub is_wanted: bool,
    /// The same, and has not been heard yet: no CA rests.
    pub is_woken: bool,
    /// Somebody else had the lock: not looked at before.
    pub not_before: Option<SystemTime>,
    pub failed: Option<Failed>,
}

pub(super) struct Failed {
    pub at: SystemTime,
    pub ca: Arc<str>,
    pub trouble: Trouble,
}

pub(super) struct Held {
    pub directory: String,
    pub life: Life,
    pub window: Option<Window>,
    /// When the CA is asked for a window.
    pub ask_at: SystemTime,
    /// How the CA calls it.
    pub id: Option<String>,
    certificate: Arc<Certificate>,
    draw: f64,
}

/// For operators: of one name, also where it is in a certificate with others.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub account: Arc<str>,
    pub name: Arc<str>,
    pub state: State,
    /// Of the CA whose it is.
    pub issuer: Option<String>,
    pub until: Option<SystemTime>,
    pub renewed_at: Option<SystemTime>,
    /// When, at which CA, the reason's word, and why.
    pub failed: Option<(SystemTime, Arc<str>, &'static str, String)>,
    /// When an order may be tried again.
    pub again_at: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Valid,
    /// It is valid, but should have been renewed by now.
    Due,
    Missing,
    Expired,
}

impl State {
    pub(crate) const ALL: [State; 4] = [State::Valid, State::Due, State::Missing, State::Expired];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            State::Valid => "valid",
            State::Due => "due",
            State::Missing => "missing",
            State::Expired => "expired",
        }
    }
}

impl Held {
    pub(super) fn new(
        certificate: &Arc<Certificate>,
        directory: String,
        ask_at: SystemTime,
        draw: f64,
    ) -> Held {
        let (from, until) = certificate.life();
        let id = ari::id(certificate.leaf());
        let (life, certificate) = (Life { from, until }, certificate.clone());
        Held { life, id, directory, window: None, ask_at, certificate, draw }
    }

    pub(super) fn due(&self, renewal: Renewal) -> SystemTime {
        renewal.due(self.life, self.window, self.draw)
    }
}

impl Holding {
    pub(super) fn new(names: Arc<[Arc<str>]>, want: Want, held: Option<Held>) -> Holding {
        Holding {
            names,
            held,
            want,
            attempts: Attempts::default(),
            is_busy: false,
            is_wanted: false,
            is_woken: false,
            not_before: None,
            failed: None,
        }
    }

    pub(super) fn is_due(&self, renewal: Renewal, now: SystemTime) -> bool {
        self.is_wanted
            || self.held.as_ref().is_none_or(|held| {
                // Names have come or gone.
                held.due(renewal) <= now || !held.certificate.is_for_exactly(&self.names)
            })
    }

    pub(super) fn state(&self, renewal: Renewal, now: SystemTime) -> State {
        match &self.held {
            None => State::Missing,
            Some(held) if held.life.until <= now => State::Expired,
            // An order takes its time.
            Some(held) if held.due(renewal) + Duration::from_secs(3600) <= now => State::Due,
            Some(_) => State::Valid,
        }
    }
}

/// What was stored, if it is what it should be. One for several names is good for those of them that it has.
///
/// # Errors
///
/// Why not.
pub(super) fn read(names: &[Arc<str>], stored: &[u8]) -> Result<(Arc<Certificate>, Record), String> {
    let record: Record =
        serde_json::from_slice(stored).map_err(|_| "it is not what we have written".to_owned())?;
    let certificate =
        Certificate::from_pem(record.chain.as_bytes(), record.key.as_bytes()).map_err(|wrong| wrong.why)?;
    let has_some = |certificate: &Certificate| {
        names.len() > 1 && names.iter().any(|name| certificate.names.iter().any(|own| **own == **name))
    };
    if !certificate.is_for_exactly(names) && !has_some(&certificate) {
        return Err(format!("its certificate is for {}", certificate.names.join(", ")));
    }
    Ok((Arc::new(certificate), record))
}

impl Record {
    pub(super) fn of(obtained: &order::Obtained, directory: &str) -> Record {
        let (chain, key) = (obtained.chain.clone(), obtained.key.clone());
        Record { directory: directory.to_owned(), chain, key }
    }
}
