//! Which location takes a request: nginx's order, said in the order of routes.
//!
//! nginx: the exact path; the longest prefix, if it says `^~`; the first expression in the file; the longest prefix. A prefix there
//! is bytes and no segments. Routes: the exact path; expressions in the order of the file; the longest prefix, of whole segments.
//! So a prefix that must go before an expression, or that ends within a segment, becomes an expression at the right place.

use std::collections::HashSet;

use super::{
    notes::Notes,
    parser::Directive,
    patterns::{self, PathMatch},
    scope::Scope,
};

/// A location, where all that is inside it stands, and what leads to it.
#[derive(Clone, Debug)]
pub(super) struct Location<'f> {
    pub(super) directive: &'f Directive,
    pub(super) scope: Scope<'f>,
    pub(super) path: PathMatch,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Exact(String),
    Prefix(String),
    Regex(String),
}

/// In the order in which their routes stand. Named locations are not among them: no request gets there by its path.
pub(super) fn locations<'f>(scope: &Scope<'f>, notes: &mut Notes) -> Vec<Location<'f>> {
    ordered(scope, &Around { prefix: "", is_regex: false }, notes)
}

/// The location around a block: all inside begin with its prefix, and go before it.
struct Around<'t> {
    prefix: &'t str,
    is_regex: bool,
}

fn ordered<'f>(scope: &Scope<'f>, around: &Around<'_>, notes: &mut Notes) -> Vec<Location<'f>> {
    let mut level = Level::read(scope, around.prefix, notes);
    level.prefixes.sort_by_key(|found| std::cmp::Reverse(found.text.len()));
    let has_regexes = !level.regexes.is_empty();
    // Those that go before the expressions, and whatever is longer and begins with one of them.
    let goes_first =
        |found: &Prefix| has_regexes && (found.goes_first || !found.scope.inside_regexes().is_empty());
    let first: HashSet<String> =
        level.prefixes.iter().filter(|found| goes_first(found)).map(|found| found.text.clone()).collect();
    let ends_in_a_segment: HashSet<String> = level
        .prefixes
        .iter()
        .filter(|found| !found.text.ends_with('/') || !patterns::is_plain(&found.text))
        .map(|found| found.text.clone())
        .collect();
    let (mut exact, mut before, mut behind, mut plain) = (level.exact, Vec::new(), Vec::new(), Vec::new());
    for found in level.prefixes {
        let starts = || found.text.char_indices().map(|(at, c)| &found.text[..at + c.len_utf8()]);
        let begins_with_one_of =
            |texts: &HashSet<String>| !texts.is_empty() && starts().any(|start| texts.contains(start));
        let has_inner_regexes = !found.scope.inside_regexes().is_empty();
        let must_be_first = begins_with_one_of(&first);
        let as_regex =
            around.is_regex || must_be_first || has_inner_regexes || begins_with_one_of(&ends_in_a_segment);
        let inner = ordered(&found.scope, &Around { prefix: &found.text, is_regex: as_regex }, notes);
        let (of_exact, inner): (Vec<_>, Vec<_>) =
            inner.into_iter().partition(|one| matches!(one.kind, Kind::Exact(_)));
        exact.extend(of_exact);
        if must_be_first && !goes_first(&found) {
            notes.differ(
                found.directive,
                "expressions of other locations take no requests for a prefix that lies within one of `^~`",
            );
        }
        let path = if as_regex { regex_of(&found.text) } else { PathMatch::Prefix(found.text.clone()) };
        let own =
            Location { directive: found.directive, scope: found.scope, path, kind: Kind::Prefix(found.text) };
        let to = if must_be_first {
            &mut before
        } else if as_regex {
            &mut behind
        } else {
            &mut plain
        };
        to.extend(inner);
        to.push(own);
    }
    [exact, before, level.regexes, behind, plain].into_iter().flatten().collect()
}

struct Level<'f> {
    exact: Vec<Location<'f>>,
    regexes: Vec<Location<'f>>,
    prefixes: Vec<Prefix<'f>>,
}

struct Prefix<'f> {
    directive: &'f Directive,
    scope: Scope<'f>,
    text: String,
    goes_first: bool,
}

