//! What the documentation shows works: each of its YAML blocks and each file under `conf` compiles.

mod demo;
mod examples;
mod links;
mod schema;
mod sso;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::json;
use tempfile::TempDir;
use tidegate::{
    config, convert,
    error::Reason,
    filter, grpc,
    identity::{JoinToken, ca::Authority, parse_trust_domain},
    snapshot,
};

use crate::support::certificates::{HOUR, Order, authority, svid, write};
use crate::support::plugins::{module, put};

#[test]
fn every_configuration_in_the_documentation_compiles() {
    // Files that blocks name, as the reader is to have them.
    let stage = TempDir::new().unwrap();
    stage_identity(stage.path());
    stage_parts(stage.path());
    let token = JoinToken::new([0; 32]).unwrap().text();
    let (mut compiled, mut parts) = (0, 0);
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        for (mark, block) in marked(&fs::read_to_string(&page).unwrap()) {
            // A variable that the reader is to set.
            let block =
                block.replace("${env:ADMIN_TOKEN}", "secret").replace("${env:JOIN_TOKEN}", token.expose());
            let block = block
                .replace("${env:OIDC_SECRET}", "secret")
                .replace("${env:OTLP_AUTHORIZATION}", "Bearer secret")
                .replace("${env:SESSION_SECRET}", &"secret".repeat(8))
                .replace("${env:REDIS_PASSWORD}", "secret")
                .replace("${env:SENTINEL_PASSWORD}", "secret")
                .replace("${file:/run/secrets/", "${file:secrets/")
                .replace("/etc/letsencrypt/live/example.com/fullchain.pem", "tls/edge.crt")
                .replace("/etc/letsencrypt/live/example.com/privkey.pem", "tls/edge.key");
            let staged = stage.path().join("page.md").display().to_string();
            let Some(whole) = whole(&format!("{name}: {mark}"), mark, &block) else { continue };
            compile(&name, config::parse(&whole, &staged));
            compiled += 1;
            parts += usize::from(!mark.is_empty());
        }
    }
    assert!(compiled > 20 && parts > 10, "only {compiled} blocks found, and {parts} parts");
}

/// A configuration without a mark would be looked at by nobody: `yaml`, `yaml part` or one of those of `whole`.
#[test]
fn every_block_that_is_yaml_is_marked() {
    let schema = config::Config::json_schema(&filter::Registry::built_in().schemas());
    let known = schema["properties"].as_object().unwrap();
    for page in pages() {
        for block in unmarked(&fs::read_to_string(&page).unwrap()) {
            let Ok(serde_json::Value::Object(map)) = serde_yaml::from_str(&block) else { continue };
            let is_configuration =
                map.iter().any(|(key, value)| known.contains_key(key) || !value.is_string());
            assert!(!is_configuration, "{}: mark this as `yaml`, see `whole`:\n{block}", page.display());
        }
    }
    assert_eq!(
        unmarked("```\na: 1\n```\n```yaml part\nb: 1\n```\n  ```\n  c: 1\n  ```\n"),
        ["a: 1\n", "  c: 1\n"]
    );
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", "md");
    pages.extend(["README.md", "plugins/README.md", "docker/README.md"].map(|page| root().join(page)));
    pages
}

/// A part of a configuration with what it needs to be a whole; none of what is no configuration of ours.
fn whole(name: &str, mark: &str, block: &str) -> Option<String> {
    if mark.is_empty() {
        return Some(block.to_owned());
    }
    let part: serde_json::Value =
        serde_yaml::from_str(block).unwrap_or_else(|error| panic!("{name}: {error}\n{block}"));
    let mut config = match mark {
        "part" => part,
        "part of listeners.tls" => json!({"listeners": [{"address": "127.0.0.1:8000", "tls": part}]}),
        "part of rate_limit" => {
            let mut options = json!({"rate": "10/s"});
            options.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            json!({"routes": [{"filters": [{"rate_limit": options}], "respond": {"body": "hello"}}]})
        }
        "traefik" => {
            let converted = convert::traefik::convert(&[(name.to_owned(), block.to_owned())]).unwrap();
            assert!(converted.left.is_empty(), "{:?}", converted.left);
            return Some(converted.file.to_string());
        }
        // `make deploy-check` renders the chart with them.
        "values" | "prometheus" => return None,
        // Of other programs, and of files that are not there.
        "collector" | "tempo" | "include" => return None,
        other => panic!("{name}: nobody knows what {other:?} is"),
    };
    for (key, value) in [
        ("listeners", json!([{"address": "127.0.0.1:8000"}])),
        ("routes", json!([{"respond": {"body": "hello"}}])),
    ] {
        config.as_object_mut().unwrap().entry(key).or_insert(value);
    }
    Some(config.to_string())
}

