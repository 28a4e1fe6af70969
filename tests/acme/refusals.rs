//! What is refused before anything is ordered, each at its place.

use super::*;

#[tokio::test]
async fn what_no_ca_would_issue_is_refused_at_its_place() {
    let head = "state_dir: state\nlisteners: [{address: '127.0.0.1:0', tls: {acme: {";
    let routes = "}}}]\nroutes: [{match: {hosts: [a.example.com]}, respond: {}}]\n";
    for (listener, accounts, expected) in [
        (
            "names: [10.0.0.1]",
            "",
            "listeners[0].tls.acme.names[0]: \"10.0.0.1\" is no name that a certificate can be for",
        ),
        (
            "names: ['*.example.com']",
            "",
            "listeners[0].tls.acme.names[0]: a name with `*` is proved by dns-01 alone (add `dns:",
        ),
        (
            "names: [a.example.com, A.example.com.]",
            "",
            "listeners[0].tls.acme.names[1]: a.example.com stands here twice",
        ),
        ("names: []", "", "listeners[0].tls.acme.names: no name, so no certificate is ordered"),
        (
            "account: defualt",
            "acme: {default: {}}",
            "there is no account `defualt` (did you mean `default`?)",
        ),
        (
            "",
            "acme: {default: {cas: [letsencrpyt]}}",
            "acme.default.cas[0]: \"letsencrpyt\" is no CA's directory (did you mean `letsencrypt`?)",
        ),
        (
            "",
            "acme: {default: {cas: ['http://ca.internal/dir']}}",
            "acme.default.cas[0]: \"http://ca.internal/dir\" is no CA's directory",
        ),
        (
            "",
            "acme: {default: {cas: [zerossl]}}",
            "acme.default.cas[0]: zerossl wants an account that it knows (write `{directory: zerossl, eab:",
        ),
        (
            "",
            "acme: {default: {cas: [{directory: zerossl, eab: {key_id: a, hmac_key: '?'}}]}}",
            "acme.default.cas[0].eab.hmac_key: this is no base64url",
        ),
        (
            "",
            "acme: {default: {cas: [letsencrypt, letsencrypt]}}",
            "acme.default.cas[1]: this CA stands here twice",
        ),
        ("", "acme: {default: {cas: []}}", "acme.default.cas: no CA, so no certificate is ordered"),
        (
            "",
            "acme: {default: {staging: true, cas: ['https://ca.internal/dir']}}",
            "acme.default.cas[0]: of this CA no staging is known",
        ),
        (
            "",
            "acme: {default: {challenges: [dns-01]}}",
            "acme.default.challenges[0]: nobody writes the records of dns-01",
        ),
        (
            "",
            "acme: {default: {challenges: [http-01], dns: {command: [x]}}}",
            "acme.default.dns: `dns` is given, but `challenges` does not name dns-01",
        ),
        (
            "",
            "acme: {default: {dns: {}}}",
            "acme.default.dns: expected exactly one of `command` and `webhook`",
        ),
        ("", "acme: {default: {dns: {webhook: x}}}", "acme.default.dns.webhook: \"x\" is no URL"),
        (
            "",
            "acme: {default: {dns: {command: [x], authorization: y}}}",
            "acme.default.dns.authorization: only a webhook gets it",
        ),
        ("", "acme: {default: {email: ops}}", "acme.default.email: \"ops\" is no mail address"),
        (
            "",
            "acme: {default: {renew_after: 95%}}",
            "acme.default.renew_after: certificates are renewed after 90% of their life at the latest",
        ),
        (
            "",
            "acme: {default: {retry: {base: 2h, max: 1h}}}",
            "acme.default.retry: `base` is longer than `max`",
        ),
        ("", "acme: {default: {at_once: 1000}}", "acme.default.at_once: at most 64 orders can be under way"),
        (
            "",
            "acme: {default: {request_timeout: 0s, order_timeout: 5m}}",
            "acme.default.request_timeout: a duration of 0 makes no sense here",
        ),
        (
            "",
            "acme: {default: {storage: {secret: 0123456789abcdef0123456789abcdef}}}",
            "acme.default.storage: expected exactly one of `redis` and `etcd` (`redis: redis://redis.internal:6379`, or",
        ),
        (
            "",
            "acme: {default: {storage: {etcd: {endpoints: ['http://etcd:2379']}, secret: 0123456789abcdef0123456789abcdef}}}",
            "storage.etcd.endpoints[0]: \"http://etcd:2379\" is not on this host, and whoever is between could learn and change what is kept",
        ),
        (
            "",
            "acme: {default: {storage: {etcd: {endpoints: ['https://etcd:2379'], tls: {cert: a}}, secret: 0123456789abcdef0123456789abcdef}}}",
            "acme.default.storage.etcd.tls: `cert` and `key` go together",
        ),
        (
            "",
            "acme: {default: {storage: {etcd: {endpoints: []}, secret: 0123456789abcdef0123456789abcdef}}}",
            "acme.default.storage.etcd.endpoints: names no member of the cluster",
        ),
        (
            "",
            "acme: {default: {storage: {etcd: {endpoints: ['https://e:1']}, prefix: x, secret: 0123456789abcdef0123456789abcdef}}}",
            "acme.default.storage.prefix: \"x\" is no prefix of keys (such as \"/tidegate/acme/\")",
        ),
        (
            "names: [a.example.com], on_demand: true",
            "",
            "listeners[0].tls.acme.on_demand: nobody says which names the account `default` may order (add `on_demand: {ask:",
        ),
        (
            "",
            "acme: {default: {on_demand: {ask: /allowed}}}",
            "acme.default.on_demand.ask: \"/allowed\" is no URL (such as http://127.0.0.1:9000/allowed)",
        ),
        (
            "",
            "acme: {default: {on_demand: {ask: 'http://a/', pending: 100000}}}",
            "acme.default.on_demand.pending: at most 1000 names can be under way",
        ),
        (
            "names: [a.example.com], together: true}}}, {address: '127.0.0.2:0', tls: {acme: {names: [a.example.com, b.example.com], together: true",
            "",
            "listeners[1].tls.acme: a.example.com leads another certificate of this account, with other names",
        ),
        ("", "acme: {'a/b': {}}", "\"a/b\" is no name for an account"),
    ] {
        let yaml = format!("{head}{listener}{routes}{accounts}\n");
        let (code, said, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!(code, 3, "{yaml}");
        assert!(said.contains(expected), "{yaml}\n{said}");
        assert_eq!(said.lines().count(), 1, "{yaml}\n{said}");
    }
}

#[tokio::test]
async fn certificates_need_a_place_and_names() {
    for (yaml, expected) in [
        (
            "listeners: [{address: '127.0.0.1:0', tls: {acme: {}}}]\nroutes: [{match: {hosts: [a.example.com]}, respond: {}}]\n",
            "listeners[0].tls.acme: certificates need a place where they are kept",
        ),
        (
            "state_dir: state\nlisteners: [{address: '127.0.0.1:0', tls: {acme: {}}}]\nroutes: [{match: {hosts: [localhost, 10.0.0.1]}, respond: {}}]\n",
            "listeners[0].tls.acme: no names: none of the routes here has a host that a certificate could be for (add `names:",
        ),
        (
            "listeners: [{address: '127.0.0.1:0', tls: {}}]\nroutes: [{respond: {}}]\n",
            "a TLS listener needs a certificate (add `acme: {}`",
        ),
        (
            "listeners: [{address: '127.0.0.1:0', tls: {certificates: [{names: [a]}]}}]\nroutes: [{respond: {}}]\n",
            "`names` are those of `acme` (write `{acme: default, names: [...]}`)",
        ),
    ] {
        let (code, said, _) = Gateway::start_expecting_failure(yaml, &["check"]).await;
        assert_eq!(code, 3, "{yaml}");
        assert!(said.contains(expected), "{yaml}\n{said}");
    }
}
