//! What the streams from a control plane have in common: each is to one server, for as long as it lives, and then to another. One
//! that says nothing for [`DEAD`] is dead, as a living one gives a sign of life.

use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;

use super::link::{PATIENCE, Server};
use crate::{
    observe::{log::event, metrics::MemberMetrics},
    policy::backoff::Backoff,
};

/// A living server says something every 15 s.
const DEAD: Duration = Duration::from_secs(45);
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30) };
/// A stream that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// How often it is said that nobody can be reached.
const REMIND: Duration = Duration::from_secs(60);

/// When a stream was heard last.
pub(super) struct Pulse(tokio::time::Instant);

impl Pulse {
    pub(super) fn begin() -> Pulse {
        Pulse(tokio::time::Instant::now())
    }

    pub(super) fn heard(&mut self) {
        self.0 = tokio::time::Instant::now();
    }

    /// Waits until the stream is to be taken for dead; why.
    pub(super) fn stops(&self) -> impl Future<Output = String> + use<> {
        let end = self.0 + DEAD;
        async move {
            tokio::time::sleep_until(end).await;
            format!("nothing was heard for {DEAD:?}")
        }
    }
}

/// One stream after another.
pub(super) struct Attempts {
    /// What is said when there is none, and when there is one again.
    words: [&'static str; 2],
    metrics: MemberMetrics,
    failures: u32,
    told: Option<Instant>,
}

/// Why a stream has ended, or none came about.
pub(super) enum Ended {
    /// It is a matter of course that streams end.
    ByItself,
    /// Whoever follows the registry says it.
    Unreachable(String),
    Failed(String),
}

impl Attempts {
    pub(super) fn new(words: [&'static str; 2], metrics: MemberMetrics) -> Attempts {
        Attempts { words, metrics, failures: 0, told: None }
    }

    /// There is a stream.
    pub(super) fn opened(&mut self, server: &Server) {
        if self.told.take().is_some() {
            event!(Info, self.words[1], server = server.origin);
        }
    }

    /// Says that the stream has ended which began at `started`, and waits until another is to be tried.
    pub(super) async fn pause(&mut self, ended: Ended, started: Instant) {
        let lived = started.elapsed();
        self.failures = if lived >= GOOD { 1 } else { self.failures + 1 };
        match ended {
            Ended::ByItself => log::debug!("a stream from the control plane has ended after {lived:?}"),
            Ended::Failed(why) if self.told.is_none_or(|told| told.elapsed() >= REMIND) => {
                self.told = Some(Instant::now());
                event!(Warn, self.words[0], why = why);
            }
            Ended::Failed(why) | Ended::Unreachable(why) => log::debug!("{}: {why}", self.words[0]),
        }
        tokio::time::sleep(BACKOFF.delay(self.failures, &mut fastrand::Rng::new())).await;
        self.metrics.reconnects();
    }
}

/// The first messages, and then those that are put in.
pub(super) fn requests<T: Send + 'static>(
    first: Vec<T>,
    receiver: mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    let later = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    stream::iter(first).chain(later)
}

/// A server that does not read is not waited for for ever.
pub(super) async fn say<T>(sender: &mpsc::Sender<T>, message: T) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, sender.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the stream was closed".into()),
        Err(_) => Err("it does not read what is asked".into()),
    }
}

/// The messages of a stream that is opened.
pub(super) async fn open<T>(
    opening: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    let opened = opened.map_err(|_| "it does not answer".to_owned())?;
    Ok(opened.map_err(|status| explain(&status))?.into_inner())
}

/// Why a call was refused, with the word for it where there is one.
pub(super) fn explain(status: &tonic::Status) -> String {
    let reason = status.metadata().get("x-tidegate-reason").and_then(|reason| reason.to_str().ok());
    match reason {
        Some(reason) => format!("{} ({reason})", status.message()),
        None if status.message().is_empty() => format!("{:?}", status.code()),
        None => status.message().to_owned(),
    }
}
