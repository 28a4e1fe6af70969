//! Plugins of the tests, written by hand: `tests/plugins/wat`, each behind what all of them begin with.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The module `tests/plugins/wat/NAME.wat`.
pub(crate) fn module(name: &str) -> Vec<u8> {
    written(&std::fs::read_to_string(folder().join(name).with_extension("wat")).unwrap())
}

/// A module with these functions.
pub(crate) fn written(functions: &str) -> Vec<u8> {
    let prelude = std::fs::read_to_string(folder().join("prelude.txt")).unwrap();
    wat::parse_str(format!("(module\n{prelude}\n{functions})")).unwrap_or_else(|error| panic!("{error}"))
}

/// A directory with these modules, each as NAME.wasm.
pub(crate) fn directory_with(names: &[&str]) -> TempDir {
    let directory = TempDir::new().unwrap();
    for name in names {
        put(directory.path(), name, &module(name));
    }
    directory
}

/// Where a reload finds it whole.
pub(crate) fn put(directory: &Path, name: &str, module: &[u8]) {
    let new = directory.join(format!("{name}.new"));
    std::fs::write(&new, module).unwrap();
    std::fs::rename(new, directory.join(name).with_extension("wasm")).unwrap();
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins/wat")
}
