//! The metrics that a plugin defines.

use super::{Caller, Hostcall, memory};
use crate::plugin::view::Status;

pub(super) fn define(caller: &mut Caller<'_>, kind: i32, name: i32, length: i32, id_at: i32) -> Hostcall {
    let own = caller.data().plugin.clone().ok_or(Status::InternalFailure)?;
    let name = memory::read(caller, name, length)?;
    let id = caller.data().common.custom.define(kind, name, own.settings.limits.metrics)?;
    memory::write_u32(caller, id_at, id)?;
    Ok(())
}

pub(super) fn increment(caller: &mut Caller<'_>, metric: i32, by: i64) -> Hostcall {
    Ok(caller.data().common.custom.increment(metric.cast_unsigned(), by)?)
}

pub(super) fn record(caller: &mut Caller<'_>, metric: i32, value: i64) -> Hostcall {
    Ok(caller.data().common.custom.record(metric.cast_unsigned(), value.cast_unsigned())?)
}

pub(super) fn get(caller: &mut Caller<'_>, metric: i32, value_at: i32) -> Hostcall {
    let value = caller.data().common.custom.value(metric.cast_unsigned())?;
    memory::write_u64(caller, value_at, value)?;
    Ok(())
}
