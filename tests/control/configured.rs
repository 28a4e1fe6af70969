//! A gateway takes its configuration from a control plane.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    fixture::{at, kill, plane, plane_at},
    tls::{IDENTITY, ask_at},
};
use crate::support::{
    Answer, Backend, Gateway, Load, TlsClient,
    certificates::{authority, svid},
    get, send, wait_for_metric, within_deadline,
};

/// Paces questions; whatever is waited for happens by itself.
const PAUSE: Duration = Duration::from_millis(10);

/// A gateway that has no listener of its own, with what more stands in its file and in `control.join`.
fn taking(server: SocketAddr, state: &Path, join: &str, more: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\nstate_dir: {state:?}\n\
         control: {{join: {{servers: ['{server}'], config: edge, node: g, wait: 300ms{join}}}}}\n{more}\n"
    )
}

/// Puts a version in force everywhere at once.
async fn put(plane: &Gateway, text: &str) -> Answer {
    let yaml = [("content-type", "application/yaml")];
    send(at(plane), "PUT", "/v1/configs/edge?rollout=now", &yaml, text.to_owned()).await
}

async fn put_well(plane: &Gateway, text: &str) -> u64 {
    put(plane, text).await.assert_status(202).json()["version"].as_u64().unwrap()
}

/// Whose listener `main` sends everything to `backend`.
fn serving(backend: &Backend) -> String {
    format!(
        "listeners: [{{name: main, address: '127.0.0.1:0'}}]\nroutes: [{{name: all, upstream: all}}]\n\
         upstreams: {{all: {{endpoints: ['{}']}}}}\n",
        backend.address()
    )
}

/// What the control plane knows of the gateway `g`.
async fn known(plane: &Gateway) -> Value {
    get(at(plane), "/v1/gateways/g").await.json()["gateways"][0].clone()
}

async fn until_in_force(gateway: &Gateway, version: u64) {
    wait_for_version(gateway, "in_force", version).await;
}

async fn wait_for_version(gateway: &Gateway, state: &str, version: u64) {
    let state = format!("state=\"{state}\"");
    wait_for_metric(gateway, "tidegate_control_config_version", &[&state], version as f64).await;
}

async fn assert_served_by(gateway: &Gateway, backend: &str) {
    let answer = get(gateway.address("main"), "/").await;
    assert_eq!(answer.assert_status(200).header("x-backend"), Some(backend));
}

