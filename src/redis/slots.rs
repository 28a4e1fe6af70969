//! Which slot of a cluster a key is in.

/// So many are there.
pub(super) const COUNT: u16 = 16_384;

/// CRC16/XMODEM of the key, or of what stands in its first braces, so that keys can be kept together.
pub(super) fn of(key: &[u8]) -> u16 {
    crc16(tag(key)) % COUNT
}

fn tag(key: &[u8]) -> &[u8] {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        Some(&rest[..close])
    });
    tagged.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `CLUSTER KEYSLOT` has them.
    #[test]
    fn keys_are_in_the_slots_that_redis_puts_them_in() {
        for (key, slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("bar", 5_061),
            ("", 0),
            ("{foo}:bar", 12_182),
            ("a{foo}{bar}", 12_182),
            ("{}foo", 9_500),
            ("{foo", 13_308),
        ] {
            assert_eq!(of(key.as_bytes()), slot, "{key}");
        }
    }
}
