//! The gateways of a configuration, as they have told of themselves. One that has left is remembered for a while: a rollout waits for
//! it, and operators see that it is missing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

use super::versions::Version;
use crate::{
    control::{
        instance::Owner,
        refused::{Located, Reason, Refused},
    },
    policy::waves::{Counted, Counts, Seen},
    wire::v1,
};

/// How long one that has left is remembered.
pub(super) const REMEMBERED: Duration = Duration::from_secs(3600);
/// No more than this of each configuration are.
pub(super) const MOST_AWAY: usize = 10_000;
pub(super) const LONGEST_WORD: usize = 128;
pub(super) const MOST_LABELS: usize = 32;
pub(super) const LONGEST_LABEL: usize = 512;

pub(crate) struct Gateway {
    pub(super) owner: Owner,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) release: String,
    /// Another number is another process.
    pub(super) started: u64,
    pub(super) place: Place,
    /// Since when it is there, or away.
    pub(super) since: (Instant, SystemTime),
    /// What it has in force; 0 for nothing.
    pub(super) version: u64,
    pub(super) sha256: String,
    /// The version that it was told last, and when.
    pub(super) told: Option<(u64, Instant)>,
    pub(super) verdict: Option<Verdict>,
    pub(super) tally: Tally,
    /// As another replica has counted, where it is with that.
    pub(super) counted_there: Option<Counted>,
    /// It has restarted, and is not sent the newest version before it is known what comes of that.
    pub(super) waits: bool,
    /// Of it as it is now, other replicas do not know.
    pub(super) is_untold: bool,
    /// They do not know that it is here.
    pub(super) has_come: bool,
    pub(super) counts_told: Option<(Instant, Counted)>,
}

/// Where it is connected.
pub(super) enum Place {
    Here(Connection),
    /// With this replica.
    Elsewhere(Arc<str>),
    Away,
}

/// A gateway's connection.
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) orders: mpsc::Sender<v1::Check>,
    /// Checks that it has not answered yet.
    pub(super) asked: HashMap<u64, oneshot::Sender<Vec<Located>>>,
}

/// What has become of a version.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) version: u64,
    /// None: it is in force.
    pub(super) problems: Vec<Located>,
    pub(super) is_in_force: bool,
    /// From when it was told.
    pub(super) lag: Option<Duration>,
}

/// Who comes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrival {
    pub(crate) config: Arc<str>,
    pub(crate) node: Arc<str>,
    labels: BTreeMap<String, String>,
    release: String,
    started: u64,
    version: u64,
    sha256: String,
}

impl Arrival {
    /// # Errors
    ///
    /// `bad_request`, `too_large`.
    pub(crate) fn read(hello: v1::ConfigHello) -> Result<Arrival, Refused> {
        let v1::ConfigHello { hello, config, version, sha256, started_ms } = hello;
        let v1::Hello { node, labels, version: release } =
            hello.ok_or_else(|| Reason::BadRequest.because("`hello` lacks the gateway itself"))?;
        super::document::check_config_name(&config)?;
        if node.is_empty() || node.len() > LONGEST_WORD || !node.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "is not the name of a node (1 to 128 printable characters without spaces)";
            return Err(Reason::BadRequest.because(format!("{node:?} {why}")));
        }
        let is_long =
            |(key, value): (&String, &String)| key.len() > LONGEST_WORD || value.len() > LONGEST_LABEL;
        if labels.len() > MOST_LABELS
            || labels.iter().any(is_long)
            || release.len() > LONGEST_WORD
            || sha256.len() > 64
        {
            return Err(Reason::TooLarge.because("`hello` holds more than it may (32 labels of 512 bytes)"));
        }
        let labels = labels.into_iter().collect();
        let (config, node) = (config.into(), node.into());
        Ok(Arrival { config, node, labels, release, started: started_ms, version, sha256 })
    }
}

impl Gateway {
    pub(super) fn new(arrival: Arrival, owner: Owner, stream: Connection, now: Instant) -> Gateway {
        let Arrival { config: _, node: _, labels, release, started, version, sha256 } = arrival;
        Gateway {
            owner,
            labels,
            release,
            started,
            place: Place::Here(stream),
            since: (now, SystemTime::now()),
            version,
            sha256,
            told: None,
            verdict: None,
            tally: Tally::default(),
            counted_there: None,
            waits: false,
            is_untold: true,
            has_come: true,
            counts_told: None,
        }
    }

    pub(super) fn is_there(&self) -> bool {
        !matches!(self.place, Place::Away)
    }

    pub(super) fn stream(&self) -> Option<&Connection> {
        match &self.place {
            Place::Here(stream) => Some(stream),
            Place::Elsewhere(_) | Place::Away => None,
        }
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.place {
            Place::Here(stream) => Some(stream),
            Place::Elsewhere(_) | Place::Away => None,
        }
    }

    pub(super) fn is_on(&self, stream: u64) -> bool {
        self.stream().is_some_and(|known| known.id == stream)
    }

