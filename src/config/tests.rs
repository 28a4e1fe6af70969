//! From text to configuration or to the exact words that an operator reads.

use std::{env::VarError, fs, path::Path as FilePath};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::config::{
    document::load::{load_with, parse_with},
    *,
};

fn environment(name: &str) -> Result<String, VarError> {
    match name {
        "PORT" => Ok("3000".into()),
        "TOKEN" => Ok("0123456789".into()),
        "SECRET" => Ok("hunter2".into()),
        "EMPTY" => Ok(String::new()),
        _ => Err(VarError::NotPresent),
    }
}

type Sound = (Config, Sources);

fn read(text: &str) -> Result<Sound, Problems> {
    parse_with(text, "g.yaml", &Additions::default(), &environment).and_then(sound)
}

fn sound(loaded: Loaded) -> Result<Sound, Problems> {
    Ok((loaded.config().map_err(Problems::clone)?.clone(), loaded.sources))
}

fn good(text: &str) -> Sound {
    read(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> Vec<String> {
    read(text).err().into_iter().flatten().map(|problem| problem.to_string()).collect()
}

/// A directory of files, and the problems of loading its `g.yaml` with the directory's name left out.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Files(directory)
    }

    fn load(&self) -> Result<Sound, Problems> {
        load_with(&self.0.path().join("g.yaml"), &Additions::default(), &environment).and_then(sound)
    }

    fn problems(&self) -> Vec<String> {
        let root = format!("{}/", self.0.path().display());
        self.load()
            .err()
            .into_iter()
            .flatten()
            .map(|problem| problem.to_string().replace(&root, ""))
            .collect()
    }
}

