//! What was compiled once is found again by the next process, where there is a folder for it.

use std::os::unix::fs::PermissionsExt;

use super::yaml;
use crate::support::{
    Backend, Gateway,
    plugins::{directory_with, module, put},
    send,
};

fn kept(gateway: &Gateway) -> Vec<std::path::PathBuf> {
    let folder = gateway.directory().join("state/plugins");
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_modules_are_kept_for_the_next_start_and_damaged_ones_are_not_run() {
    let backend = Backend::start().await;
    let yaml = format!("state_dir: state\n{}", yaml(&backend, "headers", "instances: 1"));
    let gateway = Gateway::start_in(directory_with(&["headers"]), &yaml, &[]).await;
    let files = kept(&gateway);
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let written = std::fs::read(&files[0]).unwrap();
    // Damaged, and what it was before: neither hurts.
    for damaged in [true, false] {
        let directory = directory_with(&["headers"]);
        let folder = directory.path().join("state/plugins");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut copy = written.clone();
        if damaged {
            *copy.last_mut().unwrap() ^= 0xff;
        }
        let file = folder.join(files[0].file_name().unwrap());
        std::fs::write(&file, copy).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let next = Gateway::start_in(directory, &yaml, &[]).await;
        let answer = send(next.address("main"), "GET", "/headers", &[], "").await;
        assert!(answer.text().contains(r#"["x-plugin","was here"]"#), "{}", answer.text());
        let is_told = next.lines().iter().any(|line| {
            line["msg"].as_str().is_some_and(|text| text.contains("a compiled plugin cannot be used"))
        });
        assert_eq!(is_told, damaged);
        // Compiled again, it is as it was.
        assert_eq!(std::fs::read(&file).unwrap().len(), written.len());
    }
    // Another module is another file, and a reload that goes back compiles nothing.
    put(gateway.directory(), "headers", &module("ends"));
    gateway.reload(&yaml).await;
    assert_eq!(kept(&gateway).len(), 2);
}
