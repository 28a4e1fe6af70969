//! Fields of HTTP/2 messages on their way to the `h2` library.
//!
//! Where a field is malformed the library ends the connection, with everybody's streams, though RFC 9113, section 8.1.1, asks for
//! the end of one stream: it stops decoding at the field, and could not read what follows. So frames pass here first. Each header
//! block is decoded and judged. As long as all are in order the bytes pass as they came, and nothing is copied. Behind the first that
//! is not, all blocks of the connection are written anew, without a table, as the library's would no longer be the other side's.

mod block;
pub(crate) mod fuzzing;
mod hpack;
mod huffman;
mod table;

use std::{
    io,
    task::{Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

pub(crate) use self::block::{Block, Fields};
use self::hpack::Undecodable;

// Kinds of frames and flags (RFC 9113, section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 0x20;

/// A frame that continues no block: the library ends the connection.
const NOT_IN_A_BLOCK: &[u8] = &[0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 1];
/// A message with more than so many times the fields that it may have ends the connection, as it does in the library.
const MOST_LISTS: usize = 4;

const LEAST_FRAMES: usize = 5;

/// What begins a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub kind: u8,
    pub flags: u8,
    pub length: u32,
    pub stream: u32,
}

impl Head {
    pub(crate) const LENGTH: usize = 9;

    pub(crate) fn read(bytes: &[u8; Head::LENGTH]) -> Head {
        let [high, middle, low, kind, flags, a, b, c, d] = *bytes;
        let length = u32::from_be_bytes([0, high, middle, low]);
        Head { kind, flags, length, stream: u32::from_be_bytes([a & 0x7f, b, c, d]) }
    }
}

/// Who says what becomes of a message.
pub(crate) trait Judge {
    /// Called with each block that is there whole. True where it was changed.
    fn judge(&mut self, block: &mut Block) -> bool;

    /// Called with each other frame that comes.
    fn pass(&mut self, _frame: Head) {}
}

/// One direction of a connection.
pub(crate) struct FieldBlocks<J> {
    judge: J,
    /// Of the largest frame that the library takes.
    frame: usize,
    /// What all fields of a message may count, as the library counts them.
    list: usize,
    /// A block may go on in so many frames, which are a quarter more than the largest needs (CVE-2024-27316).
    frames: usize,
    hpack: hpack::Decoder,
    /// What is left of a payload that is none of our business.
    passing: usize,
    block: Option<Block>,
    /// Frames from the beginning of a block, or of a head, that are not all there yet; and how much of them was looked at.
    held: BytesMut,
    walked: usize,
    /// Blocks are written anew.
    is_writing: bool,
    /// Something came at which the library ends the connection. It finds that by itself.
    is_over: bool,
    made: BytesMut,
}

/// How far the bytes were looked at.
struct Walk {
    at: usize,
    /// What was not written anew begins here.
    from: usize,
    /// What has to wait begins here.
    wait: usize,
}

impl<J: Judge> FieldBlocks<J> {
    /// For frames that begin behind `ahead` bytes of something else.
    pub(crate) fn new(judge: J, ahead: usize, frame: usize, list: usize) -> FieldBlocks<J> {
        let needed = (list / frame).max(1);
        FieldBlocks {
            judge,
            frame,
            list,
            frames: needed.saturating_add(needed / 4).max(LEAST_FRAMES),
            hpack: hpack::Decoder::default(),
            passing: ahead,
            block: None,
            held: BytesMut::new(),
            walked: 0,
            is_writing: false,
            is_over: false,
            made: BytesMut::new(),
        }
    }

    pub(crate) fn judge(&self) -> &J {
        &self.judge
    }

    /// Fill `buf` with what `more` brings, as it is to be read. Tells of each frame that comes.
    pub(crate) fn poll_read(
        &mut self,
        buf: &mut ReadBuf<'_>,
        mut more: impl FnMut(&mut ReadBuf<'_>) -> Poll<io::Result<()>>,
        mut tell: impl FnMut(Head),
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if !self.made.is_empty() {
                buf.put_slice(&self.made(buf.remaining()));
                return Poll::Ready(Ok(()));
            }
            ready!(more(buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passes = self.take(came, &mut tell).unwrap_or_default();
            buf.set_filled(before + passes);
            if passes > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The next bytes, and what of them passes as it is: so many from the first on. `None` where what was made goes in their place.
    fn take(&mut self, bytes: &[u8], tell: impl FnMut(Head)) -> Option<usize> {
        let mut held = std::mem::take(&mut self.held);
        if held.is_empty() {
            let walk = self.walk(bytes, tell);
            self.held.extend_from_slice(&bytes[walk.wait..]);
            if walk.from == 0 && self.made.is_empty() {
                return Some(walk.wait);
            }
            self.made.extend_from_slice(&bytes[walk.from..walk.wait]);
        } else {
            held.extend_from_slice(bytes);
            let walk = self.walk(&held, tell);
            self.made.extend_from_slice(&held[walk.from..walk.wait]);
            held.advance(walk.wait);
            // Freed where nothing waits: an idle connection holds no buffer.
            if !held.is_empty() {
                self.held = held;
            }
        }
        None
    }

    /// All that there is to be read behind these bytes.
    pub(crate) fn pass(&mut self, bytes: &[u8], tell: impl FnMut(Head)) -> Vec<u8> {
        match self.take(bytes, tell) {
            Some(passes) => bytes[..passes].to_vec(),
            None => self.made(usize::MAX).to_vec(),
        }
    }

    /// Of what was made, up to `most` bytes.
    fn made(&mut self, most: usize) -> BytesMut {
        let part = self.made.split_to(most.min(self.made.len()));
        if self.made.is_empty() {
            self.made = BytesMut::new();
        }
        part
    }

    fn walk(&mut self, bytes: &[u8], mut tell: impl FnMut(Head)) -> Walk {
        // What is held begins with the block, if there is one.
        let mut begin = 0;
        let mut walk = Walk { at: std::mem::take(&mut self.walked), from: 0, wait: 0 };
        while !self.is_over {
            let skipped = self.passing.min(bytes.len() - walk.at);
            walk.at += skipped;
            self.passing -= skipped;
            let Some((head, behind)) = bytes[walk.at..].split_first_chunk() else { break };
            let (head, was_writing) = (Head::read(head), self.is_writing);
            let length = head.length as usize;
            let mut whole = None;
            let mut end = walk.at + Head::LENGTH + length;
            if self.is_misplaced(head) {
                // The library ends the connection, and tells better why than we could.
                self.is_over = true;
                end = walk.at;
            } else if !matches!(head.kind, HEADERS | CONTINUATION) {
                tell(head);
                self.judge.pass(head);
                walk.at += Head::LENGTH;
                self.passing = length;
                continue;
            } else {
                let Some(payload) = behind.get(..length) else { break };
                tell(head);
                if head.kind == HEADERS {
                    begin = walk.at;
                }
                match self.fragment(head, payload) {
                    Ok(block) => whole = block,
                    Err(Undecodable) => (self.is_over, self.is_writing) = (true, true),
                }
                // So that nothing is held of one that grows.
                self.is_writing |= self.block.is_some() && end - begin > self.list;
            }
            if self.is_writing {
                // Of a block nothing passes as it came, and what lay before it does.
                let until = if was_writing { walk.at } else { begin };
                self.made.extend_from_slice(&bytes[walk.from..until]);
                match whole {
                    Some(block) => block.write(&mut self.made, self.frame),
                    None if self.is_over => self.made.extend_from_slice(NOT_IN_A_BLOCK),
                    None => {}
                }
                walk.from = end;
            }
            walk.at = end;
        }
        walk.wait = match self.block {
            _ if self.is_over => bytes.len(),
            Some(_) if !self.is_writing => begin,
            _ => walk.at,
        };
        self.walked = walk.at.saturating_sub(walk.wait);
        walk
    }

    /// Whether the library ends the connection at this frame: it interrupts a block, continues none, is on no stream, or is too large.
    fn is_misplaced(&self, head: Head) -> bool {
        let continues = head.kind == CONTINUATION;
        let is_next =
            self.block.as_ref().map_or(!continues, |block| continues && head.stream == block.stream);
        let is_of_block = continues || head.kind == HEADERS;
        // Nobody has been told that it may push.
        head.kind == PUSH_PROMISE
            || !is_next
            || is_of_block && (head.length as usize > self.frame || head.stream == 0)
    }

    /// The next part of a block; and the block, where that was its end and it is to be written.
    fn fragment(&mut self, head: Head, payload: &[u8]) -> Result<Option<Block>, Undecodable> {
        let (mut block, part) = match self.block.take() {
            Some(block) => (block, payload),
            None => {
                self.hpack.begin();
                Block::begin(head, payload).ok_or(Undecodable)?
            }
        };
        block.coded += part.len();
        let mut rest = std::mem::take(&mut block.rest);
        let bytes = if rest.is_empty() {
            part
        } else {
            rest.extend_from_slice(part);
            &rest
        };
        let read = self.hpack.read(bytes, |name, value| block.add(name, value, self.list))?;
        block.rest = bytes[read..].to_vec();
        if block.coded.max(block.size) > self.list.saturating_mul(MOST_LISTS) {
            return Err(Undecodable);
        }
        self.is_writing |= block.is_too_large;
        if head.flags & END_HEADERS == 0 {
            block.frames += 1;
            if block.frames - 1 > self.frames {
                return Err(Undecodable);
            }
            self.block = Some(block);
            return Ok(None);
        }
        if !block.rest.is_empty() {
            return Err(Undecodable);
        }
        self.is_writing |= self.judge.judge(&mut block);
        Ok(self.is_writing.then_some(block))
    }
}
