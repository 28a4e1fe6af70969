//! Which location takes a request: nginx's order, said in the order of routes.
//!
//! nginx: the exact path; the longest prefix, if it says `^~`; the first expression in the file; the longest prefix. A prefix there
//! is bytes and no segments. Routes: the exact path; expressions in the order of the file; the longest prefix, of whole segments.
//! So a prefix that must go before an expression, or that ends within a segment, becomes an expression at the right place.

use std::collections::HashSet;

use super::{
    confined::{Confined, confined, escaped, widened},
    guards,
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
    /// It keeps clients out in a way that cannot be said here: it answers 403.
    pub(super) is_closed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Exact(String),
    Prefix(String),
    Regex(String),
}

/// In the order in which their routes stand. Named locations are not among them: no request gets there by its path.
pub(super) fn locations<'f>(scope: &Scope<'f>, notes: &mut Notes) -> Vec<Location<'f>> {
    let Tiers { exact, first, last } = ordered(scope, &Around { prefix: "", is_regex: false }, notes);
    let mut found: Vec<Location<'f>> = [exact, first, last].into_iter().flatten().collect();
    // What was put before a prefix once more, and is the same for all paths.
    let mut known = HashSet::new();
    found.retain(|one| known.insert((std::ptr::from_ref(one.directive), format!("{:?}", one.path))));
    found
}

/// The location around a block: all inside begin with its prefix, and go before it.
struct Around<'t> {
    prefix: &'t str,
    is_regex: bool,
}

/// The locations of one block, in the order in which they are asked.
#[derive(Default)]
struct Tiers<'f> {
    exact: Vec<Location<'f>>,
    /// Prefixes that say so, and expressions.
    first: Vec<Location<'f>>,
    /// Prefixes, which expressions further out go before.
    last: Vec<Location<'f>>,
}

fn ordered<'f>(scope: &Scope<'f>, around: &Around<'_>, notes: &mut Notes) -> Tiers<'f> {
    let mut level = Level::read(scope, around.prefix, notes);
    level.prefixes.sort_by_key(|found| std::cmp::Reverse(found.text.len()));
    let texts_of = |is_meant: &dyn Fn(&Prefix) -> bool| {
        let meant = level.prefixes.iter().filter(|found| is_meant(found));
        meant.map(|found| found.text.clone()).collect::<HashSet<String>>()
    };
    let has_regexes = !level.regexes.is_empty();
    // In front of what is longer and begins with one of these stands something that takes its requests as well.
    let in_front = texts_of(&|found| found.goes_first && has_regexes || has_inner_regexes(&found.scope));
    let ends_in_a_segment = texts_of(&|found| !found.text.ends_with('/') || !patterns::is_plain(&found.text));
    // Those inside one may be expressions, and take nothing from what is longer and stands outside.
    let nesting = texts_of(&|found| found.scope.own().iter().any(|one| one.name == "location"));
    let (mut exact, mut before, mut behind, mut plain) = (level.exact, Vec::new(), Vec::new(), Vec::new());
    for found in level.prefixes {
        let begins_with_one_of = |texts: &HashSet<String>, longest: usize| {
            let mut starts = found.text.char_indices().map(|(at, c)| at + c.len_utf8());
            !texts.is_empty() && starts.any(|end| end <= longest && texts.contains(&found.text[..end]))
        };
        let whole = found.text.len();
        let as_regex = around.is_regex
            || begins_with_one_of(&in_front, whole)
            || begins_with_one_of(&nesting, whole - 1)
            || begins_with_one_of(&ends_in_a_segment, whole);
        let inner = ordered(&found.scope, &Around { prefix: &found.text, is_regex: as_regex }, notes);
        exact.extend(inner.exact);
        let path = if as_regex { regex_of(&found.text) } else { PathMatch::Prefix(found.text.clone()) };
        let is_behind_another = begins_with_one_of(&in_front, whole - 1);
        let own = Location {
            directive: found.directive,
            scope: found.scope,
            path,
            kind: Kind::Prefix(found.text),
            is_closed: false,
        };
        let last = inner.last.into_iter().chain([own]);
        if found.goes_first && has_regexes {
            before.extend(inner.first.into_iter().chain(last));
            continue;
        }
        // Expressions further out are asked before any prefix in here.
        inner.first.into_iter().for_each(|one| with_regexes(one, &level.regexes, &mut before, notes));
        if is_behind_another {
            last.for_each(|one| with_regexes(one, &level.regexes, &mut before, notes));
        } else if as_regex {
            behind.extend(last);
        } else {
            plain.extend(last);
        }
    }
    before.append(&mut level.regexes);
    behind.append(&mut plain);
    Tiers { exact, first: before, last: behind }
}

