//! One connection to a Redis, as far as it is to be believed. Whatever is at the other end, it is given no more memory than
//! answers need, and what it says is an answer or the end of the connection.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, future::select_ok};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, RedisResult, Script,
    ServerErrorKind, aio::MultiplexedConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::Notify,
    task::AbortHandle,
    time::timeout,
};

use crate::{names::Resolve, policy::bucket::Limit};

/// A connection that was made, and knows the script.
pub(super) struct Link {
    redis: MultiplexedConnection,
    script: Arc<Script>,
    _driver: Driver,
    /// Said by the first question that fails, with why.
    broken: Notify,
    why: OnceLock<String>,
}

/// Writes the questions and reads the answers.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Questions that wait to be written; the next one waits for a place.
const QUEUE: usize = 1024;
/// What it says of itself is told in a log line.
const LONGEST_REASON: usize = 200;
/// What decides.
pub(super) const SCRIPT: &str = include_str!("gcra.lua");

impl Link {
    /// # Errors
    ///
    /// Why there is none, for the operator.
    pub(super) async fn open(
        client: &Client,
        script: &Arc<Script>,
        names: &Arc<dyn Resolve>,
    ) -> Result<Link, String> {
        let connected = match client.get_connection_info().addr() {
            ConnectionAddr::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => speak(client, stream).await,
                Err(error) => Err(error.into()),
            },
            ConnectionAddr::Tcp(host, port) => match reach(host, *port, names).await {
                Ok(stream) => speak(client, stream).await,
                Err(error) => Err(error.into()),
            },
            _ => return Err("it cannot be reached in this way (use redis:// or redis+unix://)".to_owned()),
        };
        let (mut redis, driver) = connected.map_err(|error| reason(&error))?;
        teach(script, &mut redis).await?;
        let script = script.clone();
        Ok(Link { redis, script, _driver: driver, broken: Notify::new(), why: OnceLock::new() })
    }

    /// `None` where there was no answer that is one; the link is broken then.
    pub(super) async fn ask(
        &self,
        name: &str,
        limit: &Limit,
        quota_left: Option<Duration>,
    ) -> Option<(bool, Duration)> {
        match self.decide(name, limit, quota_left).await {
            Ok(decided) => Some(decided),
            Err(why) => {
                // Whatever it is, a new connection shows whether Redis is fit: it may have become a replica, say.
                let _ = self.why.set(why);
                self.broken.notify_one();
                None
            }
        }
    }

    async fn decide(
        &self,
        name: &str,
        limit: &Limit,
        quota_left: Option<Duration>,
    ) -> Result<(bool, Duration), String> {
        let microseconds = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
        let (interval, depth) = (microseconds(limit.interval()), microseconds(limit.depth()));
        let mut question = redis::cmd("EVALSHA");
        question.arg(self.script.get_hash()).arg(1).arg(name).arg(interval).arg(depth);
        if let Some(left) = quota_left {
            question.arg(left.as_millis().max(1) as u64);
        }
        let mut redis = self.redis.clone();
        let answer = match question.query_async(&mut redis).await {
            // It was told to forget it.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                teach(&self.script, &mut redis).await?;
                question.query_async(&mut redis).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|error| reason(&error))?;
        understood(answer, limit).ok_or_else(|| "what it answers is no answer of the script's".to_owned())
    }

    /// Waits until a question has failed, and says why. `None` where none has for so long.
    pub(super) async fn breaks_within(&self, patience: Duration) -> Option<String> {
        timeout(patience, self.broken.notified()).await.ok()?;
        Some(self.why.get().cloned().unwrap_or_default())
    }

    /// # Errors
    ///
    /// Why it is of no use any more. That its answers are those of other questions shows here at the latest.
    pub(super) async fn look(&self, patience: Duration) -> Result<(), String> {
        let mut redis = self.redis.clone();
        let ping = redis::cmd("PING");
        match timeout(patience, ping.query_async::<String>(&mut redis)).await {
            Ok(Ok(pong)) if pong == "PONG" => Ok(()),
            Ok(Ok(_)) => Err("what it answers to PING is not PONG".to_owned()),
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }
}

/// Not by `Script`, which takes it for granted that Redis calls the script by the name that it has.
async fn teach(script: &Script, redis: &mut MultiplexedConnection) -> Result<(), String> {
    let mut command = redis::cmd("SCRIPT");
    let name: String =
        command.arg("LOAD").arg(SCRIPT).query_async(redis).await.map_err(|error| reason(&error))?;
    match name == script.get_hash() {
        true => Ok(()),
        false => Err("it takes the script for another one (is it a Redis?)".to_owned()),
    }
}

