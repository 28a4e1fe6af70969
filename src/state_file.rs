//! Files of `state_dir`: written whole or not at all, and set aside where they cannot be used.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// What an earlier process has written, up to `largest` bytes; `None` where there is no file.
///
/// # Errors
///
/// Why it cannot be used, for the operator: also where others could have written it.
pub(crate) fn read(path: &Path, largest: u64) -> Result<Option<Vec<u8>>, String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    check_owner(&file)?;
    let mut text = Vec::new();
    file.take(largest + 1).read_to_end(&mut text).map_err(|error| format!("it cannot be read: {error}"))?;
    match text.len() as u64 > largest {
        true => Err("it is too large to be ours".to_owned()),
        false => Ok(Some(text)),
    }
}

/// Whoever can write to it says what this gateway serves.
fn check_owner(file: &File) -> Result<(), String> {
    let found = file.metadata().map_err(|error| format!("it cannot be looked at: {error}"))?;
    let user = rustix::process::geteuid().as_raw();
    match found {
        found if !found.is_file() => Err("it is no file".to_owned()),
        found if found.uid() != user => Err(format!("it belongs to the user {}, not to us", found.uid())),
        found if found.mode() & 0o022 != 0 => Err("others can write to it".to_owned()),
        _ => Ok(()),
    }
}

/// Whole or not at all, and on the disk when this returns: a crash in between leaves the old one. Only `mode` may open it.
pub(crate) fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let new = path.with_extension("json.new");
    // What a crash has left may have other permissions.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The name is the folder's.
    File::open(folder)?.sync_all()
}

/// Out of the way, in words for the operator.
pub(crate) fn set_aside(path: &Path) -> String {
    let aside = path.with_extension("json.old");
    match fs::rename(path, &aside) {
        Ok(()) => format!("kept as {}", aside.display()),
        Err(error) => format!("and cannot be moved: {error}"),
    }
}
