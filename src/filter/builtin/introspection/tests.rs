use serde_json::{Value, json};

use super::*;
use crate::{
    config::Path,
    filter::{Live, Options},
};

#[test]
fn options_that_make_no_sense_are_refused_in_their_place() {
    for (change, at, message) in [
        (json!({"url": null}), "", "give `url`, or `issuer`"),
        (json!({"url": "auth"}), "url", "expected an https URL"),
        (json!({"url": "http://auth.test/"}), "url", "use https"),
        (json!({"url": "https://u:hunter2@auth.test/"}), "url", "user and a password"),
        (json!({"url": null, "issuer": "https://a.test/?b"}), "issuer", "query or a fragment"),
        (json!({"client_id": ""}), "client_id", "has to know who asks"),
        (json!({"timeout": "0s"}), "timeout", "makes no sense"),
        (json!({"ttl": "2h"}), "ttl", "at most 1h"),
        (json!({"ttl": "500ms"}), "ttl", "whole seconds"),
        (json!({"inactive_ttl": "2h"}), "inactive_ttl", "at most 1h"),
        (json!({"max_size": "65KiB"}), "max_size", "from 1B to 64KiB"),
        (json!({"cache_entries": 1_000_001}), "cache_entries", "a million"),
        (json!({"max_requests": 0}), "max_requests", "at least one"),
        (json!({"realm": "a\"b"}), "realm", "without quotes"),
        (json!({"require": {"scope": ["a b"]}}), "require.scope[0]", "one word"),
        (json!({"forward_claims": {"a": "x y"}}), "forward_claims.a", "not a header name"),
        (json!({"from": {"cookie": "a", "query": "b"}}), "from", "exactly one of"),
        (json!({"skip_paths": [{"exact": "open"}]}), "skip_paths[0]", ""),
        (json!({"ca": "/nonexistent.pem"}), "ca", "cannot be read"),
    ] {
        let mut options = json!({"url": "https://auth.test/", "client_id": "a", "client_secret": "hunter2"});
        for (key, value) in change.as_object().unwrap() {
            options[key] = value.clone();
        }
        options.as_object_mut().unwrap().retain(|_, value| *value != Value::Null);
        let options: Introspection = serde_yaml::from_str(&serde_yaml::to_string(&options).unwrap()).unwrap();
        let invalid = options.build(&Path::root(), &Live::offline()).err().unwrap_or_default();
        let [only] = invalid.as_slice() else { panic!("{change}: {invalid:?}") };
        assert_eq!(only.path.to_string(), at, "{change}");
        assert!(only.message.contains(message) && !only.message.contains("hunter2"), "{change}: {only:?}");
    }
}

#[test]
fn what_is_known_outlives_a_reload_that_changes_nothing() {
    let live = Live::offline();
    let known = |audience: &str| {
        let options =
            format!("{{url: 'https://auth.test/', client_id: a, client_secret: b, audience: {audience}}}");
        let options: Introspection = serde_yaml::from_str(&options).unwrap();
        live.keep(options, |_: &Introspection| Known::new(8))
    };
    let first = known("api");
    assert!(Arc::ptr_eq(&first, &known("api")));
    assert!(!Arc::ptr_eq(&first, &known("other")));
}
