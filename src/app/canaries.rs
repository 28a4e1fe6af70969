//! What drives canaries: once a second each is looked at, what it decides is told, and its progress is written down, so
//! that a restart goes on where it stopped.

use std::{
    collections::HashMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    admin::journal::Journal,
    observe::{log::event, metrics::Metrics},
    policy::canary::{Decision, Saved, cut},
    snapshot::{Current, Rollout, Snapshot, phase_word},
    state_file,
};

/// Also how long it may take until a decision is told. The first failures of a candidate are judged at once.
const LOOK: Duration = Duration::from_secs(1);
/// Progress within a step is written down this often: a crash loses no more of it.
const SAVE: Duration = Duration::from_secs(5);
/// Nothing in them is secret.
const MODE: u32 = 0o644;
/// A canary that waits for requests says so this often.
const REMIND: Duration = Duration::from_secs(60);

pub(crate) struct Canaries {
    current: Current,
    metrics: Arc<Metrics>,
    journal: Arc<Journal>,
    known: Mutex<HashMap<Arc<str>, Known>>,
    /// A successor judges them, and writes to the same files. Changed under the lock of `known`.
    is_given_away: AtomicBool,
}

/// What is remembered of a canary between two looks.
struct Known {
    rollout: Arc<Rollout>,
    saved: Option<(f64, String)>,
    saved_at: Instant,
    reminded: Option<Instant>,
}

impl Canaries {
    pub(crate) fn new(current: Current, metrics: Arc<Metrics>, journal: Arc<Journal>) -> Canaries {
        Canaries { current, metrics, journal, known: Mutex::default(), is_given_away: AtomicBool::new(false) }
    }

    /// Look at all canaries, again and again.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let this = self.clone();
            // Files are written; a panic is logged by its hook and costs this one look.
            let _ = tokio::task::spawn_blocking(move || {
                let _ = catch_unwind(AssertUnwindSafe(|| this.look(Instant::now())));
            })
            .await;
        }
    }

    fn look(&self, now: Instant) {
        if self.is_given_away.load(Relaxed) {
            return;
        }
        let snapshot = self.current.pin();
        let rollouts: Vec<_> = snapshot.routes.iter().filter_map(|route| route.rollout()).collect();
        for rollout in &rollouts {
            self.tell(rollout, rollout.judge(now), now);
        }
        self.save_all(&snapshot, now, Due::WhenChanged);
    }

    /// Write all progress down, before the process ends.
    pub(crate) fn save(&self) {
        self.save_all(&self.current.pin(), Instant::now(), Due::Always);
    }

    /// Write all progress down, and leave it to a successor: nothing is judged or written any more.
    pub(crate) fn give_away(&self) {
        self.save();
        let _known = self.known();
        self.is_given_away.store(true, Relaxed);
    }

    /// It does not come about.
    pub(crate) fn take_back(&self) {
        self.is_given_away.store(false, Relaxed);
    }

    fn tell(&self, rollout: &Rollout, decision: Decision, now: Instant) {
        let word = match decision {
            Decision::Wait | Decision::Keep { .. } => return,
            Decision::Hold { .. } if !self.reminds(rollout, now) => return,
            Decision::Hold { .. } => "hold",
            Decision::Advance { .. } => "advance",
            Decision::Promote { .. } => "promote",
            Decision::Rollback { .. } => "rollback",
            Decision::Pause { .. } => "pause",
        };
        self.metrics.states().count_canary_decision(&rollout.route, word);
        let (route, weight) = (&rollout.route, rollout.weight());
        if !matches!(decision, Decision::Hold { .. }) {
            let status = rollout.status(now);
            let stands = (phase_word(status.phase), status.weight, &*status.etag());
            self.journal.canary(route, &decision.to_string(), stands, None);
        }
        match decision {
            Decision::Rollback { .. } | Decision::Pause { .. } => {
                event!(Warn, "canary", route = route, decision = word, weight = weight, what = decision);
            }
            Decision::Advance { .. } | Decision::Promote { .. } => {
                let sure = cut(rollout.sure());
                event!(
                    Info,
                    "canary",
                    route = route,
                    decision = word,
                    weight = weight,
                    sure = sure,
                    what = decision
                );
            }
            _ => match rollout.status(now).outlook {
                Some(outlook) => {
                    let known =
                        |count: Option<u64>| count.map_or("unknown".to_owned(), |count| count.to_string());
                    let soon = outlook.decides_in.map(|time| time.as_secs_f64().ceil() as u64);
                    event!(
                        Info,
                        "canary",
                        route = route,
                        decision = word,
                        weight = weight,
                        requirement = outlook.requirement,
                        sure = cut(outlook.sure),
                        needed = cut(outlook.needed),
                        missing_requests = known(outlook.missing),
                        decides_in_seconds = known(soon),
                        what = decision
                    );
                }
                None => {
                    event!(Info, "canary", route = route, decision = word, weight = weight, what = decision)
                }
            },
        }
    }

    fn reminds(&self, rollout: &Rollout, now: Instant) -> bool {
        let mut known = self.known();
        let Some(known) = known.get_mut(&rollout.route) else { return false };
        let due = known.reminded.is_none_or(|reminded| now - reminded >= REMIND);
        if due {
            known.reminded = Some(now);
        }
        due
    }

    fn save_all(&self, snapshot: &Snapshot, now: Instant, due: Due) {
        let directory = snapshot.config.state_dir.as_deref();
        let mut known = self.known();
        if self.is_given_away.load(Relaxed) {
            return;
        }
        let mut present = HashMap::new();
        for rollout in snapshot.routes.iter().filter_map(|route| route.rollout()) {
            let before = known.remove(&rollout.route).filter(|known| Arc::ptr_eq(&known.rollout, rollout));
            let mut one = before.unwrap_or_else(|| Known {
                rollout: rollout.clone(),
                saved: None,
                saved_at: now,
                reminded: None,
            });
            if let Some(directory) = directory {
                one.save(directory, &self.metrics, now, due);
            }
            present.insert(rollout.route.clone(), one);
        }
        // Another canary of the same name has written over the file of the one that is gone.
        if let Some(directory) = directory {
            for route in known.keys().filter(|route| !present.contains_key(*route)) {
                // It may never have been written.
                let _ = fs::remove_file(file(directory, route));
            }
        }
        *known = present;
    }

    /// The map is valid after every statement that changes it.
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Always,
    WhenChanged,
}

