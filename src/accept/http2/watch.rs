//! What a client makes a connection do for nothing: pings, settings, resets, window updates, empty frames. The `h2` library
//! answers each in turn and bounds what it holds meanwhile, but not how long that goes on, so they are counted here, as
//! the bytes pass by on their way to it.
//!
//! A budget pays for them. It grows with time, and with what is sent: who reads a response has to send window updates,
//! and may well ping.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::accept::{connection::Connection, stream::ClientStream};

// Kinds of frames and flags (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// What the client's preface measures (RFC 9113, section 3.4).
const PREFACE: u32 = 24;
/// Of each frame.
const HEAD: usize = 9;

/// The client's side of a connection, as the `h2` library sees it.
pub(super) struct Watched {
    stream: ClientStream,
    connection: Arc<Connection>,
    frames: Frames,
    budget: Budget,
    flooded: Flooded,
}

/// Whether the client has done too much for nothing. Nothing more is read from it then.
#[derive(Clone, Default)]
pub(super) struct Flooded(Arc<AtomicBool>);

impl Flooded {
    pub(super) fn is(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// To be polled by the task that reads the connection, which is woken when it becomes true.
    pub(super) async fn becomes(&self) {
        std::future::poll_fn(|_| if self.is() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl Watched {
    pub(super) fn new(stream: ClientStream) -> (Watched, Flooded) {
        let connection = stream.connection().clone();
        let flooded = Flooded::default();
        let frames = Frames::default();
        (Watched { stream, connection, frames, budget: Budget::default(), flooded: flooded.clone() }, flooded)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.flooded.is() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let idle = this.frames.follow(&buf.filled()[before..]);
        if idle > 0 && !this.budget.pay(idle, this.connection.port.clock.now()) {
            this.flooded.0.store(true, Relaxed);
            buf.set_filled(before);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.budget.earn(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// In bytes that were sent: one frame for nothing costs as much as these many.
struct Budget {
    left: u64,
    /// When time was last paid for, in milliseconds.
    at: u64,
}

impl Budget {
    /// An answer to a ping is 17 bytes, one to settings 9: answering must not pay for the next. The smallest message of a
    /// gRPC stream, with the answer to the ping that such clients send to measure the way, must.
    const FRAME: u64 = 32;
    const MOST: u64 = 1000 * Self::FRAME;
    /// 100 frames a second.
    const PER_MILLISECOND: u64 = Self::FRAME / 10;

    fn earn(&mut self, sent: usize) {
        self.left = (self.left + sent as u64).min(Self::MOST);
    }

    /// False when there is not enough left for these frames.
    fn pay(&mut self, frames: u32, now: u64) -> bool {
        let passed = now.saturating_sub(self.at);
        self.at = now;
        self.left = (self.left + passed * Self::PER_MILLISECOND).min(Self::MOST);
        match self.left.checked_sub(u64::from(frames) * Self::FRAME) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { left: Budget::MOST, at: 0 }
    }
}

/// Where one frame ends and the next begins.
struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    filled: usize,
    /// Bytes until the next head.
    left: u32,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames { head: [0; HEAD], filled: 0, left: PREFACE }
    }
}

impl Frames {
    /// How many frames for nothing began in `bytes`.
    fn follow(&mut self, mut bytes: &[u8]) -> u32 {
        let mut idle = 0;
        loop {
            let skipped = (self.left as usize).min(bytes.len());
            self.left -= skipped as u32;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return idle;
            }
            let taken = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < HEAD {
                return idle;
            }
            let [high, middle, low, kind, flags, ..] = self.head;
            self.filled = 0;
            self.left = u32::from_be_bytes([0, high, middle, low]);
            idle += u32::from(is_idle(kind, flags, self.left));
        }
    }
}

/// Whether a frame brings no request any further.
fn is_idle(kind: u8, flags: u8, length: u32) -> bool {
    match kind {
        DATA => length == 0 && flags & END_STREAM == 0,
        HEADERS | CONTINUATION => length == 0,
        SETTINGS | PING => flags & ACK == 0,
        GOAWAY => false,
        // Priorities, resets, window updates, and what nobody knows.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING_FRAME: &[u8] = b"\0\0\x08\x06\0\0\0\0\0********";

    #[test]
    fn finds_the_frames_however_the_bytes_come() {
        let mut bytes = vec![b'P'; PREFACE as usize];
        bytes.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0"); // settings
        bytes.extend_from_slice(PING_FRAME);
        bytes.extend_from_slice(b"\0\0\x05\x01\x05\0\0\0\x01hello"); // a header
        bytes.extend_from_slice(b"\0\0\0\0\0\0\0\0\x01"); // empty data
        bytes.extend_from_slice(b"\0\0\0\0\x01\0\0\0\x01"); // empty data that ends the stream
        bytes.extend_from_slice(b"\0\0\x03\0\0\0\0\0\x01abc"); // data
        bytes.extend_from_slice(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01"); // a window update
        for size in [1, 2, 9, 10, bytes.len()] {
            let mut frames = Frames::default();
            let idle: u32 = bytes.chunks(size).map(|part| frames.follow(part)).sum();
            assert_eq!(idle, 4, "in parts of {size}");
        }
    }

    #[test]
    fn time_and_what_is_sent_pay_for_idle_frames() {
        let mut budget = Budget::default();
        assert!(budget.pay(1000, 0));
        assert!(!budget.pay(1, 0));
        assert!(budget.pay(90, 1000));
        assert!(!budget.pay(90, 1000));
        budget.earn(10 * Budget::FRAME as usize);
        assert!(budget.pay(10, 1000));
        budget.earn(usize::MAX / 2);
        assert!(!budget.pay(1001, 1000), "no more than at the beginning");
    }

    #[test]
    fn answers_do_not_pay_for_pings() {
        let mut budget = Budget::default();
        let answered = (0..100_000).position(|_| {
            budget.earn(PING_FRAME.len());
            !budget.pay(1, 0)
        });
        assert!(answered.is_some_and(|pings| pings < 5000));
    }
}
