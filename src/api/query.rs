//! What a request says behind its path. A parameter that means nothing there is refused: it would not do what it says.

use std::{collections::BTreeMap, time::Duration};

use percent_encoding::percent_decode_str;

/// What is wrong with a query, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadQuery(pub(crate) String);

#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// # Errors
    ///
    /// A parameter is not among `known`, is there twice, or is no text.
    pub(crate) fn read(text: &str, known: &[&str]) -> Result<Query, BadQuery> {
        let mut query = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if !known.contains(&key.as_str()) {
                let hint = match known {
                    [] => "there are none here".to_owned(),
                    known => format!("known: {}", known.join(", ")),
                };
                return Err(BadQuery(format!("unknown parameter {key:?} ({hint})")));
            }
            if query.insert(key.clone(), value).is_some() {
                return Err(BadQuery(format!("the parameter {key:?} is given twice")));
            }
        }
        Ok(Query(query))
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether it is there, and does not say `false`.
    ///
    /// # Errors
    ///
    /// It says something else: what is misspelt must not be taken for an order that is meant.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, BadQuery> {
        match self.text(key) {
            Some("" | "true" | "1") => Ok(true),
            None | Some("false" | "0") => Ok(false),
            Some(other) => Err(BadQuery(format!("{key}: {other:?} is not `true` or `false`"))),
        }
    }

    /// # Errors
    ///
    /// It is no duration, or longer than `most`.
    pub(crate) fn duration(&self, key: &str, most: Duration) -> Result<Option<Duration>, BadQuery> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= most => Ok(Some(duration)),
            Ok(_) => {
                let most = humantime::format_duration(most);
                Err(BadQuery(format!("{key}: {text:?} is longer than {most}")))
            }
            Err(_) => Err(BadQuery(format!("{key}: {text:?} is not a duration (try \"{key}=10s\")"))),
        }
    }

    /// # Errors
    ///
    /// It is no number from 1 to `most`.
    pub(crate) fn number(&self, key: &str, most: usize) -> Result<Option<usize>, BadQuery> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(BadQuery(format!("{key}: {text:?} is not a number from 1 to {most}"))),
        }
    }
}

fn decode(text: &str) -> Result<String, BadQuery> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| BadQuery("the query is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Query, String> {
        Query::read(text, &["name", "wait", "limit", "revision"]).map_err(|bad| bad.0)
    }

    #[test]
    fn reads_what_is_known_and_refuses_the_rest() {
        let query = read("name=cart%2Eshop&&wait=30s&limit=10&revision=9:7").unwrap();
        assert_eq!((query.text("name"), query.text("other")), (Some("cart.shop"), None));
        assert_eq!(query.duration("wait", Duration::from_secs(60)), Ok(Some(Duration::from_secs(30))));
        assert_eq!(query.number("limit", 10), Ok(Some(10)));
        for bad in ["nmae=a", "name=a&name=b", "name=%ff"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let query = read("wait=soon&limit=0&revision=x").unwrap();
        assert!(query.duration("wait", Duration::MAX).unwrap_err().0.contains("try \"wait=10s\""));
        assert!(query.number("limit", 10).is_err());
        let flags = Query::read("a&b=false&c=no", &["a", "b", "c", "d"]).unwrap();
        assert_eq!((flags.flag("a"), flags.flag("b"), flags.flag("d")), (Ok(true), Ok(false), Ok(false)));
        assert!(flags.flag("c").is_err());
        let long = read("wait=1h").unwrap().duration("wait", Duration::from_secs(60)).unwrap_err();
        assert!(long.0.contains("longer than 1m"), "{}", long.0);
    }
}
