//! Filters that do nothing where they stand, or less than they seem to.

use http::Method;
use serde_json::Value;

use super::{Step, View, Warning, guards::GUARDS, listed, listener_at, warning};
use crate::{
    config::{ByteSize, Path, PathMatch, Protocol, Route},
    snapshot::Limits,
};

pub(super) fn warnings(view: &View<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (index, listener) in view.config.listeners.iter().enumerate() {
        let steps = view.steps(&listener.filters, &listener_at(index).key("filters"));
        found.extend(cors_behind_guard(&steps));
        found.extend(of_steps(&steps));
        if listener.protocol == Protocol::Http && listener.tls.is_some() {
            let redirects = steps.iter().filter(|step| step.name == "https_redirect");
            found.extend(redirects.map(|step| {
                let message = "this listener has TLS, so that nobody is ever redirected";
                let hint = "put it on the listener without TLS";
                warning("https_redirect_in_vain", step.at.clone(), message, hint)
            }));
        }
    }
    for (id, route, at) in view.each_route() {
        for (uses, filters_at) in view.chains(route, &at) {
            let steps = view.steps(uses, &filters_at);
            found.extend(cors_behind_guard(&steps));
            found.extend(cors_without_options(view, id, route, &steps, &at));
            found.extend(of_steps(&steps));
            for step in &steps {
                match step.name.as_str() {
                    "https_redirect" => found.extend(redirect_in_vain(view, id, step)),
                    "rewrite" => found.extend(strips_nothing(route, step)),
                    "body_limit" => found.extend(limited_before(view, id, step)),
                    _ => {}
                }
            }
        }
    }
    // A named chain may stand on many routes.
    let mut known = std::collections::HashSet::new();
    found.retain(|warning| known.insert((warning.name, warning.at.clone())));
    found
}

/// What is seen at one filter alone.
fn of_steps(steps: &[Step]) -> impl Iterator<Item = Warning> + '_ {
    steps.iter().flat_map(|step| match step.name.as_str() {
        "jwt" => for_anybody(step),
        "headers" => immutable_errors(step).into_iter().collect(),
        "rewrite" => without_group(step).into_iter().collect(),
        "ip_rules" => denies_everybody(step).into_iter().collect(),
        _ => Vec::new(),
    })
}

/// Of several issuers, each has its own audience.
fn for_anybody(step: &Step) -> Vec<Warning> {
    let is_given = |options: &Value| {
        let audience = options.get("audience");
        audience.is_some_and(|audience| audience.as_array().is_none_or(|names| !names.is_empty()))
    };
    let issuers = step.options.get("issuers").and_then(Value::as_array).filter(|issuers| !issuers.is_empty());
    let places: Vec<Path> = match issuers {
        None if is_given(&step.options) => Vec::new(),
        None => vec![step.at.clone()],
        Some(issuers) => {
            let lacking = issuers.iter().enumerate().filter(|(_, issuer)| !is_given(issuer));
            lacking.map(|(index, _)| step.at.key("issuers").index(index)).collect()
        }
    };
    let warn = |at| {
        let message = "without `audience` a token that was made for another service is good here as well";
        warning("jwt_without_audience", at, message, "add `audience: [api.example.com]`")
    };
    places.into_iter().map(warn).collect()
}

fn immutable_errors(step: &Step) -> Option<Warning> {
    let response = step.options.get("response")?;
    let set = ["set", "add"].iter().filter_map(|key| Some((*key, response.get(key)?.as_object()?)));
    let mut fields = set.flat_map(|(key, fields)| fields.iter().map(move |(name, value)| (key, name, value)));
    let (key, name, _) = fields.find(|(_, name, value)| {
        let is_immutable = value.as_str().is_some_and(|value| value.to_lowercase().contains("immutable"));
        name.eq_ignore_ascii_case("cache-control") && is_immutable
    })?;
    response.get("status").is_none().then(|| {
        let at = step.at.key("response").key(key).key(name);
        let message = "a 404 or 500 would be kept by browsers as well, for as long as this says";
        warning("immutable_errors", at, message, "add `status: 200-299` beside `set`")
    })
}

