//! What a request says behind its path. A parameter that means nothing there is refused: it would not do what it says.

use std::{collections::BTreeMap, time::Duration};

use percent_encoding::percent_decode_str;

use crate::control::{
    refused::{Reason, Refused},
    store::Position,
};

#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// # Errors
    ///
    /// `bad_request`: a parameter is not among `known`, is there twice, or is no text.
    pub(super) fn read(text: &str, known: &[&str]) -> Result<Query, Refused> {
        let mut query = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if !known.contains(&key.as_str()) {
                let hint = match known {
                    [] => "there are none here".to_owned(),
                    known => format!("known: {}", known.join(", ")),
                };
                return Err(Reason::BadRequest.because(format!("unknown parameter {key:?} ({hint})")));
            }
            if query.insert(key.clone(), value).is_some() {
                return Err(Reason::BadRequest.because(format!("the parameter {key:?} is given twice")));
            }
        }
        Ok(Query(query))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether it is there, and does not say `false`.
    ///
    /// # Errors
    ///
    /// It says something else: what is misspelt must not be taken for an order that is meant.
    pub(super) fn flag(&self, key: &str) -> Result<bool, Refused> {
        match self.text(key) {
            Some("" | "true" | "1") => Ok(true),
            None | Some("false" | "0") => Ok(false),
            Some(other) => {
                Err(Reason::BadRequest.because(format!("{key}: {other:?} is not `true` or `false`")))
            }
        }
    }

    /// # Errors
    ///
    /// It is no duration, or longer than `most`.
    pub(super) fn duration(&self, key: &str, most: Duration) -> Result<Option<Duration>, Refused> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= most => Ok(Some(duration)),
            Ok(_) => {
                let most = humantime::format_duration(most);
                Err(Reason::BadRequest.because(format!("{key}: {text:?} is longer than {most}")))
            }
            Err(_) => {
                Err(Reason::BadRequest
                    .because(format!("{key}: {text:?} is not a duration (try \"{key}=10s\")")))
            }
        }
    }

    /// # Errors
    ///
    /// It is no number from 1 to `most`.
    pub(super) fn number(&self, key: &str, most: usize) -> Result<Option<usize>, Refused> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Reason::BadRequest.because(format!("{key}: {text:?} is not a number from 1 to {most}"))),
        }
    }

    /// `REVISION`, of the present epoch, or `EPOCH:REVISION`.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub(super) fn position(&self, key: &str, present: Position) -> Result<Option<Position>, Refused> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let bare = text.parse().ok().map(|revision| Position { revision, ..present });
        match bare.or_else(|| Position::parse(text)) {
            Some(position) => Ok(Some(position)),
            None => {
                let hint = "give what `x-tidegate-revision` said";
                Err(Reason::BadRequest.because(format!("{key}: {text:?} is not a revision ({hint})")))
            }
        }
    }
}

fn decode(text: &str) -> Result<String, Refused> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| Reason::BadRequest.because("the query is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRESENT: Position = Position { epoch: 9, revision: 5 };

    fn read(text: &str) -> Result<Query, String> {
        Query::read(text, &["name", "wait", "limit", "revision"]).map_err(|refused| refused.why)
    }

    #[test]
    fn reads_what_is_known_and_refuses_the_rest() {
        let query = read("name=cart%2Eshop&&wait=30s&limit=10&revision=9:7").unwrap();
        assert_eq!((query.text("name"), query.text("other")), (Some("cart.shop"), None));
        assert_eq!(query.duration("wait", Duration::from_secs(60)), Ok(Some(Duration::from_secs(30))));
        assert_eq!(query.number("limit", 10), Ok(Some(10)));
        assert_eq!(query.position("revision", PRESENT), Ok(Some(Position { epoch: 9, revision: 7 })));
        let bare = read("revision=3").unwrap().position("revision", PRESENT);
        assert_eq!(bare, Ok(Some(Position { epoch: 9, revision: 3 })));
        for bad in ["nmae=a", "name=a&name=b", "name=%ff"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let query = read("wait=soon&limit=0&revision=x").unwrap();
        assert!(query.duration("wait", Duration::MAX).unwrap_err().why.contains("try \"wait=10s\""));
        assert!(query.number("limit", 10).is_err() && query.position("revision", PRESENT).is_err());
        let flags = Query::read("a&b=false&c=no", &["a", "b", "c", "d"]).unwrap();
        assert_eq!((flags.flag("a"), flags.flag("b"), flags.flag("d")), (Ok(true), Ok(false), Ok(false)));
        assert!(flags.flag("c").is_err());
        let long = read("wait=1h").unwrap().duration("wait", Duration::from_secs(60)).unwrap_err();
        assert!(long.why.contains("longer than 1m"), "{}", long.why);
    }
}
