//! Which addresses count as one. Whoever has one address of an IPv6 network has all 2^64 of it (RFC 6177), so a count for
//! each address would bound nobody: IPv6 is counted by its prefix.

use std::net::{IpAddr, Ipv6Addr};

/// How many bits of an IPv6 address tell one client from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Prefix(u8);

impl Default for Ipv6Prefix {
    fn default() -> Ipv6Prefix {
        Ipv6Prefix(64)
    }
}

impl Ipv6Prefix {
    pub const LEAST: u8 = 40;
    pub const MOST: u8 = 128;

    /// `None` where it is not from [`Self::LEAST`] to [`Self::MOST`].
    pub fn new(bits: u8) -> Option<Ipv6Prefix> {
        (Self::LEAST..=Self::MOST).contains(&bits).then_some(Ipv6Prefix(bits))
    }

    /// What `address` is counted as: itself, or the first address of its network. One of IPv4 stays one in whatever form it
    /// came.
    pub fn block(self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let kept = u128::MAX << (128 - u32::from(self.0));
                Ipv6Addr::from_bits(address.to_bits() & kept).into()
            }
            address => address,
        }
    }

    /// The block as a key: four bytes for IPv4, and for IPv6 as many as the prefix has, which are always more.
    pub fn key(self, address: IpAddr, take: impl FnOnce(&[u8])) {
        match self.block(address) {
            IpAddr::V4(address) => take(&address.octets()),
            IpAddr::V6(address) => take(&address.octets()[..usize::from(self.0.div_ceil(8))]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(bits: u8, address: &str) -> String {
        Ipv6Prefix::new(bits).unwrap().block(address.parse().unwrap()).to_string()
    }

    #[test]
    fn ipv6_is_its_network_and_ipv4_itself() {
        for (bits, address, expected) in [
            (64, "2001:db8:0:1:ffff::2", "2001:db8:0:1::"),
            (64, "2001:db8:0:2::1", "2001:db8:0:2::"),
            (64, "::ffff:192.0.2.1", "192.0.2.1"),
            (64, "192.0.2.1", "192.0.2.1"),
            (56, "2001:db8:0:1ff::1", "2001:db8:0:100::"),
            (40, "2001:db8:1ff::1", "2001:db8:100::"),
            (128, "2001:db8::2", "2001:db8::2"),
        ] {
            assert_eq!(block(bits, address), expected, "{address}/{bits}");
        }
        assert_eq!([0, 39, 129].map(Ipv6Prefix::new), [None; 3]);
    }

    #[test]
    fn keys_of_ipv6_are_never_those_of_ipv4() {
        let key = |bits, address: &str| {
            let mut key = Vec::new();
            Ipv6Prefix::new(bits)
                .unwrap()
                .key(address.parse().unwrap(), |bytes| key.extend_from_slice(bytes));
            key
        };
        assert_eq!(key(64, "192.0.2.1"), [192, 0, 2, 1]);
        assert_eq!(key(64, "2001:db8:0:1::1"), [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1]);
        assert_eq!([40, 44, 128].map(|bits| key(bits, "c000:201::1").len()), [5, 6, 16]);
    }
}
