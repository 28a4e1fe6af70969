//! What stands at a key: an instance, with the replica that keeps its clock. Whatever is there was written by somebody, so
//! nothing of it is believed before it is read under the limits that a registration has.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::control::{
    instance::{Health, Instance},
    registration::{Ttls, check_id},
    store::{Gone, saved::Saved},
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The replica that is told of its heartbeats.
    pub(crate) replica: Arc<str>,
    pub(crate) instance: Instance,
}

/// What a later release adds is passed over, so that replicas of two releases get along.
#[derive(Serialize, Deserialize)]
struct Text {
    replica: String,
    #[serde(default)]
    held: bool,
    #[serde(default)]
    damped: Option<Health>,
    instance: Saved,
}

/// A replica's key.
#[derive(Serialize, Deserialize)]
struct Place {
    advertise: String,
}

/// Why instances are deleted, by their ids.
#[derive(Default, Serialize, Deserialize)]
struct Reasons {
    #[serde(default)]
    deregistered: Vec<String>,
}

pub(super) fn text(instance: &Instance, replica: &str) -> serde_json::Result<Vec<u8>> {
    let Instance { held, damped, .. } = *instance;
    serde_json::to_vec(&Text { replica: replica.to_owned(), held, damped, instance: Saved::of(instance) })
}

/// What stands at the key of `service` and `id`, as of `revision`.
///
/// # Errors
///
/// Why it is none of ours.
pub(super) fn read(
    text: &[u8],
    service: &str,
    id: &str,
    revision: u64,
    ttls: &Ttls,
) -> Result<Record, String> {
    let Text { replica, held, damped, instance } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    check_id(&replica).map_err(|_| format!("{replica:?} is no replica"))?;
    let mut instance = instance.instance(ttls)?;
    if *instance.name != *service || *instance.id != *id {
        return Err(format!(
            "it says {} of {}, and its key says {id} of {service}",
            instance.id, instance.name
        ));
    }
    (instance.held, instance.damped, instance.revision) = (held, damped, revision);
    Ok(Record { replica: replica.into(), instance })
}

pub(super) fn place(advertise: &str) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Place { advertise: advertise.to_owned() })
}

/// Where a replica is reached.
pub(super) fn read_place(text: &[u8]) -> Option<Arc<str>> {
    serde_json::from_slice(text).ok().map(|Place { advertise }| advertise.into())
}

pub(super) fn reasons<'g>(gone: impl Iterator<Item = (&'g str, Gone)>) -> serde_json::Result<Vec<u8>> {
    let on_purpose = gone.filter(|(_, gone)| *gone == Gone::Deregistered);
    serde_json::to_vec(&Reasons { deregistered: on_purpose.map(|(id, _)| id.to_owned()).collect() })
}

/// Those that left on purpose. Whatever is not named has expired, for all we know: gateways keep the last ones of a service
/// that silence has emptied.
pub(super) fn read_reasons(text: &[u8]) -> Vec<String> {
    serde_json::from_slice(text).map(|Reasons { deregistered }| deregistered).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::control::instance::tests::instance;

    const TTLS: Ttls = Ttls {
        default: Duration::from_secs(30),
        min: Duration::from_secs(1),
        max: Duration::from_secs(86_400),
    };

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let one = Instance { held: true, damped: Some(Health::Critical), ..instance("a", 1) };
        let written = text(&one, "r1").unwrap();
        let read = read(&written, "a", &one.id, 7, &TTLS).unwrap();
        assert_eq!(read, Record { replica: "r1".into(), instance: Instance { revision: 7, ..one } });
        assert_eq!(read_place(&place("a:1").unwrap()).as_deref(), Some("a:1"));
        let gone = [("a", Gone::Deregistered), ("b", Gone::Expired)];
        assert_eq!(read_reasons(&reasons(gone.into_iter()).unwrap()), ["a"]);
    }

    #[test]
    fn what_a_later_release_adds_is_passed_over() {
        let one = instance("a", 1);
        let written = String::from_utf8(text(&one, "r1").unwrap()).unwrap();
        let later =
            written.replacen('{', "{\"zone\":{\"a\":1},", 1).replace("\"port\":1", "\"port\":1,\"lane\":2");
        assert!(read(later.as_bytes(), "a", &one.id, 7, &TTLS).is_ok(), "{later}");
    }

    #[test]
    fn what_is_none_of_ours_says_why() {
        let one = instance("a", 1);
        let good = String::from_utf8(text(&one, "r1").unwrap()).unwrap();
        for (bad, service, says) in [
            ("hello".to_owned(), "a", "expected"),
            (good[..good.len() / 2].to_owned(), "a", "EOF"),
            (good.clone(), "b", "its key says"),
            (good.replace("r1", "r 1"), "a", "is no replica"),
            (good.replace("\"name\":\"a\"", "\"name\":\"A\""), "a", "is not the name of a service"),
            (good.replace("\"port\":1,", "\"port\":0,"), "a", "port"),
        ] {
            let why = read(bad.as_bytes(), service, &one.id, 7, &TTLS).unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
        assert_eq!((read_place(b"x"), read_reasons(b"[]")), (None, Vec::<String>::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much_for_it(cut in 0usize..400, with in any::<Vec<u8>>()) {
            let one = instance("a", 1);
            let mut written = text(&one, "r1").unwrap();
            let cut = cut.min(written.len());
            written.splice(cut.., with);
            let _ = (read(&written, "a", &one.id, 7, &TTLS), read_place(&written), read_reasons(&written));
        }
    }
}
