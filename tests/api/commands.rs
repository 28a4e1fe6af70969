//! `tidegate top`, `tail` and `config diff`, as somebody types them who looks at a running gateway.

use std::process::Command;

use nix::sys::signal::Signal;

use super::*;
use crate::support::{Process, tidegate};

const ROUTES: &str = "routes:\n\
     - {name: good, match: {path: /good}, respond: {body: fine}}\n\
     - {name: bad, match: {path: /bad}, respond: {status: 503}}\n";

fn configuration(routes: &str) -> String {
    format!("admin: {OPEN}\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n{routes}")
}

/// `tidegate ARGS --admin ADDRESS`.
fn command(gateway: &Gateway, args: &[&str]) -> Command {
    let mut command = tidegate(gateway.directory());
    command.args(args).arg("--admin").arg(gateway.admin().to_string());
    command
}

/// Both routes are asked again and again, for as long as `waiting` does.
async fn meanwhile_asked<T>(gateway: &Gateway, waiting: impl Future<Output = T>) -> T {
    let asking = async {
        loop {
            get(gateway.address("main"), "/good").await.assert_status(200);
            get(gateway.address("main"), "/bad").await.assert_status(503);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        waited = waiting => waited,
        () = asking => unreachable!("it has no end"),
    }
}

async fn printed(gateway: &Gateway, args: &[&str]) -> (i32, String, String) {
    let process = Process::spawn(command(gateway, args));
    let status = process.wait_exit().await;
    (status.code().unwrap(), process.output(), process.stderr())
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_the_lines_that_are_wanted_and_ends_after_so_many() {
    let gateway = Gateway::start(&configuration(ROUTES)).await;
    let wanted = ["tail", "--route", "bad", "--status", "5xx", "-n", "2"];
    let (code, text, _) = meanwhile_asked(&gateway, printed(&gateway, &wanted)).await;
    assert_eq!(code, 0);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().all(|line| line.contains("/bad") && line.contains("503")), "{text}");
    let json = [&wanted[..], &["--json"]].concat();
    let (_, text, _) = meanwhile_asked(&gateway, printed(&gateway, &json)).await;
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["route"], &line["status"]), (&"bad".into(), &503.into()));
    }
    let (code, _, stderr) = printed(&gateway, &["tail", "--status", "many"]).await;
    assert!(code != 0 && stderr.contains("many"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn top_prints_one_table_or_an_object_each_second_where_nobody_looks_at_a_terminal() {
    let gateway = Gateway::start(&configuration(ROUTES)).await;
    // The first second may have begun before the first request.
    let shown = async {
        loop {
            let (code, text, _) = printed(&gateway, &["top", "--once"]).await;
            assert_eq!(code, 0);
            if text.contains("good") && text.contains("bad") {
                return text;
            }
        }
    };
    let text = within_deadline("both routes", meanwhile_asked(&gateway, shown)).await;
    assert!(text.contains("REQ/S") && text.contains("ENDPOINT") && !text.contains('\u{1b}'), "{text}");
    let process = Process::spawn(command(&gateway, &["top", "--json"]));
    let seconds = process.first_lines(2);
    for line in within_deadline("two seconds", meanwhile_asked(&gateway, seconds)).await {
        let second: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(second["phase"], "ready", "{second}");
    }
    process.signal(Signal::SIGTERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn top_in_a_terminal_obeys_its_keys_and_leaves_the_terminal_as_it_was() {
    let gateway = Gateway::start(&configuration(ROUTES)).await;
    let top = command(&gateway, &["top"]);
    let words = [top.get_program()].into_iter().chain(top.get_args());
    let line = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    terminal.args([
        "-q",
        "-e",
        "-c",
        &format!("stty rows 30 cols 100; {line}; echo ended with $?; stty -a"),
        "/dev/null",
    ]);
    let process = Process::spawn_with_input(terminal);
    let row = |line: &str| (line.contains("good") && !line.contains("ENDPOINT")).then_some(());
    within_deadline("a row", meanwhile_asked(&gateway, process.find("a route's row", row))).await;
    process.write_line("\t");
    let endpoints = |line: &str| line.contains("ENDPOINT").then_some(());
    within_deadline("the other page", meanwhile_asked(&gateway, process.find("endpoints", endpoints))).await;
    process.write_line("q");
    process.find("its end", |line| line.contains("ended with 0").then_some(())).await;
    // Typed characters are seen again, and lines are lines.
    process.find("the settings", |line| line.contains(" icanon").then_some(())).await;
    process.find("the settings", |line| line.contains(" echo ").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn config_diff_shows_what_the_last_reload_has_changed_and_what_a_file_would() {
    let before = configuration(ROUTES);
    let gateway = Gateway::start(&before).await;
    let (code, _, stderr) = printed(&gateway, &["config", "diff"]).await;
    assert!(code != 0 && stderr.contains("nothing has been changed"), "{stderr}");
    let file = gateway.directory().join("gateway.yaml");
    let file = file.to_str().unwrap();
    let (code, text, _) = printed(&gateway, &["config", "diff", file]).await;
    assert_eq!((code, text.as_str()), (0, ""), "it is in force");

    let after = before.replace("fine", "better");
    gateway.write_config(&after);
    let (code, text, _) = printed(&gateway, &["config", "diff", file]).await;
    assert_eq!(code, 1, "there is a difference: {text}");
    let changed = |text: &str| {
        let line =
            |sign: char, body: &str| text.lines().any(|line| line.starts_with(sign) && line.contains(body));
        line('-', "fine") && line('+', "better")
    };
    assert!(changed(&text), "{text}");
    assert_eq!(gateway.reload(&after).await["msg"], "configuration reloaded");
    let (code, text, _) = printed(&gateway, &["config", "diff"]).await;
    assert_eq!(code, 0);
    assert!(changed(&text) && !text.contains('\u{1b}'), "{text}");
    let (_, text, _) = printed(&gateway, &["config", "diff", "--json"]).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert!(changed(told["diff"].as_str().unwrap()), "{told}");
}
