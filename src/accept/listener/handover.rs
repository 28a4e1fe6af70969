//! Handing the listening sockets to a successor over a Unix socket, so that an upgrade loses no connection.
//!
//! The successor (`run --upgrade`) waits on the socket; SIGQUIT makes the running gateway send it the sockets. Only
//! when the successor says that it serves does the running gateway stop accepting: a successor that fails to start
//! costs nothing. (Pingora's own hand-over ends at 32 sockets and 2 KiB of addresses, and confirms nothing.)

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::{accept::listener::unix::SocketFile, config};

/// Descriptors in one message; the kernel takes at most 253.
const CHUNK: usize = 64;
/// What the successor says when it serves.
const READY: &[u8] = b"ready\n";
/// The list of keys is a few dozen bytes a listener; anything near this size is not ours.
const MAX_KEYS: u32 = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct HandoverError {
    doing: &'static str,
    source: io::Error,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hand-over failed {}: {}", self.doing, self.source)
    }
}

impl std::error::Error for HandoverError {}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> HandoverError {
    move |source| HandoverError { doing, source }
}

/// Sockets taken over from a predecessor, by listener key. Empty when there is none.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: HashMap<String, OwnedFd>,
    /// Of those that are Unix sockets.
    files: HashMap<String, Arc<SocketFile>>,
    /// Of those that were taken, and who may connect there.
    taken: Vec<(Arc<SocketFile>, u32)>,
    predecessor: Option<UnixStream>,
}

impl Inherited {
    fn new(sockets: HashMap<String, OwnedFd>, predecessor: UnixStream) -> Inherited {
        let file = |key: &String| {
            let path = config::unix_path(key)?.ok()?;
            Some((key.clone(), Arc::new(SocketFile::inherited(&path))))
        };
        let files = sockets.keys().filter_map(file).collect();
        Inherited { sockets, files, taken: Vec::new(), predecessor: Some(predecessor) }
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<OwnedFd> {
        self.sockets.remove(key)
    }

    /// The file of a Unix socket that is taken. Until [`Inherited::confirm`] it is the predecessor's, and stays as it is;
    /// it gets its permissions then.
    pub(in crate::accept) fn take_file(&mut self, key: &str, mode: u32) -> Option<Arc<SocketFile>> {
        let file = self.files.remove(key)?;
        self.taken.push((file.clone(), mode));
        Some(file)
    }

    /// Tell the predecessor that this process serves; it stops accepting and drains. The files of the Unix sockets it
    /// handed over are this process's from then on, and those of sockets that nobody took are removed.
    ///
    /// # Errors
    ///
    /// The predecessor is gone, so nobody else serves either, or has lost its patience and serves on: worth a log line,
    /// not a reason to stop. All files stay.
    pub(crate) fn confirm(&mut self) -> Result<(), HandoverError> {
        let Some(mut predecessor) = self.predecessor.take() else { return Ok(()) };
        predecessor.write_all(READY).map_err(failed("telling the predecessor"))?;
        for (file, mode) in self.taken.drain(..) {
            file.own();
            file.change_mode(mode);
        }
        for (key, file) in self.files.drain() {
            if let Some(socket) = self.sockets.remove(&key) {
                file.remove_with(socket);
            }
        }
        Ok(())
    }
}

/// The successor's end, waiting for its predecessor.
#[derive(Debug)]
pub(crate) struct Handover(UnixListener);

impl Handover {
    /// Listen at `path` for the predecessor. Only this user may connect.
    ///
    /// # Errors
    ///
    /// The socket cannot be made, or another successor waits there.
    pub(crate) fn listen(path: &Path) -> Result<Handover, HandoverError> {
        if UnixStream::connect(path).is_ok() {
            let taken = io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use", path.display()));
            return Err(failed("listening for the predecessor")(taken));
        }
        // What is left there is the socket of a process that ended.
        let _ = fs::remove_file(path);
        let listen = || {
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(Handover(listener))
        };
        listen().map_err(failed("listening for the predecessor"))
    }

    /// Wait for the predecessor's sockets. Blocking; the socket at `path` is removed in any case.
    ///
    /// # Errors
    ///
    /// Nobody came within `patience`, or it was another user, or the message was cut.
    pub(crate) fn receive(self, path: &Path, patience: Duration) -> Result<Inherited, HandoverError> {
        let received = self.wait(patience);
        let _ = fs::remove_file(path);
        received.map_err(failed("waiting for the predecessor (send it SIGQUIT)"))
    }

    fn wait(&self, patience: Duration) -> io::Result<Inherited> {
        let deadline = Instant::now() + patience;
        loop {
            match receive(self.accept(deadline)?, patience) {
                // Another successor looked whether this place is taken.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                received => return received,
            }
        }
    }

