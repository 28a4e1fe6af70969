//! Pipes that carry bytes from socket to socket inside the kernel (splice(2)), a few kept by each thread. Measured against
//! copying through the largest buffers that help, a bulk transfer costs less than half the processor time.

use std::{
    cell::RefCell,
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, AsRawFd},
};

/// Bytes, of memory that belongs to the sockets. A network card delivers small pieces, of which each takes up a page's
/// place, so this holds much less then; what the system gives without asking is 64 KiB.
const SIZE: libc::c_int = 256 * 1024;
/// Kept by a thread when they are not in use: two descriptors each.
const KEPT: usize = 16;

thread_local! {
    static IDLE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Pipe {
    out: PipeReader,
    into: PipeWriter,
    /// Bytes that are in it.
    held: usize,
}

impl Pipe {
    /// # Errors
    ///
    /// There are no descriptors for it.
    pub fn take() -> io::Result<Pipe> {
        if let Some(kept) = IDLE.with_borrow_mut(Vec::pop) {
            return Ok(kept);
        }
        let (out, into) = io::pipe()?;
        // SAFETY: the descriptor is open, and the call takes an integer. Where the system allows no more memory for pipes the
        // pipe stays as small as it is.
        unsafe { libc::fcntl(into.as_raw_fd(), libc::F_SETPIPE_SZ, SIZE) };
        Ok(Pipe { out, into, held: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Take in what the socket has. To be asked only when the pipe is empty, or `WouldBlock` could mean either end.
    /// `Ok(0)` is the end of what the socket has to say.
    ///
    /// # Errors
    ///
    /// Of the socket.
    pub fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        debug_assert!(self.is_empty());
        let moved = splice(from, &self.into, SIZE as usize)?;
        self.held += moved;
        Ok(moved)
    }

    /// Give what is in it to the socket, as far as it takes it.
    ///
    /// # Errors
    ///
    /// Of the socket.
    pub fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.out, to, self.held)?;
        self.held -= moved;
        Ok(moved)
    }

    /// Keep it for another connection. One that holds what was meant for this one is closed.
    pub fn keep(self) {
        if !self.is_empty() {
            return;
        }
        IDLE.with_borrow_mut(|idle| {
            if idle.len() < KEPT {
                idle.push(self);
            }
        });
    }
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
        while pipe.is_empty() {
            // It is on its way.
            let _ = pipe.fill(&near);
        }
        pipe.keep();
        assert_eq!(kept(), 0);
    }
}
