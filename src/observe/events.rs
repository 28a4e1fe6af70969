//! What happens in this process, for those who watch: each event has a number, and the last of them are kept, so that whoever
//! was away for a moment hears what was missed. What passes, such as the rates of a second, has no number and is not kept.
//!
//! An event is written down once, whoever many watch. A watcher that does not keep up loses events and is told how many.

use std::{
    collections::VecDeque,
    fmt::Write,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::broadcast;

/// Kept for those who come back.
const KEPT: usize = 256;
/// That may wait for one watcher.
const WAITING: usize = 512;

pub struct Events {
    /// Of this process: the numbers of another one mean nothing here.
    boot: u64,
    past: Mutex<Past>,
    sender: broadcast::Sender<Bytes>,
}

struct Past {
    next: u64,
    /// Each with its number.
    kept: VecDeque<(u64, Bytes)>,
}

/// Where a watcher has stopped before: `BOOT-NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    boot: u64,
    number: u64,
}

/// What a watcher begins with.
pub struct Watching {
    /// Nothing was missed, or it is in `missed`.
    pub is_resumed: bool,
    pub missed: Vec<Bytes>,
    pub to_come: broadcast::Receiver<Bytes>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            boot: fastrand::u64(..),
            past: Mutex::new(Past { next: 1, kept: VecDeque::new() }),
            sender: broadcast::Sender::new(WAITING),
        }
    }
}

impl Events {
    /// What tells this process from the one before and the next.
    pub fn boot(&self) -> String {
        format!("{:016x}", self.boot)
    }

    /// Somebody would hear of it.
    pub fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// It has happened, also for those who come back later.
    pub fn tell(&self, kind: &str, data: &impl Serialize) {
        let data = json(data);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let number = past.next;
        past.next += 1;
        let text = Bytes::from(written(kind, Some(Place { boot: self.boot, number }), &data));
        past.kept.push_back((number, text.clone()));
        if past.kept.len() > KEPT {
            past.kept.pop_front();
        }
        // Nobody need be there. Under the lock, so that they come in the order of their numbers.
        let _ = self.sender.send(text);
    }

    /// It is so just now.
    pub fn tell_in_passing(&self, kind: &str, data: &impl Serialize) {
        if self.is_watched() {
            let _ = self.sender.send(written(kind, None, &json(data)).into());
        }
    }

    /// From now on; before that, what came after `place`, as far as it is kept.
    pub fn watch(&self, place: Option<Place>) -> Watching {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let to_come = self.sender.subscribe();
        let first = past.kept.front().map_or(past.next, |(number, _)| *number);
        let known = place.filter(|place| {
            // The next of them is kept, or there is none yet.
            place.boot == self.boot && place.number < past.next && place.number + 1 >= first
        });
        let missed = known.map(|place| {
            let after = past.kept.iter().filter(|(number, _)| *number > place.number);
            after.map(|(_, text)| text.clone()).collect()
        });
        Watching { is_resumed: known.is_some(), missed: missed.unwrap_or_default(), to_come }
    }
}

impl Place {
    pub fn parse(text: &str) -> Option<Place> {
        let (boot, number) = text.split_once('-')?;
        Some(Place { boot: u64::from_str_radix(boot, 16).ok()?, number: number.parse().ok()? })
    }
}

/// As a server-sent event. JSON has no line ends within.
pub fn written(kind: &str, place: Option<Place>, data: &str) -> String {
    let mut text = format!("event: {kind}\n");
    if let Some(Place { boot, number }) = place {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "id: {boot:016x}-{number}");
    }
    let _ = write!(text, "data: {data}\n\n");
    text
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(events: &Events, number: u64) -> Option<Place> {
        Some(Place { boot: events.boot, number })
    }

    #[test]
    fn whoever_comes_back_hears_what_was_missed() {
        let events = Events::default();
        (1..=3).for_each(|n| events.tell("n", &n));
        let watching = events.watch(place(&events, 1));
        let missed: Vec<String> =
            watching.missed.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        assert!(watching.is_resumed && missed.len() == 2, "{missed:?}");
        assert_eq!(missed[0], format!("event: n\nid: {}-2\ndata: 2\n\n", events.boot()));
        assert!(events.watch(place(&events, 3)).is_resumed, "nothing was missed");
    }

    #[test]
    fn what_is_no_longer_kept_or_was_never_told_here_is_not_resumed() {
        let events = Events::default();
        (0..KEPT + 10).for_each(|n| events.tell("n", &n));
        for (number, is_resumed) in
            [(9, false), (10, true), (KEPT as u64 + 10, true), (KEPT as u64 + 11, false)]
        {
            assert_eq!(events.watch(place(&events, number)).is_resumed, is_resumed, "{number}");
        }
        let elsewhere = Some(Place { boot: events.boot ^ 1, number: 20 });
        assert!(!events.watch(elsewhere).is_resumed && !events.watch(None).is_resumed);
        assert!(events.watch(place(&events, u64::MAX)).missed.is_empty());
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        let events = Events::default();
        let text = format!("{}-7", events.boot());
        assert_eq!(Place::parse(&text), place(&events, 7));
        for wrong in ["", "-", "7", "x-7", "1-", "1-x", "1--1", "11111111111111111-1"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_passes_is_neither_kept_nor_numbered() {
        let events = Events::default();
        events.tell_in_passing("traffic", &1);
        let mut watching = events.watch(None);
        events.tell_in_passing("traffic", &2);
        assert_eq!(&watching.to_come.try_recv().unwrap()[..], b"event: traffic\ndata: 2\n\n");
        assert!(events.watch(place(&events, 0)).missed.is_empty());
    }
}
