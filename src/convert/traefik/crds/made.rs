//! Values that no file holds as they are, with the place of what they are made of.

use std::sync::Arc;

use crate::config::{Foreign, ForeignValue};

fn made(at: &Foreign, value: ForeignValue) -> Foreign {
    Foreign { file: Arc::clone(&at.file), line: at.line, value }
}

pub(super) fn text(at: &Foreign, text: impl Into<String>) -> Foreign {
    made(at, ForeignValue::Text(text.into()))
}

pub(super) fn list(at: &Foreign, items: Vec<Foreign>) -> Foreign {
    made(at, ForeignValue::List(items))
}

pub(super) fn map(at: &Foreign, entries: Vec<(String, Foreign)>) -> Foreign {
    made(at, ForeignValue::Map(entries))
}

/// A map with one entry.
pub(super) fn entry(at: &Foreign, name: &str, value: Foreign) -> Foreign {
    map(at, vec![(name.to_owned(), value)])
}

/// The entries of a map, some of them said in other words; `None` leaves one out. What is no map stays, for its reader to refuse.
pub(super) fn edited(
    value: &Foreign,
    mut edit: impl FnMut(&str, &Foreign) -> Option<(String, Foreign)>,
) -> Foreign {
    if !matches!(value.value, ForeignValue::Map(_)) {
        return value.clone();
    }
    map(value, value.entries().iter().filter_map(|(name, value)| edit(name, value)).collect())
}

pub(super) fn kept(name: &str, value: &Foreign) -> Option<(String, Foreign)> {
    Some((name.to_owned(), value.clone()))
}

/// Whether they say the same, wherever they stand.
pub(super) fn are_alike(one: &Foreign, other: &Foreign) -> bool {
    match (&one.value, &other.value) {
        (ForeignValue::List(one), ForeignValue::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| are_alike(one, other))
        }
        (ForeignValue::Map(one), ForeignValue::Map(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|((name, one), (key, other))| name == key && are_alike(one, other))
        }
        (one, other) => one == other,
    }
}

/// Where a file of a Secret or a ConfigMap is mounted.
pub(super) fn file(at: &Foreign, namespace: &str, name: &str, file: &str) -> Foreign {
    // Names of Kubernetes hold no slashes; what else stands here leads nowhere else.
    let segment = |text: &str| text.replace(['/', '\\'], "_").replace("..", "_");
    text(at, format!("certs/{}/{}/{file}", segment(namespace), segment(name)))
}

/// The certificate in a Secret.
pub(super) fn certificate(at: &Foreign, namespace: &str, secret: &str) -> Foreign {
    let of = |name: &str| file(at, namespace, secret, name);
    map(at, vec![("certFile".to_owned(), of("tls.crt")), ("keyFile".to_owned(), of("tls.key"))])
}