#[test]
fn says_what_is_wrong_where_and_what_to_do() {
    let table = [
        ("shutdown: {grace: 5 minuts}", r#"1:19: shutdown.grace: "5 minuts" is not a duration (try "5m")"#),
        (
            "shutdown: {grace: 5}",
            r#"1:19: shutdown.grace: 5 is not a duration (durations carry a unit, such as "5s")"#,
        ),
        (
            "listeners: [{address: a, limits: {body_size: 10}}]",
            r#"1:46: listeners[0].limits.body_size: 10 is not a size (sizes carry a unit: "10B")"#,
        ),
        ("log: {access: {sample: 50}}", r#"1:24: log.access.sample: 50 is not between 0 and 1 (try "50%")"#),
        ("routes:\n  - upstrem: a", "2:5: routes[0]: unknown key `upstrem` (did you mean `upstream`?)"),
        ("lisners: []", "1:1: unknown key `lisners` (did you mean `listeners`?)"),
        ("paths: {zebra: 1}", "1:9: paths: unknown key `zebra` (known keys: encoded_slashes)"),
        (
            "upstreams: {a: {health_check: {tcp: {x: 1}}}}",
            "1:38: upstreams.a.health_check.tcp: unknown key `x` (it takes no keys)",
        ),
        (
            "routes: x",
            r#"1:9: routes: expected a list, found a string "x" (write `routes: [{upstream: NAME}]`)"#,
        ),
        ("routes: [x]", r#"1:10: routes[0]: expected a map, found a string "x" (write `{upstream: x}`)"#),
        (
            "log: []",
            "1:6: log: expected a map, found a list (write `log: {KEY: VALUE}`; its keys: level, format, redact, access)",
        ),
        ("watch: yes", r#"1:8: watch: expected true or false, found a string "yes" (write true)"#),
        (
            "routes: [{upstream: 5}]",
            "1:21: routes[0].upstream: expected a string, found the number 5 (quote it)",
        ),
        ("threads: 0", "1:10: threads: expected a whole number, 1 or more, found the number 0"),
        ("threads: 1.5", "1:10: threads: expected a whole number, 1 or more, found the number 1.5"),
        (
            "routes: [{respond: {status: 70000}}]",
            "1:29: routes[0].respond.status: expected a whole number from 0 to 65535, found the number 70000",
        ),
        ("log: {level: infoo}", r#"1:14: log.level: unknown value "infoo" (did you mean "info"?)"#),
        ("log: {format: xml}", r#"1:15: log.format: unknown value "xml" (one of: json, text)"#),
        ("log: {format: {}}", "1:15: log.format: expected one of: json, text"),
        ("listeners:\n  - name: a", "2:5: listeners[0]: missing key `address`"),
        (
            "trusted_proxies: [10.0.0.0/33]",
            r#"1:19: trusted_proxies[0]: "10.0.0.0/33" is not a network (try "10.0.0.0/8")"#,
        ),
        (
            "admin: 5",
            r#"1:8: admin: expected `false` or a map, found the number 5 (write `admin: {address: "127.0.0.1:5"}`)"#,
        ),
        ("admin: {adress: a}", "1:9: admin: unknown key `adress` (did you mean `address`?)"),
        (
            "routes: [{match: {path: {exact: /, regex: x}}}]",
            "1:25: routes[0].match.path: expected exactly one of `exact`, `prefix`, `regex` and `template`",
        ),
        (
            "routes: [{match: {path: {regexp: x}}}]",
            "1:26: routes[0].match.path: unknown key `regexp` (write `regex: x`)",
        ),
        (
            "routes: [{match: {headers: {x y: 1}}}]",
            r#"1:34: routes[0].match.headers."x y": expected a value as a string, or a map with `exact`, `regex` or `present`, found the number 1 (quote it)"#,
        ),
        (
            "routes:\n- filters:\n  - cors:\n    max_age: 5s",
            "3:5: routes[0].filters[0]: expected one filter, found `cors`, `max_age` (start each filter with its own `-`, and indent options deeper than the name)",
        ),
        ("upstreams: {a: {balancer: hash}}", "1:27: upstreams.a.balancer: `hash` needs a value: `hash: ...`"),
        (
            "upstreams: {a: {balancer: {random: 1}}}",
            "1:28: upstreams.a.balancer: key `random`: takes no value: write `random` alone",
        ),
        (
            "upstreams: {a: {balancer: {hash: {heder: a}}}}",
            "1:35: upstreams.a.balancer.hash: unknown key `heder` (did you mean `header`?)",
        ),
        (
            "upstreams: {a: {health_check: {http: {expect: [200, 7xx]}}}}",
            r#"1:53: upstreams.a.health_check.http.expect[1]: "7xx" is not a status or a range of them from 100 to 599 (try 200 or "200-299")"#,
        ),
        (
            "threads: ${env:NONE}",
            "1:10: threads: the environment variable NONE is not set (set it, or give a default: `${env:NONE:-...}`)",
        ),
        ("include: [a.yaml]", "1:11: include[0]: files cannot be included here (write it all in one)"),
        ("[1]", "1:1: expected a map, found a list"),
    ];
    for (text, expected) in table {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        let expected = format!("g.yaml:{expected}");
        let found = found[0].split(" (the smallest useful file").next().unwrap();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn reports_all_problems_in_file_order() {
    let text = "\
threads: many
listeners:
  - adress: 127.0.0.1:80
  - address: 127.0.0.1:81
    limits: {idle_timeout: 60, body_size: huge}
routes:
  - redirect: {to: 5, status: x}
  - upstream: a
    match: {path: {template: [1]}}
  - nonsense: 1
    upstream: 2
upstreams:
  a:
    endpoints: [{weight: 1}, {address: a, weight: -1}]
    connect_timeout: 1 parsec
";
    let expected = [
        r#"g.yaml:1:10: threads: expected a whole number, 1 or more, found a string "many""#,
        "g.yaml:3:5: listeners[0]: unknown key `adress` (did you mean `address`?)",
        r#"g.yaml:5:28: listeners[1].limits.idle_timeout: 60 is not a duration (durations carry a unit, such as "5s")"#,
        r#"g.yaml:5:43: listeners[1].limits.body_size: "huge" is not a size (try "64KiB" or "10MB")"#,
        "g.yaml:7:20: routes[0].redirect.to: expected a string, found the number 5 (quote it)",
        r#"g.yaml:7:31: routes[0].redirect.status: expected a whole number from 0 to 65535, found a string "x""#,
        "g.yaml:9:30: routes[1].match.path.template: expected a string, found a list",
        "g.yaml:10:5: routes[2]: unknown key `nonsense` (known keys: name, match, filters, upstream, subset, split, canary, respond, redirect, timeout, priority, paths, grpc_streams, timeout_header, retry, hedge, mirror, trace, error_pages, defaults, metadata)",
        "g.yaml:11:15: routes[2].upstream: expected a string, found the number 2 (quote it)",
        "g.yaml:14:17: upstreams.a.endpoints[0]: expected exactly one of `address`, `srv` and `registry`",
        "g.yaml:14:51: upstreams.a.endpoints[1].weight: expected a whole number from 0 to 65535, found the number -1",
        r#"g.yaml:15:22: upstreams.a.connect_timeout: "1 parsec" is not a duration (try "1s")"#,
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn stops_after_a_hundred_problems() {
    let problems = read(&format!("routes: [{}]", "{x: 1}, ".repeat(150))).unwrap_err();
    assert_eq!(problems.len(), MOST_PROBLEMS);
    assert_eq!(read(&"a: 1\n".repeat(300)).unwrap_err().len(), MOST_PROBLEMS);
    assert!(problems.to_string().ends_with("\nstopped after 100 problems; there may be more"));
}

#[test]
fn the_smallest_useful_file_is_offered_and_works() {
    for text in ["", "# nothing\n", "---\n", "~"] {
        let found = problems(text);
        let offered = found[0].strip_prefix("g.yaml: is empty (the smallest useful file: ").unwrap();
        let config = good(offered.strip_suffix(')').unwrap()).0;
        assert_eq!(config.upstreams["backend"].endpoints, [Endpoint::at("127.0.0.1:3000", 1)]);
        assert_eq!(config.routes[0].upstream.as_deref(), Some("backend"));
    }
}

#[test]
fn a_key_with_nothing_after_it_has_its_defaults() {
    let config = good("log:\nroutes:\nadmin:\nupstreams:\n  a:\nlisteners:\n- {address: a, limits: }").0;
    assert_eq!(config.log, Log::default());
    assert_eq!(config.upstreams["a"], Upstream::default());
    assert!(config.routes.is_empty());
}

#[test]
fn expanded_values_mean_what_they_say() {
    let text = "\
threads: ${env:PORT}
admin: {token: \"${env:TOKEN}\", address: 'a:${env:PORT}'}
routes:
  - name: ${env:TOKEN}
    respond: {body: $${env:TOKEN}}
upstreams:
  a: {endpoints: ['h:${env:NONE:-80}']}
";
    // In flow style the braces end the scalar; in block style they need no quotes.
    let text = text.replace("respond: {body: $${env:TOKEN}}", "respond:\n      body: $${env:TOKEN}");
    let config = good(&text).0;
    assert_eq!(config.threads.map(|n| n.get()), Some(3000));
    let Admin::On(admin) = &config.admin else { panic!("admin is on") };
    assert_eq!(admin.token.as_ref().unwrap().expose(), "0123456789");
    assert_eq!(admin.address, "a:3000");
    assert_eq!(config.routes[0].name.as_deref(), Some("0123456789"), "digits are text where text is wanted");
    assert_eq!(config.routes[0].respond.as_ref().unwrap().body, "${env:TOKEN}");
    assert_eq!(config.upstreams["a"].endpoints, [Endpoint::at("h:80", 1)]);
}

#[test]
fn errors_show_what_was_written_and_never_what_it_expands_to() {
    let table = [
        ("threads: ${env:SECRET}", "found a string \"${env:SECRET}\""),
        ("threads: ${env:EMPTY}\nwatch: ${env:SECRET}", "found a string \"${env:SECRET}\""),
        ("shutdown:\n  grace: ${env:SECRET}", "\"${env:SECRET}\" is not a duration"),
        ("shutdown:\n  grace: 5 ${env:SECRET}", "\"5 ${env:SECRET}\" is not a duration"),
        ("log:\n  level: ${env:SECRET}", "unknown value \"${env:SECRET}\" (one of: off, "),
        ("routes: ${env:SECRET}", "expected a list, found a string \"${env:SECRET}\""),
        ("trusted_proxies:\n- ${env:SECRET}", "\"${env:SECRET}\" is not a network"),
        ("upstreams:\n  a:\n    balancer: ${env:SECRET}", "unknown value \"${env:SECRET}\""),
        (
            "upstreams:\n  a:\n    health_check:\n      http:\n        expect: ${env:SECRET}",
            "\"${env:SECRET}\" is not",
        ),
        ("admin:\n  token: {hunter2: 1}", "admin.token: expected a string, found a map"),
        ("admin:\n  token: [hunter2]", "admin.token: expected a string, found a list"),
        ("admin:\n  token: 99442", "admin.token: expected a string, found a number"),
        ("admin: {token: ''}", "admin.token: a secret cannot be empty"),
        ("admin: ${env:SECRET}", "expected `false` or a map, found a string \"${env:SECRET}\""),
    ];
    for (text, expected) in table {
        let found = problems(text).join("\n");
        assert!(found.contains(expected), "{text}: {found}");
        assert!(!found.contains("hunter") && !found.contains("99442"), "{text}: {found}");
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Jwt {
    secret: Secret,
    #[serde(default)]
    leeway: HumanDuration,
    #[serde(default)]
    checks: Vec<NoVowels>,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct NoVowels(#[allow(dead_code)] String);

impl TryFrom<String> for NoVowels {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.find(['a', 'e', 'i', 'o', 'u']) {
            Some(at) => Err(format!("there is a vowel in {}", text[at..].to_uppercase())),
            None => Ok(NoVowels(text)),
        }
    }
}

fn options() -> Path {
    Path::root().key("filters").key("auth").index(0).key("jwt")
}

#[test]
fn filters_read_their_options_with_the_same_care() {
    let sources = good("filters: {auth: [{jwt: {secrt: x, leeway: 5, checks: [b, a]}}, {jwt: }]}").1;
    let found: Vec<_> =
        sources.read::<Jwt>(&options()).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = [
        "g.yaml:1:25: filters.auth[0].jwt: unknown key `secrt` (did you mean `secret`?)",
        r#"g.yaml:1:43: filters.auth[0].jwt.leeway: 5 is not a duration (durations carry a unit, such as "5s")"#,
        "g.yaml:1:58: filters.auth[0].jwt.checks[1]: there is a vowel in A",
    ];
    assert_eq!(found, expected);
    let nothing = Path::root().key("filters").key("auth").index(1).key("jwt");
    let found: Vec<_> = sources.read::<Jwt>(&nothing).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("filters.auth[1].jwt: missing key `secret`"), "{found:?}");
    assert!(sources.read::<Limits>(&nothing).is_ok(), "nothing reads as an empty map");
}

#[test]
fn a_custom_error_that_would_tell_a_part_of_an_expanded_value_is_replaced() {
    let sources = good("filters: {auth: [{jwt: {secret: x, checks: ['${env:SECRET}']}}]}").1;
    let found = sources.read::<Jwt>(&options()).unwrap_err()[0].to_string();
    assert_eq!(found, "g.yaml:1:45: filters.auth[0].jwt.checks[0]: there is a vowel in ENV:SECRET}");
}

#[test]
fn the_effective_configuration_has_defaults_but_no_secrets() {
    let text = "\
admin: {token: hunter2}
threads: ${env:PORT}
routes:
  - match: {path: '${env:SECRET}'}
    respond: {body: 'b ${env:SECRET}'}
    filters: [{jwt: {secret: hunter2, leeway: 1s}}, {x: '${env:SECRET}'}]
upstreams:
  a: {endpoints: ['${env:SECRET}:1', b:2], idle_timeout: '${env:NONE:-5s}'}
filters: {auth: [{jwt: {secret: hunter2}}]}
";
    let (config, sources) = good(text);
    assert!(sources.read::<Jwt>(&options()).is_ok());
    assert!(
        sources.read::<Jwt>(&Path::root().key("routes").index(0).key("filters").index(0).key("jwt")).is_ok()
    );
    let json = sources.effective(&config).value();
    assert_eq!(json["admin"]["token"], "[redacted]");
    assert_eq!(json["threads"], "${env:PORT}");
    assert_eq!(json["routes"][0]["match"]["path"], "${env:SECRET}");
    assert_eq!(
        json["routes"][0]["respond"],
        json!({"status": 200, "body": "b ${env:SECRET}", "headers": {}})
    );
    assert_eq!(json["routes"][0]["filters"][0], json!({"jwt": {"secret": "[redacted]", "leeway": "1s"}}));
    assert_eq!(json["routes"][0]["filters"][1], json!({"x": "${env:SECRET}"}));
    assert_eq!(
        json["upstreams"]["a"]["endpoints"],
        json!(["${env:SECRET}:1", {"address": "b:2", "weight": 1}])
    );
    assert_eq!(json["upstreams"]["a"]["idle_timeout"], "${env:NONE:-5s}");
    assert_eq!(json["upstreams"]["a"]["connect_timeout"], "1s");
    for shown in [json.to_string(), format!("{:?}", config.filters), format!("{sources:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn the_effective_configuration_can_be_read_again() {
    let (config, sources) = good(
        "upstreams: {a: {endpoints: [b:1], balancer: {hash: {header: x}}, health_check: {http: {expect: [200, 300-399]}}}}",
    );
    let again = good(&sources.effective(&config).value().to_string());
    assert_eq!(again.1.effective(&again.0).value(), sources.effective(&config).value());
}

#[test]
fn the_hash_follows_the_meaning() {
    let hash = |text: &str| good(text).1.hash();
    let same = hash("threads: 3000\nlog: {level: info, format: json}\n");
    assert_eq!(hash("# why\nlog:\n  format: \"json\"\n  level: 'info'\nthreads: 0xBB8\n"), same);
    assert_ne!(hash("threads: 3001\nlog: {level: info, format: json}\n"), same);
    assert_ne!(hash("threads: 3000\nlog: {level: info}\n"), same);
    assert_ne!(
        hash("routes: [{upstream: a}, {upstream: b}]"),
        hash("routes: [{upstream: b}, {upstream: a}]")
    );
    assert_ne!(hash("routes: [{upstream: '1'}]"), hash("routes: [{upstream: '2'}]"));
}

#[test]
fn problems_from_elsewhere_point_at_the_nearest_that_exists() {
    let sources = good("routes:\n  - upstream: a\nupstreams:\n  b:\n    endpoints: []\n").1;
    let at = |path: &Path| sources.problem(path, "wrong").hint("right").to_string();
    let route = Path::root().key("routes").index(0);
    assert_eq!(at(&route.key("upstream")), "g.yaml:2:15: routes[0].upstream: wrong (right)");
    assert_eq!(at(&route.key("split").key("to")), "g.yaml:2:5: routes[0].split.to: wrong (right)");
    assert_eq!(at(&Path::root().key("upstreams").key("b")), "g.yaml:4:3: upstreams.b: wrong (right)");
    assert_eq!(at(&Path::root().key("none")), "g.yaml:1:1: none: wrong (right)");
}

#[test]
fn json_is_read_as_a_file_is() {
    let json = "{\n\t\"routes\": [\r\n\t\t{\"upstream\":\"a\\/b \\u00e9 \\ud83d\\ude00\",\"name\":null}\n\t],\n\t\"threads\":2\n}\n";
    let (config, _) = good(json);
    assert_eq!(config.routes[0].upstream.as_deref(), Some("a/b é 😀"));
    assert_eq!(
        problems("{\n\t\"routes\": [\n\t\t{\"upstrem\": \"a\"}\n\t]\n}"),
        ["g.yaml:3:4: routes[0]: unknown key `upstrem` (did you mean `upstream`?)"]
    );
}

fn from(origin: Origin, value: serde_json::Value) -> Vec<String> {
    from_value(value, origin).and_then(sound).err().into_iter().flatten().map(|p| p.to_string()).collect()
}

#[test]
fn what_another_origin_says_means_the_same_as_in_a_file() {
    let value = json!({
        "threads": 2,
        "log": {"access": {"sample": 0.5}},
        "routes": [{"upstream": "a", "name": null}, {"respond": {"status": 404, "body": "$${x}"}}],
        "upstreams": {"a": {"endpoints": ["127.0.0.1:3000"], "original_destination": false}},
    });
    let (from_text, text) = good(&value.to_string());
    let (config, sources) = from_value(value, Origin::Registry).and_then(sound).unwrap();
    assert_eq!(sources.effective(&config), text.effective(&from_text));
    assert_eq!(sources.hash(), text.hash());
    assert_eq!(sources.full_path(&Path::root().key("routes"), "a.pem"), FilePath::new("a.pem"));
    assert!(sources.files().is_empty());
}

#[test]
fn a_space_that_is_none_of_yaml_is_no_indentation() {
    for space in ["\u{a0}", "\u{3000}", "\u{2003}"] {
        let found = problems(&format!("listeners:\n{space}- address: x\n   routes: 1\n"));
        assert!(!found.is_empty(), "{space:?}");
    }
}

#[test]
fn problems_of_another_origin_name_it_and_no_line() {
    let wrong = json!({
        "upstreams": {"a": {"endpoints": [5, 6]}},
        "routes": [{"upstrem": "a"}, {"upstream": "${env:TOKEN}"}, {"${x}": 1}],
        "log": {"level": "infoo"},
        "include": ["a.yaml"],
        "threads": 1.5,
    });
    // In the order of keys that serde_json's maps have.
    let expected = [
        "include[0]: files cannot be included here (write it all in one)",
        "log.level: unknown value \"infoo\" (did you mean \"info\"?)",
        "routes[0]: unknown key `upstrem` (did you mean `upstream`?)",
        "routes[1].upstream: `${env:TOKEN}` is not expanded here (only this machine's own files name its \
         variables and files; write `$${` for a literal `${`)",
        "routes[2]: `${x}`: names are not expanded, only values are",
        "threads: expected a whole number, 1 or more, found the number 1.5",
        "upstreams.a.endpoints[0]: expected an address as a string, or a map with `address`, `srv` or `registry`, found the \
         number 5 (quote it)",
        "upstreams.a.endpoints[1]: expected an address as a string, or a map with `address`, `srv` or `registry`, found the \
         number 6 (quote it)",
    ];
    for (origin, name) in
        [(Origin::Registry, "registry"), (Origin::Xds, "xds"), (Origin::Plugin("geo".into()), "plugin geo")]
    {
        assert_eq!(from(origin, wrong.clone()), expected.map(|expected| format!("{name}: {expected}")));
    }
}

#[test]
fn another_origin_can_say_nothing_too_much_and_something_else() {
    let problem = |value| from(Origin::Xds, value).concat();
    let reads = json!({"routes": [{"redirect": {"to": "/{env.TOKEN}"}}]});
    assert!(problem(reads).contains("routes[0].redirect.to: `{env.NAME}` is not filled in here"));
    assert!(problem(json!(null)).starts_with("xds: is empty (the smallest"));
    assert!(problem(json!(5)).starts_with("xds: expected a map, found the number 5 ("));
    let deep = (0..100).fold(json!({}), |inner, _| json!({"a": inner}));
    assert!(problem(deep).ends_with(".a: is nested deeper than 64 levels"));
}

#[test]
fn includes_are_merged_in_order() {
    let files = Files::new(&[
        ("g.yaml", "include: [d/*.yaml, x.yaml]\nroutes: [{upstream: a}]\nupstreams: {a: {}}\n"),
        ("x.yaml", "routes: [{upstream: x}]\nlog: {level: warn}\n"),
        ("d/2.yaml", "# all commented out\n"),
        ("d/1.yaml", "include: [e/*.yaml, none/*.yaml]\nroutes: [{upstream: b}]\nupstreams: {b: {}}\n"),
        ("d/.hidden.yaml", "nonsense"),
        ("d/e/3.yaml", "admin:\n  token: ${file:token}\nroutes: [{upstream: c}]\n"),
        ("d/e/token", "hunter2\n"),
    ]);
    let (config, sources) = files.load().unwrap_or_else(|problems| panic!("{problems}"));
    let upstreams: Vec<_> = config.routes.iter().filter_map(|route| route.upstream.as_deref()).collect();
    assert_eq!(upstreams, ["a", "b", "c", "x"]);
    assert_eq!(config.upstreams.keys().collect::<Vec<_>>(), ["a", "b"]);
    let Admin::On(AdminListener { token: Some(token), .. }) = &config.admin else {
        panic!("admin has a token")
    };
    assert_eq!(token.expose(), "hunter2");
    let root = files.0.path();
    let read: Vec<_> =
        sources.files().iter().map(|file| file.strip_prefix(root).unwrap().to_owned()).collect();
    assert_eq!(
        read,
        ["d/*", "d/1.yaml", "d/2.yaml", "d/e/*", "d/e/3.yaml", "d/e/token", "d/none/*", "g.yaml", "x.yaml"]
            .map(FilePath::new)
    );
    assert_eq!(sources.directory_of(&Path::root().key("routes").index(2)), root.join("d/e"));
    let problem = sources.problem(&Path::root().key("routes").index(2).key("upstream"), "wrong").to_string();
    assert!(problem.ends_with("d/e/3.yaml:3:21: routes[2].upstream: wrong"), "{problem}");
}

#[test]
fn what_two_files_say_is_refused_naming_both() {
    let files = Files::new(&[
        ("g.yaml", "include: [a.yaml]\nwatch: true\nupstreams:\n  u: {}\n"),
        ("a.yaml", "watch: false\nupstreams:\n  u: {}\nroutes: 5\nlisteners: {}\n"),
    ]);
    let expected = [
        "a.yaml:1:1: `watch` is already set at g.yaml:2:1 (set it in one file only)",
        "a.yaml:3:3: upstreams: `u` already stands at g.yaml:4:3; names are unique",
        "a.yaml:4:9: routes: expected a list, found the number 5",
        "a.yaml:5:12: listeners: expected a list, found a map",
    ];
    assert_eq!(files.problems(), expected);
}

#[test]
fn files_that_cannot_be_read_are_told_with_those_that_can() {
    let files = Files::new(&[
        (
            "g.yaml",
            "include: [b.yaml, none.yaml, bad.yaml, latin.yaml, '[', d]\nadmin:\n  token: ${file:none}\nwatch: 1\n",
        ),
        ("b.yaml", "include: [c.yaml]\n"),
        ("c.yaml", "include: [b.yaml, c.yaml]\n"),
        ("bad.yaml", "a: [\n"),
        ("d/x", ""),
    ]);
    fs::write(files.0.path().join("latin.yaml"), b"a: 1\nb: \xE9\n").unwrap();
    let found = files.problems();
    let expected = [
        "g.yaml:1:19: include[1]: cannot read none.yaml: there is no such file (relative paths are relative to the file they stand in)",
        "g.yaml:1:52: include[4]: \"[\" is not a pattern: ",
        "g.yaml:1:57: include[5]: cannot read d: it is a directory",
        "g.yaml:3:10: admin.token: cannot read none: there is no such file (`${file:none}` is relative to the file it stands in)",
        "g.yaml:4:8: watch: expected true or false, found the number 1",
        "c.yaml:1:11: include[0]: a file includes itself: b.yaml -> c.yaml -> b.yaml",
        "c.yaml:1:19: include[1]: a file includes itself: c.yaml -> c.yaml",
        "bad.yaml:2:1: malformed YAML: ",
        "latin.yaml:2:4: is not UTF-8 text",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    let gone = load_with(&files.0.path().join("gone.yaml"), &Additions::default(), &environment)
        .unwrap_err()
        .to_string();
    assert!(
        gone.starts_with("cannot read /") && gone.ends_with("gone.yaml: there is no such file"),
        "{gone}"
    );
}

#[test]
fn a_mistake_behind_an_anchor_is_told_once() {
    let found = problems("upstreams:\n  a: &a {connect_timeout: 1}\n  b: *a\n  c: {<<: *a}\n");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn ten_thousand_routes_are_read() {
    let mut text = String::from("upstreams:\n");
    for n in 0..10_000 {
        text.push_str(&format!("  u{n}:\n    endpoints: [10.0.0.1:80]\n"));
    }
    text.push_str("routes:\n");
    for n in 0..10_000 {
        text.push_str(&format!(
            "  - name: r{n}\n    match: {{hosts: [h{n}.example.com], path: /v1/{n}}}\n    filters: [{{cors: {{max_age: 5m}}}}]\n    upstream: u{n}\n"
        ));
    }
    let (config, sources) = good(&text);
    assert_eq!((config.routes.len(), config.upstreams.len()), (10_000, 10_000));
    let last = Path::root().key("upstreams").key("u9999");
    assert!(sources.problem(&last, "x").to_string().starts_with("g.yaml:20000:3: "));
}

proptest! {
    #[test]
    fn never_panics_on_any_text(text in "\\PC*") {
        let _ = read(&text);
    }

    #[test]
    fn never_panics_on_what_resembles_yaml(
        parts in prop::collection::vec(prop::sample::select(vec![
            "a", "routes", "listeners", "upstreams", "filters", "match", "path", "admin", ":", ": ", "- ", "\n",
            "\n  ", "\n    ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: ", "'", "\"", "|\n", ">", "#", "!", "!!str ",
            "${env:PORT}", "${", "}", "~", "1", "1.5", "5s", "true", "---", "...", "%YAML 1.2", "\t", "\r\n", "? ",
            "\u{feff}", "é", "\0", "\\", "@", "`",
        ]), 0..60),
    ) {
        let _ = read(&parts.concat());
    }
}

#[test]
fn nothing_is_shown_of_an_included_file_that_is_no_configuration() {
    let hash = "$6$salt$hunter2";
    for text in [
        format!("root:{hash}:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"),
        format!("password: {hash}\n{hash}: 1\n"),
        format!("- {hash}\n"),
        "hunter2: ${env:HOME}\nhunter2: 1\n".to_owned(),
    ] {
        let files = Files::new(&[("g.yaml", "include: [shadow]\nroutes: 5\n"), ("shadow", &text)]);
        let found = files.problems();
        assert!(
            found.iter().any(|problem| problem.starts_with("shadow: this is no configuration")),
            "{found:?}"
        );
        assert!(!found.concat().contains("hunter2"), "{found:?}");
    }
    // A slip in one that is ours is shown as ever, and cut short.
    let long = "x".repeat(500);
    let text = format!("rotes: []\n{long}: 1\n");
    let files = Files::new(&[("g.yaml", "include: [a.yaml]\n"), ("a.yaml", &text)]);
    let found = files.problems();
    assert_eq!(found[0], "a.yaml:1:1: unknown key `rotes` (did you mean `routes`?)");
    assert!(found[1].contains("xxx...`") && found[1].len() < 500, "{found:?}");
}

#[test]
fn secrets_in_fields_that_are_not_secrets_by_their_type_are_hidden_and_told() {
    let (config, sources) = good(
        "routes:\n\
         - match: {headers: {x-api-key: hunter2, x-version: '2', authorization: {regex: hunter2}}, query: {token: hunter2}}\n\
         \x20 filters:\n\
         \x20 - headers: {request: {set: {Authorization: Bearer hunter2, x-a: a, x-token: '${env:SECRET}'}}}\n\
         \x20 - ext_auth: {url: 'https://auth/check?api_key=hunter2&v=1'}\n\
         upstreams: {u: {endpoints: [], health_check: {http: {path: '/up?token=hunter2', headers: {cookie: hunter2}}}}}\n",
    );
    let shown = sources.effective(&config).value();
    let text = shown.to_string();
    assert!(!text.contains("hunter2") && text.contains("${env:SECRET}"), "{text}");
    assert_eq!(shown["routes"][0]["match"]["headers"]["x-api-key"], "[redacted]");
    assert!(
        text.contains("https://auth/check?api_key=[redacted]&v=1") && text.contains("x-version"),
        "{text}"
    );
    let told: Vec<String> = sources.literal_secrets().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told.iter().any(|at| at.ends_with("request.set.Authorization")), "{told:?}");
}

#[test]
fn fields_of_a_line_or_of_a_request_that_are_filled_in_are_no_secrets() {
    let (_, sources) = good(
        "log: {access: {fields: {add: {auth: '{header.x-auth}', token: '{claim.jti}', x-secret: hunter2}}}}\n\
         routes:\n\
         - filters: [{headers: {request: {set: {authorization: 'Bearer {cookie.session}', x-api-key: 'k-{host}'}}}}]\n",
    );
    let told: Vec<String> = sources.literal_secrets().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["log.access.fields.add.x-secret", "routes[0].filters[0].headers.request.set.x-api-key"]
    );
}

#[test]
fn what_is_put_in_a_field_s_place_is_a_secret_but_where_it_is_made_of_what_was_there() {
    let replaced = |replacement: &str| {
        let (_, sources) = good(&format!(
            "routes: [{{filters: [{{headers: {{request: {{replace: {{authorization: {{pattern: '^Basic (.*)', replacement: '{replacement}'}}}}}}}}}}]}}]\n",
        ));
        sources.literal_secrets().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let place = "routes[0].filters[0].headers.request.replace.authorization.replacement";
    assert_eq!(replaced("Bearer hunter2"), [place]);
    assert!(replaced("Bearer $1").is_empty());
}

#[test]
fn what_a_collector_is_sent_is_a_secret_unless_it_comes_from_elsewhere() {
    let (config, sources) = good(
        "tracing: {otlp: {endpoint: 'https://here', headers: {x-tenant: hunter2, a: '${env:SECRET}', \
         b: 'Bearer ${env:SECRET}', c: '${env:NONE:-x}'}}}\n",
    );
    let told: Vec<String> = sources.literal_secrets().iter().map(ToString::to_string).collect();
    assert_eq!(told, ["tracing.otlp.headers.x-tenant"]);
    assert!(!sources.effective(&config).value().to_string().contains("hunter2"));
}

/// What PyYAML, Ansible and Helm make of `off` and `on`.
#[test]
fn booleans_are_read_where_off_and_on_stand() {
    let text = |off: &str, on: &str| {
        format!(
            "log: {{level: {off}, access: {{to: {off}}}}}\nlimits: {{memory: {off}}}\n\
             forwarded: {{client_cert: {off}, via: {on}}}\ntracing: {{respond: {off}, sample: {{at_most: {off}}}}}\n\
             listeners: [{{address: '127.0.0.1:1', proxy_protocol: {off}, limits: {{min_rate: {off}}}}}]\n\
             routes: [{{upstream: u, trace: {off}}}]\n\
             upstreams: {{u: {{endpoints: ['127.0.0.1:2'], proxy_protocol: {off}, outlier: {off}}}}}\n"
        )
    };
    let shown = |text: &str| serde_json::to_value(good(text).0).unwrap();
    let expected = shown(&text("off", "on"));
    assert_eq!(shown(&text("false", "true")), expected);
    assert_eq!((&expected["forwarded"]["via"], &expected["log"]["level"]), (&json!("on"), &json!("off")));
    // Where no such word is known, a boolean is as wrong as ever.
    for (wrong, place) in [
        ("tracing: {sample: {at_most: true}}", "tracing.sample.at_most"),
        ("limits: {memory: true}", "limits.memory"),
        ("log: {access: {to: true}}", "log.access.to"),
        ("log: {format: false}", "log.format"),
        ("shutdown: {grace: false}", "shutdown.grace"),
    ] {
        let problems = problems(wrong);
        assert!(problems.iter().any(|problem| problem.contains(place)), "{wrong}: {problems:?}");
    }
}
