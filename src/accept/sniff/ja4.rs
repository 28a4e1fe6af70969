//! JA4, a fingerprint of how a client begins TLS (FoxIO, <https://github.com/FoxIO-LLC/ja4>): programs differ in what they offer, whatever
//! they say of themselves. It says nothing of who somebody is, and who wants to can look like somebody else.

use openssl::sha::sha256;

use super::client_hello::{Flaw, Parts, SERVER_NAME, protocols};
use crate::identity::hex;

const SIGNATURE_ALGORITHMS: u16 = 13;
const APPLICATION_PROTOCOLS: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// Of nothing.
const NONE: &str = "000000000000";

/// The fingerprint of a ClientHello's body.
///
/// # Errors
///
/// It is malformed.
pub(in crate::accept) fn ja4(body: &[u8]) -> Result<String, Flaw> {
    let Parts { version, suites, mut extensions } = Parts::of(body)?;
    let mut suites: Vec<u16> = numbers(suites).collect();
    let (mut kinds, mut algorithms) = (Vec::new(), Vec::new());
    let (mut names_server, mut version, mut alpn) = ('i', version, "00".to_owned());
    while let Some((kind, content)) = extensions.next()? {
        if is_grease(kind) {
            continue;
        }
        kinds.push(kind);
        match kind {
            SERVER_NAME => names_server = 'd',
            APPLICATION_PROTOCOLS => {
                alpn = protocols(content)?.first().map_or(alpn, |first| ends(first));
            }
            SUPPORTED_VERSIONS => {
                version = numbers(content.0.get(1..).unwrap_or_default()).max().unwrap_or(version);
            }
            SIGNATURE_ALGORITHMS => algorithms = numbers(content.0.get(2..).unwrap_or_default()).collect(),
            _ => {}
        }
    }
    let first = format!(
        "t{}{names_server}{:02}{:02}{alpn}",
        word(version),
        suites.len().min(99),
        kinds.len().min(99)
    );
    suites.sort_unstable();
    kinds.retain(|kind| ![SERVER_NAME, APPLICATION_PROTOCOLS].contains(kind));
    kinds.sort_unstable();
    let extensions = match (listed(&kinds), listed(&algorithms)) {
        (kinds, algorithms) if algorithms.is_empty() => kinds,
        (kinds, algorithms) => format!("{kinds}_{algorithms}"),
    };
    Ok(format!("{first}_{}_{}", short_print(&listed(&suites)), short_print(&extensions)))
}

/// Made up by clients so that nobody chokes on what is new (RFC 8701).
fn is_grease(number: u16) -> bool {
    number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let pairs = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    pairs.filter(|number| !is_grease(*number))
}

fn word(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

/// The first and the last character of a protocol, or those of its bytes in hexadecimal.
fn ends(protocol: &[u8]) -> String {
    let (Some(first), Some(last)) = (protocol.first(), protocol.last()) else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)].iter().collect();
    }
    let (first, last) = (format!("{first:02x}"), format!("{last:02x}"));
    format!("{}{}", &first[..1], &last[1..])
}

fn listed(numbers: &[u16]) -> String {
    let words: Vec<String> = numbers.iter().map(|number| format!("{number:04x}")).collect();
    words.join(",")
}

