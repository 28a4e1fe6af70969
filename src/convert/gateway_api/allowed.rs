//! `allowedRoutes` of a listener: which kinds of routes, and of which namespaces.

use std::collections::BTreeMap;

use super::gateways::Speaks;
use crate::{
    config::Foreign,
    convert::fields::{Fields, Report},
};

/// Whose routes may be attached.
#[derive(Debug)]
pub(crate) enum From<'f> {
    Same,
    All,
    None,
    Selector(&'f Foreign),
}

pub(crate) fn allowed_routes<'f>(
    allowed: Option<&'f Foreign>,
    speaks: Speaks,
    report: &mut Report,
) -> (From<'f>, Vec<&'f str>) {
    let by_default: &[&str] = match speaks {
        Speaks::Http | Speaks::Https => &["HTTPRoute", "GRPCRoute"],
        Speaks::Tls => &["TLSRoute", "TCPRoute"],
        Speaks::Passthrough => &["TLSRoute"],
        Speaks::Tcp => &["TCPRoute"],
    };
    let Some(allowed) = allowed else { return (From::Same, by_default.to_vec()) };
    let mut fields = Fields::of("allowedRoutes", allowed, report);
    let kinds = fields.list("kinds", report);
    let namespaces = fields.take("namespaces");
    fields.finish("it has no equal here", report);
    let selector = namespaces.and_then(|namespaces| namespaces.find("selector"));
    let from =
        match (namespaces.and_then(|namespaces| namespaces.find_text("from")).unwrap_or("Same"), selector) {
            ("All", _) => From::All,
            ("Same", _) => From::Same,
            ("Selector", Some(selector)) => From::Selector(selector),
            ("None", _) => From::None,
            _ => {
                report.entry(
                    "namespaces",
                    namespaces.unwrap_or(allowed),
                    "no route is attached: All, Same, None, or Selector with a selector",
                );
                From::None
            }
        };
    if kinds.is_empty() {
        return (from, by_default.to_vec());
    }
    let mut allowed = Vec::new();
    for kind in kinds {
        match kind.find_text("kind").filter(|kind| by_default.contains(kind)) {
            Some(kind) => allowed.push(kind),
            None => report.entry("kinds", kind, "a listener of this protocol takes no such routes"),
        }
    }
    (from, allowed)
}

/// A label selector of Kubernetes: `matchLabels` and `matchExpressions`, all of which must hold.
pub(crate) fn selects(selector: &Foreign, namespace: &str, namespaces: &BTreeMap<&str, &Foreign>) -> bool {
    let labels = namespaces.get(namespace);
    let label = |name: &str| match name {
        "kubernetes.io/metadata.name" => Some(namespace),
        _ => labels.and_then(|labels| labels.find_text(name)),
    };
    let exact = selector.find("matchLabels").map_or(&[][..], Foreign::entries);
    let expressions = selector.find("matchExpressions").map_or(&[][..], Foreign::items);
    exact.iter().all(|(name, value)| label(name) == value.text())
        && expressions.iter().all(|expression| {
            let found = expression.find_text("key").and_then(label);
            let values = expression.find("values").map_or(&[][..], Foreign::items);
            let is_in = found.is_some_and(|found| values.iter().any(|value| value.text() == Some(found)));
            match expression.find_text("operator") {
                Some("In") => is_in,
                Some("NotIn") => !is_in,
                Some("Exists") => found.is_some(),
                Some("DoesNotExist") => found.is_none(),
                _ => false,
            }
        })
}
