//! The conformance tests of other people's specifications, as data in our words. Those of the Gateway API
//! (<https://github.com/kubernetes-sigs/gateway-api/tree/main/conformance>): objects of Kubernetes, what is sent to the gateway that they
//! become, and what must come of it. Whatever asks for `status` alone is not here, as nobody here writes one.

mod backends;
mod step;
mod world;

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use backends::Pods;
use step::Step;
use world::World;

/// Objects that most of the tests stand on.
const BASE: &str = include_str!("conformance/gateway_api/base.yaml");

/// One test of the suite.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    /// As the suite calls it.
    name: String,
    /// Beside those of `base.yaml`. Without a namespace they are in `default`, and so are the suite's of its `infra`.
    objects: String,
    /// The names in the certificates of Secrets, where it matters.
    #[serde(default)]
    certificates: BTreeMap<String, Vec<String>>,
    /// What runs behind Services that are no ordinary ones.
    #[serde(default)]
    pods: BTreeMap<String, Pods>,
    steps: Vec<Step>,
    /// Why not all of it holds here: the documentation says so too.
    differs: Option<String>,
}

fn tests(file: &str) -> Vec<Test> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/gateway_api").join(file);
    let text = fs::read_to_string(path).unwrap();
    let mut read: serde_yaml::Value =
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    read.apply_merge().unwrap();
    serde_yaml::from_value(read).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Each test has a gateway of its own. One that is known to differ must differ, or the documentation is wrong.
async fn run(file: &str) {
    let mut wrong = Vec::new();
    for test in tests(file) {
        let failures = failures(&test).await;
        match (&test.differs, failures.is_empty()) {
            (None, true) | (Some(_), false) => {}
            (None, false) => wrong.push(format!("{}:\n  {}", test.name, failures.join("\n  "))),
            (Some(_), true) => wrong.push(format!("{} holds: it no longer `differs`", test.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn failures(test: &Test) -> Vec<String> {
    let world = match World::start(test).await {
        Ok(world) => world,
        Err(why) => return vec![why],
    };
    let mut failures = Vec::new();
    for (number, step) in test.steps.iter().enumerate() {
        if let Err(why) = world.run(step).await {
            failures.push(format!("step {}: {why}", number + 1));
        }
    }
    failures
}

macro_rules! files {
    ($($name:ident: $file:literal,)*) => {
        const FILES: &[&str] = &[$($file),*];

        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                run($file).await;
            }
        )*
    };
}

files! {
    http_routes_match_as_the_suite_says: "http-matching.yaml",
    http_filters_do_what_the_suite_says: "http-filters.yaml",
    http_redirects_lead_where_the_suite_says: "http-redirects.yaml",
    http_backends_get_what_the_suite_says: "http-backends.yaml",
    mirrors_get_what_the_suite_says: "mirrors.yaml",
    retries_and_timeouts_are_those_of_the_suite: "retries.yaml",
    calls_go_where_the_suite_says: "grpc.yaml",
    listeners_keep_apart_what_the_suite_says: "listeners.yaml",
    tls_to_backends_is_what_the_suite_says: "backend-tls.yaml",
    connections_go_where_the_suite_says: "streams.yaml",
}

/// The page has one line for each test, and says of those that differ why.
#[test]
fn the_page_lists_the_tests_and_what_differs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/how-to/gateway-api-conformance.md");
    let page = fs::read_to_string(page).unwrap();
    let all: Vec<Test> = FILES.iter().flat_map(|file| tests(file)).collect();
    let holds = all.iter().filter(|test| test.differs.is_none()).count();
    let sum = format!("**{holds} of {}**", all.len());
    assert!(page.contains(&sum), "{sum} is not on the page");
    for test in &all {
        let line = match &test.differs {
            None => format!("| {} | yes |", test.name),
            Some(why) => format!("| {} | no: {why} |", test.name),
        };
        assert!(page.lines().any(|own| own == line), "{line} is not on the page");
    }
    let listed = page.lines().filter(|line| line.contains(" | yes |") || line.contains(" | no: ")).count();
    assert_eq!(listed, all.len(), "the page has lines without a test");
}
