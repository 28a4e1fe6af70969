//! The table of what may import what (docs/architecture.md), held true by reading the `use crate::` lines.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules by level, and what each may use of the crate besides itself.
const TABLE: &[(&str, &[&str])] = &[
    ("grpc", &[]),
    ("http", &[]),
    ("kept", &[]),
    ("sharded", &[]),
    ("state_file", &[]),
    ("trace", &[]),
    ("trust", &[]),
    ("resources", &[]),
    ("error", &["grpc"]),
    ("policy", &["error", "grpc"]),
    ("route", &[]),
    ("config", &[]),
    ("observe", &["kept", "policy", "sharded", "trust"]),
    ("identity", &["config", "observe", "state_file", "trust"]),
    ("names", &["observe"]),
    ("fetch", &["names", "observe", "trust"]),
    ("export", &["fetch", "names", "observe", "policy"]),
    ("tls", &["config", "identity", "observe", "trust"]),
    ("etcd", &["config", "trust"]),
    ("redis", &["config", "names", "trust"]),
    ("fleet", &["config", "etcd", "names", "observe", "redis"]),
    ("upkeep", &["fetch", "fleet", "names", "observe", "policy", "state_file", "tls"]),
    ("acme", &["fetch", "fleet", "identity", "names", "observe", "policy", "resources", "state_file", "tls"]),
    ("plugin", &["config", "grpc", "observe", "sharded", "state_file"]),
    (
        "filter",
        &[
            "config", "error", "fetch", "grpc", "http", "identity", "names", "observe", "plugin", "policy",
            "redis", "route", "trace", "trust",
        ],
    ),
    ("convert", &["config", "filter", "names", "route"]),
    (
        "upstream",
        &[
            "config",
            "error",
            "identity",
            "kept",
            "names",
            "observe",
            "policy",
            "sharded",
            "state_file",
            "tls",
            "trust",
        ],
    ),
    (
        "snapshot",
        &[
            "acme", "config", "error", "export", "filter", "fleet", "http", "identity", "kept", "names",
            "observe", "plugin", "policy", "redis", "route", "tls", "trace", "trust", "upkeep", "upstream",
        ],
    ),
    (
        "forward",
        &[
            "config",
            "error",
            "filter",
            "grpc",
            "http",
            "identity",
            "observe",
            "policy",
            "resources",
            "sharded",
            "snapshot",
            "trace",
            "upstream",
        ],
    ),
    (
        "accept",
        &["config", "error", "grpc", "http", "identity", "observe", "policy", "resources", "snapshot", "tls"],
    ),
    (
        "tunnel",
        &["accept", "config", "error", "forward", "observe", "policy", "resources", "snapshot", "upstream"],
    ),
    (
        "proxy",
        &[
            "accept",
            "acme",
            "config",
            "error",
            "filter",
            "forward",
            "grpc",
            "identity",
            "observe",
            "policy",
            "resources",
            "route",
            "snapshot",
            "trace",
            "tunnel",
        ],
    ),
    ("api", &["accept", "config", "identity", "observe", "policy", "tls"]),
    (
        "admin",
        &["acme", "api", "config", "identity", "observe", "policy", "route", "snapshot", "tls", "upstream"],
    ),
    ("wire", &[]),
    (
        "control",
        &[
            "api",
            "config",
            "etcd",
            "identity",
            "names",
            "observe",
            "policy",
            "snapshot",
            "state_file",
            "upstream",
            "wire",
        ],
    ),
];

/// Where Pingora may be named, and where the async runtime may not.
const PINGORA: &[&str] = &["accept", "app", "error", "filter", "forward", "proxy", "tunnel", "upstream"];
const WITHOUT_TOKIO: &[&str] =
    &["config", "error", "grpc", "http", "kept", "policy", "resources", "route", "sharded", "trace", "trust"];

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for (module, file, text) in sources() {
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == module) else { continue };
        for used in crate_modules(&text) {
            if used != module && !allowed.contains(&used.as_str()) {
                broken.push(format!("{}: {module} must not use {used}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn pingora_and_tokio_stay_where_they_belong() {
    let mut broken = Vec::new();
    for (module, file, text) in sources() {
        let code = code(&text);
        if names_pingora(&code) && !PINGORA.contains(&module.as_str()) {
            broken.push(format!("{}: {module} must not know Pingora", file.display()));
        }
        if code.contains("tokio::") && WITHOUT_TOKIO.contains(&module.as_str()) {
            broken.push(format!("{}: {module} must not know tokio", file.display()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_stands_in_the_table() {
    let known: BTreeSet<&str> =
        TABLE.iter().map(|(name, _)| *name).chain(["app", "cli", "fuzzing", "lib", "main"]).collect();
    let unknown: BTreeSet<String> = sources().into_iter().map(|(module, ..)| module).collect();
    let unknown: Vec<&String> = unknown.iter().filter(|module| !known.contains(module.as_str())).collect();
    assert!(unknown.is_empty(), "add to the table: {unknown:?}");
}

/// Each source file with the top-level module it belongs to.
fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("src can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() { walk(&path, files) } else { files.push(path) }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    assert!(files.len() > 50, "only {} files found", files.len());
    let module = |file: &Path| {
        let first = file.strip_prefix(&src).expect("below src").components().next().expect("not empty");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    files
        .into_iter()
        .map(|file| (module(&file), file.clone(), fs::read_to_string(&file).expect("UTF-8")))
        .collect()
}

/// Without comments and without the tests at the end, which may use more.
fn code(text: &str) -> String {
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    production.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// `pingora_core::Error`, but not the word in a text.
fn names_pingora(code: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices("pingora").any(|(at, _)| {
        // In quotes it is where a line of the log comes from.
        let quoted = code[..at].ends_with('"');
        !quoted && code[at..].trim_start_matches(part_of_name).starts_with("::")
    })
}

/// The modules after `crate::`, also inside `use crate::{ .. }`.
fn crate_modules(text: &str) -> BTreeSet<String> {
    let code = code(text);
    let mut modules = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => modules
                .extend(rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().map(str::to_owned)),
            Some(list) => modules.extend(top_level_names(list)),
        }
    }
    modules.remove("test");
    modules
}

fn top_level_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut name) = (0, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut name)),
            _ if depth == 0 => name.push(c),
            _ => {}
        }
    }
    names.push(name);
    let first = |name: &String| name.trim().split("::").next().unwrap_or_default().to_owned();
    names.iter().map(first).filter(|name| !name.is_empty()).collect()
}
