//! What an operator reads when a file is wrong: the exact lines and the exit code of `tidegate check`. And what holds
//! for the files we ship and for the schema: every example passes, and no key is there for nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::docs::staged;
use crate::support::{Process, tidegate};

/// Runs `tidegate check -c FILE` in a directory of these files; answers its exit code and stderr.
async fn check_files(files: &[(&str, &str)], file: &str) -> (i32, String) {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    check_in(directory.path(), file).await
}

async fn check_in(directory: &Path, file: &str) -> (i32, String) {
    let mut command = tidegate(directory);
    command.args(["check", "-c", file]);
    let process = Process::spawn(command);
    let code = process.wait_exit().await.code().expect("check ends by itself");
    (code, process.stderr())
}

/// The file is refused with exactly these lines.
async fn assert_refused(yaml: &str, expected: &[&str]) {
    let (code, stderr) = check_files(&[("g.yaml", yaml)], "g.yaml").await;
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected, "{yaml}");
    assert_eq!(code, 3, "{yaml}");
}

const LISTENERS: &str = "listeners: [{address: '127.0.0.1:8000'}]\n";

#[tokio::test]
async fn malformed_yaml() {
    assert_refused(
        "listeners: [\n",
        &["g.yaml:2:1: malformed YAML: the `[` opened at 1:12 is not closed (close it with `]` where its last entry ends)"],
    )
    .await;
    assert_refused(
        "watch: true\n---\nwatch: false\n",
        &["g.yaml:2:1: a second document starts here; a configuration file holds one (remove the `---`)"],
    )
    .await;
    assert_refused("watch: \"\0\"\n", &["g.yaml:1:9: contains a NUL byte"]).await;
}

#[tokio::test]
async fn unknown_keys() {
    assert_refused(
        "listeners:\n  - adress: 127.0.0.1:8000\nroutes: [{upstrem: a}]\nlisners: []\n",
        &[
            "g.yaml:2:5: listeners[0]: unknown key `adress` (did you mean `address`?)",
            "g.yaml:3:11: routes[0]: unknown key `upstrem` (did you mean `upstream`?)",
            "g.yaml:4:1: unknown key `lisners` (did you mean `listeners`?)",
        ],
    )
    .await;
}

#[tokio::test]
async fn wrong_types() {
    assert_refused(
        "watch: yes\nthreads: many\nlisteners: 5\nshutdown: {grace: 5}\n",
        &[
            "g.yaml:1:1: no routes, so every request would be answered with 404 (add `routes: [{upstream: NAME}]`)",
            "g.yaml:1:8: watch: expected true or false, found a string \"yes\" (write true)",
            "g.yaml:2:10: threads: expected a whole number, 1 or more, found a string \"many\"",
            "g.yaml:3:12: listeners: expected a list, found the number 5 (write `listeners: [{address: \":5\"}]`)",
            "g.yaml:4:19: shutdown.grace: 5 is not a duration (durations carry a unit, such as \"5s\")",
        ],
    )
    .await;
}

#[tokio::test]
async fn missing_references() {
    assert_refused(
        &format!(
            "{LISTENERS}routes:\n  - name: people\n    upstream: users\n    filters: [auth]\nupstreams:\n  user: {{endpoints: ['127.0.0.1:1']}}\n"
        ),
        &[
            "g.yaml:4:15: routes[0].upstream: route `people` names upstream `users`, which does not exist (did you mean `user`?)",
            "g.yaml:5:15: routes[0].filters[0]: filter chain `auth` does not exist (chains are defined under the top-level `filters`)",
        ],
    )
    .await;
}

#[tokio::test]
async fn unset_variables_and_missing_secrets() {
    assert_refused(
        "listeners: [{address: '${env:NOBODY}'}]\nadmin: {token: '${file:none}'}\nroutes: [{respond: {}}]\n",
        &[
            "g.yaml:1:23: listeners[0].address: the environment variable NOBODY is not set (set it, or give a default: `${env:NOBODY:-...}`)",
            "g.yaml:2:16: admin.token: cannot read none: there is no such file (`${file:none}` is relative to the file it stands in)",
        ],
    )
    .await;
}

#[tokio::test]
async fn an_include_loop_is_shown_as_one() {
    let main = format!("include: [b.yaml]\n{LISTENERS}routes: [{{respond: {{}}}}]\n");
    let files = [("g.yaml", main.as_str()), ("b.yaml", "include: [g.yaml]\n")];
    let (code, stderr) = check_files(&files, "g.yaml").await;
    assert_eq!(
        (code, stderr.as_str()),
        (3, "b.yaml:1:11: include[0]: a file includes itself: g.yaml -> b.yaml -> g.yaml")
    );
}

#[tokio::test]
async fn what_cannot_be_read() {
    let (code, stderr) = check_files(&[("d/x", "")], "d").await;
    assert_eq!((code, stderr.as_str()), (3, "cannot read d: it is a directory"));
    let (code, stderr) = check_files(&[], "none.yaml").await;
    assert_eq!((code, stderr.as_str()), (3, "cannot read none.yaml: there is no such file"));
    // Nobody can take root's permission away.
    if !rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("g.yaml");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        let (code, stderr) = check_in(directory.path(), "g.yaml").await;
        assert_eq!(code, 3);
        assert!(stderr.starts_with("cannot read g.yaml: "), "{stderr}");
    }
}

