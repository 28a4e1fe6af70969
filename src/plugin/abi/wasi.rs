//! WASI, preview 1, as far as plugins need it to start: output becomes lines of the log, time and random numbers are real, the
//! environment is what the operator wrote. Files and sockets do not exist. The numbers of errors are those that other
//! hosts of proxy-wasm give, since libraries look at them.

use std::{fmt, time::Instant};

use openssl::rand::rand_bytes;
use wasmtime::Linker;

use super::{
    Caller,
    log::{self, LONGEST_LINE},
    memory,
};
use crate::plugin::{state::State, view::Status};

const SUCCESS: i32 = 0;
const BAD_FILE: i32 = 8;
const FAULT: i32 = 21;
const INVALID: i32 = 28;
const NO_ENTRY: i32 = 44;
const NOT_SUPPORTED: i32 = 58;
const NOT_IMPLEMENTED: i32 = 52;

const MODULES: [&str; 2] = ["wasi_snapshot_preview1", "wasi_unstable"];
/// As much as is handed out at once.
const MOST_RANDOM: usize = 64 * 1024;
/// One write may have so many parts.
const MOST_PARTS: i32 = 1024;

/// The plugin has ended itself.
#[derive(Debug)]
struct Exited(i32);

impl fmt::Display for Exited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it called proc_exit({})", self.0)
    }
}

impl std::error::Error for Exited {}

/// Functions that always give the same answer.
macro_rules! refuse {
    ($linker:ident, $module:ident, {$($name:literal ($($type:ty),*) => $code:expr;)*}) => {
        $($linker.func_wrap($module, $name, |_: Caller<'_> $(, _: $type)*| $code)?;)*
    };
}

pub(super) fn offer(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for module in MODULES {
        linker.func_wrap(
            module,
            "fd_write",
            |mut c: Caller<'_>, fd: i32, parts: i32, count: i32, at: i32| {
                errno(fd_write(&mut c, fd, parts, count, at))
            },
        )?;
        linker.func_wrap(module, "clock_time_get", |mut c: Caller<'_>, clock: i32, _: i64, at: i32| {
            errno(clock_time_get(&mut c, clock, at))
        })?;
        linker.func_wrap(module, "clock_res_get", |mut c: Caller<'_>, clock: i32, at: i32| {
            errno(clock_res_get(&mut c, clock, at))
        })?;
        linker.func_wrap(module, "random_get", |mut c: Caller<'_>, at: i32, length: i32| {
            errno(random_get(&mut c, at, length))
        })?;
        linker.func_wrap(module, "environ_sizes_get", |mut c: Caller<'_>, count_at: i32, size_at: i32| {
            errno(environ_sizes_get(&mut c, count_at, size_at))
        })?;
        linker.func_wrap(module, "environ_get", |mut c: Caller<'_>, pointers: i32, texts: i32| {
            errno(environ_get(&mut c, pointers, texts))
        })?;
        linker.func_wrap(module, "args_sizes_get", |mut c: Caller<'_>, count_at: i32, size_at: i32| {
            errno(zeros(&mut c, &[count_at, size_at]))
        })?;
        linker.func_wrap(module, "fd_fdstat_get", |mut c: Caller<'_>, fd: i32, at: i32| {
            errno(fd_fdstat_get(&mut c, fd, at))
        })?;
        linker.func_wrap(
            module,
            "poll_oneoff",
            |mut c: Caller<'_>, _: i32, _: i32, _: i32, count_at: i32| errno(zeros(&mut c, &[count_at])),
        )?;
        linker.func_wrap(module, "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(Exited(code)))
        })?;
        refuse!(linker, module, {
            "args_get"(i32, i32) => SUCCESS;
            "sched_yield"() => SUCCESS;
            "fd_close"(i32) => NOT_IMPLEMENTED;
            "fd_seek"(i32, i64, i32, i32) => NOT_IMPLEMENTED;
            "fd_read"(i32, i32, i32, i32) => NOT_IMPLEMENTED;
            "fd_advise"(i32, i64, i64, i32) => NOT_IMPLEMENTED;
            "fd_allocate"(i32, i64, i64) => NOT_IMPLEMENTED;
            "fd_datasync"(i32) => NOT_IMPLEMENTED;
            "fd_fdstat_set_flags"(i32, i32) => NOT_IMPLEMENTED;
            "fd_fdstat_set_rights"(i32, i64, i64) => NOT_IMPLEMENTED;
            "fd_filestat_get"(i32, i32) => NOT_IMPLEMENTED;
            "fd_filestat_set_size"(i32, i64) => NOT_IMPLEMENTED;
            "fd_filestat_set_times"(i32, i64, i64, i32) => NOT_IMPLEMENTED;
            "fd_pread"(i32, i32, i32, i64, i32) => NOT_IMPLEMENTED;
            "fd_pwrite"(i32, i32, i32, i64, i32) => NOT_IMPLEMENTED;
            "fd_prestat_get"(i32, i32) => BAD_FILE;
            "fd_prestat_dir_name"(i32, i32, i32) => NOT_IMPLEMENTED;
            "fd_readdir"(i32, i32, i32, i64, i32) => NOT_IMPLEMENTED;
            "fd_renumber"(i32, i32) => NOT_IMPLEMENTED;
            "fd_sync"(i32) => NOT_IMPLEMENTED;
            "fd_tell"(i32, i32) => NOT_IMPLEMENTED;
            "path_create_directory"(i32, i32, i32) => NOT_IMPLEMENTED;
            "path_filestat_get"(i32, i32, i32, i32, i32) => NOT_SUPPORTED;
            "path_filestat_set_times"(i32, i32, i32, i32, i64, i64, i32) => NOT_IMPLEMENTED;
            "path_link"(i32, i32, i32, i32, i32, i32, i32) => NOT_IMPLEMENTED;
            "path_open"(i32, i32, i32, i32, i32, i64, i64, i32, i32) => NO_ENTRY;
            "path_readlink"(i32, i32, i32, i32, i32, i32) => NOT_IMPLEMENTED;
            "path_remove_directory"(i32, i32, i32) => NOT_IMPLEMENTED;
            "path_rename"(i32, i32, i32, i32, i32, i32) => NOT_IMPLEMENTED;
            "path_symlink"(i32, i32, i32, i32, i32) => NOT_IMPLEMENTED;
            "path_unlink_file"(i32, i32, i32) => NOT_IMPLEMENTED;
            "proc_raise"(i32) => NOT_IMPLEMENTED;
            "sock_accept"(i32, i32, i32) => NOT_SUPPORTED;
            "sock_recv"(i32, i32, i32, i32, i32, i32) => NOT_SUPPORTED;
            "sock_send"(i32, i32, i32, i32, i32) => NOT_SUPPORTED;
            "sock_shutdown"(i32, i32) => NOT_SUPPORTED;
        });
    }
    Ok(())
}

