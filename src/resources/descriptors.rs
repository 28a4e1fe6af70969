//! How many descriptors the process may have, and who may not have the last of them: connections to upstreams end first, so that
//! clients can still be answered, and before all those for clients that ask for much at once; then clients are only told so; and the
//! last are the operator's.
//!
//! Nothing is counted. The kernel gives out the lowest number that is free, so a new descriptor's number says how many there are.

use std::{io, os::fd::AsRawFd};

use rustix::{
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Where nothing bounds them.
const UNBOUNDED: u64 = 1 << 30;

/// Requests that a client has under way at once and is none of those that ask for much. A page of many images has more, and mostly finds
/// connections that are kept.
const LITTLE: u32 = 16;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors {
    most: u64,
}

/// What a client that has just connected can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// It is told that there is none.
    Refuse,
    /// Not even that.
    Close,
}

impl Descriptors {
    /// As many as the process may have at all: the limit that it was started with is mostly a default for programs that cannot
    /// have more than 1,024, and it may raise it itself.
    pub(crate) fn raised() -> Descriptors {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current == maximum {
            return Descriptors::of(current.unwrap_or(UNBOUNDED));
        }
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        Descriptors::of(raised.map_or(current, |()| maximum).unwrap_or(UNBOUNDED))
    }

    /// What [`raised`](Self::raised) would come to.
    pub(crate) fn possible() -> Descriptors {
        Descriptors::of(getrlimit(Resource::Nofile).maximum.unwrap_or(UNBOUNDED))
    }

    pub(crate) fn of(most: u64) -> Descriptors {
        Descriptors { most }
    }

    pub(crate) fn most(self) -> u64 {
        self.most
    }

    /// For the operator's API, files and names.
    fn own(self) -> u64 {
        (self.most / 16).clamp(16, 256)
    }

    /// For telling clients that there is no room.
    fn refusals(self) -> u64 {
        (self.most / 16).clamp(8, 1024)
    }

    /// For clients whose requests need no new connection.
    fn clients(self) -> u64 {
        (self.most / 8).clamp(8, 4096)
    }

    /// How many connections there may be, to clients and upstreams together.
    pub(crate) fn connections(self) -> u64 {
        self.most.saturating_sub(self.own() + self.refusals())
    }

    /// What there is for a client whose connection is `socket`.
    pub(crate) fn room_for(self, socket: &impl AsRawFd) -> Room {
        self.judge(u64::try_from(socket.as_raw_fd()).unwrap_or(0))
    }

    fn judge(self, number: u64) -> Room {
        match number {
            below if below < self.connections() => Room::Enough,
            below if below < self.most.saturating_sub(self.own()) => Room::Refuse,
            _ => Room::Close,
        }
    }

    /// Below which number a client with so many requests under way may have another connection to an upstream. Those who ask
    /// for much at once leave the last of them to those who ask for little: a few clients of HTTP/2 could take all, and for as
    /// long as they like.
    fn upstreams(self, requests: u32) -> u64 {
        let kept = if requests > LITTLE { 2 * self.clients() } else { self.clients() };
        self.connections().saturating_sub(kept)
    }

    /// Whether there is room for another connection to an upstream, for a client with so many requests under way.
    pub(super) fn may_connect(self, requests: u32) -> bool {
        match lowest_free() {
            Ok(number) => number < self.upstreams(requests),
            // Standard error may be closed, which says nothing.
            Err(error) => error != Errno::MFILE,
        }
    }
}

/// The number that the next descriptor gets. Two calls, as cheap as reading the clock where that is one.
fn lowest_free() -> Result<u64, Errno> {
    let probe = fcntl_dupfd_cloexec(io::stderr(), 0)?;
    Ok(u64::try_from(probe.as_raw_fd()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_leave_room_for_clients_and_clients_for_the_operator() {
        for most in [64, 256, 1024, 4096, 20_000, 1 << 20] {
            let all = Descriptors::of(most);
            assert_eq!(all.judge(all.connections() - 1), Room::Enough, "{most}");
            assert_eq!(all.judge(all.connections()), Room::Refuse, "{most}");
            assert_eq!(all.judge(most - 1), Room::Close, "{most}");
            let for_upstreams = all.upstreams(1);
            assert!(for_upstreams >= most / 2, "{most}: {for_upstreams}");
            assert_eq!(all.connections() - for_upstreams, all.clients(), "{most}");
        }
    }

    #[test]
    fn who_asks_for_much_at_once_leaves_the_last_to_who_asks_for_little() {
        let all = Descriptors::of(1024);
        assert_eq!([1, 16, 17, 100].map(|requests| all.upstreams(requests)), [768, 768, 640, 640]);
        for most in [64, 256, 4096, 20_000, 1 << 20] {
            let all = Descriptors::of(most);
            assert!(all.upstreams(17) < all.upstreams(1) && all.upstreams(17) >= most / 4, "{most}");
        }
    }

    #[test]
    fn the_next_descriptor_has_the_number_that_was_found() {
        // Other tests open some meanwhile, so it is only known to be no smaller than those that are always open.
        assert!((3..1 << 20).contains(&lowest_free().unwrap()));
        assert!(Descriptors::of(1 << 30).may_connect(100));
        assert!(!Descriptors::of(0).may_connect(1));
    }
}
