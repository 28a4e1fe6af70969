//! The command line: what each command prints, and its exit code.

use std::process::Output;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::{
    Backend, Gateway, Process,
    certificates::{authority, keep, server},
    get,
    issuer::{Signer, set},
    tidegate,
};

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs `tidegate ARGS` in `directory` with `environment`.
#[track_caller]
fn run_in(directory: &TempDir, args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = tidegate(directory.path());
    command.args(args).envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ran {
        code: status.code().unwrap(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// The same with this `gateway.yaml`.
#[track_caller]
fn run(yaml: &str, args: &[&str]) -> Ran {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
    run_in(&directory, args, &[])
}

impl Ran {
    #[track_caller]
    fn assert(&self, code: i32, stdout: &str, stderr: &str) -> &Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stdout.contains(stdout), "{:?} is not in {}", stdout, self.stdout);
        assert!(self.stderr.contains(stderr), "{:?} is not in {}", stderr, self.stderr);
        self
    }
}

const FILE: &[&str] = &["-c", "gateway.yaml"];

fn with(args: &[&'static str]) -> Vec<&'static str> {
    args.iter().chain(FILE).copied().collect()
}

const SMALL: &str = "admin: false\nlisteners: [{name: edge, address: 127.0.0.1:8000}]\n\
     routes: [{upstream: backend}]\nupstreams: {backend: {endpoints: [127.0.0.1:3000]}}\n";

#[test]
fn usage_is_exit_2_and_says_how() {
    for args in [
        &["no-such-command"][..],
        &["explain", "GET"],
        &["explain", "get", "/"],
        &["explain", "GET", "not a url"],
        &["explain", "GET", "/", "-H", "no-colon"],
        &["proxy"],
        &["proxy", "--to", "http://localhost:3000"],
        &["status", "--admin", "nowhere"],
    ] {
        let ran = run(SMALL, args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("--help"), "{args:?}: {}", ran.stderr);
    }
    let help = run(SMALL, &["--help"]);
    help.assert(0, "Exit codes:", "");
    for command in
        ["run", "check", "explain", "schema", "proxy", "backend", "status", "reload", "canary", "drain"]
    {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {}", help.stdout);
    }
}

#[test]
fn check_sums_up_what_is_fine() {
    run(SMALL, &with(&["check"])).assert(0, "gateway.yaml: fine (1 listener, 1 route, 1 upstream)\n", "");
}

#[test]
fn check_warns_of_secrets_that_are_written_out_and_fails_for_it_only_when_strict() {
    let yaml = SMALL.replace("admin: false", "admin: {address: 127.0.0.1:0, token: open-sesame}");
    let said = "admin.token: a secret is written out here";
    let ran = run(&yaml, &with(&["check"]));
    ran.assert(0, "fine", said).assert(0, "fine", "write `${env:NAME}`");
    assert!(!ran.stderr.contains("open-sesame"), "{}", ran.stderr);
    run(&yaml, &with(&["check", "--strict"])).assert(3, "fine", said);
    run(SMALL, &with(&["check", "--strict"])).assert(0, "fine", "");
}

#[test]
fn check_lists_every_problem() {
    let ran =
        run(&SMALL.replace("endpoints:", "endpionts:").replace("name: edge", "nam: edge"), &with(&["check"]));
    ran.assert(3, "", "gateway.yaml:").assert(3, "", "did you mean `name`?").assert(
        3,
        "",
        "did you mean `endpoints`?",
    );
    assert!(ran.stdout.is_empty() && ran.stderr.lines().count() >= 2, "{}", ran.stderr);
    run("", &["check", "-c", "missing.yaml"]).assert(3, "", "missing.yaml");
}

#[test]
fn check_finds_an_access_log_that_cannot_be_opened() {
    let yaml = format!("{SMALL}log: {{access: {{to: no/such/directory/access.log}}}}\n");
    run(&yaml, &with(&["check"])).assert(3, "", "log.access.to: cannot open the access log");
    let yaml = format!("{SMALL}log: {{access: {{to: access.log}}}}\n");
    run(&yaml, &with(&["check"])).assert(0, "fine", "");
}

/// Each secret is planted where one belongs, and beside each is a mistake.
#[test]
fn no_secret_is_in_what_check_and_run_say_of_mistakes() {
    let directory = TempDir::new().unwrap();
    let secrets = [
        "s3cr3t-token",
        "s3cr3t-hmac",
        "s3cr3t-file",
        "s3cr3t-env",
        "s3cr3t-hash",
        "s3cr3t-url",
        "s3cr3t-typo",
    ];
    std::fs::write(directory.path().join("secret"), "s3cr3t-file\n").unwrap();
    let rest =
        "listeners: [{name: edge, address: 127.0.0.1:8000}]\nupstreams: {u: {endpoints: [127.0.0.1:3000]}}\n";
    let jwt = |keys: &str| {
        format!("admin: false\n{rest}routes: [{{upstream: u, filters: [{{jwt: {{{keys}}}}}]}}]\n")
    };
    let configs = [
        // Wrong in form, each in a place that is told.
        format!("admin: {{token: s3cr3t-token, adress: x}}\n{rest}routes: [{{upstream: u}}]\n"),
        format!("admin: {{token: [s3cr3t-token]}}\n{rest}routes: [{{upstream: u}}]\n"),
        format!("admin: {{tokn: s3cr3t-typo}}\n{rest}routes: [{{upstream: u}}]\n"),
        jwt("keys: {secret: s3cr3t-hmac, secrt: x}"),
        jwt("keys: {secret: s3cr3t-hmac}, algorithms: [RS256]"),
        jwt("keys: {secret: '${file:secret}'}, algorithms: [nonsense]"),
        jwt("keys: {secret: '${env:PLANTED}', jwks: none.json}"),
        jwt("keys: {jwks: 'https://user:s3cr3t-url@issuer.example/keys'}"),
        jwt("keys: {secret: {value: s3cr3t-hmac}}"),
        format!(
            "admin: {{token: '${{env:PLANTED}}', address: nowhere}}\n{rest}routes: [{{upstream: missing}}]\n"
        ),
        format!(
            "admin: false\n{rest}routes: [{{upstream: u, filters: [{{basic_auth: {{users: {{bob: s3cr3t-hash}}}}}}, \
             {{api_key: {{keys: {{bob: s3cr3t-hash}}}}}}]}}]\n"
        ),
    ];
    for config in configs {
        std::fs::write(directory.path().join("gateway.yaml"), &config).unwrap();
        for command in ["check", "run"] {
            let ran = run_in(&directory, &[command, "-c", "gateway.yaml"], &[("PLANTED", "s3cr3t-env")]);
            assert_eq!(ran.code, 3, "{config}{}{}", ran.stdout, ran.stderr);
            let said = ran.stdout + &ran.stderr;
            assert!(said.contains("gateway.yaml:"), "{config}{said}");
            assert!(secrets.iter().all(|secret| !said.contains(secret)), "{config}{said}");
        }
    }
}

#[tokio::test]
async fn check_online_looks_at_every_endpoint() {
    let backend = Backend::start().await;
    let yaml = |endpoints: &str| SMALL.replace("127.0.0.1:3000", endpoints);
    let at = backend.address().to_string();
    run(&yaml(&at), &with(&["check", "--online"])).assert(0, &format!("backend  {at}  ok\n"), "");
    // Nobody listens on port 1.
    let both = format!("{at}, 127.0.0.1:1");
    let ran = run(&yaml(&both), &with(&["check", "--online"]));
    ran.assert(1, &format!("backend  {at}  ok\n"), "1 of 2 endpoints cannot be used now");
    ran.assert(1, "backend  127.0.0.1:1  failed: ", "");
}

const ROUTED: &str = "admin: false
listeners: [{name: edge, address: 127.0.0.1:8000, filters: [request_id: {}]}]
routes:
  - {name: users, match: {hosts: [api.example.com], path: /v1/users, methods: [GET]}, upstream: backend,
     filters: [headers: {request: {remove: [x-internal]}}, {compression: {}, when: {query: {a: c}}},
               {rewrite: {strip_prefix: /v1}, when: {path: /v1/users/7}}]}
  - {name: admin, match: {hosts: [api.example.com], path: /v1/users, methods: [GET], headers: {x-debug: \"1\"}}, respond: {}}
  - {name: any, match: {hosts: [api.example.com], path: /v1, methods: [GET]}, redirect: {to: /v2}}
upstreams: {backend: {endpoints: [127.0.0.1:3000]}}
";

#[test]
fn explain_shows_the_winner_and_the_close_ones() {
    let ran =
        run(ROUTED, &with(&["explain", "GET", "http://api.example.com/v1//users/7?a=b", "-H", "x-debug: 0"]));
    let expected = "GET http://api.example.com/v1//users/7?a=b\n\
        path      /v1/users/7 (normalised; matched and forwarded so)\n\
        listener  edge (127.0.0.1:8000)\n\
        route     users -> upstream backend\n\
        forwarded GET /users/7?a=b, host api.example.com\n\
        filters   request_id, headers, rewrite\n\
        close     any: also matches: less specific path\n          \
        admin: header x-debug: expected \"1\", got \"0\"\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{}", ran.stderr);
    run(
        ROUTED,
        &with(&["explain", "GET", "/v1/users", "-H", "Host: api.example.com:8000", "-H", "X-Debug: 1"]),
    )
    .assert(0, "route     admin -> respond 200\nanswered  200\nfilters   request_id\n", "");
}

#[test]
fn explain_says_why_no_route_wins() {
    run(ROUTED, &with(&["explain", "GET", "http://other.example/v1/users"])).assert(
        1,
        "route     none: 404 no_route\nfilters   request_id\nclose     users: host: expected",
        "",
    );
    run(ROUTED, &with(&["explain", "DELETE", "http://api.example.com/v1/users"])).assert(
        1,
        "route     none: 405 method_not_allowed, Allow: GET, HEAD\n",
        "",
    );
    run(ROUTED, &with(&["explain", "GET", "http://api.example.com/%zz"])).assert(
        1,
        "refused   400 bad_request: ",
        "",
    );
    run(ROUTED, &with(&["explain", "GET", "/", "--listener", "egde"])).assert(2, "", "(there are: edge)");
    run("routes: 1", &with(&["explain", "GET", "/"])).assert(3, "", "gateway.yaml:1:");
}

#[test]
fn explain_leaves_nothing_for_a_terminal_to_obey() {
    let yaml = SMALL.replace("{upstream: backend}", "{name: \"\\e[2Jcleared\", upstream: backend}");
    let ran = run(&yaml, &with(&["explain", "GET", "/"]));
    ran.assert(0, r"\u{1b}[2Jcleared -> upstream backend", "");
    assert!(!ran.stdout.contains('\u{1b}'));
}

#[test]
fn schema_is_json_with_the_filters_in_it() {
    let ran = run("", &["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&ran.assert(0, "", "").stdout).unwrap();
    assert!(schema["properties"]["listeners"].is_object());
    assert!(ran.stdout.contains("strip_prefix"));
}

#[tokio::test]
async fn proxy_needs_no_file() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let home = TempDir::new().unwrap();
    let mut command = tidegate(home.path());
    command.args(["proxy", "--from", "127.0.0.1:0"]);
    command.args(["--to", &one.address().to_string(), "--to", &two.address().to_string()]);
    let proxy = Process::spawn(command);
    let lines = proxy.first_lines(2).await;
    let listening: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert!(lines[1].contains("\"ready\""), "{lines:?}");
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(get(address, "/").await.assert_status(200).header("x-backend").unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["one", "two"]);
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit().await.success());
}

#[tokio::test]
async fn an_address_in_use_is_exit_4() {
    let backend = Backend::start().await;
    let at = backend.address().to_string();
    run("", &["proxy", "--from", &at, "--to", "127.0.0.1:3000"]).assert(4, "", &at);
}

fn controlled(token: &str) -> String {
    format!(
        "admin: {{address: 127.0.0.1:0{token}}}\nlisteners: [{{name: edge, address: 127.0.0.1:0}}]\n\
         routes: [{{name: hello, respond: {{}}}}]\n"
    )
}

#[tokio::test]
async fn status_reload_and_drain_tell_a_running_gateway() {
    let gateway = Gateway::start(&controlled("")).await;
    let at = gateway.admin().to_string();
    let home = TempDir::new().unwrap();
    let tell = |command: &str| run_in(&home, &[command, "--admin", &at], &[]);

    tell("status").assert(0, "ready  tidegate ", "").assert(
        0,
        "listener edge  127.0.0.1:0  0 connections",
        "",
    );
    let json = run_in(&home, &["status", "--json", "--admin", &format!("http://{at}/")], &[]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["phase"], "ready");

    tell("reload").assert(0, "unchanged\n", "");
    gateway.write_config(&controlled("").replace("name: hello", "name: hi"));
    tell("reload").assert(0, "reloaded: added route hi; removed route hello\n", "");
    gateway.write_config("listeners: 5\nroutes: 5\n");
    let rejected = tell("reload");
    rejected.assert(3, "", "gateway.yaml:1:");
    assert_eq!(rejected.stderr.lines().count(), 2, "{}", rejected.stderr);

    tell("drain").assert(0, "draining: ", "");
    assert!(gateway.wait_exit().await.success());
    tell("status").assert(
        1,
        "",
        &format!("cannot reach the gateway at {at}: connection refused (is it running?"),
    );
}

#[tokio::test]
async fn the_token_comes_from_the_arguments_the_environment_or_the_file() {
    let gateway = Gateway::start(&controlled(", token: open-sesame")).await;
    let at = gateway.admin().to_string();
    let home = TempDir::new().unwrap();
    let status = ["status", "--admin", &at];
    run_in(&home, &status, &[]).assert(1, "", "answers 401").assert(1, "", "TIDEGATE_ADMIN_TOKEN");
    run_in(&home, &status, &[("TIDEGATE_ADMIN_TOKEN", "wrong")]).assert(1, "", "this is not the token");
    run_in(&home, &status, &[("TIDEGATE_ADMIN_TOKEN", "open-sesame")]).assert(0, "ready", "");
    run_in(&home, &["status", "--admin", &at, "--token", "open-sesame"], &[]).assert(0, "ready", "");
    std::fs::write(
        home.path().join("gateway.yaml"),
        controlled(", token: open-sesame").replacen(":0,", &format!(":{},", gateway.admin().port()), 1),
    )
    .unwrap();
    run_in(&home, &["status", "-c", "gateway.yaml"], &[]).assert(0, "ready", "");
}

#[tokio::test]
async fn control_commands_say_what_they_miss() {
    run(SMALL, &with(&["reload"])).assert(1, "", "`admin: false` turns the API off");
    run(&controlled(""), &with(&["reload"])).assert(1, "", "give --admin");
    run("routes: 1", &with(&["status"])).assert(3, "", "gateway.yaml:1:");
    let backend = Backend::start().await;
    run("", &["status", "--admin", &backend.address().to_string()]).assert(
        1,
        "",
        "is not tidegate's admin API",
    );
}

#[test]
fn explain_goes_by_what_is_left_of_a_request_on_arrival() {
    let yaml = |more: &str| {
        format!(
            "admin: false\nlisteners: [{{name: edge, address: 127.0.0.1:8000}}]\n{more}\nroutes:\n\
             - {{name: secure, match: {{headers: {{x-forwarded-proto: https}}}}, respond: {{}}}}\n\
             - {{name: plain, respond: {{}}}}\n"
        )
    };
    let args = with(&["explain", "GET", "/", "-H", "X-Forwarded-Proto: https"]);
    let ran = run(&yaml(""), &args);
    ran.assert(0, "plain -> respond 200", "").assert(0, "x-forwarded-proto is taken off on arrival", "");
    run(&yaml("trusted_proxies: [10.0.0.0/8]"), &args).assert(0, "secure -> respond 200", "");
    run(&yaml(""), &with(&["explain", "GET", "/a%2Fb"])).assert(1, "400 encoded_slash", "");
    run(&yaml("paths: {encoded_slashes: keep}"), &with(&["explain", "GET", "/a%2Fb"])).assert(0, "plain", "");
    run(&yaml(""), &with(&["explain", "GET", "/a/..;/b"])).assert(1, "400 dot_segment", "");
}

#[test]
fn completions_are_read_by_their_shells() {
    for (shell, args) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = run("", &["completions", shell]);
        script.assert(0, "upgrade", "");
        let file = TempDir::new().unwrap();
        let path = file.path().join("script");
        std::fs::write(&path, &script.stdout).unwrap();
        let output = std::process::Command::new(shell).args(args).arg(&path).output();
        let output = output.unwrap_or_else(|error| panic!("{shell}: {error} (`make test` installs it)"));
        assert!(output.status.success(), "{shell}: {output:?}");
    }
    for shell in ["elvish", "powershell"] {
        run("", &["completions", shell]).assert(0, "upgrade", "");
    }
    run("", &["completions", "tcsh"]).assert(2, "", "possible values");
}

/// A zsh that a terminal leads to, which writes down what stands on its line after a tab.
const ASK_ZSH: &str = r#"
    zmodload zsh/zpty
    zpty shell zsh -f -i
    zpty -w shell "fpath=(${(q)PWD} \$fpath); autoload -Uz compinit; compinit -u -D"
    zpty -w shell "typed() { print -r -- \$BUFFER > typed; exit }; zle -N typed; bindkey '^X' typed"
    zpty -w -n shell $'tidegate up\t\x18'
    while zpty -r shell line; do :; done
    cat typed
"#;

#[test]
fn shells_complete_a_command() {
    let home = TempDir::new().unwrap();
    for (shell, file) in [("bash", "tidegate.bash"), ("zsh", "_tidegate"), ("fish", "tidegate.fish")] {
        std::fs::write(home.path().join(file), run("", &["completions", shell]).stdout).unwrap();
    }
    let bash = "source ./tidegate.bash; COMP_WORDS=(tidegate up); COMP_CWORD=1; _tidegate tidegate up tidegate; \
                echo \"${COMPREPLY[@]}\"";
    let fish = "source ./tidegate.fish; complete -C 'tidegate up'";
    for (shell, script, expected) in
        [("bash", bash, "upgrade"), ("zsh", ASK_ZSH, "tidegate upgrade"), ("fish", fish, "upgrade\t")]
    {
        let output = std::process::Command::new(shell)
            .args(["-c", script])
            .current_dir(home.path())
            .env("HOME", home.path())
            .output();
        let output = output.unwrap_or_else(|error| panic!("{shell}: {error} (`make test` installs it)"));
        let offered = String::from_utf8_lossy(&output.stdout);
        assert!(offered.starts_with(expected) && offered.lines().count() == 1, "{shell}: {output:?}");
    }
}

#[test]
fn each_command_has_a_page_of_the_manual() {
    let home = TempDir::new().unwrap();
    run_in(&home, &["man", "--out", "pages/man1"], &[]).assert(0, "", "");
    let page = |name: &str| std::fs::read_to_string(home.path().join("pages/man1").join(name)).unwrap();
    assert!(page("tidegate-run.1").contains("SIGUSR2") && page("tidegate-run.1").contains("EXIT STATUS"));
    assert!(page("tidegate-ca-init.1").contains("trust\\-domain"));
    let help = run("", &["--help"]).stdout;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for command in
        commands.map(|line| line.split_whitespace().next().unwrap()).filter(|command| *command != "help")
    {
        assert!(page(&format!("tidegate-{command}.1")).contains(".SH SYNOPSIS"), "{command}");
    }
    assert!(run("", &["man"]).stdout.contains("SIGNALS"));
    run("", &["man", "--out", "/dev/null/no"]).assert(1, "", "/dev/null/no");
}

/// One that a minimal system has in the place of `man` shows none of it.
#[test]
fn each_page_of_the_manual_is_shown_without_a_warning() {
    let home = TempDir::new().unwrap();
    run_in(&home, &["man", "--out", "pages"], &[]).assert(0, "", "");
    let pages = std::fs::read_dir(home.path().join("pages")).unwrap().map(|page| page.unwrap().path());
    let pages: Vec<_> = pages.collect();
    assert!(pages.len() > 40, "{pages:?}");
    for page in pages {
        let shown = std::process::Command::new("man")
            .args(["--warnings", "--local-file"])
            .arg(&page)
            .envs([("LC_ALL", "C.UTF-8"), ("MANWIDTH", "80")])
            .output();
        let shown = shown.unwrap_or_else(|error| panic!("man: {error} (`make test` installs it)"));
        let text = String::from_utf8_lossy(&shown.stdout);
        let warnings = String::from_utf8_lossy(&shown.stderr);
        assert!(shown.status.success() && warnings.is_empty(), "{}: {warnings}", page.display());
        assert!(text.contains("SYNOPSIS") && text.contains("EXIT STATUS"), "{}: {text}", page.display());
    }
}

#[test]
fn a_password_is_hashed_as_a_filter_takes_it_and_never_shown() {
    let hash = |args: &[&str], password: &str| {
        let home = TempDir::new().unwrap();
        let mut command = tidegate(home.path());
        command.arg("hash-password").args(args).stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let argon2 = hash(&[], "open sesame\n").assert(0, "$argon2id$", "").stdout.clone();
    let line = hash(&["--algorithm", "bcrypt", "--cost", "10", "--user", "alice"], "open sesame").stdout;
    assert!(line.starts_with("alice:$2b$10$"), "{line}");
    let yaml = |hash: &str| {
        SMALL.replace(
            "upstream: backend}]",
            &format!(
                "upstream: backend, filters: [{{basic_auth: {{users: [{{name: alice, hash: '{}'}}]}}}}]}}]",
                hash.trim()
            ),
        )
    };
    for hash in [argon2.as_str(), line.trim_start_matches("alice:")] {
        run(&yaml(hash), &with(&["check"])).assert(0, "", "");
    }
    hash(&[], "").assert(1, "", "the password is empty");
    let long = "secret".repeat(20);
    let refused = hash(&["--algorithm", "bcrypt"], &long);
    refused.assert(1, "", "use argon2id");
    assert!(!refused.stderr.contains("secret"));
    hash(&[], &"x".repeat(2000)).assert(1, "", "longer than");
    hash(&["--user", "a:b"], "x").assert(2, "", "no colon");
}

const WARNED: &str = "admin: false\nlisteners: [{address: 127.0.0.1:8000}]\nroutes: [{upstream: a}]\n\
     upstreams: {a: {endpoints: '127.0.0.1:443'}}\n";

#[test]
fn warnings_are_told_and_strict_fails_for_them() {
    let told = "warning: gateway.yaml:4:28: upstreams.a.endpoints[0]: `127.0.0.1:443` is where TLS is spoken";
    run(WARNED, &with(&["check"])).assert(0, "fine", told).assert(
        0,
        "",
        "(add `tls: {}` beside `endpoints`)",
    );
    run(WARNED, &with(&["check", "--strict"])).assert(3, "fine", told);
    run(SMALL, &with(&["check", "--strict"])).assert(0, "fine", "");
}

/// Those that take files to be found.
#[test]
fn warnings_look_into_certificates_and_key_sets() {
    let directory = TempDir::new().unwrap();
    let root = authority("test");
    keep(directory.path(), "a", &root.issue(&server(&["a.example"])));
    let key = Signer::new("k");
    std::fs::write(directory.path().join("jwks.json"), set(&[&key])).unwrap();
    let warned = |host: &str, jwt: &str| {
        let yaml = format!(
            "admin: false\nlisteners: [{{address: '127.0.0.1:8443', tls: {{certificates: [{{cert: a.crt, key: a.key}}]}}}}]\n\
             routes: [{{match: {{hosts: [{host}]}}, upstream: u, filters: [{{jwt: {{{jwt}}}}}]}}]\n\
             upstreams: {{u: {{endpoints: '127.0.0.1:3000'}}}}\n"
        );
        std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
        run_in(&directory, &with(&["check", "--strict"]), &[])
    };
    const KEYS: &str = "keys: {jwks: jwks.json}, algorithms: [ES256]";
    let whole = format!("{KEYS}, audience: [api]");
    // The file of public keys is no secret.
    warned("a.example", &whole).assert(0, "fine", "");
    warned("b.example", &whole).assert(
        3,
        "",
        "routes[0].match.hosts[0]: no certificate of listener `127.0.0.1:8443` is for `b.example`",
    );
    warned("a.example", KEYS).assert(
        3,
        "",
        "routes[0].filters[0].jwt: without `audience` a token that was made for another service",
    );
    let secret = "keys: {secret: 0123456789abcdef0123456789abcdef}, algorithms: [HS256], audience: [api]";
    warned("a.example", secret).assert(3, "", "jwt.keys.secret: a secret is written out here");
}

#[test]
fn programs_are_told_in_json() {
    let json = |yaml: &str, args: &[&'static str], code| {
        let ran = run(yaml, &with(args));
        serde_json::from_str::<serde_json::Value>(&ran.assert(code, "", "").stdout).unwrap()
    };
    let told = json(WARNED, &["check", "--format", "json", "--strict"], 3);
    assert_eq!((&told["valid"], &told["problems"]), (&true.into(), &serde_json::json!([])));
    let warning = &told["warnings"][0];
    assert_eq!(warning["name"], "tls_port_without_tls");
    assert_eq!((&warning["line"], &warning["column"]), (&4.into(), &28.into()));
    assert_eq!(
        (&warning["file"], &warning["path"]),
        (&"gateway.yaml".into(), &"upstreams.a.endpoints[0]".into())
    );
    assert_eq!(warning["hint"], "add `tls: {}` beside `endpoints`");
    let told =
        json("listeners: [{address: ':0'}]\nroutes: [{proxy_pass: a}]\n", &["check", "--format", "json"], 3);
    assert_eq!(told["valid"], false);
    assert_eq!(told["problems"][0]["message"], "unknown key `proxy_pass`");
    assert!(told["problems"][0]["hint"].as_str().unwrap().starts_with("write `upstream: NAME`"), "{told}");
}

#[test]
fn explain_shows_what_becomes_of_the_request() {
    let yaml = "admin: false\n\
        listeners:\n  - {name: plain, address: 127.0.0.1:8000, filters: [{https_redirect: {port: 8443}}], routes: [site]}\n  \
        - {name: other, address: 127.0.0.1:8001, routes: [digits, word, old]}\n\
        routes:\n  - {name: site, upstream: a}\n  \
        - {name: digits, match: {path: {regex: '^/[0-9a-f]+$'}}, filters: [{rewrite: {path: '/x?id=1', host: b.example}}], upstream: a}\n  \
        - {name: word, match: {path: {regex: '^/[a-z0-9]+$'}}, upstream: a}\n  \
        - {name: old, match: {path: /old}, redirect: {replace_prefix: /new}}\n\
        upstreams: {a: {endpoints: '127.0.0.1:3000'}}\n";
    let explain = |url: &'static str, more: &[&'static str]| {
        run(yaml, &with(&[&["explain", "GET", url], more].concat()))
    };
    explain("http://a.example:8000/b?c=d", &[]).assert(0, "answered  308 https://a.example:8443/b?c=d\n", "");
    // By its port, no other listener can get it.
    assert!(!explain("http://a.example:8000/b", &[]).stdout.contains("8001"));
    let told = explain("http://a.example:8001/12?a=b", &[]);
    told.assert(0, "forwarded GET /x?id=1&a=b, host b.example\n", "");
    told.assert(0, "word: also matches: an expression later in the file", "");
    explain("http://a.example:8001/old/x?y=z", &[]).assert(0, "answered  308 /new/x?y=z\n", "");
}

#[tokio::test]
async fn a_second_gateway_is_told_whose_port_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let yaml = format!(
        "admin: {{address: '{address}'}}\nlisteners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{respond: {{}}}}]\n"
    );
    let told = format!("the admin API cannot listen on {address}: ");
    run(&yaml, &with(&["run"])).assert(4, "", &told).assert(4, "", "set `admin.address` to another port");
}
