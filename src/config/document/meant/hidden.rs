//! What may be a secret although it stands where none is due: a password in the place of the list of users, a token in that of the map
//! with it. It is not repeated, as what is told ends up in logs. Types tell secrets only where the shape around them is right,
//! so the places are a table; a test holds it against the schema, where each secret is one by its type.

use super::{ITEM, names, plain};
use crate::config::document::{
    node::{Kind, Node, Scalar, Value},
    problem::Path,
    secrets::{is_secret, without_secrets},
};

/// The ends of paths at which secrets are looked for one or two levels further down, each with the shape that is due.
/// `*` is any name.
const PLACES: [(&[&str], &str); 34] = [
    (&[ITEM, "api_key"], "{keys: [{name: shop, hash: \"sha256:...\"}]}"),
    (&["api_key", "keys"], "[{name: shop, hash: \"sha256:...\"}]"),
    (&["api_key", "keys", ITEM], ""),
    (&[ITEM, "basic_auth"], "{users: [{name: alice, hash: \"$2y$...\"}]}"),
    (&["basic_auth", "users"], "[{name: alice, hash: \"$2y$...\"}]"),
    (&["basic_auth", "users", ITEM], ""),
    (
        &[ITEM, "introspection"],
        "{issuer: \"https://auth.example.com\", client_id: gateway, client_secret: \"${file:PATH}\"}",
    ),
    (&[ITEM, "jwt"], "{issuer: \"https://auth.example.com\", audience: [api.example.com]}"),
    (&["jwt", "keys"], "{jwks: \"https://auth.example.com/jwks.json\"}"),
    (&["jwt", "issuers"], "[{issuer: \"https://auth.example.com\", audience: [api.example.com]}]"),
    (&["jwt", "issuers", ITEM], ""),
    (&["issuers", ITEM, "keys"], "{jwks: \"https://auth.example.com/jwks.json\"}"),
    (
        &[ITEM, "oidc"],
        "{issuer: \"https://id.example.com\", client_id: app, session: {secret: \"${file:PATH}\"}}",
    ),
    (&["oidc", "session"], "{secret: \"${file:PATH}\"}"),
    (&[ITEM, "rate_limit"], "{rate: 100/s}"),
    (&["rate_limit", "store"], "{redis: \"redis://127.0.0.1:6379\"}"),
    (&["redis"], ""),
    (&["redis", "sentinel"], ""),
    (&["etcd"], ""),
    (&["ticket_keys", "storage"], "{redis: \"redis://127.0.0.1:6379\", secret: \"${file:PATH}\"}"),
    (&["acme", "*", "storage"], "{redis: \"redis://127.0.0.1:6379\", secret: \"${file:PATH}\"}"),
    (&["acme", "*", "dns"], "{command: [/usr/local/bin/dns-hook]}"),
    (&["eab"], "{key_id: \"${env:EAB_KEY}\", hmac_key: \"${env:EAB_SECRET}\"}"),
    (&["admin"], ""),
    (&["admin", "tokens"], "[{name: alice, role: operator, token: \"${env:ALICES_TOKEN}\"}]"),
    (&["admin", "tokens", ITEM], ""),
    (&["control", "join"], ""),
    (&["serve", "authorize"], "[{token: \"${env:TOKEN}\", operate: true}]"),
    (&["serve", "authorize", ITEM], ""),
    (&["identity", "control"], ""),
    (&["otlp", "headers"], "{authorization: \"${env:OTLP_TOKEN}\"}"),
    (&["plugins", "*", "env"], "{NAME: \"${env:NAME}\"}"),
    (&["affinity", "cookie"], ""),
    (&["affinity", "cookie", "keys"], "[\"${env:AFFINITY_KEY}\"]"),
];

/// Beside those that are known by what is in their names.
const KEYS: [&str; 13] = [
    "basicauth",
    "jwt",
    "oidc",
    "introspection",
    "keys",
    "hash",
    "users",
    "user",
    "jwks",
    "redis",
    "env",
    "hmackey",
    "session",
];

/// Whether what stands here in the wrong shape may be a secret.
pub(in crate::config) fn holds_secrets(path: &Path) -> bool {
    of_place(path).is_some()
}

/// The shape that is due there, where one says it all.
pub(super) fn shape(path: &Path) -> Option<&'static str> {
    of_place(path).filter(|shape| !shape.is_empty())
}

