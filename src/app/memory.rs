//! Looks at the process's memory beside the traffic, and has the allocator give back what is free: at the limit, since what was
//! freed counts as used until then; and after a rush, since an allocator that has nothing to do gives nothing back.

use std::{
    fs,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::allocator::Allocator;
use crate::{
    config,
    observe::{log::event, metrics::ResourceMetrics},
    resources::{Level, Memory, Resources, available},
};

/// Far from the limit.
const SELDOM: Duration = Duration::from_millis(250);
/// From half of the limit on: what two threads can take meanwhile is a few dozen megabytes.
const OFTEN: Duration = Duration::from_millis(25);
/// At the limit the allocator is asked no more often.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// What the operator's `limits.memory` comes to here.
pub(super) fn limit(limits: &config::ProcessLimits) -> Option<u64> {
    match limits.memory {
        Some(config::MemoryLimit::Off) => None,
        Some(config::MemoryLimit::Bytes(bytes)) => Some(bytes.bytes()),
        None => available().map(|bytes| bytes / 2),
    }
}

/// Begin to look, until nobody holds `resources`.
///
/// # Errors
///
/// The kernel refuses a thread.
pub(super) fn watch(
    resources: &Arc<Resources>,
    metrics: ResourceMetrics,
    allocator: Allocator,
    runtime: Handle,
) -> std::io::Result<()> {
    let watched = Arc::downgrade(resources);
    let watcher = Watcher {
        watched,
        metrics,
        allocator,
        runtime,
        gave_back: None,
        after_rush: AfterRush::default(),
        level: Level::Enough,
    };
    thread::Builder::new().name("memory".into()).spawn(move || watcher.run()).map(drop)
}

struct Watcher {
    watched: Weak<Resources>,
    metrics: ResourceMetrics,
    allocator: Allocator,
    runtime: Handle,
    gave_back: Option<Instant>,
    after_rush: AfterRush,
    level: Level,
}

impl Watcher {
    fn run(mut self) {
        while let Some(resources) = self.watched.upgrade() {
            let pause = self.look(&resources.memory);
            drop(resources);
            #[expect(clippy::disallowed_methods, reason = "this thread serves nobody")]
            thread::sleep(pause);
        }
    }

    fn look(&mut self, memory: &Memory) -> Duration {
        let Some(used) = resident() else { return SELDOM };
        let limit = memory.limit();
        self.metrics.memory(used, limit.unwrap_or(0));
        let level = memory.look(used);
        let said = std::mem::replace(&mut self.level, level);
        if said == Level::Enough && level > Level::Enough {
            let message = "memory is at its limit, new requests are refused";
            event!(Warn, message, used = used, limit = limit.unwrap_or(0));
        } else if said > Level::Enough && level == Level::Enough {
            event!(Info, "memory is below its limit again", used = used);
        }
        let now = Instant::now();
        let may = self.gave_back.is_none_or(|last| now.duration_since(last) >= GIVE_BACK);
        let is_over = self.after_rush.is_over(used, now);
        if is_over || level > Level::Enough && may {
            self.gave_back = Some(now);
            let allocator = self.allocator.clone();
            self.runtime.spawn(async move { allocator.give_back().await });
        }
        if limit.is_some_and(|limit| used >= limit / 2) { OFTEN } else { SELDOM }
    }
}

/// Whether a rush of work has ended, and left memory that may be free.
#[derive(Default)]
struct AfterRush {
    /// Bytes that were in use when the allocator had last given back what it could; the least seen since.
    base: u64,
    /// Bytes at the last look that found more of them, and when that was.
    grew: Option<(u64, Instant)>,
    asked: Option<Instant>,
}

impl AfterRush {
    /// Less is not worth the trouble; nor is less than an eighth of what is in use anyway.
    const WORTH: u64 = 4 << 20;
    /// What comes and goes while nothing grows.
    const NOISE: u64 = 512 << 10;
    /// So long nothing has grown.
    const CALM: Duration = Duration::from_secs(1);
    /// So long it takes until what was given back shows.
    const SHOWS: Duration = Duration::from_secs(1);
    /// Where rush follows rush, the memory of one serves the next.
    const SELDOM: Duration = Duration::from_secs(30);

    fn is_over(&mut self, used: u64, now: Instant) -> bool {
        let since_asked = self.asked.map(|asked| now.duration_since(asked));
        if since_asked.is_some_and(|since| since < Self::SHOWS) || self.base == 0 {
            self.base = used;
        }
        self.base = self.base.min(used);
        let (most, grew) = *self.grew.get_or_insert((used, now));
        if used > most + Self::NOISE {
            self.grew = Some((used, now));
            return false;
        }
        let is_worth_it = used - self.base >= Self::WORTH.max(self.base / 8);
        let is_calm = now.duration_since(grew) >= Self::CALM;
        let is_over = is_worth_it && is_calm && since_asked.is_none_or(|since| since >= Self::SELDOM);
        if is_over {
            self.asked = Some(now);
            self.grew = None;
        }
        is_over
    }
}

/// Bytes of this process that are in memory.
pub(super) fn resident() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Looks each 250 ms at what `used` says of the milliseconds since the start: when memory was asked for.
    fn asked(until: u64, used: impl Fn(u64, &[u64]) -> u64) -> Vec<u64> {
        let (mut rush, start, mut asked) = (AfterRush::default(), Instant::now(), Vec::new());
        for at in (0..until).step_by(250) {
            if rush.is_over(used(at, &asked), start + Duration::from_millis(at)) {
                asked.push(at);
            }
        }
        asked
    }

    #[test]
    fn after_a_rush_memory_is_asked_for_once_within_seconds() {
        // 100 MiB in two seconds, of which 80 are free.
        let used = |at: u64, asked: &[u64]| {
            40 * MIB + if asked.is_empty() { at.min(2_000) * MIB / 20 } else { 20 * MIB }
        };
        assert_eq!(asked(600_000, used), [3_000]);
    }

    #[test]
    fn memory_that_is_in_use_is_asked_for_once() {
        let used = |at: u64, _: &[u64]| 40 * MIB + at.min(2_000) * MIB / 20;
        assert_eq!(asked(600_000, used), [3_000]);
    }

    #[test]
    fn little_is_not_asked_for_and_what_grows_is_left_to_grow() {
        assert!(asked(600_000, |at, _| 40 * MIB + at % 3_000 * MIB / 1_000).is_empty());
        assert!(asked(60_000, |at, _| 40 * MIB + at * 3 * MIB / 1_000).is_empty());
    }

    #[test]
    fn rush_after_rush_is_asked_at_most_twice_a_minute() {
        let used = |at: u64, _: &[u64]| 40 * MIB + if at % 5_000 < 2_500 { 100 * MIB } else { 0 };
        let asked = asked(600_000, used);
        assert!((10..=20).contains(&asked.len()), "{asked:?}");
    }
}
