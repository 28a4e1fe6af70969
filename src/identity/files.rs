//! Reading certificates and keys, and writing new ones so that nobody ever sees a key who should not, and nothing that
//! is there is lost.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::CaError;

/// Far above any chain or bundle; far below what a mistyped device or log file would bring in.
const LARGEST: u64 = 4 * 1024 * 1024;

/// # Errors
///
/// In words for an operator, without the path.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content));
    match read {
        Ok(_) if content.len() as u64 > LARGEST => Err("it is larger than 4 MiB".into()),
        Ok(_) => Ok(content),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".into(),
            io::ErrorKind::PermissionDenied => "permission denied".into(),
            io::ErrorKind::IsADirectory => "it is a directory".into(),
            _ => error.to_string().to_lowercase(),
        }),
    }
}

/// Whether others than its owner can read it.
pub(super) fn is_exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

/// New files in `directory`, each with its mode from the first moment on; all of them or none.
pub(super) fn create(directory: &Path, mode: u32, files: &[(&str, &[u8], u32)]) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|error| CaError::Write(directory.to_owned(), error.to_string().to_lowercase()))?;
    let mut written: Vec<PathBuf> = Vec::new();
    for (name, content, mode) in files {
        let path = directory.join(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(*mode).open(&path);
        let outcome = made.and_then(|mut file| {
            written.push(path.clone());
            file.write_all(content)?;
            file.sync_all()
        });
        if let Err(error) = outcome {
            for path in written {
                // Ours, made a moment ago.
                let _ = fs::remove_file(path);
            }
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => CaError::Exists(path),
                _ => CaError::Write(path, error.to_string().to_lowercase()),
            });
        }
    }
    Ok(())
}

/// What tells that files are others than before: also behind a symlink that is swapped, as Kubernetes does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Print(Vec<Option<Mark>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change, of the content or of the permissions.
    changed: (i64, i64),
}

impl Print {
    pub(crate) fn of(paths: &[PathBuf]) -> Print {
        let mark = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some(Mark {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.len(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            })
        };
        Print(paths.iter().map(mark).collect())
    }
}
