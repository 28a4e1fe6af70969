//! Commands that look at a running gateway, as an operator runs them: in a terminal, in a pipe, for programs.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, Process, Terminal, Yaml,
    certificates::{Order, authority, keep, server},
    get, own_address, tidegate,
};

fn command(gateway: &Gateway, args: &[&str]) -> Command {
    let mut command = tidegate(gateway.directory());
    command.args(args).args(["--admin", &gateway.admin().to_string()]);
    command
}

/// Its exit code, what it printed, and what it complained of.
fn run(gateway: &Gateway, args: &[&str]) -> (i32, String, String) {
    let output = command(gateway, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn run_json(gateway: &Gateway, args: &[&str]) -> Value {
    let (_, stdout, stderr) = run(gateway, args);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{args:?}: {error} in {stdout} {stderr}"))
}

const CHECKED: &str = "health_check: {tcp: {}, interval: 100ms, timeout: 1s, unhealthy_after: 1}";

#[tokio::test]
async fn status_says_which_endpoint_is_unhealthy_why_and_since_when() {
    let there = Backend::start().await;
    let gone = Backend::start().await;
    gone.kill().await;
    let yaml = Yaml::to_all([there.address(), gone.address()]).settings(CHECKED);
    let gateway = yaml.start().await;
    gateway.wait_for_message("endpoint is unhealthy").await;

    let (code, status, _) = run(&gateway, &["status"]);
    assert!(code == 0 && status.starts_with("ready  tidegate "), "{status}");
    assert!(status.contains("upstream origin  ready  1 of 2 endpoints usable\n"), "{status}");
    let why = format!("warn: endpoint origin: {}: probe failed: ", gone.address());
    let line = status.lines().find(|line| line.starts_with(&why)).unwrap_or_else(|| panic!("{status}"));
    assert!(line.to_lowercase().contains("refused") && line.contains(", for "), "{line}");

    let shown = get(gateway.admin(), "/upstreams").await.json();
    let endpoints = shown[0]["endpoints"].as_array().unwrap();
    let of = |address: String| endpoints.iter().find(|endpoint| endpoint["name"] == address).unwrap();
    let endpoint = of(gone.address().to_string());
    assert!(endpoint["why"].as_str().unwrap().starts_with("probe failed: "), "{endpoint}");
    assert!(endpoint["since"].is_string(), "{endpoint}");
    assert_eq!(of(there.address().to_string())["why"], Value::Null);
}

#[tokio::test]
async fn status_says_which_certificate_ends_soon() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    for (name, days) in [("soon", 9), ("late", 60)] {
        let not_after = SystemTime::now() + DAY * days + DAY / 2;
        let order = Order { not_after, ..server(&[&format!("{name}.example")]) };
        keep(directory.path(), name, &root.issue(&order));
    }
    let tls = "tls: {certificates: [{cert: soon.crt, key: soon.key}, {cert: late.crt, key: late.key}]}";
    let yaml = Yaml::new().listener(tls).with_route("respond: {}").to_string();
    let gateway = Gateway::start_in(directory, &yaml, &[]).await;
    let (_, status, _) = run(&gateway, &["status"]);
    let told: Vec<&str> = status.lines().filter(|line| line.starts_with("warn: certificate ")).collect();
    assert!(told.len() == 1 && told[0].contains("ends in 9 days"), "{status}");
}

#[tokio::test]
async fn status_says_what_became_of_the_last_reload() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address());
    let gateway = yaml.start().await;
    assert!(!run(&gateway, &["status"]).1.contains("last reload"));
    gateway.reload(&yaml.clone().route("timeout: 9s").to_string()).await;
    let (_, status, _) = run(&gateway, &["status"]);
    assert!(status.contains("\nlast reload  reloaded ") && status.contains("changed route r"), "{status}");
    gateway.reload("listeners: 5\nroutes: 5\n").await;
    let (code, status, _) = run(&gateway, &["status"]);
    let line = status.lines().find(|line| line.starts_with("last reload  rejected ")).unwrap();
    assert!(code == 0 && line.contains("gateway.yaml:1:") && line.ends_with("(and 1 more)"), "{line}");
    let json = run_json(&gateway, &["status", "--json"]);
    assert_eq!((&json["phase"], &json["last_reload"]["result"]), (&json!("ready"), &json!("rejected")));
    assert_eq!(json["attention"][0]["kind"], "reload");
}

