//! Wrong configurations as data (`tests/wrong/*.yaml`), as they are written by those who know another gateway or mistype YAML:
//! what is told first must stand at the place, say what is wrong and lead to the mend. Where the mend is a
//! file, that one has no problem.

use std::{fmt::Write as _, fs, path::Path};

use serde::Deserialize;
use serde_json::json;
use tidegate::{
    config::{self, Problems},
    filter, snapshot,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What of it is not written here is put behind it, see [`whole`].
    wrong: String,
    /// `line:column` and the path, as they are told.
    at: String,
    /// A part of the message.
    says: String,
    /// A part of the hint.
    mend: String,
    /// The same, as it was meant.
    right: Option<String>,
}

#[test]
fn wrong_configurations_lead_to_the_mend() {
    let (mut all, mut missed) = (0, String::new());
    let mut misses = 0;
    for (name, cases) in tables() {
        for case in cases {
            all += 1;
            let told = problems(&case.wrong).map(|problems| problems.to_string()).unwrap_or_default();
            let first = told.lines().next().unwrap_or_default();
            let place = format!("g.yaml:{}: ", case.at);
            if !(first.starts_with(&place) && first.contains(&case.says) && first.contains(&case.mend)) {
                misses += 1;
                let Case { wrong, at, says, mend, .. } = &case;
                writeln!(missed, "{name}:\n{wrong}expected {at}: ... {says} ... {mend}\nfound    {told}\n")
                    .unwrap();
            }
        }
    }
    assert!(all >= 250, "only {all} cases");
    println!("{} of {all} wrong configurations lead straight to the mend", all - misses);
    assert_eq!(misses, 0, "{missed}");
}

#[test]
fn the_mends_are_fine() {
    let mut mended = 0;
    for (name, cases) in tables() {
        for right in cases.into_iter().filter_map(|case| case.right) {
            let told = problems(&right).map(|problems| problems.to_string());
            assert_eq!(told, None, "{name}:\n{right}");
            mended += 1;
        }
    }
    assert!(mended >= 150, "only {mended} mends");
}

/// Whatever filter it is, and whatever stands in the place of its options: what is told can be pasted.
#[test]
fn a_filter_in_the_wrong_shape_is_led_to_the_right_one() {
    let with = |name: &str, options: &str| {
        problems(&format!("routes: [{{upstream: u, filters: [{{{name}: {options}}}]}}]\n"))
    };
    let mut pasted = 0;
    for name in filter::Registry::built_in().schemas().keys() {
        for wrong in ["true", "7", "word", "[word]"] {
            // Their shape is right: a size, a plugin's name, a target.
            let is_right =
                [("body_limit", "7"), ("body_limit", "word"), ("wasm", "word"), ("redirect", "word")];
            if is_right.contains(&(name.as_str(), wrong)) {
                continue;
            }
            let told = with(name, wrong).map(|problems| problems.to_string());
            let told = told.unwrap_or_else(|| panic!("{name}: {wrong} has no problem"));
            let mend =
                told.split_once(&format!("(write `{name}: ")).and_then(|(_, mend)| mend.split_once('`'));
            let (mend, _) = mend.unwrap_or_else(|| panic!("{name}: {wrong}: {told}"));
            if mend.contains("...") || mend == "NAME" {
                continue;
            }
            let mended = mend.replace("${file:PATH}", "0123456789abcdef0123456789abcdef");
            let told = with(name, &mended).map(|problems| problems.to_string());
            // That is said of another place.
            let told = told.filter(|told| !told.contains("`grpc_web` needs an upstream that speaks HTTP/2"));
            assert_eq!(told, None, "{name}: {wrong}, and then {mended}");
            pasted += 1;
        }
    }
    assert!(pasted >= 60, "only {pasted}");
}

