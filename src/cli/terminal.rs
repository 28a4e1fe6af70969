//! The terminal that a command is typed at: how large it is, and keys as they are pressed.

use std::{
    io::{self, Write},
    mem::MaybeUninit,
};

use libc::{ECHO, ICANON, STDIN_FILENO, STDOUT_FILENO, TCSANOW, TIOCGWINSZ, termios, winsize};

/// As it was before.
pub(super) struct Settings(termios);

/// Columns and rows, where it is a terminal.
pub(super) fn size() -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<winsize>::zeroed();
    // SAFETY: the kernel writes a `winsize`, and all zeros is one.
    let size = unsafe {
        if libc::ioctl(STDOUT_FILENO, TIOCGWINSZ, size.as_mut_ptr()) != 0 {
            return None;
        }
        size.assume_init()
    };
    Some((size.ws_col, size.ws_row))
}

/// Writes these lines from the top, in place of what stands there.
pub(super) fn redraw(lines: impl IntoIterator<Item = impl AsRef<str>>) -> io::Result<()> {
    let height = size().map_or(usize::MAX, |(_, rows)| rows.into());
    let mut text = String::from("\u{1b}[H");
    for line in lines.into_iter().take(height.saturating_sub(1)) {
        text.push_str(line.as_ref());
        text.push_str("\u{1b}[K\r\n");
    }
    text.push_str("\u{1b}[J");
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Keys are read as they are pressed, and not shown.
///
/// # Errors
///
/// It is no terminal.
pub(super) fn key_by_key() -> io::Result<Settings> {
    let mut before = MaybeUninit::<termios>::zeroed();
    // SAFETY: `tcgetattr` writes a `termios` where it succeeds.
    let before = unsafe {
        if libc::tcgetattr(STDIN_FILENO, before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        before.assume_init()
    };
    let mut settings = before;
    settings.c_lflag &= !(ICANON | ECHO);
    Settings(settings).set()?;
    Ok(Settings(before))
}

impl Settings {
    pub(super) fn restore(&self) {
        // A terminal that is gone needs no settings.
        let _ = self.set();
    }

    fn set(&self) -> io::Result<()> {
        // SAFETY: the settings are those that `tcgetattr` gave, but for two flags.
        match unsafe { libc::tcsetattr(STDIN_FILENO, TCSANOW, &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
