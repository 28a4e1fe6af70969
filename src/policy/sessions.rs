//! Which session is where, in bounded memory. A session and a place are 64-bit hashes that the caller makes, so a session costs
//! the same however long its name is. Those used longest ago are forgotten first, so that nobody can push out a session in use
//! with fewer new ones than there is room for between two of its requests.

use std::time::{Duration, Instant};

use lru::LruCache;

pub struct Sessions(LruCache<u64, Session>);

struct Session {
    place: u64,
    used: Instant,
}

impl Sessions {
    #[expect(clippy::new_without_default, reason = "whoever makes one says so")]
    pub fn new() -> Sessions {
        Sessions(LruCache::unbounded())
    }

    /// Where the session is, unless it was used last longer ago than `ttl`. It is used now.
    pub fn find(&mut self, session: u64, ttl: Duration, now: Instant) -> Option<u64> {
        let found = self.0.get_mut(&session)?;
        if now.saturating_duration_since(found.used) > ttl {
            self.0.pop(&session);
            return None;
        }
        found.used = now;
        Some(found.place)
    }

    /// From now on the session is there. How many were forgotten for want of room: more than `most` are not kept.
    pub fn put(&mut self, session: u64, place: u64, most: usize, ttl: Duration, now: Instant) -> usize {
        self.0.put(session, Session { place, used: now });
        while self.0.peek_lru().is_some_and(|(_, oldest)| now.saturating_duration_since(oldest.used) > ttl) {
            self.0.pop_lru();
        }
        let excess = self.0.len().saturating_sub(most);
        for _ in 0..excess {
            self.0.pop_lru();
        }
        excess
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn a_session_is_where_it_was_put_last_until_it_is_not_used_for_its_time() {
        let (mut sessions, now) = (Sessions::new(), Instant::now());
        assert_eq!(sessions.find(1, TTL, now), None);
        sessions.put(1, 10, 9, TTL, now);
        sessions.put(1, 11, 9, TTL, now);
        assert_eq!(sessions.find(1, TTL, now + TTL), Some(11));
        assert_eq!(sessions.find(1, TTL, now + 2 * TTL), Some(11), "it was used meanwhile");
        assert_eq!(sessions.find(1, TTL, now + 4 * TTL), None);
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn those_used_longest_ago_make_room_and_the_old_ones_go_without_being_counted() {
        let (mut sessions, now) = (Sessions::new(), Instant::now());
        for session in 0..3 {
            assert_eq!(sessions.put(session, session, 3, TTL, now), 0);
        }
        assert_eq!(sessions.find(0, TTL, now), Some(0));
        assert_eq!(sessions.put(3, 3, 3, TTL, now), 1);
        let left: Vec<bool> = (0..4).map(|session| sessions.find(session, TTL, now).is_some()).collect();
        assert_eq!(left, [true, false, true, true]);
        assert_eq!(sessions.put(4, 4, 1, TTL, now), 3, "the room may become less");
        assert_eq!(sessions.put(5, 5, 9, TTL, now + 2 * TTL), 0);
        assert_eq!(sessions.count(), 1);
    }
}
