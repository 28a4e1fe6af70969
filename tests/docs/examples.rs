//! Each example passes as it stands, or once the commands in its head have made what it needs.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{files, put_modules, root};

/// A command in the head of an example, for a shell in the repository.
const COMMAND: &str = "#   $ ";

#[test]
fn each_example_passes_once_its_head_is_done() {
    for example in examples() {
        let stage = tempfile::TempDir::new().unwrap();
        let folder = stage.path().join("conf/examples");
        fs::create_dir_all(&folder).unwrap();
        let name = example.file_name().unwrap();
        fs::copy(&example, folder.join(name)).unwrap();
        if name == "plugins.yaml" {
            // They are the reader's.
            put_modules(&folder.join("plugins"));
        }
        let text = fs::read_to_string(&example).unwrap();
        let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(COMMAND)).collect();
        let check = format!("tidegate check -c conf/examples/{}", name.display());
        let script = [&commands[..], &[check.as_str()]].concat().join("\n");
        let ran = shell(stage.path(), &script);
        assert!(
            ran.status.success(),
            "{}:\n{script}\n{}",
            name.display(),
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}

#[test]
fn the_index_of_examples_has_each() {
    let index = fs::read_to_string(root().join("docs/examples.md")).unwrap();
    for example in examples() {
        let link = format!("(../conf/examples/{})", example.file_name().unwrap().display());
        assert!(index.contains(&link), "docs/examples.md lacks {link}");
    }
}

fn examples() -> Vec<std::path::PathBuf> {
    files("conf/examples", "yaml")
}

/// With this build's `tidegate` before all others.
fn shell(directory: &Path, script: &str) -> std::process::Output {
    let built = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]).current_dir(directory).env("PATH", format!("{}:{path}", built.display()));
    shell.output().expect("there is a shell")
}