#[tokio::test]
async fn status_watch_prints_what_has_changed_and_goes_on_when_the_gateway_is_gone() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).settings(CHECKED).start().await;
    let watching = Process::spawn(command(&gateway, &["status", "--watch", "--json"]));
    watching.wait_for_output("\"phase\":\"ready\"").await;
    backend.kill().await;
    watching.wait_for_output("probe failed: ").await;
    gateway.signal(Signal::SIGKILL);
    watching.wait_for_output("\"phase\":\"unreachable\"").await;
    assert!(!watching.has_ended());
}

#[tokio::test]
async fn status_watch_draws_anew_in_a_terminal() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).settings(CHECKED).start().await;
    let terminal = Terminal::start(command(&gateway, &["status", "--watch"]), 200, 10);
    let has = |text: &'static str| move |lines: &[String]| lines.iter().any(|line| line.contains(text));
    terminal.wait_for_picture("the upstream", has("upstream origin  ready  1 of 1")).await;
    backend.kill().await;
    let lines = terminal.wait_for_picture("why it gets nothing", has("probe failed: ")).await;
    assert!(lines[0].starts_with("ready  tidegate ") && has("0 of 1")(&lines), "{lines:?}");
}

#[tokio::test]
async fn a_canary_that_is_paused_says_since_when_and_not_how_far_its_step_is() {
    let (stable, candidate) = (Backend::start().await, Backend::start().await);
    let gateway = Yaml::to(stable.address())
        .with_upstream("next", [candidate.address()], "")
        .with_route("name: c, match: {path: /c}, canary: {stable: origin, candidate: next, start: 10%, step: 10%, every: 1h}")
        .start()
        .await;
    let (_, progressing, _) = run(&gateway, &["canary", "status"]);
    assert!(progressing.starts_with("c: progressing at 10%, 0 s into the step "), "{progressing}");
    run(&gateway, &["canary", "pause", "c"]);
    let (_, paused, _) = run(&gateway, &["canary", "status"]);
    assert!(paused.starts_with("c: paused at 10%, since 2"), "{paused}");
    let told = run_json(&gateway, &["canary", "status", "--json"]);
    assert_eq!((&told[0]["route"], &told[0]["phase"]), (&json!("c"), &json!("paused")), "{told}");
    let done = run_json(&gateway, &["canary", "resume", "c", "--json"]);
    assert!(done["result"].as_str().unwrap().starts_with("resumed"), "{done}");
}

#[tokio::test]
async fn top_shows_routes_and_endpoints_in_a_terminal_until_q_is_pressed() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address())
        .with_route("name: broken, match: {path: /broken}, respond: {status: 500}")
        .start()
        .await;
    let address = gateway.address("main");
    let busy = tokio::spawn(async move {
        loop {
            get(address, "/").await;
            get(address, "/broken").await;
        }
    });
    let mut terminal = Terminal::start(command(&gateway, &["top"]), 100, 20);
    let begins = |name: &'static str| move |line: &String| line.starts_with(name);
    let routes = terminal
        .wait_for_picture("both routes", |lines| {
            lines.iter().any(begins("r ")) && lines.iter().any(begins("broken "))
        })
        .await;
    assert!(routes[0].starts_with("tidegate  ready  "), "{routes:?}");
    assert!(routes.iter().all(|line| line.chars().count() <= 100), "{routes:?}");
    terminal.press("n");
    let sorted = terminal
        .wait_for_picture("names in order", |lines| {
            let at = |name| lines.iter().position(begins(name));
            at("broken ").zip(at("r ")).is_some_and(|(broken, r)| broken < r)
        })
        .await;
    assert!(sorted.iter().any(begins("ROUTE ")), "{sorted:?}");
    terminal.press("\t");
    let endpoint = format!("origin/{}", backend.address());
    terminal
        .wait_for_picture("the endpoint", |lines| lines.iter().any(|line| line.starts_with(&endpoint)))
        .await;
    terminal.press("q");
    let (status, written) = terminal.end().await;
    busy.abort();
    assert!(status.success(), "{status} {written}");
    assert!(written.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "the terminal is left as it was: {written:?}");
}

#[tokio::test]
async fn a_terminal_has_colours_unless_it_wants_none() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    for (no_color, has_colours) in [("", true), ("1", false)] {
        let mut top = command(&gateway, &["top"]);
        top.env("NO_COLOR", no_color);
        let mut terminal = Terminal::start(top, 100, 20);
        terminal
            .wait_for_picture("the head of the table", |lines| {
                lines.iter().any(|line| line.starts_with("ROUTE "))
            })
            .await;
        terminal.press("q");
        let (_, written) = terminal.end().await;
        assert_eq!(written.contains("\u{1b}[0m"), has_colours, "NO_COLOR={no_color}: {written:?}");
    }
}