/// By the schema, in which each secret is one by its type: at and around each, another shape with the secret in it.
#[test]
fn no_message_repeats_what_may_be_a_secret() {
    let schema = config::Config::json_schema(&filter::Registry::built_in().schemas());
    let mut paths = std::collections::BTreeSet::new();
    secrets_below(&schema, &schema, &[], &mut paths);
    // They may stand at many places: one is as good as the other.
    let elsewhere = ["defaults", "listeners", "sidecar"];
    paths.retain(|path| {
        let in_routes = |filters: usize| filters == 2 && path[0] == "routes";
        match path.iter().position(|name| name == "filters") {
            Some(at) => in_routes(at),
            None => !elsewhere.contains(&path[0].as_str()) || path[0] == "listeners",
        }
    });
    let (mut tried, mut told, mut repeated) = (0, 0, String::new());
    for path in &paths {
        for around in 1..=path.len() {
            let is_near = match path.iter().position(|name| name == "filters") {
                Some(at) => around > at + 2,
                None => path[around..].iter().filter(|name| *name != ITEM).count() <= 1,
            };
            // There any text is the name of a file, and is told where there is none.
            let is_place = around == path.len() && path.ends_with(&["jwks".to_owned()]);
            for wrong in (is_near && !is_place).then(|| shapes("0123456789abcdef")).into_iter().flatten() {
                let value = path[1..around].iter().rev().fold(wrong, |inner, name| match name.as_str() {
                    ITEM => json!([inner]),
                    ANY => json!({"x": inner}),
                    name => json!({name: inner}),
                });
                // There any text is the name of a cookie, and is told where it is none.
                if value.pointer("/x/affinity/cookie").is_some_and(serde_json::Value::is_string) {
                    continue;
                }
                let text = format!("{}: {value}\n", path[0]);
                tried += 1;
                let problems = problems(&text).map(|problems| problems.to_string()).unwrap_or_default();
                told += usize::from(!problems.is_empty());
                if problems.contains("0123456789abcdef") {
                    writeln!(repeated, "{text}{problems}").unwrap();
                }
            }
        }
    }
    assert!(paths.len() >= 30 && tried >= 500 && told >= 400, "{} paths, {told} of {tried}", paths.len());
    assert_eq!(repeated, "");
}

const ITEM: &str = "#";
const ANY: &str = "*";

/// What may stand where something else is due.
fn shapes(secret: &str) -> Vec<serde_json::Value> {
    let pair = format!("alice:{secret}");
    vec![
        json!(secret),
        json!(pair),
        json!([secret]),
        json!([pair]),
        json!([[secret]]),
        json!({"x": secret}),
        json!({secret: "x"}),
        json!({"token": secret}),
        json!({"password": [secret]}),
        json!([{"x": secret}]),
        json!([{secret: "x"}]),
        json!({"x": {"y": secret}}),
    ]
}