/// The files that parts name.
fn stage_parts(directory: &Path) {
    for folder in ["pages", "secrets", "target/plugins"] {
        fs::create_dir_all(directory.join(folder)).unwrap();
    }
    for (file, text) in [
        ("pages/404.html", "<p>{detail}</p>"),
        ("pages/5xx.html", "<p>{detail}</p>"),
        ("pages/5xx.json", "{\"error\": \"{reason}\"}"),
        ("pages/error.html", "<p>{detail}</p>"),
        ("pages/closed.html", "<p>closed</p>"),
        ("secrets/admin", "secret"),
        ("secrets/redis", "secret"),
        ("upstreams.yaml", "upstreams: {shop: {endpoints: [127.0.0.1:9001]}}"),
    ] {
        fs::write(directory.join(file), text).unwrap();
    }
    for (from, to) in [
        ("internal.pem", "tls/redis-ca.crt"),
        ("gateway.pem", "tls/gateway.crt"),
        ("gateway.key", "tls/gateway.key"),
    ] {
        fs::copy(directory.join(from), directory.join(to)).unwrap();
    }
    for plugin in ["api-version", "auth", "cards", "dotfiles"] {
        put(&directory.join("target/plugins"), plugin, &module("headers"));
    }
}

#[test]
fn every_example_compiles() {
    let stage = staged();
    let examples = files(stage.path().join("conf"), "yaml");
    assert!(examples.len() > 3, "only {examples:?}");
    for example in examples {
        compile(&example.display().to_string(), config::load(&example));
    }
}

/// A key whose page says nothing of it, or says it under another name, is as good as not there.
#[test]
fn every_traffic_page_shows_its_key() {
    for (page, keys) in [
        ("splits", &["split:"][..]),
        ("canaries", &["canary:", "state_dir:"]),
        ("retries", &["timeout:", "retry:", "budget:"]),
        ("hedging", &["hedge:"]),
        ("circuit-breakers", &["circuit_breaker:"]),
        ("limits", &["max_requests:", "max_pending:"]),
        ("concurrency", &["concurrency:", "priority:"]),
        ("ejection", &["outlier:", "slow_start:", "panic_threshold:"]),
        ("failover", &["then:"]),
        ("placement", &["priority:", "zone:", "tags:", "subset:"]),
        ("mirroring", &["mirror:"]),
    ] {
        let text = fs::read_to_string(root().join(format!("docs/traffic/{page}.md"))).unwrap();
        let shown: String = blocks(&text).collect();
        for key in keys {
            assert!(shown.contains(key), "docs/traffic/{page}.md: no example shows `{key}`");
        }
    }
}

