//! Requests that are malformed: each ends its own stream, for a reason, and the library never learns what was wrong. It gets
//! something harmless in their place, and a note lies here until it hands that out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use pingora_http::RequestHeader;

use crate::{
    accept::{
        http1::{Refusal, bad},
        lock, target,
    },
    error::Reason,
    http2::{Block, DATA, END_STREAM, Fields, Head, Judge, RST_STREAM},
};

/// Streams that are looked after. A client may begin more, which are refused, and need not end them.
const MOST_OPEN: usize = 1024;

/// By stream, until it is accepted.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<BTreeMap<u32, Malformed>>>);

/// What is wrong with a request, and what can be told of it.
#[derive(Debug)]
pub(super) struct Malformed {
    pub refusal: Refusal,
    /// Whether the stream is reset, as RFC 9113, section 8.1.1, has it, or an answer says why.
    pub is_reset: bool,
    pub method: String,
    pub path: String,
}

/// Reads the blocks that a client sends.
pub(super) struct Requests {
    notes: Notes,
    /// The last stream that was begun. Blocks of it and of those before it are trailers.
    last: u32,
    /// Those whose client has not ended them.
    open: BTreeSet<u32>,
}

impl Notes {
    /// What was noted of this stream. Those before it were never handed out, and will not be.
    pub(super) fn take(&self, stream: u32) -> Option<Malformed> {
        let mut notes = lock(&self.0);
        if notes.is_empty() {
            return None;
        }
        let later = notes.split_off(&(stream + 1));
        std::mem::replace(&mut *notes, later).remove(&stream)
    }

    fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Malformed {
    /// What is wrong with a request that the library has handed out.
    pub(super) fn told(refusal: Refusal, request: &RequestHeader) -> Malformed {
        let (method, path) = (request.method.to_string(), request.uri.path().to_owned());
        Malformed { refusal, is_reset: false, method, path }
    }
}

impl Requests {
    pub(super) fn new(notes: Notes) -> Requests {
        Requests { notes, last: 0, open: BTreeSet::new() }
    }

    /// Whether more is wrong than one connection may have wrong, while nobody has looked.
    pub(super) fn is_harmful(&self) -> bool {
        self.notes.len() > super::MOST_REFUSED
    }

    fn begin(&self, block: &mut Block) -> bool {
        let (refusal, is_reset) = match flaw(block) {
            Some(flaw) => (bad(flaw), true),
            None if block.is_too_large => {
                (Refusal { reason: Reason::HeaderTooLarge, detail: "header size limit passed" }, false)
            }
            None => match path(&block.fields).map_or(Ok(()), target::check) {
                Err(refusal) => (refusal, false),
                Ok(()) => return encode(&mut block.fields),
            },
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let told = |name: &[u8]| block.fields.get(name).map(text).unwrap_or_default();
        let malformed = Malformed { refusal, is_reset, method: told(b":method"), path: told(b":path") };
        lock(&self.notes.0).insert(block.stream, malformed);
        // Who is answered may have said in what form.
        block.fields = if is_reset { harmless() } else { block.fields.with(b":path", b"/") };
        true
    }
}

impl Judge for Requests {
    fn judge(&mut self, block: &mut Block) -> bool {
        let is_open = match block.ends_stream {
            true => self.open.remove(&block.stream),
            false => self.open.contains(&block.stream),
        };
        if block.stream > self.last {
            self.last = block.stream;
            if !block.ends_stream {
                self.open.insert(block.stream);
            }
            if self.open.len() > MOST_OPEN {
                self.open.pop_first();
            }
            return self.begin(block);
        }
        // What comes for one that is over, the library knows how to answer.
        let is_malformed = is_open && (block.flaw.is_some() || block.is_too_large || block.has_pseudo());
        if is_malformed {
            block.spoil();
        }
        is_malformed
    }

    fn pass(&mut self, frame: Head) {
        if frame.kind == RST_STREAM || frame.kind == DATA && frame.flags & END_STREAM != 0 {
            self.open.remove(&frame.stream);
        }
    }
}

/// What is wrong with the head of a request.
fn flaw(block: &Block) -> Option<&'static str> {
    let has = |name: &[u8]| block.fields.get(name).is_some();
    let is_whole =
        has(b":method") && has(b":scheme") && path(&block.fields).is_some_and(|path| !path.is_empty());
    // CONNECT, which is refused for what it is, has no path.
    let is_connect = block.fields.get(b":method") == Some(b"CONNECT");
    block
        .flaw
        .or(has(b":status").then_some("a pseudo-field is a response's"))
        .or((!is_whole && !is_connect).then_some("a pseudo-field is missing"))
}

fn path(fields: &Fields) -> Option<&[u8]> {
    fields.get(b":path")
}

/// The same as over HTTP/1. True where that changes anything.
fn encode(fields: &mut Fields) -> bool {
    let Some(made) = path(fields).and_then(target::encoded) else { return false };
    *fields = fields.with(b":path", &made);
    true
}

fn harmless() -> Fields {
    let fields: [(&[u8], &[u8]); 3] = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")];
    fields.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_streams_that_were_never_handed_out_are_dropped() {
        let notes = Notes::default();
        for stream in [1, 3, 5, 7] {
            let malformed = Malformed {
                refusal: bad("x"),
                is_reset: true,
                method: String::new(),
                path: stream.to_string(),
            };
            lock(&notes.0).insert(stream, malformed);
        }
        assert_eq!(notes.take(5).map(|malformed| malformed.path).as_deref(), Some("5"));
        assert_eq!((notes.len(), notes.take(6).is_none()), (1, true));
        assert!(notes.take(7).is_some() && notes.take(7).is_none());
    }
}
