//! `tidegate convert traefik`: the files of `traefik/` are configurations, what must be said of them, and requests with the answers that
//! Traefik's documentation promises.

use std::{fs, path::Path, process::Stdio};

use fastrand::Rng;
use tempfile::TempDir;
use tidegate::convert::{Converted, traefik};

use super::scenario::{Scenario, certificates, compile, mutant};
use crate::support::tidegate;

fn scenario(name: &str) -> Scenario {
    Scenario::read(&format!("traefik/{name}"))
}

fn convert(text: &str) -> Converted {
    traefik::convert(&[("all.yaml".to_owned(), text.to_owned())]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_that_traefik_tries_first_gets_the_request() {
    let scenario = scenario("routers.yaml");
    scenario.run(&convert(&scenario.file)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn middlewares_do_as_filters_what_they_did() {
    let scenario = scenario("middlewares.yaml");
    scenario.run(&convert(&scenario.file)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_entry_points_are_what_they_were() {
    let scenario = scenario("services.yaml");
    let converted = convert(&scenario.file);
    scenario.run(&converted).await;
    let file: serde_json::Value = serde_yaml::from_str(&converted.file.to_string()).unwrap();
    let tuned = &file["upstreams"]["tuned"];
    assert_eq!((&tuned["connect_timeout"], &tuned["read_timeout"]), (&"2s".into(), &"5s".into()));
    let then = |name: &str| file["upstreams"][name]["then"].clone();
    assert_eq!(
        (then("fallen"), then("deep"), then("one")),
        ("two".into(), "fallen".into(), serde_json::Value::Null)
    );
    assert_eq!(tuned["affinity"], serde_json::json!({"cookie": "sid"}));
    assert_eq!(tuned["health_check"]["interval"], "1s");
    assert_eq!(file["listeners"][2]["tls"]["min_version"], "1.3");
    assert_eq!(file["listeners"][1]["limits"]["idle_timeout"], "180s");
    assert_eq!(file["shutdown"]["grace"], "12s");
    assert_eq!(file["log"]["access"]["when"]["status"], serde_json::json!([200, "400-599"]));
    let mirrored =
        file["routes"].as_array().unwrap().iter().find(|route| route["name"] == "mirrored").unwrap();
    assert_eq!(mirrored["mirror"], serde_json::json!({"upstream": "two", "ratio": "100%"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_without_entry_points_are_on_all_of_them() {
    let scenario = scenario("defaults.yaml");
    let converted = convert(&scenario.file);
    scenario.run(&converted).await;
    let file: serde_json::Value = serde_yaml::from_str(&converted.file.to_string()).unwrap();
    let listeners: Vec<_> = file["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|listener| (listener["address"].clone(), listener.get("tls").is_some()))
        .collect();
    assert_eq!(listeners, [(":80".into(), false), (":443".into(), true)]);
}

#[test]
fn connections_are_carried_where_they_went() {
    let scenario = scenario("tcp.yaml");
    let converted = convert(&scenario.file);
    scenario.check_left(&converted);
    let text = converted.file.to_string();
    let (directory, _) = certificates(&text);
    compile(&text, directory.path()).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let file: serde_json::Value = serde_yaml::from_str(&text).unwrap();
    let listener = |name: &str| {
        file["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == name).cloned()
    };
    let secure = listener("websecure").unwrap();
    assert_eq!(secure["sni"], serde_json::json!({"db.example.com": "db"}));
    assert_eq!(secure["tls"]["client_auth"]["mode"], "require");
    assert_eq!(listener("mysql").unwrap()["upstream"], "db");
    assert_eq!(listener("guarded"), None, "a router that is left out opens no port");
    assert_eq!(file["upstreams"]["db"]["proxy_protocol"], "v1");
    assert_eq!(
        file["upstreams"]["both"]["endpoints"][0],
        serde_json::json!({"address": "10.0.0.2:3306", "weight": 2})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_say_what_a_file_would() {
    let scenario = scenario("crds.yaml");
    let converted = convert(&scenario.file);
    scenario.run(&converted).await;
    let file: serde_json::Value = serde_yaml::from_str(&converted.file.to_string()).unwrap();
    let listener = |name: &str| {
        file["listeners"].as_array().unwrap().iter().find(|listener| listener["name"] == name).unwrap()
    };
    let tls = &listener("websecure")["tls"];
    assert_eq!(tls["min_version"], "1.3");
    assert_eq!(tls["client_auth"]["trust"]["ca"], "certs/web/clients/ca.crt");
    let certificates: Vec<_> =
        tls["certificates"].as_array().unwrap().iter().map(|pair| pair["cert"].clone()).collect();
    assert_eq!(certificates, ["certs/web/fallback/tls.crt", "certs/web/safe/tls.crt"]);
    let database = &file["upstreams"][listener("mysql")["upstream"].as_str().unwrap()];
    assert_eq!(database["proxy_protocol"], "v1");
    assert_eq!(
        database["endpoints"],
        serde_json::json!([
            {"address": "db.web.svc.cluster.local:3306", "weight": 2},
            {"address": "db.web.svc.cluster.local:3307", "weight": 1},
        ])
    );
}

#[test]
fn wrong_input_is_reported_and_makes_a_file_that_compiles() {
    let router = |router: &str| {
        format!(
            "http:\n  routers:\n    r: {{{router}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: \"http://10.0.0.1:80\"}}]}}}}\n"
        )
    };
    let table = [
        (String::new(), ""),
        ("[]".to_owned(), "a map is expected here"),
        ("{apiVersion: traefik.io/v1alpha1, kind: IngressRoute}".to_owned(), "it has no name"),
        ("surprise: 1".to_owned(), "no part of a configuration"),
        (router("service: s"), "it has no rule"),
        (router("rule: 'Host(`a`)'"), "it has no service"),
        (router("rule: 'Host(`a`', service: s"), "its rule: `,` is missing"),
        (router("rule: 'Host(`a b`)', service: s"), "is not a host name"),
        (router("rule: 'Host(`*.a`)', service: s"), "is no host name"),
        (router("rule: 'Tea(`a`)', service: s"), "is not understood"),
        (router("rule: 'Host(`a`)', service: other"), "there is no service \"other\""),
        (router("rule: 'Host(`a`)', service: s@docker"), "of another provider"),
        (router("rule: 'PathRegexp(`(`)', service: s"), "is not a regular expression"),
        (router("rule: 'Path(`a`)', service: s"), "must begin with `/`"),
        (router("rule: 'Host(`a`)', service: s, priority: many"), "a whole number"),
        (router("rule: 'Host(`a`)', service: s, middlewares: [none]"), "there is no such middleware"),
        (router("rule: 'Host(`a`)', service: s, entryPoints: [odd]"), "no file says where `odd` listens"),
        ("entryPoints: {web: {address: nowhere}}".to_owned(), "an address such as"),
        ("entryPoints: {web: {address: ':99999'}}".to_owned(), "an address such as"),
        ("entryPoints: {dns: {address: ':53/udp'}}".to_owned(), "UDP is not carried"),
    ];
    for (text, expected) in table {
        let converted = convert(&text);
        let written = converted.file.to_string();
        assert!(expected.is_empty() || written.contains(expected), "{expected:?} is not in\n{written}");
        assert_eq!(expected.is_empty(), converted.left.is_empty(), "{written}");
        compile(&written, Path::new("/")).unwrap_or_else(|problems| panic!("{problems}\n{written}"));
    }
}

#[test]
fn what_is_no_yaml_says_how_it_becomes_some() {
    let refused =
        |name: &str, text: &str| traefik::convert(&[(name.into(), text.into())]).unwrap_err().to_string();
    assert!(refused("a.toml", "[http]").contains("yq -p toml -o yaml"));
    assert!(refused("a.yaml", "{{ range $i := until 3 }}\nhttp: {}\n{{ end }}").contains("templates of Go"));
    assert!(refused("a.yaml", "a: 1\na: 2").starts_with("a.yaml:2:1: "));
    assert!(refused("a.yaml", "a: &a [*a]").starts_with("a.yaml:1:"));
}

/// Mutants of all configurations of these tests, always the same ones.
#[test]
fn no_configuration_makes_the_converter_panic() {
    let mut rng = Rng::with_seed(7);
    for name in
        ["routers.yaml", "middlewares.yaml", "services.yaml", "defaults.yaml", "tcp.yaml", "crds.yaml"]
    {
        let text = scenario(name).file;
        for _ in 0..60 {
            let mutant = mutant(&text, &mut rng);
            let Ok(converted) = traefik::convert(&[("x.yaml".into(), mutant.clone())]) else { continue };
            let written = converted.file.to_string();
            let (directory, _) = certificates(&written);
            let problems = compile(&written, directory.path()).err().unwrap_or_default();
            // A mutant may name files of its own.
            let is_told = problems.lines().all(|problem| problem.contains("cannot read"));
            assert!(is_told, "{problems}\nof\n{mutant}");
        }
    }
}

#[test]
fn the_command_takes_static_and_dynamic_files_together() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("static.yaml"), "entryPoints: {web: {address: ':8000'}}").unwrap();
    fs::write(
        directory.path().join("dynamic.yaml"),
        "http: {routers: {r: {rule: 'Host(`a`)', service: s}}, services: {s: {loadBalancer: {servers: [{url: 'http://10.0.0.1'}]}}}}",
    )
    .unwrap();
    let mut command = tidegate(directory.path());
    command
        .args(["convert", "traefik", "static.yaml", "dynamic.yaml", "--strict"])
        .current_dir(directory.path())
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let file: serde_json::Value = serde_yaml::from_slice(&output.stdout).unwrap();
    assert_eq!(file["listeners"][0]["address"], ":8000");
    assert_eq!(file["routes"][0]["upstream"], "s");
}
