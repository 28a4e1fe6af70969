//! Configurations that a control plane gives: each is a reload with other documents beside the file. What is in force is held on
//! disk before the control plane hears of it.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tokio::time;

use super::{
    Begins, Failure, Source,
    background_thread::aside,
    beside::Held,
    reload::{self, Reloader},
};
use crate::{
    accept::{Bound, HandoverError, Inherited, Listeners},
    config::{self, Additions, Problem, Problems, ReceivedConfig},
    control::join::{Configurations, HeldConfig, Kind, Order, Served},
    error::Reason,
    observe::{Recorder, log::event, metrics::Metrics},
    snapshot::{Current, Live, Snapshot, compile, diff},
};

/// What was served, as the control plane is told it.
pub(super) fn served(metrics: &Metrics) -> Served {
    let is_own = |code: &str| Reason::from_code(code).is_some_and(|reason| !reason.is_the_clients());
    let answers = metrics.own_answers().into_iter();
    let own_errors = answers.filter(|(code, _)| is_own(code)).map(|(_, count)| count).sum();
    Served { requests: metrics.requests(), own_errors }
}

/// Whether there is anything to answer requests with. Where a control plane gives the configuration, there may not be yet.
pub(super) fn has_something_to_serve(snapshot: &Snapshot) -> bool {
    let config = &snapshot.config;
    if config.takes_config().is_none() || snapshot.additions.received.is_some() {
        return true;
    }
    let needs_routes = |listener: &config::Listener| {
        let is_http = listener.protocol == config::Protocol::Http && listener.original_destination.is_none();
        is_http && snapshot.routes.is_empty()
    };
    !config.listeners.is_empty() && !config.listeners.iter().any(needs_routes)
}

impl Reloader {
    /// Carry out what the control plane wants, or leave everything as it is.
    pub(super) async fn receive(self: &Arc<Self>, order: Order, held: Option<&Arc<HeldConfig>>) {
        let additions =
            || Additions { received: Some(order.config.clone()), ..self.current.pin().additions.clone() };
        match order.kind {
            Kind::Check => {
                let outcome = self.check(additions()).await;
                tell_checked(&order.config, &outcome);
                order.answer(outcome);
            }
            Kind::Change => {
                let started = Instant::now();
                let before = self.current.pin().hash;
                let outcome = {
                    let _turn = self.turn.lock().await;
                    match self.clone().read(additions()).await {
                        Ok(None) => Ok("nothing".to_owned()),
                        Ok(Some(plan)) => self.switch(plan).await,
                        Err(problems) => Err(problems),
                    }
                };
                let by = format!("control plane: {} version {}", order.config.name, order.config.version);
                match &outcome {
                    Ok(changes) => self.note_reload(&by, started.elapsed(), before, changes).await,
                    Err(problems) => self.journal.rejected(&by, started.elapsed(), before, problems),
                }
                finish(order, outcome, started, held, &self.recorder).await;
            }
        }
    }
}

/// Says what has become of a version, to the operator first.
async fn finish(
    order: Order,
    outcome: Result<String, Problems>,
    started: Instant,
    held: Option<&Arc<HeldConfig>>,
    recorder: &Recorder,
) {
    let (config, took_ms) = (order.config.clone(), started.elapsed().as_millis());
    let (name, version) = (&config.name, config.version);
    let outcome = match outcome {
        Ok(changes) => {
            recorder.metrics.reload_succeeded(std::time::SystemTime::now());
            let message = "configuration received";
            event!(Info, message, config = name, version = version, changes = changes, took_ms = took_ms);
            if let Some(held) = held.cloned() {
                hold(held, config.clone()).await;
            }
            Ok(())
        }
        Err(problems) => {
            recorder.metrics.reload_failed();
            let message = "received configuration rejected";
            event!(Error, message, config = name, version = version, problems = problems, took_ms = took_ms);
            Err(problems)
        }
    };
    order.answer(outcome);
}

async fn hold(held: Arc<HeldConfig>, config: Arc<ReceivedConfig>) {
    let written = aside(move || held.write(&config)).await;
    if let Err(why) = written.unwrap_or_else(|| Err("writing it failed, see the log".to_owned())) {
        let message =
            "the configuration cannot be held; a restart without a control plane would find another, or none";
        event!(Error, message, why = why);
    }
}

fn tell_checked(config: &ReceivedConfig, outcome: &Result<(), Problems>) {
    let problems = outcome.as_ref().err().map_or(0, Problems::len);
    let (name, version) = (&config.name, config.version);
    let message = "configuration checked for the control plane";
    event!(Info, message, config = name, version = version, problems = problems);
}

