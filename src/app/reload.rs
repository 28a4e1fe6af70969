//! A new configuration while requests are served: all of it or nothing, and one log line that says which.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures::future::join_all;

use crate::{
    accept::{Bound, Inherited, Listeners},
    admin::{Outcome, journal::Journal},
    app::{
        SETTLE, Source, access_log,
        allocator::{Allocator, collect},
        background_thread::aside,
        exporter::{self, Exporting},
        format, level,
        limits::{self, Limits},
        parts::Kept,
    },
    config::{Additions, Config, Path, Problem, Problems},
    filter::Registry,
    observe::{
        Recorder,
        log::{Logger, event},
    },
    snapshot::{Current, Live, Plan, Snapshot, compile, diff},
};

pub(crate) struct Reloader {
    pub(super) source: Source,
    pub(super) current: Current,
    live: Live,
    listeners: Arc<Listeners>,
    pub(super) recorder: Arc<Recorder>,
    logger: &'static Logger,
    allocator: Allocator,
    exporting: Arc<Exporting>,
    limits: Limits,
    /// What stands beside the files is written down here.
    pub(super) kept: Arc<Kept>,
    /// What has happened, for whoever asks later.
    pub(super) journal: Arc<Journal>,
    files: Mutex<Vec<PathBuf>>,
    /// One reload, or order for a part, at a time: two would carry over from the same predecessor.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// A snapshot that only has to be put in force.
pub(super) struct Ready {
    pub previous: Arc<Snapshot>,
    pub next: Arc<Snapshot>,
    /// In words.
    pub changes: String,
    bound: Bound,
    exports: exporter::Prepared,
}

impl Reloader {
    #[expect(clippy::too_many_arguments, reason = "all that a reload changes")]
    pub(crate) fn new(
        source: Source,
        files: Vec<PathBuf>,
        current: Current,
        live: Live,
        listeners: Arc<Listeners>,
        recorder: Arc<Recorder>,
        logger: &'static Logger,
        allocator: Allocator,
        exporting: Arc<Exporting>,
        limits: Limits,
        kept: Kept,
        journal: Arc<Journal>,
    ) -> Reloader {
        let (files, turn) = (Mutex::new(files), tokio::sync::Mutex::default());
        Reloader {
            source,
            current,
            live,
            listeners,
            recorder,
            logger,
            allocator,
            exporting,
            limits,
            kept: Arc::new(kept),
            journal,
            files,
            turn,
        }
    }

    /// The files the configuration in force was read from, those of its plugins included.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        files.extend(self.current.pin().filters.plugin_files());
        files
    }

    /// Read the configuration again and put it in force, or leave everything as it is.
    pub(crate) async fn reload(self: &Arc<Self>, by: &str) -> Outcome {
        let before = self.current.pin().hash;
        let (outcome, took) = self.read_and_switch().await;
        self.tell(outcome, took, by, before).await
    }

    /// The same where nobody has said that it has changed: that it has not is no news.
    pub(crate) async fn catch_up(self: &Arc<Self>, by: &str) {
        let before = self.current.pin().hash;
        match self.read_and_switch().await {
            (Ok(None), _) => self.allocator.give_back().await,
            (outcome, took) => {
                self.tell(outcome, took, by, before).await;
            }
        }
    }

    /// What has changed, if something has, and how long it took to find out.
    async fn read_and_switch(self: &Arc<Self>) -> (Result<Option<String>, Problems>, Duration) {
        let _turn = self.turn.lock().await;
        let started = Instant::now();
        let additions = self.current.pin().additions.clone();
        let outcome = match self.clone().read(additions).await {
            Ok(None) => {
                self.look_at_certificates().await;
                Ok(None)
            }
            Ok(Some(plan)) => self.switch(plan).await.map(Some),
            Err(problems) => Err(problems),
        };
        (outcome, started.elapsed())
    }

    pub(super) async fn switch(self: &Arc<Self>, plan: Plan) -> Result<String, Problems> {
        let changes = self.put_in_force(self.prepare(plan).await?).await?;
        // Orders for endpoints of upstreams that are gone have gone with them.
        self.keep_what_is_in_force().await;
        Ok(changes)
    }

    async fn tell(
        &self,
        outcome: Result<Option<String>, Problems>,
        took: Duration,
        by: &str,
        before: u64,
    ) -> Outcome {
        let took_ms = took.as_millis();
        match outcome {
            Ok(None) => {
                self.recorder.metrics.reload_succeeded(SystemTime::now());
                event!(Info, "configuration unchanged", took_ms = took_ms, by = by);
                self.journal.unchanged(by, took, before);
                Outcome::Unchanged
            }
            Ok(Some(changes)) => {
                self.recorder.metrics.reload_succeeded(SystemTime::now());
                event!(Info, "configuration reloaded", changes = changes, took_ms = took_ms, by = by);
                self.note_reload(by, took, before, &changes).await;
                Outcome::Reloaded(changes)
            }
            Err(problems) => {
                self.recorder.metrics.reload_failed();
                event!(Error, "configuration rejected", problems = problems, took_ms = took_ms, by = by);
                self.journal.rejected(by, took, before, &problems);
                Outcome::Rejected(problems.to_string())
            }
        }
    }

