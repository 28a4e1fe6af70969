//! Paths that a pattern matches: what is asked of the table where it is to be known which route other requests of the
//! same path take.

use regex::bytes::Regex;
use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

use super::{
    normalise,
    pattern::{Kind, PathPattern},
};

/// No path of a request is much longer, and an expression may ask for any number of repetitions.
const LONGEST: usize = 2048;
/// The first that a class has is taken: what people put in paths, and nothing that normalisation would change.
const LIKELY: &[u8] = b"x0aA-_~/";

impl PathPattern {
    /// Some that it matches. None for a regular expression of which none is found.
    pub fn examples(&self) -> Vec<String> {
        match &self.0 {
            Kind::Exact(path) => vec![path.to_string()],
            Kind::Prefix(path) => {
                let below = if path.ends_with('/') { "x" } else { "/x" };
                vec![path.to_string(), format!("{path}{below}")]
            }
            Kind::Template(template) => vec![template.example()],
            Kind::Regex(regex) => of_regex(regex),
        }
    }

    pub fn is_regex(&self) -> bool {
        matches!(self.0, Kind::Regex(_))
    }
}

/// The shortest, and one in which all that may stand there does.
fn of_regex(regex: &Regex) -> Vec<String> {
    let parse =
        |unicode| ParserBuilder::new().unicode(unicode).utf8(false).build().parse(regex.as_str()).ok();
    // As it was compiled.
    let Some(hir) = parse(false).or_else(|| parse(true)) else { return Vec::new() };
    let path = |all| {
        let mut text = Vec::new();
        add(&hir, all, &mut text)?;
        // One that is not anchored begins anywhere.
        if text.first() != Some(&b'/') {
            text.insert(0, b'/');
        }
        let path = normalise(std::str::from_utf8(&text).ok()?).ok()?.into_owned();
        regex.is_match(path.as_bytes()).then_some(path)
    };
    let mut paths: Vec<String> = [false, true].into_iter().filter_map(path).collect();
    paths.dedup();
    paths
}

/// `None` where it becomes too long, or holds what no path does.
fn add(hir: &Hir, all: bool, text: &mut Vec<u8>) -> Option<()> {
    match hir.kind() {
        // Whether the places are right is found out with the whole.
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
        HirKind::Class(class) => text.push(one_of(class)?),
        HirKind::Repetition(repetition) => {
            let times = if all && repetition.max != Some(0) { repetition.min.max(1) } else { repetition.min };
            for _ in 0..times {
                add(&repetition.sub, all, text)?;
            }
        }
        HirKind::Capture(capture) => add(&capture.sub, all, text)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| add(part, all, text))?,
        HirKind::Alternation(parts) => add(parts.first()?, all, text)?,
    }
    (text.len() <= LONGEST).then_some(())
}

fn one_of(class: &Class) -> Option<u8> {
    let contains = |byte: &u8| match class {
        Class::Bytes(class) => class.iter().any(|range| (range.start()..=range.end()).contains(byte)),
        Class::Unicode(class) => {
            class.iter().any(|range| (range.start()..=range.end()).contains(&char::from(*byte)))
        }
    };
    LIKELY.iter().copied().find(contains).or_else(|| (b'!'..=b'~').find(contains))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(regex: &str) -> Vec<String> {
        let pattern = PathPattern::regex(regex).unwrap();
        let examples = pattern.examples();
        assert!(examples.iter().all(|path| pattern.matches(path)), "{regex}: {examples:?}");
        examples
    }

    #[test]
    fn of_a_regular_expression_they_are_what_it_matches() {
        for (regex, expected) in [
            (r"^/users/\d+$", vec!["/users/0"]),
            ("^/(a|b)/[b-f]{2}", vec!["/a/bb"]),
            ("^/files/.*$", vec!["/files/", "/files/x"]),
            ("/v[0-9](/x)?$", vec!["/v0", "/v0/x"]),
            (r"admin", vec!["/admin"]),
            ("(?i)^/Admin", vec!["/aDMIN"]),
            (r"^/\w+/[^/]+\.json$", vec!["/x/x.json"]),
            ("^/[é]$", vec![]),
            ("^/a{3000}$", vec![]),
            ("^a", vec![]),
            ("", vec!["/"]),
        ] {
            assert_eq!(of(regex), expected, "{regex}");
        }
    }

    #[test]
    fn of_a_prefix_one_is_below_it() {
        let examples = |prefix| PathPattern::prefix(prefix).unwrap().examples();
        assert_eq!(examples("/"), ["/", "/x"]);
        assert_eq!(examples("/v1"), ["/v1", "/v1/x"]);
        assert_eq!(examples("/v1/"), ["/v1/", "/v1/x"]);
    }
}
