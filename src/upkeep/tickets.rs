//! Keys of session tickets that the gateways of a fleet share, made and rotated by whichever of them has the lock. The others take them
//! before they are used: a new key only reads tickets at first, and writes them from the next rotation on.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    fleet::{self, Fleet, Found, Keep},
    names::Resolve,
    observe::{log::event, metrics::Metrics},
    policy::freshness::Freshness,
    state_file,
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TicketSettings {
    pub fleet: fleet::Settings,
    /// How long a key writes tickets.
    pub rotate: Duration,
    /// Where they are kept, as `tls` reads them.
    pub file: PathBuf,
}

/// What stands in the fleet's store, and in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ring {
    /// In seconds since 1970.
    rotated: u64,
    /// In base64: the one that writes, the one that writes next, and those that did before.
    keys: Vec<String>,
}

const KEY: &str = "ring";
/// A name, and two secrets.
const LENGTH: usize = 80;
const MOST: usize = 4;
/// Nobody holds the lock for longer who lives.
const LOCK_FOR: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(60);
const LARGEST: u64 = 16 * 1024;

pub(super) async fn keep(settings: TicketSettings, names: Arc<dyn Resolve>, metrics: Arc<Metrics>) {
    let fleet = Fleet::open(&settings.fleet, LOCK_FOR, &names, &metrics);
    let freshness = Freshness { every: LOOK.min(settings.rotate / 4) };
    let mut failures = 0;
    loop {
        match turn(&settings, &fleet, &metrics).await {
            Ok(()) => failures = 0,
            Err(why) => {
                failures += 1;
                metrics.ticket_keys("failed");
                event!(Warn, "session ticket keys cannot be had, the old ones stay", why = why);
            }
        }
        tokio::time::sleep(freshness.wait(None, failures, &mut fastrand::Rng::new())).await;
    }
}

/// Take what the others have, or make it.
async fn turn(settings: &TicketSettings, fleet: &Fleet, metrics: &Metrics) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let file = settings.file.clone();
    let kept = tokio::task::spawn_blocking(move || state_file::read(&file, LARGEST).ok().flatten()).await;
    let kept = kept.ok().flatten().and_then(|text| Ring::parse(&text));
    let is_due = |ring: &Option<Ring>| ring.as_ref().is_none_or(|ring| ring.is_due(settings.rotate, now));
    let mut ring = stored(fleet).await?;
    if is_due(&ring) {
        match fleet.lock(KEY).await? {
            Some(_lock) => {
                // Another one may have been quicker.
                ring = stored(fleet).await?;
                if is_due(&ring) {
                    // A store that has lost them gets them back.
                    let next = match ring.or_else(|| kept.clone()) {
                        Some(ring) if !ring.is_due(settings.rotate, now) => ring,
                        Some(ring) => ring.rotated(now)?,
                        None => Ring::new(now)?,
                    };
                    fleet.put(KEY, next.to_text().as_bytes(), Keep::ForGood).await?;
                    metrics.ticket_keys("rotated");
                    event!(Info, "session ticket keys rotated", keys = next.keys.len());
                    ring = Some(next);
                }
            }
            // Whoever has it is about to write them.
            None if ring.is_none() => return Err("another gateway is making them".to_owned()),
            None => {}
        }
    }
    let Some(ring) = ring.filter(|ring| kept.as_ref() != Some(ring)) else { return Ok(()) };
    let (file, text) = (settings.file.clone(), ring.to_text());
    let written = tokio::task::spawn_blocking(move || state_file::write(&file, 0o600, text.as_bytes())).await;
    let written = written.map_err(|_| "it was interrupted".to_owned())?;
    written.map_err(|error| format!("{} cannot be written: {error}", settings.file.display()))?;
    metrics.ticket_keys("taken");
    Ok(())
}

async fn stored(fleet: &Fleet) -> Result<Option<Ring>, String> {
    match fleet.get(KEY).await? {
        Found::Nothing => Ok(None),
        Found::Value(text) => Ring::parse(&text).map(Some).ok_or_else(|| unreadable(fleet)),
        Found::Unreadable => Err(unreadable(fleet)),
    }
}

fn unreadable(fleet: &Fleet) -> String {
    let store = fleet.name();
    format!(
        "the keys in {store} cannot be read: do all gateways have the same `secret`? If so, they are damaged: remove them there"
    )
}

impl Ring {
    fn new(now: u64) -> Result<Ring, String> {
        Ok(Ring { rotated: now, keys: vec![fresh()?, fresh()?] })
    }

    /// A clock that was set back must not keep a key for ever.
    fn is_due(&self, every: Duration, now: u64) -> bool {
        now.abs_diff(self.rotated) >= every.as_secs()
    }

    /// The next one writes, and another one is next.
    fn rotated(&self, now: u64) -> Result<Ring, String> {
        let (writes, next) = match self.keys.as_slice() {
            [writes, next, ..] => (writes.clone(), next.clone()),
            _ => return Ring::new(now),
        };
        let before = self.keys[2..].iter().cloned();
        let keys = [next, fresh()?, writes].into_iter().chain(before).take(MOST);
        Ok(Ring { rotated: now, keys: keys.collect() })
    }

    fn parse(text: &[u8]) -> Option<Ring> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let rotated = lines.next()?.strip_prefix("# rotated ")?.parse().ok()?;
        let keys: Vec<String> = lines.map(str::to_owned).collect();
        let is_key = |key: &String| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == LENGTH);
        ((2..=MOST).contains(&keys.len()) && keys.iter().all(is_key)).then_some(Ring { rotated, keys })
    }

    fn to_text(&self) -> String {
        format!("# rotated {}\n{}\n", self.rotated, self.keys.join("\n"))
    }
}

fn fresh() -> Result<String, String> {
    let mut key = [0; LENGTH];
    openssl::rand::rand_bytes(&mut key).map_err(|error| format!("OpenSSL has no key for us: {error}"))?;
    Ok(BASE64_STANDARD.encode(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_before_it_writes_and_for_a_while_afterwards() {
        let hour = Duration::from_secs(3600);
        let first = Ring::new(1_000).unwrap();
        assert_eq!(Ring::parse(first.to_text().as_bytes()), Some(first.clone()));
        assert!(!first.is_due(hour, 4_599) && first.is_due(hour, 4_600));
        assert!(first.is_due(Duration::from_secs(500), 499), "the clock was set back");
        let second = first.rotated(4_600).unwrap();
        assert_eq!(second.keys[0], first.keys[1], "it was there to read");
        assert_eq!(second.keys[2], first.keys[0], "what it has written is still read");
        let fourth = second.rotated(8_200).unwrap().rotated(11_800).unwrap();
        assert_eq!(fourth.keys.len(), MOST);
        assert!(!fourth.keys.contains(&first.keys[0]), "in the end it goes");
    }

    #[test]
    fn what_is_no_ring_is_not_taken() {
        let good = Ring::new(7).unwrap();
        let key = &good.keys[0];
        for text in [
            String::new(),
            key.clone(),
            format!("# rotated 7\n{key}\n"),
            format!("# rotated x\n{key}\n{key}\n"),
            format!("# rotated 7\n{key}\n{}\n", &key[4..]),
            format!("# rotated 7\n{}", format!("{key}\n").repeat(5)),
        ] {
            assert_eq!(Ring::parse(text.as_bytes()), None, "{text}");
        }
    }
}
