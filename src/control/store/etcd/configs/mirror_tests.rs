use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    config::RolloutSettings,
    control::{
        configs::Course,
        store::etcd::configs::{
            mirror::gateway_text,
            pieces::{self, tests::version},
        },
    },
    policy::waves::{Kept as Rollout, Phase},
};

struct Bench {
    mirror: Mirror,
    layout: Layout,
}

fn bench() -> Bench {
    let layout = Layout::new("/t/");
    Bench { mirror: Mirror::new("me".into(), layout.clone()), layout }
}

fn course(version: u64, phase: Phase) -> Course {
    let rollout = Rollout { phase, wave: 0, members: BTreeSet::new(), why: None };
    let settings = RolloutSettings::default();
    Course { version, stable: 0, checked_by: "control".to_owned(), settings, rollout, basis: 0 }
}

impl Bench {
    fn entry(&self, key: String, revision: u64, value: impl Into<Vec<u8>>) -> Entry {
        Entry { key, revision, value: Some(value.into()) }
    }

    /// A version, and that it is the newest.
    fn put(&self, number: u64, text: &str, revision: u64) -> Vec<Entry> {
        let written = pieces::write(&version(number, text)).unwrap();
        let current = text::course_text(&course(number, Phase::Done)).unwrap();
        vec![
            self.entry(
                self.layout.piece("edge", number, &written.sum, 0),
                revision,
                written.pieces[0].clone(),
            ),
            self.entry(self.layout.version("edge", number), revision, written.head),
            self.entry(self.layout.current("edge"), revision, current),
        ]
    }

    fn learn(&mut self, entries: Vec<Entry>) -> Vec<String> {
        let (_, unreadable) = self.mirror.learn(entries);
        let read = self.read();
        unreadable.into_iter().chain(read).map(|one| one.key).collect()
    }

    fn read(&mut self) -> Vec<Unreadable> {
        let unread = self.mirror.unread("edge");
        let found = unread.into_iter().map(|unread| {
            let version = unread.read("edge");
            (unread, version)
        });
        let found = found.collect();
        let mut unreadable = self.mirror.was_read("edge", found);
        unreadable.extend(self.whole().1);
        unreadable
    }

    fn whole(&mut self) -> (Option<Whole>, Option<Unreadable>) {
        self.mirror.whole("edge", |newest| Course::lost(newest, RolloutSettings::default()))
    }

    /// The versions that there are, how far the newest is, and as of which change.
    fn there(&mut self) -> (Vec<u64>, u64, Phase, u64) {
        let whole = self.whole().0.expect("it is there");
        let numbers = whole.versions.iter().map(|version| version.number).collect();
        (numbers, whole.course.version, whole.course.rollout.phase, whole.course.basis)
    }
}

#[test]
fn a_version_is_there_once_it_is_said_to_be_the_newest() {
    let mut bench = bench();
    let mut first = bench.put(1, "routes: []", 5);
    let current = first.pop().unwrap();
    assert!(bench.learn(first).is_empty());
    assert!(bench.whole().0.is_none() && bench.mirror.names().is_empty());
    assert!(bench.learn(vec![current]).is_empty());
    let (numbers, newest, phase, basis) = bench.there();
    assert_eq!((numbers, newest, phase), (vec![1], 1, Phase::Done));
    assert_eq!(bench.mirror.revision("edge", basis), Ok(5));
    let paused = text::course_text(&course(1, Phase::Paused)).unwrap();
    bench.learn(vec![bench.entry(bench.layout.current("edge"), 9, paused)]);
    assert_eq!(bench.there().2, Phase::Paused);
    assert_eq!(bench.mirror.revision("edge", basis), Err(1), "somebody was quicker");
    let now = bench.there().3;
    assert_eq!(bench.mirror.revision("edge", now), Ok(9));
    assert_eq!((bench.mirror.revision("mesh", 0), bench.mirror.revision("mesh", 1)), (Ok(0), Err(0)));
}

#[test]
fn garbage_is_passed_over_and_what_was_known_stays() {
    let mut bench = bench();
    bench.learn(bench.put(1, "routes: []", 5));
    bench.learn(bench.put(2, "routes: [] # 2", 6));
    let [current, first, third] =
        [bench.layout.current("edge"), bench.layout.version("edge", 1), bench.layout.version("edge", 3)];
    for (key, garbage) in [
        (current.as_str(), "garbage"),
        (&first, "garbage"),
        (&third, "{}"),
        ("/t/configs/edge/elsewhere", "x"),
        ("/t/configs/Bad Name/current", "x"),
        ("/t/gateways/edge/g1", "{\"replica\": 7}"),
    ] {
        let entry = bench.entry(key.to_owned(), 7, garbage);
        assert_eq!(bench.learn(vec![entry]), [key], "{key}");
    }
    let (numbers, newest, phase, basis) = bench.there();
    assert_eq!((numbers, newest, phase), (vec![1, 2], 2, Phase::Done));
    assert_eq!(bench.mirror.revision("edge", basis), Ok(7), "whoever puts the next one writes over it");
    // One that finds it there knows nothing else.
    let mut late = self::bench();
    late.learn(late.put(1, "routes: []", 5));
    late.learn(vec![late.entry(current, 7, "garbage")]);
    let mut other = self::bench();
    let mut found = other.put(1, "routes: []", 5);
    found[2].value = Some(b"garbage".to_vec());
    other.learn(found);
    assert_eq!((late.there().2, other.there().2), (Phase::Done, Phase::Paused));
}

