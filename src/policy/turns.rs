//! Who waits for the same scarce thing is served in turns: one of each client, and within a client one of each name. So
//! somebody who comes a hundred times waits for himself, and not the others for him.
//!
//! Those who have proven themselves before wait apart: what strangers do takes neither their places nor most of their turns.

use std::collections::{HashMap, VecDeque};

/// How many may wait, of either kind.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub all: usize,
    /// Of one client.
    pub each: usize,
}

/// Keys are hashes that the caller makes with a seed of its own.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub client: u64,
    pub name: u64,
    pub is_known: bool,
}

pub struct Turns<T> {
    bounds: Bounds,
    known: Clients<T>,
    strangers: Clients<T>,
    /// How many known ones were served since the last stranger.
    favours: u32,
}

type Clients<T> = Ring<Ring<VecDeque<T>>>;

/// After so many known ones it is a stranger's turn: an account holder must not be able to keep new ones out.
const MOST_FAVOURS: u32 = 4;

impl<T> Turns<T> {
    pub fn new(bounds: Bounds) -> Turns<T> {
        Turns { bounds, known: Ring::default(), strangers: Ring::default(), favours: 0 }
    }

    /// Takes a place. Where there is none left, the client that has most makes room, and loses its newest: that is handed back.
    ///
    /// # Errors
    ///
    /// It is this client that has most.
    pub fn push(&mut self, who: Who, item: T) -> Result<Option<T>, T> {
        let clients = if who.is_known { &mut self.known } else { &mut self.strangers };
        let own = clients.lines.get(&who.client).map_or(0, |names| names.len);
        if own >= self.bounds.each {
            return Err(item);
        }
        let mut evicted = None;
        if clients.len >= self.bounds.all {
            let Some((client, most)) = clients.longest(|names| names.len).filter(|(_, most)| *most > own + 1)
            else {
                return Err(item);
            };
            debug_assert!(most > 1);
            evicted = clients.take_from(client, |names| {
                let (name, _) = names.longest(VecDeque::len)?;
                names.take_from(name, VecDeque::pop_back)
            });
        }
        clients.add(who.client, |names| names.add(who.name, |items| items.push_back(item)));
        Ok(evicted)
    }

    /// Whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let is_favoured = self.favours < MOST_FAVOURS || self.strangers.len == 0;
        if is_favoured && let Some(item) = next(&mut self.known) {
            self.favours += 1;
            return Some(item);
        }
        self.favours = 0;
        next(&mut self.strangers).or_else(|| next(&mut self.known))
    }

    pub fn len(&self) -> usize {
        self.known.len + self.strangers.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn next<T>(clients: &mut Clients<T>) -> Option<T> {
    clients.next(|names| names.next(VecDeque::pop_front))
}

/// Lines that are served in turns.
struct Ring<L> {
    lines: HashMap<u64, L>,
    /// Each line once; one that has become empty goes with its turn.
    order: VecDeque<u64>,
    /// Of all lines.
    len: usize,
}

impl<L> Default for Ring<L> {
    fn default() -> Ring<L> {
        Ring { lines: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<L: Default> Ring<L> {
    fn add(&mut self, key: u64, add: impl FnOnce(&mut L)) {
        let line = self.lines.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            L::default()
        });
        add(line);
        self.len += 1;
    }

    fn next<T>(&mut self, mut take: impl FnMut(&mut L) -> Option<T>) -> Option<T> {
        while let Some(key) = self.order.pop_front() {
            match self.lines.get_mut(&key).and_then(&mut take) {
                Some(item) => {
                    self.order.push_back(key);
                    self.len -= 1;
                    return Some(item);
                }
                None => drop(self.lines.remove(&key)),
            }
        }
        None
    }

    fn take_from<T>(&mut self, key: u64, take: impl FnOnce(&mut L) -> Option<T>) -> Option<T> {
        let item = self.lines.get_mut(&key).and_then(take);
        self.len -= usize::from(item.is_some());
        item
    }

    fn longest(&self, len: impl Fn(&L) -> usize) -> Option<(u64, usize)> {
        self.lines.iter().map(|(key, line)| (*key, len(line))).max_by_key(|(_, len)| *len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 8, each: 6 };

    fn stranger(client: u64, name: u64) -> Who {
        Who { client, name, is_known: false }
    }

    fn drain(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| turns.pop()).collect()
    }

    #[test]
    fn clients_take_turns_and_so_do_the_names_of_one() {
        let mut turns = Turns::new(BOUNDS);
        for (who, item) in [
            (stranger(1, 1), "1a"),
            (stranger(1, 1), "1a again"),
            (stranger(1, 1), "1a a third time"),
            (stranger(1, 2), "1b"),
            (stranger(2, 1), "2a"),
        ] {
            assert_eq!(turns.push(who, item), Ok(None));
        }
        assert_eq!(drain(&mut turns), ["1a", "2a", "1b", "1a again", "1a a third time"]);
        assert!(turns.is_empty() && turns.strangers.lines.is_empty());
    }

    #[test]
    fn the_client_that_has_most_makes_room_and_one_that_has_its_share_is_turned_away() {
        let mut turns = Turns::new(BOUNDS);
        for _ in 0..6 {
            assert_eq!(turns.push(stranger(1, 1), "flood"), Ok(None));
        }
        assert_eq!(turns.push(stranger(1, 2), "flood"), Err("flood"), "another name is the same client");
        for client in 2..4 {
            assert_eq!(turns.push(stranger(client, 1), "other"), Ok(None));
        }
        // It is full.
        for client in 4..8 {
            assert_eq!(turns.push(stranger(client, 1), "other"), Ok(Some("flood")));
            assert_eq!(turns.len(), 8);
        }
        assert_eq!(turns.push(stranger(7, 1), "other"), Err("other"), "nobody has more than two");
        assert_eq!(drain(&mut turns).iter().filter(|item| **item == "flood").count(), 2);
    }

    #[test]
    fn who_is_known_waits_apart_and_comes_first_but_not_for_ever() {
        let mut turns = Turns::new(BOUNDS);
        for client in 0..8 {
            turns.push(stranger(client, 1), "stranger").unwrap();
        }
        for _ in 0..6 {
            assert_eq!(turns.push(Who { is_known: true, ..stranger(1, 1) }, "known"), Ok(None));
        }
        let served = drain(&mut turns);
        let expected = ["known", "known", "known", "known", "stranger", "known", "known", "stranger"];
        assert_eq!((&served[..8], served.len()), (&expected[..], 14));
    }

    #[test]
    fn what_was_pushed_out_leaves_nothing_behind() {
        let mut turns = Turns::new(Bounds { all: 3, each: 3 });
        for name in 0..3 {
            turns.push(stranger(1, name), "own name each").unwrap();
        }
        assert!(turns.push(stranger(2, 1), "other").unwrap().is_some());
        assert_eq!(drain(&mut turns).len(), 3);
        assert!(turns.strangers.lines.is_empty() && turns.strangers.order.is_empty());
    }
}
