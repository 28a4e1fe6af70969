//! Compiled modules on the disk, so that a start of the gateway does not compile them again: the largest take more than ten
//! seconds. Such a file is machine code, which runs outside the sandbox. So only what this very user has written is read, in a folder
//! that is closed to all others; and only for this engine, and as it was written.

use std::{
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use openssl::sha::sha256;
use wasmtime::{Engine, Module};

use super::{
    lines::{self, Early},
    table::digits,
};
use crate::state_file;

/// So many are kept: those that were used last.
const MOST_FILES: usize = 16;
/// Compiled code has several times the size of a module, and the largest of those have 20 MB.
const LARGEST: u64 = 512 * 1024 * 1024;

pub(super) struct Cache {
    folder: PathBuf,
    /// Whose modules they are, and what tells of problems.
    plugin: Arc<str>,
    early: Arc<Early>,
}

impl Cache {
    pub(super) fn within(state_dir: &Path, plugin: &str, early: &Arc<Early>) -> Cache {
        Cache { folder: state_dir.join("plugins"), plugin: plugin.into(), early: early.clone() }
    }

    /// What was compiled before of a module with this hash.
    pub(super) fn find(&self, engine: &Engine, module: &[u8; 32]) -> Option<Module> {
        let path = self.path(engine, module);
        let found = match fs::symlink_metadata(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            _ => check_folder(&self.folder).and_then(|()| state_file::read(&path, LARGEST)),
        };
        let read = found.and_then(|found| found.map(|bytes| read(engine, &bytes)).transpose());
        match read {
            Ok(found) => {
                if found.is_some() {
                    touch(&path);
                }
                found
            }
            Err(problem) => {
                self.warn("a compiled plugin cannot be used, and is compiled again", &path, &problem);
                None
            }
        }
    }

    /// For the next start. Nothing depends on it.
    pub(super) fn keep(&self, engine: &Engine, module: &[u8; 32], compiled: &Module) {
        let path = self.path(engine, module);
        if let Err(problem) = self.write(&path, compiled) {
            self.warn("a compiled plugin cannot be kept", &path, &problem);
        }
        self.forget_oldest();
    }

    /// There may be no log yet.
    fn warn(&self, what: &str, path: &Path, problem: &str) {
        let line = format!("{what}: {}: {problem}", path.display());
        if !self.early.keeps(log::Level::Warn, &self.plugin, &line) {
            lines::write(log::Level::Warn, &self.plugin, None, &line);
        }
    }

    fn write(&self, path: &Path, compiled: &Module) -> Result<(), String> {
        let parent = self.folder.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
            _ => check_folder(&self.folder)?,
        }
        let code = compiled.serialize().map_err(|error| format!("{error:#}"))?;
        let mut content = sha256(&code).to_vec();
        content.extend_from_slice(&code);
        state_file::write(path, 0o600, &content).map_err(|error| error.to_string())
    }

    fn path(&self, engine: &Engine, module: &[u8; 32]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{}-{:016x}", digits(module), hasher.finish()))
    }

    fn forget_oldest(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let dated = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
        let mut files: Vec<(SystemTime, PathBuf)> = entries.flatten().filter_map(dated).collect();
        files.sort();
        let surplus = files.len().saturating_sub(MOST_FILES);
        for (_, file) in files.drain(..surplus) {
            // Whoever is quicker may have taken it away.
            let _ = fs::remove_file(file);
        }
    }
}

fn read(engine: &Engine, bytes: &[u8]) -> Result<Module, String> {
    let (hash, code) = bytes.split_first_chunk::<32>().ok_or("it is cut off")?;
    if sha256(code) != *hash {
        return Err("it is not as it was written".to_owned());
    }
    // SAFETY: it is what an engine has written, to the byte; nobody but this user could have put it there, and the engine refuses
    // what another one has made.
    let module = unsafe { Module::deserialize(engine, code) };
    module.map_err(|error| format!("{error:#}"))
}

fn check_folder(folder: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
    let user = rustix::process::geteuid().as_raw();
    let name = folder.display();
    match found {
        found if !found.is_dir() => Err(format!("{name} is no folder")),
        found if found.uid() != user => Err(format!("{name} belongs to the user {}, not to us", found.uid())),
        found if found.mode() & 0o077 != 0 => {
            Err(format!("{name} is open to others (try `chmod 700 {name}`)"))
        }
        _ => Ok(()),
    }
}

/// It was used just now.
fn touch(path: &Path) {
    let touched = File::options().write(true).open(path);
    let _ = touched.and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A module that needs nothing.
    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    fn kept() -> (tempfile::TempDir, Cache, Engine, [u8; 32]) {
        let directory = tempfile::TempDir::new().unwrap();
        let (cache, engine) =
            (Cache::within(&directory.path().join("state"), "p", &Arc::default()), Engine::default());
        let hash = sha256(EMPTY);
        assert!(cache.find(&engine, &hash).is_none());
        cache.keep(&engine, &hash, &Module::new(&engine, EMPTY).unwrap());
        assert!(cache.find(&engine, &hash).is_some());
        (directory, cache, engine, hash)
    }

    #[test]
    fn what_is_not_as_it_was_written_is_not_used() {
        let (_directory, cache, engine, hash) = kept();
        let path = cache.path(&engine, &hash);
        let good = fs::read(&path).unwrap();
        let mut turned = good.clone();
        *turned.last_mut().unwrap() ^= 1;
        for wrong in [&turned[..], &good[..good.len() - 1], &good[..20], b""] {
            fs::write(&path, wrong).unwrap();
            assert!(cache.find(&engine, &hash).is_none());
        }
        fs::write(&path, &good).unwrap();
        assert!(cache.find(&engine, &hash).is_some());
    }

    #[test]
    fn what_others_could_have_written_is_not_used() {
        let (_directory, cache, engine, hash) = kept();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let path = cache.path(&engine, &hash);
        set(&path, 0o620);
        assert!(cache.find(&engine, &hash).is_none());
        set(&path, 0o600);
        set(&cache.folder, 0o750);
        assert!(cache.find(&engine, &hash).is_none());
        set(&cache.folder, 0o700);
        assert!(cache.find(&engine, &hash).is_some());
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &path).unwrap();
        assert!(cache.find(&engine, &hash).is_none());
    }

    #[test]
    fn only_those_that_were_used_last_are_kept() {
        let (_directory, cache, engine, _) = kept();
        let module = Module::new(&engine, EMPTY).unwrap();
        for number in 0..20 {
            cache.keep(&engine, &[number; 32], &module);
        }
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), MOST_FILES);
        assert!(cache.find(&engine, &[19; 32]).is_some());
    }
}
