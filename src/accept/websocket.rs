//! Where one WebSocket frame ends and the next begins, on the way to the client: a gateway that goes down can say
//! goodbye in the client's own protocol (RFC 6455, section 5.5.1), but only between two frames of the server's.

/// A close frame with the status 1001, "going away" (RFC 6455, section 7.4.1).
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// Follows what is sent from the head of the answer on that agrees to the upgrade.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    at: At,
    closed: bool,
}

#[derive(Debug)]
enum At {
    /// In the answer's head, this far into its last line end.
    Head(usize),
    /// In a frame's head, of which these bytes are there.
    Frame([u8; 10], usize),
    Payload(u64),
}

impl Default for At {
    fn default() -> At {
        At::Head(0)
    }
}

impl Outgoing {
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Head(matched) => {
                    const END: &[u8] = b"\r\n\r\n";
                    *matched = match byte == END[*matched] {
                        true => *matched + 1,
                        false => usize::from(byte == b'\r'),
                    };
                    if *matched == END.len() {
                        self.at = At::Frame([0; 10], 0);
                    }
                    bytes = rest;
                }
                At::Frame(head, filled) => {
                    head[*filled] = byte;
                    *filled += 1;
                    bytes = rest;
                    if let Some(length) = payload(&head[..*filled]) {
                        self.closed |= head[0] & 0x0f == 8;
                        self.at = if length == 0 { At::Frame([0; 10], 0) } else { At::Payload(length) };
                    }
                }
                At::Payload(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= passed as u64;
                    bytes = &bytes[passed..];
                    if *left == 0 {
                        self.at = At::Frame([0; 10], 0);
                    }
                }
            }
        }
    }

    /// Whether a frame of our own may be sent now. None may follow a close frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        matches!(self.at, At::Frame(_, 0)) && !self.closed
    }
}

/// The length of what follows a frame's head, with its mask; `None` until the head is whole (RFC 6455, section 5.2).
fn payload(head: &[u8]) -> Option<u64> {
    let (&[_, second], extended) = head.split_first_chunk()?;
    // A server does not mask, but that is between it and the client.
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(extended.try_into().ok()?)),
        127 => u64::from_be_bytes(extended.try_into().ok()?),
        short => u64::from(short),
    };
    Some(length.saturating_add(mask))
}

/// Whether the last frame of what a client has sent is a close frame. It is a guess, as nobody has followed the frames so
/// far: who is wrong waits no longer for an answer that may not come.
pub(super) fn ends_in_close(bytes: &[u8]) -> bool {
    /// Two bytes and the mask.
    const HEAD: usize = 6;
    const MOST: usize = 125;
    let starts = bytes.len().saturating_sub(HEAD + MOST)..=bytes.len().saturating_sub(HEAD);
    starts.map(|start| &bytes[start..]).any(|frame| match frame {
        [0x88, length, _, _, _, _, reason @ ..] => usize::from(*length) == 0x80 | reason.len(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(frames: &[&[u8]]) -> Outgoing {
        let mut outgoing = Outgoing::default();
        let bytes = [&b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"[..]];
        for part in bytes.iter().chain(frames).flat_map(|bytes| bytes.chunks(3)) {
            outgoing.follow(part);
        }
        outgoing
    }

    #[test]
    fn knows_when_a_frame_has_ended() {
        let medium = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
        let large = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
        let whole: [&[&[u8]]; 5] =
            [&[], &[b"\x81\x02hi"], &[b"\x89\0", b"\x81\x02hi"], &[&medium, b"\x81\0"], &[&large]];
        for frames in whole {
            assert!(after(frames).is_between_frames(), "{frames:?}");
        }
        let broken: [&[&[u8]]; 5] =
            [&[b"\x81"], &[b"\x81\x02h"], &[&medium[..3]], &[&medium[..100]], &[&large[..65545]]];
        for frames in broken {
            assert!(!after(frames).is_between_frames(), "{frames:?}");
        }
    }

    #[test]
    fn nothing_follows_a_close_frame_or_stands_in_the_head() {
        assert!(!after(&[&GOING_AWAY]).is_between_frames());
        let mut outgoing = Outgoing::default();
        outgoing.follow(b"HTTP/1.1 101 Switching\r\n\r");
        assert!(!outgoing.is_between_frames());
    }

    #[test]
    fn a_close_frame_at_the_end_is_found() {
        let closes: [&[u8]; 3] = [
            b"\x88\x80mask",
            b"\x88\x82mask\x03\xe9",
            &[&[0; 300][..], b"\x88\xfdmask", &[b'x'; 125]].concat(),
        ];
        for bytes in closes {
            assert!(ends_in_close(bytes), "{bytes:?}");
        }
        for bytes in [&b""[..], b"\x88", b"\x88\x82mask\x03", b"\x81\x82maskhi", b"\x88\x80mask\x89\x80mask"]
        {
            assert!(!ends_in_close(bytes), "{bytes:?}");
        }
    }
}
