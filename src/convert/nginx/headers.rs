//! Fields of requests and responses: `proxy_set_header`, `proxy_hide_header`, `add_header`, `expires`.

use super::{
    maps::{How, Mapping, holds},
    parser::Directive,
    scope::Scope,
    units,
    values::{Piece, Purpose, Values, pieces},
    world::{World, filter, list},
};
use crate::convert::{
    draft::{Map, Node},
    fields::{self, FRAMING},
};

const SOME_STATUSES: &str = "`add_header` without `always` (here in answers of every status)";
const NO_QUERY: &str =
    "`$args` in a field (here the field is there without a value where a request has no query)";
const EXPIRES: &str = "`expires` (here `cache-control` alone, in answers of every status)";

/// What one `headers` filter does in one direction.
#[derive(Default)]
struct Edits {
    remove: Vec<String>,
    set: Map,
    add: Map,
}

impl Edits {
    /// A field that cannot be written is taken off: upstreams believe what the gateway says there, and a client must not say it.
    fn forgo(&mut self, name: String, directive: &Directive, why: &str, world: &mut World<'_>) {
        world.notes.leave(directive, format!("{why}; what a client sends there is removed"));
        self.remove.push(name);
    }

    fn into_filter(self, direction: &str) -> Option<Map> {
        let mut edits = Map::new();
        if !self.remove.is_empty() {
            edits.set("remove", list(self.remove.iter().map(String::as_str)));
        }
        for (key, fields) in [("set", self.set), ("add", self.add)] {
            if !fields.is_empty() {
                edits.set(key, fields);
            }
        }
        (!edits.is_empty()).then(|| filter("headers", Map::new().with(direction, edits)))
    }
}

/// The filters that make what the upstream sees. `host` is `$proxy_host`; `spoken_for` are fields that another filter writes.
pub(super) fn of_requests(
    scope: &Scope<'_>,
    values: &Values,
    host: Option<&str>,
    is_grpc: bool,
    spoken_for: &[String],
    world: &mut World<'_>,
) -> Vec<Map> {
    let directives = scope.all(if is_grpc { "grpc_set_header" } else { "proxy_set_header" });
    let (mut filters, mut edits) = (Vec::new(), Edits::default());
    let mut own_host = host.map(str::to_owned);
    let mut names_host = false;
    for directive in directives {
        let name = directive.first().to_ascii_lowercase();
        let value = values.expanded(directive.argument(1));
        if name == "host" {
            names_host = true;
            own_host = of_host(&value, host, values, &mut edits, directive, world);
        } else if FRAMING.contains(&name.as_str()) {
            world.notes.needless(directive, "since connections, upgrades and framing are the gateway's own");
        } else if spoken_for.contains(&name) {
            // A filter that has verified the value writes it.
        } else if name.parse::<Name>().is_err() {
            world.notes.leave(directive, "that is no name of a field");
        } else if let Some(mapping) = mapping(&value, world) {
            match by_map(&name, &mapping, values, Direction::Request) {
                Ok(found) => filters.extend(found),
                Err(why) => edits.forgo(name, directive, &why, world),
            }
        } else {
            match value.as_str() {
                "" => edits.remove.push(name),
                "${remote_user}" => {
                    world.notes.differ(
                        directive,
                        "`$remote_user` where no password is asked for (the field is removed here)",
                    );
                    edits.remove.push(name);
                }
                "${proxy_add_x_forwarded_for}" => edits.set.set(&name, "{client_ip}"),
                "${proxy_host}" if host.is_some() => edits.set.set(&name, host.unwrap_or_default()),
                value => match values.filled(value, Purpose::Text) {
                    // The client's own stays as it is.
                    Ok(filled) if filled == format!("{{header.{name}}}") => {}
                    Ok(filled) if is_writable(&filled) => match presence(value) {
                        None => {
                            if filled == "{query}" {
                                world.notes.differ(directive, NO_QUERY);
                            }
                            edits.set.set(&name, filled);
                        }
                        Some(present) => {
                            let edit = |key: &str, fields: Node| {
                                filter("headers", Map::new().with("request", Map::new().with(key, fields)))
                            };
                            let set = edit("set", Map::new().with(&name, filled).into());
                            filters.push(set.with("when", present.clone()));
                            filters
                                .push(edit("remove", list([name.as_str()]).into()).with("unless", present));
                        }
                    },
                    Ok(_) => edits.forgo(name, directive, "that cannot stand in a field", world),
                    Err(why) => edits.forgo(name, directive, &why, world),
                },
            }
        }
    }
    if let (None, false, Some(pass)) = (host, names_host, scope.one("proxy_pass")) {
        world
            .notes
            .differ(pass, "`proxy_pass` to one of several (the upstream sees the client's `Host` here)");
    }
    if let Some(host) = own_host {
        filters.push(filter("rewrite", Map::new().with("host", host)));
    }
    filters.extend(edits.into_filter("request"));
    filters
}

