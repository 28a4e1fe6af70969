//! Secrets that stand in the file as they are, in fields whose type does not say that they are secrets: what a header
//! is set to, what a match compares with, the password in a URL. They are known by the names of fields, hidden wherever
//! values are shown, and told, so that they move to where secrets belong.

use std::borrow::Cow;

use crate::config::document::{
    node::{Entry, Kind, Node, REDACTED, Scalar, Value},
    problem::{Path, Trail},
};

/// The maps whose keys are names of fields of requests, and whose values are theirs.
const FIELDS: [&str; 10] = [
    "set",
    "set_if_absent",
    "add",
    "append",
    "replace",
    "headers",
    "query",
    "metadata",
    "context_extensions",
    "parameters",
];
/// The maps that only compare.
const MATCHES: [&str; 3] = ["match", "when", "unless"];

/// Where public keys are: a secret by its type, as a URL may hold a password, and else the name of a file.
const PLACES: [&str; 1] = ["jwks"];

/// Hides what `root` has of them. Values with `${...}` are shown as written in any case.
pub(in crate::config) fn hide(root: &mut Node) {
    hide_in(root, "", false);
}

/// Where secrets of any kind are written out.
pub(in crate::config) fn literals(root: &Node) -> Vec<Path> {
    let mut found = Vec::new();
    find(root, &Trail::Start(&Path::root()), &mut found);
    found
}

fn hide_in(node: &mut Node, holder: &str, matches: bool) {
    match &mut node.value {
        Value::Scalar(scalar) => {
            if scalar.kind == Kind::Text
                && let Some(shown) = without_secrets(scalar.written())
            {
                scalar.raw = Some(shown.into());
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| hide_in(item, holder, matches)),
        Value::Map(map) => {
            for (key, value) in map.values_mut() {
                match FIELDS.contains(&holder) && is_secret(key, matches) {
                    true if holder == "replace" => mark_replacement(value),
                    true => mark(value),
                    false => hide_in(value, key, matches || MATCHES.contains(&key)),
                }
            }
        }
    }
}

/// The pattern beside it only finds, and what has groups in it (`Bearer $1`) is the client's own.
fn mark_replacement(node: &Node) {
    if let Value::Map(map) = &node.value
        && let Some(entry) = map.entry("replacement")
        && entry.value.written().is_none_or(|written| !written.contains('$'))
    {
        mark(&entry.value);
    }
}

fn mark(node: &Node) {
    match &node.value {
        Value::Scalar(scalar) if matches!(scalar.kind, Kind::Null | Kind::Bool(_)) => {}
        Value::Scalar(scalar) if refers(scalar.written()) || is_filled_in(scalar.written()) => {}
        Value::Scalar(scalar) => scalar.mark_secret(),
        _ => node.children().for_each(mark),
    }
}

fn find(node: &Node, trail: &Trail<'_>, found: &mut Vec<Path>) {
    match &node.value {
        Value::Scalar(scalar) if is_written_out(scalar) => found.push(trail.path()),
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                find(item, &Trail::Index(trail, index), found);
            }
        }
        Value::Map(map) => {
            for entry in map.iter().filter(|entry| !is_plain_place(entry)) {
                find(&entry.value, &Trail::Key(trail, &entry.key), found);
            }
        }
    }
}

fn is_written_out(scalar: &Scalar) -> bool {
    // A URL is a secret by its type where it may hold one, and need not.
    let is_url = scalar.text.contains("://");
    scalar.written().contains(REDACTED) || scalar.is_secret() && !is_url && !refers(scalar.written())
}

fn is_plain_place(entry: &Entry) -> bool {
    PLACES.contains(&entry.key.as_str())
        && entry.value.written().is_some_and(|written| !written.contains(REDACTED))
}

fn refers(written: &str) -> bool {
    written.contains("${")
}

/// Whether all of it comes from the request: placeholders, and no more beside them than the name of a scheme.
fn is_filled_in(written: &str) -> bool {
    let (mut rest, mut beside) = (written, String::new());
    while let Some((before, after)) = rest.split_once('{') {
        // What an expression repeats is written in braces as well.
        let is_name = |name: &str| name.starts_with(|first: char| first.is_ascii_alphabetic());
        let Some((_, after)) = after.split_once('}').filter(|(name, _)| is_name(name)) else { return false };
        beside.push_str(before);
        rest = after;
    }
    beside.push_str(rest);
    beside.retain(char::is_alphanumeric);
    let has_placeholders = rest.len() < written.len();
    has_placeholders && matches!(beside.to_ascii_lowercase().as_str(), "" | "bearer" | "basic" | "token")
}

