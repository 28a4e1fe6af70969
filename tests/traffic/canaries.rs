//! A candidate's share rises while it does well, is taken back when it does not, and survives whatever becomes of the
//! process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Client, Origin, order, yaml};
use crate::support::{
    Backend, Gateway, RawConnection, get, metric, tidegate, wait_for_metric, within_deadline,
};

const WEIGHT: &str = "tidegate_canary_weight";

/// The route `r` has a canary from `v1` to `v2`.
fn configuration(canary: &str, stable: &Origin, candidate: &Origin) -> String {
    let route = format!("canary: {{stable: v1, candidate: v2, {canary}}}");
    yaml(&route, &[("v1", &[stable], ""), ("v2", &[candidate], "")])
}

async fn pair() -> (Origin, Origin) {
    (Origin::start().await, Origin::start().await)
}

/// What a canary decided by itself.
async fn decided(gateway: &Gateway, decision: &str) -> Value {
    gateway.wait_for_line(|line| line["msg"] == "canary" && line["decision"] == decision).await
}

/// What the operator's API shows of it.
async fn shown(gateway: &Gateway) -> Value {
    get(gateway.admin(), "/canaries").await.assert_status(200).json()[0].clone()
}

/// Requests, whatever comes of them, until told to stop.
struct Traffic(Arc<AtomicBool>, tokio::task::JoinHandle<()>);

impl Traffic {
    fn start(gateway: &Gateway) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut client, stopped) = (Client::new(gateway), stop.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(SeqCst) {
                client.get("/").await;
            }
        });
        Traffic(stop, task)
    }

    async fn stop(self) {
        self.0.store(true, SeqCst);
        within_deadline("the last request", self.1).await.unwrap();
    }
}

async fn send(gateway: &Gateway, requests: usize) {
    let mut client = Client::new(gateway);
    for _ in 0..requests {
        client.get("/").await;
    }
}

