//! Path templates: `/users/{id}`, `/files/{*rest}`. Each `{name}` is one whole segment, so a path splits in only one
//! way and captures need not be recorded during the search: they are read off the path when someone asks.

use std::{fmt, sync::Arc};

use super::pattern::{PatternError, literal, without_constraints};

/// The values that a template's `{name}`s have in one request's path. Cheap to clone; empty for all other patterns.
#[derive(Clone, Debug, Default)]
pub struct Params(Option<Arc<Template>>);

impl Params {
    pub(super) fn of(template: &Arc<Template>) -> Params {
        Params(template.has_captures().then(|| Arc::clone(template)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of `{name}` in `path`, which must be the path that was looked up. It is still percent-encoded.
    pub fn get<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        self.iter(path).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Names and values, left to right.
    pub fn iter<'t, 'p>(&'t self, path: &'p str) -> impl Iterator<Item = (&'t str, &'p str)> {
        self.0.iter().flat_map(move |template| template.captures(path))
    }
}

#[derive(Debug)]
pub(super) struct Template {
    /// Literals carry their slashes; two captures are never adjacent.
    pieces: Vec<Piece>,
}

#[derive(Debug)]
pub(super) enum Piece {
    Literal(String),
    Capture(String),
    /// All that is left, which may be nothing. Always the last piece.
    Rest(String),
}

impl Template {
    /// A path that it matches.
    pub(super) fn example(&self) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Capture(_) | Piece::Rest(_) => "x".to_owned(),
        };
        self.pieces.iter().map(text).collect()
    }

    pub(crate) fn parse(text: &str) -> Result<Template, PatternError> {
        let Some(segments) = text.strip_prefix('/') else {
            return Err(PatternError::new(format!("path {text:?} must begin with `/`")));
        };
        if let Some(mend) = without_constraints(text) {
            let message = format!("path {text:?}: a capture has a name and matches any segment ({mend})");
            return Err(PatternError::new(message));
        }
        let mut template = Template { pieces: Vec::new() };
        let mut pending = String::new();
        let last = segments.split('/').count() - 1;
        for (position, segment) in segments.split('/').enumerate() {
            pending.push('/');
            let Some(inner) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) else {
                pending.push_str(&literal_segment(text, segment, position == last)?);
                continue;
            };
            let piece = match inner.strip_prefix('*') {
                Some(_) if position != last => {
                    let message =
                        format!("path {text:?}: {segment} takes all that is left, so it must be last");
                    return Err(PatternError::new(message));
                }
                Some(name) => Piece::Rest(template.fresh_name(text, name)?),
                None => Piece::Capture(template.fresh_name(text, inner)?),
            };
            template.pieces.push(Piece::Literal(std::mem::take(&mut pending)));
            template.pieces.push(piece);
        }
        if !pending.is_empty() {
            template.pieces.push(Piece::Literal(pending));
        }
        Ok(template)
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Capture(name) | Piece::Rest(name) => Some(name.as_str()),
        })
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut left = path;
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => match left.strip_prefix(text.as_str()) {
                    Some(rest) => left = rest,
                    None => return false,
                },
                Piece::Capture(_) => match split_segment(left) {
                    ("", _) => return false,
                    (_, rest) => left = rest,
                },
                Piece::Rest(_) => return true,
            }
        }
        left.is_empty()
    }

    fn has_captures(&self) -> bool {
        self.names().next().is_some()
    }

    fn captures<'t, 'p>(&'t self, path: &'p str) -> impl Iterator<Item = (&'t str, &'p str)> {
        let mut left = path;
        self.pieces.iter().filter_map(move |piece| match piece {
            Piece::Literal(text) => {
                left = left.strip_prefix(text.as_str()).unwrap_or_default();
                None
            }
            Piece::Capture(name) => {
                let (value, rest) = split_segment(left);
                left = rest;
                Some((name.as_str(), value))
            }
            Piece::Rest(name) => Some((name.as_str(), std::mem::take(&mut left))),
        })
    }

    fn fresh_name(&self, text: &str, name: &str) -> Result<String, PatternError> {
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            let rule = "must be letters, digits, `_` and `-`, and begin with a letter or `_`";
            return Err(PatternError::new(format!("path {text:?}: capture name {name:?} {rule}")));
        }
        if self.names().any(|other| other == name) {
            return Err(PatternError::new(format!("path {text:?} captures {{{name}}} twice (rename one)")));
        }
        Ok(name.to_owned())
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => f.write_str(text),
            Piece::Capture(name) => write!(f, "{{{name}}}"),
            Piece::Rest(name) => write!(f, "{{*{name}}}"),
        })
    }
}

fn literal_segment(text: &str, segment: &str, is_last: bool) -> Result<String, PatternError> {
    if segment.contains(['{', '}']) {
        let message =
            format!("path {text:?}: a capture is a whole segment, like `/{{name}}/`, unlike {segment:?}");
        return Err(PatternError::new(message));
    }
    if segment.is_empty() && !is_last {
        return Err(PatternError::new(format!(
            "path {text:?} holds an empty segment (write single slashes)"
        )));
    }
    Ok(literal(&format!("/{segment}"))?.split_off(1))
}

fn split_segment(left: &str) -> (&str, &str) {
    left.split_at(left.find('/').unwrap_or(left.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_whole_segments() {
        for (template, path, expected) in [
            ("/users/{id}", "/users/7", Some(vec![("id", "7")])),
            ("/users/{id}", "/users/", None),
            ("/users/{id}", "/users/7/", None),
            ("/users/{id}/", "/users/7/", Some(vec![("id", "7")])),
            ("/{a}/x/{b-2}", "/1/x/2", Some(vec![("a", "1"), ("b-2", "2")])),
            ("/{a}/{b}", "/1/2", Some(vec![("a", "1"), ("b", "2")])),
            ("/f/{*rest}", "/f/a/b/", Some(vec![("rest", "a/b/")])),
            ("/f/{*rest}", "/f/", Some(vec![("rest", "")])),
            ("/f/{*rest}", "/f", None),
            ("/plain", "/plain", Some(vec![])),
            ("/", "/", Some(vec![])),
            ("/caf%c3%a9/{x}", "/caf%C3%A9/a%2Fb", Some(vec![("x", "a%2Fb")])),
        ] {
            let parsed = Arc::new(Template::parse(template).unwrap());
            assert_eq!(parsed.matches(path), expected.is_some(), "{template} against {path}");
            if let Some(expected) = expected {
                let params = Params::of(&parsed);
                assert_eq!(params.iter(path).collect::<Vec<_>>(), expected, "{template} against {path}");
                assert_eq!(params.is_empty(), expected.is_empty());
            }
        }
    }

    #[test]
    fn a_foreign_path_yields_empty_values_not_a_panic() {
        let params = Params::of(&Arc::new(Template::parse("/users/{id}/x/{n}").unwrap()));
        assert_eq!(params.get("id", "/é"), Some(""));
        assert_eq!(params.get("missing", "/users/7/x/1"), None);
    }

    #[test]
    fn refuses_what_is_not_a_template() {
        for text in [
            "",
            "users",
            "/{}",
            "/{*}",
            "/{a}{b}",
            "/x{a}",
            "/{a}x",
            "/{a",
            "/a}",
            "/{*r}/x",
            "/{a}/{a}",
            "/{a}/{*a}",
            "/{1a}",
            "/{a b}",
            "/a//b",
            "/a/../b",
            "/a b",
            "/*",
            "/{a}/**",
        ] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn displays_as_written() {
        for text in ["/", "/users/{id}", "/{a}/b/{*rest}", "/a/{b}/"] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
    }
}
