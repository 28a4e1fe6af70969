//! What a route asks of headers and of the query. A name may occur several times in a request; one occurrence that
//! fits is enough. Values are bytes: neither headers nor decoded queries need be UTF-8.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::bytes::Regex;

use super::PatternError;

/// What is asked of one value.
#[derive(Clone, Debug)]
pub enum ValuePredicate {
    /// The whole value, case and all.
    Exact(String),
    /// The value holds a match; the expression anchors itself.
    Regex(Regex),
    /// With `false`, the name must not occur.
    Present(bool),
}

#[derive(Clone, Debug)]
pub struct HeaderPredicate {
    name: HeaderName,
    value: ValuePredicate,
}

/// Compared after decoding: `%XX`, and `+` for a space. A name without `=` has the empty value.
#[derive(Clone, Debug)]
pub struct QueryPredicate {
    name: String,
    value: ValuePredicate,
}

impl ValuePredicate {
    pub fn regex(text: &str) -> Result<ValuePredicate, PatternError> {
        match Regex::new(text) {
            Ok(regex) => Ok(ValuePredicate::Regex(regex)),
            Err(error) => Err(PatternError::regex(text, &error)),
        }
    }

    fn holds<V: AsRef<[u8]>>(&self, mut values: impl Iterator<Item = V>) -> bool {
        match self {
            ValuePredicate::Exact(expected) => values.any(|value| value.as_ref() == expected.as_bytes()),
            ValuePredicate::Regex(regex) => values.any(|value| regex.is_match(value.as_ref())),
            ValuePredicate::Present(expected) => values.next().is_some() == *expected,
        }
    }

    /// Whether this holds wherever `other` does. May say no wrongly (two expressions can mean the same), never yes.
    fn covers(&self, other: &ValuePredicate) -> bool {
        use ValuePredicate::{Exact, Present, Regex};
        match (self, other) {
            (Exact(a), Exact(b)) => a == b,
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            (Regex(a), Exact(b)) => a.is_match(b.as_bytes()),
            (Present(a), Present(b)) => a == b,
            (Present(a), Exact(_) | Regex(_)) => *a,
            (Exact(_) | Regex(_), _) => false,
        }
    }
}

impl HeaderPredicate {
    pub fn new(name: &str, value: ValuePredicate) -> Result<HeaderPredicate, PatternError> {
        let Ok(name) = HeaderName::try_from(name) else {
            return Err(PatternError::new(format!("{name:?} is not a header name")));
        };
        if let ValuePredicate::Exact(text) = &value
            && (HeaderValue::from_str(text).is_err() || text.trim_matches([' ', '\t']) != text)
        {
            let why = "no header can have (control characters, or blanks at an end)";
            return Err(PatternError::new(format!(
                "header {name} is compared with {text:?}, a value that {why}"
            )));
        }
        Ok(HeaderPredicate { name, value })
    }

    pub fn matches(&self, headers: &HeaderMap) -> bool {
        self.value.holds(headers.get_all(&self.name).iter())
    }

    pub(super) fn name(&self) -> &HeaderName {
        &self.name
    }

    pub(super) fn value(&self) -> &ValuePredicate {
        &self.value
    }

    pub(super) fn covers(&self, other: &HeaderPredicate) -> bool {
        self.name == other.name && self.value.covers(&other.value)
    }
}

impl QueryPredicate {
    /// `name` and an exact value are written decoded.
    pub fn new(name: &str, value: ValuePredicate) -> QueryPredicate {
        QueryPredicate { name: name.to_owned(), value }
    }

    /// `query` is without its question mark, as received; no query is an empty one.
    pub fn matches(&self, query: Option<&str>) -> bool {
        self.value.holds(self.values(query))
    }

