//! One connection to a Redis, as far as it is to be believed. Whatever is at the other end, it is given no more memory than
//! answers need, and what it says is an answer or the end of the connection.

use std::{
    io,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, future::select_ok};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::Notify,
    task::AbortHandle,
    time::timeout,
};

use super::{
    Common,
    servers::{Address, Login},
};
use crate::names::Resolve;

/// A connection that was made, and knows the script.
pub(super) struct Link {
    redis: MultiplexedConnection,
    script: Option<Script>,
    _driver: Driver,
    /// Said by the first question that fails, with why.
    broken: Notify,
    why: OnceLock<String>,
}

/// What servers are to know before they are asked, and are told again where they have forgotten it.
#[derive(Clone)]
pub(crate) struct Script {
    text: &'static str,
    name: String,
}

/// How much may come back.
#[derive(Clone, Copy)]
pub(crate) struct Answers {
    /// In bytes: the answers to all questions that are under way.
    pub most: usize,
    /// In bytes, for each byte of a question.
    pub for_each_byte: usize,
}

impl Answers {
    /// What sentinels and the nodes of a cluster say of each other.
    pub(super) const OF_SERVERS: Answers = Answers { most: 1024 * 1024, for_each_byte: 1 };
}

/// Why a question was not answered.
pub(super) enum Refusal {
    /// The key is at that node of the cluster.
    Moved(String),
    /// The key is at that node this time.
    Ask(String),
    /// The cluster has nobody for the key at present.
    NotNow(String),
    /// Nothing more is asked over this connection.
    Broken(String),
}

impl Refusal {
    /// In words for the operator.
    pub(super) fn why(self) -> String {
        match self {
            Refusal::Moved(to) | Refusal::Ask(to) => format!("it sends to {to:?}"),
            Refusal::NotNow(why) | Refusal::Broken(why) => why,
        }
    }
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
/// Before what it was sent, in what Redis says of a command that it does not know.
const REPEATS: &str = ", with args beginning with";
/// Where a cluster says that a key is.
const LONGEST_ADDRESS: usize = 300;

impl Script {
    pub(crate) fn new(text: &'static str) -> Script {
        Script { text, name: redis::Script::new(text).get_hash().to_owned() }
    }

    /// As `EVALSHA` calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Link {
    /// To one that is asked the questions there are.
    ///
    /// # Errors
    ///
    /// Why there is none, for the operator.
    pub(super) async fn open(address: &Address, common: &Common) -> Result<Link, String> {
        let script = common.script.clone();
        Link::with(address, &common.servers.login, script, common.answers, common).await
    }

    /// To one that is asked about others.
    ///
    /// # Errors
    ///
    /// Why there is none, for the operator.
    pub(super) async fn for_servers(
        address: &Address,
        login: &Login,
        common: &Common,
    ) -> Result<Link, String> {
        Link::with(address, login, None, Answers::OF_SERVERS, common).await
    }

    async fn with(
        address: &Address,
        login: &Login,
        script: Option<Script>,
        answers: Answers,
        common: &Common,
    ) -> Result<Link, String> {
        let refused = |error: io::Error| error.to_string();
        let connected = match (address, &common.servers.tls) {
            (Address::Unix(path), _) => {
                let stream = UnixStream::connect(path).await.map_err(refused)?;
                speak(login, answers, stream).await
            }
            (Address::Tcp(host, port), tls) => {
                let stream = reach(host, *port, &*common.names).await.map_err(refused)?;
                match tls {
                    Some(tls) => speak(login, answers, tls.secure(stream, host).await?).await,
                    None => speak(login, answers, stream).await,
                }
            }
        };
        let (redis, driver) = connected.map_err(|error| match &common.servers.tls {
            // It hangs up after the handshake, and does not always say why.
            Some(tls) if tls.cert.is_none() && error.is_io_error() => {
                format!("{} (if it asks for a certificate: `tls: {{cert: ..., key: ...}}`)", reason(&error))
            }
            _ => reason(&error),
        })?;
        let link = Link { redis, script, _driver: driver, broken: Notify::new(), why: OnceLock::new() };
        if let Some(script) = &link.script {
            link.teach(script).await?;
        }
        Ok(link)
    }