/// One that has been given the configuration `text`, and serves it.
async fn configured(plane: &Gateway, state: &TempDir, more: &str, text: &str) -> Gateway {
    let version = put_well(plane, text).await;
    let gateway = Gateway::start(&taking(at(plane), state.path(), "", more)).await;
    until_in_force(&gateway, version).await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_listeners_is_ready_when_a_configuration_is_there() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let yaml = taking(at(&plane), state.path(), "", "");
    let message = "not ready: nothing to serve before the control plane gives a configuration";
    let gateway = Gateway::start_until(&yaml, message).await;
    let answer = get(gateway.admin(), "/readyz").await;
    assert!(answer.assert_status(503).text().starts_with("waiting for a configuration"), "{answer:?}");
    get(gateway.admin(), "/livez").await.assert_status(200);
    let version = put_well(&plane, &serving(&backend)).await;
    gateway.wait_for_message("ready").await;
    get(gateway.admin(), "/readyz").await.assert_status(200);
    assert_served_by(&gateway, "one").await;
    let shown = get(gateway.admin(), "/config").await.json();
    let received =
        json!({"config": "edge", "version": version, "documents": [format!("control:edge@{version}")]});
    assert_eq!(shown["received"], received);
    assert_eq!(shown["routes"][0]["name"], "all");
    for path in ["/v1/upstreams/all", "/v1/routes/all"] {
        assert_eq!(get(gateway.admin(), path).await.json()["origin"], format!("control:edge@{version}"));
    }
    let yaml = get(gateway.admin(), "/config?format=yaml").await;
    let yaml = yaml.text();
    assert!(yaml.starts_with(&format!("# beside the file: control:edge@{version}\n")), "{yaml}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_put_in_force_under_load_and_no_request_fails() {
    let (plane, state) = (plane("").await, TempDir::new().unwrap());
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let gateway = configured(&plane, &state, "", &serving(&one)).await;
    let load = Load::start(gateway.address("main"), "/health", 4);
    for backend in [&other, &one, &other] {
        load.wait_for_requests(20).await;
        let version = put_well(&plane, &serving(backend)).await;
        until_in_force(&gateway, version).await;
    }
    load.wait_for_requests(20).await;
    load.stop().await.assert_no_failures();
    assert_served_by(&gateway, "other").await;
    // An upstream comes and goes as a part.
    let path = "/v1/configs/edge/upstreams/more?rollout=now";
    let part = format!("endpoints: ['{}']", one.address());
    let answer = send(at(&plane), "PUT", path, &[], part).await.assert_status(202).json();
    until_in_force(&gateway, answer["version"].as_u64().unwrap()).await;
    let upstreams = get(gateway.admin(), "/upstreams").await.json();
    assert_eq!(upstreams.as_array().unwrap().len(), 2, "{upstreams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_cannot_use_is_refused_before_it_is_put_with_the_place() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let good = serving(&backend);
    let local = "upstreams: {mine: {endpoints: ['127.0.0.1:1']}}";
    let gateway = configured(&plane, &state, local, &good).await;
    for (more, line, said) in [
        (
            "filters: {f: [{headers: {request: {set: {x: '${file:/etc/shadow}'}}}}]}\n",
            4,
            "no folder is open to it",
        ),
        ("filters: {f: [{headers: {request: {set: {x: '${env:HOME}'}}}}]}\n", 4, "begin with `TIDEGATE_`"),
        ("filters: {f: [{no_such_filter: {}}]}\n", 4, "no_such_filter"),
    ] {
        let problem = put(&plane, &format!("{good}{more}")).await;
        let problem = problem.assert_status(422).json();
        assert_eq!(problem["reason"], "config_rejected", "{problem}");
        let first = &problem["problems"][0];
        let message = first["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("control:edge@2:{line}:")) && message.contains(said),
            "{problem}"
        );
        assert_eq!((&first["document"], &first["line"]), (&json!("edge"), &json!(line)), "{problem}");
    }
    // What it says itself is not said by the control plane as well.
    let problem = put(&plane, &good.replace("all: {endpoints", "mine: {endpoints")).await;
    let problem = problem.assert_status(422).json();
    let told = problem.to_string();
    assert!(told.contains("`mine` already stands at") && told.contains("gateway.yaml:"), "{problem}");
    gateway
        .wait_for_line(|line| {
            line["msg"] == "configuration checked for the control plane" && line["problems"] == "1"
        })
        .await;
    assert_served_by(&gateway, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_be_put_in_force_changes_nothing_and_is_not_tried_again() {
    let (plane, state) = (plane("").await, TempDir::new().unwrap());
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let gateway = configured(&plane, &state, "", &serving(&one)).await;
    // Which a check cannot know.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let bad =
        serving(&other).replace("listeners: [", &format!("listeners: [{{name: x, address: '{address}'}}, "));
    let version = put_well(&plane, &bad).await;
    let said = gateway.wait_for_message("received configuration rejected").await;
    let problems = said["problems"].as_str().unwrap();
    assert!(problems.contains(&format!("cannot listen on {address}")), "{said}");
    assert_eq!((&said["version"], &said["level"]), (&json!(version.to_string()), &json!("error")), "{said}");
    wait_for_version(&gateway, "refused", version).await;
    until_in_force(&gateway, 1).await;
    assert_served_by(&gateway, "one").await;
    let known_why = async {
        while !known(&plane).await["problems"].to_string().contains("cannot listen on") {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("that the control plane knows why", known_why).await;
    // A gateway that comes back is told once more, and answers at once.
    let lines = || {
        let is_rejected = |line: &&Value| line["msg"] == "received configuration rejected";
        gateway.lines().iter().filter(is_rejected).count()
    };
    assert_eq!(lines(), 1);
    drop(taken);
    let version = put_well(&plane, &serving(&other)).await;
    until_in_force(&gateway, version).await;
    wait_for_version(&gateway, "refused", 0).await;
    assert_served_by(&gateway, "other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_filled_in_here_and_followed() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let secrets = TempDir::new().unwrap();
    let token = secrets.path().join("token");
    fs::write(&token, "first\n").unwrap();
    let text = format!(
        "listeners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         routes: [{{respond: {{body: '${{env:TIDEGATE_ZONE}} ${{file:{}}}'}}}}]\n",
        token.display()
    );
    put_well(&plane, &text).await;
    let join = format!(", secrets: [{:?}]", secrets.path());
    let yaml = taking(at(&plane), state.path(), &join, "watch: true");
    let zone = [("TIDEGATE_ZONE", "eu")];
    let gateway = Gateway::start_in(TempDir::new().unwrap(), &yaml, &zone).await;
    assert_eq!(get(gateway.address("main"), "/").await.text(), "eu first");
    fs::write(secrets.path().join("new"), "second\n").unwrap();
    fs::rename(secrets.path().join("new"), &token).unwrap();
    gateway.wait_for_message("configuration reloaded").await;
    assert_eq!(get(gateway.address("main"), "/").await.text(), "eu second");
    let held = fs::read_to_string(state.path().join("held/config.json")).unwrap();
    assert!(!held.contains("first") && !held.contains("second"), "{held}");
    drop(backend);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_was_received_and_what_contradicts_it_is_rejected() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let gateway = configured(&plane, &state, "", &serving(&backend)).await;
    let local = |more: &str| taking(at(&plane), state.path(), "", more);
    let route = "routes: [{name: mine, match: {path: /mine}, respond: {body: mine}}]";
    assert_eq!(gateway.reload(&local(route)).await["msg"], "configuration reloaded");
    assert_eq!(get(gateway.address("main"), "/mine").await.text(), "mine");
    assert_served_by(&gateway, "one").await;
    let twice = gateway.reload(&local("upstreams: {all: {endpoints: ['127.0.0.1:1']}}")).await;
    assert_eq!(twice["msg"], "configuration rejected");
    let told = "control:edge@1:3:13: upstreams: `all` already stands at";
    assert!(twice["problems"].as_str().unwrap().contains(told), "{twice}");
    assert_eq!(get(gateway.address("main"), "/mine").await.text(), "mine");
    assert_eq!(gateway.reload(&local(route)).await["msg"], "configuration unchanged");
    // Parts stand beside both.
    let part = format!("{{endpoints: ['{}']}}", backend.address());
    let put_part = async |name: &str| {
        send(gateway.admin(), "PUT", &format!("/v1/upstreams/{name}"), &[], part.clone()).await
    };
    put_part("more").await.assert_status(201);
    let problem = put_part("all").await.assert_status(409).json();
    assert!(problem.to_string().contains("already stands at control:edge@1:3:13"), "{problem}");
    let problem = put(&plane, &serving(&backend).replace("{all: {endpoints", "{more: {endpoints")).await;
    let problem = problem.assert_status(422).json().to_string();
    assert!(problem.contains("admin:upstreams/more") && problem.contains("control:edge@2:3:13"), "{problem}");
}

/// A gateway that serves what it was given, after its control plane is gone and it was started anew.
async fn started_without_a_plane(state: &TempDir, more: &str) -> (Gateway, Backend, SocketAddr) {
    let (plane, backend) = (plane("").await, Backend::named("one").await);
    let gateway = configured(&plane, state, "", &serving(&backend)).await;
    let server = at(&plane);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    kill(&plane).await;
    (Gateway::start(&taking(server, state.path(), "", more)).await, backend, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_control_plane_finds_what_was_in_force() {
    let state = TempDir::new().unwrap();
    let (gateway, one, server) = started_without_a_plane(&state, "").await;
    let message = "the control plane has not answered in time: the configuration that was held is used";
    assert_eq!(gateway.wait_for_message(message).await["version"], "1");
    assert_served_by(&gateway, "one").await;
    // A control plane that has lost its memory takes nothing away.
    let plane = plane_at(server, "").await;
    wait_for_version(&gateway, "wanted", 0).await;
    assert_served_by(&gateway, "one").await;
    let other = Backend::named("other").await;
    put_well(&plane, &serving(&other)).await;
    let is_new = |line: &Value| line["msg"] == "configuration received";
    gateway.wait_for_line(is_new).await;
    assert_served_by(&gateway, "other").await;
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_and_does_not_go_with_the_file_any_more_is_left_out() {
    let state = TempDir::new().unwrap();
    let local =
        "listeners: [{name: mine, address: '127.0.0.1:0'}]\nroutes: [{name: all, respond: {body: mine}}]";
    let (gateway, _, _) = started_without_a_plane(&state, local).await;
    let is_told = |line: &Value| {
        line["msg"].as_str().is_some_and(|told| {
            told.contains("the held configuration edge@1 is left out")
                && told.contains("a route named `all` exists already")
        })
    };
    gateway.wait_for_line(is_told).await;
    assert_eq!(get(gateway.address("mine"), "/").await.text(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_configuration_that_is_damaged_is_put_aside() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let gateway = configured(&plane, &state, "", &serving(&backend)).await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    kill(&plane).await;
    let file = state.path().join("held/config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 10]).unwrap();
    let yaml = taking(at(&plane), state.path(), "", "");
    let message = "not ready: nothing to serve before the control plane gives a configuration";
    let gateway = Gateway::start_until(&yaml, message).await;
    let is_told =
        |line: &Value| line["msg"].as_str().is_some_and(|told| told.contains("is not used: it is cut off"));
    assert_eq!(gateway.wait_for_line(is_told).await["level"], "warn");
    assert!(file.with_extension("json.old").exists() && !file.exists());
    get(gateway.admin(), "/readyz").await.assert_status(503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_version_that_cannot_be_bound_goes_on_with_what_was_held() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let gateway = configured(&plane, &state, "", &serving(&backend)).await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let more = format!("listeners: [{{name: x, address: '{address}'}}, ");
    put_well(&plane, &serving(&backend).replace("listeners: [", &more)).await;
    let gateway = Gateway::start(&taking(at(&plane), state.path(), "", "")).await;
    let said = gateway.wait_for_message("received configuration rejected").await;
    assert!(said["problems"].as_str().unwrap().contains("cannot listen on"), "{said}");
    assert_served_by(&gateway, "one").await;
    until_in_force(&gateway, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_a_gateway_takes_the_configuration_that_its_svid_may_have() {
    let (root, backend) = (authority("mesh.local"), Backend::named("one").await);
    let start = async |id: &str, yaml: &str| {
        let directory = TempDir::new().unwrap();
        root.issue(&svid(id)).write_to(directory.path(), &root);
        Gateway::start_in(directory, yaml, &[]).await
    };
    let serve = "tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}, authorize: \
                 [{spiffe: ['spiffe://mesh.local/edge'], join: [edge]}, {spiffe: ['spiffe://mesh.local/deploy'], configure: \
                 [edge]}]";
    let plane = start("spiffe://mesh.local/control", &format!("{}{IDENTITY}", super::yaml(serve))).await;
    let deploy = TlsClient::of(&root).showing(&root.issue(&svid("spiffe://mesh.local/deploy")));
    let ask = async |method: &str, path: &str, body: &str| {
        ask_at(at(&plane), &deploy, method, path, &[], body).await.unwrap()
    };
    let put = ask("PUT", "/v1/configs/edge?rollout=now", &serving(&backend)).await;
    assert_eq!(put.assert_status(202).json()["version"], 1);
    let state = TempDir::new().unwrap();
    let tls = ", tls: {verify: {spiffe: ['spiffe://mesh.local/control']}, client_identity: true}";
    let yaml = taking(at(&plane), state.path(), tls, IDENTITY);
    let gateway = start("spiffe://mesh.local/edge", &yaml).await;
    until_in_force(&gateway, 1).await;
    assert_served_by(&gateway, "one").await;
    let shown = ask("GET", "/v1/gateways/g", "").await.assert_status(200).json();
    assert_eq!(
        (&shown["gateways"][0]["state"], &shown["gateways"][0]["in_force"]),
        (&json!("in_force"), &json!(1))
    );
    // Another identity is given nothing, and a plane of another one is not believed.
    let other = TempDir::new().unwrap();
    let stranger = taking(at(&plane), other.path(), tls, IDENTITY);
    let directory = TempDir::new().unwrap();
    root.issue(&svid("spiffe://mesh.local/other")).write_to(directory.path(), &root);
    let message = "not ready: nothing to serve before the control plane gives a configuration";
    let stranger = Gateway::start_in_until(directory, &stranger, message).await;
    let refused = |line: &Value| {
        line["msg"] == "no configuration from the control plane, going on with what is in force"
            && line["why"].as_str().is_some_and(|why| why.contains("unauthenticated"))
    };
    stranger.wait_for_line(refused).await;
    get(stranger.admin(), "/readyz").await.assert_status(503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_killed_costs_no_request() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let gateway = configured(&plane, &state, "", &serving(&backend)).await;
    let load = Load::start(gateway.address("main"), "/health", 4);
    load.wait_for_requests(20).await;
    let server = at(&plane);
    kill(&plane).await;
    wait_for_metric(&gateway, "tidegate_control_connected", &[], 0.0).await;
    load.wait_for_requests(50).await;
    let plane = plane_at(server, "").await;
    wait_for_metric(&gateway, "tidegate_control_connected", &[], 1.0).await;
    load.wait_for_requests(50).await;
    let other = Backend::named("other").await;
    put_well(&plane, &serving(&other)).await;
    gateway
        .wait_for_line(|line| line["msg"] == "configuration received" && line["changes"] != "nothing")
        .await;
    load.wait_for_requests(50).await;
    load.stop().await.assert_no_failures();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_serves_what_its_predecessor_does_without_a_control_plane_and_no_request_fails() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let gateway = configured(&plane, &state, "upgrade: {socket: up.sock}", &serving(&backend)).await;
    kill(&plane).await;
    let load = Load::start(gateway.address("main"), "/health", 4);
    load.wait_for_requests(20).await;
    let next = gateway.upgrade().await;
    load.wait_for_requests(50).await;
    load.stop().await.assert_no_failures();
    until_in_force(&next, 1).await;
    assert_served_by(&next, "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_know_what_is_served_gives_up() {
    let (plane, state, backend) = (plane("").await, TempDir::new().unwrap(), Backend::named("one").await);
    let gateway = configured(&plane, &state, "upgrade: {socket: up.sock}", &serving(&backend)).await;
    kill(&plane).await;
    let file = state.path().join("held/config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 10]).unwrap();
    let next = gateway.start_successor().await;
    let status = next.wait_exit().await;
    assert_eq!(status.code(), Some(5), "{}", next.output());
    assert!(next.stderr().contains("has given no configuration"), "{}", next.stderr());
    assert!(file.exists(), "it is not the successor's to move");
    assert_served_by(&gateway, "one").await;
}
