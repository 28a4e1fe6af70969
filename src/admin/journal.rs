//! What has happened in this process, for whoever asks later: reloads with what they changed, orders with who gave them, what
//! canaries decided. All of it is bounded, and told to those who watch as it happens.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::notes::Notes;
use crate::{
    config::{Problem, Problems},
    observe::events::Events,
    snapshot::Snapshot,
};

const MOST_RELOADS: usize = 64;
const MOST_ORDERS: usize = 256;
/// Of configurations as they were, compressed. What is older has no diff any more.
const TEXTS: usize = 4 * 1024 * 1024;
/// Fast, and small enough: a configuration repeats itself.
const COMPRESSION: i32 = 1;

#[derive(Default)]
pub(crate) struct Journal {
    pub events: Arc<Events>,
    pub notes: Notes,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    next: u64,
    reloads: VecDeque<Reload>,
    orders: VecDeque<Order>,
    /// By the configuration's hash, the newest last.
    texts: VecDeque<(u64, Arc<[u8]>)>,
    rejected: Option<Rejected>,
    decisions: HashMap<Arc<str>, Decided>,
}

/// An attempt to put another configuration in force.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Reload {
    pub id: u64,
    pub at: String,
    /// `start`, `SIGHUP`, `watch`, `control plane`, or whoever has asked over the API.
    pub by: String,
    pub took_ms: f64,
    pub result: ReloadResult,
    /// In words.
    pub changes: Option<String>,
    /// One a line, each with its place.
    pub problems: Vec<String>,
    pub hash_before: Option<String>,
    pub hash_after: String,
    /// GET it at `/v1/reloads/{id}/diff`.
    pub has_diff: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReloadResult {
    Started,
    Reloaded,
    Unchanged,
    Rejected,
}

/// Something that an operator has ordered, and what came of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Order {
    pub id: u64,
    pub at: String,
    pub by: String,
    pub order: String,
    /// What it is about.
    pub on: String,
    pub result: String,
    pub ok: bool,
}

/// A configuration that was not taken, until one is.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Rejected {
    pub id: u64,
    pub at: String,
    pub problems: Vec<PlacedProblem>,
}

/// A problem with its place.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct PlacedProblem {
    /// All of it.
    pub text: String,
    pub file: Option<String>,
    /// From 1; null where it has none.
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub message: String,
}

/// What a canary did last.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Decided {
    pub at: String,
    pub what: String,
}

impl Journal {
    /// The process has put its first configuration in force.
    pub(crate) fn started(&self, snapshot: &Snapshot, took: Duration) {
        self.keep_text(snapshot);
        let started = Attempt { by: "start", took, before: None, after: snapshot.hash };
        self.add(started, ReloadResult::Started, None, &Problems::default());
    }

    /// Another configuration is in force. Compressing it takes a moment: not for the threads that serve requests.
    pub(crate) fn reloaded(&self, by: &str, took: Duration, before: u64, after: &Snapshot, changes: &str) {
        self.keep_text(after);
        let attempt = Attempt { by, took, before: Some(before), after: after.hash };
        self.add(attempt, ReloadResult::Reloaded, Some(changes), &Problems::default());
    }

    pub(crate) fn unchanged(&self, by: &str, took: Duration, hash: u64) {
        let attempt = Attempt { by, took, before: Some(hash), after: hash };
        self.add(attempt, ReloadResult::Unchanged, None, &Problems::default());
    }

    pub(crate) fn rejected(&self, by: &str, took: Duration, hash: u64, problems: &Problems) {
        let attempt = Attempt { by, took, before: Some(hash), after: hash };
        self.add(attempt, ReloadResult::Rejected, None, problems);
    }