#[tokio::test]
async fn an_empty_file_is_answered_with_the_smallest_useful_one() {
    const SMALLEST: &str = "{listeners: [{address: \"127.0.0.1:8000\"}], routes: [{upstream: backend}], upstreams: {backend: {endpoints: [\"127.0.0.1:3000\"]}}}";
    let expected = format!("g.yaml: is empty (the smallest useful file: {SMALLEST})");
    for empty in ["", "\n\n", "# all of it a comment\n"] {
        assert_refused(empty, &[&expected]).await;
    }
    assert_eq!(check_files(&[("g.yaml", SMALLEST)], "g.yaml").await, (0, String::new()));
}

#[tokio::test]
async fn ten_megabytes_are_read_and_more_than_a_configuration_is_not() {
    let mut routes = format!("{LISTENERS}routes:\n");
    let body = "z".repeat(1000);
    for route in 0..10_000 {
        routes += &format!("  - {{match: {{path: /r{route}}}, respond: {{body: {body}}}}}\n");
    }
    assert!(routes.len() > 10_000_000);
    assert_eq!(check_files(&[("g.yaml", &routes)], "g.yaml").await, (0, String::new()));
    routes += "  - {match: {path: /last}, respnd: {}}\n";
    let (code, stderr) = check_files(&[("g.yaml", &routes)], "g.yaml").await;
    assert_eq!(
        (code, stderr.as_str()),
        (3, "g.yaml:10003:28: routes[10000]: unknown key `respnd` (did you mean `respond`?)")
    );
    let (code, stderr) = check_files(&[("g.yaml", &"x".repeat(33 << 20))], "g.yaml").await;
    assert_eq!(
        (code, stderr.as_str()),
        (3, "cannot read g.yaml: it is larger than 32 MiB (is it a configuration?)")
    );
    let (code, stderr) = check_files(&[("g.yaml", &"[".repeat(10_000_000))], "g.yaml").await;
    assert_eq!((code, stderr.lines().count()), (3, 1), "{stderr}");
}

#[tokio::test]
async fn duplicate_names_across_includes_name_both_places() {
    let main =
        "include: [one.yaml]\nlisteners: [{name: edge, address: ':1'}]\nroutes: [{name: r, respond: {}}]\n";
    let part =
        "listeners: [{name: edge, address: ':2'}]\nroutes: [{name: r, match: {path: /x}, respond: {}}]\n";
    let (code, stderr) = check_files(&[("g.yaml", main), ("one.yaml", part)], "g.yaml").await;
    assert_eq!(
        stderr.lines().collect::<Vec<_>>(),
        [
            "one.yaml:1:13: listeners[1]: a listener named `edge` exists already (the first is at g.yaml:2:13; names are unique)",
            "one.yaml:2:17: routes[1].name: a route named `r` exists already (the first is at g.yaml:3:10; names are unique)",
        ]
    );
    assert_eq!(code, 3);
    let upstreams = "watch: true\nupstreams:\n  u: {endpoints: ['h:1']}\n";
    let files = [("g.yaml", format!("include: [one.yaml]\n{upstreams}")), ("one.yaml", upstreams.to_owned())];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let (code, stderr) = check_files(&files, "g.yaml").await;
    assert_eq!(
        stderr.lines().collect::<Vec<_>>(),
        [
            "g.yaml:1:1: no routes, so every request would be answered with 404 (add `routes: [{upstream: NAME}]`)",
            "g.yaml:1:1: no listeners, so nothing would be served (add `listeners: [{address: 127.0.0.1:8000}]`)",
            "one.yaml:1:1: `watch` is already set at g.yaml:2:1 (set it in one file only)",
            "one.yaml:3:3: upstreams: `u` already stands at g.yaml:4:3; names are unique",
        ]
    );
    assert_eq!(code, 3);
}

#[tokio::test]
async fn everything_that_makes_no_sense_is_told_at_once() {
    let yaml = "\
listeners:
  - address: localhost:80
    limits: {header_timeout: 0s}
  - {address: '127.0.0.1:8000', routes: [al]}
  - {name: again, address: '127.0.0.1:8000'}
routes:
  - name: all
    match: {path: /a, methods: [get]}
    upstream: nobody
    respond: {status: 99}
  - match: {path: /b}
    filters: [{rewrit: {}}, headers]
    redirect: {to: /c, status: 200}
upstreams:
  pool:
    endpoints: [127.0.0.1]
    health_check: {http: {}, tcp: {}}
admin: {address: '0.0.0.0:9901'}
";
    assert_refused(
        yaml,
        &[
            "g.yaml:2:14: listeners[0].address: \"localhost:80\" is not an address to listen on (an IP address and a port: try \"127.0.0.1:80\")",
            "g.yaml:3:30: listeners[0].limits.header_timeout: a duration of 0 makes no sense here",
            "g.yaml:4:42: listeners[1].routes[0]: route `al` does not exist (did you mean `all`?)",
            "g.yaml:5:28: listeners[2].address: 127.0.0.1:8000 is bound twice (`127.0.0.1:8000` listens there already)",
            "g.yaml:7:5: routes[0]: a route has exactly one of `upstream`, `split`, `canary`, `respond` and `redirect` (remove `respond` or `upstream`)",
            "g.yaml:8:33: routes[0].match.methods[0]: methods are upper case (did you mean `GET`?)",
            "g.yaml:9:15: routes[0].upstream: route `all` names upstream `nobody`, which does not exist (define it under `upstreams`)",
            "g.yaml:10:23: routes[0].respond.status: 99 is not a status from 200 to 599",
            "g.yaml:12:24: routes[1].filters[0].rewrit: unknown filter `rewrit` (did you mean `rewrite`?)",
            "g.yaml:12:29: routes[1].filters[1]: filter chain `headers` does not exist (a filter is written with its options: `- headers: {}`)",
            "g.yaml:13:32: routes[1].redirect.status: 200 is not a redirect (301, 302, 303, 307 or 308)",
            "g.yaml:16:17: upstreams.pool.endpoints[0].address: \"127.0.0.1\" has no port (try \"127.0.0.1:8080\")",
            "g.yaml:17:19: upstreams.pool.health_check: exactly one of http, tcp and grpc is needed (remove the others)",
            "g.yaml:18:18: admin.address: 0.0.0.0:9901 is not a loopback address, and anyone who reaches it could drain this gateway (set `admin.token` or `admin.tls.client_ca`, or listen on 127.0.0.1)",
        ],
    )
    .await;
}

