//! Path patterns, parsed once. They are held in the normal form of [`normalise`], since that is what they are compared
//! with; a pattern that no normalised path could match is refused.

use std::{fmt, sync::Arc};

use regex::bytes::{Regex, RegexBuilder};

use super::{normalise, template::Template};

/// What an operator may write to choose paths.
#[derive(Clone, Debug)]
pub struct PathPattern(pub(super) Kind);

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
    Template(Arc<Template>),
}

/// What is wrong with a pattern, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError(String);

impl PathPattern {
    /// Every path, and the `*` of `OPTIONS *`. The same as the prefix `/`.
    pub fn any() -> PathPattern {
        PathPattern(Kind::Prefix("/".into()))
    }

    /// Whether it asks for nothing.
    pub fn is_any(&self) -> bool {
        matches!(&self.0, Kind::Prefix(text) if **text == *"/")
    }

    /// This path and no other.
    pub fn exact(text: &str) -> Result<PathPattern, PatternError> {
        Ok(PathPattern(Kind::Exact(literal(text)?.into())))
    }

    /// `/v1/users` and all below it (`/v1/users/7`), but not `/v1/users2`. With a trailing slash, only what begins
    /// with it, slash included.
    pub fn prefix(text: &str) -> Result<PathPattern, PatternError> {
        Ok(PathPattern(Kind::Prefix(literal(text)?.into())))
    }

    /// Paths in which the regular expression finds a match; it is not anchored but by itself.
    pub fn regex(text: &str) -> Result<PathPattern, PatternError> {
        // In its normal form a path is ASCII. What `\d` and the like mean beyond that is most of an expression's memory, so
        // it is left out where the expression can be read without it.
        let ascii = RegexBuilder::new(text).unicode(false).build();
        match ascii.or_else(|_| Regex::new(text)) {
            Ok(regex) => Ok(PathPattern(Kind::Regex(regex))),
            Err(error) => Err(PatternError::regex(text, &error)),
        }
    }

    /// `/users/{id}`: `{name}` is one whole segment, and `{*name}`, as the last one, all that is left.
    pub fn template(text: &str) -> Result<PathPattern, PatternError> {
        Ok(PathPattern(Kind::Template(Arc::new(Template::parse(text)?))))
    }

    /// The names a template captures, left to right; none for other patterns.
    pub fn captures(&self) -> Vec<&str> {
        match &self.0 {
            Kind::Template(template) => template.names().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a normalised path matches. [`Table`](super::Table) does not ask pattern by pattern.
    pub fn matches(&self, path: &str) -> bool {
        match &self.0 {
            Kind::Exact(text) => **text == *path,
            Kind::Prefix(text) if **text == *"/" => true,
            Kind::Prefix(text) => path
                .strip_prefix(&**text)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || text.ends_with('/')),
            Kind::Regex(regex) => regex.is_match(path.as_bytes()),
            Kind::Template(template) => template.matches(path),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exact(text) => write!(f, "exact {text}"),
            Kind::Prefix(text) => write!(f, "prefix {text}"),
            Kind::Regex(regex) => write!(f, "regex {regex}"),
            Kind::Template(template) => write!(f, "template {template}"),
        }
    }
}

impl PatternError {
    pub(super) fn new(message: String) -> PatternError {
        PatternError(message)
    }