    fn accept(&self, deadline: Instant) -> io::Result<UnixStream> {
        const LOOK: Duration = Duration::from_millis(5);
        loop {
            match self.0.accept() {
                Ok((predecessor, _)) if is_ours(&predecessor)? => return Ok(predecessor),
                Ok(_) => log::warn!("refused a hand-over from another user"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    #[expect(clippy::disallowed_methods, reason = "before there is a runtime")]
                    std::thread::sleep(LOOK);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The running gateway's part: give `sockets` to the successor at `path` and wait until it serves. Blocking.
    ///
    /// # Errors
    ///
    /// No successor waits there, or it ended before it was ready: go on serving.
    pub(crate) fn give(
        path: &Path,
        sockets: &[(String, OwnedFd)],
        patience: Duration,
    ) -> Result<(), HandoverError> {
        let mut successor =
            UnixStream::connect(path).map_err(failed("finding the successor (start `run --upgrade`)"))?;
        let send = || {
            if !is_ours(&successor)? {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            send(&successor, sockets)
        };
        send().map_err(failed("sending the sockets"))?;
        let mut ready = [0; READY.len()];
        let mut wait = || {
            successor.set_read_timeout(Some(patience))?;
            successor.read_exact(&mut ready)
        };
        wait().map_err(failed("waiting for the successor to serve"))
    }
}

/// True when the other end runs as the same user.
fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(peer.uid == rustix::process::geteuid())
}

fn send(mut successor: &UnixStream, sockets: &[(String, OwnedFd)]) -> io::Result<()> {
    let keys: Vec<&str> = sockets.iter().map(|(key, _)| key.as_str()).collect();
    let keys = serde_json::to_vec(&keys)?;
    successor.write_all(&u32::try_from(keys.len()).map_err(io::Error::other)?.to_be_bytes())?;
    successor.write_all(&keys)?;
    for chunk in sockets.chunks(CHUNK) {
        let descriptors: Vec<BorrowedFd<'_>> = chunk.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        rustix::net::sendmsg(successor, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

fn receive(mut predecessor: UnixStream, patience: Duration) -> io::Result<Inherited> {
    predecessor.set_nonblocking(false)?;
    predecessor.set_read_timeout(Some(patience))?;
    let mut length = [0; 4];
    predecessor.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_KEYS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut keys = vec![0; length as usize];
    predecessor.read_exact(&mut keys)?;
    let keys: Vec<String> = serde_json::from_slice(&keys)?;
    let mut sockets = HashMap::new();
    let mut keys = keys.into_iter().peekable();
    while keys.peek().is_some() {
        for socket in receive_chunk(&predecessor)? {
            let key = keys.next().ok_or(io::ErrorKind::InvalidData)?;
            sockets.insert(key, socket);
        }
    }
    Ok(Inherited::new(sockets, predecessor))
}

fn receive_chunk(predecessor: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        predecessor,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let sockets: Vec<OwnedFd> = rights.flatten().collect();
    if sockets.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(sockets) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn hands_over_more_sockets_than_one_message_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let handover = Handover::listen(&path).unwrap();
        let listeners: Vec<TcpListener> =
            (0..CHUNK + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sockets: Vec<(String, OwnedFd)> = listeners
            .iter()
            .map(|l| (l.local_addr().unwrap().to_string(), l.as_fd().try_clone_to_owned().unwrap()))
            .collect();
        let giver = std::thread::spawn({
            let path = path.clone();
            move || Handover::give(&path, &sockets, PATIENCE)
        });
        let mut inherited = handover.receive(&path, PATIENCE).unwrap();
        for listener in &listeners {
            let address = listener.local_addr().unwrap();
            let socket = TcpListener::from(inherited.take(&address.to_string()).unwrap());
            assert_eq!(socket.local_addr().unwrap(), address);
        }
        inherited.confirm().unwrap();
        giver.join().unwrap().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_successor_that_ends_before_it_serves_is_an_error_for_the_giver() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let handover = Handover::listen(&path).unwrap();
        let giver = std::thread::spawn({
            let path = path.clone();
            move || Handover::give(&path, &[], PATIENCE)
        });
        drop(handover.receive(&path, PATIENCE).unwrap());
        assert!(giver.join().unwrap().is_err());
    }

    #[test]
    fn a_second_successor_that_looks_in_does_not_end_the_wait_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let first = Handover::listen(&path).unwrap();
        assert!(Handover::listen(&path).unwrap_err().to_string().contains("in use"));
        let giver = std::thread::spawn({
            let path = path.clone();
            move || Handover::give(&path, &[], PATIENCE)
        });
        first.receive(&path, PATIENCE).unwrap().confirm().unwrap();
        giver.join().unwrap().unwrap();
    }

    #[test]
    fn without_a_successor_the_giver_learns_it_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let error = Handover::give(&dir.path().join("none.sock"), &[], PATIENCE).unwrap_err();
        assert!(error.to_string().contains("run --upgrade"), "{error}");
    }
}
