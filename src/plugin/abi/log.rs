//! Lines and time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Caller, Hostcall, memory};
use crate::plugin::{lines, state::State, view::Status};

/// A line is cut there.
pub(super) const LONGEST_LINE: usize = 16 * 1024;

pub(super) fn write(caller: &mut Caller<'_>, level: i32, line: i32, length: i32) -> Hostcall {
    let level = lines::level(level).ok_or(Status::BadArgument)?;
    let line = memory::read(caller, line, length)?;
    let line = String::from_utf8_lossy(&line[..line.len().min(LONGEST_LINE)]).into_owned();
    say(caller, level, &line);
    Ok(())
}

/// Also what a plugin writes to its standard output.
pub(super) fn say(caller: &mut Caller<'_>, level: ::log::Level, line: &str) {
    let state = caller.data_mut();
    state.remember(line);
    let own = state.plugin.as_ref();
    if own.is_some_and(|own| own.early.keeps(level, &own.settings.name, line)) {
        return;
    }
    if level > ::log::max_level() {
        return;
    }
    let Some(plugin) = state.plugin.clone() else { return };
    if !plugin.lines.admit(Instant::now()) {
        plugin.metrics.log_dropped.inc();
        return;
    }
    let request_id = state.stream().and_then(|stream| stream.view.as_deref()?.request_id());
    lines::write(level, &plugin.settings.name, request_id, line);
}

pub(super) fn level(caller: &mut Caller<'_>, level_at: i32) -> Hostcall {
    let level = current_level(caller.data());
    memory::write_u32(caller, level_at, level)?;
    Ok(())
}

/// In the numbers of proxy-wasm. Before there is a log, lines are kept for it, and told where the plugin is refused.
pub(super) fn current_level(state: &State) -> u32 {
    let is_early = state.plugin.as_ref().is_some_and(|own| own.early.is_open());
    let level = if is_early { ::log::LevelFilter::Info } else { ::log::max_level() };
    match level {
        ::log::LevelFilter::Trace => 0,
        ::log::LevelFilter::Debug => 1,
        ::log::LevelFilter::Info => 2,
        ::log::LevelFilter::Warn => 3,
        ::log::LevelFilter::Error => 4,
        ::log::LevelFilter::Off => 5,
    }
}

pub(super) fn now(caller: &mut Caller<'_>, time_at: i32) -> Hostcall {
    memory::write_u64(caller, time_at, nanoseconds())?;
    Ok(())
}

/// Since 1970.
pub(super) fn nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
