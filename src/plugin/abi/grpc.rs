//! Calls of gRPC: one message there, one back.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, header};

use super::{
    Caller, Hostcall,
    call::{self, OURS},
    memory,
};
use crate::plugin::{
    outbound::Call,
    pairs,
    state::{Kind, Own},
    view::Status,
};

#[expect(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn call(
    caller: &mut Caller<'_>,
    upstream: i32,
    upstream_length: i32,
    service: i32,
    service_length: i32,
    method: i32,
    method_length: i32,
    metadata: i32,
    metadata_length: i32,
    message: i32,
    message_length: i32,
    timeout: i32,
    call_at: i32,
) -> Hostcall {
    let own = caller.data().plugin.clone().ok_or(Status::InternalFailure)?;
    let upstream = memory::take(caller, upstream, upstream_length)?;
    // What is no name may be Envoy's description of a service.
    let upstream = call::allowed(&own, &upstream)
        .or_else(|status| call::allowed(&own, cluster_name(&upstream).ok_or(status)?))?;
    let service = memory::take(caller, service, service_length)?;
    let method = memory::take(caller, method, method_length)?;
    let metadata = memory::take(caller, metadata, metadata_length)?;
    let message = memory::take(caller, message, message_length)?;
    let call = request(&own, upstream, &service, &method, &pairs::read(&metadata)?, &message, timeout)?;
    call::begin(caller, &own, call, Kind::Grpc, call_at)
}

fn request(
    own: &Own,
    upstream: Arc<str>,
    service: &[u8],
    method: &[u8],
    metadata: &[pairs::Pair<'_>],
    message: &[u8],
    timeout: i32,
) -> Result<Call, Status> {
    let word = |text: &[u8]| String::from_utf8(text.to_vec()).map_err(|_| Status::BadArgument);
    let path = format!("/{}/{}", word(service)?, word(method)?);
    path.parse::<http::Uri>().map_err(|_| Status::BadArgument)?;
    let mut fields = vec![
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (header::TE, HeaderValue::from_static("trailers")),
    ];
    for (name, value) in metadata.iter().filter(|(name, _)| !name.starts_with(b":")) {
        let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
        if !OURS.contains(&name) && name != header::CONTENT_TYPE {
            fields.push((name, value));
        }
    }
    let length = u32::try_from(message.len()).map_err(|_| Status::BadArgument)?;
    let body = [&[0][..], &length.to_be_bytes(), message].concat();
    let limits = &own.settings.limits;
    Ok(Call {
        authority: HeaderValue::from_str(&upstream).map_err(|_| Status::BadArgument)?,
        upstream,
        method: Method::POST,
        path,
        fields,
        body: body.into(),
        timeout: call::timeout(limits, timeout)?,
        most: limits.call_body,
        plugin: own.settings.name.clone(),
    })
}

pub(super) fn end(caller: &mut Caller<'_>, call: i32) -> Hostcall {
    let calls = &mut caller.data_mut().calls;
    let call = call.cast_unsigned();
    match calls.get(&call) {
        Some(pending) if pending.kind == Kind::Grpc => {
            calls.remove(&call);
            Ok(())
        }
        _ => Err(Status::NotFound.into()),
    }
}

/// `envoy_grpc.cluster_name` of the message `GrpcService`: field 1 in field 1.
fn cluster_name(service: &[u8]) -> Option<&[u8]> {
    first_field(first_field(service)?)
}

/// Where the message begins with its field 1, of so many bytes.
fn first_field(message: &[u8]) -> Option<&[u8]> {
    let (0x0a, rest) = message.split_first()? else { return None };
    let (length, rest) = rest.split_first()?;
    // More than a byte's worth of name is none of ours.
    if *length >= 0x80 {
        return None;
    }
    rest.get(..usize::from(*length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_cluster_is_read_from_a_description() {
        assert_eq!(cluster_name(b"\x0a\x06\x0a\x04auth"), Some(&b"auth"[..]));
        for wrong in
            [&b""[..], b"auth", b"\x0a\x06\x0a\x05auth", b"\x0a\xff\x0a\x04auth", b"\x12\x06\x0a\x04auth"]
        {
            assert_eq!(cluster_name(wrong), None, "{wrong:?}");
        }
    }
}
