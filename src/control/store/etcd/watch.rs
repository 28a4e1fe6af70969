//! What a watch of etcd says, made into what has changed.
//!
//! A watch that is refused is refused in a message, and the first message of one that is refused says `created` as well: so
//! `canceled` is looked at first, in each. What a revision wrote comes as a whole, which may be in several messages.

use std::sync::Arc;

use etcd_client::{WatchResponse, proto::PbWatchResponse};

use super::{Batch, News, Shared, configs::Entry, layout::Key, list, record};
use crate::control::store::Gone;

/// What a message is.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// In the order of their revisions; none, where it is a sign of life.
    Batches(Vec<Batch>),
    /// What was asked for is not there any more: all has to be read.
    Compacted,
    /// Why this watch is over.
    Over(String),
}

/// Puts the parts of a message together.
#[derive(Default)]
pub(super) struct Assembly {
    entries: Vec<Event>,
}

struct Event {
    revision: u64,
    is_removal: bool,
    entry: etcd_client::KeyValue,
}

impl Assembly {
    /// `epoch` is the one that is in force.
    pub(super) fn read(&mut self, response: WatchResponse, shared: &Shared, epoch: u64) -> Heard {
        let WatchResponse(PbWatchResponse {
            canceled,
            compact_revision,
            cancel_reason,
            events,
            fragment,
            ..
        }) = response;
        if canceled && compact_revision > 0 {
            return Heard::Compacted;
        }
        if canceled {
            return Heard::Over(format!("the watch was refused: {}", cancel_reason.escape_debug()));
        }
        for event in events {
            let Some(entry) = event.kv else { continue };
            let revision = u64::try_from(entry.mod_revision).unwrap_or(0);
            // 0 is a key that was written, 1 one that was removed. What a later etcd may say beside is not for us.
            let is_removal = match event.r#type {
                0 => false,
                1 => true,
                _ => continue,
            };
            self.entries.push(Event { revision, is_removal, entry: etcd_client::KeyValue(entry) });
        }
        if fragment {
            return Heard::Batches(Vec::new());
        }
        let entries = std::mem::take(&mut self.entries);
        let mut batches = Vec::new();
        for of_one in entries.chunk_by(|one, next| one.revision == next.revision) {
            match batch(of_one, shared, epoch) {
                Ok(batch) => batches.push(batch),
                // What came before is not lost: it is asked for again.
                Err(why) => return Heard::Over(why),
            }
        }
        Heard::Batches(batches)
    }
}

