//! Maps of header and trailer fields.

use super::{Caller, Hostcall, buffer::missing_is_empty, memory};
use crate::plugin::{
    pairs,
    state::State,
    view::{Change, Map, Side, Status},
};

/// A map of a request, or of the answer to a call, which is there while one is told of.
enum Asked {
    Of(Map),
    CallHeaders,
    CallTrailers,
}

fn asked(map: i32) -> Result<Asked, Status> {
    Ok(match map {
        0 => Asked::Of(Map::Headers(Side::Request)),
        1 => Asked::Of(Map::Trailers(Side::Request)),
        2 => Asked::Of(Map::Headers(Side::Response)),
        3 => Asked::Of(Map::Trailers(Side::Response)),
        4 | 6 => Asked::CallHeaders,
        5 | 7 => Asked::CallTrailers,
        _ => return Err(Status::BadArgument),
    })
}

/// A map that is not there now is an empty one: SDKs panic of anything else.
pub(super) fn pairs(caller: &mut Caller<'_>, map: i32, at: i32, length_at: i32) -> Hostcall {
    asked(map)?;
    let mut writer = pairs::Writer::default();
    let _ = each(caller.data_mut(), map, &mut |name, value| writer.push(name, value));
    let bytes = if writer.is_empty() { Vec::new() } else { writer.bytes() };
    memory::give(caller, &bytes, at, length_at)
}

fn each(state: &mut State, map: i32, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Status> {
    let answered = state.answered.as_ref().ok_or(Status::BadArgument);
    let fields = match asked(map)? {
        Asked::Of(map) => return state.view()?.each(map, visit),
        Asked::CallHeaders => {
            let answered = answered?;
            if map == 6 {
                visit(b":status", answered.status.to_string().as_bytes());
            }
            &answered.headers
        }
        Asked::CallTrailers => &answered?.trailers,
    };
    for (name, value) in fields {
        visit(name.as_str().as_bytes(), value.as_bytes());
    }
    Ok(())
}

pub(super) fn size(caller: &mut Caller<'_>, map: i32, size_at: i32) -> Hostcall {
    let mut size = 0;
    each(caller.data_mut(), map, &mut |name, value| size += name.len() + value.len())?;
    memory::write_u32(caller, size_at, u32::try_from(size).unwrap_or(u32::MAX))?;
    Ok(())
}

pub(super) fn value(
    caller: &mut Caller<'_>,
    map: i32,
    name: i32,
    length: i32,
    at: i32,
    length_at: i32,
) -> Hostcall {
    let name = memory::take(caller, name, length)?;
    let found = match asked(map)? {
        Asked::Of(map) => {
            let view = caller.data_mut().view()?;
            view.first(map, &name)?.map(std::borrow::Cow::into_owned)
        }
        _ => {
            let (name, mut found) = (name.to_ascii_lowercase(), None);
            each(caller.data_mut(), map, &mut |other, value| {
                if found.is_none() && *other == *name {
                    found = Some(value.to_vec());
                }
            })?;
            found
        }
    };
    match found {
        Some(value) => memory::give(caller, &value, at, length_at),
        None if missing_is_empty(caller.data()) => memory::give(caller, &[], at, length_at),
        None => Err(Status::NotFound.into()),
    }
}

pub(super) fn add(
    caller: &mut Caller<'_>,
    map: i32,
    name: i32,
    length: i32,
    value: i32,
    count: i32,
) -> Hostcall {
    let [name, value] = both(caller, [(name, length), (value, count)])?;
    change(caller, map, Change::Add(&name, &value))
}

pub(super) fn replace(
    caller: &mut Caller<'_>,
    map: i32,
    n: i32,
    length: i32,
    v: i32,
    count: i32,
) -> Hostcall {
    let [name, value] = both(caller, [(n, length), (v, count)])?;
    change(caller, map, Change::Set(&name, &value))
}

fn both(caller: &Caller<'_>, [name, value]: [(i32, i32); 2]) -> Result<[Vec<u8>; 2], Status> {
    Ok([memory::take(caller, name.0, name.1)?, memory::take(caller, value.0, value.1)?])
}

pub(super) fn remove(caller: &mut Caller<'_>, map: i32, name: i32, length: i32) -> Hostcall {
    let name = memory::take(caller, name, length)?;
    change(caller, map, Change::Remove(&name))
}

pub(super) fn set_pairs(caller: &mut Caller<'_>, map: i32, pairs: i32, length: i32) -> Hostcall {
    let bytes = memory::take(caller, pairs, length)?;
    let pairs = pairs::read(&bytes)?;
    change(caller, map, Change::All(&pairs))
}

fn change(caller: &mut Caller<'_>, map: i32, change: Change<'_>) -> Hostcall {
    match asked(map)? {
        Asked::CallHeaders | Asked::CallTrailers => Err(Status::BadArgument.into()),
        Asked::Of(map) => Ok(caller.data_mut().view()?.change(map, change)?),
    }
}
