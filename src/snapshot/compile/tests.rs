//! Problems with the form and problems with the meaning in one list, and none that only follows from another.

use serde_json::{Value, json};

use super::*;
use crate::config::{Origin, from_value, parse};

fn problems(text: &str) -> Vec<String> {
    match parse(text, "g.yaml").and_then(|loaded| compile(loaded, &crate::filter::Live::offline())) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(|problem| problem.message().to_owned()).collect(),
    }
}

/// Whether `text`, completed by what it does not mention of a configuration, has the problems whose messages begin so.
fn check(text: &str, expected: &[&str]) -> Result<(), String> {
    let mut whole = text.to_owned();
    for (key, rest) in [
        ("listeners:", "listeners: [{address: '127.0.0.1:8000'}]\n"),
        ("routes:", "routes: [{upstream: users}]\n"),
        ("upstreams:", "upstreams: {users: {endpoints: ['127.0.0.1:3000']}}\n"),
    ] {
        if !text.contains(key) {
            whole.push_str(rest);
        }
    }
    let found = problems(&whole);
    let is_expected = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    if is_expected { Ok(()) } else { Err(format!("{whole}found {found:#?}\nexpected {expected:#?}")) }
}

#[test]
fn what_follows_from_a_problem_with_the_form_is_not_told() {
    let table = [
        ("upstreams: {users: {endpoints: 5}}\n", "expected a list"),
        ("upstreams: {users: {endpoint: ['127.0.0.1:3000']}}\n", "unknown key `endpoint`"),
        ("upstreams: {users: {servers: ['127.0.0.1:3000']}}\n", "unknown key `servers`"),
        ("upstreams: {users: {endpoints: [5]}}\n", "expected an address as a string"),
        ("upstreams: {users: 5}\n", "expected a map"),
        ("upstreams: [users]\n", "expected a map"),
        ("upstreams: {users: {endpoints: ['a:1'], health_check: {http: 5}}}\n", "expected a map"),
        ("upstream: {users: {endpoints: ['a:1']}}\n# upstreams:\n", "unknown key `upstream`"),
        ("upstreams: {}\nupstreams: {users: {endpoints: ['a:1']}}\n", "duplicate key `upstreams`"),
        ("upstreams: {'${env:X}': {endpoints: ['a:1']}}\n", "`${env:X}`: names are not expanded"),
        ("routes: [{upstream: 5}]\n", "expected a string"),
        ("routes: [{upstrem: users}]\n", "unknown key `upstrem`"),
        ("routes: [{redirect: {status: 301}}]\n", "give exactly one of `to` and `replace_prefix`"),
        ("routes: [users]\n", "expected a map"),
        (
            "routes: [{match: {path: 5}, upstream: users}, {match: {path: /b}, upstream: users}]\n",
            "expected a path",
        ),
        (
            "routes: [{mach: {path: /a}, upstream: users}, {match: {path: /b}, upstream: users}]\n",
            "unknown key `mach`",
        ),
        ("routes: [{upstream: users, filters: [auth]}]\nfilters: {auth: 5}\n", "expected a list"),
        (
            "routes: [{upstream: users, filters: [auth]}]\nfilters: {auth: [5]}\n",
            "expected the name of a chain",
        ),
        ("routes: [{upstream: users, filters: [auth]}]\nfilter: {auth: []}\n", "unknown key `filter`"),
        (
            "listeners: [{address: '127.0.0.1:80', routes: [a]}]\nroutes: [{name: 5, upstream: users}]\n",
            "expected a string",
        ),
        (
            "listeners: [{address: '127.0.0.1:80', routes: [a]}]\nroutes: [{nam: a, upstream: users}]\n",
            "unknown key `nam`",
        ),
        ("listeners: [{adress: '127.0.0.1:80'}]\n", "unknown key `adress`"),
        ("listeners: 5\n", "expected a list"),
        ("lisners: []\n# listeners:\n", "unknown key `lisners`"),
        ("admin: {address: '0.0.0.0:1', token: '${env:TIDEGATE_UNSET}'}\n", "the environment variable"),
        ("admin: {address: '0.0.0.0:1', tokn: a}\n", "unknown key `tokn`"),
        ("admin: {address: 5}\nlisteners: [{address: '127.0.0.1:9901'}]\n", "expected a string"),
        ("include: more.yaml\n# routes: listeners:\n", "expected a list"),
        ("include: [more.yaml]\nroutes: [{upstream: more}]\n", "files cannot be included here"),
    ];
    let wrong: Vec<_> = table.iter().filter_map(|(text, expected)| check(text, &[expected]).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_does_not_follow_is_told_all_the_same() {
    let table = [
        ("watc: true\nupstreams: {}\n", vec!["unknown key `watc`", "this route names upstream `users`"]),
        ("log: {level: 5}\nlisteners:\n", vec!["no listeners", "expected one of"]),
        ("upstreams: {users: {connect_timeout: 5}}\n", vec!["no endpoints", "5 is not a duration"]),
        (
            "upstreams: {users: {endpoint: 5, endpoints: ['a']}}\n",
            vec!["unknown key `endpoint`", "\"a\" has no port"],
        ),
        ("upstreams: {users: {endpoints: [5, 'a']}}\n", vec!["expected an address", "\"a\" has no port"]),
        (
            "routes: [{upstream: users, respond: {status: x}}]\n",
            vec!["a route has exactly one of", "expected a whole number"],
        ),
        (
            "routes: [{upstream: users, name: 5}, {upstream: users}, {upstream: users}]\n",
            vec!["expected a string", "this route can never match", "this route can never match"],
        ),
        (
            "routes: [{upstream: users, filters: [{nope: {a: '${env:TIDEGATE_UNSET}'}}]}]\n",
            vec!["unknown filter `nope`", "the environment variable"],
        ),
        (
            "routes: [{upstream: users, filters: [{rewrite: {strip: 1}}], match: {methods: [1]}}]\n",
            vec!["unknown key `strip`", "expected a string"],
        ),
    ];
    let wrong: Vec<_> = table.iter().filter_map(|(text, expected)| check(text, expected).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn indexes_count_what_was_left_out() {
    let text = "listeners: [{address: ':1'}]\nroutes:\n  - 5\n  - upstream: nobody\n    match: {hosts: [1, 'a b']}\n";
    let problems = parse(text, "g.yaml")
        .and_then(|loaded| compile(loaded, &crate::filter::Live::offline()))
        .err()
        .unwrap()
        .to_string();
    let lines: Vec<_> = problems.lines().map(|line| line.split(' ').take(2).collect::<String>()).collect();
    let expected = [
        "g.yaml:3:5:routes[0]:",
        "g.yaml:4:15:routes[1].upstream:",
        "g.yaml:5:21:routes[1].match.hosts[0]:",
        "g.yaml:5:24:routes[1].match.hosts[1]:",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_could_be_read_of_a_wrong_configuration_is_never_a_plan() {
    let text = "watch: yes\nlisteners: [{address: ':1'}]\nroutes: [{respond: {}}]\n";
    let loaded = parse(text, "g.yaml").unwrap();
    assert!(loaded.config().is_err());
    let of_form = loaded.problems().clone();
    assert_eq!(compile(loaded, &crate::filter::Live::offline()).err().unwrap(), of_form);
}

fn said_by(origin: Origin, value: Value) -> Vec<String> {
    match from_value(value, origin).and_then(|loaded| compile(loaded, &crate::filter::Live::offline())) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn what_a_registry_xds_or_a_plugin_says_is_compiled_as_a_file_is() {
    let listeners = json!([{"address": "127.0.0.1:8000"}]);
    let upstreams = json!({"users": {"endpoints": ["127.0.0.1:3000"]}});
    let route = json!({"upstream": "users", "filters": [{"rewrite": {"strip_prefix": "/a"}}]});
    let good = json!({"listeners": listeners, "upstreams": upstreams, "routes": [route]});
    let bad = json!({
        "listeners": listeners,
        "upstreams": {"users": {"endpoints": ["127.0.0.1"], "conect_timeout": "1s"}},
        "routes": [
            {"name": "a", "upstream": "usrs"},
            {"name": "a", "upstream": "users", "filters": [{"rewrite": {"strip_prefx": "/a"}}]},
        ],
    });
    let expected = [
        "routes[0].upstream: route `a` names upstream `usrs`, which does not exist (did you mean `users`?)",
        // Where there is no line, a place that another problem refers to is named by its path.
        "routes[1]: this route can never match (the one at ORIGIN: routes[0] always matches first)",
        "routes[1].filters[0].rewrite: unknown key `strip_prefx` (did you mean `strip_prefix`?)",
        "routes[1].name: a route named `a` exists already (the first is at ORIGIN: routes[0]; names are unique)",
        "upstreams.users: unknown key `conect_timeout` (did you mean `connect_timeout`?)",
        "upstreams.users.endpoints[0].address: \"127.0.0.1\" has no port (try \"127.0.0.1:8080\")",
    ];
    for (origin, name) in
        [(Origin::Registry, "registry"), (Origin::Xds, "xds"), (Origin::Plugin("geo".into()), "plugin geo")]
    {
        assert_eq!(said_by(origin.clone(), good.clone()), [""; 0]);
        let expected = expected.map(|line| format!("{name}: {}", line.replace("ORIGIN", name)));
        assert_eq!(said_by(origin, bad.clone()), expected);
    }
}

fn warnings(text: &str) -> Vec<String> {
    let loaded = parse(text, "g.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    let plan =
        compile(loaded, &crate::filter::Live::offline()).unwrap_or_else(|problems| panic!("{problems}"));
    plan.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn routes_of_listeners_that_share_none_may_have_the_same_match() {
    let routes = "routes: [{name: pub, upstream: users}, {name: priv, upstream: users}]\n";
    let listeners = |one: &str, other: &str| {
        format!(
            "listeners: [{{address: '127.0.0.1:1', routes: {one}}}, {{address: '127.0.0.1:2', routes: {other}}}]\n{routes}"
        )
    };
    check(&listeners("[pub]", "[priv]"), &[]).unwrap();
    check(&listeners("[pub]", "[pub, priv]"), &["this route can never match"]).unwrap();
    let all = format!(
        "listeners: [{{address: '127.0.0.1:1', routes: [pub]}}, {{address: '127.0.0.1:2'}}]\n{routes}"
    );
    check(&all, &["this route can never match"]).unwrap();
}

/// It may be a secret, or a file that its reader may not see.
#[test]
fn what_a_variable_stands_for_is_told_nowhere() {
    let value = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let variable = "${env:CARGO_MANIFEST_DIR}";
    for wrong in [
        format!("upstreams: {{u: {{endpoints: ['{variable}']}}}}"),
        format!("upstreams: {{u: {{endpoints: [{{address: '{variable}'}}]}}}}"),
        format!("upstreams: {{u: {{endpoints: ['a:1'], health_check: {{http: {{path: 'x{variable}'}}}}}}}}"),
        format!("routes: [{{match: {{path: {{regex: '({variable}'}}}}, respond: {{}}}}]"),
        format!("routes: [{{match: {{path: {{template: '{variable}/{{a'}}}}, respond: {{}}}}]"),
        format!("routes: [{{match: {{headers: {{x-key: {{regex: '({variable}'}}}}}}, respond: {{}}}}]"),
    ] {
        let text = format!("listeners: [{{address: '127.0.0.1:0'}}]\n{wrong}\n");
        let found =
            parse(&text, "g.yaml").and_then(|loaded| compile(loaded, &crate::filter::Live::offline()));
        let Err(problems) = found else { panic!("{wrong} is fine") };
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(!told.concat().contains(&value), "{told:?}");
        assert!(told.iter().any(|told| told.contains(variable)), "{told:?}");
    }
}

#[test]
fn kept_slashes_beside_a_filter_of_a_variant_that_goes_by_the_path_are_warned_of() {
    let told = |filter: &str| {
        warnings(&format!(
            "listeners: [{{address: '127.0.0.1:1'}}]\nupstreams: {{u: {{endpoints: ['127.0.0.1:9']}}}}\nroutes:\n\
             - {{paths: {{encoded_slashes: keep}}, split: {{to: [{{upstream: u, filters: [{filter}]}}]}}}}\n"
        ))
    };
    let bound = told("{ip_rules: {allow: ['10.0.0.0/8']}, when: {path: /admin}}");
    assert!(bound.iter().any(|told| told.contains("`ip_rules` beside them is bound to a path")), "{bound:?}");
    let free = told("{ip_rules: {allow: ['10.0.0.0/8']}}");
    assert!(free.iter().all(|told| !told.contains("encoded slashes")), "{free:?}");
}

#[test]
fn a_long_quote_is_cut() {
    let long = "(".repeat(5000);
    let text = format!("routes: [{{match: {{path: {{regex: '{long}'}}}}, respond: {{}}}}]\n");
    let found = problems(&format!("listeners: [{{address: '127.0.0.1:0'}}]\n{text}"));
    assert!(found.iter().any(|told| told.contains("unclosed group")), "{found:?}");
    assert!(found.iter().all(|told| told.len() < 2100), "{found:?}");
}

#[test]
fn a_guard_for_some_methods_beside_a_wider_route_without_it_is_warned_of() {
    let routes = |guarded: &str, wider: &str| {
        warnings(&format!(
            "listeners: [{{address: '127.0.0.1:1'}}]\nupstreams: {{u: {{endpoints: ['127.0.0.1:9']}}}}\nroutes:\n\
             - {{name: guarded, match: {{{guarded}}}, filters: [{{ip_rules: {{allow: ['10.0.0.0/8']}}}}], upstream: u}}\n\
             - {{name: wider, {wider}, upstream: u}}\n"
        ))
    };
    let told = routes("path: /users, methods: [POST]", "match: {path: /}");
    let [only] = told.as_slice() else { panic!("{told:?}") };
    assert!(
        only.starts_with(
            "g.yaml:4:50: routes[0].match.methods: GET and other methods pass by route `guarded`"
        ) && only.contains("take `wider`, which lacks `ip_rules`"),
        "{only}"
    );
    for template in ["{template: '/u/{id}/{*rest}'}", "{exact: /users}"] {
        assert_eq!(
            routes(&format!("path: {template}, hosts: ['*.a.example'], methods: [PUT, GET]"), "match: {}")
                .len(),
            1
        );
    }
    // An expression has a path that leads elsewhere as well, and so has a wider route that is one.
    for (guarded, wider) in [
        ("path: {regex: '^/users/\\d+$'}, methods: [POST]", "match: {path: /users}"),
        ("path: {regex: '\\.php$'}, methods: [GET, PUT]", "match: {}"),
        ("path: {template: '/u/{id}'}, methods: [POST]", "match: {path: {regex: '^/u/\\d+$'}}"),
        ("path: /users, methods: [POST]", "match: {path: /users/x}, filters: [{cors: {origins: ['*']}}]"),
    ] {
        let told = routes(guarded, wider);
        // A longer prefix goes first whatever the method, so that it is the operator's to see.
        let expected = usize::from(!wider.contains("/users/x"));
        assert_eq!(told.len(), expected, "{guarded} beside {wider}: {told:?}");
    }
    // All methods are guarded; the others are guarded as well; they are named; they go nowhere.
    for (guarded, wider) in [
        ("path: /users", "match: {path: /}"),
        ("path: /users, methods: [POST]", "filters: [{ip_rules: {allow: ['10.0.0.0/8']}}]"),
        ("path: /users, methods: [POST]", "match: {path: /users, methods: [GET, PUT, PATCH, DELETE]}"),
        ("path: /users, methods: [POST]", "match: {path: /other}"),
        ("path: {regex: '^/users/\\d+$'}, methods: [POST]", "match: {path: /other}"),
        ("path: {regex: '^/users/\\d+$'}", "match: {path: /users}"),
    ] {
        assert!(routes(guarded, wider).is_empty(), "{guarded} beside {wider}");
    }
}

#[test]
fn whoever_asks_for_svids_shows_its_own() {
    let tls = "listeners: [{address: '127.0.0.1:1', tls: {client_auth: {mode: require, trust: spiffe}}}]\n";
    check(tls, &["this gateway has no identity"]).unwrap();
    let plain = "listeners: [{address: '127.0.0.1:1', tls: {}}]\n";
    check(plain, &["a TLS listener needs a certificate"]).unwrap();
}

#[test]
fn an_access_log_that_would_not_say_what_was_meant_is_refused() {
    for (access, expected) in [
        (
            "fields: {add: {t: '{clam.tenant}'}}",
            "unknown placeholder `{clam.tenant}` (did you mean `{claim.tenant}`?)",
        ),
        ("fields: {add: {status: '{host}'}}", "stands in each line already"),
        ("fields: {add: {'a b': '{host}'}}", "is not a field's name"),
        ("fields: {drop: [user_agnet]}", "`user_agnet` is no field that can be left out"),
        ("fields: {drop: [ts]}", "`ts` is no field that can be left out"),
        ("template: '{statsu}'", "unknown placeholder `{statsu}` (did you mean `{status}`?)"),
        ("template: '{status'", "there is a brace without its partner"),
        ("template: \"{status}\\n\"", "holds a character that ends the line"),
        ("template: '{status}', format: json", "says all of a line"),
        ("when: {}", "an empty condition matches every request"),
        ("when: {reason: [overloded]}", "`overloded` is no reason of the gateway's"),
        ("when: {status: 6xx}", "\"6xx\" is not a status"),
        ("when: {methods: [get]}", "methods are upper case"),
        ("to: {syslog: {address: 'udp://127.0.0.1:514', app_name: 'a b'}}", "`app_name` is not 1 to 48"),
    ] {
        check(&format!("log: {{access: {{{access}}}}}\n"), &[expected]).unwrap();
    }
    check(
        "log: {access: {fields: {drop: [status], add: {status: '{method}'}}, when: {status: [5xx, 404]}}}\n",
        &[],
    )
    .unwrap();
}

#[test]
fn a_secret_that_a_line_would_not_show_is_warned_of() {
    let log =
        "log: {redact: [x-key], access: {fields: {add: {a: '{header.x-key}', b: '{header.x-other}'}}}}\n";
    let rest = "listeners: [{address: '127.0.0.1:8000'}]\nroutes: [{upstream: u}]\nupstreams: {u: {endpoints: ['127.0.0.1:3000']}}\n";
    let found = warnings(&format!("{log}{rest}"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("log.access.fields.add.a: names a secret"), "{found:?}");
}

#[test]
fn what_no_filter_before_finds_out_is_refused() {
    let jwt =
        "{jwt: {keys: {secret: '${env:NOT_SET:-0123456789abcdef0123456789abcdef}'}, algorithms: [HS256]}}";
    let keys = "{api_key: {keys: [{name: a, hash: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}], from: {header: x-key}}}";
    let routes = |filters: &str| format!("routes: [{{upstream: users, filters: [{filters}]}}]\n");
    let (claims, user) = ("no filter before it reads a token", "no filter before it says who that is");
    for (filters, expected) in [
        ("{rate_limit: {rate: 1/s, key: user}}".to_owned(), user),
        ("{rate_limit: {rate: 1/s, key: [client_ip, {claim: sub}]}}".to_owned(), claims),
        ("{rate_limit: {rate: 1/s, key: '{claim.sub}'}}".to_owned(), claims),
        ("{rate_limit: {rate: {by: {claim: plan}, free: 1/s}}}".to_owned(), claims),
        ("{headers: {request: {set: {x-a: '{claim.sub}'}}}}".to_owned(), claims),
        ("{authz: {allow: [{claims: {role: admin}}]}}".to_owned(), claims),
        (format!("{{rate_limit: {{rate: 1/s, key: {{claim: sub}}}}}}, {jwt}"), claims),
        (format!("{jwt}, {{rate_limit: {{rate: 1/s, key: user}}}}"), user),
    ] {
        check(&routes(&filters), &[expected]).unwrap();
    }
    for filters in [
        format!(
            "{jwt}, {{rate_limit: {{rate: 1/s, key: {{claim: sub}}}}}}, {{authz: {{allow: [{{claims: {{role: admin}}}}]}}}}"
        ),
        format!("{keys}, {{rate_limit: {{rate: 1/s, key: user}}}}"),
        // It is filled in behind all filters.
        format!("{{headers: {{request: {{set: {{x-a: '{{claim.sub}}'}}}}}}}}, {jwt}"),
        "{rate_limit: {rate: 1/s, key: client_ip}}".to_owned(),
    ] {
        check(&routes(&filters), &[]).unwrap();
    }
    // A listener's chain goes before that of its routes, and a named one counts where it stands.
    let listener =
        format!("listeners: [{{address: '127.0.0.1:1', filters: [who]}}]\nfilters: {{who: [{jwt}]}}\n");
    check(&(listener + &routes("{rate_limit: {rate: 1/s, key: {claim: sub}}}")), &[]).unwrap();
}

#[test]
fn an_address_and_every_address_of_one_port_are_not_both_listened_on() {
    for (one, other, is_taken) in [
        ("127.0.0.1:8000", ":8000", true),
        (":8000", "127.0.0.1:8000", true),
        ("0.0.0.0:8000", "127.0.0.1:8000", true),
        ("[::]:8000", "0.0.0.0:8000", true),
        ("0.0.0.0:8000", "[::1]:8000", false),
        ("127.0.0.1:8000", "127.0.0.2:8000", false),
        ("127.0.0.1:8000", ":8001", false),
        (":0", "127.0.0.1:0", false),
    ] {
        let text = format!("listeners: [{{name: a, address: '{one}'}}, {{name: b, address: '{other}'}}]\n");
        let expected = format!("{other} is taken by `a`, which has {one}");
        let expected: &[&str] = if is_taken { &[&expected] } else { &[] };
        check(&text, expected).unwrap();
    }
    check("listeners: [{address: ':9901'}]\n", &[":9901 is taken by `admin`"]).unwrap();
}

#[test]
fn filters_on_a_route_are_led_to_its_chain() {
    let registry = crate::filter::Registry::built_in();
    for name in registry.names() {
        let text = format!("routes: [{{{name}: {{}}, upstream: users}}]\n");
        // Those that a route has by itself, and a header of its match.
        if matches!(name, "respond" | "redirect") {
            continue;
        }
        let problems = parse(&text, "g.yaml").map(|loaded| loaded.problems().to_string());
        let told = problems.unwrap_or_else(|problems| problems.to_string());
        assert!(told.contains(&format!("is a filter: `filters: [{{{name}: {{}}}}]`")), "{told}");
    }
}

#[test]
fn one_key_leads_orders_to_staging() {
    let directories = |account: &str| -> Vec<String> {
        let text = format!(
            "state_dir: state\nacme: {{default: {{{account}}}}}\nlisteners: [{{address: '127.0.0.1:1', tls: {{acme: {{names: [a.example.com]}}}}}}]\n\
             routes: [{{respond: {{}}}}]\n"
        );
        let loaded = parse(&text, "g.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        let plan =
            compile(loaded, &crate::filter::Live::offline()).unwrap_or_else(|problems| panic!("{problems}"));
        plan.acme.accounts["default"].cas.iter().map(|ca| ca.directory.clone()).collect()
    };
    let letsencrypt = "https://acme-v02.api.letsencrypt.org/directory";
    let staging = "https://acme-staging-v02.api.letsencrypt.org/directory";
    assert_eq!(directories(""), [letsencrypt]);
    assert_eq!(directories("staging: false"), [letsencrypt]);
    assert_eq!(directories("staging: true"), [staging]);
    let google = "{directory: google, eab: {key_id: a, hmac_key: AAAAAAAAAAAAAAAAAAAAAA}}";
    let both = format!("staging: true, cas: [letsencrypt, {google}]");
    assert_eq!(directories(&both), [staging, "https://dv.acme-v02.test-api.pki.goog/directory"]);
}
