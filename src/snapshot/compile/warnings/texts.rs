//! Values that are taken as they stand and were hardly meant so: variables of other gateways, and sizes in their units.

use super::{Step, View, Warning, listed, warning};
use crate::config::{ErrorPages, FilterUse, Path, Segment, VARIABLES, suggest};

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
        let is_size =
            matches!(at.segments().last(), Some(Segment::Key(key)) if SIZES.contains(&key.as_str()));
        if is_size && let Some((bytes, binary)) = decimal(text) {
            let message = format!("`{text}` is {bytes} bytes here; other gateways take it for {binary}");
            found.push(warning(
                "decimal_size",
                at.clone(),
                message,
                format!("write `{binary}`, or `{bytes}`"),
            ));
        }
    });
    let config = view.config;
    found.extend(names_of_files(&config.error_pages, &Path::root().key("error_pages")));
    for (id, route, at) in view.each_route() {
        found.extend(names_of_files(&route.error_pages, &at.key("error_pages")));
        found.extend(unknown_captures(view, id, &at.key("redirect")));
        if let Some(redirect) = &route.redirect {
            let key = if redirect.to.is_some() { "to" } else { "replace_prefix" };
            let at = match view.sources.is_text(&at.key("redirect")) {
                true => at.key("redirect"),
                false => at.key("redirect").key(key),
            };
            found.extend(variables(at, redirect.target()));
        }
        if let Some(respond) = &route.respond {
            let at = at.key("respond");
            for (name, value) in &respond.headers {
                let at = at.key("headers").key(name);
                found.extend(variables(at.clone(), value).or_else(|| unfilled(at, value)));
            }
            found.extend(in_body(at.key("body"), &respond.body));
        }
        for (uses, at) in view.chains(route, &at) {
            found.extend(of_filters(view, uses, &at));
            let filled = |step: &Step| ["headers", "rewrite", "redirect"].contains(&step.name.as_str());
            for step in view.steps(uses, &at).into_iter().filter(filled) {
                found.extend(unknown_captures(view, id, &step.at));
            }
        }
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let at = super::listener_at(index);
        found.extend(of_filters(view, &listener.filters, &at.key("filters")));
        found.extend(names_of_files(&listener.error_pages, &at.key("error_pages")));
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
            found.extend(variables(at, text));
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

/// `$host`, `%REQ(...)%` and the like, which nobody fills in: all that stand in one value.
fn variables(at: Path, text: &str) -> Option<Warning> {
    let found = foreign(text);
    let names: Vec<&str> = found.iter().map(|(variable, _)| variable.as_str()).collect();
    let ours: Vec<&str> = found.iter().filter_map(|(_, ours)| ours.as_deref()).collect();
    let message = match names.as_slice() {
        [] => return None,
        [one] => format!("`{one}` is sent as it stands: it is a variable of another gateway's"),
        _ => format!("{} are sent as they stand: they are variables of another gateway's", listed(&names)),
    };
    let hint = match ours.is_empty() {
        true => "write a placeholder, such as `{client_ip}`".to_owned(),
        false => format!("write {}", listed(&ours)),
    };
    Some(warning("foreign_variable", at, message, hint))
}

/// The same in a body, which has no placeholders either. Of a page, nobody knows what its scripts make of it.
fn in_body(at: Path, text: &str) -> Option<Warning> {
    const LONGEST: usize = 200;
    let is_page = text.len() > LONGEST || text.contains('<');
    let found = variables(at, text).filter(|_| !is_page)?;
    Some(Warning { hint: "leave it out: nothing is filled in in a body".to_owned(), ..found })
}

/// Variables of other gateways in the order of the text, and the placeholders that are filled in with the same.
fn foreign(text: &str) -> Vec<(String, Option<String>)> {
    let ends = |after: &str| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let mut found: Vec<(usize, String, Option<String>)> = Vec::new();
    for (variable, ours) in VARIABLES {
        if let Some((at, _)) = text.match_indices(variable).find(|(at, _)| ends(&text[at + variable.len()..]))
        {
            found.push((at, variable.to_owned(), Some(ours.to_owned())));
        }
    }
    for (at, _) in text.match_indices('%') {
        found.extend(of_envoy(&text[at + 1..]).map(|(variable, ours)| (at, variable, ours)));
    }
    // Of Go, as Traefik and Helm have them; two braces are a literal one here.
    for (at, _) in text.match_indices("{{") {
        let inside = text[at + 2..].split_once("}}").map(|(inside, _)| inside.trim());
        if let Some(inside) = inside.filter(|inside| inside.starts_with('.')) {
            found.push((at, format!("{{{{ {inside} }}}}"), None));
        }
    }
    found.sort_by_key(|(at, ..)| *at);
    found.into_iter().map(|(_, variable, ours)| (variable, ours)).collect()
}

/// What stands behind a `%` that begins `%REQ(:AUTHORITY)%`, or HAProxy's `%[src]`.
fn of_envoy(rest: &str) -> Option<(String, Option<String>)> {
    if let Some((inside, _)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && inside.starts_with(|c: char| c.is_ascii_lowercase())
    {
        let ours = (inside == "src").then(|| "{client_ip}".to_owned());
        return Some((format!("%[{inside}]"), ours));
    }
    let (inside, _) = rest.split_once('%')?;
    let (name, argument) = inside.split_once('(').unwrap_or((inside, ""));
    let is_command = name.len() > 2 && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if !is_command || !inside.contains(['_', '(']) {
        return None;
    }
    let ours = match (name, argument.trim_end_matches(')')) {
        (name, _) if name.starts_with("DOWNSTREAM_REMOTE_ADDRESS") => Some("{client_ip}".to_owned()),
        ("REQ", ":AUTHORITY") => Some("{authority}".to_owned()),
        ("REQ", ":METHOD") => Some("{method}".to_owned()),
        ("REQ", ":PATH") => Some("{uri}".to_owned()),
        ("REQ", field) if !field.starts_with(':') && !field.contains('?') && !field.is_empty() => {
            Some(format!("{{header.{}}}", field.to_ascii_lowercase()))
        }
        _ => None,
    };
    Some((format!("%{inside}%"), ours))
}

/// `{path.NAME}` of a name that no template of the route has.
fn unknown_captures(view: &View<'_>, id: usize, below: &Path) -> Vec<Warning> {
    let rules = view.rules.iter().filter(|rule| rule.id == id);
    let known: Vec<&str> = rules.flat_map(|rule| rule.path.captures()).collect();
    let mut found = Vec::new();
    view.sources.texts(below, &mut |at, text| {
        // A chain or a default is for other routes as well.
        let is_own = matches!(at.segments().first(), Some(Segment::Key(key)) if key == "routes");
        // Two braces are a literal one.
        let places = text.match_indices("{path.").filter(|(at, _)| is_own && !text[..*at].ends_with('{'));
        let names = places.filter_map(|(at, opening)| text[at + opening.len()..].split_once('}'));
        for (name, _) in names.filter(|(name, _)| !known.contains(name)) {
            let message =
                format!("`{{path.{name}}}` is always empty: the path of this route captures no `{name}`");
            let hint = match suggest(name, known.iter().copied()).or_else(|| known.first().copied()) {
                Some(near) => format!("write `{{path.{near}}}`"),
                None => format!("match on a template: `path: {{template: \"/a/{{{name}}}\"}}`"),
            };
            found.push(warning("unknown_capture", at.clone(), message, hint));
        }
    });
    found
}

/// A page that is the name of its file.
fn names_of_files(pages: &ErrorPages, at: &Path) -> Vec<Warning> {
    let is_name = |text: &str| {
        [".html", ".htm", ".txt", ".json"].iter().any(|end| text.ends_with(end))
            && !text.contains(|c: char| c.is_whitespace() || c == '<')
    };
    let named = pages
        .iter()
        .filter_map(|(key, page)| Some((key, page.html.as_deref().filter(|text| is_name(text))?)));
    named
        .map(|(key, file)| {
            let message = format!("clients would read `{file}`, and not what is in the file");
            warning("page_is_a_path", at.key(key), message, format!("write `\"${{file:{file}}}\"`"))
        })
        .collect()
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
        let of = |text| variables(Path::root(), text).map(|warning| warning.hint);
        for (text, hint) in [
            ("https://$host$request_uri", "write `{host}`, `{uri}`"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "write `{client_ip}`"),
            ("%REQ(:AUTHORITY)%", "write `{authority}`"),
            ("%REQ(X-A)%", "write `{header.x-a}`"),
            ("%[src]", "write `{client_ip}`"),
            ("{{ .ClientIP }}", "write a placeholder, such as `{client_ip}`"),
            ("$host and {{ .Request.Host }}", "write `{host}`"),
        ] {
            assert_eq!(of(text).as_deref(), Some(hint), "{text}");
        }
        for text in ["50%", "%20A%20", "{{host}}", "{host}"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(of("$hostess"), None);
        assert_eq!(of("costs $5"), None);
    }
}
