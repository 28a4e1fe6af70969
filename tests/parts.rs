//! Upstreams and routes beside the file, added, changed and removed while requests are served; and endpoints that are
//! drained or weighed by hand. What was ordered survives reloads, restarts and upgrades, and what contradicts is refused.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Backend, Gateway, Load, RawConnection, Yaml, get, metric, send};

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    send(gateway.admin(), method, path, headers, body.to_owned()).await
}

async fn put(gateway: &Gateway, path: &str, body: &str) -> Answer {
    ask(gateway, "PUT", path, &[], body).await
}

async fn delete(gateway: &Gateway, path: &str) -> Answer {
    ask(gateway, "DELETE", path, &[], "").await
}

/// The upstream `cart` and its route.
async fn add_cart(gateway: &Gateway, backend: &Backend) {
    put(gateway, "/v1/upstreams/cart", &to(backend)).await.assert_status(201);
    put(gateway, "/v1/routes/cart", CART).await.assert_status(201);
}

const CART: &str = "match: {path: /headers}\nupstream: cart\n";

fn to(backend: &Backend) -> String {
    json!({"endpoints": [backend.address().to_string()]}).to_string()
}

/// Which backend answers.
async fn answers(gateway: &Gateway, path: &str) -> String {
    let answer = get(gateway.address("main"), path).await;
    answer.assert_status(200).header("x-backend").unwrap().to_owned()
}

