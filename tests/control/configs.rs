//! Configurations are put, checked, kept, and taken by gateways wave by wave.

use serde_json::{Value, json};
use tonic::Code;

use super::{
    Plane, assert_refused,
    gateway::{Comes, Taking, client, refusal, v1},
};
use crate::support::{DEADLINE, metric, wait_for_metric, within_deadline};

const ROUTES: &str = "routes: [{respond: {status: 204}}]\n";

/// A configuration whose waves are not waited for, and what tells it from others.
fn quick(comment: &str) -> String {
    format!("rollout: {{waves: [1, 100%], hold: 0s}}\n{ROUTES}# {comment}\n")
}

/// One whose first wave is watched for ever.
fn slow(comment: &str) -> String {
    format!("rollout: {{hold: 1h}}\n{ROUTES}# {comment}\n")
}

/// With both stores: what a control plane does is the same.
macro_rules! with_both_stores {
    ($($test:ident,)*) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::Plane::start().await).await;
            })*
        }
        mod in_etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let etcd = crate::support::etcd::Etcd::start(crate::support::etcd::Release::New).await;
                super::$test(crate::control::etcd::plane(&etcd).await).await;
            })*
        }
    };
}

with_both_stores! {
    what_is_put_reaches_a_gateway_which_says_what_has_become_of_it,
    one_gateway_has_it_before_all_have,
    a_refusal_takes_it_back_from_whoever_has_it_and_reaches_nobody_else,
    a_restart_or_errors_of_its_own_take_it_back,
    operators_pause_resume_abort_and_roll_back,
    parts_come_and_go_beside_the_main_document,
    a_gateway_checks_it_before_anything_is_kept,
    lost_updates_and_what_is_no_configuration_are_refused,
    one_that_comes_back_with_what_it_has_is_sent_nothing,
    another_put_ends_the_rollout_before_it,
    a_configuration_is_removed_with_all_of_its_versions,
    grpc_has_the_same_calls_and_reasons,
}

impl Plane {
    pub(super) async fn put(&self, text: impl AsRef<str>) -> Value {
        self.ask("PUT", "/v1/configs/edge", text.as_ref()).await.assert_status(202).json()
    }

    pub(super) async fn rollout(&self) -> Value {
        self.ask("GET", "/v1/configs/edge", "").await.assert_status(200).json()["rollout"].clone()
    }