fn errno(done: Result<(), i32>) -> i32 {
    done.err().unwrap_or(SUCCESS)
}

fn fault(_: Status) -> i32 {
    FAULT
}

fn fd_write(caller: &mut Caller<'_>, fd: i32, parts: i32, count: i32, at: i32) -> Result<(), i32> {
    let level = match fd {
        1 => ::log::Level::Info,
        2 => ::log::Level::Error,
        _ => return Err(BAD_FILE),
    };
    if !(0..=MOST_PARTS).contains(&count) {
        return Err(INVALID);
    }
    let (mut text, mut written) = (Vec::new(), 0_usize);
    for part in memory::take(caller, parts, count * 8).map_err(fault)?.chunks_exact(8) {
        let number = |at: usize| i32::from_le_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]]);
        let bytes = memory::read(caller, number(0), number(4)).map_err(fault)?;
        written = written.saturating_add(bytes.len());
        text.extend_from_slice(&bytes[..bytes.len().min(LONGEST_LINE - text.len())]);
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.trim_end_matches('\n');
    if !line.is_empty() {
        log::say(caller, level, line);
    }
    memory::write_u32(caller, at, u32::try_from(written).unwrap_or(u32::MAX)).map_err(fault)
}

/// Of the day, or one that only goes forward.
fn clock_time_get(caller: &mut Caller<'_>, clock: i32, at: i32) -> Result<(), i32> {
    let time = match clock {
        0 => log::nanoseconds(),
        1 => {
            let began = *caller.data_mut().began.get_or_insert_with(Instant::now);
            u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
        }
        _ => return Err(NOT_SUPPORTED),
    };
    memory::write_u64(caller, at, time).map_err(fault)
}

fn clock_res_get(caller: &mut Caller<'_>, clock: i32, at: i32) -> Result<(), i32> {
    match clock {
        0 | 1 => memory::write_u64(caller, at, 1).map_err(fault),
        _ => Err(NOT_SUPPORTED),
    }
}

fn random_get(caller: &mut Caller<'_>, at: i32, length: i32) -> Result<(), i32> {
    let length = length.cast_unsigned() as usize;
    if length > MOST_RANDOM {
        return Err(INVALID);
    }
    let mut bytes = vec![0; length];
    rand_bytes(&mut bytes).map_err(|_| NOT_SUPPORTED)?;
    memory::write(caller, at, &bytes).map_err(fault)
}

fn environ_sizes_get(caller: &mut Caller<'_>, count_at: i32, size_at: i32) -> Result<(), i32> {
    let (mut count, mut size) = (0_u32, 0_u32);
    if let Some(plugin) = &caller.data().plugin {
        let total: usize = plugin.settings.env.iter().map(|text| text.len() + 1).sum();
        size = u32::try_from(total).map_err(|_| INVALID)?;
        count = u32::try_from(plugin.settings.env.len()).map_err(|_| INVALID)?;
    }
    memory::write_u32(caller, count_at, count).map_err(fault)?;
    memory::write_u32(caller, size_at, size).map_err(fault)
}

fn environ_get(caller: &mut Caller<'_>, pointers: i32, texts: i32) -> Result<(), i32> {
    let Some(plugin) = caller.data().plugin.clone() else { return Ok(()) };
    let (mut pointer_at, mut text_at) = (pointers, texts);
    for text in &plugin.settings.env {
        memory::write(caller, pointer_at, &text_at.to_le_bytes()).map_err(fault)?;
        memory::write(caller, text_at, &[text, &b"\0"[..]].concat()).map_err(fault)?;
        let length = i32::try_from(text.len() + 1).map_err(|_| INVALID)?;
        pointer_at = pointer_at.wrapping_add(4);
        text_at = text_at.wrapping_add(length);
    }
    Ok(())
}

/// Of the two outputs: they are something like a terminal that is only written to.
fn fd_fdstat_get(caller: &mut Caller<'_>, fd: i32, at: i32) -> Result<(), i32> {
    if !(0..=2).contains(&fd) {
        return Err(BAD_FILE);
    }
    let mut stat = [0; 24];
    // A character device, append only, that may be written.
    (stat[0], stat[2], stat[8]) = (2, 1, 64);
    memory::write(caller, at, &stat).map_err(fault)
}

fn zeros(caller: &mut Caller<'_>, places: &[i32]) -> Result<(), i32> {
    places.iter().try_for_each(|at| memory::write_u32(caller, *at, 0)).map_err(fault)
}