    pub(super) fn regex(text: &str, error: &regex::Error) -> PatternError {
        // Syntax errors come as a drawing of several lines; the last one says what is wrong.
        let drawing = error.to_string();
        let reason = drawing.lines().last().unwrap_or_default().trim_start_matches("error: ");
        PatternError(format!("{text:?} is not a regular expression: {reason}"))
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PatternError {}

/// The normal form of a literal path, or why no request could ever have it.
pub(super) fn literal(text: &str) -> Result<String, PatternError> {
    let refuse = |why: String| Err(PatternError(format!("path {text:?} {why}")));
    if !text.starts_with('/') {
        return refuse(format!("must begin with `/` ({})", begun(text)));
    }
    if text.contains(['{', '}']) {
        let mend = without_constraints(text).unwrap_or_else(|| format!("write `{{template: {text:?}}}`"));
        return refuse(format!("holds `{{` or `}}`, which only a template may ({mend})"));
    }
    if let Some((path, query)) = text.split_once(['?', '#']) {
        let hint = match query.split_once('=') {
            Some((name, value)) if !query.contains('&') => {
                format!("write `path: {path}` and `query: {{{name}: {value}}}`")
            }
            _ => "match the query with `query`".to_owned(),
        };
        return refuse(format!("holds `?` or `#`, which are not part of a path ({hint})"));
    }
    if let Some(at) = text
        .find('*')
        .filter(|at| text.split('/').any(|segment| segment == "*" || segment == "**" || text.len() == at + 1))
    {
        return refuse(format!("holds `*`, which is no wildcard here ({})", without_wildcards(text, at)));
    }
    let normal = match normalise(text) {
        Ok(normal) => normal,
        Err(error) => return refuse(format!("can not match: {error}")),
    };
    let is_same_shape = text.split('/').map(str::is_empty).eq(normal.split('/').map(str::is_empty));
    match is_same_shape {
        true => Ok(normal.into_owned()),
        false => refuse(format!("holds empty or dot segments, which requests lose (write {normal:?})")),
    }
}

/// What to write for `/users/{id:[0-9]+}`, as others have it. `None` where nothing is said of what a capture matches.
pub(super) fn without_constraints(text: &str) -> Option<String> {
    let (mut template, mut regex) = (String::new(), "^".to_owned());
    let (mut rest, mut is_constrained) = (text, false);
    while let Some((before, after)) = rest.split_once('{') {
        let mut depth = 1;
        let end = after.find(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        })?;
        let (name, constraint) = after[..end].split_once(':').unwrap_or((&after[..end], "[^/]+"));
        is_constrained |= after[..end].contains(':');
        template.push_str(&format!("{before}{{{name}}}"));
        regex.push_str(&format!("{}{constraint}", regex::escape(before)));
        rest = &after[end + 1..];
    }
    let (template, regex) = (format!("{template}{rest}"), format!("{regex}{}$", regex::escape(rest)));
    // Those of the template have none, so that this goes no deeper.
    if !is_constrained {
        return None;
    }
    let mend = match Template::parse(&template) {
        Ok(_) => {
            format!(
                "write `{{template: {template:?}}}` for any segment, or `{{regex: '{}'}}`",
                quoted(&regex)
            )
        }
        Err(_) => format!("write `{{regex: '{}'}}`", quoted(&regex)),
    };
    Some(mend)
}

/// Within single quotes of YAML.
fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

/// What to write where a path does not begin as one: patterns as nginx writes them, expressions, URLs.
fn begun(text: &str) -> String {
    let expression =
        |flags: &str, text: &str| format!("write `{{regex: '{flags}{}'}}`", text.trim().replace('\'', "''"));
    if let Some((_, rest)) = text.split_once("://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        return format!("write `hosts: [{host}], path: /{path}`");
    }
    match text.chars().next() {
        Some('~') if text.starts_with("~*") => expression("(?i)", &text[2..]),
        Some('~') => expression("", &text[1..]),
        Some('=') => format!("write `{{exact: {}}}`", text[1..].trim()),
        Some('^') if text.starts_with("^~") => format!("write {:?}", text[2..].trim()),
        Some('^') => expression("", text),
        Some('*') if text.starts_with("*.") => format!("write `{{regex: '\\.{}$'}}`", &text[2..]),
        _ if text.ends_with('$') => expression("", text),
        _ => format!("write {:?}", format!("/{text}")),
    }
}

/// What to write in the place of wildcards, of which the first is at `at`.
fn without_wildcards(text: &str, at: usize) -> String {
    let before = text[..at].trim_end_matches('/');
    if text[at..].trim_matches('*').trim_matches('/').is_empty() {
        let prefix = if before.is_empty() { "/" } else { before };
        return match text[..at].ends_with('/') {
            true => format!("a prefix: `{prefix}` takes all below it already"),
            false => format!("write `{{regex: '^{before}'}}` for all that begins so"),
        };
    }
    let mut number = 0;
    let named = text.split('/').map(|segment| match segment {
        "*" | "**" => {
            number += 1;
            if number == 1 { "{name}".to_owned() } else { format!("{{name{number}}}") }
        }
        other => other.to_owned(),
    });
    format!("write `{{template: \"{}\"}}`", named.collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_on_a_segment_boundary() {
        for (prefix, path, expected) in [
            ("/v1/users", "/v1/users", true),
            ("/v1/users", "/v1/users/", true),
            ("/v1/users", "/v1/users/7", true),
            ("/v1/users", "/v1/users2", false),
            ("/v1/users/", "/v1/users", false),
            ("/v1/users/", "/v1/users/", true),
            ("/v1/users/", "/v1/users/7", true),
            ("/", "/anything", true),
            ("/", "*", true),
        ] {
            assert_eq!(
                PathPattern::prefix(prefix).unwrap().matches(path),
                expected,
                "{prefix} against {path}"
            );
        }
    }

    #[test]
    fn patterns_are_held_in_normal_form() {
        assert!(PathPattern::exact("/%61dmin").unwrap().matches("/admin"));
        assert!(PathPattern::prefix("/café").unwrap().matches("/caf%C3%A9/x"));
        assert!(PathPattern::exact("/a%2fb").unwrap().matches("/a%2Fb"));
    }

    #[test]
    fn refuses_paths_that_no_request_has() {
        for text in [
            "",
            "v1",
            "/a/../b",
            "/..",
            "/.",
            "/a/%2e",
            "/a//b",
            "//",
            "/a b",
            "/a\\b",
            "/%zz",
            "/a?b",
            "/a#b",
            "/users/{id}",
            "/v1/*",
            "/v1/**",
        ] {
            assert!(PathPattern::exact(text).is_err(), "{text:?}");
            assert!(PathPattern::prefix(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_broken_regex_says_why_in_one_line() {
        let message = PathPattern::regex("^/(a").unwrap_err().to_string();
        assert_eq!(message, r#""^/(a" is not a regular expression: unclosed group"#);
    }
}
