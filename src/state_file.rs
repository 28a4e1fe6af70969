//! Files of `state_dir`: written whole or not at all, and set aside where they cannot be used.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

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
