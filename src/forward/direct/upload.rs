//! The request body on its way out while the response is read already: an upstream may answer before it has the whole
//! request, or answer as it reads, and neither side may wait for the other.
//!
//! Pingora's HTTP/1 session writes or reads, never both. So its stream is shared with a sink of our own.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use h2::SendStream;
use pingora_core::{
    Error, ErrorType, Result,
    protocols::{
        GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
        TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is left to send of a body.
pub(super) struct Upload {
    sink: Sink,
    rest: Bytes,
    /// For each step forward, not for the whole.
    timeout: Option<Duration>,
}

pub(super) enum Sink {
    Http1(SharedStream),
    Http2(SendStream<Bytes>),
}

impl Upload {
    pub fn new(sink: Sink, body: Bytes, timeout: Option<Duration>) -> Upload {
        Upload { sink, rest: body, timeout }
    }

    /// Send the rest. Dropping the future loses nothing: calling it again goes on where it was.
    pub async fn run(&mut self) -> Result<()> {
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
        match &mut self.sink {
            Sink::Http1(stream) => {
                let failed = |e| Error::because(ErrorType::WriteError, "while sending the request body", e);
                if self.rest.is_empty() {
                    return Pin::new(stream).poll_flush(cx).map_ok(|()| true).map_err(failed);
                }
                let sent = ready!(Pin::new(stream).poll_write(cx, &self.rest)).map_err(failed)?;
                if sent == 0 {
                    return Poll::Ready(Err(failed(io::ErrorKind::WriteZero.into())));
                }
                self.rest.advance(sent);
                Poll::Ready(Ok(false))
            }
            Sink::Http2(stream) => {
                let failed = |e| Error::because(ErrorType::WriteError, "while sending the request body", e);
                stream.reserve_capacity(self.rest.len());
                let Some(granted) = ready!(stream.poll_capacity(cx)) else {
                    return Poll::Ready(Error::e_explain(ErrorType::WriteError, "the stream is closed"));
                };
                let part = self.rest.split_to(granted.map_err(failed)?.min(self.rest.len()));
                let last = self.rest.is_empty();
                if !part.is_empty() {
                    stream.send_data(part, last).map_err(failed)?;
                }
                Poll::Ready(Ok(last))
            }
        }
    }
}

/// A connection that can be written to while a session of Pingora's reads from it.
#[derive(Clone, Debug)]
pub(super) struct SharedStream(Arc<Mutex<Stream>>);

impl SharedStream {
    /// A stream that was shared for an earlier request is not wrapped again.
    pub fn of(stream: Stream) -> SharedStream {
        match (*stream).as_any().downcast_ref::<SharedStream>() {
            Some(shared) => shared.clone(),
            None => SharedStream(Arc::new(Mutex::new(stream))),
        }
    }

    /// Locked for one poll at a time, by one task.
    fn with<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| Pin::new(stream).poll_shutdown(cx))
    }
}

#[async_trait]
impl Shutdown for SharedStream {
    async fn shutdown(&mut self) {
        // Nobody is left to tell.
        let _ = poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await;
    }
}

impl UniqueID for SharedStream {
    fn id(&self) -> UniqueIDType {
        self.with(|stream| stream.id())
    }
}

impl Ssl for SharedStream {
    fn get_ssl_digest(&self) -> Option<Arc<pingora_core::protocols::tls::SslDigest>> {
        self.with(|stream| stream.get_ssl_digest())
    }
}

impl GetTimingDigest for SharedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.with(|stream| stream.get_timing_digest())
    }
}

impl GetProxyDigest for SharedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.with(|stream| stream.get_proxy_digest())
    }
}

impl GetSocketDigest for SharedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.with(|stream| stream.get_socket_digest())
    }
}

impl Peek for SharedStream {}
