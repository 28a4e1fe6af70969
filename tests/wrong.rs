//! Wrong configurations as data (`tests/wrong/*.yaml`), as they are written by those who know another gateway or mistype YAML:
//! what is told first must stand at the place, say what is wrong and lead to the mend. Where the mend is a
//! file, that one has no problem.

use std::{fmt::Write as _, fs, path::Path};

use serde::Deserialize;
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
    ] {
        let told = problems(&format!("{}\n", text.replace("SECRET", SECRET))).unwrap().to_string();
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
