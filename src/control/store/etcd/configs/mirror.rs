//! What etcd has of configurations and of the gateways that take them, as far as it was heard of. Pure: what the store says goes in, and
//! what it means comes out. Texts are read when somebody asks for them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    super::{
        Continuity,
        layout::{Key, Layout, Of},
    },
    pieces::{self, Head},
};
use crate::control::{
    configs::{Course, Elsewhere, Name, News, Report, Version, check_config_name, text},
    tokens::Token,
};

/// A key, and what stands there since `revision`; `None` where nothing does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) revision: u64,
    pub(crate) value: Option<Vec<u8>>,
}

/// A configuration, and a gateway that takes it.
pub(super) type Place = (Name, Name);

pub(super) struct Mirror {
    me: Arc<str>,
    layout: Layout,
    configs: BTreeMap<Name, Kept>,
    /// Gateways of all replicas.
    gateways: HashMap<Place, Heard>,
    /// For first SVIDs, by their ids, with the revisions of their keys.
    tokens: BTreeMap<String, (Token, u64)>,
    /// Tokens that a restored store has otherwise, with what is to stand there, and the revision of their keys.
    to_restore: BTreeMap<String, (u64, Option<Token>)>,
    /// Of which something has changed.
    news: BTreeSet<Place>,
    /// Where those that are here stand in the store; `None` until they do.
    pub(super) mine: HashMap<Place, Option<u64>>,
    /// How often it was written how far a configuration is.
    changes: u64,
    /// Keys that were removed since all was looked through, with when: what was listed before does not bring them back.
    gone: HashMap<String, u64>,
}

#[derive(Default)]
struct Kept {
    current: Option<Current>,
    versions: BTreeMap<u64, Slot>,
    pieces: BTreeMap<(u64, String, usize), (u64, Vec<u8>)>,
    /// As it was when it could be read last, and of which change that is.
    course: Option<Course>,
    read: u64,
    /// The store was restored, and does not have it.
    is_lost: bool,
}

struct Current {
    /// Of its key; 0 where there is none.
    revision: u64,
    /// Which change it is.
    basis: u64,
    text: Vec<u8>,
}

/// A version.
#[derive(Default)]
struct Slot {
    revision: u64,
    /// What its key says, where that was not read yet.
    unread: Option<Vec<u8>>,
    /// What it was when it could be read last, with what its text is known by.
    version: Option<(Arc<Version>, String)>,
}

struct Heard {
    revision: u64,
    replica: Arc<str>,
    report: Report,
}

/// A version that is to be read.
pub(super) struct Unread {
    pub(super) number: u64,
    revision: u64,
    head: Result<Head, String>,
    pieces: Vec<Vec<u8>>,
}

/// What somebody else has written there.
pub(super) struct Unreadable {
    pub(super) key: String,
    pub(super) why: String,
}

/// All that is kept of a configuration.
pub(super) struct Whole {
    pub(super) versions: Vec<Arc<Version>>,
    pub(super) course: Course,
}

impl Mirror {
    pub(super) fn new(me: Arc<str>, layout: Layout) -> Mirror {
        Mirror {
            me,
            layout,
            configs: BTreeMap::new(),
            gateways: HashMap::new(),
            tokens: BTreeMap::new(),
            to_restore: BTreeMap::new(),
            news: BTreeSet::new(),
            mine: HashMap::new(),
            changes: 0,
            gone: HashMap::new(),
        }
    }

    /// What was written at one revision. Configurations that are others now, and what nobody can read.
    pub(super) fn learn(&mut self, entries: Vec<Entry>) -> (BTreeSet<Name>, Vec<Unreadable>) {
        let (mut changed, mut unreadable) = (BTreeSet::new(), Vec::new());
        for entry in entries {
            match self.set(entry) {
                Ok(name) => changed.extend(name),
                Err(bad) => unreadable.push(bad),
            }
        }
        (changed, unreadable)
    }

    /// All that there is as of `revision`: keys without a value are as they were known.
    pub(super) fn take_in(
        &mut self,
        listed: Vec<Entry>,
        revision: u64,
        continuity: Continuity,
    ) -> (BTreeSet<Name>, Vec<Unreadable>) {
        if continuity == Continuity::Same {
            let there: HashSet<&str> = listed.iter().map(|entry| entry.key.as_str()).collect();
            let gone = self
                .keys()
                .into_iter()
                .filter(|(key, known)| *known <= revision && !there.contains(key.as_str()));
            let gone: Vec<Entry> = gone.map(|(key, _)| Entry { key, revision, value: None }).collect();
            let (known, left) = (self.keys(), std::mem::take(&mut self.gone));
            let later = |key: &str| known.get(key).max(left.get(key)).copied().unwrap_or_default();
            let news = listed
                .into_iter()
                .filter(|entry| entry.value.is_some() && entry.revision > later(&entry.key));
            let told = self.learn(news.chain(gone).collect());
            self.gone.clear();
            return told;
        }
        self.gone.clear();
        self.news.extend(self.gateways.drain().map(|(place, _)| place));
        let before = std::mem::take(&mut self.configs);
        let tokens = std::mem::take(&mut self.tokens);
        let (mut changed, unreadable) = self.learn(listed);
        if continuity == Continuity::Broken {
            self.restore_tokens(tokens);
        }
        for (name, known) in before {
            if self.lost(&name, known) {
                log::warn!("etcd lacks what the configuration {name} was: it is written to it again");
            }
            changed.insert(name);
        }
        (changed, unreadable)
    }

