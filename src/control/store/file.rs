//! Files of a `state_dir` that a later process reads: only for us to read, whole or not at all, and set aside where they
//! cannot be used.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use crate::state_file;

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

/// Only for us to read, and on the disk when this returns.
pub(crate) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    state_file::write(path, 0o600, text)
}

/// Out of the way of the next one, for whoever wants to know what was in it.
pub(crate) fn set_aside(path: &Path, why: &str) {
    let moved = state_file::set_aside(path);
    log::warn!("{} is not used: {why}; the file is {moved}", path.display());
}
