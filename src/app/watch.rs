//! `watch: true`: reload when a configuration file changes.
//!
//! Editors replace a file by renaming another over it, and Kubernetes swaps a symlink beside it; a watch on the file
//! itself would see either once and then hold on to the old one. So the directories are watched, and the reload finds
//! out by itself whether anything has changed. What is written into other files there, such as a log, is passed over.
//!
//! Which files there are is known only when they have been read. So whenever a directory comes to be watched, what was read
//! there before may be old already, and is to be looked at again.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::ModifyKind};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// A save is several events: wait until they have been quiet this long.
const QUIET: Duration = Duration::from_millis(100);
/// In a directory where something always happens, wait no longer than this.
const LONGEST: Duration = Duration::from_secs(1);

pub(crate) struct FileWatch {
    /// Watches while it lives.
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    /// The files themselves, under the names that events give them.
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    events: mpsc::Receiver<()>,
    /// When the change was first seen that is waiting to be left alone.
    seen: Option<Instant>,
    /// A directory is watched from now on, and what was read there before may have changed since.
    is_behind: bool,
}

/// Why the files are to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    Seen,
    /// They were read before they were watched.
    Perhaps,
}

impl FileWatch {
    /// # Errors
    ///
    /// The system has no more watches to give.
    pub(crate) fn new() -> notify::Result<FileWatch> {
        let (sender, events) = mpsc::channel(1);
        let files: Arc<Mutex<BTreeSet<PathBuf>>> = Arc::default();
        let ours = files.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let ours = ours.lock().unwrap_or_else(PoisonError::into_inner);
            let harmless = event.is_ok_and(|event| is_harmless(&event, &ours));
            if !harmless {
                // Full means that a change is waiting to be seen already.
                let _ = sender.try_send(());
            }
        })?;
        Ok(FileWatch { watcher, watched: BTreeSet::new(), files, events, seen: None, is_behind: false })
    }

    /// Watch the directories of these files, and those that their symlinks lead through.
    pub(crate) fn follow(&mut self, files: &[PathBuf]) {
        let files: BTreeSet<PathBuf> = files.iter().flat_map(|file| names(file)).collect();
        let wanted: BTreeSet<PathBuf> = files.iter().map(|file| existing(parent(file))).collect();
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
        for gone in self.watched.difference(&wanted) {
            // The directory may be gone as well.
            let _ = self.watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for directory in wanted {
            let known = self.watched.contains(&directory);
            match if known { Ok(()) } else { self.watcher.watch(&directory, RecursiveMode::NonRecursive) } {
                Ok(()) => {
                    self.is_behind |= !known;
                    watched.insert(directory);
                }
                Err(error) => log::warn!("cannot watch {}: {error}; reload with SIGHUP", directory.display()),
            }
        }
        self.watched = watched;
    }

    /// Resolves once something has changed and been left alone for a moment. May be dropped and asked again: a change
    /// that was seen is not forgotten.
    pub(crate) async fn changed(&mut self) -> Changed {
        if std::mem::take(&mut self.is_behind) {
            return Changed::Perhaps;
        }
        if self.seen.is_none() && self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let latest = *self.seen.get_or_insert_with(Instant::now) + LONGEST;
        loop {
            let quiet = latest.min(Instant::now() + QUIET);
            if !matches!(timeout_at(quiet, self.events.recv()).await, Ok(Some(())))
                || Instant::now() >= latest
            {
                break;
            }
        }
        self.seen = None;
        Changed::Seen
    }
}

/// Names that come and go may be a link on the way to our files, whatever they are called; but the content of a file
/// matters only when it is one of ours.
fn is_harmless(event: &Event, ours: &BTreeSet<PathBuf>) -> bool {
    match event.kind {
        EventKind::Access(_) => true,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            !event.paths.iter().any(|path| ours.contains(path))
        }
        _ => false,
    }
}

/// The file in its directory, and where its symlinks lead.
fn names(file: &Path) -> Vec<PathBuf> {
    let given = file.file_name().map(|name| parent(file).join(name));
    given.into_iter().chain(file.canonicalize().ok()).collect()
}

/// The directory, or the nearest above it until there is one.
fn existing(directory: PathBuf) -> PathBuf {
    let found = directory.ancestors().find(|directory| directory.is_dir()).map(Path::to_owned);
    found.filter(|found| !found.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("."))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Nothing is waited for in vain: what is not there within this is a failure.
    async fn changed(watch: &mut FileWatch) -> Changed {
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, watch.changed()).await.expect("a change that is not seen")
    }

    #[tokio::test]
    async fn what_was_read_before_it_was_watched_is_looked_at_again_once() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = [one.path().join("gateway.yaml"), other.path().join("routes.yaml")];
        files.iter().for_each(|file| fs::write(file, "one").unwrap());
        let mut watch = FileWatch::new().unwrap();
        for files in [&files[..1], &files] {
            watch.follow(files);
            assert_eq!(changed(&mut watch).await, Changed::Perhaps);
        }
        watch.follow(&files);
        fs::write(&files[1], "two").unwrap();
        assert_eq!(changed(&mut watch).await, Changed::Seen);
    }

    #[tokio::test]
    async fn what_is_watched_already_is_not_looked_at_again_and_again() {
        let mut watch = FileWatch::new().unwrap();
        let missing = [PathBuf::from("/nowhere/at/all/gateway.yaml")];
        watch.follow(&missing);
        assert_eq!(watch.changed().await, Changed::Perhaps);
        watch.follow(&missing);
        assert!(!watch.is_behind);
    }
}
