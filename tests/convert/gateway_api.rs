//! `tidegate convert gateway-api`: the files of `gateway_api/` are manifests, what must be said of them, and requests with the answers that the
//! specification and the facts of its conformance tests ask for.

use std::{fs, path::Path, process::Stdio};

use fastrand::Rng;
use tempfile::TempDir;
use tidegate::convert::{Converted, gateway_api};

use super::{
    scenario::{Scenario, certificates, compile, mutant},
    served::Served,
};
use crate::support::tidegate;

fn scenario(name: &str) -> (Scenario, Converted) {
    let scenario = Scenario::read(&format!("gateway_api/{name}"));
    let converted = convert(&scenario.file);
    scenario.check_left(&converted);
    (scenario, converted)
}

fn convert(manifests: &str) -> Converted {
    gateway_api::convert(&[("all.yaml".to_owned(), manifests.to_owned())]).unwrap()
}

async fn run(name: &str) {
    let (scenario, converted) = scenario(name);
    scenario.run(&converted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_matched_as_the_specification_says() {
    run("matching.yaml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_have_the_routes_that_are_attached_to_them() {
    run("listeners.yaml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_change_what_they_name() {
    run("filters.yaml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_get_their_shares_and_wrong_ones_are_errors() {
    run("backends.yaml").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_listeners_and_passthrough_share_a_port() {
    let (_, converted) = scenario("tls.yaml");
    let text = converted.file.to_string();
    let (directory, client) = certificates(&text);
    compile(&text, directory.path()).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let served = Served::start(&text, directory).await;
    let address = served.gateway.address("default/edge:443");
    let seen = client.get(address, "shop.example.com", "/a").await.unwrap();
    assert_eq!(seen["path"], "/a", "{seen}");
    // What passes through comes to a backend that speaks no TLS, so there is no handshake, and no certificate of ours.
    let passed = client.connect(address, "db.example.com").await;
    assert!(passed.is_err(), "db.example.com was terminated");
}

#[tokio::test]
async fn tls_to_backends_is_what_the_policy_says() {
    let (_, converted) = scenario("backend-tls.yaml");
    let text = converted.file.to_string();
    let (directory, _) = certificates(&text);
    compile(&text, directory.path()).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let file: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let tls = |upstream: &str| serde_json::to_value(&file["upstreams"][upstream]["tls"]).unwrap();
    assert_eq!(tls("default/plain:80"), serde_json::Value::Null);
    assert_eq!(
        tls("default/whole:443"),
        serde_json::json!({"verify": {"name": "whole.example.com", "ca": "certs/default/root/ca.crt"}})
    );
    assert_eq!(tls("default/ports:443"), serde_json::json!({"verify": {"name": "ports.example.com"}}));
    assert_eq!(
        tls("default/san:443"),
        serde_json::json!({"verify": {"name": "san.example.com"}, "server_name": "sni.example.com"})
    );
    assert_eq!(tls("default/mail:25"), serde_json::Value::Null, "a policy for another port");
}

#[test]
fn wrong_input_is_reported_and_makes_a_file_that_compiles() {
    let gateway = "kind: Gateway\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: g}\nspec: {listeners: [{name: a, port: 80, protocol: HTTP}]}\n---\n";
    let route = |spec: &str| {
        format!(
            "{gateway}kind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {{name: r}}\nspec: {{{spec}}}\n"
        )
    };
    let port = |port: &str| gateway.replace("80", port);
    let table = [
        ("a: 1".to_owned(), "no object of Kubernetes"),
        ("[]".to_owned(), "no object of Kubernetes"),
        (String::new(), ""),
        (route("rules: [{}]"), "it has no parentRefs"),
        (route("parentRefs: [{name: other}]"), "the files hold no Gateway `default/other`"),
        (route("parentRefs: [{name: g, kind: Service}]"), "Service is no parent here"),
        (route("parentRefs: [{name: g, sectionName: b}]"), "no listener of the Gateway"),
        (route("parentRefs: 1"), "a list is expected here"),
        (route("parentRefs: [{name: g}], hostnames: ['a b']"), "is not a host name"),
        (
            route(
                "parentRefs: [{name: g}], rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]",
            ),
            "is not a regular expression",
        ),
        (route("parentRefs: [{name: g}], rules: [{matches: [{path: {value: 'a'}}]}]"), "must begin with `/`"),
        (route("parentRefs: [{name: g}], rules: [{matches: [{method: get}]}]"), "upper case"),
        (
            route("parentRefs: [{name: g}], rules: [{matches: [{headers: [{name: 'a b', value: c}]}]}]"),
            "is not a header name",
        ),
        (route("parentRefs: [{name: g}], rules: [{backendRefs: [{name: s, port: 70000}]}]"), "1 to 65535"),
        (route("parentRefs: [{name: g}], rules: [{backendRefs: [{name: s}]}]"), "it has no port"),
        (
            route("parentRefs: [{name: g}], rules: [{backendRefs: [{name: '../s', port: 80}]}]"),
            "is no name of a Service",
        ),
        (
            route("parentRefs: [{name: g}], rules: [{filters: [{type: URLRewrite}]}]"),
            "it has no `urlRewrite`",
        ),
        (route("parentRefs: [{name: g}], rules: [{surprise: 1}]"), "surprise: 1 (it has no equal here)"),
        (route("parentRefs: [{name: g}], rules: [{timeouts: {request: 1.5s}}]"), "a duration such as"),
        (port("0"), "1 to 65535"),
        (port("99999999999999999999"), "1 to 65535"),
        (gateway.replace("HTTP}", "UDP}"), "is not spoken here"),
        (gateway.replace("HTTP}", "HTTPS}"), "it has no certificate"),
        (gateway.replace("name: a,", "name: a, hostname: 'a..b',"), "is not a host name"),
    ];
    for (manifests, expected) in table {
        let converted = convert(&manifests);
        let text = converted.file.to_string();
        assert!(expected.is_empty() || text.contains(expected), "{expected:?} is not in\n{text}");
        assert_eq!(expected.is_empty(), converted.left.is_empty(), "{text}");
        compile(&text, Path::new("/")).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    }
    let unreadable = ["a: [", "a: 1\na: 2", "a: &a [*a]", "a: \0"];
    for text in unreadable {
        let problems = gateway_api::convert(&[("x.yaml".into(), text.into())]).unwrap_err().to_string();
        assert!(problems.starts_with("x.yaml:"), "{problems}");
    }
}

/// Mutants of all manifests of these tests, always the same ones.
#[test]
fn no_manifest_makes_the_converter_panic() {
    let mut rng = Rng::with_seed(7);
    for name in
        ["matching.yaml", "listeners.yaml", "filters.yaml", "backends.yaml", "tls.yaml", "backend-tls.yaml"]
    {
        let text = Scenario::read(&format!("gateway_api/{name}")).file;
        for _ in 0..60 {
            let mutant = mutant(&text, &mut rng);
            let Ok(converted) = gateway_api::convert(&[("x.yaml".into(), mutant.clone())]) else { continue };
            let text = converted.file.to_string();
            let (directory, _) = certificates(&text);
            let problems = compile(&text, directory.path()).err().unwrap_or_default();
            // A mutant may name files of its own.
            let is_told = problems.lines().all(|problem| problem.contains("cannot read"));
            assert!(is_told, "{problems}\nof\n{mutant}");
        }
    }
}

#[test]
fn the_command_writes_the_file_and_says_what_is_left() {
    let directory = TempDir::new().unwrap();
    let (scenario, _) = scenario("backends.yaml");
    fs::write(directory.path().join("a.yaml"), scenario.file).unwrap();
    let command = |args: &[&str]| {
        let mut command = tidegate(directory.path());
        command
            .args(["convert", "gateway-api"])
            .args(args)
            .current_dir(directory.path())
            .stdin(Stdio::null());
        command.output().unwrap()
    };
    let strict = command(&["a.yaml", "--strict", "--out", "gateway.yaml"]);
    assert_eq!(strict.status.code(), Some(3));
    let said = String::from_utf8(strict.stderr).unwrap();
    assert!(said.contains("a.yaml:"), "{said}");
    assert!(fs::read_to_string(directory.path().join("gateway.yaml")).unwrap().contains("# a.yaml:"));
    fs::write(directory.path().join("b.yaml"), "a: [").unwrap();
    let unreadable = command(&["b.yaml"]);
    assert_eq!(unreadable.status.code(), Some(1));
    assert!(String::from_utf8(unreadable.stderr).unwrap().contains("b.yaml:"));
}
