//! HPACK (RFC 7541) for one who stands between: the fields of a block are read, whatever they hold, and written so that their reader
//! needs no table.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::{
    huffman,
    table::{Field, Table},
};

/// No HPACK: nothing that follows on the connection can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;

/// A field that is not all there yet is `None`.
type Read<T> = Result<Option<T>, Undecodable>;

#[derive(Default)]
pub(crate) struct Decoder {
    table: Table,
    /// The table's size may change before the first field of a block.
    is_in_fields: bool,
}

impl Decoder {
    /// A new block begins.
    pub(crate) fn begin(&mut self) {
        self.is_in_fields = false;
    }

    /// Tell of the fields that are there whole, and return their length.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(&[u8], &[u8]),
    ) -> Result<usize, Undecodable> {
        let mut at = 0;
        while at < bytes.len() {
            let mut rest = Reader { bytes: &bytes[at..], at: 0 };
            if self.field(&mut rest, &mut tell)?.is_none() {
                break;
            }
            at += rest.at;
        }
        Ok(at)
    }

    /// The representations of RFC 7541, section 6.
    fn field(&mut self, rest: &mut Reader, tell: &mut impl FnMut(&[u8], &[u8])) -> Read<()> {
        let first = rest.bytes[0];
        if first & 0xe0 == 0x20 {
            let Some(size) = rest.integer(5)? else { return Ok(None) };
            if self.is_in_fields || !self.table.resize(size) {
                return Err(Undecodable);
            }
            return Ok(Some(()));
        }
        self.is_in_fields = true;
        if first & 0x80 != 0 {
            let Some(index) = rest.integer(7)? else { return Ok(None) };
            let (name, value) = self.table.get(index).ok_or(Undecodable)?;
            tell(name, value);
            return Ok(Some(()));
        }
        let is_kept = first & 0x40 != 0;
        let Some(index) = rest.integer(if is_kept { 6 } else { 4 })? else { return Ok(None) };
        let name = match index {
            0 => match rest.string()? {
                Some(name) => name,
                None => return Ok(None),
            },
            _ => Cow::Borrowed(self.table.get(index).ok_or(Undecodable)?.0),
        };
        let Some(value) = rest.string()? else { return Ok(None) };
        tell(&name, &value);
        if is_kept {
            let field = Field::new(&name, &value);
            self.table.insert(field);
        }
        Ok(Some(()))
    }
}

/// As a literal that nobody has to keep.
pub(crate) fn put(block: &mut BytesMut, name: &[u8], value: &[u8]) {
    block.reserve(name.len() + value.len() + 11);
    block.put_u8(0);
    for text in [name, value] {
        put_length(block, text.len());
        block.put_slice(text);
    }
}

