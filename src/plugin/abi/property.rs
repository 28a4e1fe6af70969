//! Properties: what the gateway knows of a request, by paths whose segments a zero separates.

use super::{Caller, Hostcall, memory};
use crate::plugin::{state::State, view::Status};

/// Longer than any that means something.
const LONGEST: usize = 1024;

pub(super) fn get(caller: &mut Caller<'_>, path: i32, length: i32, at: i32, length_at: i32) -> Hostcall {
    let path = memory::take(caller, path, length)?;
    let value = find(caller.data_mut(), &path)?;
    memory::give(caller, &value, at, length_at)
}

fn find(state: &mut State, path: &[u8]) -> Result<Vec<u8>, Status> {
    if path.len() > LONGEST {
        return Err(Status::NotFound);
    }
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    let segments: Vec<&[u8]> = path.split(|byte| *byte == 0).collect();
    state.asked_for_root |= matches!(segments[..], [b"plugin_root_id"]);
    let plugin = state.plugin.as_ref().ok_or(Status::NotFound)?;
    let of_the_plugin = match segments[..] {
        [b"plugin_name"] => Some(&plugin.settings.name),
        [b"plugin_root_id"] => Some(&plugin.settings.root_id),
        [b"plugin_vm_id"] => Some(&plugin.settings.vm_id),
        _ => None,
    };
    if let Some(text) = of_the_plugin {
        return Ok(text.as_bytes().to_vec());
    }
    let view = state.view().map_err(|_| Status::NotFound)?;
    view.property(&segments).ok_or(Status::NotFound)
}

pub(super) fn set(caller: &mut Caller<'_>, path: i32, length: i32, value: i32, count: i32) -> Hostcall {
    let (path, value) = (memory::take(caller, path, length)?, memory::take(caller, value, count)?);
    if path.is_empty() || path.len() > LONGEST {
        return Err(Status::BadArgument.into());
    }
    let path = path.strip_suffix(b"\0").unwrap_or(&path).to_vec();
    Ok(caller.data_mut().view().map_err(|_| Status::NotFound)?.set_property(path, value)?)
}