impl<'f> Level<'f> {
    fn read(scope: &Scope<'f>, prefix: &str, notes: &mut Notes) -> Level<'f> {
        let mut level = Level { exact: Vec::new(), regexes: Vec::new(), prefixes: Vec::new() };
        for directive in scope.own().iter().filter(|one| one.name == "location") {
            let texts: Vec<&str> = directive.texts().collect();
            let glued = |text: &'f str| {
                ["^~", "~*", "~", "="].iter().find_map(|sign| Some((*sign, text.strip_prefix(sign)?)))
            };
            let (sign, path) = match directive.arguments.as_slice() {
                [path] => glued(&path.text).unwrap_or(("", &path.text)),
                [_, path] => (texts[0], path.text.as_str()),
                _ => {
                    notes.leave(directive, "a location has one path");
                    continue;
                }
            };
            let scope = scope.inside(directive.read().inside());
            let is_caseless = match sign {
                "=" => {
                    let path_match = if patterns::is_plain(path) || path == "/" {
                        PathMatch::Exact(path.to_owned())
                    } else {
                        exactly(path)
                    };
                    level.exact.push(Location {
                        directive,
                        scope,
                        path: path_match,
                        kind: Kind::Exact(path.to_owned()),
                    });
                    continue;
                }
                "" if path.starts_with('@') => {
                    continue;
                }
                "" | "^~" if path.starts_with('/') && path.starts_with(prefix) => {
                    level.prefixes.push(Prefix {
                        directive,
                        scope,
                        text: path.to_owned(),
                        goes_first: sign == "^~",
                    });
                    continue;
                }
                "~" => false,
                "~*" => true,
                _ => {
                    notes.leave(directive, "no request has such a path");
                    continue;
                }
            };
            let own = if prefix.is_empty()
                || prefix == "/"
                || patterns::literal_start(path).is_some_and(|start| start.starts_with(prefix))
            {
                path.to_owned()
            } else if let Some(rest) = path.strip_prefix('^') {
                notes.leave(directive, format!("no path below {prefix} is seen to begin with {rest:?}"));
                continue;
            } else {
                format!("^{}.*(?:{path})", escaped(prefix))
            };
            match patterns::regex(&own, is_caseless) {
                Ok(pattern) => level.regexes.push(Location {
                    directive,
                    scope,
                    path: PathMatch::Regex(pattern.clone()),
                    kind: Kind::Regex(pattern),
                }),
                Err(why) => notes.leave(directive, why),
            }
        }
        level
    }
}

fn regex_of(prefix: &str) -> PathMatch {
    PathMatch::Regex(format!("^{}", escaped(prefix)))
}

/// A path that the match `exact` would refuse or change.
fn exactly(path: &str) -> PathMatch {
    PathMatch::Regex(format!("^{}$", escaped(path)))
}

fn escaped(path: &str) -> String {
    // Only what has a meaning: escaping more is right as well, and hard to read.
    patterns::encoded(path)
        .chars()
        .map(|c| if "\\.+*?()|[]{}^$".contains(c) { format!("\\{c}") } else { c.to_string() })
        .collect()
}

impl Scope<'_> {
    fn inside_regexes(&self) -> Vec<&Directive> {
        self.own().iter().filter(|one| one.name == "location" && one.first().starts_with('~')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::nginx::parser;

    fn paths(server: &str) -> (Vec<String>, usize) {
        let file = parser::parsed(server).unwrap();
        let mut notes = Notes::default();
        let found = locations(&Scope::new(&file), &mut notes);
        let shown = found.iter().map(|one| match &one.path {
            PathMatch::Exact(path) => format!("= {path}"),
            PathMatch::Prefix(path) => path.clone(),
            PathMatch::Regex(path) => format!("~ {path}"),
            PathMatch::Template(path) => format!("t {path}"),
        });
        (shown.collect(), notes.into_left().len())
    }

    #[test]
    fn plain_prefixes_stay_prefixes() {
        let (found, _) = paths("location / {} location /a/ {} location = / {} location @x {}");
        assert_eq!(found, ["= /", "/a/", "/"]);
    }

    #[test]
    fn a_prefix_that_ends_in_a_segment_takes_bytes_and_lets_longer_ones_go_first() {
        let (found, _) = paths("location / {} location /api {} location /api/v1/ {} location /b/ {}");
        assert_eq!(found, ["~ ^/api/v1/", "~ ^/api", "/b/", "/"]);
    }

    #[test]
    fn expressions_go_before_prefixes_and_behind_those_that_say_so() {
        let (found, _) = paths(
            "location / {} location ~ \\.php$ {} location ^~ /static/ {} location ~* \\.PNG$ {} location /x/ {}",
        );
        assert_eq!(found, ["~ ^/static/", "~ \\.php$", "~ (?i)\\.PNG$", "/x/", "/"]);
    }

    #[test]
    fn locations_in_locations_go_first() {
        let (found, _) = paths(
            "location /a/ { location ~ \\.txt$ {} location /a/b/ {} location = /a/c {} } location / {}",
        );
        assert_eq!(found, ["= /a/c", "~ ^/a/.*(?:\\.txt$)", "~ ^/a/b/", "~ ^/a/", "/"]);
    }

    #[test]
    fn what_no_route_can_say_is_left() {
        let (found, left) = paths("location ~ (?!a)b {} location x {} location / {}");
        assert_eq!((found, left), (vec!["/".to_owned()], 2));
    }
}
