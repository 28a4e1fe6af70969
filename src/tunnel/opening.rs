//! What two sidecars say to each other in front of a connection that goes between them in a tunnel: once TLS is agreed on, with
//! [`TUNNEL_PROTOCOL`](crate::config::TUNNEL_PROTOCOL), and before the first byte of the application's.
//!
//! The caller names a port in two bytes, the high one first; 0 is the port that its connection was made to. The other end answers
//! with one byte: 0, and all that follows is the application's; or the length of a word that says why not, and that word.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::Reason;

/// The port that the connection was made to.
pub(super) const AS_CONNECTED: u16 = 0;

const OPENED: u8 = 0;
/// Reasons are shorter.
const LONGEST_WORD: u8 = 64;

/// Ask for a tunnel to `port`. With the other end's word, where it will not have it.
///
/// # Errors
///
/// The connection broke, or what came is no answer.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    port: u16,
) -> io::Result<Result<(), Box<str>>> {
    stream.write_all(&port.to_be_bytes()).await?;
    stream.flush().await?;
    let length = match stream.read_u8().await? {
        OPENED => return Ok(Ok(())),
        length @ ..=LONGEST_WORD => length,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut word = vec![0; usize::from(length)];
    stream.read_exact(&mut word).await?;
    // It is logged.
    match String::from_utf8(word) {
        Ok(word) if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
            Ok(Err(word.into()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The port for which the other end asks.
///
/// # Errors
///
/// The connection broke.
pub(super) async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u16> {
    stream.read_u16().await
}

/// # Errors
///
/// The connection broke.
pub(super) async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    opened: Result<(), Reason>,
) -> io::Result<()> {
    let word = opened.err().map_or("", Reason::code);
    let mut said = Vec::with_capacity(1 + word.len());
    // `OPENED` where there is no word.
    said.push(u8::try_from(word.len()).unwrap_or(LONGEST_WORD));
    said.extend_from_slice(word.as_bytes());
    stream.write_all(&said).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;

    /// What comes of asking for `port` when the other end says this, and what that end has heard.
    async fn asked(port: u16, said: &[u8]) -> (io::Result<Result<(), Box<str>>>, Vec<u8>) {
        let (mut caller, mut other) = duplex(1024);
        other.write_all(said).await.unwrap();
        other.shutdown().await.unwrap();
        let asked = ask(&mut caller, port).await;
        drop(caller);
        let mut heard = Vec::new();
        other.read_to_end(&mut heard).await.unwrap();
        (asked, heard)
    }

    #[tokio::test]
    async fn a_port_is_asked_for_and_heard() {
        let (opened, heard) = asked(3306, b"\0").await;
        assert_eq!((opened.unwrap(), &heard[..]), (Ok(()), &[0x0c, 0xea][..]));
        assert_eq!(hear(&mut &heard[..]).await.unwrap(), 3306);
    }

    #[tokio::test]
    async fn every_reason_is_told_and_understood() {
        for reason in Reason::ALL {
            assert!(reason.code().len() <= usize::from(LONGEST_WORD));
            let mut said = Vec::new();
            answer(&mut said, Err(reason)).await.unwrap();
            let (refused, _) = asked(1, &said).await;
            assert_eq!(refused.unwrap(), Err(reason.code().into()));
        }
    }

    #[tokio::test]
    async fn no_byte_of_the_application_s_is_taken_for_the_answer() {
        let (mut caller, mut other) = duplex(64);
        other.write_all(b"\0greeting").await.unwrap();
        ask(&mut caller, 1).await.unwrap().unwrap();
        let mut first = [0; 8];
        caller.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"greeting");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for said in [&b""[..], b"\x05abcd", b"\x41", b"\x03A b", b"\x02\r\n", b"\xff"] {
            assert!(asked(1, said).await.0.is_err(), "{said:?}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_one_or_an_error(said in prop::collection::vec(any::<u8>(), 0..80)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let (Ok(Err(word)), _) = runtime.block_on(asked(1, &said)) {
                prop_assert!(!word.is_empty() && word.len() <= usize::from(LONGEST_WORD));
            }
        }
    }
}