/// Browsers send preflights without credentials, so a guard before `cors` refuses them.
fn cors_behind_guard(steps: &[Step]) -> Option<Warning> {
    let cors = steps.iter().position(|step| step.name == "cors")?;
    let guard = steps[..cors].iter().find(|step| {
        let asks = GUARDS.contains(&step.name.as_str()) && step.name != "ip_rules";
        asks && !step.is_conditional && step.options.get("optional") != Some(&Value::Bool(true))
    })?;
    let message =
        format!("`{}` stands before `cors` and refuses preflights, which have no credentials", guard.name);
    let hint = format!("put `cors` before `{}`", guard.name);
    Some(warning("cors_behind_guard", steps[cors].at.clone(), message, hint))
}

/// Unless another route of the same path answers them.
fn cors_without_options(
    view: &View<'_>,
    id: usize,
    route: &Route,
    steps: &[Step],
    at: &Path,
) -> Option<Warning> {
    let methods = &route.matching.methods;
    steps.iter().find(|step| step.name == "cors")?;
    if methods.is_empty() || methods.iter().any(|method| method == "OPTIONS") {
        return None;
    }
    // They stand in the order of the file, by which they are numbered.
    let rule = &view.rules[view.rules.binary_search_by_key(&id, |rule| rule.id).ok()?];
    let examples = rule.path.examples();
    let answers = |index: usize| {
        let other = examples.first().and_then(|path| view.asked(index, rule, path, &Method::OPTIONS));
        other.is_some_and(|other| view.routes[other].chain.names().any(|name| name == "cors"))
    };
    (!view.serving(id).any(|(index, _)| answers(index))).then(|| {
        let message = "`cors` answers preflights, and this route takes no OPTIONS";
        warning("cors_without_options", at.key("match").key("methods"), message, "add `OPTIONS`")
    })
}

fn redirect_in_vain(view: &View<'_>, id: usize, step: &Step) -> Option<Warning> {
    let serving: Vec<_> = view.serving(id).map(|(_, listener)| listener).collect();
    let secure = serving.iter().filter(|listener| listener.tls.is_some()).count();
    let (message, hint) = match secure {
        _ if serving.is_empty() => return None,
        all if all == serving.len() => (
            "each listener that serves this route has TLS, so that nobody is ever redirected",
            "leave it out",
        ),
        0 if !view.config.listeners.iter().any(|listener| listener.tls.is_some()) => {
            ("no listener has TLS, so that nobody arrives where this leads", "add a listener with `tls`")
        }
        _ => return None,
    };
    Some(warning("https_redirect_in_vain", step.at.clone(), message, hint))
}