    /// `asking` has a node of a cluster answer that is about to have the key.
    pub(super) async fn ask(&self, question: &Cmd, asking: bool) -> Result<Value, Refusal> {
        let answer = match (self.send(question, asking).await, &self.script) {
            // It was told to forget it.
            (Err(error), Some(script)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.teach(script).await.map_err(|why| self.is_broken(why))?;
                self.send(question, asking).await
            }
            (answer, _) => answer,
        };
        answer.map_err(|error| {
            let to = error.redirect_node().map(|(to, _)| to).filter(|to| to.len() < LONGEST_ADDRESS);
            match (error.kind(), to) {
                (ErrorKind::Server(ServerErrorKind::Moved), Some(to)) => Refusal::Moved(to.to_owned()),
                (ErrorKind::Server(ServerErrorKind::Ask), Some(to)) => Refusal::Ask(to.to_owned()),
                (ErrorKind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain), _) => {
                    Refusal::NotNow(reason(&error))
                }
                _ => self.is_broken(reason(&error)),
            }
        })
    }

    async fn send(&self, question: &Cmd, asking: bool) -> RedisResult<Value> {
        let mut redis = self.redis.clone();
        if !asking {
            return redis.req_packed_command(question).await?.extract_error();
        }
        // Nothing else may come between the two.
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(question.clone());
        let mut answers = redis.req_packed_commands(&both, 0, 2).await?;
        answers.pop().unwrap_or(Value::Nil).extract_error()
    }

    /// Whatever it is, a new connection shows whether Redis is fit: it may have become a replica, say.
    pub(super) fn is_broken(&self, why: String) -> Refusal {
        let _ = self.why.set(why.clone());
        self.broken.notify_one();
        Refusal::Broken(why)
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

    /// Not by the library's `Script`, which takes it for granted that Redis calls the script by the name that it has.
    async fn teach(&self, script: &Script) -> Result<(), String> {
        let mut redis = self.redis.clone();
        let mut command = redis::cmd("SCRIPT");
        let name = command.arg("LOAD").arg(script.text).query_async::<String>(&mut redis).await;
        match name.map_err(|error| reason(&error))? == script.name {
            true => Ok(()),
            false => Err("it takes the script for another one (is it a Redis?)".to_owned()),
        }
    }
}

fn reason(error: &RedisError) -> String {
    let all = error.to_string();
    // It may repeat what it was sent: the password too, where the command that tells it is not known there.
    let told = all.split(REPEATS).next().unwrap_or_default();
    told.chars().take(LONGEST_REASON).collect()
}

/// Host names are resolved as everywhere else, and whichever address answers first is taken.
async fn reach(host: &str, port: u16, names: &dyn Resolve) -> io::Result<TcpStream> {
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

async fn speak<S>(login: &Login, answers: Answers, stream: S) -> RedisResult<(MultiplexedConnection, Driver)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Each question has a time of its own.
    let settings = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
    let stream = Bounded { stream, left: answers.most, answers };
    let (redis, driver) = MultiplexedConnection::new_with_config(&login.info(), stream, settings).await?;
    Ok((redis, Driver(tokio::spawn(driver).abort_handle())))
}

/// A stream on which no more comes than was asked for. The library keeps an answer until it is whole, whatever length it
/// announces, and throws answers away to which there was no question, as fast as they come.
struct Bounded<S> {
    stream: S,
    /// So many bytes may still come.
    left: usize,
    answers: Answers,
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
        let Answers { most, for_each_byte } = self.answers;
        self.left = self.left.saturating_add(written.saturating_mul(for_each_byte)).min(most);
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

    const MOST: usize = 256 * 1024;

    #[test]
    fn what_it_was_sent_is_not_told_again() {
        let refused = |answer: &str| {
            let value = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
            reason(&value.extract_error().unwrap_err())
        };
        let told =
            refused("ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'me' 'secret' ");
        assert!(told.contains("HELLO") && !told.contains("secret"), "{told}");
        assert!(refused("WRONGPASS invalid username-password pair").contains("invalid username-password"));
    }

    #[tokio::test]
    async fn no_more_comes_than_was_asked_for() {
        let (mut theirs, ours) = tokio::io::duplex(4 * MOST);
        let answers = Answers { most: MOST, for_each_byte: 2 };
        let mut bounded = Bounded { stream: ours, left: MOST, answers };
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
