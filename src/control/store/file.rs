//! Files of a `state_dir` that a later process reads: only for us to read, whole or not at all, and set aside where they
//! cannot be used.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// What is in the file at `path`. `None` where there is none; one that another user has put there, or that cannot be read,
/// is set aside.
pub(crate) fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::metadata(path) {
        Ok(file) if file.uid() != rustix::process::geteuid().as_raw() => {
            set_aside(path, "it belongs to another user");
            return None;
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            set_aside(path, &error.to_string());
            return None;
        }
    }
    fs::read(path).map_err(|error| set_aside(path, &error.to_string())).ok()
}

/// A crash in between leaves the old one.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("json.new");
    // Its mode is only given to a file that is not there yet.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Out of the way of the next one, for whoever wants to know what was in it.
pub(crate) fn set_aside(path: &Path, why: &str) {
    let aside = path.with_extension("json.old");
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("kept as {}", aside.display()),
        Err(error) => format!("and cannot be moved: {error}"),
    };
    log::warn!("{} is not used: {why}; the file is {moved}", path.display());
}
