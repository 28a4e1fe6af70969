//! Replicas that share configurations: gateways follow whichever they have joined, one replica drives the rollouts, and nothing that
//! happens to etcd or to a replica takes anything from a gateway.

use serde_json::{Value, json};

use super::{PAUSE, replica};
use crate::{
    control::{
        Plane, assert_refused,
        fixture::kill,
        gateway::{Comes, Taking},
    },
    support::{
        etcd::{Etcd, Release},
        metric, wait_for_metric, within_deadline,
    },
};

const ROUTES: &str = "routes: [{respond: {status: 204}}]\n";
const EDGE: &str = "/v1/configs/edge";

fn quick(comment: &str) -> String {
    format!("rollout: {{waves: [1, 100%], hold: 0s}}\n{ROUTES}# {comment}\n")
}

/// One whose waves go on as soon as they are in force, but are waited for for long.
fn patient(comment: &str) -> String {
    format!("rollout: {{waves: [1, 100%], hold: 0s, ack_timeout: 10m}}\n{ROUTES}# {comment}\n")
}

/// One whose first wave is watched for ever.
fn slow(comment: &str) -> String {
    format!("rollout: {{hold: 1h}}\n{ROUTES}# {comment}\n")
}

async fn two(etcd: &Etcd) -> (Plane, Plane) {
    let urls = [etcd.url()];
    (Plane::of(replica(&urls).await), Plane::of(replica(&urls).await))
}

async fn put(plane: &Plane, text: impl AsRef<str>) -> Value {
    plane.ask("PUT", EDGE, text.as_ref()).await.assert_status(202).json()
}