/// The `Host` that is written; none where the client's stays, or an edit has it.
fn of_host(
    value: &str,
    proxy_host: Option<&str>,
    values: &Values,
    edits: &mut Edits,
    directive: &Directive,
    world: &mut World<'_>,
) -> Option<String> {
    let is_usual_port = matches!(values.port, Some(80 | 443));
    match value {
        "${http_host}" => None,
        "${host}" if is_usual_port => None,
        "${proxy_host}" => proxy_host.map(str::to_owned),
        value => match (values.constant(value), values.filled(value, Purpose::Text)) {
            (Some(constant), _) if is_writable(&constant) && !constant.is_empty() => {
                Some(fields::literal(&constant))
            }
            (None, Ok(filled)) => {
                edits.set.set("host", filled);
                None
            }
            // What nginx writes where it is told nothing: the client's own could be anything.
            (_, Err(why)) => {
                world.notes.leave(directive, why);
                proxy_host.map(str::to_owned)
            }
            _ => {
                world.notes.leave(directive, "that is no host");
                proxy_host.map(str::to_owned)
            }
        },
    }
}

/// The filters that make what the client sees.
pub(super) fn of_responses(
    scope: &Scope<'_>,
    values: &Values,
    is_grpc: bool,
    world: &mut World<'_>,
) -> Vec<Map> {
    let (mut filters, mut edits) = (Vec::new(), Edits::default());
    for directive in scope.all(if is_grpc { "grpc_hide_header" } else { "proxy_hide_header" }) {
        let name = directive.first().to_ascii_lowercase();
        match name.parse::<Name>() {
            Ok(_) if !FRAMING.contains(&name.as_str()) => edits.remove.push(name),
            _ => world.notes.leave(directive, "that field cannot be edited"),
        }
    }
    if let Some(value) = scope.one("expires").and_then(|directive| cache_control(directive, world)) {
        edits.set.set("cache-control", value);
    }
    for directive in scope.all("add_header") {
        let name = directive.first().to_ascii_lowercase();
        let value = values.expanded(directive.argument(1));
        if value.is_empty() {
            continue;
        }
        if FRAMING.contains(&name.as_str()) || name.parse::<Name>().is_err() {
            world.notes.leave(directive, "that field cannot be edited");
            continue;
        }
        if directive.argument(2) != "always" {
            world.notes.differ(directive, SOME_STATUSES);
        }
        if let Some(mapping) = mapping(&value, world) {
            match by_map(&name, &mapping, values, Direction::Response) {
                Ok(found) => filters.extend(found),
                Err(why) => world.notes.leave(directive, why),
            }
            continue;
        }
        let present = presence(&value);
        match values.filled(&value, Purpose::Text) {
            Ok(filled) if !is_writable(&filled) => {
                world.notes.leave(directive, "that cannot stand in a field")
            }
            // A second one of this name needs a filter of its own.
            Ok(filled) if edits.add.find(&name).is_some() || present.is_some() => {
                let add = Map::new().with("response", Map::new().with("add", Map::new().with(&name, filled)));
                let add = filter("headers", add);
                filters.push(present.into_iter().fold(add, |add, present| add.with("when", present)));
            }
            Ok(filled) => edits.add.set(&name, filled),
            Err(why) => world.notes.leave(directive, why),
        }
    }
    // What is removed is the upstream's, so this stands behind the others and sees its response first.
    filters.extend(edits.into_filter("response"));
    filters
}

