//! Plugins of the tests, written by hand: `tests/plugins/wat`, each behind what all of them begin with.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The module `tests/plugins/wat/NAME.wat`.
pub(crate) fn module(name: &str) -> Vec<u8> {
    written(&std::fs::read_to_string(folder().join(name).with_extension("wat")).unwrap())
}

/// A module with these functions.
pub(crate) fn written(functions: &str) -> Vec<u8> {
    written_for("0_2_1", functions)
}

/// The same for another version of the ABI.
pub(crate) fn written_for(version: &str, functions: &str) -> Vec<u8> {
    let allocator = std::fs::read_to_string(folder().join("allocator.txt")).unwrap();
    compiled(version, &allocator, functions)
}

/// The same with an allocator of its own, whose function is this.
pub(crate) fn written_with_allocator(body: &str, functions: &str) -> Vec<u8> {
    let allocator =
        format!(r#"(func (export "proxy_on_memory_allocate") (param $size i32) (result i32) {body})"#);
    compiled("0_2_1", &allocator, functions)
}

fn compiled(version: &str, allocator: &str, functions: &str) -> Vec<u8> {
    let prelude = std::fs::read_to_string(folder().join("prelude.txt")).unwrap();
    let prelude = prelude.replace("@VERSION", version).replace("@ALLOCATOR", allocator);
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
