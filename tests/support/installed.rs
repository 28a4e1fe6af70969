//! Servers of Debian's packages: installed, or taken out of their packages by `make servers`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// How to start `name`.
pub(crate) fn installed(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    if let Some(found) =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists())
    {
        return Command::new(found);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/debian/usr");
    let places = ["bin", "sbin"].map(|folder| root.join(folder).join(name));
    let found = places.into_iter().find(|file| file.exists());
    let found = found.unwrap_or_else(|| panic!("{name} is missing: run `make servers`"));
    let mut command = Command::new(found);
    if let Some(libraries) = libraries(&root) {
        command.env("LD_LIBRARY_PATH", &libraries);
        if name == "rsyslogd" {
            command.arg("-M").arg(libraries.join("rsyslog"));
        }
    }
    command
}

/// `lib/x86_64-linux-gnu`, as this machine calls it.
fn libraries(root: &Path) -> Option<PathBuf> {
    let folders = root.join("lib").read_dir().ok()?.map(|folder| folder.unwrap().path());
    folders.into_iter().find(|folder| folder.join("rsyslog").join("imudp.so").exists())
}
