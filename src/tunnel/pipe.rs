//! Pipes that carry bytes from socket to socket inside the kernel (splice(2)), a few kept by each thread. Measured against
//! copying through the largest buffers that help, a bulk transfer costs less than half the processor time.
//!
//! One stays in use for as long as a receiver does not read, so there is a bound: readers that stand still must not leave
//! the gateway without descriptors.

use std::{
    cell::RefCell,
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, AsRawFd},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustix::process::{Resource, getrlimit};

/// Bytes, of memory that belongs to the sockets. A network card delivers small pieces, of which each takes up a page's
/// place, so this holds much less then; what the system gives without asking is 64 KiB.
const SIZE: libc::c_int = 256 * 1024;
/// Kept by a thread when they are not in use: two descriptors each.
const KEPT: usize = 16;

/// In use at once, by all threads: 256 MiB.
const MOST: usize = 1024;
/// Of the descriptors that the process may open, one for so many: an eighth goes into pipes.
const DESCRIPTORS: u64 = 16;

thread_local! {
    static IDLE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// Descriptors are the process's, and so is this.
static IN_USE: LazyLock<Places> = LazyLock::new(|| Places::new(most(getrlimit(Resource::Nofile).current)));

pub(super) struct Pipe {
    ends: Ends,
    /// Bytes that are in it.
    held: usize,
    _place: Place,
}

struct Ends {
    out: PipeReader,
    into: PipeWriter,
}

struct Places {
    most: usize,
    taken: AtomicUsize,
}

/// Free again when it is dropped.
struct Place(&'static Places);

impl Pipe {
    /// # Errors
    ///
    /// As many as may be are in use, or there are no descriptors for another.
    pub(crate) fn take() -> io::Result<Pipe> {
        Pipe::take_of(&IN_USE)
    }

    fn take_of(places: &'static Places) -> io::Result<Pipe> {
        let place = places.take().ok_or(io::ErrorKind::QuotaExceeded)?;
        let kept = IDLE.with_borrow_mut(Vec::pop);
        Ok(Pipe { ends: kept.map_or_else(Ends::open, Ok)?, held: 0, _place: place })
    }

    pub(crate) fn len(&self) -> usize {
        self.held
    }

    /// Take in what the socket has. To be asked only when the pipe is empty, or `WouldBlock` could mean either end.
    /// `Ok(0)` is the end of what the socket has to say. Where an urgent byte is next neither says anything of what is behind.
    ///
    /// # Errors
    ///
    /// Of the socket.
    pub(crate) fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        debug_assert!(self.held == 0);
        let moved = splice(from, &self.ends.into, SIZE as usize)?;
        self.held += moved;
        Ok(moved)
    }

    /// Give what is in it to the socket, as far as it takes it.
    ///
    /// # Errors
    ///
    /// Of the socket.
    pub(crate) fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.ends.out, to, self.held)?;
        self.held -= moved;
        Ok(moved)
    }

    /// Keep it for another connection. One that holds what was meant for this one is closed.
    pub(crate) fn keep(self) {
        if self.held > 0 {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < KEPT {
                idle.push(self.ends);
            }
        });
    }
}

impl Ends {
    fn open() -> io::Result<Ends> {
        let (out, into) = io::pipe()?;
        // SAFETY: the descriptor is open, and the call takes an integer. Where the system allows no more memory for pipes the
        // pipe stays as small as it is.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, SIZE) };
        Ok(Ends { out, into })
    }
}

impl Places {
    const fn new(most: usize) -> Places {
        Places { most, taken: AtomicUsize::new(0) }
    }

    fn take(&'static self) -> Option<Place> {
        let one_more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Place(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

/// `descriptors` that the process may open; `None` where there is no limit.
fn most(descriptors: Option<u64>) -> usize {
    let share = descriptors.map_or(u64::MAX, |descriptors| descriptors / DESCRIPTORS);
    usize::try_from(share).map_or(MOST, |share| share.min(MOST))
}

fn splice(from: &impl AsFd, to: &impl AsFd, most: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let (none, flags) = (std::ptr::null_mut(), libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK);
    // SAFETY: both descriptors are open for as long as they are borrowed; neither has an offset.
    let moved = unsafe { libc::splice(from, none, to, none, most, flags) };
    // Negative where it failed.
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let two = listener.accept().unwrap().0;
        for end in [&one, &two] {
            end.set_nonblocking(true).unwrap();
        }
        (one, two)
    }

    /// Another thread's pipes are not seen here.
    fn kept() -> usize {
        IDLE.with_borrow(Vec::len)
    }

    #[test]
    fn carries_bytes_and_the_end_and_is_kept_for_the_next() {
        let ((mut client, near), (far, mut server)) = (pair(), pair());
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&near).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").unwrap();
        assert_eq!((pipe.fill(&near).unwrap(), pipe.drain(&far).unwrap()), (5, 5));
        server.set_nonblocking(false).unwrap();
        let mut said = [0; 5];
        server.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
        drop(client);
        assert_eq!(pipe.fill(&near).unwrap(), 0);
        pipe.keep();
        assert_eq!(kept(), 1);
    }

    #[test]
    fn one_that_holds_what_somebody_said_is_never_given_to_another() {
        let (mut client, near) = pair();
        let mut pipe = Pipe::take().unwrap();
        client.write_all(b"secret").unwrap();
        while pipe.len() == 0 {
            // It is on its way.
            let _ = pipe.fill(&near);
        }
        pipe.keep();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn no_more_are_in_use_at_once_than_may_be() {
        static PLACES: Places = Places::new(2);
        let take = || Pipe::take_of(&PLACES);
        let (one, two) = (take().unwrap(), take().unwrap());
        assert_eq!(take().err().map(|error| error.kind()), Some(io::ErrorKind::QuotaExceeded));
        one.keep();
        let one = take().expect("one that is kept is not in use");
        assert!(take().is_err());
        drop(two);
        let two = take().expect("one that is closed is not in use");
        assert!(take().is_err());
        drop((one, two));
    }

    #[test]
    fn pipes_get_an_eighth_of_the_descriptors_and_no_more_than_a_thousand() {
        for (descriptors, expected) in
            [(Some(0), 0), (Some(1024), 64), (Some(16_384), 1024), (Some(1_048_576), 1024), (None, 1024)]
        {
            assert_eq!(most(descriptors), expected, "{descriptors:?}");
        }
    }
}
