//! Shared data and queues.

use std::sync::Arc;

use super::{Caller, Hostcall, memory};
use crate::plugin::{
    shared::Listener,
    state::{Own, State},
    view::Status,
};

fn own(state: &State) -> Result<Arc<Own>, Status> {
    state.plugin.clone().ok_or(Status::InternalFailure)
}

pub(super) fn get(
    caller: &mut Caller<'_>,
    key: i32,
    length: i32,
    at: i32,
    length_at: i32,
    cas_at: i32,
) -> Hostcall {
    let (value, cas) = caller.data().common.shared.value(memory::read(caller, key, length)?)?;
    memory::give(caller, &value, at, length_at)?;
    memory::write_u32(caller, cas_at, cas)?;
    Ok(())
}

pub(super) fn set(
    caller: &mut Caller<'_>,
    key: i32,
    length: i32,
    value: i32,
    count: i32,
    cas: i32,
) -> Hostcall {
    let own = own(caller.data())?;
    let (key, value) = (memory::read(caller, key, length)?, memory::read(caller, value, count)?);
    let shared = &caller.data().common.shared;
    Ok(shared.set(key, value, cas.cast_unsigned(), own.settings.limits.shared)?)
}

pub(super) fn register(caller: &mut Caller<'_>, name: i32, length: i32, id_at: i32) -> Hostcall {
    let own = own(caller.data())?;
    let (root, _) = caller.data_mut().root().ok_or(Status::InternalFailure)?;
    let listener = Listener {
        plugin: own.plugin.get().cloned().unwrap_or_default(),
        slot: caller.data().place.slot,
        root,
    };
    let name = memory::read(caller, name, length)?;
    let shared = &caller.data().common.shared;
    let queue = shared.register(name, listener, own.settings.limits.shared)?;
    memory::write_u32(caller, id_at, queue)?;
    Ok(())
}

pub(super) fn resolve(
    caller: &mut Caller<'_>,
    vm: i32,
    vm_length: i32,
    name: i32,
    length: i32,
    id_at: i32,
) -> Hostcall {
    let vm = memory::read(caller, vm, vm_length)?;
    let vm = std::str::from_utf8(vm).map_err(|_| Status::NotFound)?;
    let common = &caller.data().common;
    let room = if vm.is_empty() { Some(common.shared.clone()) } else { common.rooms.find(vm) };
    let queue = room.ok_or(Status::NotFound)?.resolve(memory::read(caller, name, length)?)?;
    memory::write_u32(caller, id_at, queue)?;
    Ok(())
}

pub(super) fn enqueue(caller: &mut Caller<'_>, queue: i32, part: i32, length: i32) -> Hostcall {
    let own = own(caller.data())?;
    let part = memory::read(caller, part, length)?;
    let queue = queue.cast_unsigned();
    let State { common, place, .. } = caller.data();
    let room = common.rooms.with_queue(queue).ok_or(Status::NotFound)?;
    let listener = room.enqueue(queue, part, own.settings.limits.shared)?;
    // Who only tries a plugin out tells nobody.
    if let Some(listener) = listener.filter(|_| !place.is_trial())
        && let Some(plugin) = listener.plugin.upgrade()
    {
        plugin.tell_of_queue(&listener, queue);
    }
    Ok(())
}

pub(super) fn dequeue(caller: &mut Caller<'_>, queue: i32, at: i32, length_at: i32) -> Hostcall {
    let queue = queue.cast_unsigned();
    let part = caller.data().common.rooms.with_queue(queue).ok_or(Status::NotFound)?.dequeue(queue)?;
    memory::give(caller, &part, at, length_at)
}
