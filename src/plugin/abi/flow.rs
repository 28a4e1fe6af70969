//! How a request goes on, whose turn it is, and when a root hears a tick.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Caller, Halt, Hostcall, memory};
use crate::plugin::{
    pairs::{self, Pair},
    state::{Answer, Done},
    view::Status,
};

/// Ticks are so far apart at least.
const SHORTEST_TICK: Duration = Duration::from_millis(10);
/// What the access log has room for.
const LONGEST_DETAIL: usize = 128;

pub(super) fn set_tick(caller: &mut Caller<'_>, period: i32) -> Hostcall {
    let period = Duration::from_millis(u64::from(period.cast_unsigned()));
    let (_, root) = caller.data_mut().root().ok_or(Status::BadArgument)?;
    root.tick = (!period.is_zero()).then(|| period.max(SHORTEST_TICK));
    root.ticks_at = root.tick.map(|period| Instant::now() + period);
    look(caller);
    Ok(())
}

/// Streams of the ABI: the request, the response, and two of TCP that there are none of. A root has none of them, which is no
/// error: SDKs panic of one.
pub(super) fn resume(caller: &mut Caller<'_>, stream: i32) -> Hostcall {
    match stream {
        0 | 1 => {
            let state = caller.data_mut();
            if let Some(stream) = state.stream() {
                stream.wish.resume = true;
            }
            state.wake();
            Ok(())
        }
        2 | 3 => Ok(()),
        _ => Err(Status::BadArgument.into()),
    }
}

pub(super) fn resume_request(caller: &mut Caller<'_>) -> Hostcall {
    resume(caller, 0)
}

pub(super) fn resume_response(caller: &mut Caller<'_>) -> Hostcall {
    resume(caller, 1)
}

pub(super) fn close(caller: &mut Caller<'_>, stream: i32) -> Hostcall {
    match stream {
        0 | 1 => {
            let state = caller.data_mut();
            if let Some(stream) = state.stream() {
                stream.wish.reset = true;
            }
            state.wake();
            Ok(())
        }
        2 | 3 => Ok(()),
        _ => Err(Status::BadArgument.into()),
    }
}

/// Of 0.1.0. A request that a listener's chain has changed is routed anew in any case.
pub(super) fn clear_route_cache(_: &mut Caller<'_>) -> Hostcall {
    Ok(())
}

/// A plugin that answers does not want the request to go on, so one whose answer cannot be read is answered all the same.
#[expect(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn answer(
    caller: &mut Caller<'_>,
    status: i32,
    detail: i32,
    detail_length: i32,
    body: i32,
    body_length: i32,
    fields: i32,
    fields_length: i32,
    grpc_status: i32,
) -> Hostcall {
    let [detail, body, fields] = [(detail, detail_length), (body, body_length), (fields, fields_length)];
    let read = read_answer(caller, status, detail, body, fields, grpc_status);
    let state = caller.data_mut();
    let Some(stream) = state.stream() else { return read.map(drop) };
    let (answer, told) = match read {
        Ok(answer) => (answer, Ok(())),
        Err(why) => (Answer::unreadable(), Err(why)),
    };
    // The first counts.
    stream.wish.answer.get_or_insert(answer);
    state.wake();
    told
}

fn read_answer(
    caller: &Caller<'_>,
    status: i32,
    detail: (i32, i32),
    body: (i32, i32),
    fields: (i32, i32),
    grpc_status: i32,
) -> Result<Answer, Halt> {
    let code = u16::try_from(status).ok().filter(|code| (200..=599).contains(code));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Status::BadArgument)?;
    let detail = memory::read(caller, detail.0, detail.1)?;
    let detail = &detail[..detail.len().min(LONGEST_DETAIL)];
    let detail = String::from_utf8_lossy(detail).replace(|c: char| c.is_control(), " ");
    let body = memory::take(caller, body.0, body.1)?;
    let fields = memory::take(caller, fields.0, fields.1)?;
    let fields = answer_fields(&pairs::read(&fields)?);
    let grpc_status = u8::try_from(grpc_status).ok().filter(|status| *status <= 16);
    Ok(Answer { status, grpc_status, detail, fields, body })
}

/// What is no field is left out: its value may be what a client has sent, who is not to have the answer taken back by it.
fn answer_fields(pairs: &[Pair<'_>]) -> Vec<(HeaderName, HeaderValue)> {
    let field = |(name, value): &Pair<'_>| {
        Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    pairs.iter().filter_map(field).collect()
}

pub(super) fn status(caller: &mut Caller<'_>, code_at: i32, at: i32, length_at: i32) -> Hostcall {
    let (code, message) = caller.data().status.clone();
    memory::write(caller, code_at, &code.to_le_bytes())?;
    memory::give(caller, &message, at, length_at)
}

pub(super) fn set_effective(caller: &mut Caller<'_>, context: i32) -> Hostcall {
    let (state, context) = (caller.data_mut(), context.cast_unsigned());
    if !state.contexts.contains_key(&context) {
        return Err(Status::BadArgument.into());
    }
    state.effective = context;
    Ok(())
}

/// A root that was asked whether it is done, and was not, now is.
pub(super) fn done(caller: &mut Caller<'_>) -> Hostcall {
    match caller.data_mut().root() {
        Some((_, root)) if root.done == Done::Pending => root.done = Done::Said,
        _ => return Err(Status::NotFound.into()),
    }
    look(caller);
    Ok(())
}

/// The plugin has something to do beside requests.
fn look(caller: &Caller<'_>) {
    let state = caller.data();
    let plugin = state.plugin.as_ref().and_then(|own| own.plugin.get()?.upgrade());
    if let Some(plugin) = plugin.filter(|_| !state.place.is_trial()) {
        plugin.looks();
    }
}