    /// Whether the store has `known` no more, or an earlier state of it. It is ours then, until it is there again.
    fn lost(&mut self, name: &Name, known: Kept) -> bool {
        let (Some(course), Some(current)) = (&known.course, &known.current) else { return false };
        let there = self.configs.get(name).and_then(|kept| kept.current.as_ref());
        let version = there.and_then(|there| text::version_of(&there.text)).unwrap_or_default();
        let is_ours = there.is_some_and(|there| there.text == current.text);
        if is_ours || version > course.version {
            return false;
        }
        let revision = there.map_or(0, |there| there.revision);
        self.changes += 1;
        let current = Current { revision, basis: self.changes, text: current.text.clone() };
        let kept = Kept { current: Some(current), read: self.changes, is_lost: true, ..known };
        self.configs.insert(name.clone(), kept);
        true
    }

    /// A backup has uses that were made since, and tokens that were revoked: what is known here counts.
    fn restore_tokens(&mut self, known: BTreeMap<String, (Token, u64)>) {
        let there = std::mem::take(&mut self.tokens);
        for (id, (_, revision)) in there.iter().filter(|(id, _)| !known.contains_key(*id)) {
            self.to_restore.insert(id.clone(), (*revision, None));
        }
        for (id, (token, _)) in known {
            let there = there.get(&id);
            let revision = there.map_or(0, |(_, revision)| *revision);
            if there.is_none_or(|(there, _)| *there != token) {
                self.to_restore.insert(id.clone(), (revision, Some(token.clone())));
            }
            self.tokens.insert(id, (token, revision));
        }
    }

    fn set_token(&mut self, id: &str, revision: u64, value: Option<Vec<u8>>) -> Result<(), String> {
        if self.to_restore.get(id).is_some_and(|(there, _)| revision <= *there) {
            return Ok(());
        }
        match value.map(|text| Token::read(&text, id)) {
            Some(Ok(token)) => _ = self.tokens.insert(id.to_owned(), (token, revision)),
            Some(Err(why)) => {
                // What was known stays, and is written over it.
                if let Some((_, known)) = self.tokens.get_mut(id) {
                    *known = revision;
                }
                return Err(why);
            }
            None => _ = self.tokens.remove(id),
        }
        self.to_restore.remove(id);
        Ok(())
    }

    pub(super) fn token(&self, id: &str) -> Option<(Token, u64)> {
        self.tokens.get(id).cloned()
    }

    pub(super) fn tokens(&self) -> BTreeMap<String, (Token, u64)> {
        self.tokens.clone()
    }

    pub(super) fn tokens_to_restore(&self) -> Vec<(String, u64, Option<Token>)> {
        let tokens = self.to_restore.iter();
        tokens.map(|(id, (revision, token))| (id.clone(), *revision, token.clone())).collect()
    }

    fn set(&mut self, entry: Entry) -> Result<Option<Name>, Unreadable> {
        let layout = self.layout.clone();
        if entry.value.is_none() {
            self.gone.insert(entry.key.clone(), entry.revision);
        }
        match layout.read(entry.key.as_bytes()) {
            Key::Config { name, of } if check_config_name(name).is_ok() => {
                let name = Name::from(name);
                let is_news = self.set_config(&name, of, entry.revision, entry.value);
                Ok(is_news.then_some(name))
            }
            Key::Gateway { config, node } if check_config_name(config).is_ok() => {
                let place = (config.into(), node.into());
                self.set_gateway(place, entry.revision, entry.value)
                    .map_err(|why| Unreadable { key: entry.key.clone(), why })?;
                Ok(None)
            }
            Key::Token(id) => {
                self.set_token(id, entry.revision, entry.value)
                    .map_err(|why| Unreadable { key: entry.key.clone(), why })?;
                Ok(None)
            }
            _ if entry.value.is_none() => Ok(None),
            _ => Err(Unreadable { key: entry.key, why: "nothing of ours has this key".to_owned() }),
        }
    }