    pub(super) fn leaves(&mut self, now: Instant) {
        self.place = Place::Away;
        self.since = (now, SystemTime::now());
    }

    /// Nothing that was said of any version is of one that is there now.
    pub(super) fn forget_versions(&mut self) {
        (self.version, self.told, self.verdict, self.is_untold) = (0, None, None, true);
    }

    /// Others are to know.
    pub(super) fn changes(&mut self) {
        self.is_untold = true;
    }

    /// As it is now, of what was there before: the same process has not forgotten what it refused.
    pub(super) fn after(self, before: Gateway) -> Gateway {
        if before.started != self.started {
            return self;
        }
        let refused = before.verdict.filter(|verdict| !verdict.is_in_force);
        let told = refused.as_ref().and(before.told);
        Gateway { verdict: refused, told, tally: before.tally, ..self }
    }

    pub(super) fn has(&self, version: &Version) -> bool {
        self.sha256 == version.sha256
    }

    /// It was told another version than it has, and has not said what became of it.
    pub(super) fn is_on_its_way(&self) -> bool {
        let has_answered = |told: u64| self.verdict.as_ref().is_some_and(|verdict| verdict.version == told);
        self.told.is_some_and(|(told, _)| told != self.version && !has_answered(told))
    }

    /// As the rollout of `newest` sees it.
    pub(super) fn seen(&self, newest: &Version, now: Instant) -> Seen {
        let refusal = self.verdict.as_ref();
        let refusal = refusal.filter(|verdict| verdict.version == newest.number && !verdict.is_in_force);
        let why = |verdict: &Verdict| {
            verdict
                .problems
                .first()
                .map_or("it does not say why".to_owned(), |problem| problem.message.clone())
        };
        Seen {
            connected: self.is_there(),
            started: self.started,
            in_force: self.has(newest),
            refused: refusal.map(why),
            counted: match self.place {
                Place::Elsewhere(_) => self.counted_there,
                Place::Here(_) | Place::Away => self.tally.counted(now),
            },
        }
    }

    pub(super) fn counts(&mut self, counts: Counts, now: Instant) {
        self.tally.add(counts, now);
    }
}

/// What a gateway did in the last minute.
#[derive(Debug, Default)]
pub(super) struct Tally(VecDeque<(Instant, Counts)>);

impl Tally {
    const MINUTE: Duration = Duration::from_secs(60);
    /// Those between are not needed.
    const STEP: Duration = Duration::from_millis(900);

    fn add(&mut self, counts: Counts, now: Instant) {
        let length = self.0.len();
        let is_close = length > 1 && now.saturating_duration_since(self.0[length - 2].0) < Tally::STEP;
        if is_close {
            self.0.pop_back();
        }
        self.0.push_back((now, counts));
        // One that is a minute old stays.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= Tally::MINUTE) {
            self.0.pop_front();
        }
    }

    pub(super) fn counted(&self, now: Instant) -> Option<Counted> {
        let (_, latest) = self.0.back()?;
        let is_old = |(at, _): &&(Instant, Counts)| now.saturating_duration_since(*at) >= Tally::MINUTE;
        let minute_ago = self.0.iter().rev().find(is_old).or(self.0.front());
        Some(Counted { now: *latest, minute_ago: minute_ago.map_or(*latest, |(_, counts)| *counts) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_knows_the_minute_before_and_no_more() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        assert_eq!(tally.counted(start), None);
        let counts = |requests| Counts { requests, own_errors: 0 };
        for tenth in 0..3000_u64 {
            tally.add(counts(tenth), start + Duration::from_millis(100 * tenth));
        }
        assert!(tally.0.len() < 80, "{}", tally.0.len());
        let now = start + Duration::from_millis(299_900);
        let Counted { now: latest, minute_ago } = tally.counted(now).unwrap();
        assert_eq!(latest, counts(2999));
        assert!((2380..=2400).contains(&minute_ago.requests), "{minute_ago:?}");
        let mut fresh = Tally::default();
        fresh.add(counts(1_000_000), start);
        let counted = fresh.counted(start).unwrap();
        assert_eq!(counted.now.since(counted.minute_ago), Counts::default(), "it was busy before it came");
    }

    #[test]
    fn an_arrival_is_within_bounds() {
        let hello = |node: &str, config: &str| v1::ConfigHello {
            hello: Some(v1::Hello { node: node.into(), ..v1::Hello::default() }),
            config: config.into(),
            ..v1::ConfigHello::default()
        };
        assert!(Arrival::read(hello("edge-7", "edge")).is_ok());
        for (hello, reason) in [
            (hello("", "edge"), Reason::BadRequest),
            (hello("a b", "edge"), Reason::BadRequest),
            (hello("a", "../edge"), Reason::BadRequest),
            (v1::ConfigHello { hello: None, ..hello("a", "edge") }, Reason::BadRequest),
            (v1::ConfigHello { sha256: "x".repeat(65), ..hello("a", "edge") }, Reason::TooLarge),
        ] {
            assert_eq!(Arrival::read(hello.clone()).unwrap_err().reason, reason, "{hello:?}");
        }
    }
}
