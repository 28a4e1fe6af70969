//! What is left to send of a message: its head and small parts of its body gathered, so that they leave together, and at
//! most one large part as it came. Pure: whoever sends takes slices and says how far it got.

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;

use crate::http::put_fields;

/// A part up to this size is copied, which is cheaper than another slice.
const SMALL: usize = 8 * 1024;
/// With more than this gathered, no more is taken in.
const ENOUGH: usize = 16 * 1024;
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// How a body is framed (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Coding {
    /// By a length in the head, or by the end of the connection; or there is none.
    #[default]
    Plain,
    Chunked,
}

#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    gathered: BytesMut,
    /// Follows what is gathered.
    part: Bytes,
    /// Follows the part.
    tail: &'static [u8],
    coding: Coding,
}

impl Outgoing {
    /// Begin a message: `head` is the buffer to write it into.
    pub(crate) fn begin(&mut self, coding: Coding, size: usize) -> &mut BytesMut {
        self.coding = coding;
        self.gathered.reserve(size);
        &mut self.gathered
    }

    /// Whether what is here should be sent before more is taken in.
    pub(crate) fn is_full(&self) -> bool {
        !self.part.is_empty() || self.gathered.len() > ENOUGH
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.part.is_empty() && self.gathered.is_empty()
    }

    /// Take in the next part of the body, when not full. An empty one says nothing, unless it is the last.
    pub(crate) fn put(&mut self, part: Bytes, is_last: bool) {
        let is_chunked = self.coding == Coding::Chunked;
        if part.is_empty() {
            if is_last && is_chunked {
                self.gathered.put_slice(LAST_CHUNK);
            }
            return;
        }
        if is_chunked {
            put_size(&mut self.gathered, part.len());
        }
        let tail: &[u8] = match (is_chunked, is_last) {
            (false, _) => b"",
            (true, false) => b"\r\n",
            (true, true) => b"\r\n0\r\n\r\n",
        };
        if part.len() <= SMALL {
            self.gathered.reserve(part.len() + tail.len());
            self.gathered.put_slice(&part);
            self.gathered.put_slice(tail);
        } else {
            self.part = part;
            self.tail = tail;
        }
    }

    /// End a chunked body with fields behind it.
    pub(crate) fn put_trailers(&mut self, trailers: &HeaderMap) {
        if self.coding != Coding::Chunked {
            return;
        }
        self.gathered.put_slice(b"0\r\n");
        put_fields(&mut self.gathered, trailers, None);
        self.gathered.put_slice(b"\r\n");
    }

    /// What is to be sent next, in this order.
    pub(crate) fn slices(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(&self.gathered), IoSlice::new(&self.part)]
    }

    /// So many bytes were sent.
    pub(crate) fn advance(&mut self, sent: usize) {
        let gathered = sent.min(self.gathered.len());
        if gathered == self.gathered.len() {
            // Empty, but its memory serves the next.
            self.gathered.clear();
        } else {
            self.gathered.advance(gathered);
        }
        let of_part = sent - gathered;
        if of_part == 0 {
            return;
        }
        self.part.advance(of_part);
        if self.part.is_empty() {
            self.part = Bytes::new();
            self.gathered.put_slice(std::mem::take(&mut self.tail));
        }
    }

    /// Give memory back that holds nothing.
    pub(crate) fn release(&mut self) {
        if self.gathered.is_empty() {
            self.gathered = BytesMut::new();
        }
    }

    /// All of it in one piece, for one who sends it later.
    pub(crate) fn into_bytes(mut self) -> BytesMut {
        self.gathered.unsplit(BytesMut::from(&self.part[..]));
        self.gathered.put_slice(self.tail);
        self.gathered
    }
}

/// The line before a chunk.
fn put_size(buffer: &mut BytesMut, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    buffer.reserve(digits as usize + 2);
    for place in (0..digits).rev() {
        buffer.put_u8(DIGITS[length >> (4 * place) & 0xf]);
    }
    buffer.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(outgoing: &mut Outgoing, piece: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !outgoing.is_empty() {
            let slices = outgoing.slices();
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).take(piece).collect();
            outgoing.advance(bytes.len());
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn a_chunked_body_is_framed_however_it_is_sent() {
        let large = vec![b'x'; SMALL + 1];
        for piece in [1, 7, 5000, usize::MAX] {
            let mut outgoing = Outgoing::default();
            outgoing.begin(Coding::Chunked, 8).put_slice(b"HEAD");
            outgoing.put(Bytes::from_static(b"abc"), false);
            outgoing.put(Bytes::new(), false);
            outgoing.put(large.clone().into(), true);
            assert!(outgoing.is_full());
            let expected = [b"HEAD3\r\nabc\r\n2001\r\n".as_slice(), &large, b"\r\n0\r\n\r\n"].concat();
            assert!(sent(&mut outgoing, piece) == expected, "by {piece}");
        }
    }

    #[test]
    fn the_last_chunk_stands_once_whatever_ends_the_body() {
        let mut outgoing = Outgoing::default();
        outgoing.begin(Coding::Chunked, 0);
        outgoing.put(Bytes::from_static(b"abc"), false);
        outgoing.put(Bytes::new(), true);
        assert_eq!(sent(&mut outgoing, usize::MAX), b"3\r\nabc\r\n0\r\n\r\n");
        outgoing.begin(Coding::Chunked, 0);
        let trailers = [(http::header::ETAG, http::HeaderValue::from_static("1"))].into_iter().collect();
        outgoing.put_trailers(&trailers);
        assert_eq!(sent(&mut outgoing, usize::MAX), b"0\r\netag: 1\r\n\r\n");
        outgoing.begin(Coding::Plain, 0);
        outgoing.put(Bytes::from_static(b"abc"), false);
        outgoing.put(Bytes::new(), true);
        assert_eq!(sent(&mut outgoing, usize::MAX), b"abc");
    }

    #[test]
    fn what_is_left_can_be_taken_out_in_one_piece() {
        let mut outgoing = Outgoing::default();
        outgoing.begin(Coding::Chunked, 0);
        outgoing.put(vec![b'x'; SMALL + 1].into(), true);
        let whole = outgoing.into_bytes();
        assert!(whole.starts_with(b"2001\r\nx") && whole.ends_with(b"x\r\n0\r\n\r\n"));
    }

    proptest::proptest! {
        #[test]
        fn a_chunk_size_reads_back(length in 1..10_000_000usize) {
            let mut buffer = BytesMut::new();
            put_size(&mut buffer, length);
            let text = std::str::from_utf8(&buffer).unwrap().trim_end();
            proptest::prop_assert_eq!(usize::from_str_radix(text, 16), Ok(length));
        }
    }
}