    pub(super) async fn until_phase(&self, phase: &str) -> Value {
        let mut last = Value::Null;
        let reached = async {
            loop {
                last = self.rollout().await;
                if last["phase"] == phase {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, reached).await.is_ok(), "not {phase}: {last}");
        last
    }

    pub(super) async fn gateway_of(&self, node: &str) -> Value {
        let answer = self.ask("GET", &format!("/v1/gateways/{node}"), "").await;
        answer.assert_status(200).json()["gateways"][0].clone()
    }

    pub(super) async fn until_state(&self, node: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let reached = async {
            loop {
                last = self.gateway_of(node).await;
                if last["state"] == state {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(DEADLINE, reached).await.is_ok(), "not {state}: {last}");
        last
    }
}

async fn what_is_put_reaches_a_gateway_which_says_what_has_become_of_it(plane: Plane) {
    let first = plane.put(ROUTES).await;
    assert_eq!((&first["version"], &first["checked_by"]), (&json!(1), &json!("control")));
    assert_eq!(first["rollout"]["phase"], "done", "nobody is there who could try it");
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    let config = gateway.told().await;
    assert_eq!((config.version, config.sha256.as_str()), (1, first["sha256"].as_str().unwrap()));
    assert_eq!((config.documents[0].name.as_str(), config.documents[0].text.as_str()), ("edge", ROUTES));
    let shown = plane.gateway_of("g1").await;
    assert_eq!(
        (&shown["state"], &shown["wanted"], &shown["in_force"]),
        (&json!("wanted"), &json!(1), &json!(0))
    );
    gateway.in_force(1).await;
    let shown = plane.until_state("g1", "in_force").await;
    assert_eq!(
        (&shown["in_force"], &shown["acknowledged"], &shown["labels"]["region"]),
        (&json!(1), &json!(1), &json!("eu"))
    );
    assert!(shown["lag_ms"].is_u64() && shown["connected"] == true, "{shown}");
    wait_for_metric(&plane.gateway, "tidegate_control_gateways", &["edge", "in_force"], 1.0).await;
    wait_for_metric(&plane.gateway, "tidegate_control_streams", &["kind=\"config\""], 1.0).await;
    drop(gateway);
    plane.until_state("g1", "away").await;
    wait_for_metric(&plane.gateway, "tidegate_control_gateways", &["edge", "away"], 1.0).await;
    wait_for_metric(&plane.gateway, "tidegate_control_rollout_phase", &["edge"], 5.0).await;
}

async fn one_gateway_has_it_before_all_have(plane: Plane) {
    plane.put(quick("1")).await;
    let mut gateways = Vec::new();
    for node in ["g1", "g2", "g3"] {
        let mut gateway = Taking::join(plane.address(), node, "edge").await;
        let config = gateway.takes(1).await;
        assert!(!config.documents[0].text.contains("rollout"), "that is not for gateways");
        plane.until_state(node, "in_force").await;
        gateways.push(gateway);
    }
    let putting = async { plane.put(quick("2")).await };
    let checking = async { gateways[0].told().await };
    let (put, config) = tokio::join!(putting, checking);
    assert_eq!((&put["checked_by"], put["rollout"]["gateways"].as_u64()), (&json!("g1"), Some(1)), "{put}");
    assert_eq!(config.version, 2);
    for other in &mut gateways[1..] {
        assert!(other.is_left_alone().await);
    }
    gateways[0].in_force(2).await;
    for other in &mut gateways[1..] {
        other.takes(2).await;
    }
    let done = plane.until_phase("done").await;
    assert_eq!((&done["in_force"], &done["gateways"], &done["previous"]), (&json!(3), &json!(3), &json!(1)));
}

async fn a_refusal_takes_it_back_from_whoever_has_it_and_reaches_nobody_else(plane: Plane) {
    plane.put(quick("1")).await;
    let mut first = Taking::join(plane.address(), "g1", "edge").await;
    first.takes(1).await;
    plane.until_state("g1", "in_force").await;
    let mut other = Taking::join(plane.address(), "g2", "edge").await;
    other.takes(1).await;
    plane.until_state("g2", "in_force").await;
    tokio::join!(plane.put(quick("2")), async {
        assert_eq!(first.told().await.version, 2);
    });
    first.refuses(2, "control:edge@2:1:2: no such file").await;
    let aborted = plane.until_phase("aborted").await;
    assert_eq!(aborted["why"], "g1 refuses it: control:edge@2:1:2: no such file");
    let shown = plane.gateway_of("g1").await;
    assert_eq!(
        (&shown["state"], &shown["wanted"], &shown["in_force"]),
        (&json!("in_force"), &json!(1), &json!(1))
    );
    assert_eq!(shown["problems"][0]["message"], "control:edge@2:1:2: no such file");
    assert!(first.is_left_alone().await && other.is_left_alone().await, "both have what they are to have");
    wait_for_metric(&plane.gateway, "tidegate_control_rollout_phase", &["edge"], 6.0).await;
    // The next one begins from what all have.
    let (put, ()) = tokio::join!(plane.put(quick("3")), async {
        first.takes(3).await;
    });
    assert_eq!((&put["version"], &put["rollout"]["previous"]), (&json!(3), &json!(1)));
    other.takes(3).await;
    plane.until_phase("done").await;
}

async fn a_restart_or_errors_of_its_own_take_it_back(plane: Plane) {
    plane.put(slow("1")).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    let sha256 = gateway.takes(1).await.sha256;
    plane.until_state("g1", "in_force").await;
    gateway.counts(1000, 5).await;
    tokio::join!(plane.put(slow("2")), async {
        gateway.takes(2).await;
    });
    plane.until_phase("holding").await;
    gateway.counts(1100, 50).await;
    let aborted = plane.until_phase("aborted").await;
    assert!(aborted["why"].as_str().unwrap().contains("errors of its own"), "{aborted}");
    gateway.takes(1).await;
    plane.until_state("g1", "in_force").await;

    tokio::join!(plane.put(slow("3")), async {
        gateway.takes(3).await;
    });
    plane.until_phase("holding").await;
    drop(gateway);
    plane.until_state("g1", "away").await;
    let comes = Comes { started_ms: 2, version: 1, sha256, ..Comes::default() };
    let mut gateway = Taking::come(plane.address(), "g1", "edge", comes).await.unwrap();
    let aborted = plane.until_phase("aborted").await;
    assert_eq!(aborted["why"], "g1 has restarted with it");
    assert!(gateway.is_left_alone().await, "it has come with what it is to have");
}

async fn operators_pause_resume_abort_and_roll_back(plane: Plane) {
    plane.put(slow("1")).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(1).await;
    tokio::join!(plane.put(slow("2")), async {
        gateway.takes(2).await;
    });
    plane.until_phase("holding").await;
    let order = async |word: &str| plane.ask("POST", &format!("/v1/configs/edge/{word}"), "").await;
    assert_refused(&order("resume").await, 409, "conflict", "does not pause");
    assert_eq!(order("pause").await.assert_status(200).json()["why"], "by anybody");
    assert_eq!(order("resume").await.assert_status(200).json()["phase"], "holding");
    let aborted = order("abort").await.assert_status(200).json();
    assert_eq!((&aborted["phase"], &aborted["previous"]), (&json!("aborted"), &json!(1)));
    gateway.takes(1).await;
    assert_refused(&order("resume").await, 409, "conflict", "it was aborted");
    let (back, ()) = tokio::join!(
        async { order("rollback?version=2&rollout=now").await.assert_status(202).json() },
        async {
            gateway.takes(3).await;
        }
    );
    assert_eq!((&back["version"], &back["rollout"]["phase"]), (&json!(3), &json!("done")));
    let versions = plane.ask("GET", "/v1/configs/edge/versions", "").await.assert_status(200).json();
    let of = |key: &str| -> Vec<Value> {
        versions["versions"].as_array().unwrap().iter().map(|version| version[key].clone()).collect()
    };
    assert_eq!(of("version"), [3, 2, 1]);
    assert_eq!(of("repeats"), [json!(2), Value::Null, Value::Null]);
    assert_refused(&order("rollback?version=9").await, 404, "not_found", "version 9");
    assert_refused(&order("rollback").await, 400, "bad_request", "say which version");
}

async fn parts_come_and_go_beside_the_main_document(plane: Plane) {
    let path = "/v1/configs/edge/upstreams/users";
    let upstream = "endpoints: ['127.0.0.1:1']";
    assert_refused(&plane.ask("PUT", path, upstream).await, 404, "not_found", "there is no configuration");
    plane.put(ROUTES).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(1).await;
    plane.until_state("g1", "in_force").await;
    let now = format!("{path}?rollout=now");
    let (put, config) = tokio::join!(plane.ask("PUT", &now, upstream), gateway.takes(2));
    assert_eq!(put.assert_status(202).header("etag"), Some("\"2\""));
    let names: Vec<_> = config.documents.iter().map(|document| document.name.as_str()).collect();
    assert_eq!(names, ["edge", "edge/upstreams/users"]);
    let shown = plane.ask("GET", "/v1/configs/edge", "").await.json();
    assert_eq!((&shown["main"], &shown["parts"]["upstreams/users"]), (&json!(ROUTES), &json!(upstream)));
    let bad = plane.ask("PUT", path, "endpoints: ['127.0.0.1:1']\nbalancr: x").await;
    assert_refused(&bad, 422, "config_rejected", "nothing was changed");
    let problem = &bad.json()["problems"][0];
    assert_eq!((&problem["document"], &problem["line"]), (&json!("edge/upstreams/users"), &json!(2)));
    let (removed, config) = tokio::join!(plane.ask("DELETE", &now, ""), gateway.takes(3));
    assert_eq!((removed.assert_status(202).json()["version"].as_u64(), config.documents.len()), (Some(3), 1));
    assert_refused(&plane.ask("DELETE", path, "").await, 404, "not_found", "has no part");
    assert_refused(
        &plane.ask("PUT", "/v1/configs/edge/routes/a%2Fb", "{}").await,
        400,
        "bad_request",
        "a part's name",
    );
}

async fn a_gateway_checks_it_before_anything_is_kept(plane: Plane) {
    plane.put(quick("1")).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(1).await;
    plane.until_state("g1", "in_force").await;
    let text = quick("2");
    let (refused, check) = tokio::join!(plane.ask("PUT", "/v1/configs/edge", &text), async {
        let check = gateway.check().await;
        gateway.checked(check.check, &["control:edge@2:1:2: upstreams: no"]).await;
        check
    });
    assert_eq!((check.version, check.documents.len()), (2, 1));
    assert_refused(&refused, 422, "config_rejected", "nothing was changed");
    assert_eq!(refused.json()["problems"][0]["message"], "control:edge@2:1:2: upstreams: no");
    assert_eq!(plane.rollout().await["version"], 1);
    let (dry, ()) = tokio::join!(plane.ask("PUT", "/v1/configs/edge?dry_run", &text), async {
        let check = gateway.check().await;
        gateway.checked(check.check, &[]).await;
    });
    let dry = dry.assert_status(200).json();
    assert_eq!((&dry["version"], &dry["checked_by"]), (&Value::Null, &json!("g1")));
    assert_eq!(plane.rollout().await["version"], 1);
    // One that leaves in the middle is no verdict.
    let (put, ()) = tokio::join!(plane.ask("PUT", "/v1/configs/edge", &text), async move {
        gateway.check().await;
        drop(gateway);
    });
    assert_eq!(put.assert_status(202).json()["checked_by"], "control");
}

async fn lost_updates_and_what_is_no_configuration_are_refused(plane: Plane) {
    let with = async |version: &str, text: &str| {
        plane.ask_with("PUT", "/v1/configs/edge", &[("if-match", version)], text).await
    };
    assert_refused(&with("1", ROUTES).await, 412, "stale", "there is no configuration");
    plane.put(ROUTES).await;
    with("\"1\"", &quick("2")).await.assert_status(202);
    assert_refused(&with("1", &quick("3")).await, 412, "stale", "is at version 2");
    assert_refused(&with("soon", &quick("3")).await, 400, "bad_request", "If-Match");
    let same = plane.ask("PUT", "/v1/configs/edge", &quick("2")).await;
    assert_eq!(same.assert_status(200).json()["version"], 2, "nothing would come of another");

    let put = async |text: &str| plane.ask("PUT", "/v1/configs/edge", text).await;
    let bad = put("routes: [{upstrem: a}]\ncontrol: {serve: true}\n").await;
    assert_refused(&bad, 422, "config_rejected", "see `problems`");
    let problems = bad.json()["problems"].clone();
    assert_eq!((&problems[0]["line"], &problems[0]["column"]), (&json!(1), &json!(11)), "{problems}");
    let message = problems[1]["message"].as_str().unwrap();
    assert!(message.starts_with("control:edge@3:2:1: `control` is not for"), "{message}");
    assert_refused(&put("").await, 400, "bad_request", "the body is empty");
    assert_refused(&put("[").await, 422, "config_rejected", "");
    assert_refused(
        &plane.ask("PUT", "/v1/configs/Edge", ROUTES).await,
        400,
        "bad_request",
        "is not the name",
    );
    assert_refused(&plane.ask("PUT", "/v1/configs/..", ROUTES).await, 400, "bad_request", "is not the name");
    for path in
        ["/v1/configs/none", "/v1/configs/none/versions", "/v1/configs/edge?version=9", "/v1/gateways/none"]
    {
        assert_refused(&plane.ask("GET", path, "").await, 404, "not_found", "there is no");
    }
    let misspelt = plane.ask("PUT", "/v1/configs/edge?rollout=nwo", ROUTES).await;
    assert_refused(&misspelt, 400, "bad_request", "is not `now`");
    let fits = format!("{ROUTES}#{}", "x".repeat((4 << 20) - ROUTES.len() - 1));
    put(&fits).await.assert_status(202);
    assert_refused(&put(&format!("{fits}x")).await, 413, "too_large", "4194304 bytes");
    // What is in a file of the control plane's host is not read.
    put("routes: [{respond: {status: 200, body: '${file:/etc/passwd}'}}]").await.assert_status(202);
    let shown = plane.ask("GET", "/v1/configs/edge", "").await.json();
    assert!(shown["main"].as_str().unwrap().contains("${file:/etc/passwd}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_configurations_than_allowed() {
    let plane = Plane::with("configs: {most: 1}").await;
    plane.put(ROUTES).await;
    let refused = plane.ask("PUT", "/v1/configs/other", ROUTES).await;
    assert_refused(&refused, 429, "limit", "`control.serve.configs.most`");
    plane.put(quick("2")).await;
}

async fn one_that_comes_back_with_what_it_has_is_sent_nothing(plane: Plane) {
    plane.put(ROUTES).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    let sha256 = gateway.takes(1).await.sha256;
    plane.until_state("g1", "in_force").await;
    let comes = Comes { started_ms: 1, version: 1, sha256, ..Comes::default() };
    let mut again = Taking::come(plane.address(), "g1", "edge", comes).await.unwrap();
    assert_eq!(gateway.order().await, None, "it has come by another stream");
    assert!(again.is_left_alone().await);
    plane.until_state("g1", "in_force").await;
    // One that holds what another control plane gave is told what is right here.
    let comes = Comes { started_ms: 1, version: 1, sha256: "0".repeat(64), ..Comes::default() };
    let mut other = Taking::come(plane.address(), "g2", "edge", comes).await.unwrap();
    other.takes(1).await;
}

async fn another_put_ends_the_rollout_before_it(plane: Plane) {
    plane.put(slow("1")).await;
    let mut first = Taking::join(plane.address(), "g1", "edge").await;
    first.takes(1).await;
    plane.until_state("g1", "in_force").await;
    let mut other = Taking::join(plane.address(), "g2", "edge").await;
    other.takes(1).await;
    plane.until_state("g2", "in_force").await;
    tokio::join!(plane.put(slow("2")), async {
        first.takes(2).await;
    });
    plane.until_phase("holding").await;
    let (put, ()) = tokio::join!(plane.put(slow("3")), async {
        first.takes(3).await;
    });
    assert_eq!(
        (&put["version"], &put["rollout"]["previous"]),
        (&json!(3), &json!(1)),
        "2 was never everybody's"
    );
    assert!(other.is_left_alone().await);
}

async fn a_configuration_is_removed_with_all_of_its_versions(plane: Plane) {
    let edge = "/v1/configs/edge";
    assert_refused(&plane.ask("DELETE", edge, "").await, 404, "not_found", "there is no configuration");
    assert_refused(&plane.ask("DELETE", "/v1/configs/Edge", "").await, 400, "bad_request", "is not the name");
    plane.put(quick("1")).await;
    plane.ask("PUT", "/v1/configs/edge?rollout=now", &quick("2")).await.assert_status(202);
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(2).await;
    plane.until_state("g1", "in_force").await;
    let refused = plane.ask("DELETE", edge, "").await;
    assert_refused(
        &refused,
        409,
        "conflict",
        "1 gateways follow \"edge\", such as \"g1\" (`?force` removes it",
    );
    let stale = plane.ask_with("DELETE", &format!("{edge}?force"), &[("if-match", "1")], "").await;
    assert_refused(&stale, 412, "stale", "is at version 2");
    plane.ask_with("DELETE", &format!("{edge}?force"), &[("if-match", "2")], "").await.assert_status(204);
    for path in [edge, "/v1/configs/edge/versions", "/v1/configs/edge?version=1"] {
        assert_refused(&plane.ask("GET", path, "").await, 404, "not_found", "there is no configuration");
    }
    assert_eq!(plane.ask("GET", "/v1/configs", "").await.json()["configs"], json!([]));
    assert!(gateway.is_left_alone().await, "it keeps what it has");
    assert_eq!(metric(&plane.gateway, "tidegate_control_rollout_phase", &["edge"]).await, 0.0);
    // What comes after it begins anew, also for whoever was told a version of this number.
    tokio::join!(plane.put(quick("3")), gateway.takes(1));
    let (_, config) = tokio::join!(plane.put(quick("4")), gateway.takes(2));
    assert!(config.documents[0].text.contains("# 4"), "{config:?}");
    drop(gateway);
    plane.until_state("g1", "away").await;
    plane.ask("DELETE", edge, "").await.assert_status(204);
}

async fn grpc_has_the_same_calls_and_reasons(plane: Plane) {
    let mut client = client(plane.address()).await;
    let request = v1::ApplyConfigRequest { name: "edge".into(), text: quick("1"), ..Default::default() };
    let applied = client.apply_config(request.clone()).await.unwrap().into_inner();
    assert_eq!((applied.version, applied.rollout.unwrap().phase()), (1, v1::rollout::Phase::Done));
    let stale = v1::ApplyConfigRequest { if_version: 7, text: quick("2"), ..request.clone() };
    let stale = client.apply_config(stale).await.unwrap_err();
    assert_eq!(refusal(&stale), (Code::Aborted, "stale".into()));
    let bad = v1::ApplyConfigRequest { text: "rutes: []".into(), ..request.clone() };
    let bad = client.apply_config(bad).await.unwrap_err();
    assert_eq!(refusal(&bad), (Code::FailedPrecondition, "config_rejected".into()));
    assert!(bad.message().contains("did you mean `routes`?"), "{}", bad.message());
    let large = v1::ApplyConfigRequest { text: "#".repeat((4 << 20) + 1), ..request.clone() };
    assert_eq!(
        refusal(&client.apply_config(large).await.unwrap_err()),
        (Code::InvalidArgument, "too_large".into())
    );
    let part = v1::ApplyConfigRequest {
        part: "routes/web".into(),
        text: "{match: {path: /web}, respond: {status: 204}}".into(),
        now: true,
        ..request.clone()
    };
    assert_eq!(client.apply_config(part).await.unwrap().into_inner().version, 2);
    let get = v1::GetConfigRequest { name: "edge".into(), version: 0 };
    let got = client.get_config(get.clone()).await.unwrap().into_inner();
    assert_eq!((got.version.unwrap().version, got.documents.len()), (2, 2));
    assert_eq!(got.documents[0].text, quick("1"), "as it was put");
    let rollback = v1::RollbackRequest { name: "edge".into(), version: 1, now: true };
    assert_eq!(client.rollback(rollback).await.unwrap().into_inner().version, 3);
    let list = v1::ListVersionsRequest { name: "edge".into() };
    let versions = client.list_versions(list).await.unwrap().into_inner().versions;
    assert_eq!(
        versions.iter().map(|version| (version.version, version.repeats)).collect::<Vec<_>>(),
        [(3, 1), (2, 0), (1, 0)]
    );
    let show = v1::RolloutRequest { name: "edge".into(), action: 0 };
    let rollout = client.rollout(show.clone()).await.unwrap().into_inner().rollout.unwrap();
    assert_eq!((rollout.version, rollout.phase()), (3, v1::rollout::Phase::Done));
    let pause = v1::RolloutRequest { action: v1::rollout_request::Action::Pause.into(), ..show };
    assert_eq!(refusal(&client.rollout(pause).await.unwrap_err()), (Code::AlreadyExists, "conflict".into()));
    let remove = v1::RemoveConfigRequest { name: "edge".into(), if_version: 2, force: false };
    let stale = client.remove_config(remove.clone()).await.unwrap_err();
    assert_eq!(refusal(&stale), (Code::Aborted, "stale".into()));
    client.remove_config(v1::RemoveConfigRequest { if_version: 3, ..remove }).await.unwrap();
    let gone = client.get_config(get.clone()).await.unwrap_err();
    assert_eq!(refusal(&gone), (Code::NotFound, "not_found".into()));
    let nobody = v1::GetConfigRequest { name: "none".into(), ..get };
    assert_eq!(refusal(&client.get_config(nobody).await.unwrap_err()), (Code::NotFound, "not_found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_are_granted_it_join_configure_and_lead() {
    let rules = "authorize: [{token: gateway, join: [edge]}, {token: deploy, configure: ['*.shop', edge]}, \
                 {token: operator, operate: true}]";
    let plane = Plane::with(rules).await;
    let ask = async |token: &str, method: &str, path: &str, body: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str())];
        crate::support::send(plane.address(), method, path, &headers, body.to_owned()).await
    };
    let (edge, gateways) = ("/v1/configs/edge", "/v1/gateways");
    ask("deploy", "PUT", edge, ROUTES).await.assert_status(202);
    for (token, method, path, body) in [
        ("gateway", "PUT", edge, ROUTES),
        ("operator", "PUT", edge, ROUTES),
        ("deploy", "PUT", "/v1/configs/mesh", ROUTES),
        ("gateway", "POST", "/v1/configs/edge/abort", ""),
        ("gateway", "GET", "/v1/configs/mesh", ""),
        ("operator", "POST", "/v1/configs/edge/rollback?version=1", ""),
    ] {
        assert_refused(&ask(token, method, path, body).await, 403, "not_yours", "authorize");
    }
    assert_refused(&ask("guess", "GET", edge, "").await, 401, "unauthenticated", "no rule");
    assert_refused(
        &ask("operator", "POST", "/v1/configs/edge/abort", "").await,
        409,
        "conflict",
        "it is done",
    );

    let comes = |token| Comes { token, ..Comes::default() };
    let refused = async |token, config: &str| {
        let came = Taking::come(plane.address(), "g1", config, comes(token)).await;
        refusal(&came.err().expect("a refusal"))
    };
    assert_eq!(refused(Some("gateway"), "mesh").await, (Code::PermissionDenied, "not_yours".into()));
    assert_eq!(refused(Some("operator"), "edge").await, (Code::PermissionDenied, "not_yours".into()));
    assert_eq!(refused(None, "edge").await, (Code::Unauthenticated, "unauthenticated".into()));
    let _gateway = Taking::come(plane.address(), "g1", "edge", comes(Some("gateway"))).await.unwrap();
    for (token, count) in [("operator", 1), ("deploy", 1), ("gateway", 0)] {
        let list = ask(token, "GET", gateways, "").await.assert_status(200).json();
        assert_eq!(list["gateways"].as_array().unwrap().len(), count, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_says_nothing_sensible_is_refused() {
    let plane = Plane::start().await;
    for (node, config) in [("a b", "edge"), ("", "edge"), ("g1", "Edge"), ("g1", "../x")] {
        let came = Taking::come(plane.address(), node, config, Comes::default()).await;
        assert_eq!(
            refusal(&came.err().unwrap()),
            (Code::InvalidArgument, "bad_request".into()),
            "{node} {config}"
        );
    }
    let mut client = client(plane.address()).await;
    let nothing = futures::stream::iter([v1::ConfigReport { message: None }]);
    let refused = within_deadline("an answer", client.watch_config(nothing)).await.unwrap_err();
    assert_eq!(refusal(&refused), (Code::InvalidArgument, "bad_request".into()));
    // What it says of what it was never told is nobody's verdict.
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.in_force(99).await;
    gateway.checked(99, &[]).await;
    let (_, config) = tokio::join!(plane.put(ROUTES), gateway.told());
    assert_eq!(config.version, 1);
    assert_eq!(plane.gateway_of("g1").await["in_force"], 0);
}
