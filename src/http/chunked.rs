//! A chunked body (RFC 9112, section 7.1), byte by byte: where it ends, and which of its bytes are content.
//!
//! Pingora finds the end too, but only after it has read past it, and it forgives what others read differently: a size
//! that is empty or has spaces around it, lines that end in a bare LF. So a client's connection hands out the body up to
//! its end, an upstream's is decoded here, and such framing is refused. Pure: bytes in, lengths out.

/// A size line or trailer section longer than this is not worth reading on.
const LONGEST_LINE: u32 = 8 * 1024;
const LONGEST_TRAILERS: u32 = 64 * 1024;

/// Framing that cannot be followed, or could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// How far a body has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// Of the chunk: while its size is read, the size so far; then the bytes left.
    size: u64,
    /// Bytes of the present line, or of all trailers.
    length: u32,
    /// Blanks behind a size pass.
    is_tolerant: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Size,
    Blank,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// At the start of a line of the trailer section.
    Trailer,
    TrailerLine,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

impl Chunked {
    /// Of an upstream: some old servers fill their sizes up with blanks, which nobody reads in two ways.
    pub(crate) fn tolerant() -> Chunked {
        Chunked { is_tolerant: true, ..Chunked::default() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What comes next are the fields behind the last chunk, or the line that ends them.
    pub(crate) fn is_in_trailers(&self) -> bool {
        matches!(
            self.state,
            State::Trailer | State::TrailerLine | State::TrailerLineFeed | State::LastLineFeed
        )
    }

    /// How many of `bytes` are framing, up to the next content or to the fields behind the last chunk, and how many behind
    /// them are content of one chunk. Both belong to the body; there may be more of it behind.
    ///
    /// # Errors
    ///
    /// The framing is not as it should be.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<(usize, usize), Malformed> {
        let mut framing = 0;
        while framing < bytes.len() && !self.is_done() && self.state != State::Data {
            let before = self.state;
            self.state = self.step(bytes[framing])?;
            framing += 1;
            if before == State::SizeLineFeed && self.state == State::Trailer {
                break;
            }
        }
        if self.state != State::Data {
            return Ok((framing, 0));
        }
        let content = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - framing);
        self.size -= content as u64;
        if self.size == 0 {
            self.state = State::DataReturn;
        }
        Ok((framing, content))
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self.state, byte) {
            (State::Start | State::Size, digit) if digit.is_ascii_hexdigit() => {
                self.lengthen(LONGEST_LINE)?;
                self.add_digit(digit)?;
                State::Size
            }
            (State::Size | State::Blank, b';') => State::Extension,
            (State::Size | State::Blank, b' ' | b'\t') if self.is_tolerant => {
                self.lengthen(LONGEST_LINE)?;
                State::Blank
            }
            (State::Size | State::Blank | State::Extension, b'\r') => State::SizeLineFeed,
            (State::Extension, byte) if byte == b'\t' || (b' '..0x7f).contains(&byte) || byte >= 0x80 => {
                self.lengthen(LONGEST_LINE)?;
                State::Extension
            }
            (State::SizeLineFeed, b'\n') => {
                self.length = 0;
                if self.size == 0 { State::Trailer } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Start,
            (State::Trailer, b'\r') => State::LastLineFeed,
            (State::Trailer | State::TrailerLine, byte) if byte != b'\r' && byte != b'\n' => {
                self.lengthen(LONGEST_TRAILERS)?;
                State::TrailerLine
            }
            (State::TrailerLine, b'\r') => State::TrailerLineFeed,
            (State::TrailerLineFeed, b'\n') => State::Trailer,
            (State::LastLineFeed, b'\n') => State::Done,
            _ => return Err(Malformed),
        })
    }

    fn lengthen(&mut self, longest: u32) -> Result<(), Malformed> {
        self.length += 1;
        if self.length > longest { Err(Malformed) } else { Ok(()) }
    }

    fn add_digit(&mut self, digit: u8) -> Result<(), Malformed> {
        let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
        self.size =
            self.size.checked_mul(16).and_then(|size| size.checked_add(value.into())).ok_or(Malformed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Chunked {
        /// How many of `bytes` belong to the body; less than all only when it ends among them.
        fn follow(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
            let mut at = 0;
            while at < bytes.len() && !self.is_done() {
                let (framing, content) = self.decode(&bytes[at..])?;
                at += framing + content;
            }
            Ok(at)
        }
    }

    /// The length of the body at the start of `bytes`, fed in pieces of `piece`; `None` when it has not ended.
    fn length(bytes: &[u8], piece: usize) -> Result<Option<usize>, Malformed> {
        let mut body = Chunked::default();
        let mut passed = 0;
        for part in bytes.chunks(piece) {
            passed += body.follow(part)?;
            if body.is_done() {
                return Ok(Some(passed));
            }
        }
        Ok(None)
    }

    fn content(bytes: &[u8], piece: usize) -> Result<Vec<u8>, Malformed> {
        let (mut body, mut found) = (Chunked::default(), Vec::new());
        for mut part in bytes.chunks(piece) {
            while !part.is_empty() && !body.is_done() {
                let (framing, content) = body.decode(part)?;
                found.extend_from_slice(&part[framing..framing + content]);
                part = &part[framing + content..];
            }
        }
        Ok(found)
    }

    #[test]
    fn finds_the_end_however_the_bytes_arrive() {
        let bodies = [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A;name=\"a b\"\r\n0123456789\r\n00\r\nTrailer: x\r\nOther: y\r\n\r\n",
        ];
        for body in bodies {
            let with_next = format!("{body}GET / HTTP/1.1\r\n");
            for piece in 1..with_next.len() {
                assert_eq!(length(with_next.as_bytes(), piece), Ok(Some(body.len())), "{body:?} by {piece}");
            }
            assert_eq!(length(&body.as_bytes()[..body.len() - 1], 7), Ok(None));
        }
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        let bodies = [
            "\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\r\n\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nTrailer: x\n\r\n",
            "10000000000000000\r\n",
        ];
        for body in bodies {
            assert_eq!(length(body.as_bytes(), body.len()), Err(Malformed), "{body:?}");
        }
        let endless = format!("1;{}", "x".repeat(LONGEST_LINE as usize));
        assert_eq!(length(endless.as_bytes(), 100), Err(Malformed));
    }

    #[test]
    fn blanks_behind_a_size_are_an_upstream_s_alone() {
        let padded = b"5  \r\nhello\r\n0 \t\r\n\r\n";
        assert_eq!(Chunked::tolerant().follow(padded), Ok(padded.len()));
        assert_eq!(Chunked::default().follow(padded), Err(Malformed));
        assert_eq!(Chunked::tolerant().follow(b"5 5\r\n"), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_never_passes_more_than_it_was_given(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            if let Ok(passed) = Chunked::default().follow(&bytes) {
                proptest::prop_assert!(passed <= bytes.len());
            }
        }

        #[test]
        fn what_is_well_formed_is_followed_to_its_end(
            chunks in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 1..40), 0..6),
            piece in 1..50usize,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let expected = body.len();
            body.extend_from_slice(b"next");
            proptest::prop_assert_eq!(length(&body, piece), Ok(Some(expected)));
            proptest::prop_assert_eq!(content(&body, piece), Ok(chunks.concat()));
        }
    }
}
