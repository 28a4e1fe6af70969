//! Looks at the process's memory beside the traffic, and has the allocator give back what is free: at the limit, since what was
//! freed counts as used until then; and after a rush, again and again, since an allocator that has nothing to do gives nothing back.

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
///
/// Once is not enough: what is asked for while the rush's connections are still open is in use, and a thread gives up what others
/// have freed of its pages only the next time. So it asks again: soon while that helps, rarer and rarer while it does not, and
/// after an hour the memory counts as used.
#[derive(Default)]
struct AfterRush {
    /// The least bytes in use before the rush.
    base: u64,
    /// Bytes at the last look that found more of them, and when that was.
    grew: Option<(u64, Instant)>,
    asked: Option<Instant>,
    asks: Option<Asks>,
}

/// How often memory was asked for after one rush, and what came of it.
#[derive(Clone, Copy)]
struct Asks {
    /// Bytes in use when it was last asked for.
    had: u64,
    /// The least of them since.
    least: u64,
    count: u32,
    in_vain: u32,
}

impl AfterRush {
    /// Less is not worth the trouble; nor is less than an eighth of what is in use anyway.
    const WORTH: u64 = 4 << 20;
    /// What comes and goes while nothing grows.
    const NOISE: u64 = 512 << 10;
    /// So long nothing has grown.
    const CALM: Duration = Duration::from_secs(1);
    /// Where rush follows rush, the memory of one serves the next.
    const SELDOM: Duration = Duration::from_secs(30);

    fn is_over(&mut self, used: u64, now: Instant) -> bool {
        if self.base == 0 {
            self.base = used;
        }
        self.base = self.base.min(used);
        if let Some(asks) = &mut self.asks {
            asks.least = asks.least.min(used);
            if used > asks.least + Self::WORTH {
                // Another rush: it has what is left of this one.
                self.asks = None;
            }
        }
        let since_asked = self.asked.map_or(Duration::MAX, |asked| now.duration_since(asked));
        let is_due = match self.asks.map(|asks| asks.pause(used)) {
            Some(Some(pause)) => since_asked >= pause,
            Some(None) => {
                self.asks = None;
                self.base = used;
                false
            }
            None => self.is_calm(used, now) && since_asked >= Self::SELDOM,
        };
        let is_worth_it = used - self.base >= Self::WORTH.max(self.base / 8);
        if is_due {
            self.asks = is_worth_it.then(|| Asks::once_more(self.asks, used));
        }
        if is_due && is_worth_it {
            self.asked = Some(now);
            self.grew = None;
        }
        is_due && is_worth_it
    }

    fn is_calm(&mut self, used: u64, now: Instant) -> bool {
        let (most, grew) = *self.grew.get_or_insert((used, now));
        if used > most + Self::NOISE {
            self.grew = Some((used, now));
            return false;
        }
        now.duration_since(grew) >= Self::CALM
    }
}

impl Asks {
    /// It helped if it gave back so much.
    const HELPS: u64 = 1 << 20;
    /// After one that helped. What was given back shows by then.
    const SOON: Duration = Duration::from_secs(5);
    /// After the first in vain; three times as long after each further one.
    const LATER: Duration = Duration::from_secs(10);
    /// The pauses come to an hour.
    const MOST_IN_VAIN: u32 = 6;
    /// What comes and goes by itself looks like help.
    const MOST: u32 = 10;

    fn once_more(before: Option<Asks>, used: u64) -> Asks {
        let (count, in_vain) =
            before.map_or((0, 0), |asks| (asks.count, asks.in_vain + u32::from(!asks.helped(used))));
        Asks { had: used, least: used, count: count + 1, in_vain }
    }

    fn helped(&self, used: u64) -> bool {
        self.had.saturating_sub(used) >= Self::HELPS
    }

    /// How long after the last one the next is due; `None` if there is to be none.
    fn pause(&self, used: u64) -> Option<Duration> {
        if self.count >= Self::MOST || self.in_vain >= Self::MOST_IN_VAIN {
            return None;
        }
        Some(if self.helped(used) { Self::SOON } else { Self::LATER * 3_u32.pow(self.in_vain) })
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
    fn after_a_rush_memory_is_asked_for_within_seconds_and_again_while_that_helps() {
        // 100 MiB in two seconds, all of them free, of which the first ask gives back 88.
        let used = |at: u64, asked: &[u64]| match asked.len() {
            0 => 40 * MIB + at.min(2_000) * MIB / 20,
            1 => 52 * MIB,
            _ => 40 * MIB,
        };
        assert_eq!(asked(600_000, used), [3_000, 8_000]);
    }

    #[test]
    fn what_is_freed_long_after_the_rush_is_asked_for_then() {
        // As long as connections that are not read.
        let used = |at: u64, asked: &[u64]| match asked.iter().any(|asked| *asked >= 60_000) {
            false => 40 * MIB + at.min(2_000) * MIB / 20,
            true => 40 * MIB,
        };
        assert_eq!(asked(600_000, used), [3_000, 13_000, 43_000, 133_000]);
    }

    #[test]
    fn memory_that_is_in_use_is_asked_for_rarer_and_rarer_and_after_an_hour_no_more() {
        let used = |at: u64, _: &[u64]| 40 * MIB + at.min(2_000) * MIB / 20;
        let times = [3_000, 13_000, 43_000, 133_000, 403_000, 1_213_000, 3_643_000];
        assert_eq!(asked(10_000_000, used), times);
    }

    #[test]
    fn what_comes_and_goes_meanwhile_is_not_taken_for_help_for_ever() {
        let used = |at: u64, _: &[u64]| 40 * MIB + at.min(2_000) * MIB / 20 + at / 250 % 2 * 2 * MIB;
        let asked = asked(10_000_000, used);
        assert!((2..=Asks::MOST as usize).contains(&asked.len()), "{asked:?}");
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
