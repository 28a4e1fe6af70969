//! The WebSocket endpoint of the test backend. It works on frames, not messages, and sends each back as it came:
//! what a client sees changed was changed on the way.

use std::io;

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::{Body, full};

const MAX_FRAME: u64 = 16 << 20;

/// Answers the opening handshake (RFC 6455 section 4.2); None when `request` is not one. The frames are echoed by
/// a task of their own.
pub(super) fn accept(request: &mut Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    let asked = headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !asked || request.method() != Method::GET {
        return None;
    }
    let accept = HeaderValue::from_str(&accept_key(headers.get(SEC_WEBSOCKET_KEY)?.as_bytes())).ok()?;
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            // A client that goes away without closing is no news to a test backend.
            let _ = echo_frames(BufReader::new(TokioIo::new(upgraded))).await;
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    Some(response)
}

fn accept_key(key: &[u8]) -> String {
    let challenge = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    openssl::base64::encode_block(&openssl::sha::sha1(&challenge))
}

/// Sends every data frame back as it came, fragmentation included (RFC 6455 section 5), until the client closes.
async fn echo_frames(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    const PROTOCOL_ERROR: u16 = 1002;
    const TOO_BIG: u16 = 1009;
    loop {
        let (first, second) = (stream.read_u8().await?, stream.read_u8().await?);
        let length = match second & 0x7F {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let (masked, extended, control) = (second & 0x80 != 0, first & 0x70 != 0, first & 0x08 != 0);
        if !masked || extended || (control && length > 125) {
            return write_frame(&mut stream, 0x88, &PROTOCOL_ERROR.to_be_bytes()).await;
        }
        if length > MAX_FRAME {
            return write_frame(&mut stream, 0x88, &TOO_BIG.to_be_bytes()).await;
        }
        let mut mask = [0; 4];
        stream.read_exact(&mut mask).await?;
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        match first & 0x0F {
            0..=2 => write_frame(&mut stream, first, &payload).await?,
            0x8 => {
                write_frame(&mut stream, first, &payload).await?;
                return stream.shutdown().await;
            }
            0x9 => write_frame(&mut stream, 0x8A, &payload).await?,
            0xA => {}
            _ => return write_frame(&mut stream, 0x88, &PROTOCOL_ERROR.to_be_bytes()).await,
        }
    }
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..=0xFFFF => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_answered_as_in_the_example_of_the_rfc() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn a_broken_frame_is_answered_with_the_reason_to_close() {
        let too_big = [&[0x82, 0xFF][..], &(MAX_FRAME + 1).to_be_bytes()].concat();
        for (name, frame, reason) in [
            ("unmasked", vec![0x81, 0x02], 1002_u16),
            ("of an extension", vec![0xC1, 0x80], 1002),
            ("a long ping", vec![0x89, 0xFE, 0x01, 0x00], 1002),
            ("of an unknown kind", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
            ("too big", too_big, 1009),
        ] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(&frame).await.unwrap();
            echo_frames(server).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, [&[0x88, 0x02][..], &reason.to_be_bytes()].concat(), "{name}");
        }
    }
}
