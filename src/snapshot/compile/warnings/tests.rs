//! Each warning where it is due, by name and place, and none beside it where it is not.

use crate::{config::parse, filter::Live, snapshot::compile};

/// Name and path of each warning of `text`, completed by what it does not mention of a configuration.
fn warned(text: &str) -> Vec<String> {
    let mut whole = text.to_owned();
    for (key, rest) in [
        ("listeners:", "listeners: [{address: '127.0.0.1:8000'}]\n"),
        ("routes:", "routes: [{upstream: u}]\n"),
        ("upstreams:", "upstreams: {u: {endpoints: ['127.0.0.1:3000']}}\n"),
    ] {
        if !text.lines().any(|line| line.starts_with(key)) {
            whole.push_str(rest);
        }
    }
    let loaded = parse(&whole, "g.yaml").unwrap_or_else(|problems| panic!("{whole}{problems}"));
    let plan = compile(loaded, &Live::offline()).unwrap_or_else(|problems| panic!("{whole}{problems}"));
    let line = |warning: &crate::config::Problem| {
        assert!(warning.location().is_some() && warning.told_hint().is_some(), "{warning}");
        format!("{} {}", warning.name().unwrap_or("?"), warning.whereabouts())
    };
    plan.warnings.iter().map(line).collect()
}

