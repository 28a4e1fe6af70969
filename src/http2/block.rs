//! One header block: its fields, and what is wrong with them (RFC 9113, sections 8.2 and 8.3).

use bytes::{BufMut, BytesMut};

use super::{CONTINUATION, END_HEADERS, END_STREAM, HAS_PRIORITY, HEADERS, Head, PADDED, hpack};
use crate::http::{has_control, is_token};

/// What each field counts beside its name and value (RFC 9113, section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

pub(crate) struct Block {
    pub stream: u32,
    pub fields: Fields,
    /// The first thing that is wrong with them.
    pub flaw: Option<&'static str>,
    /// There are more fields than a message may have, and only the first are here.
    pub is_too_large: bool,
    pub ends_stream: bool,
    /// The beginning of a field.
    pub(super) rest: Vec<u8>,
    /// What the fields count, their bytes on the wire, and the frames that do not end it.
    pub(super) size: usize,
    pub(super) coded: usize,
    pub(super) frames: usize,
    /// Of the pseudo-fields; and whether others have begun.
    seen: [bool; PSEUDO.len()],
    is_in_regular: bool,
}

/// Those of requests and of responses.
const PSEUDO: [&[u8]; 6] = [b":method", b":scheme", b":authority", b":path", b":protocol", b":status"];

/// What HTTP/2 says otherwise (RFC 9113, section 8.2.2).
const OF_THE_CONNECTION: [&[u8]; 5] =
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];

/// In one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    /// Where each name and each value ends.
    ends: Vec<(usize, usize)>,
}

impl Block {
    /// What a HEADERS frame begins, and which part of the frame is of the block; `None` where its padding is longer than it is.
    pub(super) fn begin(head: Head, mut payload: &[u8]) -> Option<(Block, &[u8])> {
        let has = |flag| head.flags & flag != 0;
        let mut padding = 0;
        if has(PADDED) {
            let (length, behind) = payload.split_first()?;
            (padding, payload) = (usize::from(*length), behind);
        }
        let mut flaw = None;
        if has(HAS_PRIORITY) {
            let ([a, b, c, d, _weight], behind) = payload.split_first_chunk()?;
            let is_own = u32::from_be_bytes([a & 0x7f, *b, *c, *d]) == head.stream;
            flaw = is_own.then_some("a stream depends on itself");
            payload = behind;
        }
        let part = payload.get(..payload.len().checked_sub(padding)?)?;
        let block = Block {
            stream: head.stream,
            fields: Fields::default(),
            flaw,
            is_too_large: false,
            ends_stream: has(END_STREAM),
            rest: Vec::new(),
            size: 0,
            coded: 0,
            frames: 0,
            seen: [false; PSEUDO.len()],
            is_in_regular: false,
        };
        Some((block, part))
    }

    /// Whether there is any pseudo-field.
    pub(crate) fn has_pseudo(&self) -> bool {
        self.seen.contains(&true)
    }

    /// Have the library reset the stream.
    pub(crate) fn spoil(&mut self) {
        self.fields = [(&b"connection"[..], &b"close"[..])].into_iter().collect();
    }

    pub(super) fn add(&mut self, name: &[u8], value: &[u8], most: usize) {
        if self.flaw.is_none() {
            self.flaw = self.check(name, value);
        }
        self.size += name.len() + value.len() + FIELD_OVERHEAD;
        self.is_too_large |= self.size >= most;
        if !self.is_too_large {
            self.fields.push(name, value);
        }
    }

    fn check(&mut self, name: &[u8], value: &[u8]) -> Option<&'static str> {
        // What may stand in a path is for who reads targets.
        if name != b":path" && has_control(value) {
            return Some("a field's value has a control character");
        }
        if name.first() == Some(&b':') {
            return self.check_pseudo(name, value);
        }
        self.is_in_regular = true;
        if !is_token(name) {
            return Some("a field's name is none");
        }
        if name.iter().any(u8::is_ascii_uppercase) {
            return Some("a field's name is in capitals");
        }
        if OF_THE_CONNECTION.contains(&name) || name == b"te" && value != b"trailers" {
            return Some("a field is of the connection");
        }
        None
    }

    fn check_pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<&'static str> {
        let Some(kind) = PSEUDO.iter().position(|known| *known == name) else {
            return Some("a pseudo-field is unknown");
        };
        if self.is_in_regular {
            return Some("a pseudo-field stands behind other fields");
        }
        if std::mem::replace(&mut self.seen[kind], true) {
            return Some("a pseudo-field stands there twice");
        }
        let is_right = match name {
            b":method" => is_token(value),
            b":status" => matches!(value, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']),
            b":path" => true,
            _ => value.is_ascii(),
        };
        (!is_right).then_some("a pseudo-field's value is none")
    }

    /// In frames that are no larger than `most`.
    pub(super) fn write(&self, wire: &mut BytesMut, most: usize) {
        let mut left = BytesMut::with_capacity(self.fields.bytes.len() + 8 * self.fields.ends.len());
        self.fields.iter().for_each(|(name, value)| hpack::put(&mut left, name, value));
        let mut kind = HEADERS;
        let mut flags = if self.ends_stream { END_STREAM } else { 0 };
        loop {
            let part = left.split_to(most.min(left.len()));
            if left.is_empty() {
                flags |= END_HEADERS;
            }
            wire.put_uint(part.len() as u64, 3);
            wire.put_slice(&[kind, flags]);
            wire.put_u32(self.stream);
            wire.put_slice(&part);
            if left.is_empty() {
                return;
            }
            (kind, flags) = (CONTINUATION, 0);
        }
    }
}

impl Fields {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let begins = std::iter::once(0).chain(self.ends.iter().map(|(_, value)| *value));
        begins
            .zip(&self.ends)
            .map(|(begin, (name, value))| (&self.bytes[begin..*name], &self.bytes[*name..*value]))
    }

    /// The first value of this name.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The same with another value for each field of this name.
    pub(crate) fn with(&self, name: &[u8], value: &[u8]) -> Fields {
        self.iter().map(|(other, old)| (other, if other == name { value } else { old })).collect()
    }

    fn push(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let name = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((name, self.bytes.len()));
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(fields: I) -> Fields {
        let mut all = Fields::default();
        fields.into_iter().for_each(|(name, value)| all.push(name, value));
        all
    }
}
