//! Access lines for those who follow them live. While nobody does, a request pays for one relaxed load.
//!
//! What a viewer wants is decided here, before anything is written down. A viewer is given at most so many lines a second, and
//! what waits for it is bounded; what it was not given is counted.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use ipnet::IpNet;

use super::access::{Entry, When};

/// Lines a second for each viewer: more can neither be read nor drawn.
pub const RATE: u32 = 500;
/// Bytes that may wait for one viewer.
const WAITING: usize = 1024 * 1024;

pub struct Tail {
    is_watched: AtomicBool,
    viewers: ArcSwap<Vec<Arc<Viewer>>>,
    /// Of changes to `viewers`.
    turn: Mutex<()>,
    began: Instant,
}

/// Which lines a viewer wants: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub route: Option<String>,
    pub upstream: Option<String>,
    pub method: Option<String>,
    /// What the path begins with.
    pub path: Option<String>,
    pub client: Option<IpNet>,
    /// Status, reason and duration.
    pub when: When,
}

pub struct Viewer {
    wanted: Wanted,
    rate: PerSecond,
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<Bytes>,
    bytes: usize,
}

/// At most so many in each second. Threads that meet may let one more through.
pub(super) struct PerSecond {
    most: u32,
    /// The second, and how many there were in it.
    used: AtomicU64,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail {
            is_watched: AtomicBool::new(false),
            viewers: ArcSwap::default(),
            turn: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Tail {
    pub fn is_watched(&self) -> bool {
        self.is_watched.load(Relaxed)
    }

    /// Lines that are `wanted` wait for the viewer from now on.
    pub fn follow(&self, wanted: Wanted) -> Arc<Viewer> {
        let viewer = Arc::new(Viewer {
            wanted,
            rate: PerSecond::new(RATE),
            waiting: Mutex::default(),
            lost: AtomicU64::new(0),
        });
        self.change(|viewers| viewers.push(viewer.clone()));
        viewer
    }

    /// The viewer has gone.
    pub fn leave(&self, viewer: &Arc<Viewer>) {
        self.change(|viewers| viewers.retain(|known| !Arc::ptr_eq(known, viewer)));
    }

    /// A request has ended. It is written down once, and only if somebody wants it.
    pub fn offer(&self, entry: &Entry<'_>, now: Instant, write: impl Fn(&mut Vec<u8>)) {
        let second = now.saturating_duration_since(self.began).as_secs();
        let mut line = None;
        for viewer in self.viewers.load().iter().filter(|viewer| viewer.wanted.holds(entry)) {
            if !viewer.rate.takes(second) {
                viewer.lost.fetch_add(1, Relaxed);
                continue;
            }
            let line = line.get_or_insert_with(|| {
                let mut text = Vec::with_capacity(512);
                write(&mut text);
                Bytes::from(text)
            });
            viewer.push(line.clone());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Viewer>>)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut viewers = Vec::clone(&self.viewers.load());
        change(&mut viewers);
        self.is_watched.store(!viewers.is_empty(), Relaxed);
        self.viewers.store(Arc::new(viewers));
    }
}

impl Wanted {
    fn holds(&self, entry: &Entry<'_>) -> bool {
        let is = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        self.when.holds(&entry.end())
            && is(&self.route, entry.route)
            && is(&self.upstream, entry.upstream)
            && is(&self.method, Some(entry.method))
            && self.path.as_deref().is_none_or(|path| entry.path.starts_with(path))
            && self
                .client
                .is_none_or(|net| entry.client.is_some_and(|client| net.contains(&unmapped(client))))
    }
}

/// One IPv4 address, whatever socket it came over.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

impl Viewer {
    /// What has come since, and how many lines this viewer was not given.
    pub fn take(&self) -> (Vec<Bytes>, u64) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        (waiting.lines, self.lost.swap(0, Relaxed))
    }

    fn push(&self, line: Bytes) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes + line.len() > WAITING {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push(line);
    }
}

impl PerSecond {
    pub(super) const fn new(most: u32) -> PerSecond {
        PerSecond { most, used: AtomicU64::new(0) }
    }

