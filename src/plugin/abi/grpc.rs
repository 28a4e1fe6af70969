//! Calls of gRPC: one message there and one back, and streams, on which either side says as much as it likes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::sync::{Semaphore, mpsc};

use super::{Caller, Hostcall, call, memory};
use crate::plugin::{
    outbound::{Call, Message, Outbound, Said},
    pairs,
    state::{Kind, Messages, Own, Pending},
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
    let upstream = called(&own, &memory::take(caller, upstream, upstream_length)?)?;
    let service = memory::take(caller, service, service_length)?;
    let method = memory::take(caller, method, method_length)?;
    let metadata = memory::take(caller, metadata, metadata_length)?;
    let message = memory::take(caller, message, message_length)?;
    let timeout = call::timeout(&own.settings.limits, timeout)?;
    let body = framed(&message)?;
    let call = request(&own, upstream, &service, &method, &pairs::read(&metadata)?, body, timeout)?;
    call::begin(caller, &own, Kind::Grpc, call_at, |whose| call::outbound_call(call, whose))
}

#[expect(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn stream(
    caller: &mut Caller<'_>,
    upstream: i32,
    upstream_length: i32,
    service: i32,
    service_length: i32,
    method: i32,
    method_length: i32,
    metadata: i32,
    metadata_length: i32,
    stream_at: i32,
) -> Hostcall {
    let own = caller.data().plugin.clone().ok_or(Status::InternalFailure)?;
    let upstream = called(&own, &memory::take(caller, upstream, upstream_length)?)?;
    let service = memory::take(caller, service, service_length)?;
    let method = memory::take(caller, method, method_length)?;
    let metadata = memory::take(caller, metadata, metadata_length)?;
    let limits = &own.settings.limits;
    let metadata = pairs::read(&metadata)?;
    let call = request(&own, upstream, &service, &method, &metadata, Bytes::new(), limits.call_timeout)?;
    let (sender, messages) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(limits.buffer.min(Semaphore::MAX_PERMITS)));
    let kind = Kind::Stream(Messages { sender, room, is_closed: false });
    call::begin(caller, &own, kind, stream_at, |(plugin, place, number)| {
        let hears = Box::new(move |said: Said| plugin.upgrade()?.said(place, number, said));
        Box::new(move |outbound: &dyn Outbound| outbound.stream(call, messages, hears))
    })
}

/// What waits to be sent is bounded as a body is that is held back.
pub(super) fn send(
    caller: &mut Caller<'_>,
    stream: i32,
    message: i32,
    length: i32,
    is_last: i32,
) -> Hostcall {
    let message = memory::take(caller, message, length)?;
    let messages = messages(caller, stream)?;
    if messages.is_closed {
        return Err(Status::BadArgument.into());
    }
    let framed = framed(&message)?;
    let taken = u32::try_from(framed.len() + OVERHEAD).map_err(|_| Status::BadArgument)?;
    let room = messages.room.clone().try_acquire_many_owned(taken).map_err(|_| Status::InternalFailure)?;
    messages.is_closed = is_last != 0;
    let message = Message { framed, is_last: is_last != 0, room: Some(room) };
    // Where nobody sends any more, its end is about to be told.
    let _ = messages.sender.send(message);
    Ok(())
}

/// What each message costs beside its bytes.
const OVERHEAD: usize = 64;

fn messages<'c>(caller: &'c mut Caller<'_>, stream: i32) -> Result<&'c mut Messages, Status> {
    match caller.data_mut().calls.get_mut(&stream.cast_unsigned()) {
        Some(Pending { kind: Kind::Stream(messages), .. }) => Ok(messages),
        _ => Err(Status::NotFound),
    }
}

/// The upstream. What is no name may be Envoy's description of a service.
fn called(own: &Own, upstream: &[u8]) -> Result<Arc<str>, Status> {
    let named = call::allowed(own, upstream).ok();
    let described = || call::allowed(own, cluster_name(upstream)?).ok();
    named.or_else(described).ok_or(Status::ParseFailure)
}

/// A message with what is in front of it.
fn framed(message: &[u8]) -> Result<Bytes, Status> {
    let length = u32::try_from(message.len()).map_err(|_| Status::BadArgument)?;
    Ok([&[0][..], &length.to_be_bytes(), message].concat().into())
}

fn request(
    own: &Own,
    upstream: Arc<str>,
    service: &[u8],
    method: &[u8],
    metadata: &[pairs::Pair<'_>],
    body: Bytes,
    timeout: Duration,
) -> Result<Call, Status> {
    let word = |text: &[u8]| String::from_utf8(text.to_vec()).map_err(|_| Status::BadArgument);
    let path = format!("/{}/{}", word(service)?, word(method)?);
    path.parse::<http::Uri>().map_err(|_| Status::BadArgument)?;
    let mut fields: Vec<(HeaderName, HeaderValue)> = vec![
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (header::TE, HeaderValue::from_static("trailers")),
    ];
    fields.extend(call::fields(metadata)?.into_iter().filter(|(name, _)| name != header::CONTENT_TYPE));
    let limits = &own.settings.limits;
    Ok(Call {
        authority: HeaderValue::from_str(&upstream).map_err(|_| Status::BadArgument)?,
        upstream,
        method: Method::POST,
        path,
        fields,
        body,
        trailers: HeaderMap::new(),
        timeout,
        most: limits.call_body,
        plugin: own.settings.name.clone(),
    })
}

/// Gives it up. Nothing more is heard of it.
pub(super) fn cancel(caller: &mut Caller<'_>, call: i32) -> Hostcall {
    let (calls, call) = (&mut caller.data_mut().calls, call.cast_unsigned());
    match calls.get(&call) {
        Some(Pending { kind: Kind::Grpc | Kind::Stream(_), .. }) => {
            calls.remove(&call);
            Ok(())
        }
        _ => Err(Status::NotFound.into()),
    }
}

/// Of a stream, the plugin says no more, and goes on to hear. A call is given up.
pub(super) fn close(caller: &mut Caller<'_>, call: i32) -> Hostcall {
    let Ok(messages) = messages(caller, call) else { return cancel(caller, call) };
    if !std::mem::replace(&mut messages.is_closed, true) {
        let _ = messages.sender.send(Message { framed: Bytes::new(), is_last: true, room: None });
    }
    Ok(())
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