#[test]
fn what_was_missed_is_found_by_the_difference() {
    let mut bench = bench();
    bench.learn(bench.put(1, "routes: []", 5));
    bench.learn(bench.put(2, "routes: [] # 2", 6));
    let as_known = |bench: &Bench| -> Vec<Entry> {
        let keys = bench.mirror.keys().into_iter();
        keys.map(|(key, revision)| Entry { key, revision, value: None }).collect()
    };
    let same = as_known(&bench);
    let (changed, _) = bench.mirror.take_in(same.clone(), 6, Continuity::Same);
    assert!(changed.is_empty(), "{changed:?}");
    // The first was removed meanwhile, and a third was put.
    let mut now: Vec<Entry> = same.into_iter().filter(|entry| !entry.key.contains("/edge/1")).collect();
    now.retain(|entry| entry.key != bench.layout.current("edge"));
    now.extend(bench.put(3, "routes: [] # 3", 9));
    bench.mirror.take_in(now, 9, Continuity::Same);
    assert!(bench.read().is_empty());
    assert_eq!(bench.there().0, [2, 3]);
    // What was removed since the list was made does not come back by it.
    let listed = bench.put(3, "routes: [] # 3", 9);
    let removed = bench.mirror.keys().into_keys().map(|key| Entry { key, revision: 12, value: None });
    bench.learn(removed.collect());
    assert!(bench.whole().0.is_none());
    bench.mirror.take_in(listed, 11, Continuity::Same);
    assert!(bench.mirror.names().is_empty() && bench.mirror.keys().is_empty());
}

#[test]
fn what_a_restored_store_lacks_is_ours_until_it_is_there_again() {
    let mut bench = bench();
    let backup = bench.put(1, "routes: []", 5);
    bench.learn(backup.clone());
    bench.learn(bench.put(2, "routes: [] # 2", 6));
    bench.mirror.take_in(backup, 5, Continuity::Broken);
    assert!(bench.mirror.is_lost("edge") && bench.mirror.all_lost() == [Name::from("edge")]);
    let (numbers, newest, _, basis) = bench.there();
    assert_eq!((numbers, newest), (vec![1, 2], 2));
    assert_eq!(bench.mirror.revision("edge", basis), Ok(5), "as of what stands there");
    bench.learn(bench.put(2, "routes: [] # 2", 8));
    assert!(!bench.mirror.is_lost("edge"));
    assert_eq!((bench.there().0, bench.there().1), (vec![1, 2], 2));
    // Another store, in which somebody has gone on.
    bench.mirror.take_in(bench.put(3, "routes: [] # 3", 3), 3, Continuity::Broken);
    assert!(!bench.mirror.is_lost("edge") && bench.read().is_empty());
    assert_eq!(bench.there().1, 3);
    // And an empty one.
    bench.mirror.take_in(Vec::new(), 1, Continuity::Broken);
    let basis = bench.there().3;
    assert_eq!((bench.mirror.is_lost("edge"), bench.mirror.revision("edge", basis)), (true, Ok(0)));
}

/// As it stands in the store after so many uses.
fn token(left: u32) -> String {
    let hash = "ab".repeat(32);
    format!(
        r#"{{"id":"t1","spiffe":"spiffe://mesh.local/a","sha256":"{hash}","uses":3,"left":{left},"until":9000000000,"created":1,"by":"ops"}}"#
    )
}

