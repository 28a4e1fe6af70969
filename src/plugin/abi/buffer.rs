//! Bodies, and what a plugin is configured with.

use bytes::{Bytes, BytesMut};

use super::{Caller, Hostcall, memory};
use crate::plugin::{
    module::Abi,
    state::State,
    view::{Side, Status},
};

/// The numbers of the ABI.
const REQUEST_BODY: i32 = 0;
const RESPONSE_BODY: i32 = 1;
/// Of TCP, which is never a plugin's here.
const DOWNSTREAM: i32 = 2;
const UPSTREAM: i32 = 3;
const CALL_BODY: i32 = 4;
const GRPC_MESSAGE: i32 = 5;
const VM_CONFIGURATION: i32 = 6;
const PLUGIN_CONFIGURATION: i32 = 7;
const ARGUMENT: i32 = 8;

pub(super) fn get(
    caller: &mut Caller<'_>,
    buffer: i32,
    start: i32,
    most: i32,
    at: i32,
    length_at: i32,
) -> Hostcall {
    let (start, most) = (start.cast_unsigned(), most.cast_unsigned());
    let end = start.saturating_add(most) as usize;
    let bytes = find(caller.data_mut(), buffer)?;
    let (start, end) = ((start as usize).min(bytes.len()), end.min(bytes.len()));
    memory::give(caller, &bytes.slice(start..end), at, length_at)
}

pub(super) fn status(caller: &mut Caller<'_>, buffer: i32, length_at: i32, flags_at: i32) -> Hostcall {
    let length = find(caller.data_mut(), buffer)?.len();
    memory::write_u32(caller, length_at, u32::try_from(length).unwrap_or(u32::MAX))?;
    memory::write_u32(caller, flags_at, 0)?;
    Ok(())
}

/// Of 0.1.0.
pub(super) fn configuration(caller: &mut Caller<'_>, at: i32, length_at: i32) -> Hostcall {
    let bytes = find(caller.data_mut(), PLUGIN_CONFIGURATION)?;
    memory::give(caller, &bytes, at, length_at)
}

/// What is there of it now. Cheap: nothing is copied.
fn find(state: &mut State, buffer: i32) -> Result<Bytes, Status> {
    match buffer {
        REQUEST_BODY => Ok(part(state, Side::Request)),
        RESPONSE_BODY => Ok(part(state, Side::Response)),
        CALL_BODY => {
            let answered = state.answered.as_ref().ok_or(Status::NotFound)?;
            Ok(answered.body.clone())
        }
        GRPC_MESSAGE => Ok(state.answered.as_ref().map(|answered| answered.body.clone()).unwrap_or_default()),
        DOWNSTREAM | UPSTREAM | ARGUMENT => Ok(Bytes::new()),
        VM_CONFIGURATION => {
            let plugin = state.plugin.as_ref().ok_or(Status::NotFound)?;
            Ok(Bytes::from_owner(plugin.settings.vm_config.clone()))
        }
        PLUGIN_CONFIGURATION => {
            let (_, root) = state.root().ok_or(Status::NotFound)?;
            Ok(Bytes::from_owner(root.config.clone()))
        }
        _ => Err(Status::BadArgument),
    }
}

/// A body that is not there yet, has gone by, or is nobody's, is empty.
fn part(state: &mut State, side: Side) -> Bytes {
    let view = state.view().ok();
    view.and_then(|view| view.body(side)).map(|part| part.clone()).unwrap_or_default()
}

/// Where `start` is 0, the first `length` bytes are replaced; where it is at the end or beyond, bytes are appended.
pub(super) fn set(
    caller: &mut Caller<'_>,
    buffer: i32,
    start: i32,
    length: i32,
    bytes: i32,
    count: i32,
) -> Hostcall {
    let side = match buffer {
        REQUEST_BODY => Side::Request,
        RESPONSE_BODY => Side::Response,
        _ => return Err(Status::BadArgument.into()),
    };
    let bytes = memory::take(caller, bytes, count)?;
    let state = caller.data_mut();
    let most = state.plugin.as_ref().map_or(0, |plugin| plugin.settings.limits.buffer);
    let part = state.view()?.body(side).ok_or(Status::BadArgument)?;
    let changed = spliced(part, start.cast_unsigned() as usize, length.cast_unsigned() as usize, &bytes)?;
    // What a plugin makes of a body is held to the same bound as what is held back for it.
    if changed.len() > most.max(part.len()) {
        return Err(Status::InternalFailure.into());
    }
    *part = changed;
    Ok(())
}

fn spliced(part: &Bytes, start: usize, length: usize, bytes: &[u8]) -> Result<Bytes, Status> {
    let (front, back) = match start {
        0 => (&[][..], &part[length.min(part.len())..]),
        start if start >= part.len() => (&part[..], &[][..]),
        _ => return Err(Status::BadArgument),
    };
    let mut spliced = BytesMut::with_capacity(front.len() + bytes.len() + back.len());
    [front, bytes, back].into_iter().for_each(|piece| spliced.extend_from_slice(piece));
    Ok(spliced.freeze())
}

/// A key that is not there: an error in later versions, nothing in the first.
pub(super) fn missing_is_empty(state: &State) -> bool {
    state.abi == Abi::V0_1_0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_prepended_to_replaced_and_appended_to() {
        let part = Bytes::from_static(b"hello");
        let cases = [
            (0, 0, Ok("XYhello")),
            (0, 2, Ok("XYllo")),
            (0, 5, Ok("XY")),
            (0, usize::MAX, Ok("XY")),
            (5, 0, Ok("helloXY")),
            (9, 3, Ok("helloXY")),
            (1, 0, Err(Status::BadArgument)),
            (4, 1, Err(Status::BadArgument)),
        ];
        for (start, length, expected) in cases {
            let made = spliced(&part, start, length, b"XY");
            assert_eq!(made, expected.map(|text: &str| Bytes::from(text)), "{start}, {length}");
        }
    }
}
