//! `proxy_redirect`, `proxy_cookie_domain` and `proxy_cookie_path`: what upstreams say of their own place, as clients can use it.

use super::{
    parser::Directive,
    patterns,
    scope::Scope,
    values::{Piece, Purpose, Values, pieces},
    world::{World, filter},
};
use crate::convert::{
    draft::{List, Map},
    fields,
};

/// The filter that puts it right, where something is said of it.
pub(super) fn read(scope: &Scope<'_>, values: &Values, world: &mut World<'_>) -> Option<Map> {
    let mut rewrite = Map::new();
    let location = swaps("proxy_redirect", Purpose::Url, scope, values, world);
    if !location.is_empty() {
        rewrite.set("location", location);
    }
    let mut cookies = Map::new();
    for (name, key) in [("proxy_cookie_domain", "domain"), ("proxy_cookie_path", "path")] {
        let swaps = swaps(name, Purpose::Text, scope, values, world);
        if !swaps.is_empty() {
            cookies.set(key, swaps);
        }
    }
    if !cookies.is_empty() {
        rewrite.set("cookies", cookies);
    }
    (!rewrite.is_empty()).then(|| filter("rewrite", rewrite))
}

/// Both servers take the first that fits.
fn swaps(name: &str, purpose: Purpose, scope: &Scope<'_>, values: &Values, world: &mut World<'_>) -> List {
    let (mut swaps, all) = (List::new(), scope.all(name));
    if all.iter().any(|one| one.first() == "off") {
        return swaps;
    }
    for directive in all.into_iter().filter(|one| one.first() != "default") {
        match swap(directive, purpose, values) {
            Ok(swap) => swaps.push(swap),
            Err(why) => world.notes.leave(directive, why),
        }
    }
    swaps
}

fn swap(directive: &Directive, purpose: Purpose, values: &Values) -> Result<Map, String> {
    let (from, to) = (directive.first(), directive.argument(1));
    if let Some(pattern) = from.strip_prefix('~') {
        let (pattern, is_caseless) =
            pattern.strip_prefix('*').map_or((pattern, false), |pattern| (pattern, true));
        let pattern = patterns::regex(pattern, is_caseless)?;
        let to = with_groups(to, &pattern, purpose, values)?;
        return Ok(Map::new().with("pattern", fields::literal(&patterns::whole(&pattern))).with("to", to));
    }
    let from = values.constant(from).ok_or("what is replaced is not known before it comes")?;
    if from.is_empty() {
        return Err("it says nothing to look for".to_owned());
    }
    Ok(Map::new().with("from", fields::literal(&from)).with("to", values.filled(to, purpose)?))
}

/// The text with the groups of the expression beside what the request has.
fn with_groups(text: &str, pattern: &str, purpose: Purpose, values: &Values) -> Result<String, String> {
    let mut filled = String::new();
    let mut is_behind_group = false;
    for piece in pieces(&values.expanded(text)) {
        let is_group = |name: &str| name.parse::<u8>().is_ok() || pattern.contains(&format!("<{name}>"));
        match piece {
            Piece::Variable(name) if is_group(&name) => {
                filled.push_str(&format!("${name}"));
                is_behind_group = true;
                continue;
            }
            Piece::Variable(name) => filled.push_str(&values.filled(&format!("${{{name}}}"), purpose)?),
            Piece::Text(text) => {
                if is_behind_group && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                    return Err("a group cannot stand before a letter or a digit here".to_owned());
                }
                filled.push_str(&text.replace('{', "{{").replace('}', "}}").replace('$', "$$"));
            }
        }
        is_behind_group = false;
    }
    Ok(filled)
}
