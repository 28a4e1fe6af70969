//! A version as it stands in etcd, which takes no more than 1.5 MiB in a call, and a configuration has up to 4 MiB: its text is
//! compressed, and cut into pieces. Their keys have the checksum of the whole, so that two replicas that put the same number do not
//! write into each other's text. A version is there once its own key is, which says what its pieces are.

use std::io::{self, Read, Write};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use openssl::sha::sha256;
use serde::{Deserialize, Serialize};

use crate::{
    control::configs::{LARGEST, Version, text},
    identity::hex,
};

/// Beside one there is room for how far the version has spread.
pub(super) const PIECE: usize = 512 * 1024;
const FORMAT: u32 = 1;
/// A text is there as it was put and as it is sent, each byte of it may be two, and parts have names.
const LARGEST_TEXT: usize = 8 * LARGEST;
const MOST_PIECES: usize = LARGEST_TEXT / PIECE;

/// As it is to be written.
pub(super) struct Written {
    pub(super) head: Vec<u8>,
    pub(super) sum: String,
    pub(super) pieces: Vec<Vec<u8>>,
}

/// What a version's own key says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    format: u32,
    pub(super) sum: String,
    pub(super) pieces: usize,
}

/// Takes a while.
pub(super) fn write(version: &Version) -> io::Result<Written> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&text::version_text(version)?)?;
    let whole = encoder.finish()?;
    let pieces: Vec<Vec<u8>> = whole.chunks(PIECE).map(<[u8]>::to_vec).collect();
    let sum = hex(&sha256(&whole));
    let head = serde_json::to_vec(&Head { format: FORMAT, sum: sum.clone(), pieces: pieces.len() })?;
    Ok(Written { head, sum, pieces })
}

/// # Errors
///
/// Why it was not written by a replica.
pub(super) fn read_head(text: &[u8]) -> Result<Head, String> {
    let head: Head = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if head.format != FORMAT {
        return Err(format!(
            "it is of another release (format {}, and this one writes {FORMAT})",
            head.format
        ));
    }
    if !(1..=MOST_PIECES).contains(&head.pieces) {
        return Err(format!("it has {} pieces, and no version has", head.pieces));
    }
    Ok(head)
}

/// Takes a while. `pieces` are all that were found, in order.
///
/// # Errors
///
/// Why they are not the version that `head` stands for.
pub(super) fn read(head: &Head, pieces: &[Vec<u8>], name: &str, number: u64) -> Result<Version, String> {
    let whole = pieces.concat();
    if pieces.len() != head.pieces || hex(&sha256(&whole)) != head.sum {
        return Err("a piece of it is missing, or is another one's".to_owned());
    }
    let mut text = Vec::new();
    let most = u64::try_from(LARGEST_TEXT).unwrap_or(u64::MAX);
    ZlibDecoder::new(whole.as_slice())
        .take(most + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if text.len() > LARGEST_TEXT {
        return Err(format!("it is larger than {LARGEST_TEXT} bytes"));
    }
    text::read_version(&text, name, number)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::control::configs::Documents;

    pub(in crate::control::store::etcd) fn version(number: u64, text: &str) -> Version {
        let documents = Documents::new(text.into());
        Version {
            number,
            sha256: documents.sha256("edge"),
            documents,
            by: "anybody".to_owned(),
            at: UNIX_EPOCH + Duration::from_secs(1_764_400_000),
            repeats: None,
        }
    }

    /// Text that no compression makes smaller than two thirds of it.
    fn noise(length: usize) -> String {
        let mut rng = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect()
    }

    #[test]
    fn a_version_is_read_as_it_was_written() {
        for (text, pieces) in [("routes: []".to_owned(), 1), (noise(LARGEST), 6)] {
            let version = version(7, &text);
            let written = write(&version).unwrap();
            assert_eq!(written.pieces.len(), pieces);
            assert!(written.pieces.iter().all(|piece| piece.len() <= PIECE));
            let head = read_head(&written.head).unwrap();
            assert_eq!(read(&head, &written.pieces, "edge", 7).unwrap(), version);
        }
    }

    #[test]
    fn what_is_no_version_says_why() {
        let written = write(&version(7, "routes: []")).unwrap();
        let head = read_head(&written.head).unwrap();
        let text = String::from_utf8(written.head.clone()).unwrap();
        for (bad, says) in [
            ("hello".to_owned(), "expected"),
            (text.replace("\"format\":1", "\"format\":9"), "of another release"),
            (text.replace("\"pieces\":1", "\"pieces\":0"), "has 0 pieces"),
            (text.replace("\"pieces\":1", "\"pieces\":99999999"), "pieces"),
        ] {
            let why = read_head(bad.as_bytes()).unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
        let says = |pieces: &[Vec<u8>], name: &str, number| read(&head, pieces, name, number).unwrap_err();
        assert!(says(&[], "edge", 7).contains("is missing"));
        assert!(says(&[b"garbage".to_vec()], "edge", 7).contains("is missing"));
        assert!(says(&written.pieces, "edge", 8).contains("it is of version 7"));
        assert!(says(&written.pieces, "mesh", 7).contains("checksum"));
    }

    #[test]
    fn what_grows_without_end_is_given_up() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        let zeros = vec![0; 1024 * 1024];
        (0..=LARGEST_TEXT / zeros.len()).for_each(|_| encoder.write_all(&zeros).unwrap());
        let whole = encoder.finish().unwrap();
        let head = Head { format: FORMAT, sum: hex(&sha256(&whole)), pieces: 1 };
        let why = read(&head, &[whole], "edge", 1).unwrap_err();
        assert!(why.contains("larger than"), "{why}");
    }
}
