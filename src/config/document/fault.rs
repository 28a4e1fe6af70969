//! The error that serde's visitors raise, with the place added by the first deserializer it passes on its way up.
//! Its words are made from the place, not from the visitor's value, since the value may come from `${...}`.

use std::{borrow::Cow, fmt};

use serde::de::{self, Expected, Unexpected};

use crate::config::document::{
    meant::{self, Misfit},
    node::{At, quoted, shortened},
    problem::{Path, Problem, suggest},
};

#[derive(Debug)]
pub(in crate::config) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    wrong: Wrong,
    spot: Option<Spot>,
}

#[derive(Debug)]
pub(in crate::config) enum Wrong {
    /// In the words of whoever raised it, which may hold the value.
    Told(String),
    /// `of_scalar`: a scalar was refused, as opposed to a list or map.
    Expected {
        expected: String,
        of_scalar: bool,
        /// Of the map that is due, where they are known.
        keys: &'static [&'static str],
    },
    MissingKey(&'static str),
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    /// `value` is not for showing.
    UnknownValue {
        value: String,
        known: &'static [&'static str],
    },
}

/// Where it went wrong, in everything a message needs.
#[derive(Debug)]
pub(in crate::config) struct Spot {
    /// What to leave out on the next attempt.
    pub node: usize,
    pub at: At,
    pub path: Path,
    /// The key that is wrong itself; otherwise it is the value.
    pub key: Option<String>,
    /// As by `Node::describe`.
    pub found: String,
    /// The text of a scalar as written; for a key, what stands there, as far as it may be shown.
    pub text: Option<String>,
    pub is_scalar: bool,
    pub is_list: bool,
    /// Of a map.
    pub first_key: Option<String>,
    /// A list on one line, where it is short and holds no secret.
    pub list: Option<String>,
    /// Values at or below it are not shown as they are.
    pub hides: bool,
    /// It follows from a problem that has been reported already.
    pub follows: bool,
}

impl Spot {
    /// A value that may be a secret, by where it stands or by what it says.
    fn hides_at_its_place(&self) -> bool {
        self.text.as_deref().is_some_and(|text| {
            meant::names_a_secret(text) || !meant::is_harmless(text) && meant::holds_secrets(&self.path)
        })
    }
}

impl Fault {
    pub(crate) fn new(wrong: Wrong) -> Self {
        Fault(Box::new(Inner { wrong, spot: None }))
    }

    #[must_use]
    pub(crate) fn of_keys(mut self, known: &'static [&'static str]) -> Self {
        if let Wrong::Expected { keys, .. } = &mut self.0.wrong {
            *keys = known;
        }
        self
    }

    /// The innermost place wins.
    #[must_use]
    pub(crate) fn locate(mut self, spot: impl FnOnce(&Wrong) -> Spot) -> Self {
        if self.0.spot.is_none() {
            self.0.spot = Some(spot(&self.0.wrong));
        }
        self
    }

    pub(crate) fn spot(&self) -> Option<&Spot> {
        self.0.spot.as_ref()
    }

    /// Whether its words may hold an expanded value.
    pub(crate) fn may_leak(&self) -> bool {
        matches!(self.0.wrong, Wrong::Told(_)) && self.spot().is_some_and(|spot| spot.hides)
    }

    pub(crate) fn is_told(&self) -> bool {
        matches!(self.0.wrong, Wrong::Told(_))
    }

    /// For an unknown key, the one that was likely meant, if it resembles any.
    pub(crate) fn unknown_key(&self) -> Option<Option<&'static str>> {
        match &self.0.wrong {
            Wrong::UnknownKey { key, known } => Some(suggest(key, known.iter().copied())),
            _ => None,
        }
    }

    pub(crate) fn missing_key(&self) -> Option<&'static str> {
        match self.0.wrong {
            Wrong::MissingKey(key) => Some(key),
            _ => None,
        }
    }

    /// Without its place.
    pub(crate) fn problem(&self) -> Problem {
        let spot = self.spot();
        match &self.0.wrong {
            Wrong::Told(message) => match spot.and_then(|spot| spot.key.as_ref()) {
                Some(key) => Problem::new(format!("key `{}`: {message}", shortened(key))),
                None => Problem::new(message.as_str()),
            },
            Wrong::Expected { expected, of_scalar, keys } => misfit(expected, *of_scalar, keys, spot),
            Wrong::MissingKey(key) => {
                let problem = Problem::new(format!("missing key `{key}`"));
                match spot.and_then(|spot| meant::missing_key(&spot.path, key)) {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                }
            }
            Wrong::UnknownKey { key, known } => unknown_key(key, known, spot),
            Wrong::UnknownValue { value, known } => match spot {
                Some(Spot { key: Some(key), .. }) => unknown_key(key, known, spot),
                Some(spot) if spot.text.as_deref() == Some(value) && !spot.hides_at_its_place() => {
                    let problem = Problem::new(format!("unknown value {}", quoted(value)));
                    let foreign = meant::unknown_value(&spot.path, value);
                    match foreign.ok_or_else(|| suggest(value, known.iter().copied())) {
                        Ok(hint) => problem.hint(hint),
                        Err(Some(near)) => problem.hint(format!("did you mean {near:?}?")),
                        Err(None) => problem.hint(format!("one of: {}", known.join(", "))),
                    }
                }
                _ => {
                    let shown = spot.filter(|spot| !spot.hides_at_its_place());
                    let written = shown.and_then(|spot| spot.text.as_deref()).map(quoted).unwrap_or_default();
                    let problem = Problem::new(format!("unknown value {written}").trim_end().to_owned());
                    problem.hint(format!("one of: {}", known.join(", ")))
                }
            },
        }
    }
}

