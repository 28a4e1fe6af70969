//! The file that says which process is the gateway (`run --pid-file`), for supervisors and scripts. Such files outlive their
//! processes, and what they say may be anybody by then. So the gateway holds a lock on it (fcntl(2)): who wants to know asks
//! the kernel whose the lock is, and believes the file only where it says the same.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::FlockOperation,
    process::{Flock, FlockType, Pid},
};

/// This process's, once it is claimed. Dropped, it is removed then, unless a successor has put its own in the place.
pub(crate) struct PidFile {
    path: PathBuf,
    /// Closed, it is locked no more.
    claimed: Option<File>,
}

impl PidFile {
    /// Not claimed yet: a predecessor may serve.
    pub(super) fn at(path: PathBuf) -> PidFile {
        PidFile { path, claimed: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// In the place of whatever stands there: that of a predecessor, or of a process that has ended.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn claim(&mut self) -> io::Result<()> {
        if self.claimed.is_some() {
            return Ok(());
        }
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        // Never through a link that somebody else has put there.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        writeln!(file, "{}", std::process::id())?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(&new, &self.path)?;
        self.claimed = Some(file);
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let Some(file) = &self.claimed else { return };
        let is_ours = || -> io::Result<bool> {
            let (ours, there) = (file.metadata()?, fs::symlink_metadata(&self.path)?);
            Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        };
        if is_ours().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The gateway that runs and has written this file.
///
/// # Errors
///
/// There is none, or the file says something else; written for the operator.
pub(crate) fn read(path: &Path) -> Result<Pid, String> {
    let name = path.display();
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
    (&file).take(64).read_to_string(&mut text).map_err(|error| format!("{name}: {error}"))?;
    let said = text.trim().parse::<u32>().ok().and_then(|said| Pid::from_raw(i32::try_from(said).ok()?));
    let Some(said) = said else { return Err(format!("{name} does not hold the number of a process")) };
    let held = rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::WriteLock));
    match held.map_err(|error| format!("{name}: {error}"))?.and_then(|lock| lock.pid) {
        Some(holder) if holder == said => Ok(said),
        Some(holder) => Err(format!(
            "{name} says {said}, but the process that holds it is {holder}: somebody has changed it (see which of them is the \
             gateway, and signal that)"
        )),
        None => Err(format!(
            "{name} says {said}, but no gateway holds it: it has been left behind (start the gateway with `--pid-file {name}`)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_holds_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tidegate.pid");
        assert!(read(&path).is_err());
        for (text, why) in [
            ("", "does not hold the number"),
            ("-1\n", "does not hold the number"),
            ("tidegate\n", "does not hold the number"),
            ("1\n", "no gateway holds it"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_file_goes_with_its_process_unless_it_is_a_successors() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tidegate.pid");
        let mut first = PidFile::at(path.clone());
        assert!(!path.exists());
        first.claim().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let mut second = PidFile::at(path.clone());
        second.claim().unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
