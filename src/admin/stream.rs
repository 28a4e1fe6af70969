//! Answers that go on: server-sent events. Each has one of a few places, shows signs of life, and ends with a word of why. A
//! client that takes nothing is given up.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    State,
    refused::{Reason, Refused},
};
use crate::{
    api::{
        Connection, Streaming,
        reply::{self, Reply},
    },
    observe::events::written,
};

/// Otherwise an idle stream and a dead one look the same.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long is gone, or pretends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Browsers come back by themselves, 20 % sooner or later: credentials are looked at anew then.
const AGE: Duration = Duration::from_secs(600);
/// When they come back, at random between these, so that not all do at once.
const BACK: (u64, u64) = (1_000, 5_000);

/// One that is open.
pub(super) struct Out {
    sender: mpsc::Sender<Bytes>,
    closing: watch::Receiver<bool>,
    /// When the next sign of life is due.
    sign: Instant,
    end: Instant,
    /// Held until it ends.
    _held: (OwnedSemaphorePermit, Option<Streaming>),
}

/// Why a stream ended.
pub(super) enum Ended {
    /// The client has gone.
    Client,
    Here(&'static str),
}

/// The answer, and what is sent in it by `run`.
///
/// # Errors
///
/// There are as many streams as there may be.
pub(super) fn open<F>(
    state: &State,
    connection: &Connection,
    run: impl FnOnce(Out) -> F + Send + 'static,
) -> Result<Reply, Refused>
where
    F: Future<Output = (Out, Ended)> + Send + 'static,
{
    let place = state.streams.clone().try_acquire_owned().map_err(|_| {
        let most = super::STREAMS;
        Reason::Limit.because(format!("there are {most} streams already (close one, or try again later)"))
    })?;
    let (sender, mut chunks) = mpsc::channel(1);
    let out = Out::new(sender, connection.closing.clone(), (place, Some(connection.stream())));
    let connection = connection.clone();
    let running = run(out);
    tokio::spawn(async move {
        let (mut out, ended) = running.await;
        match ended {
            // Nothing is written while the client takes nothing, so it would never hear that this is the end.
            Ended::Here("slow") => connection.hang_up(),
            Ended::Here(why) => {
                let retry = fastrand::u64(BACK.0..BACK.1);
                let bye = json!({"why": why, "retry_ms": retry}).to_string();
                let _ = out.send(format!("retry: {retry}\n{}", written("bye", None, &bye))).await;
            }
            Ended::Client => {}
        }
    });
    let chunks = futures::stream::poll_fn(move |context| {
        chunks.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk))))
    });
    let mut reply =
        reply::with_body(StatusCode::OK, "text/event-stream", StreamBody::new(chunks).boxed_unsync());
    // For proxies between that gather answers.
    reply.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(reply)
}

impl Out {
    fn new(
        sender: mpsc::Sender<Bytes>,
        closing: watch::Receiver<bool>,
        held: (OwnedSemaphorePermit, Option<Streaming>),
    ) -> Out {
        let now = Instant::now();
        let end = now + AGE.mul_f64(0.8 + 0.4 * fastrand::f64());
        Out { sender, closing, sign: now + SIGN_OF_LIFE, end, _held: held }
    }

    /// # Errors
    ///
    /// The client has gone, or takes nothing.
    pub(super) async fn send(&mut self, text: impl Into<Bytes>) -> Result<(), Ended> {
        self.sign = Instant::now() + SIGN_OF_LIFE;
        match timeout(PATIENCE, self.sender.send(text.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Client),
            Err(_) => Err(Ended::Here("slow")),
        }
    }

    /// What `next` brings; before that, signs of life.
    ///
    /// # Errors
    ///
    /// It is over.
    pub(super) async fn next<T>(&mut self, next: impl Future<Output = T>) -> Result<T, Ended> {
        let mut next = std::pin::pin!(next);
        loop {
            let mut closing = self.closing.clone();
            let sender = self.sender.clone();
            tokio::select! {
                found = &mut next => return Ok(found),
                () = sleep_until(self.sign) => {}
                () = sleep_until(self.end) => return Err(Ended::Here("lifetime")),
                // Where nobody can say it any more, it is so.
                _ = closing.wait_for(|closing| *closing) => return Err(Ended::Here("closing")),
                () = sender.closed() => return Err(Ended::Client),
            }
            self.send(": ping\n\n").await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use tokio::sync::Semaphore;

    use super::*;

    fn out() -> (Out, mpsc::Receiver<Bytes>, watch::Sender<bool>) {
        let (sender, sent) = mpsc::channel(1);
        let (open, closing) = watch::channel(false);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Out::new(sender, closing, (place, None)), sent, open)
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_shows_that_it_lives_until_it_is_old() {
        let (mut out, mut sent, _open) = out();
        let idle = tokio::spawn(async move { out.next(pending::<()>()).await });
        let (began, mut signs) = (Instant::now(), 0);
        while let Some(sign) = sent.recv().await {
            assert_eq!(&sign[..], b": ping\n\n");
            signs += 1;
        }
        assert!(matches!(idle.await.unwrap(), Err(Ended::Here("lifetime"))));
        assert!(began.elapsed() >= AGE.mul_f64(0.8) && began.elapsed() <= AGE.mul_f64(1.21));
        assert!(signs >= 31, "{signs}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (mut out, _sent, _open) = out();
        assert!(out.send("first").await.is_ok());
        let began = Instant::now();
        assert!(matches!(out.send("second").await, Err(Ended::Here("slow"))));
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_its_client_and_with_the_api() {
        let (mut closed, _sent, open) = out();
        open.send_replace(true);
        assert!(matches!(closed.next(pending::<()>()).await, Err(Ended::Here("closing"))));
        let (mut left, sent, _open) = out();
        drop(sent);
        assert!(matches!(left.next(pending::<()>()).await, Err(Ended::Client)));
        assert!(matches!(left.send("x").await, Err(Ended::Client)));
    }
}