#[tokio::test]
async fn windows_of_http2_fit_into_each_other_and_stand_where_http_is_spoken() {
    let yaml = "\
listeners:
  - {address: '127.0.0.1:8000', limits: {stream_window: 32MiB}}
  - {address: '127.0.0.1:8001', limits: {stream_window: 1KiB, connection_window: 3GiB}}
  - {address: '127.0.0.1:8002', protocol: tcp, upstream: a, half_close: true, limits: {stream_window: 1MiB}}
routes: [{upstream: a}]
upstreams: {a: {endpoints: ['127.0.0.1:1']}}
";
    assert_refused(
        yaml,
        &[
            "g.yaml:2:57: listeners[0].limits.stream_window: the window of a stream is larger than its connection's (make `connection_window` at least 32MiB, or `stream_window` smaller)",
            "g.yaml:3:57: listeners[1].limits.stream_window: stream_window is from 16KiB to just under 2GiB",
            "g.yaml:3:82: listeners[1].limits.connection_window: connection_window is from 16KiB to just under 2GiB",
            "g.yaml:4:73: listeners[2].half_close: only HTTP has half-closed clients (remove it: here either side may always say its end first)",
            "g.yaml:4:103: listeners[2].limits.stream_window: only HTTP has this limit (remove it, or use `protocol: http`)",
        ],
    )
    .await;
}