    /// Whether it is news for those who follow it.
    fn set_config(&mut self, name: &Name, of: Of<'_>, revision: u64, value: Option<Vec<u8>>) -> bool {
        self.changes += 1;
        let kept = self.configs.entry(name.clone()).or_default();
        match (of, value) {
            (Of::Current, Some(text)) => {
                let version = kept.course.as_ref().map_or(0, |course| course.version);
                kept.is_lost &= text::version_of(&text).is_none_or(|written| written < version);
                // What is written again is still ours.
                let text = match &kept.current {
                    Some(current) if kept.is_lost => current.text.clone(),
                    _ => text,
                };
                kept.current = Some(Current { revision, basis: self.changes, text });
            }
            (Of::Current, None) => {
                (kept.current, kept.course, kept.is_lost) = (None, None, false);
            }
            (Of::Version(number), Some(head)) => {
                let slot = kept.versions.entry(number).or_default();
                (slot.revision, slot.unread) = (revision, Some(head));
            }
            (Of::Version(number), None) if !kept.is_lost => _ = kept.versions.remove(&number),
            (Of::Version(_), None) => {}
            (Of::Piece { version, sum, index }, Some(piece)) => {
                kept.pieces.insert((version, sum.to_owned(), index), (revision, piece));
                return false;
            }
            (Of::Piece { version, sum, index }, None) => {
                kept.pieces.remove(&(version, sum.to_owned(), index));
                if kept.is_empty() {
                    self.configs.remove(name);
                }
                return false;
            }
        }
        if kept.is_empty() {
            self.configs.remove(name);
        }
        true
    }

    fn set_gateway(&mut self, place: Place, revision: u64, value: Option<Vec<u8>>) -> Result<(), String> {
        match value {
            Some(text) => {
                let (replica, report) = read_gateway(&text)?;
                self.gateways.insert(place.clone(), Heard { revision, replica, report });
            }
            None => _ = self.gateways.remove(&place),
        }
        self.news.insert(place);
        Ok(())
    }

    /// All keys that are known, with their revisions.
    pub(super) fn keys(&self) -> HashMap<String, u64> {
        let gateways = self.gateways.iter();
        let mut keys: HashMap<String, u64> = gateways
            .map(|((config, node), heard)| (self.layout.gateway(config, node), heard.revision))
            .collect();
        let tokens = self.tokens.iter().filter(|(id, _)| !self.to_restore.contains_key(*id));
        keys.extend(tokens.map(|(id, (_, revision))| (self.layout.token(id), *revision)));
        // What is lost stands nowhere as it was.
        for (name, kept) in self.configs.iter().filter(|(_, kept)| !kept.is_lost) {
            keys.extend(kept.current.as_ref().map(|current| (self.layout.current(name), current.revision)));
            let versions = kept.versions.iter();
            keys.extend(versions.map(|(number, slot)| (self.layout.version(name, *number), slot.revision)));
            keys.extend(kept.pieces.iter().map(|((version, sum, index), (revision, _))| {
                (self.layout.piece(name, *version, sum, *index), *revision)
            }));
        }
        keys
    }

    pub(super) fn names(&self) -> Vec<Name> {
        let there = self.configs.iter().filter(|(_, kept)| kept.current.is_some());
        there.map(|(name, _)| name.clone()).collect()
    }

    /// What is to be read before all is known of it.
    pub(super) fn unread(&self, name: &str) -> Vec<Unread> {
        let Some(kept) = self.configs.get(name) else { return Vec::new() };
        let unread = kept.versions.iter().filter_map(|(number, slot)| {
            let head = pieces::read_head(slot.unread.as_ref()?);
            let sum = head.as_ref().map(|head| head.sum.clone()).unwrap_or_default();
            let pieces = kept.pieces.range((*number, sum.clone(), 0)..=(*number, sum, usize::MAX));
            let pieces = pieces.map(|(_, (_, piece))| piece.clone()).collect();
            Some(Unread { number: *number, revision: slot.revision, head, pieces })
        });
        unread.collect()
    }

    /// What was found at those keys.
    pub(super) fn was_read(
        &mut self,
        name: &str,
        found: Vec<(Unread, Result<Version, String>)>,
    ) -> Vec<Unreadable> {
        let Some(kept) = self.configs.get_mut(name) else { return Vec::new() };
        let mut unreadable = Vec::new();
        for (unread, version) in found {
            let number = unread.number;
            let slot = kept.versions.get_mut(&number).filter(|slot| slot.revision == unread.revision);
            let Some(slot) = slot else { continue };
            slot.unread = None;
            match (version, unread.head) {
                (Ok(version), Ok(head)) => {
                    // The text is no longer needed as it was written.
                    for (_, (_, piece)) in kept.pieces.iter_mut().filter(|((of, _, _), _)| *of == number) {
                        *piece = Vec::new();
                    }
                    slot.version = Some((Arc::new(version), head.sum));
                }
                // It was written once more.
                (_, Ok(head)) if slot.version.as_ref().is_some_and(|(_, sum)| *sum == head.sum) => {}
                (Err(why), _) | (_, Err(why)) => {
                    unreadable.push(Unreadable { key: self.layout.version(name, number), why });
                }
            }
        }
        unreadable
    }

