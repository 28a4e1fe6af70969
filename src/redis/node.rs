//! One server: a connection that a task of its own makes, watches and makes again.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use redis::{Cmd, Value};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Common, Trouble, Watcher,
    link::{Link, Refusal},
    sentinels,
    servers::Address,
};

pub(super) struct Node {
    shared: Arc<Shared>,
    /// Started by the first question.
    keeper: OnceLock<AbortHandle>,
}

/// Who is connected to.
#[derive(Clone)]
pub(super) enum Target {
    Server(Address),
    /// Whoever the sentinels call the master.
    Master,
}

struct Shared {
    common: Arc<Common>,
    target: Target,
    state: watch::Sender<State>,
    watcher: Arc<dyn Watcher>,
}

#[derive(Clone)]
enum State {
    /// For the first time.
    Connecting,
    Up(Arc<Link>),
    Away(Arc<str>),
}

/// All that it takes until there can be questions.
const CONNECT: Duration = Duration::from_secs(2);
pub(super) const ANSWER: Duration = Duration::from_secs(1);
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// How often the sentinels are asked whether this is still the master.
const LOOK: Duration = Duration::from_secs(10);

impl Node {
    pub(super) fn new(common: Arc<Common>, target: Target, watcher: Arc<dyn Watcher>) -> Node {
        let (state, _) = watch::channel(State::Connecting);
        Node { shared: Arc::new(Shared { common, target, state, watcher }), keeper: OnceLock::new() }
    }

    /// One that is no part of a cluster.
    pub(super) async fn ask<T>(
        &self,
        question: &Cmd,
        read: impl Fn(Value) -> Option<T>,
    ) -> Result<T, Trouble> {
        let link = self.link().await.map_err(Trouble::Away)?;
        let refusal = match link.ask(question, false).await {
            Ok(answer) => return understood(&link, answer, read),
            Err(refusal) => refusal,
        };
        let why = match refusal {
            Refusal::Broken(why) => why,
            Refusal::NotNow(why) => broken(&link, why),
            Refusal::Moved(_) | Refusal::Ask(_) => {
                let why = "it is a node of a cluster (write `redis: {cluster: [\"host:port\"]}`)";
                broken(&link, why.to_owned())
            }
        };
        Err(Trouble::Error(why))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.shared.state.borrow(), State::Up(_))
    }

    /// The connection, once it is known whether there is one.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) async fn link(&self) -> Result<Arc<Link>, Arc<str>> {
        self.keeper.get_or_init(|| tokio::spawn(self.shared.clone().keep()).abort_handle());
        let state = self.shared.state.borrow().clone();
        let state = match state {
            State::Connecting => {
                let mut changes = self.shared.state.subscribe();
                let known = changes.wait_for(|state| !matches!(state, State::Connecting)).await;
                known.map_or(State::Connecting, |state| state.clone())
            }
            known => known,
        };
        match state {
            State::Up(link) => Ok(link),
            State::Away(why) => Err(why),
            State::Connecting => Err("it is not connected to any more".into()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}

fn broken(link: &Link, why: String) -> String {
    link.is_broken(why.clone());
    why
}

/// # Errors
///
/// It is no answer; nothing more is asked over this connection.
pub(super) fn understood<T>(
    link: &Link,
    answer: Value,
    read: impl Fn(Value) -> Option<T>,
) -> Result<T, Trouble> {
    read(answer).ok_or_else(|| {
        Trouble::Error(broken(link, "what it answers is no answer to the question".to_owned()))
    })
}

impl Shared {
    async fn keep(self: Arc<Self>) {
        let (mut pause, mut said_away) = (FIRST_PAUSE, false);
        loop {
            let why = match self.connect().await {
                Ok((link, address)) => {
                    let since = Instant::now();
                    self.state.send_replace(State::Up(link.clone()));
                    self.watcher.up(true);
                    said_away = false;
                    let why = self.watch(&link, &address).await;
                    if since.elapsed() > GOOD {
                        pause = FIRST_PAUSE;
                    }
                    why
                }
                Err(why) => why,
            };
            self.state.send_replace(State::Away(why.as_str().into()));
            self.watcher.away(&why, !std::mem::replace(&mut said_away, true));
            // Not all gateways at the same moment.
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self) -> Result<(Arc<Link>, Address), String> {
        let opening = async {
            match &self.target {
                Target::Server(address) => Ok((Link::open(address, &self.common).await?, address.clone())),
                Target::Master => sentinels::connect(&self.common).await,
            }
        };
        let opened = timeout(CONNECT, opening).await;
        let (link, address) = opened.unwrap_or_else(|_| Err("it does not answer".to_owned()))?;
        Ok((Arc::new(link), address))
    }

    /// Returns why the connection is of no use any more.
    async fn watch(&self, link: &Link, address: &Address) -> String {
        let mut looked = Instant::now();
        loop {
            if let Some(why) = link.breaks_within(HEARTBEAT).await {
                return why;
            }
            if let Err(why) = link.look(ANSWER).await {
                return why;
            }
            if matches!(self.target, Target::Master) && looked.elapsed() > LOOK {
                looked = Instant::now();
                if let Some(other) = sentinels::other_master(&self.common, address).await {
                    return format!("{other} is the master now");
                }
            }
            // Again and again, as the series may have gone with a limit that a reload took away.
            self.watcher.up(false);
        }
    }
}