#[tokio::test]
async fn problems_with_the_form_hide_none_with_the_meaning() {
    let main = "\
include: [more.yaml, torn.yaml]
thread: 4
threads: many
admin: {address: '0.0.0.0:9901', token: '${env:NOBODY}'}
log: {access: {to: none/access.log}}
listeners:
  - address: 127.0.0.1:8000
    limits: {header_timeout: 5, body_timeout: 0s}
  - {name: again, address: '127.0.0.1:8000'}
upstreams:
  pool: {endpoints: [127.0.0.1]}
  other: {endpoints: 5}
";
    let more = "\
routes:
  - 5
  - {match: {path: /a}, upstream: other, filters: [{rewrit: {}}]}
  - {match: {path: /b}, upstream: pool, respond: {}}
  - {match: {hosts: ['*']}, upstream: pool, filters: [{headers: {request: {set: {x: '{nothing}'}}}}]}
";
    let files = [("g.yaml", main), ("more.yaml", more), ("torn.yaml", "upstreams: [\n")];
    let (code, stderr) = check_files(&files, "g.yaml").await;
    let expected = r#"g.yaml:2:1: unknown key `thread` (did you mean `threads`?)
g.yaml:3:10: threads: expected a whole number, 1 or more, found a string "many"
g.yaml:4:41: admin.token: the environment variable NOBODY is not set (set it, or give a default: `${env:NOBODY:-...}`)
g.yaml:5:20: log.access.to: cannot open the access log none/access.log: No such file or directory (os error 2) (create its directory first)
g.yaml:8:30: listeners[0].limits.header_timeout: 5 is not a duration (durations carry a unit, such as "5s")
g.yaml:8:47: listeners[0].limits.body_timeout: a duration of 0 makes no sense here
g.yaml:9:28: listeners[1].address: 127.0.0.1:8000 is bound twice (`127.0.0.1:8000` listens there already)
g.yaml:11:22: upstreams.pool.endpoints[0].address: "127.0.0.1" has no port (try "127.0.0.1:8080")
g.yaml:12:22: upstreams.other.endpoints: expected a list, found the number 5 (write `endpoints: ["127.0.0.1:5"]`)
more.yaml:2:5: routes[0]: expected a map, found the number 5 (write `{upstream: NAME}`)
more.yaml:3:61: routes[1].filters[0].rewrit: unknown filter `rewrit` (did you mean `rewrite`?)
more.yaml:4:5: routes[2]: a route has exactly one of `upstream`, `split`, `canary`, `respond` and `redirect` (remove `respond` or `upstream`)
more.yaml:5:22: routes[3].match.hosts[0]: host "*" would match every host (leave `hosts` out instead)
more.yaml:5:85: routes[3].filters[0].headers.request.set.x: unknown placeholder `{nothing}` (known: {method}, {path}, {query}, {uri}, {host}, {authority}, {scheme}, {route}, {upstream}, {listener}, {client_ip}, {peer}, {request_id}, {trace_id}, {tls.version}, {tls.sni}, {tls.ja4}, {query.NAME}, {header.NAME}, {cookie.NAME}, {claim.NAME}, {path.NAME}, {property.NAME}, {env.NAME})
torn.yaml:2:1: malformed YAML: the `[` opened at 1:12 is not closed (close it with `]` where its last entry ends)
"#;
    assert_eq!(stderr.lines().collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
    assert_eq!(code, 3);
}

#[tokio::test]
async fn conditions_and_options_of_filters_are_checked_where_they_stand() {
    let yaml = "\
listeners:
  - address: '127.0.0.1:8000'
routes:
  - filters:
      - cors: {origins: ['*'], credentials: true}
        when: {}
      - body_limit: 1MiB
        unless: {path: 'api', methods: [get]}
      - fault: {}
        when:
      - ip_rules: {}
      - compression: {types: [json]}
    respond: {}
";
    assert_refused(
        yaml,
        &[
            "g.yaml:5:26: routes[0].filters[0].cors.origins[0]: `*` does not go with `credentials`: any page could act for its visitor (name the origins)",
            "g.yaml:6:15: routes[0].filters[0].when: an empty condition matches every request (give hosts, path, methods, headers or query, or leave it out)",
            "g.yaml:8:24: routes[0].filters[1].unless.path: path \"api\" must begin with `/` (write \"/api\")",
            "g.yaml:8:41: routes[0].filters[1].unless.methods[0]: methods are upper case (did you mean `GET`?)",
            "g.yaml:9:16: routes[0].filters[2].fault: nothing to do: give `delay`, `abort` or both",
            "g.yaml:10:13: routes[0].filters[2].when: an empty condition matches every request (give hosts, path, methods, headers or query, or leave it out)",
            "g.yaml:11:19: routes[0].filters[3].ip_rules: without `allow` and `deny` everyone is let in (name networks, or leave the filter out)",
            "g.yaml:12:31: routes[0].filters[4].compression.types[0]: \"json\" is not a media type to compress (try \"application/json\" or \"text/*\")",
        ],
    )
    .await;
    let yaml = "\
listeners: [{address: '127.0.0.1:8000'}]
routes:
  - filters: [{body_limit: 1MiB, when: {method: GET}}]
    respond: {}
";
    assert_refused(
        yaml,
        &["g.yaml:3:41: routes[0].filters[0].when: unknown key `method` (write `methods: [GET]`)"],
    )
    .await;
    let step = "      - body_limit: 1MiB\n        when: {path: /a}\n";
    let yaml = format!(
        "listeners: [{{address: '127.0.0.1:8000'}}]\nroutes:\n  - filters:\n{}    respond: {{}}\n",
        step.repeat(65)
    );
    assert_refused(
        &yaml,
        &["g.yaml:3:5: routes[0].filters: only the first 64 filters of a chain may have conditions (move those with `when` or `unless` to the front)"],
    )
    .await;
}

#[tokio::test]
async fn traffic_that_cannot_be_shaped_so_is_refused() {
    let yaml = "\
listeners: [{address: '127.0.0.1:8000'}]
upstreams:
  a:
    endpoints: ['127.0.0.1:1']
    balancer: {hash: client_ip}
    slow_start: 10s
    circuit_breaker: {failure_ratio: 0%, open_for: 0s, failures: []}
    outlier: {eject_for: 10s, max_eject_for: 5s, window: 64}
    pool: {max_requests: 5, pending_timeout: 0s}
  b: {endpoints: ['127.0.0.1:2']}
routes:
  - match: {path: /1}
    split: {to: [{upstream: a, weight: 0}, {upstream: b, weight: 0}]}
  - match: {path: /2}
    split: {by: {header: 'x y'}, to: [{upstream: a}, {upstream: a}, {upstream: c}]}
  - match: {path: /3}
    split: {to: []}
  - match: {path: /4}
    canary: {stable: a, candidate: a, start: 60%, max: 50%, step: 0%, every: 0s}
  - match: {path: /5}
    canary: {stable: a, candidate: bb, require: {success_rate: null, confidence: 100%, max_requests: 99}}
  - match: {path: /6}
    upstream: a
    timeout: 1s
    retry: {per_try_timeout: 2s, on: [gateway_eror, 'grpc:unavailible', 99], methods: [post], backoff: {base: 2s, max: 1s}}
  - match: {path: /7, methods: [POST]}
    upstream: a
    timeout: 1s
    hedge: {after: 2s, budget: 0%}
    mirror: {upstream: c, ratio: 0%}
  - match: {path: /8}
    respond: {}
    timeout: 1s
    retry: {}
    hedge: {after: p95, max: 2, budget: 10%}
    mirror: {upstream: b, ratio: 5%, max_requests: 3}
  - match: {path: /9}
    upstream: b
    retry: {on: []}
  - match: {path: /10}
    upstream: b
    retry: {on: [none, reset], response_buffer: 17MiB}
";
    let expected = r#"g.yaml:6:17: upstreams.a.slow_start: `slow_start` does nothing under a `hash` balancer: a key has one place (leave it out, or choose another balancer)
g.yaml:7:38: upstreams.a.circuit_breaker.failure_ratio: 0% would open on the first success
g.yaml:7:52: upstreams.a.circuit_breaker.open_for: a duration of 0 makes no sense here
g.yaml:7:66: upstreams.a.circuit_breaker.failures: nothing counts as a failure, so it never opens
g.yaml:8:46: upstreams.a.outlier.max_eject_for: `max_eject_for` 5s is shorter than `eject_for` 10s
g.yaml:8:58: upstreams.a.outlier.window: a window of 64 is not from 2 to 63 tries (20 is the default)
g.yaml:9:46: upstreams.a.pool.pending_timeout: a duration of 0 makes no sense here
g.yaml:13:17: routes[0].split.to: all weights are 0, so no variant would ever be chosen (give one of them a weight of at least 1)
g.yaml:15:26: routes[1].split.by.header: `x y` is not the name of a header
g.yaml:15:54: routes[1].split.to[1]: a variant named `a` exists already (a variant without a name is called by its upstream; give each its own `name`)
g.yaml:15:80: routes[1].split.to[2].upstream: this route names upstream `c`, which does not exist (define it under `upstreams`)
g.yaml:17:17: routes[2].split.to: a split without variants (add `to: [{upstream: NAME, weight: 90}, ...]`)
g.yaml:19:36: routes[3].canary.candidate: stable and candidate are the same upstream `a` (a canary compares two; define the new version as an upstream of its own)
g.yaml:19:46: routes[3].canary.start: starts at 60%, beyond `max` 50%
g.yaml:19:67: routes[3].canary.step: `step` of 0% never gets anywhere (leave `canary` out to turn it off)
g.yaml:19:78: routes[3].canary.every: a duration of 0 makes no sense here
g.yaml:21:36: routes[4].canary.candidate: this route names upstream `bb`, which does not exist (define it under `upstreams`)
g.yaml:21:49: routes[4].canary.require: requires nothing of the candidate, so it would be promoted whatever it does (set `success_rate`, `p99`, `max_error_increase` or `max_p99_increase`)
g.yaml:21:82: routes[4].canary.require.confidence: 100% is not between 80% and 99.99% (99% errs in one of 100 rollouts)
g.yaml:21:102: routes[4].canary.require.max_requests: 99 is less than `min_requests` 100 (raise it, or lower `min_requests`)
g.yaml:25:30: routes[5].retry.per_try_timeout: 2s for one try is longer than the route's whole `timeout` of 1s (make it shorter, or `timeout` longer)
g.yaml:25:39: routes[5].retry.on[0]: `gateway_eror` is not a retry condition (did you mean `gateway_error`?)
g.yaml:25:53: routes[5].retry.on[1]: `grpc:unavailible` is not a retry condition (did you mean `grpc:unavailable`?)
g.yaml:25:73: routes[5].retry.on[2]: "99" is not a status that can be retried (from 400 to 599)
g.yaml:25:88: routes[5].retry.methods[0]: `post` is not a method (methods are upper case)
g.yaml:25:111: routes[5].retry.backoff.base: `base` 2s is longer than `max` 1s
g.yaml:29:12: routes[6].hedge: no method of this route may be sent twice (POST) (hedging is for idempotent methods, or those in `retry.methods`)
g.yaml:29:20: routes[6].hedge.after: 2s for the first endpoint is longer than the route's whole `timeout` of 1s (make it shorter, or `timeout` longer)
g.yaml:29:32: routes[6].hedge.budget: a budget of 0% pays for no hedge (leave `hedge` out to turn it off)
g.yaml:30:24: routes[6].mirror.upstream: this route names upstream `c`, which does not exist (define it under `upstreams`)
g.yaml:30:34: routes[6].mirror.ratio: a mirror of 0% copies nothing (leave `mirror` out to turn it off)
g.yaml:33:14: routes[7].timeout: `timeout` does nothing here: the route answers by itself
g.yaml:34:12: routes[7].retry: `retry` does nothing here: the route answers by itself
g.yaml:35:12: routes[7].hedge: `hedge` does nothing here: the route answers by itself
g.yaml:36:13: routes[7].mirror: `mirror` does nothing here: the route answers by itself
g.yaml:39:17: routes[8].retry.on: no condition, so nothing is ever retried (leave `on` out)
g.yaml:42:17: routes[9].retry.on: `none` goes with no other condition (leave `none` out, or all others)
g.yaml:42:49: routes[9].retry.response_buffer: more than the 16MiB of each response there may be (16KiB is the default)
"#;
    assert_refused(yaml, &expected.lines().collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn numbers_out_of_range_are_refused_where_they_stand() {
    let yaml = "\
listeners: [{address: '127.0.0.1:8000'}]
upstreams:
  a:
    endpoints: ['127.0.0.1:1']
    circuit_breaker: {window: 0, failure_ratio: 101%, half_open_requests: 0}
    outlier: {max_ejected: 150%, consecutive_failures: 0}
    panic_threshold: 101%
    pool: {max_connections: 0, max_requests: 0}
routes:
  - match: {path: /1}
    split: {to: [{upstream: a, weight: -1}, {upstream: a, name: b, weight: 65536}]}
  - match: {path: /2}
    canary: {stable: a, candidate: b, max: 120%, start: -5%, require: {success_rate: 101%, min_requests: 0}}
  - match: {path: /3}
    upstream: a
    retry: {attempts: 0, methods: [], budget: {ratio: 200%}}
    hedge: {after: p100, max: 0}
  - match: {path: /4}
    upstream: a
    retry: {methods: GET}
    hedge: {after: 0s}
    mirror: {upstream: a, max_requests: 0}
  - match: {path: /5}
    split: {by: sticky, to: [{upstream: a}]}
";
    let expected = r#"g.yaml:5:31: upstreams.a.circuit_breaker.window: 0 is not a number of requests from 1 to 10000
g.yaml:5:49: upstreams.a.circuit_breaker.failure_ratio: "101%" is not between 0% and 100%
g.yaml:5:75: upstreams.a.circuit_breaker.half_open_requests: expected a whole number from 1 to 4294967295, found the number 0
g.yaml:6:28: upstreams.a.outlier.max_ejected: "150%" is not between 0% and 100%
g.yaml:6:56: upstreams.a.outlier.consecutive_failures: expected a whole number from 1 to 4294967295, found the number 0
g.yaml:7:22: upstreams.a.panic_threshold: "101%" is not between 0% and 100%
g.yaml:8:29: upstreams.a.pool.max_connections: expected a whole number, 1 or more, found the number 0
g.yaml:8:46: upstreams.a.pool.max_requests: expected a whole number, 1 or more, found the number 0
g.yaml:11:40: routes[0].split.to[0].weight: expected a whole number from 0 to 65535, found the number -1
g.yaml:11:76: routes[0].split.to[1].weight: expected a whole number from 0 to 65535, found the number 65536
g.yaml:13:36: routes[1].canary.candidate: this route names upstream `b`, which does not exist (define it under `upstreams`)
g.yaml:13:44: routes[1].canary.max: "120%" is not between 0% and 100%
g.yaml:13:57: routes[1].canary.start: "-5%" is not a ratio (try "50%" or 0.5)
g.yaml:13:86: routes[1].canary.require.success_rate: "101%" is not between 0% and 100%
g.yaml:13:106: routes[1].canary.require.min_requests: expected a whole number from 1 to 4294967295, found the number 0
g.yaml:16:23: routes[2].retry.attempts: expected a whole number from 1 to 4294967295, found the number 0
g.yaml:16:35: routes[2].retry.methods: an empty list retries nothing (leave `retry` out instead)
g.yaml:16:55: routes[2].retry.budget.ratio: "200%" is not between 0% and 100%
g.yaml:17:20: routes[2].hedge.after: "p100" is not between p50 and p99.9
g.yaml:17:31: routes[2].hedge.max: expected a whole number from 1 to 65535, found the number 0
g.yaml:20:22: routes[3].retry.methods: "GET" is not `idempotent` (or a list such as ["GET"])
g.yaml:21:20: routes[3].hedge.after: "0s" is not a time to wait (try "50ms" or "p95")
g.yaml:22:41: routes[3].mirror.max_requests: expected a whole number, 1 or more, found the number 0
g.yaml:24:17: routes[4].split.by: unknown value "sticky" (write `by: {cookie: NAME}`)
"#;
    assert_refused(yaml, &expected.lines().collect::<Vec<_>>()).await;
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with that ending below `directory`.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn every_shipped_configuration_passes_and_names_the_schema() {
    let stage = staged();
    let conf = stage.path().join("conf");
    let shipped = files(&conf, "yaml");
    assert!(!shipped.is_empty(), "there are configurations in conf/");
    let mut wrong = Vec::new();
    for file in shipped {
        let name = file.strip_prefix(&conf).unwrap().display().to_string();
        let first = fs::read_to_string(&file).unwrap().lines().next().unwrap_or_default().to_owned();
        let schema = first.strip_prefix("# yaml-language-server: $schema=").unwrap_or("no schema");
        if file.parent().unwrap().join(schema).canonicalize().ok()
            != conf.join("schema.json").canonicalize().ok()
        {
            wrong.push(format!("{name}: its first line does not name the schema: {first}"));
        }
        let (code, stderr) = check_in(file.parent().unwrap(), file.to_str().unwrap()).await;
        if code != 0 {
            wrong.push(stderr);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn schema() -> Value {
    tidegate::config::Config::json_schema(&tidegate::filter::Registry::built_in().schemas())
}

#[test]
fn the_committed_schema_is_the_present_one() {
    let file = root().join("conf/schema.json");
    let committed = fs::read_to_string(&file).unwrap_or_default();
    let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
    assert!(committed == schema(), "conf/schema.json is out of date: tidegate schema > conf/schema.json");
}

/// Every key of the schema, as `Type.key`: what it is and where it may stand.
fn keys(schema: &Value) -> BTreeSet<(String, String)> {
    fn walk(at: &str, schema: &Value, keys: &mut BTreeSet<(String, String)>) {
        match schema {
            Value::Object(object) => {
                for (name, value) in object {
                    match (name.as_str(), value) {
                        ("definitions", Value::Object(types)) => {
                            types.iter().for_each(|(name, schema)| walk(name, schema, keys));
                        }
                        ("properties", Value::Object(properties)) => {
                            for (key, schema) in properties {
                                keys.insert((at.to_owned(), key.clone()));
                                walk(at, schema, keys);
                            }
                        }
                        _ => walk(at, value, keys),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(at, item, keys)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk("Config", schema, &mut found);
    found
}

/// Whether `text` uses `key` as a key of YAML: with a colon after it and no word before.
fn sets(text: &str, key: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.match_indices(key).any(|(at, _)| {
        let rest = text[at + key.len()..].trim_start_matches(['"', '\'']);
        let alone = at == 0 || !is_word(text.as_bytes()[at - 1]);
        alone && (rest.starts_with(": ") || rest.starts_with(":\n"))
    })
}

/// A key that nobody reads, or that no test sets, is a promise nobody keeps. Two things are held here, which a key
/// added without its code or without its test breaks: some code outside `config` takes the field by its name, and
/// some test that runs a gateway or a filter sets the key. That the test proves what the key does is for its author.
#[test]
fn every_key_is_read_by_the_code_and_set_by_a_test() {
    // Keys that are no field of a struct: the alternatives of a form, which `config` resolves into an enum.
    const FORMS: [&str; 9] =
        ["exact", "prefix", "regex", "template", "present", "hash", "header", "cookie", "include"];
    let code: String = files(&root().join("src"), "rs")
        .iter()
        .filter(|file| !file.strip_prefix(root().join("src")).unwrap().starts_with("config"))
        .map(|file| fs::read_to_string(file).unwrap())
        .map(|text| text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned())
        .collect();
    let mut tests = String::new();
    for file in [files(&root().join("tests"), "rs"), files(&root().join("tests"), "yaml")].concat() {
        if file.file_name().is_some_and(|name| name != "config.rs") {
            tests += &fs::read_to_string(file).unwrap();
        }
    }
    let tests = tests.replace("\\n", "\n");
    let mut wrong = Vec::new();
    for (owner, key) in keys(&schema()) {
        let field = if key == "match" { "matching" } else { &key };
        let filter = tidegate::filter::Registry::built_in().names().any(|name| name == key);
        let read = [format!(".{field}"), format!("{field}:"), format!("{field},"), format!("{field} }}")];
        if !filter && !FORMS.contains(&&*key) && !read.iter().any(|read| code.contains(read)) {
            wrong.push(format!("{owner}.{key} is read by no code outside config"));
        }
        if !sets(&tests, &key) {
            wrong.push(format!("{owner}.{key} is set by no test"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_a_value_was_expanded_to_is_never_told() {
    let yaml = concat!(
        "listeners: [{address: '127.0.0.1:0'}]\n",
        "routes:\n",
        "  - filters: [{headers: {request: {set: {authorization: 'Bearer ${file:secret}'}}}}]\n",
        "    respond: {}\n",
    );
    for secret in ["planted\u{1}secret", "planted{secret"] {
        let (code, stderr) = check_files(&[("g.yaml", yaml), ("secret", secret)], "g.yaml").await;
        assert_eq!(code, 3);
        assert!(stderr.contains("Bearer ${file:secret}") && !stderr.contains("planted"), "{stderr}");
    }
}

#[tokio::test]
async fn traces_that_cannot_be_followed_so_are_refused() {
    let yaml = |tracing: &str| {
        format!(
            "{LISTENERS}routes: [{{upstream: a}}]\nupstreams: {{a: {{endpoints: ['127.0.0.1:1']}}}}\ntracing: {tracing}\n"
        )
    };
    for (tracing, refusal) in [
        (
            "{otlp: {endpoint: here}}",
            "g.yaml:4:28: tracing.otlp.endpoint: is not the http or https URL of a collector (such as http://127.0.0.1:4318)",
        ),
        (
            "{otlp: {endpoint: 'ftp://here'}}",
            "g.yaml:4:28: tracing.otlp.endpoint: is not the http or https URL of a collector (such as http://127.0.0.1:4318)",
        ),
        (
            "{otlp: {protocol: htpp}}",
            "g.yaml:4:28: tracing.otlp.protocol: unknown value \"htpp\" (one of: grpc, http/protobuf, http/json)",
        ),
        ("{otlp: {tls: {cert: c.pem}}}", "g.yaml:4:23: tracing.otlp.tls: `cert` and `key` go together"),
        ("{otlp: {headers: {'a b': c}}}", "g.yaml:4:35: tracing.otlp.headers.\"a b\": is not a header name"),
        ("{propagate: [w3c, w3c]}", "g.yaml:4:22: tracing.propagate: names a form twice"),
        (
            "{sample: {at_most: 9999999999/s}}",
            "g.yaml:4:29: tracing.sample.at_most: is faster than can be counted (`off` is no limit)",
        ),
    ] {
        let (code, stderr) = check_files(&[("g.yaml", &yaml(tracing))], "g.yaml").await;
        assert!(stderr.contains(refusal), "{tracing}\n{stderr}");
        assert_eq!(code, 3, "{tracing}");
    }
    let many: Vec<String> = (0..17).map(|n| format!("a{n}: x")).collect();
    let many = format!("{{attributes: {{{}}}}}", many.join(", "));
    let (_, stderr) = check_files(&[("g.yaml", &yaml(&many))], "g.yaml").await;
    assert!(stderr.contains("g.yaml:4:23: tracing.attributes: at most 16 attributes"), "{stderr}");
    let (_, stderr) = check_files(&[("g.yaml", &yaml("{attributes: {a: '{pth}'}}"))], "g.yaml").await;
    let unknown = "g.yaml:4:27: tracing.attributes.a: unknown placeholder `{pth}` (did you mean `{path}`?)";
    assert!(stderr.contains(unknown), "{stderr}");
    let (_, stderr) =
        check_files(&[("g.yaml", &(yaml("{}") + "log: {access: {template: '{statsu}'}}\n"))], "g.yaml").await;
    let unknown =
        "g.yaml:5:26: log.access.template: unknown placeholder `{statsu}` (did you mean `{status}`?)";
    assert!(stderr.contains(unknown), "{stderr}");
    let (_, stderr) = check_files(&[("g.yaml", &yaml("{otlp: {tls: {ca: none.pem}}}"))], "g.yaml").await;
    assert!(stderr.contains("tracing.otlp.tls.ca: cannot read"), "{stderr}");
}

#[tokio::test]
async fn buckets_that_cannot_be_are_refused_where_they_stand() {
    let yaml = |buckets: &str| {
        format!(
            "{LISTENERS}routes: [{{upstream: a}}]\nupstreams: {{a: {{endpoints: ['127.0.0.1:1']}}}}\nmetrics: {{buckets: {buckets}}}\n"
        )
    };
    let many = format!("{{size: [{}]}}", (1..=31).map(|n| format!("{n}B")).collect::<Vec<_>>().join(", "));
    for (buckets, refusal) in [
        (
            "{duration: []}",
            "g.yaml:4:31: metrics.buckets.duration: there are 0 buckets, and there must be 1 to 30 (leave the key out for the default)",
        ),
        (&many, "g.yaml:4:27: metrics.buckets.size: there are 31 buckets"),
        (
            "{duration: [1s, 500ms]}",
            "g.yaml:4:36: metrics.buckets.duration[1]: 500ms does not come after 1s (write the upper bounds in ascending order, each once)",
        ),
        ("{size: [1KiB, 1KiB]}", "g.yaml:4:34: metrics.buckets.size[1]: 1KiB does not come after 1KiB"),
        (
            "{duration: [1ns, 1s]}",
            "g.yaml:4:32: metrics.buckets.duration[0]: 1ns is too small for a bucket (start with a larger one)",
        ),
        ("{size: [0B]}", "g.yaml:4:28: metrics.buckets.size[0]: 0B is too small for a bucket"),
        (
            "{duration: [0.5]}",
            "g.yaml:4:32: metrics.buckets.duration[0]: 0.5 is not a duration (durations carry a unit, such as \"5s\")",
        ),
    ] {
        let (code, stderr) = check_files(&[("g.yaml", &yaml(buckets))], "g.yaml").await;
        assert!(stderr.contains(refusal), "{buckets}\n{stderr}");
        assert_eq!(code, 3, "{buckets}");
    }
}

/// Every key, with a value that is not its default.
#[tokio::test]
async fn all_that_can_be_said_of_traces_is_understood() {
    let yaml = format!(
        "{LISTENERS}routes:
- {{name: a, upstream: a, match: {{path: /a}}, trace: {{sample: 10%}}}}
- {{name: b, upstream: a, match: {{path: /b}}, trace: off}}
upstreams: {{a: {{endpoints: ['127.0.0.1:1']}}}}
tracing:
  propagate: [b3, w3c, b3_single, baggage]
  accept: trusted
  sample: {{new: 1%, known: decide, at_most: off, also: {{errors: true, slower_than: 1s}}}}
  query: redact
  attributes: {{tenant: '{{path.tenant}}'}}
  baggage_attributes: [tenant.id]
  respond: server_timing
  service: edge
  resource: {{deployment.environment.name: prod}}
  otlp:
    {{endpoint: 'https://here:4317', protocol: grpc, headers: {{x-tenant: edge}}, compression: none,
     timeout: 1s, tls: {{}}, queue: 1MiB, batch: 100, every: 1s, give_up: 10s}}
"
    );
    let (code, stderr) = check_files(&[("g.yaml", &yaml)], "g.yaml").await;
    assert_eq!(code, 0, "{stderr}");
    // All that a collector is sent may be a secret.
    assert!(stderr.lines().all(|line| line.contains("tracing.otlp.headers.x-tenant")), "{stderr}");
}

/// What the file does not say is taken from OpenTelemetry's variables, and a wrong one is told.
#[tokio::test]
async fn the_variables_of_opentelemetry_are_heard_where_the_file_is_silent() {
    let plain =
        format!("{LISTENERS}routes: [{{upstream: a}}]\nupstreams: {{a: {{endpoints: ['127.0.0.1:1']}}}}\n");
    let check = async |yaml: &str, variables: &[(&str, &str)]| {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("g.yaml"), yaml).unwrap();
        let mut command = tidegate(directory.path());
        command.args(["check", "-c", "g.yaml"]).envs(variables.iter().copied());
        let process = Process::spawn(command);
        assert!(process.wait_exit().await.success(), "{}", process.stderr());
        process.stderr() + &process.output()
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let wrong = [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_PROPAGATORS", "tracecontext,jaeger"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
    ];
    for variable in wrong {
        let told = check(&plain, &[endpoint, variable]).await;
        assert!(told.contains(&format!("{} is ignored", variable.0)), "{told}");
        // Without an endpoint nothing is traced, and it is wrong all the same.
        let told = check(&plain, &[variable]).await;
        assert!(told.contains(&format!("{} is ignored", variable.0)), "{told}");
    }
    let good =
        [endpoint, ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
    assert!(!check(&plain, &good).await.contains("OTEL"));
    let told =
        check(&format!("{plain}tracing: {{service: edge, otlp: {{}}}}\n"), &[("OTEL_SERVICE_NAME", "other")])
            .await;
    assert!(told.contains("OTEL_SERVICE_NAME is set, and the file says otherwise"), "{told}");
    assert!(
        !check(&format!("{plain}tracing: {{otlp: {{}}}}\n"), &[("OTEL_SERVICE_NAME", "")])
            .await
            .contains("OTEL")
    );
}