#[tokio::test]
async fn top_prints_one_table_into_a_pipe_and_an_object_for_programs() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let (code, table, _) = run(&gateway, &["top"]);
    assert_eq!(code, 0, "{table}");
    for word in ["tidegate  ready  ", "ROUTE ", "ENDPOINT ", "REQ/S"] {
        assert!(table.contains(word), "{table}");
    }
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let told = run_json(&gateway, &["top", "--json", "--once"]);
    assert_eq!((&told["phase"], told["gateway"].is_object()), (&json!("ready"), true), "{told}");
}

#[tokio::test]
async fn tail_shows_the_requests_that_are_asked_for_as_they_happen() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let address = gateway.address("main");
    let asked = |args: &[&str]| Process::spawn(command(&gateway, args));
    let failing = asked(&["tail", "--route", "r", "--status", "5xx", "-n", "2"]);
    let programs = asked(&["tail", "--path", "/status/503", "--json", "-n", "1"]);
    // Nothing says when they listen, so there is always more to hear.
    while !failing.has_ended() || !programs.has_ended() {
        get(address, "/status/200").await.assert_status(200);
        get(address, "/status/503").await.assert_status(503);
    }
    assert!(failing.wait_exit().await.success(), "{}", failing.stderr());
    let shown = failing.output();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    for line in shown.lines() {
        assert!(line.contains(&format!(" GET {address}/status/503 503 ")), "{line}");
        assert!(line.contains(" r -> origin ") && !line.contains('\u{1b}'), "{line}");
    }
    let line: Value = serde_json::from_str(&programs.output()).unwrap();
    assert_eq!((&line["route"], &line["status"]), (&json!("r"), &json!(503)), "{line}");
}

#[tokio::test]
async fn tail_says_what_is_wrong_with_a_filter() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let (code, _, stderr) = run(&gateway, &["tail", "--status", "teapot"]);
    assert!(code == 1 && stderr.contains("answers 400") && stderr.contains("teapot"), "{code} {stderr}");
}

#[tokio::test]
async fn config_diff_shows_what_a_reload_has_changed() {
    let backend = Backend::start().await;
    let yaml = Yaml::to(backend.address()).route("timeout: 3s");
    let gateway = yaml.start().await;
    let (code, _, stderr) = run(&gateway, &["config", "diff"]);
    assert!(code == 1 && stderr.contains("nothing has been changed since the gateway started"), "{stderr}");
    gateway.reload(&yaml.clone().route("timeout: 7s").to_string()).await;
    let (code, diff, _) = run(&gateway, &["config", "diff"]);
    assert_eq!(code, 0, "{diff}");
    let changed: Vec<&str> = diff.lines().filter(|line| line.starts_with(['-', '+'])).collect();
    assert_eq!(changed, ["--- before", "+++ after", "-  timeout: 3s", "+  timeout: 7s"], "{diff}");
    let json = run_json(&gateway, &["config", "diff", "--json"]);
    assert_eq!((&json["result"], json["diff"].as_str()), (&json!("reloaded"), Some(&*diff)), "{json}");
    let number = json["id"].to_string();
    assert_eq!(run(&gateway, &["config", "diff", "--reload", &number]).1, diff);
    let (code, _, stderr) = run(&gateway, &["config", "diff", "--reload", "99"]);
    assert!(code == 1 && stderr.contains("there is no reload 99"), "{stderr}");
}

#[tokio::test]
async fn config_diff_of_a_file_shows_what_it_would_change_and_changes_nothing() {
    let gone = own_address();
    let yaml = Yaml::to(format!("{}:9", gone.ip())).route("timeout: 3s");
    let gateway = yaml.start().await;
    let file = gateway.directory().join("next.yaml");
    std::fs::write(&file, yaml.to_string()).unwrap();
    let (code, diff, stderr) = run(&gateway, &["config", "diff", "next.yaml"]);
    assert_eq!((code, diff.as_str()), (0, ""), "{stderr}");
    std::fs::write(&file, yaml.clone().route("timeout: 7s").to_string()).unwrap();
    let (code, diff, _) = run(&gateway, &["config", "diff", "next.yaml"]);
    assert_eq!(code, 1, "{diff}");
    for line in ["--- in force\n", "+++ next.yaml\n", "-  timeout: 3s\n", "+  timeout: 7s\n"] {
        assert!(diff.contains(line), "{diff}");
    }
    assert_eq!(run(&gateway, &["config", "diff", "next.yaml"]).1, diff, "nothing was changed");
    std::fs::write(&file, "routes: 5\n").unwrap();
    let (code, _, stderr) = run(&gateway, &["config", "diff", "next.yaml"]);
    assert!(code == 3 && stderr.contains("next.yaml:1:"), "{code} {stderr}");
}