/// # Errors
///
/// The store is another one now.
fn batch(entries: &[Event], shared: &Shared, epoch: u64) -> Result<Batch, String> {
    let on_purpose: Vec<String> = entries
        .iter()
        .filter(|one| shared.layout.read(one.entry.key()) == Key::Gone)
        .flat_map(|one| record::read_reasons(one.entry.value()))
        .collect();
    let (mut news, mut configs) = (Vec::new(), Vec::new());
    for Event { revision, is_removal, entry } in entries {
        if shared.layout.is_mirrored(entry.key()) {
            let key = String::from_utf8_lossy(entry.key()).into_owned();
            let value = (!is_removal).then(|| entry.value().to_vec());
            configs.push(Entry { key, revision: *revision, value });
            continue;
        }
        match (shared.layout.read(entry.key()), is_removal) {
            (Key::Instance { .. }, false) => news.extend(list::read(shared, entry)),
            (Key::Instance { service, id }, true) => {
                let is_on_purpose = on_purpose.iter().any(|one| one == id);
                let gone = if is_on_purpose { Gone::Deregistered } else { Gone::Expired };
                news.push(News::Removed { service: service.into(), id: id.into(), gone });
            }
            (Key::Replica(id), false) => match record::read_place(entry.value()) {
                Some(advertise) => news.push(News::ReplicaCame { id: id.into(), advertise }),
                None => shared.unreadable(entry.key(), "it says no address"),
            },
            (Key::Replica(id), true) => news.push(News::ReplicaGone(id.into())),
            (Key::Leader, false) => {
                news.push(News::Leader(entry.value_str().ok().map(Arc::from)));
            }
            (Key::Leader, true) => news.push(News::Leader(None)),
            (Key::Epoch, _) if entry.value_str().ok() != Some(epoch.to_string().as_str()) => {
                return Err("another replica has found that the store is another one".to_owned());
            }
            (
                Key::Epoch
                | Key::Gone
                | Key::Config { .. }
                | Key::Gateway { .. }
                | Key::Token(_)
                | Key::Other,
                _,
            ) => {}
        }
    }
    Ok(Batch { revision: entries.first().map_or(0, |first| first.revision), news, configs })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use etcd_client::proto::{PbEvent, PbKeyValue};

    use super::*;
    use crate::{
        config::EtcdStore,
        control::{instance::tests::instance, registration::Ttls},
        observe::metrics::Metrics,
    };

    fn shared() -> Shared {
        let ttls = Ttls {
            default: Duration::from_secs(30),
            min: Duration::from_secs(1),
            max: Duration::from_secs(86_400),
        };
        let settings = EtcdStore {
            endpoints: Vec::new(),
            prefix: "/t/".to_owned(),
            tls: None,
            user: None,
            password: None,
        };
        Shared::new(&settings, "127.0.0.1:1", ttls, Metrics::new("test").of_store().clone())
    }

    fn event(kind: i32, key: String, value: Vec<u8>, revision: i64) -> PbEvent {
        let kv = PbKeyValue { key: key.into(), value, mod_revision: revision, ..PbKeyValue::default() };
        PbEvent { r#type: kind, kv: Some(kv), prev_kv: None }
    }

    fn put(shared: &Shared, port: u16, revision: i64) -> PbEvent {
        let one = instance("a", port);
        event(0, shared.layout.instance("a", &one.id), record::text(&one, "r1").unwrap(), revision)
    }

    fn response(events: Vec<PbEvent>) -> PbWatchResponse {
        PbWatchResponse { events, ..PbWatchResponse::default() }
    }

    fn read(shared: &Shared, responses: Vec<PbWatchResponse>) -> Vec<Heard> {
        let mut assembly = Assembly::default();
        responses.into_iter().map(|one| assembly.read(WatchResponse(one), shared, 7)).collect()
    }

    #[test]
    fn a_refusal_goes_before_the_news_that_a_watch_was_made() {
        let shared = shared();
        let created = PbWatchResponse { created: true, ..PbWatchResponse::default() };
        let compacted =
            PbWatchResponse { created: true, canceled: true, compact_revision: 7, ..created.clone() };
        let token = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        let refused = PbWatchResponse { canceled: true, cancel_reason: token.to_owned(), ..created.clone() };
        let heard = read(&shared, vec![created, compacted, refused]);
        assert_eq!(heard[..2], [Heard::Batches(vec![]), Heard::Compacted]);
        assert!(matches!(&heard[2], Heard::Over(why) if why.contains("invalid auth token")), "{heard:?}");
    }

    #[test]
    fn what_a_revision_wrote_comes_as_a_whole_whatever_messages_it_was_in() {
        let shared = shared();
        let gone = record::reasons([("a-127.0.0.1-2", Gone::Deregistered)].into_iter()).unwrap();
        let removed = |port| event(1, shared.layout.instance("a", &instance("a", port).id), Vec::new(), 6);
        let first = PbWatchResponse { fragment: true, ..response(vec![put(&shared, 1, 5), removed(2)]) };
        let second = response(vec![removed(3), event(0, shared.layout.gone(), gone, 6)]);
        let heard = read(&shared, vec![first, second]);
        assert_eq!(heard[0], Heard::Batches(vec![]));
        let Heard::Batches(batches) = &heard[1] else { panic!("{heard:?}") };
        assert_eq!(
            batches.iter().map(|batch| (batch.revision, batch.news.len())).collect::<Vec<_>>(),
            [(5, 1), (6, 2)]
        );
        let why = |news: &News| match news {
            News::Removed { gone, .. } => *gone,
            other => panic!("{other:?}"),
        };
        assert_eq!((why(&batches[1].news[0]), why(&batches[1].news[1])), (Gone::Deregistered, Gone::Expired));
    }

    #[test]
    fn garbage_and_what_is_not_known_are_passed_over() {
        let shared = shared();
        let at = |key: String, value: &[u8]| event(0, key, value.to_vec(), 5);
        let heard = read(
            &shared,
            vec![response(vec![
                at(shared.layout.instance("a", "x"), b"\xff garbage"),
                at(shared.layout.replica("r9"), b"{}"),
                at("/t/configs/edge/current".to_owned(), b"3"),
                event(7, shared.layout.leader(), Vec::new(), 5),
                PbEvent { r#type: 0, kv: None, prev_kv: None },
                put(&shared, 1, 5),
            ])],
        );
        let Heard::Batches(batches) = &heard[0] else { panic!("{heard:?}") };
        assert!(
            matches!(batches[0].news[..], [News::Unreadable { revision: 5, .. }, News::Put(_)]),
            "{batches:?}"
        );
        assert_eq!(batches[0].configs.len(), 1, "which are read elsewhere");
        assert_eq!(shared.unreadable.lock().unwrap().len(), 2);
    }

    #[test]
    fn another_epoch_ends_the_watch_and_the_same_one_does_not() {
        let shared = shared();
        let epoch = |value: &[u8]| vec![response(vec![event(0, shared.layout.epoch(), value.to_vec(), 5)])];
        assert!(matches!(read(&shared, epoch(b"7"))[0], Heard::Batches(_)));
        assert!(matches!(read(&shared, epoch(b"8"))[0], Heard::Over(_)));
    }
}