    pub(crate) fn ordered(&self, by: &str, order: &str, on: &str, result: Result<&str, &str>) {
        let mut kept = self.lock();
        let entry = Order {
            id: kept.number(),
            at: now(),
            by: by.to_owned(),
            order: order.to_owned(),
            on: on.to_owned(),
            result: result.unwrap_or_else(|refused| refused).to_owned(),
            ok: result.is_ok(),
        };
        self.events.tell("order", &entry);
        kept.orders.push_front(entry);
        kept.orders.truncate(MOST_ORDERS);
    }

    /// A canary has moved: by itself, or ordered.
    pub(crate) fn canary(&self, route: &Arc<str>, what: &str, stands: (&str, f64, &str), by: Option<&str>) {
        let at = now();
        let (phase, weight, etag) = stands;
        // First: whoever hears of it asks for it at once.
        self.lock().decisions.insert(route.clone(), Decided { at: at.clone(), what: what.to_owned() });
        self.events.tell(
            "canary",
            &json!({"at": at, "route": route, "what": what, "phase": phase, "weight": weight, "etag": etag, "by": by}),
        );
    }

    pub(crate) fn breaker(&self, upstream: &str, endpoint: &str, state: &str, by: Option<&str>) {
        let told = json!({"at": now(), "upstream": upstream, "endpoint": endpoint, "state": state, "by": by});
        self.events.tell("breaker", &told);
    }

    pub(crate) fn endpoint(&self, upstream: &str, endpoint: &str, what: &str, why: Option<&str>) {
        let told = json!({"at": now(), "upstream": upstream, "endpoint": endpoint, "what": what, "why": why});
        self.events.tell("endpoint", &told);
    }

    pub(crate) fn phase(&self, word: &str) {
        self.events.tell("phase", &json!({"at": now(), "phase": word}));
    }

    pub(super) fn reloads(&self) -> Vec<Reload> {
        let kept = self.lock();
        kept.reloads
            .iter()
            .map(|reload| Reload { has_diff: kept.has_diff(reload), ..reload.clone() })
            .collect()
    }

    pub(super) fn orders(&self) -> Vec<Order> {
        self.lock().orders.iter().cloned().collect()
    }

    /// What was not taken last, if nothing was taken since.
    pub(super) fn last_rejected(&self) -> Option<Rejected> {
        self.lock().rejected.clone()
    }

    pub(super) fn last_decision(&self, route: &str) -> Option<Decided> {
        self.lock().decisions.get(route).cloned()
    }

    /// The configurations before and after a reload, redacted, in JSON. Slow: decompresses.
    pub(super) fn texts(&self, id: u64) -> Option<(String, String)> {
        let (before, after) = {
            let kept = self.lock();
            let reload = kept.reloads.iter().find(|reload| reload.id == id)?;
            let text = |hash: &str| {
                let hash = u64::from_str_radix(hash, 16).ok()?;
                kept.texts.iter().find(|(known, _)| *known == hash).map(|(_, text)| text.clone())
            };
            if reload.result != ReloadResult::Reloaded {
                return None;
            }
            (text(reload.hash_before.as_deref()?)?, text(&reload.hash_after)?)
        };
        Some((decompressed(&before).ok()?, decompressed(&after).ok()?))
    }

    fn add(&self, attempt: Attempt<'_>, result: ReloadResult, changes: Option<&str>, problems: &Problems) {
        let at = now();
        let mut kept = self.lock();
        let id = kept.number();
        let entry = Reload {
            id,
            at: at.clone(),
            by: attempt.by.to_owned(),
            took_ms: (attempt.took.as_secs_f64() * 1e4).round() / 10.0,
            result,
            changes: changes.map(str::to_owned),
            problems: problems.iter().map(ToString::to_string).collect(),
            hash_before: attempt.before.map(hash),
            hash_after: hash(attempt.after),
            has_diff: false,
        };
        kept.rejected = (result == ReloadResult::Rejected).then(|| Rejected {
            id,
            at,
            problems: problems.iter().map(PlacedProblem::of).collect(),
        });
        let entry = Reload { has_diff: kept.has_diff(&entry), ..entry };
        self.events.tell("reload", &entry);
        kept.reloads.push_front(entry);
        kept.reloads.truncate(MOST_RELOADS);
    }