fn of_place(path: &Path) -> Option<&'static str> {
    let names = names(path);
    let ends_with = |end: &[&str]| {
        let start = names.len().checked_sub(end.len());
        start
            .is_some_and(|start| names[start..].iter().zip(end).all(|(name, end)| *end == "*" || name == end))
    };
    PLACES.iter().find(|(end, _)| ends_with(end)).map(|(_, shape)| *shape)
}

/// Whether the text of a value is evidently none: a switch, a reference, a small number with its unit, an address, a URL without a
/// password, the name of a file.
pub(in crate::config) fn is_harmless(text: &str) -> bool {
    let is_reference = text.starts_with("${") && text.ends_with('}') && !text.contains(":-");
    let is_quantity = {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = text.len() - unit.len();
        (1..=5).contains(&digits) && ["", "%", "s", "ms", "m", "h", "d", "/s", "/m", "/h"].contains(&unit)
    };
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok()
            && (host.is_empty() || host.contains(['.', '[', '*']) || host == "localhost")
            && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-*:[]".contains(c))
    });
    let is_url = text.contains("://") && !text.contains('?') && without_secrets(text).is_none();
    let is_file = [".json", ".jwks", ".pem", ".crt", ".key", ".yaml", ".yml", ".txt", ".sock"]
        .iter()
        .any(|end| text.ends_with(end) && !text.contains(char::is_whitespace));
    let is_switch = matches!(
        text.to_ascii_lowercase().as_str(),
        "" | "~" | "null" | "true" | "false" | "on" | "off" | "yes" | "no" | "enabled" | "disabled"
    );
    is_reference || is_quantity || is_address || is_url || is_file || is_switch
}

/// Whether it says itself that it is one, wherever it stands: `authorization: Bearer ...`, a URL with a password.
pub(in crate::config) fn names_a_secret(text: &str) -> bool {
    let named = text.split_once([':', '=']).is_some_and(|(name, _)| is_secret(name.trim(), true));
    named && is_word(text.split([':', '=']).next().unwrap_or_default().trim())
        || without_secrets(text).is_some()
}

/// Whether the value of an entry, of which nobody knows what it is, may hold one.
pub(in crate::config) fn may_hold(key: &str, value: &Node) -> bool {
    let is_text = |scalar: &Scalar| !matches!(scalar.kind, Kind::Null | Kind::Bool(_));
    match &value.value {
        Value::Scalar(scalar) if is_text(scalar) => {
            let written = scalar.written();
            without_secrets(written).is_some() || may_be_named(key) && !is_harmless(written)
        }
        Value::Scalar(_) => false,
        Value::List(items) => items.iter().any(|item| may_hold(key, item)),
        // Of `{api_keys: {shop: ...}}` the names are not known.
        Value::Map(map) => map.iter().any(|entry| {
            may_hold(&entry.key, &entry.value) || is_secret(key, true) && may_hold(key, &entry.value)
        }),
    }
}

fn may_be_named(key: &str) -> bool {
    is_secret(key, true) || KEYS.contains(&plain(key).as_str())
}

/// Whether a key looks like one, and not like a value that stands where a key is due.
pub(in crate::config) fn is_word(key: &str) -> bool {
    key.len() <= 32 && key.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evidently_no_secret_is_shown() {
        for text in [
            "true",
            "9901",
            "100/s",
            "30s",
            "127.0.0.1:9901",
            ":9901",
            "[::1]:9901",
            "https://a.example/jwks.json",
            "redis://127.0.0.1:6379/0",
            "conf/jwks.json",
            "${env:TOKEN}",
        ] {
            assert!(is_harmless(text), "{text}");
        }
        for text in [
            "hunter2",
            "alice:hunter2",
            "alice:2345",
            "123456",
            "https://a:b@c.example",
            "redis://:hunter2@a:6379",
            "https://a.example/?token=hunter2",
            "${env:TOKEN:-hunter2}",
            "a${env:TOKEN}",
            "Bearer hunter2",
        ] {
            assert!(!is_harmless(text), "{text}");
        }
        for text in ["Authorization: Bearer hunter2", "x-api-key=hunter2", "http://a:hunter2@b"] {
            assert!(names_a_secret(text), "{text}");
        }
        for text in ["x-version: 2", "http://a.example", "/tokens/{id}"] {
            assert!(!names_a_secret(text), "{text}");
        }
    }
}
