//! Content codings (RFC 9110, section 8.4.1) as streams: a part of a body goes in, what can be sent so far comes out.
//! Each part is flushed, so that a slow stream reaches its client as fast as it would have without.

use std::{
    fmt,
    io::{self, Write},
};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::{Compress, Compression, write::ZlibEncoder};
use schemars::JsonSchema;
use serde::Deserialize;
use zstd::zstd_safe::CParameter;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    Br,
    Zstd,
    Gzip,
}

impl Algorithm {
    /// As `Content-Encoding` and `Accept-Encoding` name it.
    pub(crate) const fn coding(self) -> &'static str {
        match self {
            Algorithm::Br => "br",
            Algorithm::Zstd => "zstd",
            Algorithm::Gzip => "gzip",
        }
    }

    /// On the algorithm's own scale: about as fast as each other, and faster than most networks.
    const fn default_level(self) -> u8 {
        match self {
            Algorithm::Br => 2,
            Algorithm::Zstd => 3,
            Algorithm::Gzip => 5,
        }
    }
}

/// One body being encoded.
pub(crate) struct Encoder(Stream);

enum Stream {
    Br(Box<CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    Gzip(Box<ZlibEncoder<Vec<u8>>>),
    Ended,
}

/// How far a stream may look back, as a power of two. It is memory for each response under way, and a client that does not read
/// keeps it for as long as it likes: an encoder is to hold 512 KiB at most, and a megabyte for each is what better levels take.
const WINDOW: u32 = 16;
/// The same of gzip, which would have 32 KiB and keeps four times as much for it.
const GZIP_WINDOW: u8 = 14;
/// Tables by which zstd finds what it has seen, as powers of two of entries.
const ZSTD_TABLES: u32 = 15;
/// Two of Brotli's qualities take no more: beyond 1 its tables are 0.7 MB at 2, 2 MB at 5 and 33 MB at 9, with what the allocator
/// rounds up, and their sizes cannot be set.
fn brotli_quality(level: u8) -> u32 {
    u32::from(level > 1)
}

impl Encoder {
    /// `level` is from 1 (fast) to 9 (small).
    ///
    /// # Errors
    ///
    /// There is no memory for the stream's state.
    pub(crate) fn new(algorithm: Algorithm, level: Option<u8>) -> io::Result<Encoder> {
        let level = level.unwrap_or(algorithm.default_level());
        Ok(Encoder(match algorithm {
            Algorithm::Br => {
                let quality = brotli_quality(level);
                Stream::Br(Box::new(CompressorWriter::new(Vec::new(), 4096, quality, WINDOW)))
            }
            Algorithm::Zstd => {
                let mut stream = zstd::stream::write::Encoder::new(Vec::new(), level.into())?;
                stream.set_parameter(CParameter::WindowLog(WINDOW))?;
                stream.set_parameter(CParameter::HashLog(ZSTD_TABLES))?;
                stream.set_parameter(CParameter::ChainLog(ZSTD_TABLES))?;
                Stream::Zstd(Box::new(stream))
            }
            Algorithm::Gzip => {
                // Written by zlib, the header of gzip is its own affair.
                let gzip = Compress::new_gzip(Compression::new(level.into()), GZIP_WINDOW);
                Stream::Gzip(Box::new(ZlibEncoder::new_with_compress(Vec::new(), gzip)))
            }
        }))
    }