    /// Another configuration is in force. A large one takes a moment to keep.
    pub(super) async fn note_reload(&self, by: &str, took: Duration, before: u64, changes: &str) {
        let (journal, next) = (self.journal.clone(), self.current.pin());
        let (by, changes) = (by.to_owned(), changes.to_owned());
        aside(move || journal.reloaded(&by, took, before, &next, &changes)).await;
    }

    /// The files that the listeners' certificates come from.
    pub(crate) fn certificate_files(&self) -> Vec<PathBuf> {
        self.current.pin().terminators().flat_map(|(_, tls)| tls.files()).collect()
    }

    /// Show what is new in the certificates' files. What is wrong there is told, and changes nothing.
    pub(crate) async fn refresh_certificates(&self) {
        // A reload looks at them as well.
        let _turn = self.turn.lock().await;
        self.look_at_certificates().await;
    }

    async fn look_at_certificates(&self) {
        let snapshot = self.current.pin();
        aside(move || {
            for (listener, tls) in snapshot.terminators() {
                match tls.refresh() {
                    Ok(true) => event!(Info, "certificates reloaded", listener = listener),
                    Err(problems) => {
                        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                        event!(
                            Warn,
                            "changed certificates rejected, the old ones stay",
                            listener = listener,
                            problems = problems.join("; ")
                        );
                    }
                    Ok(false) => {}
                }
            }
        })
        .await;
    }

    /// The files, with `additions` beside them; `None` where that is what is in force. Off the threads that serve requests:
    /// 10,000 routes take a moment to compile.
    pub(super) async fn read(self: Arc<Self>, additions: Additions) -> Result<Option<Plan>, Problems> {
        let read = aside(move || {
            let loaded = self.source.load_beside(&additions)?;
            *self.files.lock().unwrap_or_else(PoisonError::into_inner) = loaded.sources.files().to_vec();
            let current = self.current.pin();
            let is_same = loaded.sources.hash() == current.hash
                && additions == current.additions
                && !current.filters.has_changed_plugins();
            if loaded.config().is_ok() && is_same {
                return Ok(None);
            }
            let plan = compile(loaded, &self.live.filters)?;
            // What was written has gone, and this thread goes as well: what is built next takes its place.
            collect(true);
            Ok(Some(plan))
        });
        read.await.unwrap_or_else(|| Err(Problem::new("reading it failed, see the log").into()))
    }

    /// Whether the configuration with `additions` could be put in force, as far as that can be said without doing so.
    pub(super) async fn check(self: &Arc<Self>, additions: Additions) -> Result<(), Problems> {
        let registry = self.live.filters.registry().clone();
        check(self.source.clone(), registry, self.current.clone(), additions).await
    }

    /// All that can fail for what is in the configuration.
    pub(super) async fn prepare(self: &Arc<Self>, plan: Plan) -> Result<Ready, Problems> {
        let previous = self.current.pin();
        refuse_fixed(&previous, &plan)?;
        warn(&plan);
        let descriptors = self.limits.resources.descriptors;
        limits::warning(&plan.config, descriptors).iter().for_each(|warning| log::warn!("{warning}"));
        let (next, changes) = {
            let (this, previous) = (self.clone(), previous.clone());
            // Comparing 10,000 routes takes as long as building them: neither is for the threads that serve.
            let built = aside(move || {
                let next = Snapshot::build(plan, &this.live, Some(&previous))?;
                let changes = diff(&previous, &next).to_string();
                Ok((Arc::new(next), changes))
            });
            built
                .await
                .unwrap_or_else(|| Err(vec![Problem::new("building it failed, see the log")]))
                .map_err(Problems::from)?
        };
        // What can fail comes before what cannot be taken back.
        let bound =
            self.listeners.bind(&next, &mut Inherited::default()).map_err(|e| Problem::new(e.to_string()))?;
        let exports = self.exporting.prepare(&next.exports).map_err(Problem::new)?;
        Ok(Ready { previous, next, changes, bound, exports })
    }

