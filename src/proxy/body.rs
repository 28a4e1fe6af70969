//! The request's body on its way from the client to an upstream: read once, passed through what changes it, and kept as far
//! as it may have to be sent again.

use std::{
    future::poll_fn,
    task::{Context as Task, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::{
    Gateway,
    context::{Context, Side},
    driver,
};
use crate::{
    accept::Session,
    error::Reason,
    filter::Peeked,
    forward::{Ended, Exchange},
    policy::failure::Stage,
};

#[derive(Default)]
pub(super) struct RequestBody {
    /// What came so far, for another try; empty where that is more than may be kept.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    most: usize,
    is_lost: bool,
    /// The client has sent all.
    is_read: bool,
    trailers: Option<HeaderMap>,
    /// Those behind the last part, while a filter waits with it.
    behind: Option<HeaderMap>,
    /// Of `kept`, so many parts have gone to the present upstream.
    sent: usize,
    /// Its end has, too.
    is_sent: bool,
}

impl RequestBody {
    /// Keeps up to `most` bytes for another try.
    pub(crate) fn new(most: usize) -> RequestBody {
        RequestBody { most, ..RequestBody::default() }
    }

    /// There is none, so there is nothing to read either.
    pub(crate) fn is_empty(&self, session: &Session) -> bool {
        session.is_body_done() && self.kept.is_empty() && session.body_bytes_read() == 0
    }

    /// It can be sent from its start.
    pub(crate) fn is_replayable(&self) -> bool {
        !self.is_lost
    }

    /// There is no other try: what the upstream has is not kept any more.
    pub(crate) fn let_go(&mut self) {
        if !self.is_lost {
            self.is_lost = true;
            self.kept.drain(..if self.is_sent { self.kept.len() } else { self.sent });
            self.sent = 0;
        }
    }

    /// Another upstream is to get it, unless its head is all.
    pub(crate) fn rewind(&mut self, is_whole: bool) {
        (self.sent, self.is_sent) = (0, is_whole);
    }

    /// Keep as much as a filter wants to see as a whole.
    pub(crate) fn keep_at_least(&mut self, most: usize) {
        self.most = self.most.max(most);
    }

    /// All of it is here, and so long.
    pub(crate) fn whole(&self) -> Option<u64> {
        (self.is_read && !self.is_lost && self.trailers.is_none()).then_some(self.kept_bytes as u64)
    }

    /// Nothing of it has been read yet.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.is_read && self.kept.is_empty() && !self.is_lost
    }

    /// The upstream has all.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent
    }

    /// In one piece, where all is here.
    pub(crate) fn bytes(&self) -> Bytes {
        match &self.kept[..] {
            [] => Bytes::new(),
            [only] => only.clone(),
            parts => parts
                .iter()
                .fold(BytesMut::new(), |mut all, part| {
                    all.extend_from_slice(part);
                    all
                })
                .freeze(),
        }
    }

    /// Read all of it. It is known to be small.
    ///
    /// # Errors
    ///
    /// The client, or a filter, ends the request.
    pub(crate) fn poll_gather(
        &mut self,
        gateway: &Gateway,
        session: &mut Session,
        ctx: &mut Context,
        cx: &mut Task<'_>,
    ) -> Poll<Result<(), Ended>> {
        while !self.is_read {
            ready!(self.poll_read(gateway, session, ctx, cx))?;
            if self.is_lost {
                return Poll::Ready(Err(Reason::RequestTooLarge.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Pass on what there is, as fast as the upstream takes it and the client sends it. Ready when all has been handed over.
    ///
    /// # Errors
    ///
    /// The client, or a filter, ends the request.
    pub(crate) fn poll_send(
        &mut self,
        gateway: &Gateway,
        session: &mut Session,
        ctx: &mut Context,
        exchange: &mut Exchange,
        cx: &mut Task<'_>,
    ) -> Poll<Result<(), Ended>> {
        while !self.is_sent {
            ready!(exchange.poll_ready(cx));
            if self.sent < self.kept.len() {
                let part = match self.is_lost {
                    true => std::mem::take(&mut self.kept[self.sent]),
                    false => self.kept[self.sent].clone(),
                };
                self.sent += 1;
                let is_last = self.is_read && self.sent == self.kept.len() && self.trailers.is_none();
                self.is_sent = is_last;
                exchange.send(part, is_last);
            } else if self.is_read {
                self.is_sent = true;
                match &self.trailers {
                    Some(trailers) => exchange.send_trailers(trailers.clone()),
                    None => exchange.send(Bytes::new(), true),
                }
            } else {
                match ready!(self.poll_read(gateway, session, ctx, cx))? {
                    // What is kept goes out in the next round.
                    part if self.is_lost => {
                        let is_last = self.is_read && self.trailers.is_none();
                        self.is_sent = is_last;
                        exchange.send(part, is_last);
                    }
                    _ => {}
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next part of what the client sends, as the upstream is to get it. It may be empty, at the end above all.
    fn poll_read(
        &mut self,
        gateway: &Gateway,
        session: &mut Session,
        ctx: &mut Context,
        cx: &mut Task<'_>,
    ) -> Poll<Result<Bytes, Ended>> {
        let (mut part, mut trailers) = (None, None);
        match ctx.is_waiting() {
            true if ctx.waits_with(Side::Request) => {
                ready!(ctx.poll_waits(session.request_mut(), None, cx));
                trailers = self.behind.take();
            }
            // Nothing else goes on meanwhile.
            true => return Poll::Pending,
            false if ctx.poll_held(Side::Request, cx).is_ready() => {}
            // What a filter has seen before comes first, and is not the last.
            false if !ctx.ahead.is_empty() => part = Some(std::mem::take(&mut ctx.ahead)),
            false => {
                if !session.is_body_done() {
                    part = ready!(session.poll_body(cx))?;
                }
                if part.is_none() || session.is_body_done() {
                    trailers = Some(ready!(session.poll_trailers(cx))?.unwrap_or_default());
                    ctx.sent.get_or_insert_with(Instant::now);
                }
            }
        }
        let part = loop {
            match gateway.request_body_filter(session, ctx, part.take(), trailers.as_mut())? {
                Some(part) => break part,
                None => {
                    if ctx.poll_waits(session.request_mut(), None, cx).is_pending() {
                        self.behind = trailers;
                        return Poll::Pending;
                    }
                }
            }
        };
        self.is_read |= trailers.is_some();
        self.trailers = trailers.filter(|trailers| !trailers.is_empty());
        if !part.is_empty() {
            self.keep(&part);
        }
        Poll::Ready(Ok(part))
    }

    fn keep(&mut self, part: &Bytes) {
        if self.is_lost {
            return;
        }
        if self.kept_bytes + part.len() > self.most {
            // All that was kept has been sent: no more is read before.
            self.is_lost = true;
            self.kept = Vec::new();
            self.sent = 0;
            return;
        }
        self.kept_bytes += part.len();
        self.kept.push(part.clone());
    }
}

/// Read so much of the body that there are more than `most` bytes, or all. It goes its way when the request does.
///
/// # Errors
///
/// The client does not send it, or there is no more time.
pub(super) async fn read_ahead(session: &mut Session, ctx: &mut Context, most: usize) -> Result<(), Ended> {
    driver::invite(session, &RequestBody::default());
    let mut bytes = BytesMut::from(std::mem::take(&mut ctx.ahead));
    let read = poll_fn(|cx| {
        while bytes.len() <= most {
            match session.poll_body(cx) {
                Poll::Ready(Ok(Some(part))) => bytes.extend_from_slice(&part),
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason.into())),
                Poll::Pending => {
                    return match session.poll_flush(cx) {
                        Poll::Ready(Err(reason)) => Poll::Ready(Err(reason.into())),
                        _ => driver::poll_given_up(session, &ctx.deadline, Stage::Send, cx).map(Err),
                    };
                }
            }
        }
        Poll::Ready(Ok(()))
    });
    read.await?;
    ctx.ahead = bytes.freeze();
    ctx.facts.peeked = Some(Peeked { bytes: ctx.ahead.clone(), is_whole: session.is_body_done() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_upstream_has_is_let_go_once_no_other_try_can_follow() {
        let parts = ["one", "two", "three"].map(|part| Bytes::from_static(part.as_bytes()));
        let mut body = RequestBody::new(100);
        parts.iter().for_each(|part| body.keep(part));
        body.sent = 2;
        body.let_go();
        assert_eq!((&body.kept[..], body.sent), (&parts[2..], 0), "the last is still to be sent");
        body.keep(&parts[0]);
        assert!(body.kept.len() == 1 && !body.is_replayable());
        // Copies of a hedged request are sent as a whole.
        let mut whole = RequestBody::new(100);
        parts.iter().for_each(|part| whole.keep(part));
        whole.rewind(true);
        whole.let_go();
        assert!(whole.kept.is_empty());
    }
}
