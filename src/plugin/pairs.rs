//! Maps as they cross into a plugin's memory: the number of pairs, the lengths of each, then each name and value with a zero
//! behind it. All numbers have four bytes, the lowest first.

use super::view::Status;

/// More than any message has, and little to read.
const MOST_PAIRS: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;

pub(crate) type Pair<'a> = (&'a [u8], &'a [u8]);

/// # Errors
///
/// The bytes say something else of themselves than they are.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Pair<'_>>, Status> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    if bytes.len() > MOST_BYTES {
        return Err(Status::BadArgument);
    }
    let mut rest = bytes;
    let count = number(&mut rest)?;
    if count > MOST_PAIRS || count.saturating_mul(8) > rest.len() {
        return Err(Status::BadArgument);
    }
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push((number(&mut rest)?, number(&mut rest)?));
    }
    let mut pairs = Vec::with_capacity(count);
    for (name, value) in lengths {
        pairs.push((terminated(&mut rest, name)?, terminated(&mut rest, value)?));
    }
    Ok(pairs)
}

fn number(rest: &mut &[u8]) -> Result<usize, Status> {
    let (first, others) = rest.split_first_chunk::<4>().ok_or(Status::BadArgument)?;
    *rest = others;
    Ok(u32::from_le_bytes(*first) as usize)
}

fn terminated<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Status> {
    let (text, others) = rest.split_at_checked(length).ok_or(Status::BadArgument)?;
    let ([0], others) = others.split_at_checked(1).ok_or(Status::BadArgument)? else {
        return Err(Status::BadArgument);
    };
    *rest = others;
    Ok(text)
}

/// As they cross into the memory.
pub(crate) fn pairs_of<'a>(pairs: impl Iterator<Item = Pair<'a>>) -> Vec<u8> {
    let mut writer = Writer::default();
    pairs.for_each(|(name, value)| writer.push(name, value));
    writer.bytes()
}

/// Collects pairs to be written.
#[derive(Default)]
pub(super) struct Writer {
    count: u32,
    lengths: Vec<u8>,
    texts: Vec<u8>,
}

impl Writer {
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.count += 1;
        for text in [name, value] {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            self.lengths.extend_from_slice(&length.to_le_bytes());
            self.texts.extend_from_slice(text);
            self.texts.push(0);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = self.count.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.lengths);
        bytes.extend_from_slice(&self.texts);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_lies_about_its_sizes_is_refused() {
        let mut writer = Writer::default();
        writer.push(b"name", b"value");
        let good = writer.bytes();
        assert_eq!(read(&good), Ok(vec![(&b"name"[..], &b"value"[..])]));
        for (at, byte) in [(0, 2), (0, 255), (3, 255), (4, 5), (8, 6), (11, 128)] {
            let mut wrong = good.clone();
            wrong[at] = byte;
            assert_eq!(read(&wrong), Err(Status::BadArgument), "{at} is {byte}");
        }
        (1..good.len()).for_each(|length| assert_eq!(read(&good[..length]), Err(Status::BadArgument)));
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(
            pairs in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..20), proptest::collection::vec(any::<u8>(), 0..20)), 0..20)
        ) {
            let mut writer = Writer::default();
            pairs.iter().for_each(|(name, value)| writer.push(name, value));
            let bytes = writer.bytes();
            let read: Vec<_> = read(&bytes).unwrap().into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