/// What a process begins with that is given its configuration.
pub(super) struct Start<'a> {
    pub source: &'a Source,
    pub current: &'a Current,
    pub live: &'a Live,
    pub begins: Begins,
    pub held: &'a Held,
    pub recorder: &'a Recorder,
}

/// What was given before anything was served: in force, and still to be answered.
pub(super) struct Given {
    /// That were read for it.
    pub files: Vec<PathBuf>,
    order: Order,
    changes: String,
    started: Instant,
}

impl Start<'_> {
    /// Sockets for what the control plane gives before `until`, which is in force then, or for what was held.
    ///
    /// # Errors
    ///
    /// What is in force cannot be bound; or a successor does not know what its predecessor serves.
    pub(super) async fn bind(
        &self,
        configurations: Option<&mut Configurations>,
        until: time::Instant,
        listeners: &Listeners,
        inherited: &mut Inherited,
    ) -> Result<(Bound, Option<Given>), Failure> {
        let bind_current =
            |inherited: &mut Inherited| listeners.bind(&self.current.pin(), inherited).map_err(Failure::Bind);
        let Some(configurations) = configurations else { return Ok((bind_current(inherited)?, None)) };
        let is_successor = self.begins == Begins::AsSuccessor;
        let Some((order, next, started)) = self.first(configurations, until).await else {
            if is_successor && self.held.is_lost {
                let why = "the control plane has given no configuration, and what the gateway that runs has of it is not held";
                return Err(Failure::Handover(HandoverError::unprepared(why)));
            }
            self.say_what_is_used(configurations.is_heard());
            return Ok((bind_current(inherited)?, None));
        };
        let Next { snapshot, files, changes } = next;
        match listeners.bind(&snapshot, inherited) {
            Ok(bound) => {
                self.current.publish(Arc::new(snapshot));
                Ok((bound, Some(Given { files, order, changes, started })))
            }
            // The sockets that were handed over are gone with it.
            Err(error) if is_successor => Err(Failure::Bind(error)),
            Err(error) => {
                self.refuse(order, Problem::new(error.to_string()).into(), started).await;
                Ok((bind_current(inherited)?, None))
            }
        }
    }

    /// The first version that can be put in force.
    async fn first(
        &self,
        configurations: &mut Configurations,
        until: time::Instant,
    ) -> Option<(Order, Next, Instant)> {
        loop {
            let order = configurations.next_before(until).await?;
            let received = Some(order.config.clone());
            let additions = Additions { received, ..self.current.pin().additions.clone() };
            if order.kind == Kind::Check {
                let (source, current) = (self.source.clone(), self.current.clone());
                let registry = self.live.filters.registry().clone();
                let outcome = reload::check(source, registry, current, additions).await;
                tell_checked(&order.config, &outcome);
                order.answer(outcome);
                continue;
            }
            let started = Instant::now();
            match self.build(additions).await {
                Ok(next) => return Some((order, next, started)),
                Err(problems) => self.refuse(order, problems, started).await,
            }
        }
    }

    async fn build(&self, additions: Additions) -> Result<Next, Problems> {
        let (source, live, previous) = (self.source.clone(), self.live.clone(), self.current.pin());
        let built = aside(move || {
            let loaded = source.load_beside(&additions)?;
            let files = loaded.sources.files().to_vec();
            let plan = compile(loaded, &live.filters)?;
            reload::warn(&plan);
            let snapshot = Snapshot::build(plan, &live, Some(&previous)).map_err(Problems::from)?;
            let changes = diff(&previous, &snapshot).to_string();
            Ok(Next { snapshot, files, changes })
        });
        built.await.unwrap_or_else(|| Err(Problem::new("building it failed, see the log").into()))
    }

    async fn refuse(&self, order: Order, problems: Problems, started: Instant) {
        finish(order, Err(problems), started, None, self.recorder).await;
    }

    fn say_what_is_used(&self, is_heard: bool) {
        match &self.current.pin().additions.received {
            Some(_) if is_heard => {}
            Some(config) => event!(
                Warn,
                "the control plane has not answered in time: the configuration that was held is used",
                config = config.name,
                version = config.version
            ),
            None => event!(Warn, "no configuration: the control plane has given none, and none is held"),
        }
    }
}

struct Next {
    snapshot: Snapshot,
    files: Vec<PathBuf>,
    changes: String,
}

impl Given {
    /// It is served.
    pub(super) async fn finish(self, held: Option<&Arc<HeldConfig>>, recorder: &Recorder) {
        let Given { files: _, order, changes, started } = self;
        finish(order, Ok(changes), started, held, recorder).await;
    }
}
