//! Identifiers of traces and spans: never zero, written as lower-case hexadecimal digits.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TraceId(NonZeroU128);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SpanId(NonZeroU64);

impl TraceId {
    /// Of random bits. Should all be zero, one of them is not.
    pub(crate) fn from_random(bits: u128) -> TraceId {
        TraceId(NonZeroU128::new(bits).unwrap_or(NonZeroU128::MIN))
    }

    /// 32 digits.
    pub(crate) fn parse(digits: &[u8]) -> Option<TraceId> {
        let bytes: [u8; 16] = hex(digits)?;
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(TraceId)
    }

    /// Those that are random, with W3C level 2's flag (section 3.2.2.5 there).
    pub(crate) fn last_56_bits(self) -> u64 {
        (self.0.get() & ((1 << 56) - 1)) as u64
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    pub(crate) fn digits(self) -> [u8; 32] {
        let [first, second] = [(self.0.get() >> 64) as u64, self.0.get() as u64];
        let mut both = [0; 32];
        both[..16].copy_from_slice(&digits(first));
        both[16..].copy_from_slice(&digits(second));
        both
    }
}

impl SpanId {
    /// Of random bits. Should all be zero, one of them is not.
    pub(crate) fn from_random(bits: u64) -> SpanId {
        SpanId(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// 16 digits.
    pub(crate) fn parse(digits: &[u8]) -> Option<SpanId> {
        let bytes: [u8; 8] = hex(digits)?;
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(SpanId)
    }

    pub(crate) fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    pub(crate) fn digits(self) -> [u8; 16] {
        digits(self.0.get())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Exactly so many bytes, in lower-case digits only.
pub(super) fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Ids are written in every request: eight digits are made at once, each in a byte of a word.
fn digits(bits: u64) -> [u8; 16] {
    let eight = |half: u32| {
        let mut nibbles = u64::from(half);
        nibbles = (nibbles << 16 | nibbles) & 0x0000_ffff_0000_ffff;
        nibbles = (nibbles << 8 | nibbles) & 0x00ff_00ff_00ff_00ff;
        nibbles = (nibbles << 4 | nibbles) & 0x0f0f_0f0f_0f0f_0f0f;
        // 1 in each byte that is ten or more: six more are sixteen.
        let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)
    };
    let both = u128::from(eight((bits >> 32) as u32)) << 64 | u128::from(eight(bits as u32));
    both.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_lower_case_and_exactly_as_many_as_there_must_be() {
        let id = TraceId::parse(b"4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        assert_eq!(id.to_string().as_bytes(), id.digits());
        assert_eq!(id.last_56_bits(), 0xce_929d_0e0e_4736);
        for wrong in
            ["", "4BF92F3577B34DA6A3CE929D0E0E4736", "4bf92f3577b34da6a3ce929d0e0e473", &"0".repeat(32)]
        {
            assert_eq!(TraceId::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(SpanId::parse(b"0000000000000000"), None);
        assert_eq!(&SpanId::from_random(0).digits(), b"0000000000000001");
        assert_eq!(&SpanId::from_random(0x0123_4567_89ab_cdef).digits(), b"0123456789abcdef");
    }
}
