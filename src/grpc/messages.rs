//! Where messages begin in a stream of bytes: each has a prefix of five bytes, one flag and its length. A stream may go
//! on for ever, so that what is bounded is the message.

const PREFIX: usize = 5;

#[derive(Debug, Default)]
pub struct Messages {
    /// As much of the present prefix as has come.
    prefix: [u8; PREFIX],
    filled: usize,
    /// Of the present message.
    left: u64,
}

impl Messages {
    /// Bytes of the longest message that begins in `part`.
    pub fn longest(&mut self, mut part: &[u8]) -> u64 {
        let mut longest = 0;
        while !part.is_empty() {
            if self.left > 0 {
                let passed = part.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= passed as u64;
                part = &part[passed..];
                continue;
            }
            let taken = part.len().min(PREFIX - self.filled);
            self.prefix[self.filled..self.filled + taken].copy_from_slice(&part[..taken]);
            self.filled += taken;
            part = &part[taken..];
            if self.filled == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length).into();
                self.filled = 0;
                longest = longest.max(self.left);
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &prefix, &vec![255; length]].concat()
    }

    #[test]
    fn finds_messages_however_the_stream_is_cut() {
        let stream: Vec<u8> = [3, 0, 1000, 7].into_iter().flat_map(message).collect();
        for size in [1, 2, 4, 5, 6, 999, stream.len()] {
            let mut messages = Messages::default();
            let longest = stream.chunks(size).map(|part| messages.longest(part)).max();
            assert_eq!(longest, Some(1000), "{size}");
            assert_eq!((messages.left, messages.filled), (0, 0), "{size}");
        }
    }

    #[test]
    fn a_message_counts_where_it_begins() {
        let mut messages = Messages::default();
        assert_eq!(messages.longest(&message(500)[..100]), 500);
        assert_eq!(messages.longest(&[0; 405]), 0);
        assert_eq!(messages.longest(&message(20)), 20);
    }

    #[test]
    fn announcing_the_largest_message_costs_nothing() {
        let mut messages = Messages::default();
        assert_eq!(messages.longest(&[0, 255, 255, 255, 255]), u64::from(u32::MAX));
    }
}
