//! The same for a request whose body and answer are a conversation: either side says what it has when it has it.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use pingora_core::Error;
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::{Sleep, sleep_until, timeout};

use super::{Admitted, Attempt, Broken, broke, endpoint};
use crate::{
    forward::{Client, Exchange, Length, Spoken, grpc_status, let_stream, outcome},
    observe::metrics::Metrics,
    policy::failure::Stage,
    snapshot::Destination,
};

pub(crate) struct Stream {
    exchange: Exchange,
    attempt: Attempt,
    place: Admitted,
    method: Method,
    stage: Stage,
    /// What was handed over takes the sender's room until the next one can go.
    room: Option<Room>,
    is_sent: bool,
    timer: std::pin::Pin<Box<Sleep>>,
}

/// What is held until a part has been sent.
pub(crate) type Room = Box<dyn std::marker::Send>;

/// What is sent next.
pub(crate) enum Send {
    Part {
        part: Bytes,
        is_last: bool,
        room: Option<Room>,
    },
    /// The end, with these fields behind it where there is a place for them.
    Trailers(HeaderMap),
}

/// What comes of it, in this order; parts may be many.
pub(crate) enum Next {
    Head(Box<ResponseHeader>),
    Part(Bytes),
    End(HeaderMap),
}

impl Stream {
    /// Connects, and sends the head. `limit` bounds this, and nothing else.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub(crate) async fn open(
        client: &Client,
        destination: &Arc<Destination>,
        header: RequestHeader,
        limit: Duration,
        metrics: &Metrics,
    ) -> Result<Stream, &'static str> {
        let opening = Self::begin(client, destination, header, limit, metrics);
        timeout(limit, opening).await.unwrap_or(Err("timeout"))
    }

    async fn begin(
        client: &Client,
        destination: &Arc<Destination>,
        mut header: RequestHeader,
        limit: Duration,
        metrics: &Metrics,
    ) -> Result<Stream, &'static str> {
        let (place, mut attempt, mut peer) = endpoint(destination, &mut header, limit, metrics).await?;
        let_stream(&mut peer);
        let idle_limit = attempt.idle_limit();
        let connected = client.connect(&peer, &idle_limit, true, 1).await;
        let mut exchange =
            connected.map_err(|error| broke(&mut attempt, Broken::at(Stage::Connect, false, error)))?;
        if let Some(handshake) = attempt.handshake().cloned() {
            let checked = handshake.check(exchange.digest().as_ref());
            checked.map_err(|distrust| broke(&mut attempt, Broken::distrusted(distrust)))?;
        }
        attempt.connected(&exchange);
        let method = header.method.clone();
        let sent = exchange.send_head(Box::new(header), Length::Unknown);
        sent.map_err(|error| broke(&mut attempt, exchange.broken(Stage::Send, error)))?;
        let timer = Box::pin(sleep_until(tokio::time::Instant::now() + limit));
        let (stage, room, is_sent) = (Stage::Head, None, false);
        Ok(Stream { exchange, attempt, place, method, stage, room, is_sent, timer })
    }

    /// Sends what there is, as far as the upstream takes it.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut next: impl FnMut(&mut Context<'_>) -> Poll<Send>,
    ) {
        while !self.is_sent {
            if self.exchange.poll_ready(cx).is_pending() {
                return;
            }
            self.room = None;
            match next(cx) {
                Poll::Ready(Send::Part { part, is_last, room }) => {
                    self.room = room;
                    self.is_sent = is_last;
                    self.exchange.send(part, is_last);
                }
                Poll::Ready(Send::Trailers(trailers)) => {
                    self.is_sent = true;
                    match self.exchange.spoken() {
                        Spoken::Http1 => self.exchange.send(Bytes::new(), true),
                        Spoken::Http2 { .. } => self.exchange.send_trailers(trailers),
                    }
                }
                Poll::Pending => return,
            }
        }
    }

    /// What the upstream says next.
    ///
    /// # Errors
    ///
    /// It broke off, or is silent for too long.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, &'static str>> {
        match self.poll_step(cx) {
            Poll::Ready(next) => Poll::Ready(next.map_err(|error| self.broken(error))),
            Poll::Pending => {
                let Some(due) = self.exchange.due() else { return Poll::Pending };
                if self.timer.deadline() != due.into() {
                    self.timer.as_mut().reset(due.into());
                }
                ready!(self.timer.as_mut().poll(cx));
                let late = self.exchange.late();
                Poll::Ready(Err(self.broken(late)))
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Box<Error>>> {
        loop {
            if self.stage == Stage::Head {
                let mut head = ready!(self.exchange.poll_head(cx))?;
                if head.status.is_informational() {
                    continue;
                }
                self.exchange.begin_body(&mut head, &self.method)?;
                self.place.is_answered();
                self.attempt.heard(head.status.as_u16(), grpc_status(&head));
                self.attempt.begins(outcome(&head), Instant::now());
                self.stage = Stage::Body;
                return Poll::Ready(Ok(Next::Head(head)));
            }
            if let Some(part) = ready!(self.exchange.poll_body(cx))? {
                return Poll::Ready(Ok(Next::Part(part)));
            }
            let trailers = ready!(self.exchange.poll_trailers(cx))?.unwrap_or_default();
            self.attempt.is_whole(Instant::now());
            self.exchange.finish();
            return Poll::Ready(Ok(Next::End(trailers)));
        }
    }

    fn broken(&mut self, error: Box<Error>) -> &'static str {
        let broken = self.exchange.broken(self.stage, error);
        broke(&mut self.attempt, broken)
    }
}