/// The paths of all values that are secrets by their type.
fn secrets_below(
    schema: &serde_json::Value,
    root: &serde_json::Value,
    path: &[String],
    found: &mut std::collections::BTreeSet<Vec<String>>,
) {
    // Chains and conditions go in circles.
    if path.len() > 12 {
        return;
    }
    let below = |name: &str| [path, &[name.to_owned()]].concat();
    if let Some(target) = schema["$ref"].as_str() {
        match target {
            "#/definitions/Secret" => drop(found.insert(path.to_vec())),
            target => secrets_below(root.pointer(&target[1..]).unwrap(), root, path, found),
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if !["when", "unless", "match"].contains(&name.as_str()) {
            secrets_below(property, root, &below(name), found);
        }
    }
    for (key, name) in [("items", ITEM), ("additionalProperties", ANY)] {
        if schema[key].is_object() {
            secrets_below(&schema[key], root, &below(name), found);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for one in schema[key].as_array().into_iter().flatten() {
            secrets_below(one, root, path, found);
        }
    }
}

#[test]
fn a_secret_in_the_wrong_shape_is_not_repeated() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    for (text, wrong) in [
        (
            "upstreams: {u: {endpoints: ['127.0.0.1:1'], affinity: {cookie: {name: at, keys: SECRET}}}}",
            "keys: expected",
        ),
        (
            "routes: [{upstream: u, filters: [{oidc: {issuer: 'https://id.example', client_id: a, session: SECRET}}]}]",
            "session: expected",
        ),
        // Where another shape is due than the one that holds the secret.
        ("admin: {tokens: SECRET}", "admin.tokens: expected a list, found a string (write `tokens: [{name: "),
        ("admin: SECRET", "admin: expected `false` or a map, found a string"),
        (
            "routes: [{upstream: u, filters: [{basic_auth: 'alice:SECRET'}]}]",
            "found a string (write `basic_auth: {users: ",
        ),
        (
            "routes: [{upstream: u, filters: [{basic_auth: {users: 'alice:SECRET'}}]}]",
            "(write `users: [{name: alice, ",
        ),
        ("routes: [{upstream: u, filters: [{api_key: SECRET}]}]", "(write `api_key: {keys: [{name: "),
        (
            "routes: [{upstream: u, filters: [{api_key: {keys: [SECRET]}}]}]",
            "keys[0]: expected a map, found a string",
        ),
        ("routes: [{upstream: u, filters: [{jwt: SECRET}]}]", "(write `jwt: {issuer: "),
        ("routes: [{upstream: u, filters: [{jwt: {keys: SECRET}}]}]", "(write `keys: {jwks: "),
        // Where nothing of the kind is due.
        ("routes: [{upstream: u, basic_auth: 'alice:SECRET'}]", "filters: [{basic_auth: "),
        ("routes: [{upstream: u, match: {headers: 'authorization: SECRET'}}]", "(write `headers: {"),
        ("routes: [{upstream: 'http://alice:SECRET@a.example'}]", "routes[0].upstream"),
        ("routes: [{proxy_pass: 'http://alice:SECRET@a.example', upstream: u}]", "unknown key `proxy_pass`"),
        // Malformed.
        ("admin: {token: @SECRET}", "malformed YAML"),
        ("routes: [{upstream: u, filters: [{basic_auth: @SECRET}]}]", "malformed YAML"),
        (
            "upstreams:\n  u:\n    affinity:\n      cookie:\n        name: a\n        keys:\n          - @SECRET",
            "malformed YAML",
        ),
    ] {
        let told = problems(&format!("{}\n", text.replace("SECRET", SECRET)));
        let told = told.unwrap_or_else(|| panic!("no problem: {text}")).to_string();
        assert!(told.contains(wrong) && !told.contains(SECRET), "{told}");
    }
}

fn tables() -> Vec<(String, Vec<Case>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut tables: Vec<_> = files
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let cases = serde_yaml::from_str(&fs::read_to_string(&path).unwrap());
            let cases = cases.unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, cases)
        })
        .collect();
    tables.sort_by(|one, other| one.0.cmp(&other.0));
    tables
}

fn problems(text: &str) -> Option<Problems> {
    let live = filter::Live::offline();
    let compiled = config::parse(&whole(text), "g.yaml").and_then(|loaded| snapshot::compile(loaded, &live));
    compiled.err()
}

/// `text` with the sections that it lacks behind it.
fn whole(text: &str) -> String {
    let mut whole = text.to_owned();
    for (key, rest) in [
        ("listeners:", "listeners: [{address: \"127.0.0.1:0\"}]\n"),
        ("routes:", "routes: [{upstream: u}]\n"),
        ("upstreams:", "upstreams: {u: {endpoints: [\"127.0.0.1:9\"]}, b: {endpoints: [\"127.0.0.1:9\"]}}\n"),
    ] {
        if !text.lines().any(|line| line.starts_with(key)) {
            whole.push_str(rest);
        }
    }
    whole
}
