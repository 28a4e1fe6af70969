//! One connection to a Redis for all limits that name it. Questions are sent without waiting for the answers to those
//! before. A task of its own makes it, watches it and makes it again, so that no request ever waits for more than an
//! answer: while Redis is away, asking fails at once.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use redis::{Client, ConnectionAddr, Script};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::link::{Link, SCRIPT};
use crate::{
    names::Resolve,
    observe::{log::event, metrics::LimitMetrics},
    policy::bucket::Limit,
};

pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Started by the first question: a configuration that is only checked connects nowhere.
    keeper: OnceLock<AbortHandle>,
}

struct Shared {
    client: Client,
    /// Its address, without credentials.
    address: String,
    script: Arc<Script>,
    state: watch::Sender<State>,
    metrics: LimitMetrics,
    names: Arc<dyn Resolve>,
}

#[derive(Clone)]
enum State {
    /// For the first time.
    Connecting,
    Up(Arc<Link>),
    Away,
}

/// Why there is no answer: the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    Away,
    Timeout,
    Error,
}

/// All that it takes until there can be questions.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

impl Connection {
    pub(crate) fn new(client: Client, metrics: LimitMetrics, names: Arc<dyn Resolve>) -> Connection {
        let address = match client.get_connection_info().addr() {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            network => network.to_string(),
        };
        let (state, _) = watch::channel(State::Connecting);
        let script = Arc::new(Script::new(SCRIPT));
        let shared = Arc::new(Shared { client, address, script, state, metrics, names });
        Connection { shared, keeper: OnceLock::new() }
    }

    /// Take one token of the bucket called `name`: whether it was there, and when the bucket will be full. One of a quota does not fill; it
    /// is forgotten after `quota_left`.
    ///
    /// # Errors
    ///
    /// Redis cannot be asked, or does not answer within `patience`.
    pub(crate) async fn ask(
        &self,
        name: &str,
        limit: &Limit,
        quota_left: Option<Duration>,
        patience: Duration,
    ) -> Result<(bool, Duration), Trouble> {
        self.keeper.get_or_init(|| tokio::spawn(self.shared.clone().keep()).abort_handle());
        let answer = timeout(patience, self.shared.ask(name, limit, quota_left)).await;
        let answer = answer.unwrap_or(Err(Trouble::Timeout));
        answer.inspect_err(|trouble| {
            let error = match trouble {
                Trouble::Away => "away",
                Trouble::Timeout => "timeout",
                Trouble::Error => "error",
            };
            self.shared.metrics.store_errors(&self.shared.address, error).inc();
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        self.shared.metrics.forget_store(&self.shared.address);
    }
}

impl Shared {
    async fn ask(
        &self,
        name: &str,
        limit: &Limit,
        quota_left: Option<Duration>,
    ) -> Result<(bool, Duration), Trouble> {
        self.link().await?.ask(name, limit, quota_left).await.ok_or(Trouble::Error)
    }

    async fn link(&self) -> Result<Arc<Link>, Trouble> {
        let state = self.state.borrow().clone();
        let state = match state {
            State::Connecting => {
                let mut changes = self.state.subscribe();
                let known = changes.wait_for(|state| !matches!(state, State::Connecting)).await;
                known.map_err(|_| Trouble::Away)?.clone()
            }
            known => known,
        };
        match state {
            State::Up(link) => Ok(link),
            State::Connecting | State::Away => Err(Trouble::Away),
        }
    }

    async fn keep(self: Arc<Self>) {
        let (mut pause, mut said_away) = (FIRST_PAUSE, false);
        loop {
            let why = match self.connect().await {
                Ok(link) => {
                    let since = Instant::now();
                    self.state.send_replace(State::Up(link.clone()));
                    event!(Info, "rate limit store is connected", store = self.address);
                    said_away = false;
                    let why = self.watch(&link).await;
                    if since.elapsed() > GOOD {
                        pause = FIRST_PAUSE;
                    }
                    why
                }
                Err(why) => why,
            };
            self.state.send_replace(State::Away);
            self.metrics.store_up(&self.address).set(0);
            if !std::mem::replace(&mut said_away, true) {
                event!(Warn, "rate limit store is away, trying again", store = self.address, why = why);
            }
            // Not all gateways at the same moment.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<Arc<Link>, String> {
        let opening = Link::open(&self.client, &self.script, &self.names);
        let opened = timeout(CONNECT, opening).await;
        opened.unwrap_or_else(|_| Err("it does not answer".to_owned())).map(Arc::new)
    }

    /// Returns why the connection is of no use any more.
    async fn watch(&self, link: &Link) -> String {
        loop {
            // Again and again, as the series may have gone with a limit that a reload took away.
            self.metrics.store_up(&self.address).set(1);
            if let Some(why) = link.breaks_within(HEARTBEAT).await {
                return why;
            }
            if let Err(why) = link.look(ANSWER).await {
                return why;
            }
        }
    }
}
