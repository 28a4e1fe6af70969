//! The messages of the gRPC health protocol (`grpc.health.v1`), written and read by hand: one string out, one enum in.
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>

use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const PATH: &str = "/grpc.health.v1.Health/Check";

/// A health answer has seven bytes.
pub(crate) const LARGEST_RESPONSE: usize = 4096;

/// `HealthCheckRequest { service }` in its length-prefixed frame.
pub(crate) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a); // field 1, length-delimited
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0); // not compressed
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// Whether status and body say that the service is serving, or why not.
pub(crate) fn verdict(grpc_status: Option<&str>, body: &[u8]) -> Result<(), String> {
    match grpc_status {
        Some("0") => {}
        Some("5") => return Err("gRPC status 5: the endpoint does not know the service asked about".into()),
        Some("12") => return Err("gRPC status 12: the endpoint does not implement gRPC health checks".into()),
        Some(status) => return Err(format!("gRPC status {status}")),
        None => return Err("the answer carries no gRPC status".into()),
    }
    match serving_status(body) {
        Some(1) => Ok(()),
        Some(0) => Err("the endpoint says UNKNOWN".into()),
        Some(2) => Err("the endpoint says NOT_SERVING".into()),
        Some(3) => Err("the endpoint says SERVICE_UNKNOWN".into()),
        Some(other) => Err(format!("the endpoint says {other}, which is no known status")),
        None => Err("the answer is no gRPC health message".into()),
    }
}

/// Field 1 of `HealthCheckResponse`; 0 where it is absent. `None` where the frame is not one uncompressed message.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (prefix, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || length as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, value @ ..] => varint(value), // field 1, varint
        _ => None,
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The varint that `bytes` starts with.
fn varint(bytes: &[u8]) -> Option<u64> {
    let mut value = 0;
    for (position, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_request_as_protobuf_in_a_frame() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = request(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn only_serving_with_status_zero_is_healthy() {
        let answer = |status| [0, 0, 0, 0, 2, 8, status];
        assert_eq!(verdict(Some("0"), &answer(1)), Ok(()));
        for (status, body, why) in [
            (Some("0"), &answer(2)[..], "NOT_SERVING"),
            (Some("0"), &answer(3), "SERVICE_UNKNOWN"),
            (Some("0"), &[0; 5], "UNKNOWN"),
            (Some("0"), &[], "no gRPC health message"),
            (Some("0"), &[1, 0, 0, 0, 2, 8, 1], "no gRPC health message"),
            (Some("0"), &[0, 0, 0, 0, 2, 8, 0x81], "no gRPC health message"),
            (Some("5"), &[], "does not know the service"),
            (Some("12"), &[], "does not implement"),
            (None, &answer(1), "no gRPC status"),
        ] {
            let error = verdict(status, body).unwrap_err();
            assert!(error.contains(why), "{status:?} {body:?}: {error}");
        }
    }
}