#[test]
fn what_was_hardly_meant_is_told_where_it_stands() {
    let table = [
        // Routes.
        (
            "routes: [{name: r, match: {path: {regex: '^/api'}}, upstream: u}, {match: {path: /api/v2}, upstream: u}]\n",
            "regex_before_prefix routes[0].match.path",
        ),
        (
            "listeners: [{address: '127.0.0.1:1', routes: [a]}]\nroutes: [{name: a, upstream: u}, {name: b, match: {path: /b}, upstream: u}]\n",
            "route_without_listener routes[1]",
        ),
        (
            "routes: [{match: {methods: [GTE, GET]}, upstream: u}]\n",
            "unknown_method routes[0].match.methods[0]",
        ),
        (
            "routes: [{match: {path: {template: '/u/:id'}}, upstream: u}]\n",
            "colon_in_path routes[0].match.path",
        ),
        ("routes: [{match: {path: '/u/:id'}, upstream: u}]\n", "colon_in_path routes[0].match.path"),
        (
            "listeners: [{address: '192.0.2.1:80'}]\nroutes: [{upstream: u}, {match: {path: /b}, upstream: u}]\n",
            "no_timeout routes[0]",
        ),
        (
            "upstreams: {u: {endpoints: [{address: '127.0.0.1:3000', zone: a}]}}\n",
            "zone_of_nobody upstreams.u.endpoints[0].zone",
        ),
        // Filters.
        (
            "routes: [{upstream: u, filters: [{jwt: {keys: {secret: '${env:TIDEGATE_UNSET:-0123456789abcdef0123456789abcdef}'}, algorithms: [HS256], audience: [a]}}, {cors: {origins: ['https://a.example']}}]}]\n",
            "cors_behind_guard routes[0].filters[1].cors",
        ),
        (
            "routes: [{match: {methods: [GET]}, upstream: u, filters: [{cors: {origins: ['https://a.example']}}]}]\n",
            "cors_without_options routes[0].match.methods",
        ),
        (
            "routes: [{upstream: u, filters: [{https_redirect: {}}]}]\n",
            "https_redirect_in_vain routes[0].filters[0].https_redirect",
        ),
        (
            "routes: [{match: {path: /v1}, upstream: u, filters: [{rewrite: {strip_prefix: /v2}}]}]\n",
            "strips_nothing routes[0].filters[0].rewrite.strip_prefix",
        ),
        (
            "routes: [{upstream: u, filters: [{headers: {response: {set: {Cache-Control: 'max-age=1, immutable'}}}}]}]\n",
            "immutable_errors routes[0].filters[0].headers.response.set.Cache-Control",
        ),
        (
            "routes: [{upstream: u, filters: [{headers: {request: {set: {x-a: '$host'}}}}]}]\n",
            "foreign_variable routes[0].filters[0].headers.request.set.x-a",
        ),
        (
            "routes: [{redirect: 'https://a.example$request_uri'}]\nupstreams: {}\n",
            "foreign_variable routes[0].redirect",
        ),
        (
            "routes: [{upstream: u, filters: [c]}]\nfilters: {c: [{rewrite: {host: '{header.x}'}}]}\n",
            "placeholder_not_filled_in filters.c[0].rewrite.host",
        ),
        // Upstreams and policies.
        (
            "upstreams: {u: {endpoints: ['127.0.0.1:1', 'api.example:443']}}\n",
            "tls_port_without_tls upstreams.u.endpoints[1]",
        ),
        (
            "upstreams: {u: {endpoints: [{address: '127.0.0.1:1', weight: 0}]}}\n",
            "all_weights_zero upstreams.u.endpoints",
        ),
        (
            "routes: [{match: {methods: [POST]}, upstream: u, retry: {on: [503]}}]\n",
            "never_retried routes[0].retry.on",
        ),
        (
            "routes: [{upstream: u, retry: {methods: [GET, POST]}}]\n",
            "retries_post routes[0].retry.methods[1]",
        ),
        ("routes: [{upstream: u, hedge: {after: 5ms}}]\n", "hedge_alone routes[0].hedge"),
        ("routes: [{upstream: u, mirror: {upstream: u}}]\n", "mirror_to_itself routes[0].mirror.upstream"),
        (
            "upstreams: {u: {endpoints: ['127.0.0.1:1']}, b: {endpoints: ['127.0.0.1:1']}}\n",
            "unused_upstream upstreams.b",
        ),
        ("filters: {c: [{compression: {}}]}\n", "unused_chain filters.c"),
        // Listeners and values.
        ("trusted_proxies: [0.0.0.0/0]\n", "trusts_everybody trusted_proxies[0]"),
        (
            "listeners: [{address: ':8000'}]\nroutes: [{upstream: u, timeout: 5s}]\n",
            "open_without_limits listeners[0].address",
        ),
        (
            "identity: {trust_domain: a.example, workload_api: 'unix:///run/agent.sock'}\nstate_dir: state\n\
             listeners: [{address: '192.0.2.1:443', routes: [r], tls: {client_auth: {mode: require, trust: spiffe}}}, {address: '192.0.2.1:80'}]\n\
             routes: [{name: r, upstream: u, timeout: 5s}]\n",
            "past_client_auth listeners[1]",
        ),
        (
            "listeners: [{address: '127.0.0.1:1', limits: {body_size: 10m}}]\n",
            "decimal_size listeners[0].limits.body_size",
        ),
        (
            "routes: [{upstream: u, filters: [{body_limit: 10m}]}]\n",
            "decimal_size routes[0].filters[0].body_limit",
        ),
        // What others mean by it, and what goes in circles or nowhere.
        ("upstreams: {u: {endpoints: ['127.0.0.1:8000']}}\n", "forwards_to_itself upstreams.u.endpoints[0]"),
        ("routes: [{upstream: u, retry: 1}]\n", "retries_nothing routes[0].retry"),
        ("routes: [{upstream: u, retry: {attempts: 1, on: [503]}}]\n", "retries_nothing routes[0].retry"),
        (
            "routes: [{match: {path: {template: '/u/{id}'}}, upstream: u, filters: [{headers: {request: {set: {x-id: '{path.idd}'}}}}]}]\n",
            "unknown_capture routes[0].filters[0].headers.request.set.x-id",
        ),
        (
            "routes: [{upstream: u, filters: [{headers: {request: {set: {x-a: '%REQ(:PATH)%'}}}}]}]\n",
            "foreign_variable routes[0].filters[0].headers.request.set.x-a",
        ),
        (
            "routes: [{respond: {body: 'you asked $host'}}]\nupstreams: {}\n",
            "foreign_variable routes[0].respond.body",
        ),
        (
            "routes: [{upstream: u, filters: [{rewrite: {regex: {pattern: '^/a/(.*)', replacement: '/$2'}}}]}]\n",
            "replaced_with_nothing routes[0].filters[0].rewrite.regex.replacement",
        ),
        (
            "routes: [{match: {path: {regex: '^api/'}}, upstream: u}]\n",
            "regex_without_slash routes[0].match.path",
        ),
        (
            "routes: [{upstream: u, filters: [{ip_rules: {allow: ['10.0.0.0/8'], deny: ['0.0.0.0/0']}}]}]\n",
            "denies_everybody routes[0].filters[0].ip_rules.deny[0]",
        ),
        (
            "routes: [{match: {headers: {x-v: '~^2'}}, upstream: u}]\n",
            "literal_pattern routes[0].match.headers.x-v",
        ),
        (
            "routes: [{match: {headers: {x-v: '*'}}, upstream: u}]\n",
            "literal_pattern routes[0].match.headers.x-v",
        ),
        ("error_pages: {404: /var/www/404.html}\n", "page_is_a_path error_pages.404"),
        (
            "routes: [{upstream: u, filters: [{body_limit: 100MB}]}]\n",
            "body_limit_in_vain routes[0].filters[0].body_limit",
        ),
        (
            "listeners: [{address: '127.0.0.1:1', routes: []}, {address: '127.0.0.1:2'}]\n",
            "listener_without_route listeners[0].routes",
        ),
        (
            "routes: [{match: {path: /a}, redirect: /a}]\nupstreams: {}\n",
            "redirects_to_itself routes[0].redirect",
        ),
        (
            "routes: [{respond: {status: 204, body: x}}]\nupstreams: {}\n",
            "body_not_sent routes[0].respond.body",
        ),
        ("forwarded: {trust: forwarded}\n", "trusts_nobody forwarded.trust"),
        (
            "routes: [{upstream: u, filters: [{headers: {request: {set: {x-token: abcdef}}}}]}]\n",
            "literal_secret routes[0].filters[0].headers.request.set.x-token",
        ),
    ];
    let wrong = table.into_iter().filter_map(|(text, expected)| {
        let warned = warned(text);
        (warned != [expected]).then(|| format!("{text}{warned:?} in place of {expected}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn what_is_meant_is_not_told() {
    for text in [
        "",
        // The expression names a part of the prefix on purpose.
        "routes: [{match: {path: {regex: '^/api/\\d+$'}}, upstream: u}, {match: {path: /api}, upstream: u}]\n",
        "routes: [{match: {path: {regex: '^/api'}}, upstream: u}, {match: {path: {template: '/api/{v}'}}, upstream: u}]\n",
        "routes: [{match: {methods: [PROPFIND, GET]}, upstream: u}]\n",
        "routes: [{match: {path: '/v1/models:predict'}, upstream: u}]\n",
        "listeners: [{address: '192.0.2.1:80'}]\nroutes: [{upstream: u, timeout: 5s}]\n",
        "listeners: [{address: '192.0.2.1:80'}]\nupstreams: {u: {endpoints: ['127.0.0.1:1'], protocol: grpc}}\n",
        "routes: [{upstream: u, filters: [{cors: {origins: ['https://a.example']}}, {ip_rules: {allow: ['10.0.0.0/8']}}]}]\n",
        "routes: [{match: {methods: [GET, OPTIONS]}, upstream: u, filters: [{cors: {origins: ['https://a.example']}}]}]\n",
        "routes: [{match: {methods: [POST]}, upstream: u, filters: [c]}, {match: {methods: [GET, OPTIONS]}, upstream: u, filters: [c]}]\nfilters: {c: [{cors: {origins: ['https://a.example']}}]}\n",
        "routes: [{match: {path: /v1/users}, upstream: u, filters: [{rewrite: {strip_prefix: /v1}}]}]\n",
        "routes: [{match: {path: {template: '/v1/{id}'}}, upstream: u, filters: [{rewrite: {strip_prefix: /v1/x}}]}]\n",
        "routes: [{upstream: u, filters: [{headers: {response: {status: 200-299, set: {cache-control: immutable}}}}]}]\n",
        "routes: [{upstream: u, filters: [{headers: {request: {set: {x-price: '$5', x-h: '{host}'}}}}]}]\n",
        "upstreams: {u: {endpoints: ['api.example:443'], tls: {}}}\n",
        "upstreams: {u: {endpoints: [{address: '127.0.0.1:1', weight: 0}, '127.0.0.1:2']}}\n",
        "routes: [{match: {methods: [POST]}, upstream: u, retry: {on: [503], methods: [POST]}}]\n",
        "routes: [{match: {methods: [POST]}, upstream: u, retry: 3}]\n",
        "routes: [{upstream: u, hedge: {after: 5ms}}]\nupstreams: {u: {endpoints: ['many.example:80']}}\n",
        "routes: [{upstream: u, mirror: {upstream: b}}]\nupstreams: {u: {endpoints: ['127.0.0.1:1']}, b: {endpoints: ['127.0.0.1:1']}}\n",
        "trusted_proxies: [10.0.0.0/8]\n",
        "trusted_proxies: [10.0.0.0/8]\nforwarded: {trust: forwarded}\n",
        // The request comes back as another.
        "routes: [{upstream: u, filters: [{rewrite: {add_prefix: /x}}]}]\nupstreams: {u: {endpoints: ['127.0.0.1:8000']}}\n",
        "routes: [{match: {path: /a, methods: [POST]}, redirect: {to: /a, status: 303}}]\nupstreams: {}\n",
        "routes: [{upstream: u, retry: {attempts: 1}}]\n",
        "defaults: {route: {retry: {attempts: 3, on: [503]}}}\nroutes: [{upstream: u, retry: {attempts: 1}}]\n",
        // The path itself is another's.
        "routes: [{match: {path: {exact: /}}, respond: {body: home}}, {match: {path: /}, redirect: /}]\nupstreams: {}\n",
        "routes: [{match: {headers: {x-forwarded-for: {present: true}}}, respond: {body: a}}, {upstream: u}]\nupstreams: {u: {endpoints: ['127.0.0.1:8000']}}\n",
        "routes: [{upstream: u, filters: [{ip_rules: {allow: ['10.0.0.0/8', 'fd00::/8'], deny: ['0.0.0.0/0']}}]}]\n",
        "routes: [{upstream: u, filters: [{headers: {response: {set: {content-disposition: 'x%%[1]'}}}}]}]\n",
        "routes: [{match: {path: {template: '/u/{id}'}}, upstream: u, filters: [{headers: {request: {set: {x-id: '{path.id}'}}}}]}]\n",
        "routes: [{upstream: u, filters: [c]}]\nfilters: {c: [{headers: {request: {set: {x-id: '{path.id}'}}}}]}\n",
        "routes: [{upstream: u, filters: [{rewrite: {regex: {pattern: '^/(?P<a>[^/]+)/(.*)', replacement: '/$2/$a'}}}]}]\n",
        "routes: [{upstream: u, filters: [{ip_rules: {allow: ['10.0.0.0/8'], deny: ['10.9.0.0/16']}}]}]\n",
        "routes: [{match: {headers: {if-none-match: '*'}}, upstream: u}]\n",
        "routes: [{match: {path: {regex: '^(/a|/b)'}}, upstream: u}]\n",
        "error_pages: {404: 'nothing here'}\n",
        "routes: [{upstream: u, filters: [{body_limit: 1MB}]}]\n",
        "routes: [{respond: {body: '<script>const $host = 1</script>'}}]\nupstreams: {}\n",
        "listeners: [{address: ':8000', limits: {connections_per_ip: 9, body_size: 10MB}}]\nroutes: [{upstream: u, timeout: 5s}]\n",
    ] {
        assert_eq!(warned(text), [""; 0], "{text}");
    }
}

#[test]
fn what_is_served_without_client_certificates_as_well_may_be_meant() {
    let identity =
        "identity: {trust_domain: a.example, workload_api: 'unix:///run/agent.sock'}\nstate_dir: state\n";
    let guarded = |mode: &str, more: &str| {
        format!("{{address: '192.0.2.1:443'{more}, tls: {{client_auth: {{mode: {mode}, trust: spiffe}}}}}}")
    };
    let (named, plain) = (guarded("require", ", routes: [r]"), "{address: '192.0.2.1:80'}");
    let route = "name: r, upstream: u, timeout: 5s";
    for (listeners, routes) in [
        // Neither says for whom the route is.
        ([&*guarded("require", ""), plain], route.to_owned()),
        // Clients without a certificate are served there too.
        ([&*guarded("request", ", routes: [r]"), plain], route.to_owned()),
        ([&*named, "{address: '192.0.2.1:80', routes: [r]}"], route.to_owned()),
        ([&*named, "{address: '127.0.0.1:80'}"], route.to_owned()),
        ([&*named, "{address: '192.0.2.1:80', filters: [{https_redirect: {}}]}"], route.to_owned()),
        (
            [&*named, "{address: '192.0.2.1:80', filters: [{ip_rules: {allow: ['10.0.0.0/8']}}]}"],
            route.to_owned(),
        ),
        ([&*named, plain], format!("{route}, filters: [{{ip_rules: {{allow: ['10.0.0.0/8']}}}}]")),
    ] {
        let text = format!("{identity}listeners: [{}]\nroutes: [{{{routes}}}]\n", listeners.join(", "));
        assert_eq!(warned(&text), [""; 0], "{text}");
    }
}

/// What stands in the documentation is what there is, and the other way round.
#[test]
fn each_warning_is_documented_by_its_name() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/warnings.md")).unwrap();
    let sources = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/snapshot/compile/warnings"));
    let mut names = 0;
    for file in std::fs::read_dir(sources).unwrap() {
        let path = file.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let calls = text.split("warning(").skip(1).filter_map(|after| after.trim_start().strip_prefix('"'));
        for call in calls {
            let name = call.split('"').next().unwrap();
            assert!(page.contains(&format!("`{name}`")), "docs/warnings.md does not have `{name}`");
            names += 1;
        }
    }
    assert!(names > 20, "only {names}");
}
