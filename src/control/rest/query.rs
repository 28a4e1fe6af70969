//! What only a query of this API says: a place in the registry's changes.

use crate::{
    api::query::{BadQuery, Query},
    control::{
        refused::{Reason, Refused},
        store::Position,
    },
};

impl From<BadQuery> for Refused {
    fn from(BadQuery(why): BadQuery) -> Refused {
        Reason::BadRequest.because(why)
    }
}

/// `REVISION`, of the present epoch, or `EPOCH:REVISION`.
///
/// # Errors
///
/// It is neither.
pub(super) fn position(query: &Query, key: &str, present: Position) -> Result<Option<Position>, Refused> {
    let Some(text) = query.text(key) else { return Ok(None) };
    let bare = text.parse().ok().map(|revision| Position { revision, ..present });
    match bare.or_else(|| Position::parse(text)) {
        Some(position) => Ok(Some(position)),
        None => {
            let hint = "give what `x-tidegate-revision` said";
            Err(Reason::BadRequest.because(format!("{key}: {text:?} is not a revision ({hint})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_revision_or_one_with_its_epoch() {
        let present = Position { epoch: 9, revision: 5 };
        let read = |text: &str| position(&Query::read(text, &["revision"]).unwrap(), "revision", present);
        assert_eq!(read("revision=9:7").unwrap(), Some(Position { epoch: 9, revision: 7 }));
        assert_eq!(read("revision=3").unwrap(), Some(Position { epoch: 9, revision: 3 }));
        assert_eq!(read("").unwrap(), None);
        assert!(read("revision=x").is_err());
    }
}
