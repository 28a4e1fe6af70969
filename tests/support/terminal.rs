//! A terminal with a command in it: the kernel's own pseudo-terminal, so that the command sees what it sees at an operator's.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{FromRawFd, OwnedFd},
    process::{Child, Command, ExitStatus},
    ptr, thread,
};

use tokio::sync::watch;

use super::within_deadline;

/// Where a picture begins: the cursor goes to the top left.
const BEGIN: &str = "\u{1b}[H";
/// Where it ends: what was below is wiped away.
const END: &str = "\u{1b}[J";

/// The command is killed when this is dropped.
pub(crate) struct Terminal {
    keys: File,
    /// All that the command has written.
    written: watch::Receiver<String>,
    child: Child,
}

impl Terminal {
    /// Starts `command` in a terminal of this size.
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Terminal {
        let (mut ours, mut theirs) = (-1, -1);
        let size = libc::winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: both places are written where it succeeds, and the size is only read.
        let opened = unsafe { libc::openpty(&mut ours, &mut theirs, ptr::null_mut(), ptr::null(), &size) };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: they were opened just now and belong to nobody else.
        let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let other = || theirs.try_clone().unwrap();
        let child = command.stdin(other()).stdout(other()).stderr(other()).spawn().unwrap();
        // The command's end is then the end of what can be read. `Command` holds its copies as long as it lives.
        drop((theirs, command));
        let keys = ours.try_clone().unwrap();
        let (sender, written) = watch::channel(String::new());
        thread::spawn(move || read(ours, &sender));
        Terminal { keys, written, child }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// The first whole picture from now on, or the one that stands there, of which this holds: line by line, without what a
    /// terminal obeys.
    pub(crate) async fn wait_for_picture(
        &self,
        what: &str,
        wanted: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let mut written = self.written.clone();
        let found = written.wait_for(|text| picture(text).is_some_and(|lines| wanted(&lines)));
        match within_deadline(what, found).await {
            Ok(text) => picture(&text).unwrap(),
            Err(_) => panic!("{what}: the command ended with {:?}", self.written.borrow()),
        }
    }

    /// All that was written, once the command has ended.
    pub(crate) async fn end(mut self) -> (ExitStatus, String) {
        let mut written = self.written.clone();
        let ended = async { while written.changed().await.is_ok() {} };
        within_deadline("the end of a command in a terminal", ended).await;
        (self.child.wait().unwrap(), self.written.borrow().clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Until the other end is closed, which the kernel calls an error here.
fn read(mut from: File, into: &watch::Sender<String>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
        into.send_replace(String::from_utf8_lossy(&bytes).into_owned());
    }
}

/// The last one that is whole.
fn picture(text: &str) -> Option<Vec<String>> {
    let whole = &text[..text.rfind(END)?];
    let last = &whole[whole.rfind(BEGIN)? + BEGIN.len()..];
    Some(last.lines().map(plain).collect())
}

/// Without colours and what wipes.
fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let text = part.trim_start_matches('[').trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        plain.extend(text.chars().skip(1));
    }
    plain.trim_end().to_owned()
}
