//! Handing the listening sockets to a successor over a Unix socket, so that an upgrade loses no connection.
//!
//! The successor (`run --upgrade`) waits on the socket; SIGQUIT makes the running gateway send it the sockets. The
//! successor says when it could serve (READY), and serves once the running gateway has answered that it stops (GO). So one
//! that fails to start costs nothing, and one that is ready too late does not serve beside a gateway that went on.
//! (Pingora's own hand-over ends at 32 sockets and 2 KiB of addresses, and confirms nothing.)

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{self, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
    process::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    time::timeout,
};

use crate::{accept::listener::unix::SocketFile, config};

/// Descriptors in one message; the kernel takes at most 253.
const CHUNK: usize = 64;
/// What the successor says when it could serve.
const READY: &[u8] = b"ready\n";
/// The predecessor's answer: it serves no longer, whatever comes.
const GO: &[u8] = b"go\n";
/// The list of keys is a few dozen bytes a listener; anything near this size is not ours.
const MAX_KEYS: u32 = 4 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct HandoverError {
    doing: &'static str,
    source: io::Error,
}

impl HandoverError {
    /// The successor cannot go on with what its predecessor serves.
    pub(crate) fn unprepared(why: &'static str) -> HandoverError {
        HandoverError { doing: "taking over", source: io::Error::other(why) }
    }

    /// There is no place where the two could meet.
    pub(crate) fn nowhere(source: io::Error) -> HandoverError {
        HandoverError { doing: "finding a place to meet", source }
    }
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
    /// The way to it, once it serves no longer.
    left: Option<tokio::net::UnixStream>,
}

