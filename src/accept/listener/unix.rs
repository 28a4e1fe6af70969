//! The file of a Unix socket that is listened on: made with its permissions, in place of one that nobody serves any more,
//! and removed when it is closed, unless a successor serves it by then. One that was handed over is the predecessor's until
//! that knows that this process serves: it may have to go on.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::accept::listener::socket::BACKLOG;

/// Removes the file when dropped, if not before, and if it is still the one that was made.
#[derive(Debug)]
pub(in crate::accept) struct SocketFile {
    path: PathBuf,
    /// Another process may have put its own in the place.
    identity: Option<Identity>,
    /// Or removed already, or a predecessor's still.
    is_left: AtomicBool,
}

impl SocketFile {
    /// The file of a socket that listens already.
    pub(in crate::accept) fn at(path: &Path) -> SocketFile {
        SocketFile { path: path.to_owned(), identity: identity(path), is_left: AtomicBool::new(false) }
    }

    /// The file of a predecessor's socket, which stays unless this process comes to [own](SocketFile::own) it.
    pub(in crate::accept) fn inherited(path: &Path) -> SocketFile {
        let file = SocketFile::at(path);
        file.leave();
        file
    }

    pub(in crate::accept) fn path(&self) -> &Path {
        &self.path
    }

    /// It has no other owner any more: it goes with this one.
    pub(in crate::accept) fn own(&self) {
        self.is_left.store(false, Relaxed);
    }

    /// A successor serves it: it stays.
    pub(in crate::accept) fn leave(&self) {
        self.is_left.store(true, Relaxed);
    }

    /// Nobody accepts there any more: the next who connects is to learn it at once, and the path is free.
    pub(in crate::accept) fn remove(&self) {
        let is_left = self.is_left.swap(true, Relaxed);
        if !is_left && self.identity.is_some() && identity(&self.path) == self.identity {
            // Whoever comes next replaces it as well.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Remove the file of `socket`, which nobody will serve. A path that leads elsewhere by now is somebody else's: most
    /// servers remove what stands there before they listen, and need not have done so since it was handed over.
    pub(in crate::accept) fn remove_with(&self, socket: impl AsFd) {
        if is_reached(&self.path, socket) {
            self.own();
            self.remove();
        }
    }

    pub(in crate::accept) fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// Who may connect from now on. That it cannot be said is no reason to stop what is served already.
    pub(in crate::accept) fn change_mode(&self, mode: u32) {
        if let Err(error) = self.set_mode(mode) {
            log::error!("cannot change the permissions of {}: {error}", self.path.display());
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Device, number and time of making: numbers are used again at once.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> Option<Identity> {
    let file = fs::symlink_metadata(path).ok()?;
    file.file_type().is_socket().then(|| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Whether `path` leads to a socket of the process that made `socket` listen, which is what the kernel tells those who
/// connect (`SO_PEERCRED`, unix(7)). No process listens twice at one path. Where it cannot be told, it does not.
fn is_reached(path: &Path, socket: impl AsFd) -> bool {
    let reach = || -> rustix::io::Result<bool> {
        // Not to wait where the queue is full: nobody may be there to empty it.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&client, &SocketAddrUnix::new(path)?)?;
        Ok(sockopt::socket_peercred(&client)? == sockopt::socket_peercred(&socket)?)
    };
    reach().unwrap_or(false)
}

/// Listen at `path`, which only those may connect to whom `mode` lets.
///
/// # Errors
///
/// Something else is there, somebody listens there, or the kernel refuses.
pub(in crate::accept) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    make_room(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let file = SocketFile::at(path);
    // Before it listens: until then nobody can connect, whatever the file allows.
    file.set_mode(mode)?;
    rustix::net::listen(&socket, BACKLOG as i32)?;
    file.leave();
    Ok(UnixListener::from(socket))
}

/// Remove the socket of a process that has ended.
fn make_room(path: &Path) -> io::Result<()> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Somebody answers, or is too busy to.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_may_connect_whom_the_mode_lets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _socket = bind(&path, 0o640).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind(&path, 0o600).unwrap();
        assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists(), "left as by a process that was killed");
        bind(&path, 0o600).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_file_goes_with_its_socket_unless_it_is_somebody_elses_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _first = bind(&path, 0o600).unwrap();
        SocketFile::at(&path).leave();
        assert!(path.exists(), "a successor serves it");
        drop(SocketFile::at(&path));
        assert!(!path.exists());
        let _second = bind(&path, 0o600).unwrap();
        let file = SocketFile::at(&path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn an_inherited_file_goes_with_its_socket_once_it_is_owned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _socket = bind(&path, 0o600).unwrap();
        drop(SocketFile::inherited(&path));
        assert!(path.exists(), "the predecessor serves on");
        SocketFile::inherited(&path).own();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_nobody_wants_goes_if_it_is_still_that_socket_s() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = bind(&path, 0o600).unwrap();
        let file = SocketFile::inherited(&path);
        file.remove_with(&socket);
        assert!(!path.exists());
        let _second = bind(&path, 0o600).unwrap();
        file.remove_with(&socket);
        assert!(path.exists(), "made after the hand-over");
    }
}
