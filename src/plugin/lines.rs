//! The lines that a plugin writes: to the log at their level, as many as it may.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{config::Rate, observe::log::emit};

pub(super) struct Lines {
    rate: Rate,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    count: u64,
}

impl Lines {
    pub(super) fn new(rate: Rate) -> Lines {
        Lines { rate, window: Mutex::default() }
    }

    /// False where it is one too many.
    pub(super) fn admit(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |began: Instant| now.saturating_duration_since(began) >= self.rate.period();
        if window.began.is_none_or(is_over) {
            *window = Window { began: Some(now), count: 0 };
        }
        window.count += 1;
        window.count <= self.rate.count()
    }
}

/// What is written before the log is there: the first configuration says how it looks, and starts the plugins.
pub(super) struct Early(Mutex<Option<Vec<EarlyLine>>>);

/// Its level, whose it is, and what it says.
type EarlyLine = (log::Level, Arc<str>, String);

/// So many are kept.
const MOST_EARLY: usize = 1000;

impl Default for Early {
    fn default() -> Early {
        Early(Mutex::new(Some(Vec::new())))
    }
}

impl Early {
    /// False where it is too late for that: the line is to be written at once.
    pub(super) fn keeps(&self, level: log::Level, plugin: &Arc<str>, line: &str) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = &mut *kept else { return false };
        if lines.len() < MOST_EARLY {
            lines.push((level, plugin.clone(), line.to_owned()));
        }
        true
    }

    /// There is no log yet.
    pub(super) fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// From now on there is a log.
    pub(super) fn tell(&self) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (level, plugin, line) in kept.into_iter().flatten() {
            write(level, &plugin, None, &line);
        }
    }
}

/// The levels of proxy-wasm: trace, debug, info, warn, error, critical.
pub(super) fn level(level: i32) -> Option<log::Level> {
    Some(match level {
        0 => log::Level::Trace,
        1 => log::Level::Debug,
        2 => log::Level::Info,
        3 => log::Level::Warn,
        4 | 5 => log::Level::Error,
        _ => return None,
    })
}

pub(super) fn write(level: log::Level, plugin: &str, request_id: Option<&str>, line: &str) {
    const TARGET: &str = "tidegate::plugin";
    match request_id {
        Some(id) => emit(level, TARGET, &line, &[("plugin", &plugin), ("request_id", &id)]),
        None => emit(level, TARGET, &line, &[("plugin", &plugin)]),
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::*;

    #[test]
    fn what_is_beyond_the_rate_is_not_written_until_the_next_second() {
        let lines = Lines::new(Rate::per_second_of(NonZeroU64::new(2).unwrap()));
        let now = Instant::now();
        let at = |milliseconds| lines.admit(now + Duration::from_millis(milliseconds));
        assert_eq!([0, 1, 2, 999, 1000, 1001, 1002].map(at), [true, true, false, false, true, true, false]);
    }
}