fn put_length(block: &mut BytesMut, length: usize) {
    const MOST: usize = 0x7f;
    if length < MOST {
        return block.put_u8(length as u8);
    }
    block.put_u8(MOST as u8);
    let mut left = length - MOST;
    while left >= 0x80 {
        block.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    block.put_u8(left as u8);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at)?;
        self.at += 1;
        Some(*byte)
    }

    /// Section 5.1, in at most five bytes.
    fn integer(&mut self, prefix: u32) -> Read<usize> {
        let mask = (1 << prefix) - 1;
        let Some(first) = self.byte() else { return Ok(None) };
        let mut number = usize::from(first & mask);
        if first & mask < mask {
            return Ok(Some(number));
        }
        for shift in [0, 7, 14, 21] {
            let Some(byte) = self.byte() else { return Ok(None) };
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(number));
            }
        }
        Err(Undecodable)
    }

    /// Section 5.2.
    fn string(&mut self) -> Read<Cow<'a, [u8]>> {
        let is_coded = self.bytes.get(self.at).is_some_and(|first| first & 0x80 != 0);
        let Some(length) = self.integer(7)? else { return Ok(None) };
        let Some(text) = self.bytes.get(self.at..self.at + length) else { return Ok(None) };
        self.at += length;
        if !is_coded {
            return Ok(Some(Cow::Borrowed(text)));
        }
        huffman::decode(text).map(|text| Some(Cow::Owned(text))).ok_or(Undecodable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<char> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
    }

    fn read(decoder: &mut Decoder, block: &[u8], size: usize) -> Result<Vec<String>, Undecodable> {
        decoder.begin();
        let (mut fields, mut left) = (Vec::new(), Vec::new());
        for part in block.chunks(size) {
            left.extend_from_slice(part);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let length =
                decoder.read(&left, |name, value| fields.push(format!("{}: {}", text(name), text(value))))?;
            left.drain(..length);
        }
        if left.is_empty() { Ok(fields) } else { Err(Undecodable) }
    }

    /// RFC 7541, appendix C.4, C.5 and C.6, where the table holds 256 bytes.
    #[test]
    fn reads_the_examples_of_the_standard() {
        let requests: [(&str, &[&str]); 3] = [
            (
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                &[":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"],
            ),
            (
                "828684be5886a8eb10649cbf",
                &[
                    ":method: GET",
                    ":scheme: http",
                    ":path: /",
                    ":authority: www.example.com",
                    "cache-control: no-cache",
                ],
            ),
            (
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
                &[
                    ":method: GET",
                    ":scheme: https",
                    ":path: /index.html",
                    ":authority: www.example.com",
                    "custom-key: custom-value",
                ],
            ),
        ];
        for size in [1, 2, 5, 100] {
            let mut decoder = Decoder::default();
            for (block, fields) in requests {
                assert_eq!(read(&mut decoder, &bytes(block), size).unwrap(), fields, "in parts of {size}");
            }
        }
        let responses: [(&str, &str); 3] = [
            (
                "3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                ":status: 302 | cache-control: private | date: Mon, 21 Oct 2013 20:13:21 GMT | location: https://www.example.com",
            ),
            (
                "4883640effc1c0bf",
                ":status: 307 | cache-control: private | date: Mon, 21 Oct 2013 20:13:21 GMT | location: https://www.example.com",
            ),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                ":status: 200 | cache-control: private | date: Mon, 21 Oct 2013 20:13:22 GMT | location: https://www.example.com | \
                 content-encoding: gzip | set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ];
        let mut decoder = Decoder::default();
        for (block, fields) in responses {
            assert_eq!(read(&mut decoder, &bytes(block), 7).unwrap().join(" | "), fields);
        }
    }

    #[test]
    fn what_is_no_hpack_is_told_from_what_is_not_all_there() {
        for block in [
            &b"\x80"[..],
            b"\xfe",
            b"\x7f\x00\x02ok",
            b"\x82\x21",
            b"\x3f\xe1\xff\x3f",
            b"\x00\x82\xff\xff\x01a",
            b"\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(Decoder::default().read(block, |_, _| {}), Err(Undecodable), "{block:x?}");
        }
        for block in [&b"\x40"[..], b"\x00\x05abc", b"\x01\x7f\x80", b"\xff"] {
            assert_eq!(Decoder::default().read(block, |_, _| {}), Ok(0), "{block:x?}");
        }
    }

    /// The library is the oracle for the static table.
    #[tokio::test]
    async fn the_static_table_is_that_of_the_library() {
        use tokio::io::AsyncWriteExt;
        // A length that is none, and a field of the connection: no request has them.
        for index in (15..=61_u8).filter(|index| ![28, 57].contains(index)) {
            let (mut client, server) = tokio::io::duplex(4096);
            let block = [0x82, 0x86, 0x84, 0x80 | index];
            let mut wire =
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\x05\0\0\0\x01".to_vec();
            wire.extend(block);
            client.write_all(&wire).await.unwrap();
            let mut server = h2::server::handshake(server).await.unwrap();
            let (request, _) = server.accept().await.unwrap().unwrap();
            let (name, value) = request.headers().iter().next().unwrap();
            let told = format!("{name}: {}", value.to_str().unwrap());
            assert_eq!(read(&mut Decoder::default(), &block, 9).unwrap()[3], told);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::vec((".{0,300}", ".{0,300}"), 0..5), size in 1..99_usize) {
            let mut block = BytesMut::new();
            fields.iter().for_each(|(name, value)| put(&mut block, name.as_bytes(), value.as_bytes()));
            let told: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            proptest::prop_assert_eq!(read(&mut Decoder::default(), &block, size), Ok(told));
        }
    }
}
