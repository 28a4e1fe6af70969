//! Why endpoints are as they are: what was last heard of each. Written by whoever hears of it, read by whoever asks.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Errors are cut here: they may quote an answer.
const LONGEST: usize = 512;

#[derive(Default)]
pub(crate) struct Notes(Mutex<HashMap<(String, String), Note>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    pub last_probe: Option<Probe>,
    pub health_changed: Option<SystemTime>,
    /// Why it is avoided, while it is, and since when.
    pub avoided: Option<(SystemTime, String)>,
    /// Why it is not trusted, as it was said last, until it is reached.
    pub distrusted: Option<(SystemTime, String)>,
    /// When it was ejected last.
    pub ejected_at: Option<SystemTime>,
    /// Until when it is ejected, if that is still to come.
    pub ejected_until: Option<Instant>,
    /// When its circuit breaker last became what it is.
    pub circuit_changed: Option<SystemTime>,
}

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub at: SystemTime,
    /// Why not.
    pub failed: Option<String>,
}

impl Note {
    /// While it is avoided. That there was no connection says less than what TLS said when one was tried.
    pub(crate) fn avoided_why(&self) -> Option<&str> {
        let (_, why) = self.avoided.as_ref()?;
        Some(self.distrusted.as_ref().map_or(why, |(_, distrusted)| distrusted))
    }
}

impl Notes {
    pub(crate) fn of(&self, upstream: &str, endpoint: &str) -> Note {
        self.lock().get(&(upstream.to_owned(), endpoint.to_owned())).cloned().unwrap_or_default()
    }

    pub(crate) fn probed(&self, upstream: &str, endpoint: &str, outcome: Result<(), &str>) {
        let probe = Probe { at: SystemTime::now(), failed: outcome.err().map(cut) };
        self.change(upstream, endpoint, |note| note.last_probe = Some(probe));
    }

    pub(crate) fn health_changed(&self, upstream: &str, endpoint: &str) {
        self.change(upstream, endpoint, |note| note.health_changed = Some(SystemTime::now()));
    }

    pub(crate) fn avoided(&self, upstream: &str, endpoint: &str, why: Option<&str>) {
        // It goes on being avoided for other reasons, too: the first moment is the one that matters.
        self.change(upstream, endpoint, |note| {
            let since = note.avoided.as_ref().map_or_else(SystemTime::now, |(since, _)| *since);
            note.avoided = why.map(|why| (since, cut(why)));
            if why.is_none() {
                // It was reached, and is who it should be.
                note.distrusted = None;
            }
        });
    }

    pub(crate) fn distrusted(&self, upstream: &str, endpoint: &str, why: &str) {
        self.change(upstream, endpoint, |note| note.distrusted = Some((SystemTime::now(), cut(why))));
    }

    pub(crate) fn ejected(&self, upstream: &str, endpoint: &str, lasts: Duration) {
        self.change(upstream, endpoint, |note| {
            note.ejected_at = Some(SystemTime::now());
            note.ejected_until = Instant::now().checked_add(lasts);
        });
    }

    pub(crate) fn circuit_changed(&self, upstream: &str, endpoint: &str) {
        self.change(upstream, endpoint, |note| note.circuit_changed = Some(SystemTime::now()));
    }

    /// It is gone, and with it what is known of it.
    pub(crate) fn removed(&self, upstream: &str, endpoint: &str) {
        self.lock().remove(&(upstream.to_owned(), endpoint.to_owned()));
    }

    fn change(&self, upstream: &str, endpoint: &str, change: impl FnOnce(&mut Note)) {
        change(self.lock().entry((upstream.to_owned(), endpoint.to_owned())).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Note>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_of_an_endpoint_is_known_until_it_is_gone() {
        let notes = Notes::default();
        notes.probed("users", "a:1", Err(&"x".repeat(2000)));
        notes.avoided("users", "a:1", Some("no connection could be made"));
        let since = |notes: &Notes| notes.of("users", "a:1").avoided.map(|(since, _)| since);
        let first = since(&notes);
        notes.avoided("users", "a:1", Some("silent"));
        assert_eq!((since(&notes), notes.of("users", "a:1").avoided.unwrap().1.as_str()), (first, "silent"));
        notes.distrusted("users", "a:1", "it does not speak TLS");
        assert_eq!(notes.of("users", "a:1").avoided_why(), Some("it does not speak TLS"));
        notes.avoided("users", "a:1", None);
        assert_eq!(notes.of("users", "a:1").avoided_why(), None);
        notes.avoided("users", "a:1", Some("silent"));
        assert_eq!(notes.of("users", "a:1").avoided_why(), Some("silent"));
        let note = notes.of("users", "a:1");
        let failed = note.last_probe.and_then(|probe| probe.failed).unwrap();
        assert_eq!((failed.len(), note.avoided.is_some()), (LONGEST + 3, true));
        notes.avoided("users", "a:1", None);
        assert!(notes.of("users", "a:1").avoided.is_none());
        notes.removed("users", "a:1");
        assert!(notes.of("users", "a:1").last_probe.is_none() && notes.of("x", "a:1").last_probe.is_none());
    }
}