    fn keep_text(&self, snapshot: &Snapshot) {
        let text = snapshot.effective.text();
        let Ok(text) = zstd::encode_all(text.as_bytes(), COMPRESSION) else { return };
        let mut kept = self.lock();
        kept.texts.retain(|(known, _)| *known != snapshot.hash);
        kept.texts.push_back((snapshot.hash, text.into()));
        while kept.texts.iter().map(|(_, text)| text.len()).sum::<usize>() > TEXTS {
            kept.texts.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Attempt<'a> {
    by: &'a str,
    took: Duration,
    before: Option<u64>,
    after: u64,
}

impl Kept {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn has_diff(&self, reload: &Reload) -> bool {
        let has = |wanted: &str| self.texts.iter().any(|(known, _)| hash(*known) == wanted);
        reload.result == ReloadResult::Reloaded
            && reload.hash_before.as_deref().is_some_and(has)
            && has(&reload.hash_after)
    }
}

impl PlacedProblem {
    pub(crate) fn of(problem: &Problem) -> PlacedProblem {
        let at = problem.location();
        let line = at.map(|at| at.line).filter(|line| *line > 0);
        let text = problem.to_string();
        let before = at.map(|at| format!("{at}: ")).unwrap_or_default();
        PlacedProblem {
            message: text.strip_prefix(&before).unwrap_or(&text).to_owned(),
            file: at.map(|at| at.file.to_string()),
            line,
            column: at.map(|at| at.column).filter(|_| line.is_some()),
            text,
        }
    }
}

/// Nothing that was compressed here is larger than a configuration may be.
fn decompressed(text: &[u8]) -> io::Result<String> {
    String::from_utf8(zstd::decode_all(text)?).map_err(io::Error::other)
}

pub(super) fn hash(hash: u64) -> String {
    format!("{hash:016x}")
}

pub(super) fn now() -> String {
    time(SystemTime::now())
}

pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Location, Path};

    #[test]
    fn a_problem_keeps_its_place_apart() {
        let at = Location { file: "g.yaml".into(), order: 0, line: 3, column: 5 };
        let problem =
            Problem::new("is wrong").at(at).path(Path::root().key("routes").index(0)).hint("fix it");
        let placed = PlacedProblem::of(&problem);
        assert_eq!(placed.text, "g.yaml:3:5: routes[0]: is wrong (fix it)");
        assert_eq!(placed.message, "routes[0]: is wrong (fix it)");
        assert_eq!((placed.file.as_deref(), placed.line, placed.column), (Some("g.yaml"), Some(3), Some(5)));
        let placed = PlacedProblem::of(&Problem::new("is wrong"));
        assert_eq!((placed.file, placed.line, placed.message.as_str()), (None, None, "is wrong"));
    }

    #[test]
    fn the_last_orders_and_reloads_are_kept_the_newest_first() {
        let journal = Journal::default();
        for n in 0..MOST_ORDERS + 5 {
            journal.ordered("alice", "drain", &n.to_string(), Ok("draining"));
            journal.unchanged("SIGHUP", Duration::ZERO, 1);
        }
        let orders = journal.orders();
        assert_eq!((orders.len(), orders[0].on.as_str()), (MOST_ORDERS, "260"));
        assert_eq!(journal.reloads().len(), MOST_RELOADS);
    }

    #[test]
    fn what_was_rejected_is_told_until_something_is_taken() {
        let journal = Journal::default();
        journal.rejected("SIGHUP", Duration::ZERO, 1, &Problem::new("is wrong").into());
        assert_eq!(journal.last_rejected().map(|rejected| rejected.problems.len()), Some(1));
        journal.unchanged("SIGHUP", Duration::ZERO, 1);
        assert!(journal.last_rejected().is_none());
    }
}
