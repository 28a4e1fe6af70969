//! Files that are read again when they change. What has become unreadable changes nothing: what was read before stays in force, as
//! an operator's slip must not take an upstream down.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

pub(super) struct Watched<T> {
    files: Box<[PathBuf]>,
    current: ArcSwap<T>,
}

/// What is made of the files.
pub(super) trait FromFiles: Sized + Send + Sync {
    /// # Errors
    ///
    /// One of them is to blame, and what for.
    fn read(files: &[PathBuf]) -> Result<Self, Unread>;

    /// The same for the same content, whenever it was read.
    fn fingerprint(&self) -> &[u8; 32];
}

/// Why it cannot be made, and by which of the files.
pub(super) struct Unread {
    pub file: usize,
    pub why: String,
}

impl<T: FromFiles> Watched<T> {
    /// # Errors
    ///
    /// As of `T`.
    pub(crate) fn read(files: impl Into<Box<[PathBuf]>>) -> Result<Watched<T>, Unread> {
        let files: Box<[PathBuf]> = files.into();
        let current = ArcSwap::from_pointee(T::read(&files)?);
        Ok(Watched { files, current })
    }

    pub(crate) fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Whether this is the present one.
    pub(crate) fn is(&self, known: &Arc<T>) -> bool {
        Arc::ptr_eq(&self.current.load(), known)
    }

    /// Follow the files for as long as this is polled. `told` hears what came of each change.
    pub(crate) async fn follow(&self, told: impl Fn(Result<(), &str>)) {
        let mut seen = self.state();
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.state();
            if now == seen {
                continue;
            }
            seen = now;
            match T::read(&self.files) {
                Ok(new) if new.fingerprint() == self.current.load().fingerprint() => {}
                Ok(new) => {
                    self.current.store(Arc::new(new));
                    told(Ok(()));
                }
                Err(Unread { why, .. }) => told(Err(&why)),
            }
        }
    }

    fn state(&self) -> Vec<Option<(SystemTime, u64)>> {
        self.files.iter().map(|file| state(file)).collect()
    }
}

fn state(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