/// Waits until the newest version is this one, and so far.
async fn until(plane: &Plane, version: u64, phase: &str) -> Value {
    let mut last = Value::Null;
    let reached = async {
        loop {
            let answer = plane.ask("GET", EDGE, "").await;
            last = answer.json()["rollout"].clone();
            if last["version"] == version && last["phase"] == phase {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert!(
        tokio::time::timeout(crate::support::DEADLINE, reached).await.is_ok(),
        "not {version} {phase}: {last}"
    );
    last
}

/// Which gateways a replica knows of, and how they are.
async fn gateways(plane: &Plane) -> Vec<(String, String, u64)> {
    let list = plane.ask("GET", "/v1/gateways", "").await.assert_status(200).json();
    let of = |one: &Value| {
        let text = |key: &str| one[key].as_str().unwrap().to_owned();
        (text("node"), text("state"), one["in_force"].as_u64().unwrap())
    };
    list["gateways"].as_array().unwrap().iter().map(of).collect()
}

async fn until_gateways(plane: &Plane, expected: &[(&str, &str, u64)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(node, state, version)| (node.to_string(), state.to_string(), *version))
        .collect();
    let mut last = Vec::new();
    let reached = async {
        loop {
            last = gateways(plane).await;
            if last == expected {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    assert!(
        tokio::time::timeout(crate::support::DEADLINE, reached).await.is_ok(),
        "{last:?} and not {expected:?}"
    );
}

async fn keys(etcd: &Etcd, below: &str) -> Vec<String> {
    let path = format!("/tidegate/v1/{below}");
    let listed = etcd.ctl(&["get", "--prefix", "--keys-only", &path]).await;
    listed
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line["/tidegate/v1/".len()..].to_owned())
        .collect()
}

/// The replica that drives the rollouts, and the other one.
async fn led(etcd: &Etcd, one: Plane, two: Plane) -> (Plane, Plane) {
    let leader = async {
        loop {
            let leader = etcd.ctl(&["get", "--print-value-only", "/tidegate/v1/leader"]).await;
            if !leader.trim().is_empty() {
                return leader.trim().to_owned();
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let leader = within_deadline("a leader", leader).await;
    let line = one.gateway.wait_for_message("registry shares etcd").await;
    if line["replica"] == *leader { (one, two) } else { (two, one) }
}

async fn gateways_of_two_replicas_follow(release: Release) {
    let etcd = Etcd::start(release).await;
    let (one, two) = two(&etcd).await;
    put(&one, quick("1")).await;
    until(&two, 1, "done").await;
    let mut first = Taking::join(one.address(), "g1", "edge").await;
    first.takes(1).await;
    until_gateways(&two, &[("g1", "in_force", 1)]).await;
    let mut second = Taking::join(two.address(), "g2", "edge").await;
    second.takes(1).await;
    for plane in [&one, &two] {
        until_gateways(plane, &[("g1", "in_force", 1), ("g2", "in_force", 1)]).await;
        wait_for_metric(&plane.gateway, "tidegate_control_gateways", &["edge", "in_force"], 2.0).await;
    }
    // Put at one, and in waves over both.
    let (put, _, _) = tokio::join!(put(&two, quick("2")), first.takes(2), second.takes(2));
    assert_eq!(put["version"], 2);
    for plane in [&one, &two] {
        until(plane, 2, "done").await;
        until_gateways(plane, &[("g1", "in_force", 2), ("g2", "in_force", 2)]).await;
        let versions = plane.ask("GET", "/v1/configs/edge/versions", "").await.json();
        assert_eq!(versions["versions"].as_array().unwrap().len(), 2);
        assert_eq!(plane.ask("GET", EDGE, "").await.json()["main"], quick("2"));
    }
    assert_eq!(keys(&etcd, "gateways/").await, ["gateways/edge/g1", "gateways/edge/g2"]);
    drop(second);
    until_gateways(&one, &[("g1", "in_force", 2), ("g2", "away", 2)]).await;
    one.ask("DELETE", &format!("{EDGE}?force"), "").await.assert_status(204);
    let gone = async { while two.ask("GET", EDGE, "").await.status != 404 {} };
    within_deadline("that it is gone for all", gone).await;
    assert!(keys(&etcd, "configs/").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_with_two_replicas_follow_one_rollout() {
    gateways_of_two_replicas_follow(Release::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_with_two_replicas_follow_one_rollout_with_a_later_etcd() {
    gateways_of_two_replicas_follow(Release::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_at_one_replica_takes_it_back_at_the_other() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, quick("1")).await;
    let mut first = Taking::join(one.address(), "g1", "edge").await;
    first.takes(1).await;
    until_gateways(&two, &[("g1", "in_force", 1)]).await;
    let mut second = Taking::join(two.address(), "g2", "edge").await;
    second.takes(1).await;
    until_gateways(&one, &[("g1", "in_force", 1), ("g2", "in_force", 1)]).await;
    let text = patient("2");
    let refuse = async |gateway: &mut Taking| {
        gateway.told().await;
        gateway.refuses(2, "control:edge@2:1:2: no such file").await;
    };
    // Either may be the first wave.
    tokio::join!(put(&two, text), async {
        tokio::select! {
            () = refuse(&mut first) => {}
            () = refuse(&mut second) => {}
        }
    });
    for plane in [&one, &two] {
        let aborted = until(plane, 2, "aborted").await;
        assert!(aborted["why"].as_str().unwrap().contains("no such file"), "{aborted}");
    }
    assert!(first.is_left_alone().await && second.is_left_alone().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_another_replica_checks_it_before_it_is_kept() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, quick("1")).await;
    let mut gateway = Taking::join(two.address(), "g2", "edge").await;
    gateway.takes(1).await;
    until_gateways(&one, &[("g2", "in_force", 1)]).await;
    let text = quick("2");
    let (refused, ()) = tokio::join!(one.ask("PUT", EDGE, &text), async {
        let check = gateway.check().await;
        gateway.checked(check.check, &["control:edge@2:1:2: upstreams: no"]).await;
    });
    assert_refused(&refused, 422, "config_rejected", "nothing was changed");
    assert_eq!(refused.json()["problems"][0]["message"], "control:edge@2:1:2: upstreams: no");
    let (dry, ()) = tokio::join!(one.ask("PUT", "/v1/configs/edge?dry_run", &text), async {
        let check = gateway.check().await;
        gateway.checked(check.check, &[]).await;
    });
    assert_eq!(dry.assert_status(200).json()["checked_by"], "g2");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_at_two_replicas_none_is_lost() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, ROUTES).await;
    until(&two, 1, "done").await;
    // Those that say what they change are refused where somebody was quicker.
    let texts = [quick("a"), quick("b")];
    let with = async |plane: &Plane, text: &str| {
        plane.ask_with("PUT", EDGE, &[("if-match", "1")], text).await.status.as_u16()
    };
    let (first, second) = tokio::join!(with(&one, &texts[0]), with(&two, &texts[1]));
    assert_eq!([first, second].iter().copied().collect::<std::collections::BTreeSet<_>>(), [202, 412].into());
    // Those that do not are made to what came of the other.
    let part = async |plane: &Plane, name: String| {
        let path = format!("{EDGE}/upstreams/{name}?rollout=now");
        plane.ask("PUT", &path, "endpoints: ['127.0.0.1:1']").await.assert_status(202);
    };
    for round in 0..5 {
        tokio::join!(part(&one, format!("a{round}")), part(&two, format!("b{round}")));
    }
    for plane in [&one, &two] {
        until(plane, 12, "done").await;
        let parts = plane.ask("GET", EDGE, "").await.json()["parts"].clone();
        assert_eq!(parts.as_object().unwrap().len(), 10, "{parts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_on_when_the_replica_that_drives_it_dies() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    let (leader, other) = led(&etcd, one, two).await;
    put(&leader, patient("1")).await;
    let mut first = Taking::join(other.address(), "g1", "edge").await;
    first.takes(1).await;
    until_gateways(&leader, &[("g1", "in_force", 1)]).await;
    let mut second = Taking::join(other.address(), "g2", "edge").await;
    second.takes(1).await;
    until_gateways(&leader, &[("g1", "in_force", 1), ("g2", "in_force", 1)]).await;
    // The first wave has it, and does not say so before its driver is dead.
    let put = put(&other, patient("2"));
    let (_, waved) = tokio::join!(put, async {
        tokio::select! {
            config = first.told() => (1, config.version),
            config = second.told() => (2, config.version),
        }
    });
    assert_eq!(waved.1, 2);
    kill(&leader.gateway).await;
    let (waved, waiting) = if waved.0 == 1 { (&mut first, &mut second) } else { (&mut second, &mut first) };
    waved.in_force(2).await;
    waiting.takes(2).await;
    let done = until(&other, 2, "done").await;
    assert_eq!((&done["in_force"], &done["gateways"]), (&json!(2), &json!(2)));
    let leads = etcd.ctl(&["get", "--print-value-only", "/tidegate/v1/leader"]).await;
    let me = other.gateway.wait_for_message("registry shares etcd").await;
    assert_eq!(me["replica"], *leads.trim());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_goes_from_one_replica_to_another_and_is_there_once() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, slow("1")).await;
    let mut gateway = Taking::join(one.address(), "g1", "edge").await;
    let sha256 = gateway.takes(1).await.sha256;
    until_gateways(&two, &[("g1", "in_force", 1)]).await;
    let comes = || Comes { started_ms: 1, version: 1, sha256: sha256.clone(), ..Comes::default() };
    let mut again = Taking::come(two.address(), "g1", "edge", comes()).await.unwrap();
    assert_eq!(gateway.order().await, None, "it has come by another stream, to another replica");
    for plane in [&one, &two] {
        until_gateways(plane, &[("g1", "in_force", 1)]).await;
    }
    let (_, config) = tokio::join!(put(&one, slow("2")), again.takes(2));
    assert_eq!(config.version, 2);
    until(&one, 2, "holding").await;
    // In the middle of a wave as well, without an end to that.
    let comes = Comes { version: 2, sha256: config.sha256, ..comes() };
    let mut back = Taking::come(one.address(), "g1", "edge", comes).await.unwrap();
    assert_eq!(again.order().await, None);
    until_gateways(&two, &[("g1", "in_force", 2)]).await;
    assert!(back.is_left_alone().await);
    assert_eq!(until(&two, 2, "holding").await["in_force"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_a_gateway_of_another_replica_counts_take_it_back() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    let (leader, other) = led(&etcd, one, two).await;
    put(&leader, slow("1")).await;
    let mut gateway = Taking::join(other.address(), "g1", "edge").await;
    gateway.takes(1).await;
    gateway.counts(1000, 5).await;
    until_gateways(&leader, &[("g1", "in_force", 1)]).await;
    tokio::join!(put(&leader, slow("2")), gateway.takes(2));
    until(&leader, 2, "holding").await;
    gateway.counts(1100, 50).await;
    let aborted = until(&leader, 2, "aborted").await;
    assert!(aborted["why"].as_str().unwrap().contains("errors of its own"), "{aborted}");
    gateway.takes(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_all_replicas_were_killed() {
    let etcd = Etcd::start(Release::Old).await;
    let plane = super::plane(&etcd).await;
    put(&plane, ROUTES).await;
    let mut gateway = Taking::join(plane.address(), "g1", "edge").await;
    gateway.takes(1).await;
    let text = format!("rollout: {{hold: 1h, ack_timeout: 1m}}\n{ROUTES}# 2");
    let (_, config) = tokio::join!(put(&plane, &text), gateway.takes(2));
    until(&plane, 2, "holding").await;
    kill(&plane.gateway).await;
    let plane = super::plane(&etcd).await;
    let now = plane.rollout().await;
    assert_eq!((&now["version"], &now["previous"]), (&json!(2), &json!(1)));
    let comes = Comes { started_ms: 1, version: 2, sha256: config.sha256, ..Comes::default() };
    let mut gateway = Taking::come(plane.address(), "g1", "edge", comes).await.unwrap();
    assert_eq!(until(&plane, 2, "holding").await["in_force"], 1, "it is in its wave as before");
    assert!(gateway.is_left_alone().await);
    let mut other = Taking::join(plane.address(), "g2", "edge").await;
    other.takes(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_fifty_versions_are_kept_and_nothing_of_others() {
    let etcd = Etcd::start(Release::Old).await;
    let plane = super::plane(&etcd).await;
    for version in 1..=53 {
        let path = "/v1/configs/edge?rollout=now";
        plane.ask("PUT", path, &format!("{ROUTES}# {version}\n")).await.assert_status(202);
    }
    let late = super::plane(&etcd).await;
    for plane in [&plane, &late] {
        let versions = plane.ask("GET", "/v1/configs/edge/versions", "").await.json();
        let versions = versions["versions"].as_array().unwrap();
        assert_eq!(
            (versions.len(), &versions[0]["version"], &versions[49]["version"]),
            (50, &json!(53), &json!(4))
        );
    }
    assert_eq!(keys(&etcd, "configs/").await.len(), 101, "two for each, and how far the newest is");
}

/// Letters that no compression makes much smaller.
fn noise(length: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_etcd_does_not_take_in_one_call_is_kept_in_pieces() {
    let etcd = Etcd::start(Release::Old).await;
    let (one, two) = two(&etcd).await;
    let large = format!("{ROUTES}#{}", noise((4 << 20) - ROUTES.len() - 1));
    put(&one, &large).await;
    until(&two, 1, "done").await;
    let mut gateway = Taking::join(two.address(), "g1", "edge").await;
    assert_eq!(gateway.takes(1).await.documents[0].text, large);
    assert!(keys(&etcd, "configs/").await.len() > 3, "more than a piece");
    let too_large = one.ask("PUT", EDGE, &format!("{large}x")).await;
    assert_refused(&too_large, 413, "too_large", "4194304 bytes");
    let late = super::plane(&etcd).await;
    assert_eq!(late.ask("GET", EDGE, "").await.json()["main"], large);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_a_key_is_passed_over_and_told() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, ROUTES).await;
    until(&two, 1, "done").await;
    for key in [
        "configs/edge/2",
        "configs/edge/current",
        "configs/Bad Name/current",
        "configs/x",
        "gateways/edge/g9",
    ] {
        etcd.ctl(&["put", &format!("/tidegate/v1/{key}"), "garbage"]).await;
    }
    for plane in [&one, &two] {
        wait_for_metric(&plane.gateway, "tidegate_store_unreadable_total", &[], 5.0).await;
        plane
            .gateway
            .wait_for_line(|line| {
                let said = line["msg"].as_str().unwrap_or_default();
                said.contains("/configs/edge/current") && said.contains("that is passed over")
            })
            .await;
        assert_eq!(plane.rollout().await["version"], 1);
    }
    let mut gateway = Taking::join(two.address(), "g1", "edge").await;
    gateway.takes(1).await;
    // Whoever puts the next version writes over it.
    let (put, _) = tokio::join!(put(&two, quick("2")), gateway.takes(2));
    assert_eq!(put["version"], 2);
    until(&one, 2, "done").await;
    // One that finds it there, and knows nothing else, sends nobody anything.
    etcd.ctl(&["put", "/tidegate/v1/configs/edge/current", "garbage"]).await;
    let late = super::plane(&etcd).await;
    let paused = until(&late, 2, "paused").await;
    assert!(paused["why"].as_str().unwrap().contains("is lost"), "{paused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_all_is_read_nothing_is_put_and_rollouts_wait() {
    let mut etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, patient("1")).await;
    let mut gateway = Taking::join(two.address(), "g1", "edge").await;
    gateway.takes(1).await;
    until_gateways(&one, &[("g1", "in_force", 1)]).await;
    let mut other = Taking::join(one.address(), "g2", "edge").await;
    other.takes(1).await;
    until_gateways(&two, &[("g1", "in_force", 1), ("g2", "in_force", 1)]).await;
    let (_, first) = tokio::join!(put(&one, patient("2")), async {
        tokio::select! {
            config = gateway.told() => (1, config.version),
            config = other.told() => (2, config.version),
        }
    });
    assert_eq!(first.1, 2);
    etcd.kill().await;
    for plane in [&one, &two] {
        wait_for_metric(&plane.gateway, "tidegate_store_up", &[], 0.0).await;
        let refused = plane.ask("PUT", EDGE, &quick("3")).await;
        assert_refused(&refused, 503, "store_unavailable", "look which version is the newest, and try again");
        assert!(refused.header("retry-after").is_some());
        assert_refused(
            &plane.ask("POST", "/v1/configs/edge/pause", "").await,
            503,
            "store_unavailable",
            "try again",
        );
        assert_refused(
            &plane.ask("DELETE", &format!("{EDGE}?force"), "").await,
            503,
            "store_unavailable",
            "try again",
        );
        assert_eq!(plane.ask("GET", EDGE, "").await.json()["main"], patient("2"));
        assert_eq!(plane.rollout().await["phase"], "rolling");
    }
    // One that comes is given what it is to have.
    let mut late = Taking::join(one.address(), "g3", "edge").await;
    late.takes(1).await;
    let (waved, waiting) = if first.0 == 1 { (&mut gateway, &mut other) } else { (&mut other, &mut gateway) };
    waved.in_force(2).await;
    assert!(waiting.is_left_alone().await, "nobody can know that the wave is over");
    etcd.start_again().await;
    waiting.takes(2).await;
    late.takes(2).await;
    for plane in [&one, &two] {
        until(plane, 2, "done").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_backup_lacks_is_written_again() {
    let mut etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, ROUTES).await;
    let mut gateway = Taking::join(one.address(), "g1", "edge").await;
    gateway.takes(1).await;
    let backup = etcd.home().join("backup");
    etcd.ctl(&["snapshot", "save", backup.to_str().unwrap()]).await;
    tokio::join!(put(&one, quick("2")), gateway.takes(2));
    tokio::join!(put(&two, quick("3")), gateway.takes(3));
    until(&one, 3, "done").await;
    until(&two, 3, "done").await;
    etcd.restore(backup.to_str().unwrap()).await;
    let written = async {
        while !keys(&etcd, "configs/").await.contains(&"configs/edge/3".to_owned()) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    within_deadline("what the backup lacks", written).await;
    assert!(gateway.is_left_alone().await, "nobody is sent anything else");
    let late = super::plane(&etcd).await;
    for plane in [&one, &two, &late] {
        until(plane, 3, "done").await;
        let versions = plane.ask("GET", "/v1/configs/edge/versions", "").await.json();
        assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
    }
    until_gateways(&late, &[("g1", "in_force", 3)]).await;
    let (put, _) = tokio::join!(put(&late, quick("4")), gateway.takes(4));
    assert_eq!(put["version"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_leaves_its_gateways_to_the_others() {
    let etcd = Etcd::start(Release::New).await;
    let (one, two) = two(&etcd).await;
    put(&one, ROUTES).await;
    let mut gateway = Taking::join(two.address(), "g1", "edge").await;
    gateway.takes(1).await;
    until_gateways(&one, &[("g1", "in_force", 1)]).await;
    kill(&two.gateway).await;
    // When its lease has run out.
    until_gateways(&one, &[("g1", "away", 1)]).await;
    assert!(keys(&etcd, "gateways/").await.is_empty());
    assert_eq!(metric(&one.gateway, "tidegate_store_unreadable_total", &[]).await, 0.0);
}
