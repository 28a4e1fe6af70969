//! The secrets of TLS sessions, for whoever has to look into them with Wireshark (draft-ietf-tls-keylogfile). Whoever reads them reads
//! the traffic, so that the environment alone does not turn it on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::OnceLock,
};

use openssl::ssl::{SslContextBuilder, SslRef};

/// Where they are written.
pub(crate) const VARIABLE: &str = "SSLKEYLOGFILE";

static FILE: OnceLock<File> = OnceLock::new();

/// From now on the secrets of new connections are appended to the file that the environment names.
///
/// # Errors
///
/// It names none, or that one cannot be opened.
pub(crate) fn begin() -> io::Result<PathBuf> {
    let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = path.ok_or_else(|| io::Error::other(format!("{VARIABLE} names no file")))?;
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let file = opened.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
    // A second call changes nothing.
    let _ = FILE.set(file);
    Ok(path)
}

pub(crate) fn follow(context: &mut SslContextBuilder) {
    if FILE.get().is_some() {
        context.set_keylog_callback(write);
    }
}

/// One call for each line: appended as a whole, so that lines of several threads and processes do not mix.
fn write(_: &SslRef, line: &str) {
    if let Some(mut file) = FILE.get() {
        // A disk that is full costs the line, and no connection.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
