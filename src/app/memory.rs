//! Looks at the process's memory beside the traffic. At the limit it also has the allocator give back what is free: what was freed
//! counts as used until then.

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
/// The allocator is asked no more often.
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
    let watcher = Watcher { watched, metrics, allocator, runtime, gave_back: None, level: Level::Enough };
    thread::Builder::new().name("memory".into()).spawn(move || watcher.run()).map(drop)
}

struct Watcher {
    watched: Weak<Resources>,
    metrics: ResourceMetrics,
    allocator: Allocator,
    runtime: Handle,
    gave_back: Option<Instant>,
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
        if level > Level::Enough && self.gave_back.is_none_or(|last| last.elapsed() >= GIVE_BACK) {
            self.gave_back = Some(Instant::now());
            let allocator = self.allocator.clone();
            self.runtime.spawn(async move { allocator.give_back().await });
        }
        if limit.is_some_and(|limit| used >= limit / 2) { OFTEN } else { SELDOM }
    }
}

/// Bytes of this process that are in memory.
pub(super) fn resident() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
