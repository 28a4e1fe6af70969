//! The header in which a proxy in front tells whose connection it carries on: the PROXY protocol, versions 1 and 2
//! (haproxy.org/download/3.2/doc/proxy-protocol.txt; "section" below is one of that text).
//!
//! Pure: bytes in, addresses out. Who is believed, and for how long he is waited for, is the caller's matter. A header is
//! read strictly, since whoever sends it is a proxy of the operator's: what is not quite right is a wrong setting or an attack.

pub(in crate::accept) mod read;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// The longest header that is read, both its parts together; section 2.2 allows 64 KiB for what nobody sends.
pub(in crate::accept) const LONGEST: usize = 4096;
/// With its line end (section 2.1).
const LONGEST_V1: usize = 107;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_V2: usize = 16;
/// The one field of version 2 that is looked into: a checksum over the header (section 2.2.4).
const CRC32C: u8 = 0x03;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) struct Header {
    /// How many bytes it takes.
    pub(in crate::accept) length: usize,
    /// `None` where the proxy speaks for itself, as in its health checks, or does not know: then the connection is the
    /// proxy's own.
    pub(in crate::accept) told: Option<Told>,
}

/// The connection that the proxy has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) struct Told {
    pub(in crate::accept) client: SocketAddr,
    /// Where the client has connected to.
    pub(in crate::accept) local: SocketAddr,
}

/// Why these bytes are no header, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) enum Flaw {
    /// Neither version begins like this.
    NoHeader,
    TooLong,
    /// Version 1: not `PROXY`, a protocol, two addresses and two ports with single spaces, and a line end.
    Line,
    /// Neither 2 nor a command of 2.
    Command,
    Family,
    /// Shorter than the addresses it announces.
    Addresses,
    /// Fields that do not fit the length of the header.
    Fields,
    Checksum,
}

/// Read the header at the start of `bytes`; `None` when it may go on behind them.
///
/// # Errors
///
/// No further byte would make it a header.
pub(in crate::accept) fn parse(bytes: &[u8]) -> Result<Option<Header>, Flaw> {
    let begins = |signature: &[u8]| signature.starts_with(&bytes[..bytes.len().min(signature.len())]);
    if begins(V2) {
        return parse_v2(bytes);
    }
    if begins(V1) {
        return parse_v1(bytes);
    }
    Err(Flaw::NoHeader)
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Flaw> {
    let line = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if bytes.len() < LONGEST_V1 { Ok(None) } else { Err(Flaw::TooLong) };
    };
    let text = line[..end].strip_suffix(b"\r").and_then(|text| std::str::from_utf8(text).ok());
    let rest = text.and_then(|text| text.strip_prefix("PROXY ")).ok_or(Flaw::Line)?;
    let told = match rest.split_once(' ') {
        // What follows is ignored (section 2.1).
        Some(("UNKNOWN", _)) => None,
        None if rest == "UNKNOWN" => None,
        Some(("TCP4", addresses)) => Some(addresses_v1::<Ipv4Addr>(addresses).ok_or(Flaw::Line)?),
        Some(("TCP6", addresses)) => Some(addresses_v1::<Ipv6Addr>(addresses).ok_or(Flaw::Line)?),
        _ => return Err(Flaw::Line),
    };
    Ok(Some(Header { length: end + 1, told }))
}

fn addresses_v1<A: FromStr + Into<IpAddr>>(text: &str) -> Option<Told> {
    let mut words = text.split(' ');
    let (client, local) = (words.next()?.parse::<A>().ok()?, words.next()?.parse::<A>().ok()?);
    let (client_port, local_port) = (port(words.next()?)?, port(words.next()?)?);
    let told = Told {
        client: SocketAddr::new(client.into(), client_port),
        local: SocketAddr::new(local.into(), local_port),
    };
    words.next().is_none().then_some(told)
}

