//! What is shown is valid by the schema that editors hold it against: as this gateway reads it, and as programs do that take
//! `on` and `off` for booleans (YAML 1.1).

use std::{
    fs,
    io::Write as _,
    process::{Output, Stdio},
};

use serde_json::{Value, json};

use super::{blocks, files, root};
use crate::support::python;

#[test]
fn all_that_is_shown_is_valid_by_the_schema_whoever_reads_it() {
    let mut shown: Vec<(String, String)> = Vec::new();
    for path in files("conf", "yaml") {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        shown.push((name, fs::read_to_string(&path).unwrap()));
    }
    for page in [files("docs", "md"), vec![root().join("README.md")]].concat() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        let text = fs::read_to_string(&page).unwrap();
        let blocks = blocks(&text).enumerate();
        shown.extend(blocks.map(|(index, block)| (format!("{name}, block {index}"), block.to_owned())));
    }
    assert!(shown.len() > 150, "only {}", shown.len());
    let ran = hold(&shown);
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// It would say nothing of the others if it said nothing of these.
#[test]
fn what_is_not_valid_is_found() {
    for (text, place) in [
        ("routes: [{retry: {on: [5xx]}}]", "routes/0/retry"),
        ("upstreams: {a: {endpoints: [{srv: _a._tcp.b, address: 'c:1'}]}}", "upstreams/a/endpoints"),
        ("routez: []", "routez"),
    ] {
        let ran = hold(&[("it".to_owned(), text.to_owned())]);
        let told = String::from_utf8_lossy(&ran.stdout);
        assert!(!ran.status.success() && told.contains(place), "{text}: {told}");
    }
}

/// Each by its name, with its text and with what the readers of YAML 1.2 make of it.
fn hold(shown: &[(String, String)]) -> Output {
    let all = shown.iter().map(|(name, text)| {
        let read = serde_yaml::from_str(text);
        let mut read: serde_yaml::Value = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        read.apply_merge().unwrap();
        json!({"name": name, "text": text, "read": as_json(read)})
    });
    let all: Vec<Value> = all.collect();
    let mut script = python::script("schema.py");
    script.arg(root().join("conf/schema.json"));
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut script = script.spawn().unwrap();
    script.stdin.take().unwrap().write_all(json!(all).to_string().as_bytes()).unwrap();
    script.wait_with_output().unwrap()
}

/// A key that is a number, such as a status, is text there.
fn as_json(value: serde_yaml::Value) -> Value {
    match value {
        serde_yaml::Value::Sequence(items) => items.into_iter().map(as_json).collect(),
        serde_yaml::Value::Mapping(map) => {
            let text = |key: serde_yaml::Value| match key {
                serde_yaml::Value::String(key) => key,
                other => serde_yaml::to_string(&other).unwrap().trim().to_owned(),
            };
            map.into_iter().map(|(key, value)| (text(key), as_json(value))).collect()
        }
        other => serde_json::to_value(other).unwrap(),
    }
}
