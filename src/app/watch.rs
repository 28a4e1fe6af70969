//! `watch: true`: reload when a configuration file changes.
//!
//! Editors replace a file by renaming another over it, and Kubernetes swaps a symlink beside it; a watch on the file
//! itself would see either once and then hold on to the old one. So the directories are watched, and the reload finds
//! out by itself whether anything has changed.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A save is several events: wait until they have been quiet this long.
const QUIET: Duration = Duration::from_millis(100);

pub struct FileWatch {
    /// Watches while it lives.
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    events: mpsc::Receiver<()>,
}

impl FileWatch {
    /// # Errors
    ///
    /// The system has no more watches to give.
    pub fn new() -> notify::Result<FileWatch> {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let harmless = event.is_ok_and(|event| event.kind.is_access());
            if !harmless {
                // Full means that a change is waiting to be seen already.
                let _ = sender.try_send(());
            }
        })?;
        Ok(FileWatch { watcher, watched: BTreeSet::new(), events })
    }

    /// Watch the directories of these files, and those that their symlinks lead through.
    pub fn follow(&mut self, files: &[PathBuf]) {
        let wanted: BTreeSet<PathBuf> = files.iter().flat_map(|file| directories(file)).collect();
        for gone in self.watched.difference(&wanted) {
            // The directory may be gone as well.
            let _ = self.watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for directory in wanted {
            let known = self.watched.contains(&directory);
            match if known { Ok(()) } else { self.watcher.watch(&directory, RecursiveMode::NonRecursive) } {
                Ok(()) => {
                    watched.insert(directory);
                }
                Err(error) => log::warn!("cannot watch {}: {error}; reload with SIGHUP", directory.display()),
            }
        }
        self.watched = watched;
    }

    /// Resolves once something has changed and been left alone for a moment.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        while tokio::time::timeout(QUIET, self.events.recv()).await.is_ok_and(|event| event.is_some()) {}
    }
}

fn directories(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    };
    let mut directories = vec![parent(file)];
    directories.extend(file.canonicalize().ok().map(|real| parent(&real)));
    directories
}