    /// What may be sent once `part` has come in. After the last part nothing more comes out.
    ///
    /// # Errors
    ///
    /// The algorithm failed, which it does not for any input.
    pub(crate) fn encode(&mut self, part: &[u8], is_last: bool) -> io::Result<Bytes> {
        match &mut self.0 {
            Stream::Br(stream) => stream.write_all(part)?,
            Stream::Zstd(stream) => stream.write_all(part)?,
            Stream::Gzip(stream) => stream.write_all(part)?,
            Stream::Ended => return Ok(Bytes::new()),
        }
        if is_last { self.finish() } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<Bytes> {
        let out = match &mut self.0 {
            Stream::Br(stream) => {
                stream.flush()?;
                stream.get_mut()
            }
            Stream::Zstd(stream) => {
                stream.flush()?;
                stream.get_mut()
            }
            Stream::Gzip(stream) => {
                stream.flush()?;
                stream.get_mut()
            }
            Stream::Ended => return Ok(Bytes::new()),
        };
        Ok(std::mem::take(out).into())
    }

    fn finish(&mut self) -> io::Result<Bytes> {
        let out = match std::mem::replace(&mut self.0, Stream::Ended) {
            Stream::Br(stream) => stream.into_inner(),
            Stream::Zstd(stream) => stream.finish()?,
            Stream::Gzip(stream) => stream.finish()?,
            Stream::Ended => Vec::new(),
        };
        Ok(out.into())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Stream::Br(_) => "Encoder(br)",
            Stream::Zstd(_) => "Encoder(zstd)",
            Stream::Gzip(_) => "Encoder(gzip)",
            Stream::Ended => "Encoder(ended)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::Br, Algorithm::Zstd, Algorithm::Gzip];

    /// As much as can be decoded of a stream that may not have ended.
    fn decode(algorithm: Algorithm, encoded: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read + '_> = match algorithm {
            Algorithm::Br => Box::new(brotli::Decompressor::new(encoded, 4096)),
            Algorithm::Zstd => Box::new(zstd::stream::read::Decoder::new(encoded).unwrap()),
            Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(encoded)),
        };
        let mut decoded = Vec::new();
        let mut byte = [0];
        while let Ok(1) = reader.read(&mut byte) {
            decoded.push(byte[0]);
        }
        decoded
    }

    /// Text that compresses, and noise that does not.
    fn body() -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(7);
        let noise = (0..100_000).map(|_| rng.u8(..));
        b"all work and no play ".repeat(5_000).into_iter().chain(noise).collect()
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let body = body();
        for algorithm in ALL {
            for level in [None, Some(1), Some(9)] {
                let mut encoder = Encoder::new(algorithm, level).unwrap();
                let mut encoded = Vec::new();
                for part in body.chunks(16_384) {
                    encoded.extend_from_slice(&encoder.encode(part, false).unwrap());
                }
                encoded.extend_from_slice(&encoder.encode(b"", true).unwrap());
                assert!(encoded.len() < body.len() * 3 / 4, "{algorithm:?}");
                assert!(decode(algorithm, &encoded) == body, "{algorithm:?} {level:?}");
                assert!(encoder.encode(b"more", true).unwrap().is_empty());
            }
        }
    }

    #[test]
    fn each_part_can_be_decoded_before_the_next_comes() {
        for algorithm in ALL {
            let mut encoder = Encoder::new(algorithm, None).unwrap();
            let mut encoded = encoder.encode(b"first", false).unwrap().to_vec();
            assert_eq!(decode(algorithm, &encoded), b"first", "{algorithm:?}");
            encoded.extend_from_slice(&encoder.encode(b" second", false).unwrap());
            assert_eq!(decode(algorithm, &encoded), b"first second", "{algorithm:?}");
        }
    }

    /// Words in an order that hardly repeats.
    fn prose() -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(11);
        let words: Vec<String> =
            (0..400).map(|_| (0..rng.usize(2..9)).map(|_| rng.lowercase()).collect()).collect();
        (0..20_000).flat_map(|_| format!("{} ", words[rng.usize(..400)]).into_bytes()).collect()
    }

    #[test]
    fn the_highest_level_is_smaller_than_the_lowest() {
        let body = prose();
        for algorithm in ALL {
            let size =
                |level| Encoder::new(algorithm, Some(level)).unwrap().encode(&body, true).unwrap().len();
            assert!(size(9) < size(1), "{algorithm:?}: {} and {}", size(9), size(1));
        }
        let brotli = |level| Encoder::new(Algorithm::Br, level).unwrap().encode(&body, true).unwrap();
        assert!((2..=9).all(|level| brotli(Some(level)) == brotli(None)), "there are two levels");
    }

    #[test]
    fn an_empty_body_encodes_to_an_empty_stream() {
        for algorithm in ALL {
            let encoded = Encoder::new(algorithm, None).unwrap().encode(b"", true).unwrap();
            assert!(!encoded.is_empty() && decode(algorithm, &encoded).is_empty(), "{algorithm:?}");
        }
    }
}
