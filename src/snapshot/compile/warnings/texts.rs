//! Values that are taken as they stand and were hardly meant so: variables of other gateways, and sizes in their units.

use super::{Step, View, Warning, warning};
use crate::config::{FilterUse, Path, VARIABLES};

/// The keys under which sizes stand.
const SIZES: [&str; 14] = [
    "body_size",
    "header_size",
    "filter_buffer",
    "body_limit",
    "body_buffer",
    "response_buffer",
    "min_size",
    "max_size",
    "max_body",
    "buffer",
    "memory",
    "size",
    "total_size",
    "min_rate",
];

pub(super) fn warnings(view: &View<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    view.sources.texts(&Path::root(), &mut |at, text| {
        let is_size = matches!(at.segments().last(), Some(crate::config::Segment::Key(key)) if SIZES.contains(&key.as_str()));
        if is_size && let Some((bytes, binary)) = decimal(text) {
            let message = format!("`{text}` is {bytes} bytes here; other gateways take it for {binary}");
            found.push(warning("decimal_size", at.clone(), message, format!("write `{binary}`, or `{bytes}`")));
        }
    });
    let config = view.config;
    for (_, route, at) in view.each_route() {
        if let Some(redirect) = &route.redirect {
            let key = if redirect.to.is_some() { "to" } else { "replace_prefix" };
            let at = match view.sources.is_text(&at.key("redirect")) {
                true => at.key("redirect"),
                false => at.key("redirect").key(key),
            };
            found.extend(variable(at, redirect.target()));
        }
        if let Some(respond) = &route.respond {
            let at = at.key("respond");
            for (name, value) in &respond.headers {
                let at = at.key("headers").key(name);
                found.extend(variable(at.clone(), value).or_else(|| unfilled(at, value)));
            }
        }
        for (uses, at) in view.chains(route, &at) {
            found.extend(of_filters(view, uses, &at));
        }
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        found.extend(of_filters(view, &listener.filters, &super::listener_at(index).key("filters")));
    }
    let mut known = std::collections::HashSet::new();
    found.retain(|warning| known.insert((warning.name, warning.at.clone())));
    found
}

fn of_filters(view: &View<'_>, uses: &[FilterUse], at: &Path) -> Vec<Warning> {
    view.steps(uses, at).iter().flat_map(of_filter).collect()
}

/// The options that are text for requests or responses.
fn of_filter(step: &Step) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut look = |at: Path, value: &serde_json::Value| {
        if let Some(text) = value.as_str() {
            found.extend(variable(at, text));
        }
    };
    match step.name.as_str() {
        "headers" => {
            for way in ["request", "response"] {
                for kind in ["set", "add"] {
                    let fields = step.options.get(way).and_then(|edits| edits.get(kind)?.as_object());
                    for (name, value) in fields.into_iter().flatten() {
                        look(step.at.key(way).key(kind).key(name), value);
                    }
                }
            }
        }
        "rewrite" => {
            for key in ["path", "host"] {
                if let Some(value) = step.options.get(key) {
                    look(step.at.key(key), value);
                }
            }
        }
        "redirect" => {
            if let Some(value) = step.options.get("to") {
                look(step.at.key("to"), value);
            }
        }
        _ => {}
    }
    if step.name == "rewrite"
        && let Some(host) = step.options.get("host").and_then(serde_json::Value::as_str)
    {
        found.extend(unfilled(step.at.key("host"), host));
    }
    found
}

/// `$host` and the like, which nobody fills in.
fn variable(at: Path, text: &str) -> Option<Warning> {
    let (variable, ours) = VARIABLES.iter().find(|(variable, _)| {
        text.split(variable)
            .nth(1)
            .is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })?;
    let message = format!("`{variable}` is sent as it stands: it is a variable of nginx's");
    Some(warning("foreign_variable", at, message, format!("write `{ours}`")))
}

/// Placeholders where none are filled in.
fn unfilled(at: Path, text: &str) -> Option<Warning> {
    let placeholder = [
        "{host}",
        "{path}",
        "{uri}",
        "{query}",
        "{client_ip}",
        "{scheme}",
        "{header.",
        "{cookie.",
        "{path.",
        "{claim.",
    ]
    .into_iter()
    .find(|placeholder| text.contains(placeholder))?;
    let message = format!("`{placeholder}` is sent as it stands: this value has no placeholders");
    Some(warning("placeholder_not_filled_in", at, message, "use a `headers` filter, whose values have them"))
}

/// What `10m` means in bytes, and what others mean by it.
fn decimal(text: &str) -> Option<(u64, String)> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (thousands, unit) = match &text[number.len()..] {
        "k" | "K" => (1_000, "KiB"),
        "m" | "M" => (1_000_000, "MiB"),
        "g" | "G" => (1_000_000_000, "GiB"),
        _ => return None,
    };
    let count: u64 = number.parse().ok()?;
    Some((count.checked_mul(thousands)?, format!("{count}{unit}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_without_a_b_are_those_of_other_gateways() {
        assert_eq!(decimal("10m"), Some((10_000_000, "10MiB".to_owned())));
        assert_eq!(decimal("64K"), Some((64_000, "64KiB".to_owned())));
        for plain in ["10MiB", "10MB", "10", "m", "1.5m", ""] {
            assert_eq!(decimal(plain), None, "{plain}");
        }
    }

    #[test]
    fn variables_are_known_as_whole_words() {
        let of = |text| variable(Path::root(), text).map(|warning| warning.hint);
        assert_eq!(of("https://$host$request_uri").as_deref(), Some("write `{uri}`"));
        assert_eq!(of("$hostess"), None);
        assert_eq!(of("costs $5"), None);
    }
}
