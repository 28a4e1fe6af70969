//! The Python that `make python` has made, with clients and servers of other people in it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::Process;

/// A script of this folder.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name));
    command
}

pub(crate) fn python() -> PathBuf {
    made("bin/python")
}

/// A file of a package.
pub(crate) fn of_package(path: &str) -> PathBuf {
    let versions = made("lib").read_dir().unwrap().map(|version| version.unwrap().path());
    let places = versions.map(|version| version.join("site-packages").join(path));
    places.into_iter().find(|place| place.exists()).unwrap_or_else(|| missing(path))
}

fn made(path: &str) -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python").join(path);
    if made.exists() { made } else { missing(path) }
}

fn missing(what: &str) -> ! {
    panic!("{what} is missing in target/tools/python: run `make python`")
}

/// A script that serves: the first that it prints is its port.
pub(crate) struct PythonServer {
    address: SocketAddr,
    pub(crate) process: Process,
}

impl PythonServer {
    pub(crate) async fn start(name: &str, arguments: &[&str]) -> PythonServer {
        let mut command = script(name);
        command.args(arguments);
        let process = Process::spawn_with_input(command);
        let port = process.find("its port", |line| line.parse().ok()).await;
        PythonServer { address: SocketAddr::from(([127, 0, 0, 1], port)), process }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
