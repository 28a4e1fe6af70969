//! How much memory the process has, and how much it may have. What it has is what the system says (its resident set), looked at
//! by a thread beside the traffic; a request reads one number. Buffers are not counted one by one: what TLS, the allocator and
//! libraries hold would be missing, and each request would pay for it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Enough,
    /// At the limit: no new requests, and the oldest idle connections end.
    Short,
    /// An eighth beyond it: those that do not read what they asked for end as well.
    Critical,
}

#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// 0 is none.
    limit: AtomicU64,
    level: AtomicU8,
    /// What those together may come to hold who were lent more than everybody has.
    lent: AtomicU64,
}

/// Of the limit, what is lent: one part of so many.
const LENDS: u64 = 4;

impl Memory {
    /// `None` for no limit.
    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(0), Relaxed);
        if limit.is_none() {
            self.level.store(Level::Enough as u8, Relaxed);
        }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit > 0)
    }

    pub(crate) fn level(&self) -> Level {
        match self.level.load(Relaxed) {
            0 => Level::Enough,
            1 => Level::Short,
            _ => Level::Critical,
        }
    }

    pub(crate) fn is_short(&self) -> bool {
        self.level.load(Relaxed) != Level::Enough as u8
    }

    /// Whether somebody may hold so many bytes more. True where there is no limit; false at the limit, and where a quarter of it
    /// has been lent. What is lent is to be given back.
    pub(super) fn lend(&self, bytes: u64) -> bool {
        let most = self.limit().map_or(u64::MAX, |limit| limit / LENDS);
        let more = |lent: u64| lent.checked_add(bytes).filter(|lent| *lent <= most);
        !self.is_short() && self.lent.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub(super) fn take_back(&self, bytes: u64) {
        self.lent.fetch_sub(bytes, Relaxed);
    }

    /// The process has so much now.
    pub(crate) fn look(&self, used: u64) -> Level {
        let Some(limit) = self.limit() else { return Level::Enough };
        // It is over only when there is a little room: else each request would be refused or not by chance.
        let enough = if self.is_short() { limit - limit / 16 } else { limit };
        let level = match used {
            used if used >= limit.saturating_add(limit / 8) => Level::Critical,
            used if used >= enough => Level::Short,
            _ => Level::Enough,
        };
        self.level.store(level as u8, Relaxed);
        level
    }
}

/// What there is for the process: the machine's memory, or what its control groups leave of it.
pub(crate) fn available() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    of_groups(&groups, Path::new("/sys/fs/cgroup")).into_iter().chain(machine).min()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The least that a control group, or one above it, allows. `groups` is `/proc/self/cgroup`: a line for each hierarchy of
/// version 1, and one that begins with `0::` for version 2.
fn of_groups(groups: &str, mounted: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (mounted.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = root.join(group.trim_start_matches('/'));
        // Within a container the path may be that outside of it; the root is then its own.
        let above = group.ancestors().take_while(|above| above.starts_with(&root)).map(Path::to_owned);
        above.filter_map(|above: PathBuf| limit(&fs::read_to_string(above.join(file)).ok()?)).min()
    });
    limits.min()
}

/// `max`, and a number so large that it means the same, are none.
fn limit(text: &str) -> Option<u64> {
    const ANY: u64 = 1 << 60;
    text.trim().parse().ok().filter(|limit| *limit < ANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_from_the_limit_on_until_there_is_room_again() {
        let memory = Memory::default();
        assert_eq!(memory.look(u64::MAX), Level::Enough, "without a limit");
        memory.set_limit(Some(1600));
        for (used, level) in [
            (1599, Level::Enough),
            (1600, Level::Short),
            (1799, Level::Short),
            (1800, Level::Critical),
            (1500, Level::Short),
            (1499, Level::Enough),
            (1599, Level::Enough),
        ] {
            assert_eq!((memory.look(used), memory.level()), (level, level), "{used}");
        }
    }

    #[test]
    fn a_quarter_of_the_limit_is_lent_and_nothing_at_the_limit() {
        let memory = Memory::default();
        assert!(memory.lend(1 << 40), "without a limit");
        memory.take_back(1 << 40);
        memory.set_limit(Some(1600));
        assert_eq!([300, 101, 100].map(|bytes| memory.lend(bytes)), [true, false, true]);
        memory.take_back(300);
        memory.look(1600);
        assert!(!memory.lend(1), "at the limit");
        memory.look(0);
        assert!(memory.lend(300));
    }

    #[test]
    fn the_smallest_of_the_groups_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(of_groups("0::/a/b\n", root.path()), None);
        write("memory.max", "max\n");
        write("a/memory.max", "4096\n");
        write("a/b/memory.max", "8192\n");
        assert_eq!(of_groups("0::/a/b\n", root.path()), Some(4096));
        // Of version 1, whose path is that outside the container.
        write("memory/memory.limit_in_bytes", "2048\n");
        write("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(of_groups("4:cpu,memory:/x\n", root.path()), Some(2048));
        assert_eq!(of_groups("4:memory:/outside\n3:cpu:/y\n", root.path()), Some(2048));
        assert_eq!(of_groups("3:cpu:/y\n", root.path()), None);
    }

    #[test]
    fn this_machine_says_what_it_has() {
        assert_eq!(total("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 * 1024));
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