/// Whether the field of this name is one that holds a secret. Cookies that are compared seldom are.
pub(in crate::config) fn is_secret(field: &str, matches: bool) -> bool {
    const WORDS: [&str; 10] = [
        "token",
        "secret",
        "password",
        "passwd",
        "apikey",
        "accesskey",
        "authkey",
        "privatekey",
        "credential",
        "signature",
    ];
    let plain: String =
        field.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    matches!(
        plain.as_str(),
        "authorization" | "proxyauthorization" | "auth" | "xauth" | "pass" | "pwd" | "sig"
    ) || (plain == "cookie" && !matches)
        || WORDS.iter().any(|word| plain.contains(word))
}

/// A URL or a path without its secrets; `None` where it has none.
pub(in crate::config) fn without_secrets(text: &str) -> Option<String> {
    let after_scheme = text.find("://").filter(|_| text.starts_with(|c: char| c.is_ascii_alphabetic()));
    let start = match after_scheme {
        Some(colon) => colon + "://".len(),
        None if text.starts_with('/') => 0,
        None => return None,
    };
    let (before, rest) = text.split_at(start);
    let (rest, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let (place, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let user = authority.rfind('@').filter(|_| after_scheme.is_some() && !refers(authority));
    let authority: Cow<'_, str> = match user {
        Some(at) => format!("{REDACTED}{}", &authority[at..]).into(),
        None => authority.into(),
    };
    let shown: Vec<Cow<'_, str>> = query.split('&').map(shown_parameter).collect();
    let shown = format!("{before}{authority}{path}{}{fragment}", shown.join("&"));
    (shown != text).then_some(shown)
}

/// One of a query, with the `?` before the first.
fn shown_parameter(parameter: &str) -> Cow<'_, str> {
    match parameter.split_once('=') {
        // What is filled in from elsewhere is no secret.
        Some((name, value)) if is_secret(name, true) && !value.is_empty() && !value.contains('{') => {
            format!("{name}={REDACTED}").into()
        }
        _ => parameter.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_hold_secrets_are_known_by_their_names() {
        for name in
            ["Authorization", "X-API-Key", "x_auth_token", "client-secret", "X-Amz-Signature", "cookie"]
        {
            assert!(is_secret(name, false), "{name}");
        }
        for name in ["x-request-id", "host", "accept", "author", "content-type", "x-version"] {
            assert!(!is_secret(name, false), "{name}");
        }
        assert!(!is_secret("cookie", true));
    }

    #[test]
    fn what_requests_fill_in_is_no_secret() {
        for written in ["{header.x-token}", "Bearer {cookie.session}", "{claim.sub}:{host}"] {
            assert!(is_filled_in(written), "{written}");
        }
        for written in
            ["hunter2", "Bearer hunter2", "hunter2{host}", "{host}hunter2", "^a{3}$", "{", "{3}", ""]
        {
            assert!(!is_filled_in(written), "{written}");
        }
    }

    #[test]
    fn urls_lose_users_passwords_and_secret_parameters_alone() {
        for (text, shown) in [
            ("https://u:hunter2@a.example/x", Some("https://[redacted]@a.example/x")),
            ("redis://:hunter2@a:6379/0", Some("redis://[redacted]@a:6379/0")),
            ("redis+unix:///a.sock?pass=hunter2", Some("redis+unix:///a.sock?pass=[redacted]")),
            ("https://a/x?v=1&api_key=hunter2#f", Some("https://a/x?v=1&api_key=[redacted]#f")),
            ("/health?token=hunter2", Some("/health?token=[redacted]")),
            ("https://a/x?token={query}", None),
            ("redis://:${env:PW}@a", None),
            ("https://a/x@y?v=1", None),
            ("say: token=1", None),
        ] {
            assert_eq!(without_secrets(text).as_deref(), shown, "{text}");
        }
    }
}