    pub(super) fn takes(&self, second: u64) -> bool {
        let used = self.used.load(Relaxed);
        // Seconds begin at 1, so that a new one is none of them.
        let second = (second + 1) << 32;
        if used & !0xffff_ffff != second {
            self.used.store(second | 1, Relaxed);
            return self.most > 0;
        }
        (used as u32) < self.most && (self.used.fetch_add(1, Relaxed) as u32) < self.most
    }
}

/// What `when` of a viewer says of how a request ended.
pub fn when(statuses: Vec<(u16, u16)>, reasons: Vec<String>, at_least: Duration) -> When {
    When { statuses, reasons, at_least, of_requests: false }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            route: Some("users"),
            upstream: Some("v1"),
            method: "GET",
            path: "/users/1",
            status: 503,
            reason: Some("overloaded"),
            duration: Duration::from_millis(120),
            client: Some([192, 0, 2, 1].into()),
            ..Entry::at(SystemTime::UNIX_EPOCH)
        }
    }

    fn wanted(change: impl FnOnce(&mut Wanted)) -> bool {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        wanted.holds(&entry())
    }

    #[test]
    fn a_viewer_is_given_what_it_wants() {
        assert!(wanted(|_| ()));
        assert!(wanted(|w| w.route = Some("users".into())) && !wanted(|w| w.route = Some("user".into())));
        assert!(wanted(|w| w.path = Some("/users".into())) && !wanted(|w| w.path = Some("/x".into())));
        assert!(wanted(|w| w.method = Some("GET".into())) && !wanted(|w| w.method = Some("get".into())));
        assert!(wanted(|w| w.upstream = Some("v1".into())) && !wanted(|w| w.upstream = Some("v2".into())));
        assert!(wanted(|w| w.client = Some("192.0.2.0/24".parse().unwrap())));
        assert!(!wanted(|w| w.client = Some("192.0.3.0/24".parse().unwrap())));
        assert!(wanted(|w| w.when.statuses = vec![(500, 599)]));
        assert!(!wanted(|w| w.when.statuses = vec![(400, 499)]));
        assert!(!wanted(|w| w.when.at_least = Duration::from_millis(121)));
    }

    #[test]
    fn nobody_watches_before_the_first_and_after_the_last() {
        let tail = Tail::default();
        assert!(!tail.is_watched());
        let (one, two) = (tail.follow(Wanted::default()), tail.follow(Wanted::default()));
        tail.leave(&one);
        assert!(tail.is_watched());
        tail.leave(&two);
        assert!(!tail.is_watched());
    }

    #[test]
    fn what_a_viewer_is_not_given_is_counted() {
        let tail = Tail::default();
        let viewer = tail.follow(Wanted::default());
        let other = tail.follow(Wanted { route: Some("other".into()), ..Wanted::default() });
        let now = tail.began;
        let offer = |now| tail.offer(&entry(), now, |line| line.extend_from_slice(b"{}"));
        (0..RATE + 30).for_each(|_| offer(now));
        let (lines, lost) = viewer.take();
        assert_eq!((lines.len(), lost), (RATE as usize, 30));
        offer(now + Duration::from_secs(1));
        assert_eq!((viewer.take().0.len(), other.take().0.len()), (1, 0));
    }

    #[test]
    fn what_waits_for_a_viewer_is_bounded() {
        let tail = Tail::default();
        let viewer = tail.follow(Wanted::default());
        for second in 0..10 {
            let now = tail.began + Duration::from_secs(second);
            (0..RATE).for_each(|_| tail.offer(&entry(), now, |line| line.resize(2048, b' ')));
        }
        let (lines, lost) = viewer.take();
        assert_eq!((lines.len(), lost), (WAITING / 2048, 10 * u64::from(RATE) - WAITING as u64 / 2048));
    }
}
