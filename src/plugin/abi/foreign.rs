//! Functions by name, beyond the ABI.

use std::io::{Read, Write};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};

use super::{Caller, Hostcall, log, memory};
use crate::plugin::view::Status;

pub(super) fn call(
    caller: &mut Caller<'_>,
    name: i32,
    name_length: i32,
    argument: i32,
    length: i32,
    at: i32,
    length_at: i32,
) -> Hostcall {
    let most = caller.data().plugin.as_ref().map_or(0, |plugin| plugin.settings.limits.buffer);
    let argument = memory::read(caller, argument, length)?;
    let result = match memory::read(caller, name, name_length)? {
        b"compress" => compress(argument, most)?,
        b"uncompress" => uncompress(argument, most)?,
        b"get_log_level" => log::current_level(caller.data()).to_le_bytes().to_vec(),
        _ => return Err(Status::NotFound.into()),
    };
    memory::give(caller, &result, at, length_at)
}

/// Nothing interrupts it, so there is no more than `most` to do.
fn compress(bytes: &[u8], most: usize) -> Result<Vec<u8>, Status> {
    within(bytes, most)?;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).map_err(|_| Status::InternalFailure)?;
    encoder.finish().map_err(|_| Status::InternalFailure)
}

/// A few bytes may say that they are many.
fn uncompress(bytes: &[u8], most: usize) -> Result<Vec<u8>, Status> {
    within(bytes, most)?;
    let mut plain = Vec::new();
    let mut decoder = ZlibDecoder::new(bytes).take(most as u64 + 1);
    decoder.read_to_end(&mut plain).map_err(|_| Status::SerializationFailure)?;
    if plain.len() > most { Err(Status::InternalFailure) } else { Ok(plain) }
}

fn within(bytes: &[u8], most: usize) -> Result<(), Status> {
    if bytes.len() > most { Err(Status::InternalFailure) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_comes_back_unless_it_is_too_much() {
        let small = compress(&[7; 10_000], 10_000).unwrap();
        assert!(small.len() < 100);
        assert_eq!(uncompress(&small, 10_000), Ok(vec![7; 10_000]));
        assert_eq!(uncompress(&small, 9_999), Err(Status::InternalFailure));
        assert_eq!(uncompress(b"nonsense", 9_999), Err(Status::SerializationFailure));
        assert_eq!(compress(&[7; 10_000], 9_999), Err(Status::InternalFailure));
        assert_eq!(uncompress(&[&small[..], &[0; 10_000]].concat(), 10_000), Err(Status::InternalFailure));
    }
}
