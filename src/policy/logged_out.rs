//! Whose sessions were ended from elsewhere. They are with their owners, so they cannot be taken back; what can be done is to remember
//! that they no longer count, for as long as they could still be shown.
//!
//! The memory has a bound, and fails closed: where an entry has to go before its time, all sessions that began before it was made are over.
//! Their owners log in again.

use std::collections::{BTreeMap, HashMap};

/// Times are in seconds, from any beginning.
#[derive(Debug)]
pub struct LoggedOut {
    most: usize,
    /// When it was said, by whom it is about.
    at: HashMap<String, u64>,
    /// The same by time.
    order: BTreeMap<(u64, u64), String>,
    /// Tells apart what was said in the same second.
    count: u64,
    /// Sessions that began until then are over, whosever they are.
    horizon: Option<u64>,
}

impl LoggedOut {
    pub fn new(most: usize) -> LoggedOut {
        LoggedOut { most, at: HashMap::new(), order: BTreeMap::new(), count: 0, horizon: None }
    }

    /// Sessions of `whose` that began until `then` are over. No session lasts longer than `lifetime`.
    pub fn remember(&mut self, whose: String, then: u64, lifetime: u64) {
        self.forget(then.saturating_sub(lifetime));
        // What was said later may come earlier.
        if self.at.get(&whose).is_some_and(|at| *at > then) {
            return;
        }
        while self.order.len() >= self.most {
            let Some(((at, _), gone)) = self.order.pop_first() else { return };
            self.horizon = self.horizon.max(Some(at));
            if self.at.get(&gone) == Some(&at) {
                self.at.remove(&gone);
            }
        }
        self.count += 1;
        self.at.insert(whose.clone(), then);
        self.order.insert((then, self.count), whose);
    }

    /// Whether a session of one of `whose` that `began` then was ended since.
    pub fn includes<'w>(&self, whose: impl IntoIterator<Item = &'w str>, began: u64) -> bool {
        self.horizon.is_some_and(|horizon| began <= horizon)
            || whose.into_iter().any(|whose| self.at.get(whose).is_some_and(|at| began <= *at))
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What was said before: whoever it is about has no session left.
    fn forget(&mut self, before: u64) {
        while let Some(entry) = self.order.first_entry() {
            let (at, _) = *entry.key();
            if at >= before {
                return;
            }
            let gone = entry.remove();
            if self.at.get(&gone) == Some(&at) {
                self.at.remove(&gone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_what_began_before_and_nothing_that_began_since() {
        let mut gone = LoggedOut::new(10);
        gone.remember("alice".to_owned(), 100, 50);
        for (whose, began, over) in
            [("alice", 99, true), ("alice", 100, true), ("alice", 101, false), ("bob", 99, false)]
        {
            assert_eq!(gone.includes([whose], began), over, "{whose} {began}");
        }
        assert!(gone.includes(["session 7", "alice"], 99));
        gone.remember("alice".to_owned(), 90, 50);
        assert!(gone.includes(["alice"], 99), "what was said before takes nothing back");
    }

    #[test]
    fn forgets_what_no_session_is_old_enough_for() {
        let mut gone = LoggedOut::new(10);
        gone.remember("alice".to_owned(), 100, 50);
        gone.remember("bob".to_owned(), 150, 50);
        assert_eq!(gone.len(), 2);
        gone.remember("alice".to_owned(), 151, 50);
        assert_eq!(gone.len(), 2);
        assert!(gone.includes(["alice"], 151), "what was said again counts from then");
        assert!(!gone.includes(["carol"], 0), "nothing was lost");
    }

    #[test]
    fn has_a_bound_and_fails_closed_there() {
        let mut gone = LoggedOut::new(3);
        for (at, whose) in ["a", "b", "c", "d"].into_iter().enumerate() {
            gone.remember(whose.to_owned(), 100 + at as u64, 1_000);
        }
        assert_eq!(gone.len(), 3);
        assert!(gone.includes(["a"], 50) && gone.includes(["nobody"], 100), "what was forgotten ends all");
        assert!(!gone.includes(["nobody"], 101));
        assert!(gone.includes(["d"], 103));
    }
}