/// Digits alone: `u16` would also read a sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if is_plain { text.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Flaw> {
    let Some(fixed) = bytes.get(V2.len()..FIXED_V2) else { return Ok(None) };
    let is_local = match fixed[0] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Flaw::Command),
    };
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length > LONGEST {
        return Err(Flaw::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    // The rest of such a header, its family as well, is to be ignored (section 2.2).
    if is_local {
        return Ok(Some(Header { length, told: None }));
    }
    let body = &header[FIXED_V2..];
    let (told, addresses) = match fixed[1] {
        0x11 => (Some(addresses_v2::<4>(body)?), 12),
        0x21 => (Some(addresses_v2::<16>(body)?), 36),
        // Unspecified; and datagrams, which a stream cannot have come from; and Unix sockets, which have no address.
        0x00..=0x02 | 0x10 | 0x20 => (None, 0),
        0x12 => (None, 12),
        0x22 => (None, 36),
        0x30..=0x32 => (None, 216),
        _ => return Err(Flaw::Family),
    };
    check_fields(header, FIXED_V2 + addresses)?;
    Ok(Some(Header { length, told }))
}

/// Two addresses of `N` bytes and two ports.
fn addresses_v2<const N: usize>(body: &[u8]) -> Result<Told, Flaw>
where
    IpAddr: From<[u8; N]>,
{
    let (client, rest) = body.split_first_chunk::<N>().ok_or(Flaw::Addresses)?;
    let (local, rest) = rest.split_first_chunk::<N>().ok_or(Flaw::Addresses)?;
    let (&[high, low, local_high, local_low], _) = rest.split_first_chunk::<4>().ok_or(Flaw::Addresses)?;
    Ok(Told {
        client: SocketAddr::new((*client).into(), u16::from_be_bytes([high, low])),
        local: SocketAddr::new((*local).into(), u16::from_be_bytes([local_high, local_low])),
    })
}

/// The fields behind the addresses, from `at` on: they must fill the header, and its checksum must be right if it has one.
fn check_fields(header: &[u8], mut at: usize) -> Result<(), Flaw> {
    let mut is_checked = false;
    if header.len() < at {
        return Err(Flaw::Addresses);
    }
    while let Some((&[kind, high, low], rest)) = header[at..].split_first_chunk::<3>() {
        let value = rest.get(..usize::from(u16::from_be_bytes([high, low]))).ok_or(Flaw::Fields)?;
        at += 3;
        if kind == CRC32C {
            let expected = <[u8; 4]>::try_from(value).map_err(|_| Flaw::Fields)?;
            // With two of them, neither could be right.
            if std::mem::replace(&mut is_checked, true) {
                return Err(Flaw::Fields);
            }
            // The checksum counts as zeros.
            let parts = [&header[..at], &[0; 4], &header[at + 4..]];
            if crc32c(parts.into_iter().flatten()) != u32::from_be_bytes(expected) {
                return Err(Flaw::Checksum);
            }
        }
        at += value.len();
    }
    if at == header.len() { Ok(()) } else { Err(Flaw::Fields) }
}

/// CRC-32C (RFC 3720, appendix B.4). Of a few hundred bytes at most connections, so the plain way is fast enough.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let (mut crc, mut bit) = (index as u32, 0);
            while bit < 8 {
                crc = (crc >> 1) ^ if crc & 1 == 1 { REVERSED_POLYNOMIAL } else { 0 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !bytes.fold(!0, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flaw::NoHeader => "it does not begin with a PROXY header",
            Flaw::TooLong => "its PROXY header is too long",
            Flaw::Line => "its PROXY line is malformed",
            Flaw::Command => "its PROXY header has an unknown version or command",
            Flaw::Family => "its PROXY header has an unknown address family",
            Flaw::Addresses => "its PROXY header is too short for its addresses",
            Flaw::Fields => "the fields of its PROXY header do not fit its length",
            Flaw::Checksum => "the checksum of its PROXY header is wrong",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(client: &str, local: &str) -> Option<Told> {
        Some(Told { client: client.parse().unwrap(), local: local.parse().unwrap() })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, body].concat()
    }

    const ADDRESSES_4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];

    fn addresses_6() -> Vec<u8> {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets();
        [&address(7)[..], &address(1), &[0x30, 0x39, 0x01, 0xbb]].concat()
    }

    fn with_checksum(fields_before: &[u8]) -> Vec<u8> {
        let body = [&ADDRESSES_4[..], fields_before, &[CRC32C, 0, 4, 0, 0, 0, 0]].concat();
        let mut header = v2(0x21, 0x11, &body);
        let crc = crc32c(header.iter());
        let at = header.len() - 4;
        header[at..].copy_from_slice(&crc.to_be_bytes());
        header
    }

    /// Each with what it tells.
    fn good() -> Vec<(Vec<u8>, Option<Told>)> {
        let four = told("192.0.2.7:12345", "198.51.100.1:443");
        let six = told("[2001:db8::7]:12345", "[2001:db8::1]:443");
        vec![
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n".to_vec(), four),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), six),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: whatever 1 2 3\r\n".to_vec(), None),
            (v2(0x21, 0x11, &ADDRESSES_4), four),
            (v2(0x21, 0x21, &addresses_6()), six),
            // An authority, as a TLS proxy tells it, and padding.
            (v2(0x21, 0x11, &[&ADDRESSES_4[..], b"\x02\0\x03a.b\x04\0\0"].concat()), four),
            (with_checksum(b"\x02\0\x03a.b"), four),
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, &ADDRESSES_4), None),
            (v2(0x20, 0xff, b"anything"), None),
            (v2(0x21, 0x00, b""), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn reads_both_versions() {
        for (header, told) in good() {
            assert_eq!(parse(&header), Ok(Some(Header { length: header.len(), told })), "{header:?}");
        }
    }

    #[test]
    fn a_header_may_come_in_any_parts_and_ends_where_it_ends() {
        for (header, told) in good() {
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "{:?}", &header[..end]);
            }
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&followed), Ok(Some(Header { length: header.len(), told })));
        }
    }

    #[test]
    fn what_is_not_quite_a_header_is_refused() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 100], b"\r\n"].concat();
        let line = |text: &str| text.as_bytes().to_vec();
        for (bytes, flaw) in [
            (line("GET / HTTP/1.1\r\n"), Flaw::NoHeader),
            (line("PROXX"), Flaw::NoHeader),
            (line("\r\n\r\n\0\r\nQUIT\r"), Flaw::NoHeader),
            (long, Flaw::TooLong),
            (vec![b'P'; 200], Flaw::NoHeader),
            (line("PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n"), Flaw::Line),
            (line("PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n"), Flaw::Line),
            (line("PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n"), Flaw::Line),
            (line("PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n"), Flaw::Line),
            (line("PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n"), Flaw::Line),
            (line("PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n"), Flaw::Line),
            (line("PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n"), Flaw::Line),
            (line("PROXY TCP4 ::1 ::1 1 2\r\n"), Flaw::Line),
            (line("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"), Flaw::Line),
            (line("PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n"), Flaw::Line),
            (line("PROXY \r\n"), Flaw::Line),
            (v2(0x11, 0x11, &ADDRESSES_4), Flaw::Command),
            (v2(0x22, 0x11, &ADDRESSES_4), Flaw::Command),
            (v2(0x21, 0x13, &ADDRESSES_4), Flaw::Family),
            (v2(0x21, 0x41, &ADDRESSES_4), Flaw::Family),
            (v2(0x21, 0x11, &ADDRESSES_4[..11]), Flaw::Addresses),
            (v2(0x21, 0x21, &ADDRESSES_4), Flaw::Addresses),
            (v2(0x21, 0x32, &ADDRESSES_4), Flaw::Addresses),
            (v2(0x21, 0x11, &[&ADDRESSES_4[..], &[2, 0]].concat()), Flaw::Fields),
            (v2(0x21, 0x11, &[&ADDRESSES_4[..], &[2, 0, 2, 0]].concat()), Flaw::Fields),
            (v2(0x21, 0x11, &[&ADDRESSES_4[..], &[3, 0, 1, 0]].concat()), Flaw::Fields),
            (v2(0x21, 0x11, &[&ADDRESSES_4[..], &[3, 0, 4, 1, 2, 3, 4]].concat()), Flaw::Checksum),
            (v2(0x21, 0x11, &[0; LONGEST]), Flaw::TooLong),
        ] {
            assert_eq!(parse(&bytes), Err(flaw), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_that_was_changed_on_its_way_does_not_fit_its_checksum() {
        let good = with_checksum(b"");
        // All but the byte that says that this is the checksum.
        for at in (FIXED_V2..good.len()).filter(|at| good[*at] != CRC32C) {
            let mut changed = good.clone();
            changed[at] ^= 0x10;
            assert!(parse(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_the_rfc() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_waited_for_beyond_the_longest_header() {
        let mut rng = fastrand::Rng::with_seed(5);
        let good = good();
        for _ in 0..20_000 {
            let (header, _) = &good[rng.usize(..good.len())];
            let mut bytes = header.clone();
            bytes.resize(rng.usize(..LONGEST + 20), rng.u8(..));
            for _ in 0..rng.usize(..4) {
                if !bytes.is_empty() {
                    let at = rng.usize(..bytes.len().min(40));
                    bytes[at] = rng.u8(..);
                }
            }
            let parsed = parse(&bytes);
            assert!(parsed != Ok(None) || bytes.len() < LONGEST, "{bytes:?}");
            if let Ok(Some(header)) = parsed {
                assert!(header.length <= bytes.len());
            }
        }
    }
}