/// What the script answers: whether there was a token, and in how many microseconds the bucket will be full. No bucket takes
/// longer than an empty one: where Redis says so, its clock was set back, and the key is not denied here for as long.
///
/// Numbers are read as Redis has them: the library cuts them off where a type has no room for them.
pub(super) fn understood((allowed, full_in): (i64, i64), limit: &Limit) -> Option<(bool, Duration)> {
    let allowed = match allowed {
        0 => false,
        1 => true,
        _ => return None,
    };
    let full_in = Duration::from_micros(u64::try_from(full_in).ok()?);
    Some((allowed, full_in.min(limit.depth())))
}

fn reason(error: &RedisError) -> String {
    error.to_string().chars().take(LONGEST_REASON).collect()
}

/// Host names are resolved as everywhere else, and whichever address answers first is taken.
async fn reach(host: &str, port: u16, names: &Arc<dyn Resolve>) -> io::Result<TcpStream> {
    let addresses = match host.trim_matches(['[', ']']).parse() {
        Ok(ip) => vec![ip],
        Err(_) => names.resolve(host).await.map_err(io::Error::other)?.addresses,
    };
    if addresses.is_empty() {
        return Err(io::Error::other("its name has no address"));
    }
    let (stream, _) =
        select_ok(addresses.into_iter().map(|ip| TcpStream::connect((ip, port)).boxed())).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn speak<S>(client: &Client, stream: S) -> RedisResult<(MultiplexedConnection, Driver)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Each question has a time of its own.
    let settings = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
    let redis = client.get_connection_info().redis_settings();
    let made = MultiplexedConnection::new_with_config(redis, Bounded::new(stream), settings);
    let (redis, driver) = made.await?;
    Ok((redis, Driver(tokio::spawn(driver).abort_handle())))
}

/// A stream on which no more comes than was asked for. The library keeps an answer until it is whole, whatever length it
/// announces, and throws answers away to which there was no question, as fast as they come.
struct Bounded<S> {
    stream: S,
    /// So many bytes may still come.
    left: usize,
}

/// The answers to some thousand questions that are under way.
const MOST: usize = 256 * 1024;
/// An answer is shorter than its question; the text of an error may be a little longer.
const FOR_EACH_BYTE: usize = 2;

impl<S> Bounded<S> {
    fn new(stream: S) -> Bounded<S> {
        Bounded { stream, left: MOST }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let Some(left) = self.left.checked_sub(buffer.filled().len() - before) else {
            return Poll::Ready(Err(io::Error::other("it says more than it was asked for (is it a Redis?)")));
        };
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.left = self.left.saturating_add(written.saturating_mul(FOR_EACH_BYTE)).min(MOST);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_redis_whose_clock_was_set_back_holds_nobody_back_for_longer_than_a_bucket_takes_to_fill() {
        let limit = Limit::new(10, Duration::from_secs(1), 20).unwrap();
        assert_eq!(understood((1, 1_500_000), &limit), Some((true, Duration::from_millis(1500))));
        assert_eq!(understood((0, i64::MAX), &limit), Some((false, Duration::from_secs(2))));
        for lie in [(2, 0), (257, 0), (-1, 0), (1, -1)] {
            assert_eq!(understood(lie, &limit), None);
        }
    }

    #[tokio::test]
    async fn no_more_comes_than_was_asked_for() {
        let (mut theirs, ours) = tokio::io::duplex(4 * MOST);
        let mut bounded = Bounded::new(ours);
        theirs.write_all(&vec![b'x'; 3 * MOST]).await.unwrap();
        let mut part = vec![0; MOST];
        bounded.read_exact(&mut part).await.unwrap();
        assert!(bounded.read_exact(&mut part[..1]).await.unwrap_err().to_string().contains("more than"));
        // What a question is worth, and however many there are.
        bounded.write_all(&[0; 100]).await.unwrap();
        bounded.read_exact(&mut part[..200]).await.unwrap();
        assert!(bounded.read_exact(&mut part[..1]).await.is_err());
        bounded.write_all(&vec![0; MOST]).await.unwrap();
        bounded.read_exact(&mut part).await.unwrap();
        assert!(bounded.read_exact(&mut part[..1]).await.is_err());
    }
}
