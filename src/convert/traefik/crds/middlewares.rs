//! Middlewares: those that name a Secret or other middlewares name them otherwise in a file.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    Cluster, Object,
    made::{self, edited, kept, list, text},
};
use crate::{config::Foreign, convert::fields::Report};

pub(super) fn middleware(
    object: &Object<'_>,
    cluster: &Cluster<'_>,
    report: &mut Report,
) -> (String, Foreign) {
    let written = edited(object.spec, |kind, value| {
        let value = match kind {
            "chain" => edited(value, |name, value| match name {
                "middlewares" => Some((name.to_owned(), names(object, value))),
                _ => kept(name, value),
            }),
            "basicAuth" | "digestAuth" => with_users(object, kind, value, cluster, report),
            "forwardAuth" => edited(value, |name, value| match name {
                "tls" => Some((name.to_owned(), edited(value, |name, value| authority(object, name, value)))),
                _ => kept(name, value),
            }),
            _ => value.clone(),
        };
        Some((kind.to_owned(), value))
    });
    (object.id(), written)
}

/// Middlewares that a route or a chain names.
pub(super) fn names(object: &Object<'_>, references: &Foreign) -> Foreign {
    // One without a name is as good as missing, and its routers are closed.
    let name = |item: &Foreign| text(item, object.reference(item).unwrap_or_default());
    list(references, references.one_or_more().iter().map(name).collect())
}

fn authority(object: &Object<'_>, name: &str, value: &Foreign) -> Option<(String, Foreign)> {
    match (name, value.text()) {
        ("caSecret", Some(secret)) => {
            Some(("ca".to_owned(), made::file(value, object.namespace, secret, "ca.crt")))
        }
        _ => kept(name, value),
    }
}

/// Users are lines of a Secret.
fn with_users(
    object: &Object<'_>,
    kind: &str,
    value: &Foreign,
    cluster: &Cluster<'_>,
    report: &mut Report,
) -> Foreign {
    edited(value, |name, value| match (name, value.text()) {
        ("secret", Some(secret)) => {
            let users = cluster.secrets.get(&(object.namespace, secret)).and_then(|secret| users(secret));
            if users.is_none() {
                let why = format!("no file holds the Secret {}/{secret} with its users", object.namespace);
                report.add(value, format!("{kind}: secret"), why);
            }
            let users = users.unwrap_or_default();
            let lines = users.lines().map(str::trim).filter(|line| !line.is_empty());
            Some(("users".to_owned(), list(value, lines.map(|line| text(value, line)).collect())))
        }
        _ => kept(name, value),
    })
}

/// `None` where they are not in it. Of `kubernetes.io/basic-auth`, whose password is in the clear, the name alone: nobody can log in by it.
fn users(secret: &Foreign) -> Option<String> {
    let plain = |key: &str| secret.find("stringData")?.find_text(key).map(ToOwned::to_owned);
    let encoded =
        |key: &str| String::from_utf8(STANDARD.decode(secret.find("data")?.find_text(key)?).ok()?).ok();
    let value = |key: &str| plain(key).or_else(|| encoded(key));
    match secret.find_text("type") {
        Some("kubernetes.io/basic-auth") => Some(format!("{}:", value("username")?)),
        // Traefik takes the only entry, whatever its name; it is mostly this one.
        _ => value("users").or_else(|| value("auth")),
    }
}
