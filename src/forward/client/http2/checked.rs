//! The stream under a connection, with a look at the fields that come: an answer that is malformed ends its own request, and not all
//! that share the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::{LARGEST_FRAME, LONGEST_HEAD};
use crate::http2::{Block, FieldBlocks, Judge};

pub(super) struct Checked {
    stream: Stream,
    received: FieldBlocks<Responses>,
}

struct Responses;

impl Judge for Responses {
    fn judge(&mut self, block: &mut Block) -> bool {
        let is_malformed = block.flaw.is_some() || block.is_too_large;
        if is_malformed {
            block.spoil();
        }
        is_malformed
    }
}

impl Checked {
    pub(super) fn new(stream: Stream) -> Checked {
        let received = FieldBlocks::new(Responses, 0, LARGEST_FRAME as usize, LONGEST_HEAD as usize);
        Checked { stream, received }
    }
}

impl AsyncRead for Checked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Checked { stream, received } = &mut *self;
        received.poll_read(buf, |buf| Pin::new(&mut *stream).poll_read(cx, buf), |_| {})
    }
}

impl AsyncWrite for Checked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