    /// All of it, where it is there. `lost` is how far it is where that cannot be read.
    pub(super) fn whole(
        &mut self,
        name: &str,
        lost: impl FnOnce(u64) -> Course,
    ) -> (Option<Whole>, Option<Unreadable>) {
        let Some(kept) = self.configs.get_mut(name) else { return (None, None) };
        let read = kept.versions.iter();
        let read = read.filter_map(|(number, slot)| Some((*number, slot.version.as_ref()?.0.clone())));
        let mut versions: BTreeMap<u64, Arc<Version>> = read.collect();
        let Some(current) = &kept.current else { return (None, None) };
        let mut unreadable = None;
        if kept.read != current.basis {
            kept.read = current.basis;
            match text::read_course(&current.text, &versions) {
                Ok(course) => kept.course = Some(course),
                Err(why) => unreadable = Some(Unreadable { key: self.layout.current(name), why }),
            }
        }
        let newest = versions.keys().next_back().copied();
        let course = kept.course.clone().or_else(|| newest.map(lost));
        let whole = course.map(|course| {
            // Nobody has put them.
            versions.retain(|number, _| *number <= course.version);
            let course = Course { basis: current.basis, ..course };
            Whole { versions: versions.into_values().collect(), course }
        });
        (whole, unreadable)
    }

    /// The revision at which its key is where `basis` is still how far it is.
    ///
    /// # Errors
    ///
    /// The newest version there is instead.
    pub(super) fn revision(&self, name: &str, basis: u64) -> Result<u64, u64> {
        let kept = self.configs.get(name);
        match kept.and_then(|kept| kept.current.as_ref()) {
            None if basis == 0 => Ok(0),
            Some(current) if current.basis == basis => Ok(current.revision),
            _ => Err(kept.and_then(|kept| Some(kept.course.as_ref()?.version)).unwrap_or_default()),
        }
    }

    /// Those that are to be written again.
    pub(super) fn all_lost(&self) -> Vec<Name> {
        self.configs.iter().filter(|(_, kept)| kept.is_lost).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn is_lost(&self, name: &str) -> bool {
        self.configs.get(name).is_some_and(|kept| kept.is_lost)
    }

    /// What is to be told of gateways that are with others, since the last time.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        let mut all = Vec::new();
        for place in std::mem::take(&mut self.news) {
            let heard = self.gateways.get(&place);
            if heard.is_some_and(|heard| heard.replica == self.me) {
                continue;
            }
            let mine = self.mine.get(&place).copied().flatten();
            let is_later = heard.is_some_and(|heard| mine.is_some_and(|mine| heard.revision > mine));
            let there = heard.map(|heard| Elsewhere {
                replica: heard.replica.clone(),
                report: heard.report.clone(),
                is_later,
            });
            if is_later {
                self.mine.remove(&place);
            }
            let (config, node) = place;
            all.push(News { config, node, there });
        }
        all
    }

    /// One of ours stands in the store since `revision`: whatever came later is news.
    pub(super) fn placed(&mut self, place: &Place, revision: u64) {
        if let Some(mine) = self.mine.get_mut(place) {
            *mine = Some(revision);
        }
        if self.gateways.get(place).is_some_and(|heard| heard.revision > revision && heard.replica != self.me)
        {
            self.news.insert(place.clone());
        }
    }
}

impl Unread {
    /// Takes a while.
    pub(super) fn read(&self, name: &str) -> Result<Version, String> {
        let head = self.head.as_ref().map_err(Clone::clone)?;
        pieces::read(head, &self.pieces, name, self.number)
    }
}

impl Kept {
    fn is_empty(&self) -> bool {
        self.current.is_none() && self.versions.is_empty() && self.pieces.is_empty()
    }
}

/// The replica that a gateway is with, and what that tells of it.
fn read_gateway(text: &[u8]) -> Result<(Arc<str>, Report), String> {
    #[derive(serde::Deserialize)]
    struct Of {
        replica: Arc<str>,
    }
    let report = Report::read(text)?;
    let Of { replica } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok((replica, report))
}

/// As a gateway that is with `replica` stands in the store.
pub(super) fn gateway_text(replica: &str, report: &Report) -> serde_json::Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    struct Text<'a> {
        replica: &'a str,
        #[serde(flatten)]
        report: &'a Report,
    }
    serde_json::to_vec(&Text { replica, report })
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
