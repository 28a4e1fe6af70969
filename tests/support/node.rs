//! What `make node` has installed of npm's.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::installed::installed;

/// A script of this folder, whose first argument is the module that it needs.
pub(crate) fn script(name: &str, module: &str) -> Command {
    let mut command = installed("node");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name))
        .arg(of_package(module));
    command
}

fn of_package(path: &str) -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/node/node_modules").join(path);
    assert!(made.exists(), "{path} is missing in target/tools/node: run `make node`");
    made
}
