//! A plugin's memory, seen from outside: every pointer is a claim that is checked.

use super::{Caller, Halt, Hostcall};
use crate::plugin::view::Status;

/// # Errors
///
/// It is not all inside the memory.
pub(super) fn read<'c>(caller: &'c Caller<'_>, at: i32, length: i32) -> Result<&'c [u8], Status> {
    if length == 0 {
        return Ok(&[]);
    }
    let (at, length) = (offset(at), offset(length));
    let memory = caller.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    let all = memory.data(caller);
    let end = at.checked_add(length).ok_or(Status::InvalidMemoryAccess)?;
    all.get(at..end).ok_or(Status::InvalidMemoryAccess)
}

/// The same, to be kept while something else is done.
pub(super) fn take(caller: &Caller<'_>, at: i32, length: i32) -> Result<Vec<u8>, Status> {
    read(caller, at, length).map(<[u8]>::to_vec)
}

pub(super) fn write(caller: &mut Caller<'_>, at: i32, bytes: &[u8]) -> Result<(), Status> {
    let memory = caller.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    memory.write(caller, offset(at), bytes).map_err(|_| Status::InvalidMemoryAccess)
}

pub(super) fn write_u32(caller: &mut Caller<'_>, at: i32, value: u32) -> Result<(), Status> {
    write(caller, at, &value.to_le_bytes())
}

pub(super) fn write_u64(caller: &mut Caller<'_>, at: i32, value: u64) -> Result<(), Status> {
    write(caller, at, &value.to_le_bytes())
}

/// Hand bytes over: the plugin's own allocator says where they go, and learns where and how many they are.
pub(super) fn give(caller: &mut Caller<'_>, bytes: &[u8], at: i32, length_at: i32) -> Hostcall {
    let length = u32::try_from(bytes.len()).map_err(|_| Status::InternalFailure)?;
    let place = match bytes.is_empty() {
        true => 0,
        false => {
            let place = allocate(caller, length)?;
            write(caller, place, bytes)?;
            place
        }
    };
    write(caller, at, &place.to_le_bytes())?;
    write_u32(caller, length_at, length)?;
    Ok(())
}

fn allocate(caller: &mut Caller<'_>, length: u32) -> Result<i32, Halt> {
    let allocate = caller.data().allocate.clone().ok_or(Status::InvalidMemoryAccess)?;
    caller.data_mut().allocates = true;
    let place = allocate.call(&mut *caller, length.cast_signed());
    caller.data_mut().allocates = false;
    match place.map_err(Halt::Trap)? {
        0 => Err(Status::InvalidMemoryAccess.into()),
        place => Ok(place),
    }
}

/// Pointers are without a sign.
fn offset(at: i32) -> usize {
    at.cast_unsigned() as usize
}