fn problems(answer: &Answer) -> Vec<String> {
    let told = answer.json();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problems = told["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, reason: &str) -> Value {
    let told = answer.assert_status(status).json();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!((&told["reason"], &told["status"]), (&json!(reason), &json!(status)), "{told}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_and_its_route_come_change_and_go_under_load_without_a_failure() {
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let gateway = Yaml::to(one.address()).start().await;
    let loads = [
        Load::start(gateway.address("main"), "/", 2),
        Load::start_h2c(gateway.address("main"), "/headers", 2),
    ];
    for _ in 0..3 {
        assert_eq!(answers(&gateway, "/headers").await, "one");
        let added = put(&gateway, "/v1/upstreams/cart", &to(&other)).await;
        assert_eq!(added.assert_status(201).json()["changes"], "added upstream cart");
        let route = put(&gateway, "/v1/routes/cart", CART).await;
        assert_eq!(route.assert_status(201).json()["changes"], "added route cart");
        assert_eq!(answers(&gateway, "/headers").await, "other");
        for load in &loads {
            load.wait_for_requests(20).await;
        }
        let changed = put(&gateway, "/v1/upstreams/cart", &to(&one)).await;
        assert_eq!(changed.assert_status(200).json()["result"], "changed");
        assert_ne!(changed.header("etag"), added.header("etag"));
        assert_eq!(answers(&gateway, "/headers").await, "one");
        let again = put(&gateway, "/v1/upstreams/cart", &to(&one)).await;
        assert_eq!(again.assert_status(200).json()["result"], "unchanged");
        assert_eq!(again.header("etag"), changed.header("etag"));
        let needed = delete(&gateway, "/v1/upstreams/cart").await;
        assert_refused(&needed, 422, "config_rejected");
        assert!(
            problems(&needed)[0].starts_with("admin:routes/cart:2:11: routes[1].upstream: "),
            "{needed:?}"
        );
        assert_eq!(delete(&gateway, "/v1/routes/cart").await.assert_status(200).json()["result"], "removed");
        delete(&gateway, "/v1/upstreams/cart").await.assert_status(200);
        for load in &loads {
            load.wait_for_requests(20).await;
        }
    }
    assert_refused(&delete(&gateway, "/v1/upstreams/cart").await, 404, "not_found");
    for load in loads {
        load.stop().await.assert_no_failures();
    }
}

#[tokio::test]
async fn of_two_who_change_the_same_version_one_is_told_so() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let first = put(&gateway, "/v1/upstreams/cart", &to(&backend)).await;
    let etag = first.assert_status(201).header("etag").unwrap().to_owned();
    assert_eq!(get(gateway.admin(), "/v1/upstreams/cart").await.header("etag"), Some(&*etag));
    let change = async |timeout: &str| {
        let body = format!("{{endpoints: ['{}'], read_timeout: {timeout}}}", backend.address());
        ask(&gateway, "PUT", "/v1/upstreams/cart", &[("if-match", &etag)], &body).await
    };
    let (one, other) = tokio::join!(change("1s"), change("2s"));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
    let (won, lost) = if one.status == 200 { (one, other) } else { (other, one) };
    let told = assert_refused(&lost, 412, "stale");
    assert!(told["detail"].as_str().unwrap().contains("by 127.0.0.1:"), "{told}");
    assert_eq!(lost.header("etag"), won.header("etag"), "what is there is said");
    let stale = ask(&gateway, "DELETE", "/v1/upstreams/cart", &[("if-match", &etag)], "").await;
    assert_refused(&stale, 412, "stale");
    let new = ask(&gateway, "PUT", "/v1/upstreams/cart", &[("if-none-match", "*")], &to(&backend)).await;
    assert_refused(&new, 412, "stale");
    let none = ask(&gateway, "PUT", "/v1/routes/cart", &[("if-match", "*")], CART).await;
    assert_refused(&none, 412, "stale");
    assert_refused(
        &ask(&gateway, "PUT", "/v1/routes/cart", &[("if-match", "cart")], CART).await,
        400,
        "bad_request",
    );
    let right = [("if-match", won.header("etag").unwrap())];
    ask(&gateway, "DELETE", "/v1/upstreams/cart", &right, "").await.assert_status(200);
}

#[tokio::test]
async fn a_dry_run_says_what_would_come_of_it_and_changes_nothing() {
    let backend = Backend::start().await;
    let state = TempDir::new().unwrap();
    let gateway = Yaml::to(backend.address()).top(&state_dir(&state)).start().await;
    let hash = async || get(gateway.admin(), "/stats").await.json()["config_hash"].clone();
    let before = hash().await;
    let valid = put(&gateway, "/v1/upstreams/cart?dry_run", &to(&backend)).await;
    assert_eq!(valid.assert_status(200).json()["result"], "valid");
    assert_eq!(valid.header("etag"), None);
    assert_refused(&get(gateway.admin(), "/v1/upstreams/cart").await, 404, "not_found");
    let invalid = put(&gateway, "/v1/routes/cart?dry_run=true", CART).await;
    assert_refused(&invalid, 422, "config_rejected");
    assert!(problems(&invalid)[0].contains("admin:routes/cart:2:11"), "{invalid:?}");
    let twice = put(&gateway, "/v1/upstreams/origin?dry_run", &to(&backend)).await;
    assert_refused(&twice, 409, "conflict");
    assert_eq!(hash().await, before);
    assert!(!state.path().join("parts.json").exists());
    // A dry run that is misspelt is no run.
    let misspelt = put(&gateway, "/v1/upstreams/cart?dryrun", &to(&backend)).await;
    let told = assert_refused(&misspelt, 400, "bad_request");
    assert!(told["detail"].as_str().unwrap().contains("did you mean `dry_run`?"), "{told}");
    put(&gateway, "/v1/upstreams/cart?dry_run=false", &to(&backend)).await.assert_status(201);
    assert_eq!(
        delete(&gateway, "/v1/upstreams/cart?dry_run").await.assert_status(200).json()["result"],
        "valid"
    );
    get(gateway.admin(), "/v1/upstreams/cart").await.assert_status(200);
    let endpoint = format!("/v1/upstreams/origin/endpoints/{}", backend.address());
    put(&gateway, &format!("{endpoint}?dry_run"), "{drain: true}").await.assert_status(200);
    assert_eq!(get(gateway.admin(), &endpoint).await.json()["order"], Value::Null);
}

#[tokio::test]
async fn what_contradicts_the_file_is_refused_with_both_places() {
    let backend = Backend::start().await;
    let gateway =
        Yaml::to(backend.address()).with_route("match: {path: /plain}, upstream: origin").start().await;
    for (path, body, part) in [
        ("/v1/upstreams/origin", to(&backend), "admin:upstreams/origin:1:1: upstreams: "),
        (
            "/v1/routes/r",
            "{match: {path: /x}, upstream: origin}".to_owned(),
            "admin:routes/r:1:1: routes[2].name: ",
        ),
    ] {
        let refused = put(&gateway, path, &body).await;
        assert_refused(&refused, 409, "conflict");
        let [problem] = &problems(&refused)[..] else { panic!("{refused:?}") };
        assert!(problem.starts_with(part) && problem.contains("gateway.yaml:"), "{problem}");
        let removed = delete(&gateway, path).await;
        let told = assert_refused(&removed, 409, "conflict");
        assert!(told["detail"].as_str().unwrap().contains("stands in the file"), "{told}");
    }
    assert_eq!(answers(&gateway, "/").await, "backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_to_contradict_a_part_is_rejected_and_taken_once_the_part_is_gone() {
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let file = Yaml::to(one.address());
    let gateway = file.start().await;
    add_cart(&gateway, &other).await;
    assert_eq!(answers(&gateway, "/headers").await, "other");
    // A reload reads the file with the parts beside it.
    let reloaded = gateway.reload(&file.clone().route("timeout: 7s").to_string()).await;
    assert_eq!(reloaded["msg"], "configuration reloaded");
    assert_eq!(answers(&gateway, "/headers").await, "other");

    let both = file.with_upstream("cart", [one.address()], "").to_string();
    let rejected = gateway.reload(&both).await;
    assert_eq!(rejected["msg"], "configuration rejected");
    let told = rejected["problems"].as_str().unwrap();
    assert!(told.contains("admin:upstreams/cart:1:1: upstreams: `cart` already stands at "), "{told}");
    assert!(told.contains("gateway.yaml:"), "{told}");
    assert_eq!(answers(&gateway, "/headers").await, "other");
    delete(&gateway, "/v1/upstreams/cart").await.assert_status(200);
    assert_eq!(answers(&gateway, "/headers").await, "one", "it is the file's now");
    assert_eq!(get(gateway.admin(), "/v1/upstreams/cart").await.json()["origin"], "file");
}

fn state_dir(state: &TempDir) -> String {
    format!("state_dir: {}", state.path().display())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_orders_survive_a_kill_and_an_upgrade() {
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let state = TempDir::new().unwrap();
    let file = Yaml::to_all([one.address(), other.address()]).top(&state_dir(&state));
    let file = file.top("upgrade: {socket: upgrade.sock}");
    let gateway = file.start().await;
    add_cart(&gateway, &other).await;
    let drained = format!("/v1/upstreams/origin/endpoints/{}", one.address());
    let ordered = put(&gateway, &drained, "{drain: true}").await;
    assert_eq!(ordered.assert_status(201).json()["kept"], true);
    assert_eq!(mode(&state.path().join("parts.json")), 0o600);
    let shown = get(gateway.admin(), "/v1/upstreams/cart").await;
    // No time to write anything down: it is there since the answer.
    gateway.signal(Signal::SIGKILL);
    gateway.wait_exit().await;

    let gateway = file.start().await;
    let holds = async |gateway: &Gateway| {
        assert_eq!(answers(gateway, "/headers").await, "other");
        for _ in 0..4 {
            assert_eq!(answers(gateway, "/").await, "other", "the other one is drained");
        }
        assert_eq!(get(gateway.admin(), "/v1/upstreams/cart").await.header("etag"), shown.header("etag"));
        assert_eq!(get(gateway.admin(), &drained).await.header("etag"), ordered.header("etag"));
    };
    holds(&gateway).await;
    let load = Load::start(gateway.address("main"), "/headers", 4);
    load.wait_for_requests(20).await;
    let next = gateway.upgrade().await;
    load.wait_for_requests(20).await;
    load.stop().await.assert_no_failures();
    holds(&next).await;
    assert_eq!(metric(&next, "tidegate_config_parts", &["kind=\"upstream\""]).await, 1.0);
    delete(&next, &drained).await.assert_status(200);
    let mut answered: Vec<String> = Vec::new();
    for _ in 0..4 {
        answered.push(answers(&next, "/").await);
    }
    assert!(answered.contains(&"one".to_owned()), "{answered:?}");
}

#[tokio::test]
async fn without_a_state_directory_the_answer_says_that_nothing_is_kept() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).top("upgrade: {socket: upgrade.sock}").start().await;
    let added = put(&gateway, "/v1/upstreams/cart", &to(&backend)).await;
    let told = added.assert_status(201).json();
    assert_eq!(told["kept"], false);
    assert!(told["note"].as_str().unwrap().contains("`state_dir`"), "{told}");
    let next = gateway.hand_over().await;
    gateway
        .wait_for_line(|line| line["msg"].as_str().is_some_and(|msg| msg.contains("are lost with this")))
        .await;
    get(next.admin(), "/v1/upstreams/cart").await.assert_status(404);
}

#[tokio::test]
async fn a_state_file_that_is_cut_off_is_set_aside_and_the_gateway_starts_without_it() {
    let backend = Backend::start().await;
    let state = TempDir::new().unwrap();
    let (kept, aside) = (state.path().join("parts.json"), state.path().join("parts.json.old"));
    let file = Yaml::to(backend.address()).top(&state_dir(&state));
    let gateway = file.start().await;
    put(&gateway, "/v1/upstreams/cart", &to(&backend)).await.assert_status(201);
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit().await;
    let whole = fs::read_to_string(&kept).unwrap();
    for (broken, why) in [
        (whole[..whole.len() - 9].to_owned(), "it is broken"),
        (whole.replace("\"form\":1", "\"form\":7"), "another release"),
    ] {
        fs::write(&kept, &broken).unwrap();
        let gateway = file.start().await;
        let warned = gateway.wait_for_line(|line| {
            line["level"] == "warn" && line["msg"].as_str().is_some_and(|msg| msg.contains(why))
        });
        assert!(warned.await["msg"].as_str().unwrap().contains("parts.json.old"));
        assert_eq!(fs::read_to_string(&aside).unwrap(), broken);
        assert!(!kept.exists());
        get(gateway.admin(), "/v1/upstreams/cart").await.assert_status(404);
        assert_eq!(answers(&gateway, "/").await, "backend");
    }
}

#[tokio::test]
async fn a_gateway_starts_without_parts_that_its_file_has_come_to_contradict() {
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let state = TempDir::new().unwrap();
    let file = Yaml::to(one.address()).top(&state_dir(&state));
    let gateway = file.start().await;
    add_cart(&gateway, &other).await;
    put(&gateway, "/v1/upstreams/more", &to(&other)).await.assert_status(201);
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit().await;

    let gateway = file.with_upstream("cart", [one.address()], "").start().await;
    let told = gateway
        .wait_for_line(|line| line["msg"].as_str().is_some_and(|msg| msg.contains("is left out")))
        .await;
    let told = told["msg"].as_str().unwrap();
    assert!(told.starts_with("admin:upstreams/cart is left out") && told.contains("gateway.yaml:"), "{told}");
    assert!(state.path().join("parts.json.old").exists(), "{told}");
    assert_eq!(answers(&gateway, "/headers").await, "one", "the route is still there");
    get(gateway.admin(), "/v1/upstreams/more").await.assert_status(200);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_put_in_force() {
    let backend = Backend::start().await;
    let home = TempDir::new().unwrap();
    let state = home.path().join("state");
    let file = Yaml::to(backend.address()).top(&format!("state_dir: {}", state.display()));
    let gateway = file.start().await;
    fs::write(&state, "a file where the folder is to be").unwrap();
    let refused = put(&gateway, "/v1/upstreams/cart", &to(&backend)).await;
    let told = assert_refused(&refused, 503, "store_unavailable");
    assert!(told["detail"].as_str().unwrap().contains("nothing was changed"), "{told}");
    let endpoint = format!("/v1/upstreams/origin/endpoints/{}", backend.address());
    assert_refused(&put(&gateway, &endpoint, "{drain: true}").await, 503, "store_unavailable");
    get(gateway.admin(), "/v1/upstreams/cart").await.assert_status(404);
    assert_eq!(answers(&gateway, "/").await, "backend");
    assert_eq!(metric(&gateway, "tidegate_config_part_save_errors_total", &[]).await, 2.0);
    fs::remove_file(&state).unwrap();
    put(&gateway, "/v1/upstreams/cart", &to(&backend)).await.assert_status(201);
    assert!(state.join("parts.json").exists());
}

#[tokio::test]
async fn bad_input_has_a_reason_and_changes_nothing() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    let before = get(gateway.admin(), "/stats").await.json()["config_hash"].clone();
    let secret = "${file:/etc/passwd}";
    for (body, told) in [
        ("", "admin:upstreams/cart: is empty (send the upstream itself"),
        ("# nothing\n", "admin:upstreams/cart: is empty"),
        ("{endpoints: [", "admin:upstreams/cart:2:1: malformed YAML"),
        ("<upstream/>", "admin:upstreams/cart:1:1: upstreams.cart: "),
        ("[]", "admin:upstreams/cart:1:1: upstreams.cart: "),
        ("endpoints: [nowhere]", "admin:upstreams/cart:1:13: upstreams.cart.endpoints[0]"),
        ("{endpoints: [], timeout: 1s}", "unknown key `timeout`"),
        ("upstreams: {a: {endpoints: []}}", "unknown key `upstreams`"),
        ("a\0b", "contains a NUL byte"),
        ("{endpoints: ['127.0.0.1:1']}\n---\n{}", "a second document"),
        (&format!("{{endpoints: ['{secret}']}}"), "`${file:/etc/passwd}` is not expanded here"),
        ("{endpoints: ['${env:HOME}']}", "`${env:HOME}` is not expanded here"),
    ] {
        let refused = put(&gateway, "/v1/upstreams/cart", body).await;
        assert_refused(&refused, 422, "config_rejected");
        let problems = problems(&refused);
        assert!(problems.iter().any(|problem| problem.contains(told)), "{body}: {problems:?}");
        assert!(!refused.text().contains("root:"), "{refused:?}");
    }
    let route = "{respond: {body: '{env.HOME}'}}";
    assert_refused(&put(&gateway, "/v1/routes/cart", route).await, 422, "config_rejected");
    let other = put(&gateway, "/v1/routes/cart", "{name: other, upstream: origin}").await;
    assert_refused(&other, 422, "config_rejected");

    let large = format!("# {}\n", "x".repeat(1024 * 1024));
    let refused = put(&gateway, "/v1/upstreams/cart", &large).await;
    let told = assert_refused(&refused, 413, "too_large");
    assert!(told["detail"].as_str().unwrap().contains("`admin.parts.size`"), "{told}");
    let latin = send(gateway.admin(), "PUT", "/v1/upstreams/cart", &[], &b"endpoints: [\xfc]"[..]).await;
    assert_refused(&latin, 400, "bad_request");
    for name in ["a%00b", "%ff", "a%2fb", "a%20b", "a%0ab", "b%c3%bccher", &"a".repeat(129), ""] {
        let refused = put(&gateway, &format!("/v1/upstreams/{name}"), &to(&backend)).await;
        assert_refused(&refused, 400, "bad_request");
    }
    let mut cut = RawConnection::open(gateway.admin());
    cut.write(
        "PUT /v1/upstreams/cart HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{endpoints: ",
    );
    drop(cut);
    assert_eq!(get(gateway.admin(), "/stats").await.json()["config_hash"], before);
    assert_eq!(answers(&gateway, "/").await, "backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_weighed_and_drained_by_hand_until_that_is_undone() {
    let (one, other) = (Backend::named("one").await, Backend::named("other").await);
    let file = Yaml::to_all([one.address(), other.address()]);
    let gateway = file.start().await;
    let of = |backend: &Backend| format!("/v1/upstreams/origin/endpoints/{}", backend.address());
    let shares = async || {
        let mut shares = [0, 0];
        for _ in 0..8 {
            shares[usize::from(answers(&gateway, "/").await == "other")] += 1;
        }
        shares
    };
    let load = Load::start(gateway.address("main"), "/", 2);
    assert_eq!(put(&gateway, &of(&one), "{drain: true}").await.assert_status(201).json()["result"], "added");
    assert_eq!(shares().await, [0, 8]);
    let shown = get(gateway.admin(), &of(&one)).await.json();
    assert_eq!((&shown["weight"], &shown["order"]), (&json!(0), &json!({"drain": true})), "{shown}");
    // A reload that makes the pool anew keeps it.
    let reloaded = gateway.reload(&file.clone().settings("balancer: random").to_string()).await;
    assert_eq!(reloaded["msg"], "configuration reloaded");
    assert_eq!(shares().await, [0, 8]);
    load.stop().await.assert_no_failures();
    gateway.reload(&file.to_string()).await;
    assert_eq!(put(&gateway, &of(&one), "weight: 3").await.assert_status(200).json()["result"], "changed");
    assert_eq!(shares().await, [6, 2]);
    let listed = get(gateway.admin(), "/v1/upstreams").await.json();
    assert_eq!((&listed[0]["ordered"], &listed[0]["origin"]), (&json!(1), &json!("file")), "{listed}");
    assert_eq!(put(&gateway, &of(&one), "weight: 3").await.assert_status(200).json()["result"], "unchanged");
    delete(&gateway, &of(&one)).await.assert_status(200);
    assert_eq!(shares().await, [4, 4]);
    assert_refused(&delete(&gateway, &of(&one)).await, 404, "not_found");

    let unknown = put(&gateway, "/v1/upstreams/origin/endpoints/127.0.0.1:1", "{drain: true}").await;
    let told = assert_refused(&unknown, 404, "not_found");
    assert!(told["detail"].as_str().unwrap().contains(&one.address().to_string()), "{told}");
    assert_refused(&put(&gateway, "/v1/upstreams/none/endpoints/a", "{drain: true}").await, 404, "not_found");
    for wrong in
        ["", "{}", "{weight: -1}", "{weight: 70000}", "{drain: false}", "{drain: true, weight: 1}", "["]
    {
        assert_refused(&put(&gateway, &of(&one), wrong).await, 422, "config_rejected");
    }
}

#[tokio::test]
async fn parts_are_shown_as_such_and_orders_are_logged_with_who_gave_them() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).start().await;
    assert_eq!(get(gateway.admin(), "/config").await.json().get("parts"), None);
    put(&gateway, "/v1/upstreams/cart", &to(&backend)).await.assert_status(201);
    let ordered = gateway.wait_for_message("part ordered").await;
    assert_eq!((&ordered["part"], &ordered["result"]), (&json!("admin:upstreams/cart"), &json!("added")));
    assert!(ordered["by"].as_str().unwrap().starts_with("127.0.0.1:"), "{ordered}");
    let secret = "s3cr3t-planted-here";
    let route = format!(
        "{{match: {{path: /cart}}, upstream: cart, filters: [headers: {{request: {{set: {{authorization: {secret}}}}}}}]}}"
    );
    put(&gateway, "/v1/routes/cart", &route).await.assert_status(201);
    put(&gateway, "/v1/routes/cart", "{upstream: none}").await.assert_status(422);
    assert_eq!(gateway.wait_for_message("part refused").await["reason"], "config_rejected");

    let config = get(gateway.admin(), "/config").await.json();
    assert_eq!(config["upstreams"]["cart"]["endpoints"][0]["address"], backend.address().to_string());
    let shown = &config["parts"]["upstreams"]["cart"];
    assert_eq!(shown["origin"], "admin:upstreams/cart");
    assert!(shown["by"].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
    assert_eq!(config["parts"]["routes"]["cart"]["origin"], "admin:routes/cart");
    let yaml = get(gateway.admin(), "/config?format=yaml").await;
    assert!(yaml.text().starts_with("# beside the file: admin:upstreams/cart\n"), "{}", yaml.text());

    let origins = async |path: &str| {
        let rows = get(gateway.admin(), path).await.json();
        let rows = rows.as_array().unwrap().clone();
        rows.iter().map(|row| format!("{} {}", row["name"], row["origin"])).collect::<Vec<_>>()
    };
    assert_eq!(origins("/v1/upstreams").await, [r#""cart" "admin:upstreams/cart""#, r#""origin" "file""#]);
    assert_eq!(origins("/v1/routes").await, [r#""r" "file""#, r#""cart" "admin:routes/cart""#]);
    let one = get(gateway.admin(), "/v1/routes/cart").await.json();
    assert_eq!(one["config"]["match"]["path"], json!({"prefix": "/cart"}));
    for path in ["/config", "/config?format=yaml", "/v1/routes/cart", "/v1/routes", "/routes"] {
        let shown = get(gateway.admin(), path).await;
        assert!(!shown.assert_status(200).text().contains(secret), "{path}: {}", shown.text());
    }
    assert!(gateway.lines().iter().all(|line| !line.to_string().contains(secret)));
    for (kind, count) in [("upstream", 1.0), ("route", 1.0), ("endpoint", 0.0)] {
        assert_eq!(
            metric(&gateway, "tidegate_config_parts", &[&format!("kind=\"{kind}\"")]).await,
            count,
            "{kind}"
        );
    }
    let refused = ["kind=\"route\"", "result=\"refused\""];
    assert_eq!(metric(&gateway, "tidegate_config_part_orders_total", &refused).await, 1.0);
    assert_eq!(
        metric(&gateway, "tidegate_config_last_reload_successful", &[]).await,
        1.0,
        "a refused order is no failed reload"
    );
}

fn with_admin(admin: &str, backend: &Backend) -> String {
    Yaml::to(backend.address())
        .to_string()
        .replace("{address: '127.0.0.1:0'}", &format!("{{address: '127.0.0.1:0', {admin}}}"))
}

#[tokio::test]
async fn orders_pass_the_same_guards_as_all_others() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&with_admin("token: open-sesame", &backend)).await;
    let token = ("authorization", "Bearer open-sesame");
    let own = format!("http://{}", gateway.admin());
    let (part, drained) =
        ("/v1/upstreams/cart", format!("/v1/upstreams/origin/endpoints/{}", backend.address()));
    let drain = "{drain: true}".to_owned();
    for (method, path, body) in
        [("PUT", part, to(&backend)), ("DELETE", part, String::new()), ("PUT", &*drained, drain)]
    {
        ask(&gateway, method, path, &[], &body).await.assert_status(401);
        ask(&gateway, method, path, &[("authorization", "Bearer wrong")], &body).await.assert_status(401);
        ask(&gateway, method, path, &[token, ("origin", "http://evil.example")], &body)
            .await
            .assert_status(403);
        ask(&gateway, method, path, &[token, ("sec-fetch-site", "cross-site")], &body)
            .await
            .assert_status(403);
        ask(&gateway, method, path, &[token, ("host", "rebound.example")], &body).await.assert_status(421);
        let answer = ask(&gateway, method, path, &[token, ("origin", &own)], &body).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    get(gateway.admin(), part).await.assert_status(401);
    let posted = ask(&gateway, "POST", part, &[token], "").await;
    assert_eq!(posted.assert_status(405).header("allow"), Some("GET, HEAD, PUT, DELETE"));
}

#[tokio::test]
async fn parts_have_limits_and_can_be_turned_off() {
    let backend = Backend::start().await;
    let gateway =
        Gateway::start(&with_admin("parts: {most: 2, size: 1KiB, total_size: 1500B}", &backend)).await;
    let padded = |bytes: usize| format!("{}\n# {}", to(&backend), "x".repeat(bytes));
    assert_refused(&put(&gateway, "/v1/upstreams/a", &padded(1024)).await, 413, "too_large");
    put(&gateway, "/v1/upstreams/a", &padded(800)).await.assert_status(201);
    let together = put(&gateway, "/v1/upstreams/b", &padded(800)).await;
    let told = assert_refused(&together, 429, "limit");
    assert!(told["detail"].as_str().unwrap().contains("`admin.parts.total_size`"), "{told}");
    put(&gateway, "/v1/upstreams/a", &padded(600)).await.assert_status(200);
    put(&gateway, "/v1/upstreams/b", &to(&backend)).await.assert_status(201);
    let endpoint = format!("/v1/upstreams/origin/endpoints/{}", backend.address());
    for path in ["/v1/upstreams/c", &endpoint] {
        let body = if path == endpoint { "weight: 2".to_owned() } else { to(&backend) };
        let told = assert_refused(&put(&gateway, path, &body).await, 429, "limit");
        assert!(told["detail"].as_str().unwrap().contains("`admin.parts.most`"), "{told}");
    }
    delete(&gateway, "/v1/upstreams/b").await.assert_status(200);
    put(&gateway, &endpoint, "weight: 2").await.assert_status(201);

    let gateway = Gateway::start(&with_admin("parts: false", &backend)).await;
    let refused = put(&gateway, "/v1/upstreams/a", &to(&backend)).await;
    assert_eq!(refused.assert_status(405).header("allow"), Some("GET, HEAD"));
    assert!(refused.text().contains("`admin.parts: false`"), "{}", refused.text());
    delete(&gateway, "/v1/upstreams/a").await.assert_status(405);
    get(gateway.admin(), "/v1/upstreams/origin").await.assert_status(200);
}

#[tokio::test]
async fn a_gateway_that_drains_takes_no_orders() {
    let backend = Backend::start().await;
    let gateway = Yaml::to(backend.address()).top("shutdown: {unready_for: 60s}").start().await;
    ask(&gateway, "POST", "/drain", &[], "").await.assert_status(202);
    gateway.wait_for_message("draining").await;
    assert_refused(&put(&gateway, "/v1/upstreams/cart", &to(&backend)).await, 409, "conflict");
}
