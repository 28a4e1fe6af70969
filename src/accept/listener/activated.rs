//! Sockets that the service manager listens on, and this process accepts from (sd_listen_fds(3)). They outlive it: who
//! connects while it starts anew waits in the queue. So none of them is ever shut, and each can be taken again by a later
//! configuration, or by a successor.

use std::{
    collections::HashMap,
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    io::FdFlags,
    net::{SocketType, sockopt},
};

use crate::{
    accept::{BindError, Inherited},
    config,
};

/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// By the address that names them, such as `systemd:edge`.
#[derive(Debug, Default)]
pub(crate) struct Activated(HashMap<String, Vec<OwnedFd>>);

impl Activated {
    /// What was passed to this process. To be asked before it opens anything, and once: the descriptors are owned from then on.
    ///
    /// # Errors
    ///
    /// The environment promises more than there is.
    pub(crate) fn from_environment() -> io::Result<Activated> {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<RawFd>().ok());
        let mut sockets = HashMap::<_, Vec<_>>::new();
        // They may be a parent's, which has forgotten to tidy up.
        let is_for_us =
            number("LISTEN_PID").and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id());
        let count = number("LISTEN_FDS").filter(|_| is_for_us).unwrap_or(0);
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        for descriptor in FIRST..FIRST.saturating_add(count) {
            // SAFETY: it is only asked whether there is such a descriptor.
            if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
                let why =
                    format!("LISTEN_FDS promises {count} sockets, and descriptor {descriptor} is not open");
                return Err(io::Error::other(why));
            }
            // SAFETY: it was passed to this process, which has opened nothing yet, and nobody else takes it.
            let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
            rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            sockets.entry(format!("systemd:{name}")).or_default().push(socket);
        }
        Ok(Activated(sockets))
    }

    /// Those of a predecessor as well, which has nobody to give them to but this process.
    pub(crate) fn inherit(&mut self, inherited: &mut Inherited) {
        for (key, socket) in inherited.take_all(|key| config::systemd_name(key).is_some()) {
            self.0.insert(key, vec![socket]);
        }
    }

    /// One more descriptor of the socket with this address, which stays here as well.
    ///
    /// # Errors
    ///
    /// There is none, there are several, or nobody could accept from it.
    pub(in crate::accept) fn take(&self, address: &str) -> Result<OwnedFd, BindError> {
        let failed = |kind, why: String| BindError::new(address, io::Error::new(kind, why));
        match self.0.get(address).map(Vec::as_slice) {
            None | Some([]) => Err(failed(
                io::ErrorKind::NotFound,
                format!("systemd has passed no such socket, but {}", self.names()),
            )),
            Some([socket]) => {
                let is_stream = sockopt::socket_type(socket).is_ok_and(|kind| kind == SocketType::STREAM);
                if !is_stream || !sockopt::socket_acceptconn(socket).unwrap_or(false) {
                    let why = "it is no socket that listens for streams (use ListenStream= and Accept=no)";
                    return Err(failed(io::ErrorKind::InvalidInput, why.to_owned()));
                }
                socket.try_clone().map_err(|source| BindError::new(address, source))
            }
            Some(several) => {
                let why = format!(
                    "systemd has passed {} sockets of this name (give each a socket unit with a FileDescriptorName= of its own; \
                     one `[::]:443` serves IPv4 as well)",
                    several.len()
                );
                Err(failed(io::ErrorKind::InvalidInput, why))
            }
        }
    }

    /// All of them, for a successor.
    pub(in crate::accept) fn duplicates(&self) -> Vec<(String, OwnedFd)> {
        let each = |(key, sockets): (&String, &Vec<OwnedFd>)| {
            Some((key.clone(), sockets.first()?.try_clone().ok()?))
        };
        // Of several nobody could say which is meant, here or there.
        self.0.iter().filter(|(_, sockets)| sockets.len() == 1).filter_map(each).collect()
    }

    fn names(&self) -> String {
        let mut names: Vec<_> = self.0.keys().filter_map(|key| key.strip_prefix("systemd:")).collect();
        names.sort_unstable();
        if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
    }
}