fn misfit(expected: &str, of_scalar: bool, keys: &[&str], spot: Option<&Spot>) -> Problem {
    let expected = in_our_words(expected);
    let Some(spot) = spot else { return Problem::new(format!("expected {expected}")) };
    if let Some(key) = &spot.key {
        return Problem::new(format!("key `{}`: expected {expected}", shortened(key)));
    }
    if of_scalar && !spot.is_scalar {
        // Raised over a value that serde had buffered, so that its own place is lost.
        return Problem::new(format!("expected {expected}"));
    }
    // What stands there may be a secret all the same.
    let hides = spot.is_scalar && spot.hides_at_its_place();
    let found = match hides {
        true if spot.found.starts_with("the number") => "a number",
        true => "a string",
        false => &*spot.found,
    };
    let problem = Problem::new(format!("expected {expected}, found {found}"));
    let meant = meant::misfit(&Misfit {
        path: &spot.path,
        expected: &expected,
        text: spot.text.as_deref().filter(|_| spot.is_scalar && !hides),
        first_key: spot.first_key.as_deref(),
        keys,
        is_list: spot.is_list,
        list: spot.list.as_deref(),
    });
    match spot.text.as_deref() {
        _ if let Some(hint) = meant => problem.hint(hint),
        _ if expected.contains("string") && spot.found.starts_with("the ") => problem.hint("quote it"),
        Some("yes" | "on" | "Yes" | "On") if expected == "true or false" => problem.hint("write true"),
        Some("no" | "off" | "No" | "Off") if expected == "true or false" => problem.hint("write false"),
        _ => problem,
    }
}

fn unknown_key(key: &str, known: &[&str], spot: Option<&Spot>) -> Problem {
    let is_value = spot.is_some_and(|spot| meant::holds_secrets(&spot.path)) && !meant::is_word(key);
    let problem = match is_value {
        true => Problem::new("unknown key"),
        false => Problem::new(format!("unknown key `{}`", shortened(key))),
    };
    let near = suggest(key, known.iter().copied());
    // At the top, one letter away is a slip: `route`, `upstream`.
    let is_top = spot.is_some_and(|spot| spot.path.is_root());
    let is_slip = is_top && near.is_some_and(|near| strsim::damerau_levenshtein(key, near) == 1);
    let foreign = spot.and_then(|spot| meant::unknown_key(&spot.path, key, spot.text.as_deref()));
    if let Some(hint) = foreign.filter(|_| !is_slip) {
        return problem.hint(hint);
    }
    match near {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => problem.hint("it takes no keys"),
        None => problem.hint(format!("known keys: {}", known.join(", "))),
    }
}

/// What serde's own visitors expect, as an operator would say it.
fn in_our_words(expected: &str) -> Cow<'_, str> {
    let number = |min: &str, max: u64| Cow::Owned(format!("a whole number from {min} to {max}"));
    match expected {
        "a sequence" => "a list".into(),
        "a boolean" => "true or false".into(),
        "path string" => "a path, as a string".into(),
        "u8" => number("0", u8::MAX.into()),
        "u16" => number("0", u16::MAX.into()),
        "u32" => number("0", u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "a nonzero u8" => number("1", u8::MAX.into()),
        "a nonzero u16" => number("1", u16::MAX.into()),
        "a nonzero u32" => number("1", u32::MAX.into()),
        "a nonzero u64" | "a nonzero usize" => "a whole number, 1 or more".into(),
        "i8" => number("-128", i8::MAX as u64),
        "i16" => number("-32768", i16::MAX as u64),
        "i32" => number("-2147483648", i32::MAX as u64),
        "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        _ if expected.starts_with("struct ") => "a map".into(),
        _ if expected.starts_with("enum ") => "a name".into(),
        _ => expected.into(),
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::new(Wrong::Told(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let of_scalar = !matches!(found, Unexpected::Seq | Unexpected::Map | Unexpected::Enum);
        Fault::new(Wrong::Expected { expected: expected.to_string(), of_scalar, keys: &[] })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::custom(format!("expected {}, found {length}", in_our_words(&expected.to_string())))
    }

    fn unknown_variant(value: &str, known: &'static [&'static str]) -> Self {
        Fault::new(Wrong::UnknownValue { value: value.into(), known })
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Fault::new(Wrong::UnknownKey { key: key.into(), known })
    }

    fn missing_field(key: &'static str) -> Self {
        Fault::new(Wrong::MissingKey(key))
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::custom(format!("duplicate key `{key}`"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem().fmt(f)
    }
}

impl std::error::Error for Fault {}