/// Where a value is one of the request's own, which may be absent: nginx sends no field without a value.
fn presence(value: &str) -> Option<Map> {
    let parts = pieces(value);
    let [Piece::Variable(name)] = parts.as_slice() else { return None };
    let pattern = match name.split_once('_')? {
        ("http", of) if of != "host" => ".",
        ("arg", _) => ".",
        ("cookie", _) => "[^;]",
        _ => return None,
    };
    holds(name, &How::Regex { pattern, is_caseless: false }).ok()
}

fn cache_control(expires: &Directive, world: &mut World<'_>) -> Option<String> {
    let value = match expires.first() {
        "off" => return None,
        "epoch" => "no-cache".to_owned(),
        "max" => "max-age=315360000".to_owned(),
        text if text.starts_with('-') => "no-cache".to_owned(),
        text => match units::milliseconds(text) {
            Some(milliseconds) if expires.arguments.len() == 1 => format!("max-age={}", milliseconds / 1000),
            _ => {
                world.notes.leave(expires, "a response's age is a constant here");
                return None;
            }
        },
    };
    world.notes.differ(expires, EXPIRES);
    Some(value)
}

fn mapping<'f>(value: &str, world: &World<'f>) -> Option<Mapping<'f>> {
    match pieces(value).as_slice() {
        [Piece::Variable(name)] => world.maps.get(name).cloned(),
        _ => None,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Response,
}

/// A filter for each value. The strongest has the last word: requests pass it last, and responses, which go the other way, as well.
fn by_map(
    name: &str,
    mapping: &Mapping<'_>,
    values: &Values,
    direction: Direction,
) -> Result<Vec<Map>, String> {
    let mapping = mapping.usable()?;
    let edit = |value: &str| -> Result<Option<Map>, String> {
        let filled = values.filled(value, Purpose::Text)?;
        if !is_writable(&filled) {
            return Err("what the map says cannot stand in a field".to_owned());
        }
        let edits = match (filled.is_empty(), direction) {
            (true, Direction::Response) => return Ok(None),
            (true, Direction::Request) => Map::new().with("remove", list([name])),
            (false, _) => Map::new().with("set", Map::new().with(name, filled)),
        };
        let key = if direction == Direction::Request { "request" } else { "response" };
        Ok(Some(filter("headers", Map::new().with(key, edits))))
    };
    let mut filters: Vec<Map> = edit(&mapping.default)?.into_iter().collect();
    for (matching, value) in mapping.entries.iter().rev() {
        match edit(value)? {
            Some(filter) => filters.push(filter.with("when", matching.clone())),
            None if mapping.default.is_empty() => {}
            None => {
                return Err("a field that a map leaves out for some requests cannot be said here".to_owned());
            }
        }
    }
    if direction == Direction::Response {
        filters.reverse();
    }
    Ok(filters)
}

fn is_writable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A token (RFC 9110, section 5.6.2).
struct Name;

impl std::str::FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Name, ()> {
        let is_good = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        is_good.then_some(Name).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn a_field_that_cannot_be_written_is_not_taken_from_clients() {
        for (value, map) in
            [("$ssl_client_s_dn_legacy", ""), ("$roles", "map $ssl_client_serial $roles { default a; 1 b; }")]
        {
            let (file, left) = converted(&format!(
                "http {{ {map} server {{ listen 80; location / {{
                    proxy_set_header X-Roles {value}; proxy_pass http://10.0.0.1; }} }} }}"
            ));
            assert!(file.replace(char::is_whitespace, "").contains("remove:-x-roles"), "{file}");
            assert!(left.contains("what a client sends there is removed"), "{left}");
        }
    }

    #[test]
    fn a_host_that_cannot_be_written_is_the_upstreams() {
        let (file, _) = converted(
            "server { listen 80; location / { proxy_set_header Host $nobody; proxy_pass http://10.0.0.1; } }",
        );
        assert!(file.contains("host: \"10.0.0.1\""), "{file}");
    }
}