#[test]
fn the_schema_beside_the_examples_is_the_present_one() {
    let kept = fs::read_to_string(root().join("conf/schema.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let present = config::Config::json_schema(&filter::Registry::built_in().schemas());
    assert!(kept == present, "run `tidegate schema > conf/schema.json`");
}

/// An operator looks up there what the header, the log or the metrics say.
#[test]
fn the_table_of_reasons_has_each_with_its_status() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let told = rows(&page, "## Reasons").map(|cells| {
        let status = cells[1].split(',').next().unwrap_or_default();
        (word(cells[0]), status.to_owned(), cells[1].contains("`Retry-After"))
    });
    // How long a rate limit lasts is not the reason's to say, but the filter's.
    let retries = |reason: Reason| reason.retry_after().is_some() || reason == Reason::RateLimited;
    let real = Reason::ALL
        .map(|reason| (reason.code().to_owned(), reason.status().as_str().to_owned(), retries(reason)));
    assert_same(told.collect(), real.into());
}

/// Code 14 stands for what the rest of its row describes, so only those it names are looked at.
#[test]
fn the_table_of_grpc_statuses_has_each_reason_where_it_belongs() {
    let page = fs::read_to_string(root().join("docs/grpc.md")).unwrap();
    let mut seen = 0;
    for cells in rows(&page, "## Status codes") {
        let code: u8 = cells[0].split(' ').next().unwrap_or_default().parse().expect("a number comes first");
        for word in cells[1].split('`').skip(1).step_by(2) {
            let Some(reason) = Reason::from_code(word) else { continue };
            assert_eq!(reason.grpc_status(), Some(code), "docs/grpc.md: {word}");
            seen += 1;
        }
        assert_eq!(
            cells[0].split_once(' ').map(|(_, name)| name.replace(' ', "_")).as_deref(),
            grpc::name(code)
        );
    }
    assert!(seen > 15, "only {seen} reasons found");
}

/// The cells of the first table below `heading`, without its head.
fn rows<'a>(page: &'a str, heading: &str) -> impl Iterator<Item = Vec<&'a str>> {
    let (_, below) = page.split_once(heading).unwrap_or_else(|| panic!("no {heading:?}"));
    let lines =
        below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    lines.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn word(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

fn assert_same(mut told: Vec<(String, String, bool)>, mut real: Vec<(String, String, bool)>) {
    told.sort();
    real.sort();
    assert_eq!(told, real, "docs/operations.md beside `Reason` (code, status, Retry-After)");
}

/// `conf` with the files that its examples name.
pub(crate) fn staged() -> TempDir {
    let stage = TempDir::new().unwrap();
    let conf = root().join("conf");
    for file in [files(&conf, "yaml"), files(&conf, "json")].concat() {
        let copy = stage.path().join("conf").join(file.strip_prefix(&conf).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
    stage_identity(&stage.path().join("conf/examples"));
    put_modules(&stage.path().join("conf/examples/plugins"));
    stage
}

fn put_modules(directory: &Path) {
    fs::create_dir(directory).unwrap();
    put(directory, "waf", &module("headers"));
    put(directory, "coraza", &module("headers"));
    put(directory, "auth", &module("asks"));
}

fn stage_identity(directory: &Path) {
    let domain = parse_trust_domain("mesh.local").unwrap();
    let ca = Authority::new(domain, 24 * HOUR, SystemTime::now()).unwrap();
    ca.write_to(&directory.join("ca")).unwrap();
    let root = authority("mesh.local");
    root.issue(&svid("spiffe://mesh.local/edge")).write_to(directory, &root);
    write(&directory.join("other.pem"), &authority("other.org").pem(), 0o644);
    fs::create_dir(directory.join("tls")).unwrap();
    for name in ["edge", "shop"] {
        let names = Order { dns: vec![format!("{name}.example.com")], uris: Vec::new(), ..svid("") };
        let server = root.issue(&names);
        write(&directory.join(format!("tls/{name}.crt")), &server.pem(), 0o644);
        write(&directory.join(format!("tls/{name}.key")), &server.key_pem(), 0o600);
    }
    let client = root.issue(&Order { dns: vec!["tidegate".to_owned()], uris: Vec::new(), ..svid("") });
    write(&directory.join("internal.pem"), &root.pem(), 0o644);
    write(&directory.join("gateway.pem"), &client.pem(), 0o644);
    write(&directory.join("gateway.key"), &client.key_pem(), 0o600);
    write(&directory.join("etcd-ca.pem"), &root.pem(), 0o644);
    write(&directory.join("etcd-client.pem"), &client.pem(), 0o644);
    write(&directory.join("etcd-client.key"), &client.key_pem(), 0o600);
    write(&directory.join("tls/clients.pem"), &root.pem(), 0o644);
}

fn compile(name: &str, loaded: Result<config::Loaded, config::Problems>) {
    let loaded = loaded.unwrap_or_else(|problems| panic!("{name}:\n{problems}"));
    snapshot::compile(loaded, &filter::Live::offline())
        .unwrap_or_else(|problems| panic!("{name}:\n{problems}"));
}

/// What stands between "```yaml" and "```".
fn blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```yaml\n").skip(1).map(|from| from.split_once("```").expect("the block ends").0)
}

/// What stands between "```yaml MARK" and "```", with the mark.
fn marked(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.split("```yaml").skip(1).map(|from| {
        let (mark, block) = from.split_once('\n').expect("the line ends");
        (mark.trim(), block.split_once("```").expect("the block ends").0)
    })
}

/// Blocks of which nothing says what they are.
fn unmarked(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in page.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut open) {
            (Some(mark), None) => open = Some((mark.trim().is_empty(), String::new())),
            (Some(_), Some(_)) => {
                found.extend(open.take().filter(|(is_unmarked, _)| *is_unmarked).map(|(_, text)| text))
            }
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

fn files(folder: impl AsRef<Path>, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the folder can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), extension, &mut found);
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// It is what an editor shows first.
#[test]
fn every_property_of_the_schema_is_described() {
    fn look(schema: &serde_json::Value, at: &str, missing: &mut Vec<String>) {
        match schema {
            serde_json::Value::Object(object) => {
                for (name, property) in
                    object.get("properties").and_then(|all| all.as_object()).into_iter().flatten()
                {
                    let told = property.get("description").and_then(|told| told.as_str()).unwrap_or_default();
                    if property.is_object() && told.is_empty() {
                        missing.push(format!("{at}.{name}"));
                    }
                }
                object.iter().for_each(|(key, value)| look(value, &format!("{at}/{key}"), missing));
            }
            serde_json::Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, item)| look(item, &format!("{at}/{index}"), missing));
            }
            _ => {}
        }
    }
    let mut missing = Vec::new();
    look(&config::Config::json_schema(&filter::Registry::built_in().schemas()), "", &mut missing);
    assert!(missing.is_empty(), "without a description: {missing:#?}");
}
