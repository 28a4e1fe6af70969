//! What is new, as messages: none is larger than a reader has to take at once.

use std::sync::Arc;

use super::difference::Difference;
use crate::{
    control::{
        instance::{Instance, Protocol, State},
        store::{Gone, Position},
    },
    upstream::Selector,
    wire::v1,
};

const MOST_INSTANCES: usize = 1_000;
const LARGEST: usize = 256 * 1024;

/// `news` for one subscription, to all instances or those of `narrowed`: at least one message, of which the last is the end.
pub(crate) fn updates(subscription: u64, narrowed: Option<&Selector>, news: &Difference) -> Vec<v1::Update> {
    let Position { epoch, revision } = news.position;
    let blank = v1::Update {
        epoch,
        revision,
        subscription,
        warming: news.warming,
        emptied: news.emptied.map_or(v1::Gone::Unspecified, gone).into(),
        ..v1::Update::default()
    };
    let changed = Vec::with_capacity(news.changed.len().min(MOST_INSTANCES));
    let first = v1::Update { reset: news.reset, changed, ..blank.clone() };
    let mut parts = Parts { size: 0, count: 0, updates: vec![first], blank };
    for instance in &news.changed {
        if narrowed.is_none_or(|selector| matches(selector, instance)) {
            let size = size(instance);
            parts.room_for(size).changed.push(of(instance));
        } else if !news.reset {
            parts.removed(&instance.id, v1::Gone::Unmatched);
        }
    }
    for (id, why) in &news.removed {
        parts.removed(id, gone(*why));
    }
    if let Some(last) = parts.updates.last_mut() {
        last.end = true;
    }
    parts.updates
}

/// A sign of life: all is told up to here.
pub(crate) fn progress(Position { epoch, revision }: Position, warming: bool) -> v1::Update {
    v1::Update { epoch, revision, warming, end: true, ..v1::Update::default() }
}

struct Parts {
    /// Of the last.
    size: usize,
    count: usize,
    updates: Vec<v1::Update>,
    blank: v1::Update,
}

impl Parts {
    /// The message that takes one more of that size.
    fn room_for(&mut self, size: usize) -> &mut v1::Update {
        if self.count == MOST_INSTANCES || self.count > 0 && self.size + size > LARGEST {
            self.updates.push(self.blank.clone());
            (self.size, self.count) = (0, 0);
        }
        self.size += size;
        self.count += 1;
        self.updates.last_mut().expect("there is one from the beginning")
    }

    fn removed(&mut self, id: &str, why: v1::Gone) {
        let update = self.room_for(id.len() + FIELD);
        update.removed.push(v1::Removed { id: id.to_owned(), why: why.into() });
    }
}

/// What a field takes beside its value, and more.
const FIELD: usize = 8;

/// Rather too much than too little.
fn size(instance: &Instance) -> usize {
    let tags = instance.tags.iter().map(|tag| tag.len() + FIELD);
    let pairs = instance.metadata.iter().map(|(key, value)| key.len() + value.len() + 3 * FIELD);
    let owner = instance.owner.id().map_or(0, str::len);
    let fixed = instance.id.len() + instance.name.len() + instance.host.len() + owner + 13 * FIELD;
    tags.chain(pairs).fold(fixed, |sum, size| sum + size)
}

pub(crate) fn matches(selector: &Selector, instance: &Instance) -> bool {
    selector.takes(&instance.tags, &instance.metadata)
}

pub(crate) fn of(instance: &Arc<Instance>) -> v1::Instance {
    v1::Instance {
        id: instance.id.to_string(),
        name: instance.name.to_string(),
        address: instance.address(),
        tags: instance.tags.iter().cloned().collect(),
        metadata: instance.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        weight: instance.weight.into(),
        protocol: match instance.protocol {
            None => v1::Protocol::Unspecified,
            Some(Protocol::Http1) => v1::Protocol::Http1,
            Some(Protocol::Http2) => v1::Protocol::Http2,
            Some(Protocol::Grpc) => v1::Protocol::Grpc,
            Some(Protocol::Tcp) => v1::Protocol::Tcp,
        }
        .into(),
        ttl_ms: u64::try_from(instance.ttl.as_millis()).unwrap_or(u64::MAX),
        state: match instance.state() {
            State::Healthy => v1::State::Healthy,
            State::Critical => v1::State::Critical,
            State::Draining => v1::State::Draining,
            State::Held => v1::State::Held,
        }
        .into(),
        takes_requests: instance.takes_requests(),
        revision: instance.revision,
        owner: instance.owner.id().unwrap_or_default().to_owned(),
    }
}

fn gone(why: Gone) -> v1::Gone {
    match why {
        Gone::Deregistered => v1::Gone::Deregistered,
        Gone::Expired => v1::Gone::Expired,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::control::instance::tests::instance;

    fn news(changed: Vec<Instance>, reset: bool) -> Difference {
        Difference {
            position: Position { epoch: 1, revision: 9 },
            reset,
            warming: false,
            changed: changed.into_iter().map(Arc::new).collect(),
            removed: Vec::new(),
            emptied: None,
            begun: None,
        }
    }

    #[test]
    fn large_news_come_in_parts_that_a_reader_can_take() {
        let mut instances: Vec<Instance> = (1..=2_500).map(|port| instance("a", port)).collect();
        for one in &mut instances[..1_000] {
            one.metadata = (0..16).map(|n| (format!("key-{n}"), "v".repeat(100))).collect();
        }
        let updates = updates(7, None, &news(instances, true));
        assert!(updates.len() > 3, "{}", updates.len());
        assert!(
            updates.iter().all(|one| one.encoded_len() <= LARGEST && one.changed.len() <= MOST_INSTANCES)
        );
        assert_eq!(updates.iter().map(|one| one.changed.len()).sum::<usize>(), 2_500);
        let ends: Vec<bool> = updates.iter().map(|one| one.end).collect();
        assert!(ends[ends.len() - 1] && ends[..ends.len() - 1].iter().all(|end| !end));
        assert!(updates[0].reset && updates[1..].iter().all(|one| !one.reset));
    }

    #[test]
    fn what_no_longer_matches_is_taken_out() {
        let mut tagged = instance("a", 1);
        tagged.tags = ["v2".to_owned()].into();
        let v2 = Selector::new("a", &["v2".to_owned()], &Default::default()).unwrap();
        let seen = |reset| {
            let updates = updates(1, Some(&v2), &news(vec![tagged.clone(), instance("a", 2)], reset));
            (updates[0].changed.len(), updates[0].removed.len())
        };
        assert_eq!((seen(false), seen(true)), ((1, 1), (1, 0)));
    }

    #[test]
    fn nothing_new_is_said_in_one_message() {
        let updates = updates(1, None, &news(Vec::new(), true));
        assert_eq!(updates.len(), 1);
        assert!(updates[0].reset && updates[0].end);
    }
}