impl Known {
    fn save(&mut self, directory: &Path, metrics: &Metrics, now: Instant, due: Due) {
        let status = self.rollout.status(now);
        let stands = Some((status.weight, format!("{:?}", status.phase)));
        let is_due = due == Due::Always || self.saved != stands || now - self.saved_at >= SAVE;
        if !is_due {
            return;
        }
        match write(directory, &self.rollout.route, &self.rollout.save(now)) {
            Ok(()) => self.saved = stands,
            Err(error) => {
                metrics.states().count_canary_save_error();
                // Once for each failure in a row of them, not once a second.
                if self.saved.is_some() || now == self.saved_at {
                    let directory = directory.display();
                    log::error!(
                        "cannot write a canary's progress to {directory}: {error}; a restart would lose it"
                    );
                }
                self.saved = None;
            }
        }
        self.saved_at = now;
    }
}

/// Go on where the canaries of `snapshot` stopped. What is not theirs, or cannot be read, is set aside.
pub(crate) fn restore(snapshot: &Snapshot, now: Instant) {
    let Some(directory) = &snapshot.config.state_dir else { return };
    for rollout in snapshot.routes.iter().filter_map(|route| route.rollout()) {
        let path = file(directory, &rollout.route);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                log::warn!("cannot read {}: {error}; the canary begins anew", path.display());
                continue;
            }
        };
        let restored = serde_json::from_slice::<Saved>(&text)
            .map_err(|error| error.to_string())
            .and_then(|saved| rollout.restore(saved, now).map_err(|stale| stale.to_string()));
        match restored {
            Ok(()) => {
                let weight = rollout.weight();
                event!(Info, "canary goes on", route = rollout.route, weight = weight);
            }
            Err(why) => set_aside(&path, &why),
        }
    }
}

fn set_aside(path: &Path, why: &str) {
    let moved = state_file::set_aside(path);
    let path = path.display();
    log::warn!("the canary's progress in {path} is not used: {why}; it begins anew, and the file is {moved}");
}

fn write(directory: &Path, route: &str, saved: &Saved) -> io::Result<()> {
    state_file::write(&file(directory, route), MODE, &serde_json::to_vec(saved)?)
}

/// Any name makes a file name: what is not a letter or digit is percent-encoded, and a long one is cut and numbered.
fn file(directory: &Path, route: &str) -> PathBuf {
    const LONGEST: usize = 150;
    let mut name = utf8_percent_encode(route, NON_ALPHANUMERIC).to_string();
    if name.len() > LONGEST {
        let sum = route.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        name.truncate(LONGEST);
        name.push_str(&format!("-{sum:016x}"));
    }
    directory.join("canaries").join(name + ".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_a_file_of_its_own() {
        let directory = Path::new("/state");
        let names =
            ["search", "GET a.example/x", "../../etc/passwd", &"long".repeat(100), &"long".repeat(101)];
        let files: std::collections::BTreeSet<_> = names.iter().map(|name| file(directory, name)).collect();
        assert_eq!(files.len(), names.len());
        for file in files {
            assert_eq!(file.parent(), Some(Path::new("/state/canaries")), "{}", file.display());
            assert!(file.file_name().unwrap().len() < 200);
        }
    }
}
