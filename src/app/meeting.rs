//! Where a gateway and its successor meet: in a folder that nobody else can write to. In a shared one another user could
//! take the place first, and no upgrade would ever succeed.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{accept::HandoverError, config::Config};

/// The socket on which a successor waits for this configuration's listeners. The default folder is made where there is none.
///
/// # Errors
///
/// The default folder cannot be made, or others can write to it. What to do about it is said.
pub(super) fn socket_path(config: &Config) -> Result<PathBuf, HandoverError> {
    if let Some(socket) = &config.upgrade.socket {
        return Ok(socket.clone());
    }
    let user = rustix::process::geteuid();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) => PathBuf::from(runtime).join("tidegate"),
        None if user.is_root() => PathBuf::from("/run/tidegate"),
        None => std::env::temp_dir().join(format!("tidegate-{}", user.as_raw())),
    };
    let owned = own(&folder, user.as_raw());
    owned.map_err(|why| {
        let folder = folder.display();
        HandoverError::nowhere(io::Error::other(format!(
            "{folder}: {why} (set `upgrade.socket`, or XDG_RUNTIME_DIR to a folder of your own)"
        )))
    })?;
    Ok(folder.join("upgrade.sock"))
}

/// Make `folder` unless it is there, and see that it is `user`'s alone.
fn own(folder: &Path, user: u32) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("cannot be made: {error}"));
        }
        _ => {}
    }
    // Not through a link, which is another's to turn.
    let found = fs::symlink_metadata(folder).map_err(|error| format!("cannot be looked at: {error}"))?;
    match found {
        found if !found.is_dir() => Err("is not a folder".to_owned()),
        found if found.uid() != user => Err(format!("belongs to the user {}, not to us", found.uid())),
        found if found.mode() & 0o022 != 0 => Err("can be written to by others".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_successor_is_met_only_where_nobody_else_can_write() {
        let home = tempfile::TempDir::new().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let folder = home.path().join("tidegate");
        own(&folder, user).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        own(&folder, user).unwrap();
        assert!(own(&folder, user + 1).unwrap_err().contains("belongs to the user"));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(own(&folder, user).unwrap_err().contains("by others"));
        let link = home.path().join("link");
        symlink(home.path(), &link).unwrap();
        assert!(own(&link, user).unwrap_err().contains("not a folder"));
        assert!(own(&home.path().join("none/below"), user).unwrap_err().contains("cannot be made"));
    }
}