/// With the defaults, where a step needs 100 requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_candidate_is_stopped_after_at_most_eight_failures_and_gets_nothing_more() {
    let (stable, candidate) = pair().await;
    candidate.answer(500);
    let canary = "by: round_robin, start: 50%, step: 10%, every: 1h";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.5);
    send(&gateway, 200).await;
    let failed = candidate.requests();
    assert!(failed <= 8, "{failed} requests failed");
    let line = decided(&gateway, "rollback").await;
    let what = line["what"].as_str().unwrap();
    assert!(what.starts_with("rolled back from 50%: success rate 0% is below 99% ("), "{line}");
    assert!(what.ends_with("more than 99.99% sure)"), "{line}");
    assert_eq!(line["level"], "warn", "{line}");
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.0);
    let decisions = ["route=\"r\"", "decision=\"rollback\""];
    assert_eq!(metric(&gateway, "tidegate_canary_decisions_total", &decisions).await, 1.0);
    let shown = shown(&gateway).await;
    assert_eq!((&shown["phase"], &shown["weight"]), (&"rolled_back".into(), &json!(0.0)), "{shown}");
    assert_eq!(what, format!("rolled back from 50%: {}", shown["why"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_how_sure_it_is_and_how_many_requests_are_missing() {
    let (stable, candidate) = pair().await;
    let canary = "by: round_robin, start: 50%, step: 10%, every: 1ms, \
                  require: {min_requests: 10, max_requests: 5000, confidence: 90%}";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    let outlook = shown(&gateway).await["outlook"].clone();
    assert_eq!((&outlook["requirement"], &outlook["side"]), (&json!("success_rate"), &json!("candidate")));
    assert!(outlook["missing_requests"].as_u64().unwrap() > 10, "more than `min_requests`: {outlook}");
    assert_eq!((&outlook["sure"], &outlook["decides_in_seconds"]), (&json!(0.0), &Value::Null), "{outlook}");
    let held = decided(&gateway, "hold").await;
    for key in ["requirement", "sure", "needed", "missing_requests", "decides_in_seconds"] {
        assert!(held[key].is_string(), "{key} of {held}");
    }
    send(&gateway, 40).await;
    let outlook = shown(&gateway).await["outlook"].clone();
    let number = |key: &str| outlook[key].as_f64().unwrap_or_else(|| panic!("{key} of {outlook}"));
    // Of what makes 90 % sure, as much as the next share, 60 %: 1 - 0.1^0.6.
    assert!(number("sure") < number("needed") && (number("needed") - 0.7488).abs() < 0.001, "{outlook}");
    assert!(number("missing_requests") > 50.0 && number("decides_in_seconds") >= 1.0, "{outlook}");
}

/// What the steps before have shown, too: a restart does not make it forget how good the candidate is.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_survives_a_restart() {
    let (stable, candidate) = pair().await;
    let canary = "by: round_robin, start: 50%, step: 10%, every: 1s, require: {min_requests: 10}";
    let (state, yaml) = with_state(&configuration(canary, &stable, &candidate));
    let gateway = Gateway::start(&yaml).await;
    let traffic = Traffic::start(&gateway);
    decided(&gateway, "advance").await;
    traffic.stop().await;
    let sure = |shown: &Value| shown["outlook"]["sure"].as_f64().unwrap();
    let before = shown(&gateway).await;
    assert!(sure(&before) > 0.9, "{before}");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    saved(state.path(), "success_rate").await;
    let gateway = Gateway::start(&yaml).await;
    let after = shown(&gateway).await;
    assert!(sure(&after) > 0.9, "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_rolled_back_at_the_next_look_under_load_too() {
    let (stable, candidate) = pair().await;
    let canary = "start: 20%, step: 10%, every: 1h, require: {min_requests: 50}";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    let traffic = [(); 4].map(|()| Traffic::start(&gateway));
    candidate.wait_for_requests(100).await;
    candidate.answer(503);
    decided(&gateway, "rollback").await;
    // Those that were under way.
    candidate.wait_for("the candidate's last request", |counts| counts.in_flight == 0).await;
    for traffic in traffic {
        traffic.stop().await;
    }
    let before = candidate.requests();
    send(&gateway, 100).await;
    assert_eq!(candidate.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_does_well_gets_everything_in_the_end() {
    let (stable, candidate) = pair().await;
    let canary = "start: 40%, step: 30%, every: 1s, max: 100%, require: {success_rate: 99%, \
                  min_requests: 5, max_error_increase: 1%, p99: 10s}";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    let traffic = Traffic::start(&gateway);
    for (decision, weight) in [("advance", 0.7), ("advance", 1.0), ("promote", 1.0)] {
        let line = decided(&gateway, decision).await;
        let sure = line["sure"].to_string().trim_matches('"').parse::<f64>().unwrap();
        assert!(sure >= if decision == "promote" { 0.99 } else { 0.96 }, "{line}");
        assert_eq!(line["weight"].to_string().trim_matches('"').parse::<f64>().unwrap(), weight, "{line}");
    }
    traffic.stop().await;
    let before = stable.requests();
    send(&gateway, 100).await;
    assert_eq!(stable.requests(), before);
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 1.0);
    assert_eq!(shown(&gateway).await["phase"], "promoted");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_is_no_good_news() {
    let (stable, candidate) = pair().await;
    let canary = "start: 10%, step: 10%, every: 1ms, require: {min_requests: 1000}";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    let line = decided(&gateway, "hold").await;
    assert_eq!(line["what"], "holding the step: candidate has 0 of the 1000 requests needed");
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.1);
}

/// Nothing is measured of it, and yet its share of the requests fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_takes_no_requests_is_rolled_back() {
    let (stable, candidate) = pair().await;
    let gone = Backend::start().await;
    gone.kill().await;
    let canary = "by: round_robin, start: 50%, every: 1h, require: {min_requests: 10}";
    let whole = configuration(canary, &stable, &candidate);
    let settings = format!("['{}'], ", candidate.name());
    let place = whole.find("v2: {endpoints: ").unwrap();
    for sick in [
        format!("v2: {{endpoints: ['{}'], health_check: {{tcp: {{}}}}}}\n", gone.address()),
        format!("v2: {{endpoints: {settings}circuit_breaker: {{consecutive_failures: 2, open_for: 1h}}}}\n"),
    ] {
        candidate.answer(500);
        let gateway = Gateway::start(&format!("{}{sick}", &whole[..place])).await;
        send(&gateway, 40).await;
        decided(&gateway, "rollback").await;
        let mut client = Client::new(&gateway);
        for _ in 0..20 {
            client.get("/").await.assert_status(200);
        }
    }
}

/// Else a few slow clients could roll any candidate back.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_send_their_request_are_not_the_candidates_failures() {
    let (stable, candidate) = pair().await;
    let canary = "by: round_robin, start: 50%, every: 1h, require: {min_requests: 5}";
    let yaml = configuration(canary, &stable, &candidate).replace("name: r,", "name: r, timeout: 100ms,");
    let gateway = Gateway::start(&yaml).await;
    let mut slow: Vec<_> = (0..8).map(|_| RawConnection::open(gateway.address("main"))).collect();
    for client in &mut slow {
        client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nx");
    }
    for client in &mut slow {
        client.read_response().assert_reason(504, "request_timeout");
    }
    for _ in 0..8 {
        gateway.wait_for_message("request").await;
    }
    let shown = shown(&gateway).await;
    for side in ["stable", "candidate"] {
        assert_eq!(shown["observed"][side]["failures"], 0, "{shown}");
    }
    assert_eq!(shown["phase"], "progressing");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_paused_by_a_breach_instead() {
    let (stable, candidate) = pair().await;
    candidate.answer(500);
    let canary = "by: round_robin, start: 50%, every: 1h, on_failure: pause, \
                  require: {min_requests: 10, success_rate: 0%, max_error_increase: 5%, max_p99_increase: 100%}";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    send(&gateway, 40).await;
    let line = decided(&gateway, "pause").await;
    assert!(line["what"].as_str().unwrap().starts_with("paused at 50%: failure rate 100%"), "{line}");
    assert_eq!(shown(&gateway).await["phase"], "paused_by_breach");
    let before = candidate.requests();
    send(&gateway, 20).await;
    assert_eq!(candidate.requests() - before, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sticky_client_sees_one_side_and_names_the_one_it_wants() {
    let (stable, candidate) = pair().await;
    let canary = "by: {header: x-user}, start: 50%, every: 1h";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    let mut client = Client::new(&gateway);
    for (user, expected) in [("v1", [3, 0]), ("v2", [0, 3])] {
        let before = [stable.requests(), candidate.requests()];
        for _ in 0..3 {
            client.send("GET", "/", &[("x-user", user)], "").await.assert_status(200);
        }
        let after = [stable.requests() - before[0], candidate.requests() - before[1]];
        assert_eq!(after, expected, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_a_candidate_that_was_rolled_back_does_not_get_it() {
    let (stable, candidate) = pair().await;
    let canary = "by: {header: x-user}, start: 50%, every: 1h";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    assert_eq!(order(&gateway, "/canaries/r/rollback").await.0, 200);
    for _ in 0..5 {
        Client::new(&gateway).send("GET", "/", &[("x-user", "v2")], "").await.assert_status(200);
    }
    assert_eq!((stable.requests(), candidate.requests()), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_a_reload_and_begins_anew_with_other_settings() {
    let (stable, candidate) = pair().await;
    let before = configuration("start: 10%, step: 10%, every: 1h", &stable, &candidate);
    let gateway = Gateway::start(&before).await;
    assert_eq!(order(&gateway, "/canaries/r/step").await.0, 200);
    let more = before.replace("routes:\n", "routes:\n- {match: {path: /new}, respond: {}}\n");
    assert_eq!(gateway.reload(&more).await["msg"], "configuration reloaded");
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.2);
    gateway.reload(&before.replace("every: 1h", "every: 2h")).await;
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.1);
}

/// A directory for state, and the same configuration with it.
fn with_state(yaml: &str) -> (TempDir, String) {
    let state = TempDir::new().unwrap();
    let yaml = format!("state_dir: {}\n{yaml}", state.path().display());
    (state, yaml)
}

fn state_file(state: &Path) -> PathBuf {
    state.join("canaries/r.json")
}

/// Waits until this was written down.
async fn saved(state: &Path, text: &str) {
    let file = state_file(state);
    let written = async {
        while !fs::read_to_string(&file).is_ok_and(|saved| saved.contains(text)) {
            tokio::task::yield_now().await;
        }
    };
    within_deadline(text, written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_midway_it_goes_on_at_its_step() {
    let (stable, candidate) = pair().await;
    let canary = "by: round_robin, start: 10%, step: 20%, every: 1h";
    let (state, yaml) = with_state(&configuration(canary, &stable, &candidate));
    let gateway = Gateway::start(&yaml).await;
    order(&gateway, "/canaries/r/step").await;
    saved(state.path(), "0.3").await;
    gateway.signal(Signal::SIGKILL);
    gateway.wait_exit().await;

    let gateway = Gateway::start(&yaml).await;
    gateway.wait_for_message("canary goes on").await;
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.3);
    let before = candidate.requests();
    send(&gateway, 100).await;
    assert_eq!(candidate.requests() - before, 30);
    order(&gateway, "/canaries/r/rollback").await;
    saved(state.path(), "rolled_back").await;
    gateway.signal(Signal::SIGKILL);
    gateway.wait_exit().await;

    let gateway = Gateway::start(&yaml).await;
    assert_eq!(shown(&gateway).await["phase"], "rolled_back");
}

/// At once after an order: what was not written down yet is then.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_it_goes_on_too() {
    let (stable, candidate) = pair().await;
    let (_state, yaml) = with_state(&configuration("start: 10%, step: 20%, every: 1h", &stable, &candidate));
    let gateway = Gateway::start(&yaml).await;
    order(&gateway, "/canaries/r/step").await;
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit().await.success());
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_it_along() {
    let (stable, candidate) = pair().await;
    let (_state, yaml) = with_state(&configuration("start: 10%, step: 20%, every: 1h", &stable, &candidate));
    let socket = TempDir::new().unwrap();
    let yaml = format!("upgrade: {{socket: {}}}\n{yaml}", socket.path().join("up.sock").display());
    let gateway = Gateway::start(&yaml).await;
    order(&gateway, "/canaries/r/step").await;
    let gateway = gateway.upgrade().await;
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_cannot_be_read_is_set_aside() {
    let (stable, candidate) = pair().await;
    let (state, yaml) = with_state(&configuration("start: 10%, every: 1h", &stable, &candidate));
    for broken in ["", "{", "[1, 2]", "\u{0}\u{1}", "{\"version\": 99}"] {
        fs::create_dir_all(state.path().join("canaries")).unwrap();
        fs::write(state_file(state.path()), broken).unwrap();
        let gateway = Gateway::start(&yaml).await;
        let line = gateway
            .wait_for_line(|line| {
                line["msg"].as_str().is_some_and(|message| message.starts_with("the canary's progress in"))
            })
            .await;
        assert_eq!(line["level"], "warn", "{line}");
        let aside = state_file(state.path()).with_extension("json.old");
        assert_eq!(fs::read_to_string(&aside).unwrap(), broken);
        fs::remove_file(aside).unwrap();
        assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_was_tampered_with_sends_nobody_astray() {
    let (stable, candidate) = pair().await;
    let (state, yaml) =
        with_state(&configuration("start: 10%, step: 20%, max: 50%, every: 1h", &stable, &candidate));
    let gateway = Gateway::start(&yaml).await;
    order(&gateway, "/canaries/r/step").await;
    saved(state.path(), "0.3").await;
    drop(gateway);
    let good = fs::read_to_string(state_file(state.path())).unwrap();
    for weight in ["0.9", "7", "-1", "1e300", "null"] {
        let text = good.replace("\"weight\":0.3", &format!("\"weight\":{weight}"));
        assert_ne!(text, good);
        fs::write(state_file(state.path()), text).unwrap();
        let gateway = Gateway::start(&yaml).await;
        let found = metric(&gateway, WEIGHT, &["route=\"r\""]).await;
        assert!((0.0..=0.5).contains(&found), "{weight}: {found}");
        Client::new(&gateway).get("/").await.assert_status(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_cannot_be_written_down_is_told_and_changes_nothing_else() {
    let (stable, candidate) = pair().await;
    let (state, yaml) = with_state(&configuration("start: 10%, every: 1h", &stable, &candidate));
    fs::write(state.path().join("canaries"), "a file where a directory should be").unwrap();
    let gateway = Gateway::start(&yaml).await;
    Client::new(&gateway).get("/").await.assert_status(200);
    let told = async {
        while metric(&gateway, "tidegate_canary_save_errors_total", &[]).await == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    within_deadline("a save that failed", told).await;
    assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_another_canary_is_set_aside() {
    let (stable, candidate) = pair().await;
    let (state, yaml) = with_state(&configuration("start: 10%, step: 20%, every: 1h", &stable, &candidate));
    let gateway = Gateway::start(&yaml).await;
    order(&gateway, "/canaries/r/step").await;
    saved(state.path(), "0.3").await;
    drop(gateway);
    for other in [yaml.replace("every: 1h", "every: 2h"), yaml.replace("v2", "v3")] {
        let gateway = Gateway::start(&other).await;
        gateway
            .wait_for_line(|line| line["msg"].as_str().is_some_and(|message| message.contains("is not used")))
            .await;
        assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, 0.1);
        saved(state.path(), "0.1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_do_everything_by_hand() {
    let (stable, candidate) = pair().await;
    let yaml = configuration("by: round_robin, start: 10%, step: 20%, every: 1h", &stable, &candidate);
    let gateway = Gateway::start(&yaml).await;
    for (order, status, said, weight) in [
        ("resume", 409, "nothing to resume", 0.1),
        ("step", 200, "advanced from 10% to 30%", 0.3),
        ("pause", 200, "paused at 30%", 0.3),
        ("pause", 409, "already paused", 0.3),
        ("resume", 200, "resumed at 30%", 0.3),
        ("promote", 200, "promoted at 100%", 1.0),
        ("step", 409, "already promoted", 1.0),
        ("rollback", 200, "rolled back from 100%", 0.0),
        ("rollback", 409, "rolled back", 0.0),
        ("resume", 200, "resumed at 10%", 0.1),
    ] {
        let (found, answer) = super::order(&gateway, &format!("/canaries/r/{order}")).await;
        assert!(found == status && answer.to_string().contains(said), "{order}: {found} {answer}");
        assert_eq!(metric(&gateway, WEIGHT, &["route=\"r\""]).await, weight, "{order}");
    }
    let line = gateway.wait_for_line(|line| line["msg"] == "canary" && line["ordered"] == "promote").await;
    assert_eq!(line["what"], "promoted at 100%");
    for (path, hint) in
        [("/canaries/other/step", "there are: r"), ("/canaries/r/promot", "did you mean promote?")]
    {
        let (status, said) = order(&gateway, path).await;
        assert!(status == 404 && said["refused"].as_str().unwrap().contains(hint), "{path}: {said}");
    }
    crate::support::get(gateway.admin(), "/canaries/r/step").await.assert_status(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_by_the_operator_it_is_still_rolled_back() {
    let (stable, candidate) = pair().await;
    let canary = "by: round_robin, start: 50%, every: 1h, require: {min_requests: 10}";
    let gateway = Gateway::start(&configuration(canary, &stable, &candidate)).await;
    assert_eq!(order(&gateway, "/canaries/r/pause").await.0, 200);
    candidate.answer(500);
    send(&gateway, 40).await;
    decided(&gateway, "rollback").await;
    wait_for_metric(&gateway, WEIGHT, &["route=\"r\""], 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_the_same() {
    let (stable, candidate) = pair().await;
    let yaml = configuration("by: round_robin, start: 10%, step: 20%, every: 1h", &stable, &candidate)
        .replace("name: r,", "name: 'search /x',");
    let gateway = Gateway::start(&yaml).await;
    send(&gateway, 10).await;
    let run = |args: &[&str]| {
        let home = TempDir::new().unwrap();
        let mut command = tidegate(home.path());
        command.arg("canary").args(args).args(["--admin", &gateway.admin().to_string()]);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for (order, said) in [
        ("step", "search /x: advanced from 10% to 30%"),
        ("pause", "search /x: paused at 30%"),
        ("resume", "search /x: resumed at 30%"),
        ("rollback", "search /x: rolled back from 30%"),
        ("promote", "search /x: promoted at 100%"),
    ] {
        assert_eq!(run(&[order, "search /x"]), (0, format!("{said}\n"), String::new()), "{order}");
    }
    let (code, stdout, _) = run(&["status"]);
    assert!(code == 0 && stdout.starts_with("search /x: promoted at 100%"), "{stdout}");
    assert_eq!(run(&["status", "search /x"]).1, stdout);
    run(&["rollback", "search /x"]);
    run(&["resume", "search /x"]);
    let (_, stdout, _) = run(&["status"]);
    let said = "0% sure that success_rate is kept, the next step needs 74.88%: about ";
    assert!(stdout.contains(said) && stdout.ends_with(" more candidate requests\n"), "{stdout}");
    run(&["promote", "search /x"]);
    let (code, _, stderr) = run(&["promote", "search /x"]);
    assert!(code == 1 && stderr.contains("already promoted"), "{code} {stderr}");
    let (code, _, stderr) = run(&["pause", "serch /x"]);
    assert!(code == 1 && stderr.contains("did you mean search /x?"), "{code} {stderr}");
    let (code, _, stderr) = run(&["status", "other"]);
    assert!(code == 1 && stderr.contains("other"), "{code} {stderr}");
    assert_eq!(run(&["promote"]).0, 2);
    assert_eq!(run(&["promot", "search /x"]).0, 2);
}