/// Neither may begin with the other.
fn strips_nothing(route: &Route, step: &Step) -> Option<Warning> {
    let strip = step.options.get("strip_prefix")?.as_str()?;
    let path = match route.matching.path.as_ref()? {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path.as_str(),
        PathMatch::Template(path) => path.split('{').next().unwrap_or_default(),
        PathMatch::Regex(_) => return None,
    };
    let (stripped, certain) = (strip.trim_end_matches('/'), path.trim_end_matches('/'));
    let begins = |text: &str, with: &str| {
        text.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // Of a template's last literal only a part may be certain.
    let is_open =
        matches!(route.matching.path, Some(PathMatch::Template(_))) && stripped.starts_with(certain);
    (!begins(certain, stripped) && !begins(stripped, certain) && !is_open).then(|| {
        let message =
            format!("no path of this route begins with `{strip}`: all begin with {}", listed(&[path]));
        warning(
            "strips_nothing",
            step.at.key("strip_prefix"),
            message,
            format!("write `strip_prefix: {certain}`"),
        )
    })
}

/// What a reference to a group that is not there is replaced with is nothing.
fn without_group(step: &Step) -> Option<Warning> {
    let regex = step.options.get("regex")?;
    let replacement = regex.get("replacement")?.as_str()?;
    let pattern = regex::Regex::new(regex.get("pattern")?.as_str()?).ok()?;
    let groups = pattern.captures_len() - 1;
    let is_there = |name: &str| match name.parse::<usize>() {
        Ok(number) => number <= groups,
        Err(_) => pattern.capture_names().flatten().any(|group| group == name),
    };
    let name = references(replacement).into_iter().find(|name| !is_there(name))?;
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    let hint = match digits {
        0 => format!("name a group of the pattern so: `(?P<{name}>...)`"),
        _ if digits < name.len() => format!("write `$${{{}}}{}`", &name[..digits], &name[digits..]),
        _ if groups == 0 => "put parentheses around what is meant: `(.*)`".to_owned(),
        _ => format!("write `$1`, or up to `${groups}`"),
    };
    let groups = match groups {
        0 => "no group".to_owned(),
        1 => "one group".to_owned(),
        more => format!("{more} groups"),
    };
    let message = format!("`${name}` stands for nothing: the pattern has {groups}, and none called so");
    Some(warning("replaced_with_nothing", step.at.key("regex").key("replacement"), message, hint))
}

/// The groups that a replacement names: `$1`, `${name}`. `$$` is a dollar sign.
fn references(replacement: &str) -> Vec<&str> {
    let (mut names, mut rest) = (Vec::new(), replacement);
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = match after.strip_prefix('{') {
            Some(inside) => inside.split_once('}').map_or("", |(name, _)| name),
            None => &after[..after.find(|c| !is_word(c)).unwrap_or(after.len())],
        };
        if !name.is_empty() {
            names.push(name);
        }
        rest = after;
    }
    names
}

/// `deny all` stands last in other gateways' lists, and says what `allow` alone says here.
fn denies_everybody(step: &Step) -> Option<Warning> {
    let list = |key: &str| step.options.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let (allow, deny) = (list("allow"), list("deny"));
    let (index, all) = deny.iter().enumerate().find_map(|(index, network)| {
        network.as_str().filter(|network| matches!(*network, "0.0.0.0/0" | "::/0")).map(|all| (index, all))
    })?;
    let is_of_a_kind =
        |network: &Value| network.as_str().is_some_and(|network| network.contains(':') == all.contains(':'));
    (!allow.is_empty() && allow.iter().all(is_of_a_kind)).then(|| {
        let message = "`deny` wins over `allow`, so that nobody is let in";
        let hint = "leave `deny` out: with `allow`, nobody else is let in";
        warning("denies_everybody", step.at.key("deny").index(index), message, hint)
    })
}

/// Listeners count before there is a route.
fn limited_before(view: &View<'_>, id: usize, step: &Step) -> Option<Warning> {
    let limit = serde_json::from_value::<ByteSize>(step.options.clone()).ok()?;
    let usual = if view.config.sidecar.is_some() { Limits::ENDLESS } else { Limits::BODY_SIZE };
    let sizes =
        view.serving(id).map(|(_, listener)| listener.limits.body_size.map_or(usual, ByteSize::bytes));
    let largest = sizes.max().filter(|largest| *largest < limit.bytes())?;
    let message = format!("the listener refuses bodies of more than {largest} bytes before this is asked");
    let hint = "give the listener `limits: {body_size: ...}` of at least as much";
    Some(warning("body_limit_in_vain", step.at.clone(), message, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_as_the_regex_crate_reads_them() {
        for (replacement, names) in [
            ("/b/$1", vec!["1"]),
            ("/$1a/${name}", vec!["1a", "name"]),
            ("/$$1", vec![]),
            ("/$", vec![]),
            ("/$1$2", vec!["1", "2"]),
        ] {
            assert_eq!(references(replacement), names, "{replacement}");
        }
    }
}
