//! What a client makes a connection do for nothing: pings, settings, resets, window updates, empty frames. The `h2` library
//! answers each in turn and bounds what it holds meanwhile, but not how long that goes on, so they are counted here, as
//! the bytes pass by on their way to it.
//!
//! A budget pays for them. It grows with time, and with what is sent of responses: who reads one has to send window
//! updates, and may well ping.

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

use super::rejected::Rejected;
use crate::{
    accept::connection::{Connection, stream::ClientStream},
    error::Reason,
};

// Kinds of frames and flags (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// An error code (RFC 9113, section 7).
const PROTOCOL_ERROR: u32 = 1;

/// What the client's preface measures (RFC 9113, section 3.4).
const PREFACE: u32 = 24;
/// Of each frame.
const HEAD: usize = 9;
/// What a reset consists of behind its head.
const CODE: usize = 4;

/// The client's side of a connection, as the `h2` library sees it.
pub(super) struct Watched {
    stream: ClientStream,
    connection: Arc<Connection>,
    received: Frames,
    sent: Frames,
    budget: Budget,
    flooded: Flooded,
    rejected: Rejected,
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
    pub(super) fn new(stream: ClientStream, rejected: Rejected) -> (Watched, Flooded) {
        let connection = stream.connection().clone();
        let flooded = Flooded::default();
        let watched = Watched {
            stream,
            connection,
            received: Frames::behind(PREFACE),
            sent: Frames::behind(0),
            budget: Budget::default(),
            flooded: flooded.clone(),
            rejected,
        };
        (watched, flooded)
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
        let mut idle = 0;
        this.received.follow(&buf.filled()[before..], |frame| idle += u32::from(frame.is_idle()));
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
        let this = &mut *self;
        let sent = ready!(Pin::new(&mut this.stream).poll_write(cx, data))?;
        this.sent.follow(&data[..sent], |frame| {
            this.budget.earn(frame.of_response());
            if let Some(reason) = frame.rejection() {
                this.rejected.sent(frame.stream, reason);
            }
        });
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What frames for nothing cost.
struct Budget {
    left: u64,
    /// When time was last paid for, in milliseconds.
    at: u64,
}

impl Budget {
    const FRAME: u64 = 32;
    /// For each byte of a response. The smallest message of gRPC has five: they pay for two window updates and the ping that
    /// some clients send at each message, to measure the way. A byte alone, from a window that was opened by one, does
    /// not pay for the next window update.
    const BYTE: u64 = 20;
    const MOST: u64 = 1000 * Self::FRAME;
    /// 100 frames a second.
    const PER_MILLISECOND: u64 = Self::FRAME / 10;

    fn earn(&mut self, sent: u32) {
        self.left = (self.left + u64::from(sent) * Self::BYTE).min(Self::MOST);
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
    /// The head of one, and the code of a reset.
    head: [u8; HEAD + CODE],
    /// Bytes of these that are there.
    filled: usize,
    /// Bytes until the next head.
    left: u32,
}

impl Frames {
    /// Frames that begin behind so many bytes.
    fn behind(left: u32) -> Frames {
        Frames { head: [0; HEAD + CODE], filled: 0, left }
    }

    /// Tell of each frame that began in `bytes`.
    fn follow(&mut self, mut bytes: &[u8], mut began: impl FnMut(Frame)) {
        loop {
            let skipped = (self.left as usize).min(bytes.len());
            self.left -= skipped as u32;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (self.wanted() - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            // A head that is whole may turn out to be a reset's.
            if self.filled < self.wanted() {
                continue;
            }
            let [high, middle, low, kind, flags, a, b, c, d, code @ ..] = self.head;
            let length = u32::from_be_bytes([0, high, middle, low]);
            self.left = length - (self.filled - HEAD) as u32;
            self.filled = 0;
            let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
            began(Frame { kind, flags, length, stream, code: u32::from_be_bytes(code) });
        }
    }

    fn wanted(&self) -> usize {
        let is_reset = self.filled >= HEAD && self.head[..4] == [0, 0, CODE as u8, RST_STREAM];
        if is_reset { HEAD + CODE } else { HEAD }
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    stream: u32,
    /// Of a reset; otherwise it means nothing.
    code: u32,
}

impl Frame {
    /// Whether one of the client's brings no request any further.
    fn is_idle(&self) -> bool {
        match self.kind {
            DATA => self.length == 0 && self.flags & END_STREAM == 0,
            HEADERS | CONTINUATION => self.length == 0,
            SETTINGS | PING => self.flags & ACK == 0,
            GOAWAY => false,
            // Priorities, resets, window updates, and what nobody knows.
            _ => true,
        }
    }

    /// Bytes that one of ours brings of a response.
    fn of_response(&self) -> u32 {
        if matches!(self.kind, DATA | HEADERS | CONTINUATION) { self.length } else { 0 }
    }

    /// What one of the library's says about its stream, if nobody else has seen that.
    fn rejection(&self) -> Option<Reason> {
        match self.kind {
            HEADERS => Some(Reason::HeaderTooLarge),
            RST_STREAM if self.code == PROTOCOL_ERROR => Some(Reason::BadRequest),
            _ => None,
        }
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
            let (mut frames, mut idle, mut of_response) = (Frames::behind(PREFACE), 0, 0);
            for part in bytes.chunks(size) {
                frames.follow(part, |frame| {
                    idle += u32::from(frame.is_idle());
                    of_response += frame.of_response();
                });
            }
            assert_eq!((idle, of_response), (4, 8), "in parts of {size}");
        }
    }

    #[test]
    fn finds_the_code_of_a_reset_and_what_comes_behind_it() {
        let mut bytes = b"\0\0\x04\x03\0\0\0\x01\x05\0\0\0\x01".to_vec(); // malformed
        bytes.extend_from_slice(b"\0\0\x04\x03\0\0\0\0\x07\0\0\0\x08"); // cancelled
        bytes.extend_from_slice(PING_FRAME);
        bytes.extend_from_slice(b"\0\0\x05\x01\x05\0\0\0\x09hello"); // a header
        for size in [1, 4, 9, 10, 13, bytes.len()] {
            let (mut frames, mut found) = (Frames::behind(0), Vec::new());
            for part in bytes.chunks(size) {
                frames.follow(part, |frame| found.push((frame.stream, frame.rejection())));
            }
            let expected = [
                (0x105_u32, Some(Reason::BadRequest)),
                (7, None),
                (0, None),
                (9, Some(Reason::HeaderTooLarge)),
            ];
            assert_eq!(found, expected, "in parts of {size}");
        }
    }

    #[test]
    fn time_and_what_is_sent_pay_for_idle_frames() {
        let mut budget = Budget::default();
        assert!(budget.pay(1000, 0));
        assert!(!budget.pay(1, 0));
        assert!(budget.pay(90, 1000));
        assert!(!budget.pay(90, 1000));
        budget.earn(16);
        assert!(budget.pay(10, 1000));
        budget.earn(u32::MAX);
        assert!(!budget.pay(1001, 1000), "no more than at the beginning");
    }

    #[test]
    fn the_smallest_message_pays_for_what_its_reader_sends_and_a_byte_alone_does_not() {
        let frames_until_flooded = |bytes, frames| {
            let mut budget = Budget::default();
            (0..100_000).position(|_| {
                budget.earn(bytes);
                !budget.pay(frames, 0)
            })
        };
        assert_eq!(frames_until_flooded(5, 3), None);
        assert!(frames_until_flooded(1, 1).is_some_and(|frames| frames < 5000));
    }
}
