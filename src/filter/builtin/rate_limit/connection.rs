//! One connection to a Redis for all limits that name it. Questions are sent without waiting for the answers to those
//! before. A task of its own makes it, watches it and makes it again, so that no request ever waits for more than an
//! answer: while Redis is away, asking fails at once.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::FutureExt;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, RedisError, RedisFuture, Script,
    aio::MultiplexedConnection, io::AsyncDNSResolver,
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

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
    script: Script,
    state: watch::Sender<State>,
    metrics: LimitMetrics,
    names: Arc<dyn Resolve>,
}

/// Host names are resolved as everywhere else.
struct Lookup(Arc<dyn Resolve>);

#[derive(Clone)]
enum State {
    /// For the first time.
    Connecting,
    Up(Arc<Link>),
    Away,
}

/// A connection that was made.
struct Link {
    redis: MultiplexedConnection,
    /// Said by the first question that fails, with why.
    broken: Notify,
    why: OnceLock<String>,
}

/// Why there is no answer: the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trouble {
    Away,
    Timeout,
    Error,
}

const CONNECT: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// Questions that wait to be written; the next one waits for a place.
const QUEUE: usize = 1024;

impl Connection {
    pub(crate) fn new(client: Client, metrics: LimitMetrics, names: Arc<dyn Resolve>) -> Connection {
        let address = match client.get_connection_info().addr() {
            ConnectionAddr::Unix(path) => path.display().to_string(),
            network => network.to_string(),
        };
        let (state, _) = watch::channel(State::Connecting);
        let script = Script::new(include_str!("gcra.lua"));
        let shared = Arc::new(Shared { client, address, script, state, metrics, names });
        Connection { shared, keeper: OnceLock::new() }
    }

    /// Take one token of the bucket called `name`: whether it was there, and when the bucket will be full.
    ///
    /// # Errors
    ///
    /// Redis cannot be asked, or does not answer within `patience`.
    pub(crate) async fn ask(
        &self,
        name: &str,
        limit: &Limit,
        patience: Duration,
    ) -> Result<(bool, Duration), Trouble> {
        self.keeper.get_or_init(|| tokio::spawn(self.shared.clone().keep()).abort_handle());
        let answer = timeout(patience, self.shared.ask(name, limit)).await.unwrap_or(Err(Trouble::Timeout));
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

/// What the script answers: whether there was a token, and in how many microseconds the bucket will be full. No bucket takes
/// longer than an empty one: where Redis says so, its clock was set back, and the key is not denied here for as long.
pub(super) fn understood((allowed, full_in): (u8, u64), limit: &Limit) -> (bool, Duration) {
    (allowed == 1, Duration::from_micros(full_in).min(limit.depth()))
}

impl AsyncDNSResolver for Lookup {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        async move {
            // A literal address comes here as well.
            let addresses = match host.trim_matches(['[', ']']).parse() {
                Ok(ip) => vec![ip],
                Err(_) => {
                    let found = self.0.resolve(host).await;
                    found.map_err(|why| RedisError::from(std::io::Error::other(why)))?.addresses
                }
            };
            let addresses = addresses.into_iter().map(move |ip: IpAddr| SocketAddr::new(ip, port));
            Ok(Box::new(addresses) as Box<dyn Iterator<Item = SocketAddr> + Send + 'a>)
        }
        .boxed()
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
    async fn ask(&self, name: &str, limit: &Limit) -> Result<(bool, Duration), Trouble> {
        let link = self.link().await?;
        let microseconds = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
        let (interval, depth) = (microseconds(limit.interval()), microseconds(limit.depth()));
        let mut redis = link.redis.clone();
        match self.script.key(name).arg(interval).arg(depth).invoke_async(&mut redis).await {
            Ok(answer) => Ok(understood(answer, limit)),
            Err(error) => {
                // Whatever it is, a new connection shows whether Redis is fit: it may have become a replica, say.
                let _ = link.why.set(error.to_string());
                link.broken.notify_one();
                Err(Trouble::Error)
            }
        }
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
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each question has its own.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            .set_dns_resolver(Lookup(self.names.clone()));
        let connected = async {
            let mut redis = self.client.get_multiplexed_async_connection_with_config(&settings).await?;
            self.script.load_async(&mut redis).await?;
            Ok(redis)
        };
        match timeout(2 * CONNECT, connected).await {
            Ok(Ok(redis)) => Ok(Arc::new(Link { redis, broken: Notify::new(), why: OnceLock::new() })),
            Ok(Err::<_, redis::RedisError>(error)) => Err(error.to_string()),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }

    /// Returns why the connection is of no use any more.
    async fn watch(&self, link: &Link) -> String {
        loop {
            // Again and again, as the series may have gone with a limit that a reload took away.
            self.metrics.store_up(&self.address).set(1);
            let broken = timeout(HEARTBEAT, link.broken.notified()).await;
            if broken.is_ok() {
                return link.why.get().cloned().unwrap_or_default();
            }
            let mut redis = link.redis.clone();
            let ping = redis::cmd("PING");
            match timeout(CONNECT, ping.query_async::<()>(&mut redis)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "it does not answer".to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_whose_clock_was_set_back_holds_nobody_back_for_longer_than_a_bucket_takes_to_fill() {
        let limit = Limit::new(10, Duration::from_secs(1), 20).unwrap();
        assert_eq!(understood((1, 1_500_000), &limit), (true, Duration::from_millis(1500)));
        assert_eq!(understood((0, u64::MAX), &limit), (false, Duration::from_secs(2)));
    }
}
