//! One exchange over a stream of an HTTP/2 connection: Pingora's session, which writes or reads but never both, and
//! beside it the request's body on its way out.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use pingora_core::{
    Error, ErrorType, Result, protocols::http::v2::client::Http2Session, upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::response::is_bodiless;

pub(super) struct Http2 {
    pub session: Http2Session,
    /// The pool knows its connection by it.
    pub peer: HttpPeer,
    /// The rest of the request's body.
    upload: Option<Upload>,
    /// Sending the body failed; the answer may be there all the same, and then it counts.
    unsent: Option<Box<Error>>,
}

#[derive(Clone, Copy)]
enum Part {
    Head,
    Body,
}

impl Http2 {
    pub(super) fn new(session: Http2Session, peer: HttpPeer) -> Http2 {
        Http2 { session, peer, upload: None, unsent: None }
    }

    pub(super) fn send(&mut self, request: Box<RequestHeader>, body: Bytes) -> Result<()> {
        self.session.read_timeout = self.peer.options.read_timeout;
        self.session.write_timeout = self.peer.options.write_timeout;
        self.session.write_request_header(request, body.is_empty())?;
        if !body.is_empty() {
            let sink = self.session.take_request_body_writer();
            self.upload =
                sink.map(|sink| Upload { sink, rest: body, timeout: self.peer.options.write_timeout });
        }
        Ok(())
    }

    pub(super) async fn head(&mut self) -> Result<Box<ResponseHeader>> {
        self.read(Part::Head).await?;
        let header = self.session.response_header().cloned();
        header.map(Box::new).ok_or_else(|| Error::new(ErrorType::InternalError))
    }

    /// The final response is there.
    pub(super) fn begin_body(&mut self, header: &mut ResponseHeader, method: &Method) -> Result<()> {
        header.set_version(Version::HTTP_11);
        let done = self.session.check_response_end_or_error()?;
        let bodiless = is_bodiless(method, header.status);
        // h2 counts the bytes of DATA frames against the length, but not that there are none.
        if done && !bodiless && header.headers.get(header::CONTENT_LENGTH).is_some_and(is_not_zero) {
            return Error::e_explain(ErrorType::H2Error, "a length, but no body");
        }
        Ok(())
    }

    pub(super) async fn body(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.read(Part::Body).await? {
                Some(part) if part.is_empty() => {}
                part => return Ok(part),
            }
        }
    }

    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>> {
        self.session.read_trailers().await
    }

    pub(super) fn is_done(&self) -> bool {
        self.session.response_finished()
    }

    /// Nobody else shall wait for what may be a dead connection.
    pub(super) fn distrust(&self) {
        self.session.conn.mark_shutdown();
    }

    /// Read on, and send on meanwhile.
    async fn read(&mut self, part: Part) -> Result<Option<Bytes>> {
        if let Some(upload) = &mut self.upload {
            // The upstream's time to answer starts when it has all; what it takes to accept is bounded step by step.
            self.session.read_timeout = None;
            let sent = tokio::select! {
                biased;
                sent = upload.run() => sent,
                read = read(&mut self.session, part) => return read,
            };
            self.upload = None;
            self.session.read_timeout = self.peer.options.read_timeout;
            match sent {
                Ok(()) => {}
                // It neither read nor answered.
                Err(e) if *e.etype() == ErrorType::WriteTimedout => return Err(e),
                // It may have answered before it stopped to read.
                Err(e) => self.unsent = Some(e),
            }
        }
        let read = read(&mut self.session, part).await;
        read.map_err(|e| self.unsent.take().unwrap_or(e))
    }

    /// What is left of the request's body is dropped, which tells the upstream that no more of it comes.
    pub(super) fn into_session(self) -> (Http2Session, HttpPeer) {
        (self.session, self.peer)
    }
}

async fn read(session: &mut Http2Session, part: Part) -> Result<Option<Bytes>> {
    match part {
        Part::Head => session.read_response_header().await.map(|()| None),
        Part::Body => session.read_response_body().await,
    }
}

fn is_not_zero(length: &HeaderValue) -> bool {
    length.as_bytes().iter().any(|digit| *digit != b'0')
}

/// What is left to send of a body.
struct Upload {
    sink: SendStream<Bytes>,
    rest: Bytes,
    /// For each step forward, not for the whole.
    timeout: Option<Duration>,
}

impl Upload {
    /// Send the rest. Dropping the future loses nothing: calling it again goes on where it was.
    async fn run(&mut self) -> Result<()> {
        while !self.step().await? {}
        Ok(())
    }

    async fn step(&mut self) -> Result<bool> {
        let timeout = self.timeout;
        let step = poll_fn(|cx| self.poll_step(cx));
        match timeout {
            None => step.await,
            Some(timeout) => match tokio::time::timeout(timeout, step).await {
                Ok(done) => done,
                Err(_) => Error::e_explain(ErrorType::WriteTimedout, "while sending the request body"),
            },
        }
    }

    /// True when all is sent.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        let failed = |e| Error::because(ErrorType::WriteError, "while sending the request body", e);
        self.sink.reserve_capacity(self.rest.len());
        let Some(granted) = ready!(self.sink.poll_capacity(cx)) else {
            return Poll::Ready(Error::e_explain(ErrorType::WriteError, "the stream is closed"));
        };
        let part = self.rest.split_to(granted.map_err(failed)?.min(self.rest.len()));
        let last = self.rest.is_empty();
        if !part.is_empty() {
            self.sink.send_data(part, last).map_err(failed)?;
        }
        Poll::Ready(Ok(last))
    }
}