/// So many locations stand before a block's expressions, at most, with the expressions that are written once more.
const MOST_BEFORE: usize = 512;

/// A prefix that stands before the expressions which nginx asks first: they go before it once more, for its paths alone.
fn with_regexes<'f>(
    mut location: Location<'f>,
    regexes: &[Location<'f>],
    to: &mut Vec<Location<'f>>,
    notes: &mut Notes,
) {
    if let Kind::Prefix(prefix) = &location.kind {
        if !regexes.is_empty() && to.len() + regexes.len() > MOST_BEFORE {
            notes.leave(
                location.directive,
                format!("more than {MOST_BEFORE} locations would stand before expressions: until that is solved it answers 403"),
            );
            location.is_closed = true;
            return to.push(location);
        }
        for regex in regexes {
            let Kind::Regex(pattern) = &regex.kind else { continue };
            let is_guarded = regex.is_closed || guards::first_of(regex.scope.own()).is_some();
            let pattern = match confined(pattern, prefix, is_guarded) {
                Confined::Is(pattern) => pattern,
                Confined::Never => continue,
                // It takes paths of others then, which is better than to let clients in.
                Confined::Unknown if is_guarded => {
                    notes.differ(location.directive, UNCONFINED);
                    pattern.clone()
                }
                Confined::Unknown => {
                    notes.differ(location.directive, UNASKED);
                    continue;
                }
            };
            to.push(Location { path: PathMatch::Regex(pattern), ..regex.clone() });
        }
    }
    to.push(location);
}

const UNCONFINED: &str =
    "a guarded expression that may take its paths and others is asked before it, for all paths";

const UNASKED: &str = "an expression that may take its paths and others is not asked before a prefix that lies within one of `^~`, or of nested expressions";