    pub(super) fn values<'q>(&self, query: Option<&'q str>) -> impl Iterator<Item = Cow<'q, [u8]>> {
        Self::named(&self.name, query)
    }

    /// The values of that parameter, decoded.
    pub fn named<'q>(name: &str, query: Option<&'q str>) -> impl Iterator<Item = Cow<'q, [u8]>> {
        query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).filter_map(move |pair| {
            let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
            (*decode(found) == *name.as_bytes()).then(|| decode(value))
        })
    }

    /// The name of the parameter `pair`, decoded.
    pub fn name_of(pair: &str) -> Cow<'_, [u8]> {
        decode(pair.split_once('=').map_or(pair, |(name, _)| name))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn value(&self) -> &ValuePredicate {
        &self.value
    }

    pub(super) fn covers(&self, other: &QueryPredicate) -> bool {
        self.name == other.name && self.value.covers(&other.value)
    }
}

impl fmt::Display for ValuePredicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValuePredicate::Exact(value) => write!(f, "{value:?}"),
            ValuePredicate::Regex(regex) => write!(f, "regex {regex}"),
            ValuePredicate::Present(true) => f.write_str("any value"),
            ValuePredicate::Present(false) => f.write_str("none"),
        }
    }
}

/// Copies only when there is something to decode. A `%` without two digits stands for itself.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'+', b'%', text.as_bytes()).is_none() {
        return Cow::Borrowed(text.as_bytes());
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> ValuePredicate {
        ValuePredicate::Exact(text.into())
    }

    #[test]
    fn any_header_line_may_match() {
        let mut headers = HeaderMap::new();
        headers.append("x-type", HeaderValue::from_static("basic"));
        headers.append("x-type", HeaderValue::from_static("premium"));
        headers.append("x-raw", HeaderValue::from_bytes(b"ios\xff").unwrap());
        let regex = |text| ValuePredicate::regex(text).unwrap();
        for (name, value, expected) in [
            ("X-Type", exact("premium"), true),
            ("x-type", exact("Premium"), false),
            ("x-type", regex("^pre"), true),
            ("x-type", regex("^mium"), false),
            ("x-raw", regex("^ios"), true),
            ("x-type", ValuePredicate::Present(true), true),
            ("x-type", ValuePredicate::Present(false), false),
            ("x-none", ValuePredicate::Present(false), true),
            ("x-none", regex(""), false),
        ] {
            let message = format!("{name} {value}");
            assert_eq!(HeaderPredicate::new(name, value).unwrap().matches(&headers), expected, "{message}");
        }
    }

    #[test]
    fn queries_are_compared_decoded() {
        for (name, value, query, expected) in [
            ("beta", exact("1"), "a=2&beta=1", true),
            ("beta", exact("1"), "beta=2&beta=1", true),
            ("beta", exact("1"), "beta=11", false),
            ("beta", exact(""), "beta", true),
            ("beta", exact("a b&c"), "beta=a+b%26c", true),
            ("b ta", exact("1"), "b%20ta=1", true),
            ("beta", exact("%zz"), "beta=%zz", true),
            ("beta", exact("a=b"), "beta=a=b", true),
            ("beta", ValuePredicate::Present(true), "x=beta", false),
            ("beta", ValuePredicate::Present(false), "", true),
            ("", ValuePredicate::Present(true), "a=1&&b=2", false),
        ] {
            let predicate = QueryPredicate::new(name, value);
            assert_eq!(predicate.matches(Some(query)), expected, "{name} {} in {query}", predicate.value);
        }
        assert!(!QueryPredicate::new("a", ValuePredicate::Present(true)).matches(None));
    }

    #[test]
    fn refuses_headers_that_no_request_has() {
        assert!(HeaderPredicate::new("x user", ValuePredicate::Present(true)).is_err());
        assert!(HeaderPredicate::new("x-user", exact("a\nb")).is_err());
        assert!(HeaderPredicate::new("x-user", exact(" a")).is_err());
        assert!(ValuePredicate::regex("(").is_err());
    }
}
