//! HTTP/2 frame by frame, for what a well-behaved client cannot send: frames and HPACK fields as bytes, and a connection
//! over TCP or TLS that shows each frame as it comes.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connect;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Kinds of frames (RFC 9113, section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const HAS_PRIORITY: u8 = 0x20;
/// A header that is all of the request.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

// HPACK's static table (RFC 7541, appendix A).
pub(crate) const GET: u8 = 0x82;
pub(crate) const POST: u8 = 0x83;
pub(crate) const ROOT: u8 = 0x84;
pub(crate) const HTTP: u8 = 0x86;
/// `:authority: a`, without indexing.
pub(crate) const AUTHORITY: &[u8] = b"\x01\x01a";
/// `GET http://a/`.
pub(crate) const GOOD: &[u8] = &[GET, HTTP, ROOT, 1, 1, b'a'];

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is spelt out and not remembered (RFC 7541, section 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// One setting (RFC 9113, section 6.5.1).
pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a reset or a goodbye.
    pub(crate) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// How a wait for a frame ended otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Cleanly: the end of the stream, over TLS with a goodbye of its own.
    Closed,
    Broken,
    /// Nothing came for a while.
    Timeout,
}

/// A connection whose every frame the test chooses. A frame belongs to the client that reads it: nothing is acknowledged
/// by itself but the server's first settings, in [`Wire::shake`].
pub(crate) struct Wire<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl Wire<TcpStream> {
    /// Over TCP, with the preface and the settings of both sides.
    pub(crate) async fn open(address: SocketAddr) -> Wire<TcpStream> {
        Wire::shake(connect(address).await.unwrap()).await.unwrap()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Wire<S> {
        Wire { stream, buffer: Vec::new() }
    }

    /// The preface and the settings of both sides.
    pub(crate) async fn shake(stream: S) -> Result<Wire<S>, Silence> {
        let mut wire = Wire::new(stream);
        wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        let (mut ours, mut theirs) = (false, false);
        while !(ours && theirs) {
            match wire.read().await? {
                Frame { kind: SETTINGS, flags: ACK, .. } => ours = true,
                Frame { kind: SETTINGS, .. } => {
                    theirs = true;
                    wire.send(&frame(SETTINGS, ACK, 0, &[])).await;
                }
                _ => {}
            }
        }
        Ok(wire)
    }

    /// As much as the other side takes before it closes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let _ = tokio::time::timeout(super::DEADLINE, sent).await;
    }

    pub(crate) async fn read(&mut self) -> Result<Frame, Silence> {
        loop {
            if let Some(frame) = self.parse() {
                return Ok(frame);
            }
            let mut chunk = [0; 16 * 1024];
            match tokio::time::timeout(super::DEADLINE, self.stream.read(&mut chunk)).await {
                Err(_) => return Err(Silence::Timeout),
                Ok(Ok(0)) => return Err(Silence::Closed),
                Ok(Err(_)) => return Err(Silence::Broken),
                Ok(Ok(read)) => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// The first frame that is wanted, past those that are not.
    pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&Frame) -> bool) -> Result<Frame, Silence> {
        loop {
            let frame = self.read().await?;
            if wanted(&frame) {
                return Ok(frame);
            }
        }
    }

    /// Both halves, for one who reads while it writes.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    fn parse(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.buffer.get(..9)?.try_into().unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.buffer.get(9..9 + length)?.to_vec();
        self.buffer.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }
}