fn short_print(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { hex(&sha256(text.as_bytes()))[..12].to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of FoxIO's description: what a Chrome has sent, put together again.
    #[test]
    fn the_documented_example_has_its_documented_fingerprint() {
        let suites = [
            0x1a1a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014,
            0x009c, 0x009d, 0x002f, 0x0035,
        ];
        let algorithms = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];
        let plain =
            [0x001b, 0x0033, 0x4469, 0x0017, 0x002d, 0x0005, 0x0023, 0x0012, 0xff01, 0x000b, 0x000a, 0x0015];
        let mut extensions: Vec<(u16, Vec<u8>)> = vec![
            (0x2a2a, Vec::new()),
            (SERVER_NAME, b"\0\x0c\0\0\x09a.example".to_vec()),
            (SIGNATURE_ALGORITHMS, vector(&algorithms)),
            (APPLICATION_PROTOCOLS, b"\0\x0c\x02h2\x08http/1.1".to_vec()),
            (SUPPORTED_VERSIONS, b"\x06\x3a\x3a\x03\x04\x03\x03".to_vec()),
        ];
        extensions.extend(plain.map(|kind| (kind, Vec::new())));
        extensions.push((0x9a9a, vec![0]));
        let hello = hello(&suites, &extensions);
        assert_eq!(ja4(&hello).unwrap(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    /// What OpenSSL 3.0 has sent: `openssl s_client -tls1_2 -servername a.example -alpn h2,http/1.1`, and with TLS 1.3
    /// `-groups X25519 -noservername`. The fingerprints were computed by other means.
    const CAPTURED: [(&str, &str); 2] = [
        (
            "030390cb2a8023ed5a2743bcc71998b06a0da1723585362eb63a5b37764a2a8f1832000038c02cc030009fcca9cca8ccaac0\
        2bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff01000076000000\
        0e000c000009612e6578616d706c65000b000403000102000a000c000a001d0017001e00190018002300000010000e000c02\
        683208687474702f312e310016000000170000000d002a0028040305030603080708080809080a080b080408050806040105\
        010601030303010302040205020602",
            "t12d2808h2_d943125447b4_e7e480e5a997",
        ),
        (
            "0303f6a1128c742fa51780924776063d9d866ef8ce62cd1e02d47b7c081d49bac67420dbd63c4589356b6509c036c49c0564\
        b853d3f86aabf20cf5d3173d718c9618f3003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc0\
        23c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff01000087000b000403000102000a0004000200\
        1d002300000016000000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303\
        010302040205020602002b0009080304030303020301002d00020101003300260024001d002077071fc94baf640a2f26982a\
        2905c8698f0dccda373472c14213c71d5eeebd58",
            "t13i310900_e8f1e7e78f70_1f22a2ca17c4",
        ),
    ];

    #[test]
    fn what_openssl_has_sent_has_the_fingerprint_that_others_find() {
        for (captured, expected) in CAPTURED {
            let digit = |at: usize| u8::from_str_radix(&captured[at..at + 2], 16).unwrap();
            let body: Vec<u8> = (0..captured.len()).step_by(2).map(digit).collect();
            assert_eq!(ja4(&body).unwrap(), expected);
        }
    }

    #[test]
    fn one_who_says_little_has_one_too() {
        assert_eq!(
            ja4(&hello(&[0x002f], &[])).unwrap(),
            format!("t12i010000_{}_{NONE}", short_print("002f"))
        );
        let only_grease = hello(&[0x0a0a], &[(0x1a1a, Vec::new())]);
        assert_eq!(ja4(&only_grease).unwrap(), format!("t12i000000_{NONE}_{NONE}"));
        let many: Vec<u16> = (0x1000..0x1100).collect();
        assert!(ja4(&hello(&many, &[])).unwrap().starts_with("t12i9900"));
    }

    #[test]
    fn protocols_are_their_first_and_last_character() {
        for (protocol, expected) in [
            (&b"h2"[..], "h2"),
            (b"http/1.1", "h1"),
            (b"x", "xx"),
            (b"\xab", "ab"),
            (b"\xab\xcd", "ad"),
            (b"0\xab", "3b"),
            (b"01\xab\xcd", "3d"),
            (b"0\xab\xcd1", "01"),
        ] {
            assert_eq!(ends(protocol), expected, "{protocol:?}");
        }
    }

    #[test]
    fn what_is_cut_off_anywhere_has_none_and_nothing_panics() {
        let whole = hello(
            &[0x1301],
            &[
                (SIGNATURE_ALGORITHMS, vector(&[0x0403])),
                (SUPPORTED_VERSIONS, b"\x02\x03\x04".to_vec()),
                (APPLICATION_PROTOCOLS, b"\0\x03\x02h2".to_vec()),
            ],
        );
        assert!(ja4(&whole).is_ok());
        for length in 0..whole.len() {
            let _ = ja4(&whole[..length]);
        }
        for kind in [SIGNATURE_ALGORITHMS, SUPPORTED_VERSIONS, SERVER_NAME] {
            assert!(ja4(&hello(&[0x1301], &[(kind, Vec::new())])).is_ok());
        }
        assert!(ja4(&hello(&[0x1301], &[(APPLICATION_PROTOCOLS, Vec::new())])).is_err());
    }

    fn vector(numbers: &[u16]) -> Vec<u8> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
    }

    fn hello(suites: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend(vector(suites));
        body.extend([1, 0]);
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| {
                let length = u16::try_from(content.len()).unwrap();
                [&kind.to_be_bytes()[..], &length.to_be_bytes(), content].concat()
            })
            .collect();
        if !extensions.is_empty() {
            body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
            body.extend(extensions);
        }
        body
    }
}