#[test]
fn a_use_that_a_backup_does_not_know_counts_all_the_same() {
    let mut bench = bench();
    let [one, revoked] = ["t1", "t2"].map(|id| bench.layout.token(id));
    let of = |id: &str, left: u32| token(left).replace("\"t1\"", &format!("{id:?}"));
    let at = |bench: &Bench, key: &str, revision, text: String| bench.entry(key.to_owned(), revision, text);
    let backup = vec![at(&bench, &one, 5, of("t1", 3)), at(&bench, &revoked, 6, of("t2", 1))];
    assert!(bench.learn(backup.clone()).is_empty());
    bench.learn(vec![at(&bench, &one, 7, of("t1", 2)), Entry { key: revoked, revision: 8, value: None }]);
    let left = |bench: &Bench| bench.mirror.token("t1").map(|(token, revision)| (token.left, revision));
    assert_eq!((left(&bench), bench.mirror.tokens().len()), (Some((2, 7)), 1));
    bench.mirror.take_in(backup.clone(), 6, Continuity::Broken);
    assert_eq!((left(&bench), bench.mirror.tokens().len()), (Some((2, 5)), 1), "as of what stands there");
    let to_restore = bench.mirror.tokens_to_restore();
    assert_eq!(
        to_restore.iter().map(|(id, at, token)| (id.as_str(), *at, token.is_some())).collect::<Vec<_>>(),
        [("t1", 5, true), ("t2", 6, false)]
    );
    // A look at all of it does not bring back what was before.
    bench.mirror.take_in(backup, 6, Continuity::Same);
    assert_eq!((left(&bench), bench.mirror.tokens().len()), (Some((2, 5)), 1));
    let written = at(&bench, &one, 9, of("t1", 2));
    assert!(bench.learn(vec![written]).is_empty());
    assert_eq!((left(&bench), bench.mirror.tokens_to_restore().len()), (Some((2, 9)), 1));
    // Garbage is written over by the next use.
    let garbage = at(&bench, &one, 11, "garbage".to_owned());
    assert_eq!(bench.learn(vec![garbage]), [one]);
    assert_eq!(left(&bench), Some((2, 11)));
}

#[test]
fn a_gateway_is_with_the_replica_that_it_came_to_last() {
    let mut bench = bench();
    let place = || (Name::from("edge"), Name::from("g1"));
    let report = |text: &str| Report::read(text.as_bytes()).unwrap();
    let written = r#"{"owner":"anybody","labels":{},"release":"1","started_ms":1,"since_ms":2,"version":3,"sha256":"","verdict":null}"#;
    let key = bench.layout.gateway("edge", "g1");
    let by = |replica: &str| gateway_text(replica, &report(written)).unwrap();
    bench.learn(vec![bench.entry(key.clone(), 5, by("other"))]);
    let news = bench.mirror.take_news();
    let there = news[0].there.as_ref().unwrap();
    assert_eq!((news.len(), &*there.replica, there.is_later), (1, "other", false));
    // It comes here; what the other one says of it was said before.
    bench.mirror.mine.insert(place(), None);
    bench.learn(vec![bench.entry(key.clone(), 6, by("other"))]);
    assert!(!bench.mirror.take_news()[0].there.as_ref().unwrap().is_later);
    bench.mirror.placed(&place(), 7);
    bench.learn(vec![bench.entry(key.clone(), 7, by("me"))]);
    assert!(bench.mirror.take_news().is_empty(), "that is known");
    bench.learn(vec![bench.entry(key.clone(), 8, by("other"))]);
    assert!(bench.mirror.take_news()[0].there.as_ref().unwrap().is_later);
    assert!(bench.mirror.mine.is_empty(), "it is none of ours any more");
    bench.learn(vec![Entry { key: key.clone(), revision: 9, value: None }]);
    assert!(bench.mirror.take_news()[0].there.is_none());
    // What came later was heard of before it was answered that ours is written.
    bench.mirror.mine.insert(place(), None);
    bench.learn(vec![bench.entry(key, 11, by("other"))]);
    assert!(!bench.mirror.take_news()[0].there.as_ref().unwrap().is_later);
    bench.mirror.placed(&place(), 10);
    assert!(bench.mirror.take_news()[0].there.as_ref().unwrap().is_later);
}

proptest! {
    #[test]
    fn no_bytes_are_too_much_for_it(values in proptest::collection::vec((0usize..9, any::<Option<Vec<u8>>>(), 1u64..9), 1..20)) {
        let mut bench = bench();
        let good = bench.put(1, "routes: []", 1);
        let keys: Vec<String> = good.iter().map(|entry| entry.key.clone()).collect();
        bench.learn(good);
        for (place, value, revision) in values {
            let key = match place {
                0..3 => keys[place].clone(),
                3 => bench.layout.version("edge", u64::MAX),
                4 => bench.layout.piece("edge", 2, "", usize::MAX),
                5 => bench.layout.gateway("edge", ""),
                6 => bench.layout.current("mesh"),
                7 => bench.layout.token("t1"),
                _ => String::new(),
            };
            let entry = Entry { key, revision, value };
            match revision % 3 {
                0 => _ = bench.mirror.take_in(vec![entry], revision, Continuity::Same),
                1 => _ = bench.mirror.take_in(vec![entry], revision, Continuity::Broken),
                _ => _ = bench.learn(vec![entry]),
            }
            bench.read();
            let _ = (bench.mirror.take_news(), bench.mirror.keys(), bench.mirror.all_lost());
        }
    }
}