impl Inherited {
    fn new(sockets: HashMap<String, OwnedFd>, predecessor: UnixStream) -> Inherited {
        let file = |key: &String| {
            let path = config::unix_path(key)?.ok()?;
            Some((key.clone(), Arc::new(SocketFile::inherited(&path))))
        };
        let files = sockets.keys().filter_map(file).collect();
        Inherited { sockets, files, predecessor: Some(predecessor), ..Inherited::default() }
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<OwnedFd> {
        self.sockets.remove(key)
    }

    /// All whose keys `are_wanted`.
    pub(crate) fn take_all(&mut self, are_wanted: impl Fn(&str) -> bool) -> Vec<(String, OwnedFd)> {
        self.sockets.extract_if(|key, _| are_wanted(key)).collect()
    }

    /// Resolves when the predecessor has told the service manager who follows it: of others than the main process that
    /// believes nothing. A predecessor that hangs is not waited for.
    pub(crate) async fn is_announced(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        if let Some(mut predecessor) = self.left.take() {
            // It says nothing more: its end is what is waited for.
            let _ = timeout(PATIENCE, predecessor.read_u8()).await;
        }
    }

    /// The file of a Unix socket that is taken. Until [`Inherited::take_over`] it is the predecessor's, and stays as it is;
    /// it gets its permissions then.
    pub(in crate::accept) fn take_file(&mut self, key: &str, mode: u32) -> Option<Arc<SocketFile>> {
        let file = self.files.remove(key)?;
        self.taken.push((file.clone(), mode));
        Some(file)
    }

    /// Tell the predecessor that this process could serve, and wait until that serves no longer. The files of the Unix
    /// sockets it handed over are this process's from then on, and those of sockets that nobody took are removed.
    ///
    /// # Errors
    ///
    /// The predecessor serves on: it has lost its patience, or is gone. Nothing may be accepted. All files stay.
    pub(crate) async fn take_over(&mut self, patience: Duration) -> Result<(), HandoverError> {
        let Some(predecessor) = self.predecessor.take() else { return Ok(()) };
        let told = ready(predecessor, patience).await;
        let left = told.map_err(failed(
            "waiting for the predecessor to stop (it serves on; if this process was ready too late, raise `upgrade.timeout`)",
        ))?;
        self.left = left;
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

/// Say so, and hear that the other one goes. The way to it stays open, where it may have more to do before it closes it.
async fn ready(predecessor: UnixStream, patience: Duration) -> io::Result<Option<tokio::net::UnixStream>> {
    predecessor.set_nonblocking(true)?;
    let mut predecessor = tokio::net::UnixStream::from_std(predecessor)?;
    // One that has answered before it was asked may be gone: its answer is what counts.
    let _ = predecessor.write_all(READY).await;
    let mut answer = [0; GO.len()];
    if let Ok(heard) = timeout(patience, predecessor.read_exact(&mut answer)).await {
        return heard.map(|_| Some(predecessor));
    }
    // From here on the predecessor cannot say it any more; what it has said before counts.
    let mut predecessor = predecessor.into_std()?;
    predecessor.shutdown(Shutdown::Read)?;
    predecessor.read_exact(&mut answer).map(|()| None).map_err(|_| io::ErrorKind::TimedOut.into())
}

/// The successor's end, waiting for its predecessor. Dropped, its place is free.
#[derive(Debug)]
pub(crate) struct Handover(Meeting);

#[derive(Debug)]
enum Meeting {
    /// Whoever comes.
    At { listener: UnixListener, path: PathBuf },
    /// The one that has started this process.
    With(UnixStream),
}

impl Handover {
    /// Listen at `path` for the predecessor. Only this user may connect.
    ///
    /// # Errors
    ///
    /// The socket cannot be made, or another successor waits there.
    pub(crate) fn listen(path: &Path) -> Result<Handover, HandoverError> {
        if UnixStream::connect(path).is_ok() {
            let taken = io::Error::new(
                io::ErrorKind::AddrInUse,
                format!(
                    "another successor waits at {} (a second gateway of this user needs an `upgrade.socket` of its own)",
                    path.display()
                ),
            );
            return Err(failed("listening for the predecessor")(taken));
        }
        // What is left there is the socket of a process that ended.
        let _ = fs::remove_file(path);
        let listen = || {
            let listener = net::UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(Handover(Meeting::At { listener: UnixListener::from_std(listener)?, path: path.to_owned() }))
        };
        listen().map_err(failed("listening for the predecessor"))
    }

    /// The predecessor has started this process, and is at the other end of this.
    pub(crate) fn with(predecessor: UnixStream) -> Handover {
        Handover(Meeting::With(predecessor))
    }

    /// Wait for the predecessor's sockets.
    ///
    /// # Errors
    ///
    /// Nobody came within `patience`, or it was another user, or the message was cut.
    pub(crate) async fn receive(self, patience: Duration) -> Result<Inherited, HandoverError> {
        let received = timeout(patience, self.wait(patience)).await;
        let received = received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        received.map_err(failed("waiting for the predecessor (send it SIGQUIT)"))
    }

    async fn wait(&self, patience: Duration) -> io::Result<Inherited> {
        let listener = match &self.0 {
            Meeting::At { listener, .. } => listener,
            Meeting::With(predecessor) => {
                let predecessor = predecessor.try_clone()?;
                let received = tokio::task::spawn_blocking(move || receive(predecessor, patience)).await;
                return received.map_err(io::Error::other)?;
            }
        };
        loop {
            let predecessor = listener.accept().await?.0.into_std()?;
            if !is_ours(&predecessor)? {
                log::warn!("refused a hand-over from another user");
                continue;
            }
            let received = tokio::task::spawn_blocking(move || receive(predecessor, patience)).await;
            match received.map_err(io::Error::other)? {
                // Another successor looked whether this place is taken.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                received => return received,
            }
        }
    }

    /// The running gateway's part: give `sockets` to the successor at `path`. Blocking.
    ///
    /// # Errors
    ///
    /// No successor waits there, or it does not take them: go on serving.
    pub(crate) fn give(
        path: &Path,
        sockets: &[(String, OwnedFd)],
        patience: Duration,
    ) -> Result<Successor, HandoverError> {
        let successor =
            UnixStream::connect(path).map_err(failed("finding the successor (start `run --upgrade`)"))?;
        Handover::give_over(successor, sockets, patience)
    }

    /// The same to the successor at the other end of `successor`. Blocking.
    ///
    /// # Errors
    ///
    /// It does not take them: go on serving.
    pub(crate) fn give_over(
        successor: UnixStream,
        sockets: &[(String, OwnedFd)],
        patience: Duration,
    ) -> Result<Successor, HandoverError> {
        let send = || {
            if !is_ours(&successor)? {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            successor.set_write_timeout(Some(patience))?;
            send(&successor, sockets)?;
            successor.set_nonblocking(true)
        };
        send().map_err(failed("sending the sockets"))?;
        Ok(Successor(successor))
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Meeting::At { path, .. } = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// A successor that holds the sockets. Dropped, it has to end without having served.
#[derive(Debug)]
pub(crate) struct Successor(UnixStream);

impl Successor {
    /// Resolves when it could serve.
    ///
    /// # Errors
    ///
    /// It ended before, or took longer than `patience`: go on serving.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<(), HandoverError> {
        let wait = async {
            let mut successor = tokio::net::UnixStream::from_std(self.0.try_clone()?)?;
            let mut ready = [0; READY.len()];
            successor.read_exact(&mut ready).await
        };
        let waited = timeout(patience, wait).await;
        let waited = waited.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        waited.map(drop).map_err(failed("waiting for the successor to be ready"))
    }

    /// Who it is, where it has come by itself.
    pub(crate) fn process(&self) -> Option<Pid> {
        rustix::net::sockopt::socket_peercred(&self.0).ok().map(|peer| peer.pid)
    }

    /// Let it serve as soon as it is ready: this process does so no longer. What the service manager is to be told of it is told
    /// before this is dropped.
    ///
    /// # Errors
    ///
    /// It has ended: go on serving.
    pub(crate) fn go(&self) -> Result<(), HandoverError> {
        (&self.0).write_all(GO).map_err(failed("letting the successor serve"))
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

    /// A hand-over of these sockets, up to where both hold them.
    async fn handed_over(sockets: Vec<(String, OwnedFd)>) -> (Inherited, Successor) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let handover = Handover::listen(&path).unwrap();
        let giver = tokio::task::spawn_blocking({
            let path = path.clone();
            move || Handover::give(&path, &sockets, PATIENCE)
        });
        let inherited = handover.receive(PATIENCE).await.unwrap();
        assert!(!path.exists());
        (inherited, giver.await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn hands_over_more_sockets_than_one_message_holds() {
        let listeners: Vec<TcpListener> =
            (0..CHUNK + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let sockets = listeners
            .iter()
            .map(|l| (l.local_addr().unwrap().to_string(), l.as_fd().try_clone_to_owned().unwrap()))
            .collect();
        let (mut inherited, successor) = handed_over(sockets).await;
        for listener in &listeners {
            let address = listener.local_addr().unwrap();
            let socket = TcpListener::from(inherited.take(&address.to_string()).unwrap());
            assert_eq!(socket.local_addr().unwrap(), address);
        }
        let predecessor = async {
            successor.ready(PATIENCE).await.unwrap();
            successor.go().unwrap();
        };
        let (taken, ()) = tokio::join!(inherited.take_over(PATIENCE), predecessor);
        taken.unwrap();
    }

    #[tokio::test]
    async fn a_successor_that_ends_before_it_is_ready_is_an_error_for_the_giver() {
        let (inherited, successor) = handed_over(Vec::new()).await;
        drop(inherited);
        assert!(successor.ready(PATIENCE).await.is_err());
        assert!(successor.go().is_err());
    }

    #[tokio::test]
    async fn a_successor_that_is_ready_too_late_does_not_serve() {
        let (mut inherited, successor) = handed_over(Vec::new()).await;
        assert!(successor.ready(Duration::ZERO).await.is_err());
        drop(successor);
        let error = inherited.take_over(PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("it serves on") && error.contains("`upgrade.timeout`"), "{error}");
    }

    /// Whatever the moment, one of the two serves: what was said before the successor gave up counts, and after that it
    /// cannot be said.
    #[tokio::test]
    async fn a_successor_that_gives_up_has_either_heard_that_it_may_serve_or_cannot_be_told() {
        let (mut inherited, successor) = handed_over(Vec::new()).await;
        successor.go().unwrap();
        inherited.take_over(Duration::ZERO).await.unwrap();

        let (mut inherited, successor) = handed_over(Vec::new()).await;
        assert!(inherited.take_over(Duration::ZERO).await.is_err());
        assert!(successor.go().is_err());
    }

    #[tokio::test]
    async fn a_second_successor_that_looks_in_does_not_end_the_wait_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let first = Handover::listen(&path).unwrap();
        assert!(Handover::listen(&path).unwrap_err().to_string().contains("another successor waits"));
        let giver = tokio::task::spawn_blocking(move || Handover::give(&path, &[], PATIENCE));
        first.receive(PATIENCE).await.unwrap();
        giver.await.unwrap().unwrap();
    }

    #[test]
    fn without_a_successor_the_giver_learns_it_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let error = Handover::give(&dir.path().join("none.sock"), &[], PATIENCE).unwrap_err();
        assert!(error.to_string().contains("run --upgrade"), "{error}");
    }
}
