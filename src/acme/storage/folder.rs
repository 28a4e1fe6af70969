//! Files below `acme` in `state_dir`, for this user's eyes only. A lock is one on a file, so the kernel lets go of it when its
//! holder is gone, however that ended.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};

use super::{LARGEST, Storage};
use crate::{
    acme::trouble::{Reason, Trouble},
    fleet::{Keep, Lock},
    state_file,
};

pub(in crate::acme) struct Folder(PathBuf);

impl Folder {
    pub(in crate::acme) fn new(state_dir: PathBuf) -> Folder {
        Folder(state_dir.join("acme"))
    }

    fn file(&self, key: &str) -> PathBuf {
        // A star is a name's only character that has a meaning elsewhere.
        self.0.join(format!("{}.json", key.replace('*', "_")))
    }
}

#[async_trait]
impl Storage for Folder {
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let file = self.file(key);
        aside(move || {
            state_file::read(&file, LARGEST as u64)
                .map_err(|why| Trouble::new(Reason::Storage, format!("{}: {why}", file.display())))
        })
        .await
    }

    async fn save(&self, key: &str, value: &[u8], _: Keep) -> Result<(), Trouble> {
        let (file, value) = (self.file(key), value.to_vec());
        aside(move || {
            private(&file).and_then(|()| state_file::write(&file, 0o600, &value)).map_err(|error| {
                Trouble::new(Reason::Storage, format!("{} cannot be written: {error}", file.display()))
            })
        })
        .await
    }

    async fn set_aside(&self, key: &str) -> String {
        let file = self.file(key);
        aside(move || Ok(state_file::set_aside(&file))).await.unwrap_or_default()
    }

    async fn remove(&self, key: &str) -> Result<(), Trouble> {
        let file = self.file(key);
        aside(move || match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let why = format!("{} cannot be removed: {error}", file.display());
                Err(Trouble::new(Reason::Storage, why))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn lock(&self, key: &str) -> Result<Option<Lock>, Trouble> {
        let file = self.0.join("locks").join(format!("{}.lock", key.replace(['/', '*'], "_")));
        aside(move || {
            let locked = private(&file).and_then(|()| lock(&file));
            locked.map(|lock| lock.map(|lock| Box::new(lock) as Lock)).map_err(|error| {
                Trouble::new(Reason::Storage, format!("{} cannot be locked: {error}", file.display()))
            })
        })
        .await
    }
}

fn lock(file: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_NOFOLLOW;
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(file)?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(opened)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Its folder, which nobody else can look into.
fn private(file: &Path) -> io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A disk may be slow, and a write waits for it.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Trouble::new(Reason::Storage, "it was interrupted")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_there_again_and_is_nobody_elses_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().to_owned());
        let key = "certificates/default/*.a.example";
        assert_eq!(folder.load(key).await.unwrap(), None);
        folder.save(key, b"one", Keep::ForGood).await.unwrap();
        folder.save(key, b"two", Keep::ForGood).await.unwrap();
        assert_eq!(folder.load(key).await.unwrap().as_deref(), Some(&b"two"[..]));
        let file = directory.path().join("acme/certificates/default/_.a.example.json");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        // Who can write to it could have us show anything.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o622)).unwrap();
        assert_eq!(folder.load(key).await.unwrap_err().reason, Reason::Storage);
        folder.remove(key).await.unwrap();
        folder.remove(key).await.unwrap();
        assert_eq!(folder.load(key).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_lock_is_one_holders_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let one = Folder::new(directory.path().to_owned());
        let other = Folder::new(directory.path().to_owned());
        let held = one.lock("certificates/default/a.example").await.unwrap();
        assert!(held.is_some());
        assert!(other.lock("certificates/default/a.example").await.unwrap().is_none());
        assert!(other.lock("certificates/default/b.example").await.unwrap().is_some());
        drop(held);
        assert!(other.lock("certificates/default/a.example").await.unwrap().is_some());
    }
}
