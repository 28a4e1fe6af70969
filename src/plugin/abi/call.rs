//! Calls out.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Caller, Hostcall, memory};
use crate::plugin::{
    Plugin,
    outbound::{Begin, Call, Outbound, Outcome},
    pairs,
    settings::Limits,
    state::{Kind, Own, Pending, Place},
    view::Status,
};

#[expect(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn http(
    caller: &mut Caller<'_>,
    upstream: i32,
    upstream_length: i32,
    fields: i32,
    fields_length: i32,
    body: i32,
    body_length: i32,
    trailers: i32,
    trailers_length: i32,
    timeout: i32,
    call_at: i32,
) -> Hostcall {
    let own = caller.data().plugin.clone().ok_or(Status::InternalFailure)?;
    let upstream = memory::take(caller, upstream, upstream_length)?;
    let upstream = allowed(&own, &upstream)?;
    let fields = memory::take(caller, fields, fields_length)?;
    let body = memory::take(caller, body, body_length)?;
    let trailers = memory::take(caller, trailers, trailers_length)?;
    let trailers = self::fields(&pairs::read(&trailers)?)?.into_iter().collect();
    let call = Call { trailers, ..call(&own, upstream, &pairs::read(&fields)?, body, timeout)? };
    begin(caller, &own, Kind::Http, call_at, |told| outbound_call(call, told))
}

/// One whose answer comes as a whole.
pub(super) fn outbound_call(call: Call, (plugin, place, number): Whose) -> Begin {
    let told = Box::new(move |outcome: Outcome| tell(&plugin, place, number, outcome));
    Box::new(move |outbound: &dyn Outbound| outbound.begin(call, told))
}

/// Whose call it is: the plugin, the instance, and the number there.
pub(super) type Whose = (Weak<Plugin>, Place, u32);

/// Begins it, and tells the plugin its number.
pub(super) fn begin(
    caller: &mut Caller<'_>,
    own: &Own,
    kind: Kind,
    call_at: i32,
    call: impl FnOnce(Whose) -> Begin,
) -> Hostcall {
    let (root, _) = caller.data_mut().root().ok_or(Status::BadArgument)?;
    let state = caller.data_mut();
    if state.calls.len() >= own.settings.limits.calls {
        return Err(Status::InternalFailure.into());
    }
    let number = state.next_call();
    let place = state.place;
    let under_way: Box<dyn Send> = match place.is_trial() {
        // Nobody is asked where a plugin is only tried out.
        true => Box::new(()),
        false => {
            let plugin = own.plugin.get().cloned().unwrap_or_default();
            own.way.begin(call((plugin, place, number)))
        }
    };
    caller.data_mut().calls.insert(number, Pending { root, kind, _under_way: under_way });
    memory::write_u32(caller, call_at, number)?;
    Ok(())
}

fn tell(plugin: &Weak<Plugin>, place: Place, call: u32, outcome: Outcome) {
    if let Some(plugin) = plugin.upgrade() {
        plugin.answered(place, call, outcome);
    }
}

/// The upstream that stands for a plugin's word.
pub(super) fn allowed(own: &Own, word: &[u8]) -> Result<Arc<str>, Status> {
    let word = std::str::from_utf8(word).map_err(|_| Status::BadArgument)?;
    own.settings.upstreams.get(word).cloned().ok_or(Status::BadArgument)
}

fn call(
    own: &Own,
    upstream: Arc<str>,
    fields: &[pairs::Pair<'_>],
    body: Vec<u8>,
    timeout: i32,
) -> Result<Call, Status> {
    let limits = &own.settings.limits;
    let timeout = self::timeout(limits, timeout)?;
    let pseudo = |wanted: &[u8]| fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let method = pseudo(b":method").and_then(|method| Method::from_bytes(method).ok());
    let path = pseudo(b":path").and_then(|path| std::str::from_utf8(path).ok());
    let authority = pseudo(b":authority").and_then(|authority| HeaderValue::from_bytes(authority).ok());
    let (Some(method), Some(path), Some(authority)) = (method, path, authority) else {
        return Err(Status::BadArgument);
    };
    if method == Method::CONNECT || !path.starts_with('/') || path.parse::<http::Uri>().is_err() {
        return Err(Status::BadArgument);
    }
    Ok(Call {
        upstream,
        method,
        path: path.to_owned(),
        authority,
        fields: self::fields(fields)?,
        body: body.into(),
        trailers: HeaderMap::new(),
        timeout,
        most: limits.call_body,
        plugin: own.settings.name.clone(),
    })
}

/// Those that a plugin may say.
pub(super) fn fields(pairs: &[pairs::Pair<'_>]) -> Result<Vec<(HeaderName, HeaderValue)>, Status> {
    let mut fields = Vec::new();
    for (name, value) in pairs.iter().filter(|(name, _)| !name.starts_with(b":")) {
        let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
        if !OURS.contains(&name) {
            fields.push((name, value));
        }
    }
    Ok(fields)
}

/// As long as is asked for, and may be.
pub(super) fn timeout(limits: &Limits, milliseconds: i32) -> Result<Duration, Status> {
    match u64::try_from(milliseconds).map_err(|_| Status::BadArgument)? {
        0 => Ok(limits.call_timeout),
        milliseconds => Ok(Duration::from_millis(milliseconds).min(limits.call_timeout)),
    }
}

/// What the gateway says of a message's framing and its connection, and whose host it is.
const OURS: [HeaderName; 7] = [
    http::header::HOST,
    http::header::CONTENT_LENGTH,
    http::header::TRANSFER_ENCODING,
    http::header::CONNECTION,
    http::header::TE,
    http::header::UPGRADE,
    http::header::EXPECT,
];
