//! What the service manager is told (`sd_notify(3)`): ready, reloading, stopping, who the main process is, and that every
//! thread still turns. Without `NOTIFY_SOCKET` nobody asks, and nothing is said.
//!
//! Telling never waits and never fails the gateway: a manager that hangs or has gone must not take the traffic with it. That is
//! why this is not left to a library, whose sends block.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rustix::process::Pid;

use crate::snapshot::Snapshot;

/// What is added to the time that ending may take, before the manager may lose its patience.
const SLACK: Duration = Duration::from_secs(10);

/// Clones tell the same manager.
#[derive(Clone)]
pub(super) struct Notify(Option<Arc<Manager>>);

struct Manager {
    socket: UnixDatagram,
    /// Looked up for each message: a manager that starts anew makes a socket anew.
    address: SocketAddr,
    /// One line in the log is enough.
    is_unheard: AtomicBool,
}

impl Notify {
    /// Whoever the environment names.
    pub(super) fn from_environment() -> Notify {
        let Some(at) = std::env::var_os("NOTIFY_SOCKET").filter(|at| !at.is_empty()) else {
            return Notify(None);
        };
        match Manager::at(&at) {
            Ok(manager) => Notify(Some(Arc::new(manager))),
            Err(error) => {
                log::warn!("the service manager is told nothing: NOTIFY_SOCKET {}: {error}", at.display());
                Notify(None)
            }
        }
    }

    /// `/readyz` is 200 from now on; also the end of a reload.
    pub(super) fn ready(&self, snapshot: &Snapshot, what: &str) {
        self.tell(|| format!("READY=1\nSTATUS={}", status(snapshot, what, SystemTime::now())));
    }

    /// A word for whoever asks `systemctl status`.
    pub(super) fn status(&self, text: &str) {
        self.tell(|| format!("STATUS={text}"));
    }

    /// The configuration is read again; [`Notify::ready`] ends it.
    pub(super) fn reloading(&self) {
        self.tell(|| {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
            format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration")
        });
    }

    /// It ends, and may take as long as `most`.
    pub(super) fn stopping(&self, most: Duration) {
        let patience = (most + SLACK).as_micros();
        self.tell(|| format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={patience}\nSTATUS=draining"));
    }

    /// Another process is the service from now on. It has to be told before that one says that it is ready: of others than the
    /// main process nothing is believed.
    pub(super) fn main_is(&self, process: Pid) {
        self.tell(|| format!("MAINPID={}", process.as_raw_nonzero()));
    }

    pub(super) fn is_alive(&self) {
        self.tell(|| "WATCHDOG=1".to_owned());
    }

    pub(super) fn is_asked_for(&self) -> bool {
        self.0.is_some()
    }

    fn tell(&self, message: impl FnOnce() -> String) {
        if let Some(manager) = &self.0 {
            manager.tell(&message());
        }
    }
}

impl Manager {
    fn at(path: &OsStr) -> io::Result<Manager> {
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(path)?,
            _ => return Err(io::Error::other("is not the path of a socket")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Manager { socket, address, is_unheard: AtomicBool::new(false) })
    }

    fn tell(&self, message: &str) {
        match self.socket.send_to_addr(message.as_bytes(), &self.address) {
            Ok(_) => self.is_unheard.store(false, Relaxed),
            Err(error) => {
                if !self.is_unheard.swap(true, Relaxed) {
                    log::warn!(
                        "the service manager does not hear what it is told: {error} (the gateway serves on)"
                    );
                }
            }
        }
    }
}

/// `3 listeners, 12 routes, reloaded 12:00:01Z`.
fn status(snapshot: &Snapshot, what: &str, now: SystemTime) -> String {
    let count = |number: usize, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let mut text = count(snapshot.listeners.len(), "listener");
    let now = humantime::format_rfc3339_seconds(now).to_string();
    let time = now.split_once('T').map_or("", |(_, time)| time);
    let _ = write!(text, ", {}, {what} {time}", count(snapshot.routes.len(), "route"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_both_heard() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notify");
        let name = format!("tidegate-test-{}", std::process::id());
        for (at, socket) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ] {
            let notify = Notify(Some(Arc::new(Manager::at(&at).unwrap())));
            notify.status("here");
            assert_eq!(told(&socket), "STATUS=here");
            notify.stopping(Duration::from_secs(30));
            assert_eq!(told(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS=draining");
        }
        assert!(Manager::at(OsStr::new("relative")).is_err());
    }

    #[test]
    fn a_manager_that_has_gone_or_does_not_listen_holds_nobody_up() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notify");
        let manager = Manager::at(path.as_os_str()).unwrap();
        manager.tell("nobody is there");
        assert!(manager.is_unheard.load(Relaxed));
        let socket = UnixDatagram::bind(&path).unwrap();
        manager.tell("now there is");
        assert!(!manager.is_unheard.load(Relaxed));
        assert_eq!(told(&socket), "now there is");
        // Its queue is full long before, and nothing waits for it.
        (0..10_000).for_each(|_| manager.tell("again"));
        assert!(manager.is_unheard.load(Relaxed));
    }
}