    /// From its publication on nothing can fail.
    pub(super) async fn put_in_force(&self, ready: Ready) -> Result<String, Problems> {
        let Ready { previous, next, changes, bound, exports } = ready;
        let records = next.exports.logs.is_some();
        let access = access_log::settings(&next.config, next.access.as_deref(), records);
        self.recorder.set_access(&access).map_err(|error| unopened(&next.config, &error))?;
        self.exporting.put_in_force(exports);
        // Before it is in force, so that its first request waits less.
        self.live.filters.start();
        settle(&next, SETTLE).await;
        self.current.publish(next.clone());
        next.filters.keep_plugins();
        self.limits.set(&next.config);
        self.listeners.apply(&next, bound);
        self.logger.configure(level(&next.config), format(next.config.log.format));
        let (live, allocator) = (self.live.clone(), self.allocator.clone());
        tokio::spawn(retire(previous, live, allocator));
        Ok(changes)
    }
}

/// Whether `source` with `additions` could be put in force in the place of `current`, as far as that can be said without
/// doing so.
pub(super) async fn check(
    source: Source,
    registry: Arc<Registry>,
    current: Current,
    additions: Additions,
) -> Result<(), Problems> {
    let checked = aside(move || {
        let loaded = source.load_beside(&additions)?;
        let plan = compile(loaded, &registry.trial())?;
        refuse_fixed(&current.pin(), &plan)
    });
    checked.await.unwrap_or_else(|| Err(Problem::new("reading it failed, see the log").into()))
}

/// What works and should not be so.
pub(crate) fn warn(plan: &Plan) {
    plan.warnings.iter().for_each(|problem| log::warn!("{problem}"));
}

/// What only a new process can change. Every key is named, so that the compiler asks of a new one whether it is such.
fn refuse_fixed(previous: &Snapshot, plan: &Plan) -> Result<(), Problems> {
    let Config {
        include: _,
        admin,
        control,
        log: _,
        metrics: _,
        watch: _,
        trusted_proxies: _,
        forwarded: _,
        paths: _,
        shutdown: _,
        upgrade,
        state_dir,
        limits: _,
        zone: _,
        threads,
        identity: _,
        acme: _,
        mode: _,
        sidecar: _,
        tracing: _,
        defaults: _,
        error_pages: _,
        listeners: _,
        routes: _,
        upstreams: _,
        plugins: _,
        filters: _,
    } = &*plan.config;
    let mut problems = Vec::new();
    for (key, same) in [
        ("admin", previous.config.admin == *admin),
        ("control", previous.config.control == *control),
        ("state_dir", previous.config.state_dir == *state_dir),
        ("threads", previous.config.threads == *threads),
        ("upgrade", previous.config.upgrade == *upgrade),
    ] {
        if !same {
            let problem = Problem::new(format!("`{key}` cannot change while the gateway runs"));
            problems.push(problem.hint("restart it, or take it over with `tidegate upgrade`"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.into()) }
}

/// Wait until every upstream knows its endpoints and their health, so that the first request finds one, and until there
/// is an SVID; not long, as an upstream or an agent may be down.
pub(crate) async fn settle(snapshot: &Snapshot, patience: Duration) {
    let upstreams = join_all(snapshot.upstreams.values().map(|upstream| upstream.settled()));
    let identity = async {
        if let Some(identity) = &snapshot.identity {
            identity.settled().await;
        }
    };
    let certificates = async {
        if let Some(acme) = &snapshot.acme {
            acme.settled().await;
        }
    };
    // What has not settled by then is served as it is.
    let all = futures::future::join3(upstreams, identity, certificates);
    let _ = tokio::time::timeout(patience, all).await;
}

/// Freeing 10,000 routes takes milliseconds, which the last request to hold them should not have to pay. The memory goes back
/// to the system then.
async fn retire(snapshot: Arc<Snapshot>, live: Live, allocator: Allocator) {
    const LOOK: Duration = Duration::from_millis(50);
    const PATIENCE: u32 = 600;
    for _ in 0..PATIENCE {
        if Arc::strong_count(&snapshot) == 1 {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    // A request that lasts longer, such as a WebSocket, frees it when it ends.
    aside(move || {
        drop(snapshot);
        live.metrics.forget_unused();
        live.filters.forget_unused();
    })
    .await;
    allocator.give_back().await;
    // What threads that were busy have taken in since.
    tokio::time::sleep(SETTLE).await;
    allocator.give_back().await;
}
/// The access log cannot be written where the configuration says.
pub(super) fn unopened(config: &Config, error: &std::io::Error) -> Problem {
    let files: Vec<_> = config.log.access.to.files().map(|file| file.display().to_string()).collect();
    let problem = Problem::new(format!("cannot open the access log {}: {error}", files.join(", ")));
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => "create its directory first",
        _ => "name a file that the gateway may write",
    };
    problem.path(Path::root().key("log").key("access").key("to")).hint(hint)
}