fn has_inner_regexes(scope: &Scope<'_>) -> bool {
    fn has(block: &[Directive]) -> bool {
        let mut inner = block.iter().filter(|one| one.name == "location");
        inner.any(|one| one.first().starts_with('~') || has(one.inside()))
    }
    has(scope.own())
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
                        is_closed: false,
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
            let guard = guards::first_of(scope.own());
            let own = match confined(path, prefix, guard.is_some()) {
                Confined::Is(own) => Ok(own),
                Confined::Never => {
                    notes.leave(directive, format!("no path below {prefix} is seen to begin so"));
                    continue;
                }
                Confined::Unknown => Err(format!("which paths below {prefix} it takes is not seen")),
            };
            let said = own.clone().and_then(|own| patterns::regex(&own, is_caseless));
            let pattern = match (&said, guard) {
                (Ok(pattern), _) => pattern.clone(),
                (Err(why), None) => {
                    notes.leave(directive, why.as_str());
                    continue;
                }
                (Err(why), Some(_)) => {
                    let wider = own.and_then(|own| patterns::regex(&widened(&own), is_caseless));
                    let pattern = wider.unwrap_or_else(|_| format!("^{}", escaped(prefix)));
                    notes.leave(
                        directive,
                        format!("{why}; until that is solved all paths that {pattern:?} takes answer 403"),
                    );
                    pattern
                }
            };
            let nested = scope
                .own()
                .iter()
                .find(|one| one.name == "location" && guards::first_of(one.inside()).is_some());
            if let Some(nested) = nested {
                notes.leave(nested, "there are no locations within an expression here: until that is solved all that the one around it takes answers 403");
            }
            level.regexes.push(Location {
                directive,
                scope,
                path: PathMatch::Regex(pattern.clone()),
                kind: Kind::Regex(pattern),
                is_closed: said.is_err() || nested.is_some(),
            });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::nginx::{converted, parser};

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

    #[test]
    fn nested_expressions_go_before_their_siblings_and_the_prefix_around_them_behind() {
        let (found, _) =
            paths("location /a/ { location ~ \\.txt$ {} } location ~ \\.php$ { deny all; } location / {}");
        assert_eq!(found, ["~ ^/a/.*(?:\\.txt$)", "~ \\.php$", "~ ^/a/", "/"]);
    }

    #[test]
    fn expressions_are_asked_before_what_is_longer_than_a_prefix_that_goes_first() {
        for first in ["location ^~ /a/ {}", "location /a/ { location ~ \\.txt$ {} }"] {
            let (found, _) =
                paths(&format!("{first} location /a/b/ {{}} location ~ \\.php$ {{ deny all; }}"));
            assert_eq!(found[..2], ["~ ^/a/b/.*(?:\\.php$)", "~ ^/a/b/"], "{found:?}");
        }
        let (found, _) = paths("location /a/ { location ~ x {} } location /a/b/ { deny all; }");
        assert_eq!(found, ["~ ^/a/b/", "~ ^/a/.*(?:x)", "~ ^/a/"]);
        let (found, _) = paths("location /a/ { location ^~ /a/b/ {} } location ~ \\.php$ {}");
        assert_eq!(found, ["~ \\.php$", "/a/b/", "/a/"]);
        let (found, _) = paths("location /a/ { location ^~ /a/b/ {} location ~ x {} } location ~ \\.php$ {}");
        assert_eq!(found[..2], ["~ ^/a/b/.*(?:\\.php$)", "~ ^/a/b/"], "{found:?}");
    }

    #[test]
    fn a_nested_expression_may_begin_within_the_prefix_around_it() {
        let (found, _) = paths("location /adm/ { location ~ /adm/.*\\.php$ { deny all; } }");
        let regex = regex::Regex::new(found[0].trim_start_matches("~ ")).unwrap();
        assert!(regex.is_match("/adm/x.php") && regex.is_match("/adm/adm/x.php"), "{found:?}");
        assert!(!regex.is_match("/x/adm/x.php"), "{found:?}");
        let (found, _) = paths("location /a/b/ { location ~ /a/.*p$ {} location ~ a/ {} }");
        assert_eq!(found[..2], ["~ ^/a/b/.*(?:p$)", "~ ^/a/b/"]);
    }

    #[test]
    fn locations_in_locations_take_nothing_from_longer_ones_outside() {
        let (found, _) = paths("location /a/b/ { deny all; } location /a/ { location /a/b {} }");
        assert_eq!(found, ["~ ^/a/b/", "~ ^/a/b", "/a/"]);
    }

    #[test]
    fn a_guarded_expression_that_cannot_be_said_is_closed_for_more_paths() {
        for (server, closed) in [
            ("location ~ /\\.(?!well-known) { deny all; } location / {}", "/\\."),
            ("location ~* (a)\\1(?<!b)$ { return 403; } location / {}", "(?i)(a).*$"),
            ("location ~ (?P>x) { auth_basic x; } location / {}", "^"),
            ("location /a/ { location ~ ^/.*b { deny all; } }", "^/a/"),
            ("location ~ ^/a { location ~ b { deny all; } }", "^/a"),
        ] {
            let file = parser::parsed(server).unwrap();
            let mut notes = Notes::default();
            let found = locations(&Scope::new(&file), &mut notes);
            assert!(found[0].is_closed && found[0].path == PathMatch::Regex(closed.to_owned()), "{found:?}");
            assert_eq!(notes.into_left().len(), 1, "{server}");
        }
    }

    #[test]
    fn a_closed_location_answers_403() {
        let (file, left) = converted(
            "server { listen 80; location ~ /\\.(?!well-known) { deny all; } location / { proxy_pass http://10.0.0.1; } }",
        );
        assert!(file.contains("status: 403") && left.contains("answer 403"), "{file}{left}");
    }
}
