//! The registry of this very process as the source of what is known: the smallest control plane is a gateway's own.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    known::{Change, Gone, Mark},
    services::Services,
};
use crate::{
    control::{
        feed::difference::Difference,
        instance,
        registry::Registry,
        store::{self, Position},
    },
    identity::parse_id,
    upstream::Instance,
};

/// How often it is looked whether the registry is still warming.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether something was missed, and whether anybody still asks for what is followed.
const SWEEP: Duration = Duration::from_secs(15);

/// Keeps `services` current, for as long as it is polled.
pub(super) async fn follow(registry: Arc<Registry>, services: Arc<Services>) {
    registry.opened().await;
    let subscription = registry.subscribe(Some(BTreeSet::new()));
    let mut told: HashMap<Arc<str>, Position> = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    let (mut was_warming, mut swept) = (registry.is_warming(), Instant::now());
    loop {
        let wanted: BTreeSet<Arc<str>> = services.wanted().into_iter().map(|(name, _)| name).collect();
        told.retain(|name, _| {
            let is_wanted = wanted.contains(name);
            if !is_wanted {
                subscription.forget(name);
            }
            is_wanted
        });
        for name in wanted {
            if !told.contains_key(&name) {
                subscription.follow(&name);
                let nothing = Position { epoch: 0, revision: 0 };
                told.insert(name.clone(), tell(&registry, &services, &name, nothing));
            }
        }
        tokio::select! {
            changed = subscription.changed() => {
                for name in changed {
                    if let Some(told) = told.get_mut(&name) {
                        *told = tell(&registry, &services, &name, *told);
                    }
                }
            }
            () = services.more_wanted() => {}
            _ = look.tick() => {
                let (Position { epoch, revision }, warming) = (registry.position(), registry.is_warming());
                if warming == was_warming && swept.elapsed() < SWEEP {
                    continue;
                }
                (was_warming, swept) = (warming, Instant::now());
                for (name, told) in &mut told {
                    *told = tell(&registry, &services, name, *told);
                }
                services.hear_progress(told.keys(), Mark { epoch, revision }, warming, Instant::now());
            }
        }
    }
}

/// Up to where `services` was told then.
fn tell(registry: &Registry, services: &Services, name: &str, from: Position) -> Position {
    let news = Difference::since(registry, name, from);
    let position = news.position;
    if !news.is_empty() {
        services.hear(name, change(news), Instant::now());
    }
    position
}

fn change(news: Difference) -> Change {
    Change {
        mark: Mark { epoch: news.position.epoch, revision: news.position.revision },
        reset: news.reset,
        warming: news.warming,
        changed: news.changed.iter().map(|instance| Arc::new(seen(instance))).collect(),
        removed: news.removed.iter().map(|(id, why)| (id.clone(), gone(*why))).collect(),
        emptied: news.emptied.map(gone),
    }
}

fn gone(why: store::Gone) -> Gone {
    match why {
        store::Gone::Deregistered => Gone::Deregistered,
        store::Gone::Expired => Gone::Expired,
    }
}

/// As an upstream sees it.
fn seen(instance: &instance::Instance) -> Instance {
    Instance {
        id: instance.id.clone(),
        address: instance.address().into(),
        weight: instance.weight,
        takes_requests: instance.takes_requests(),
        tags: instance.tags.clone(),
        metadata: instance.metadata.clone(),
        owner: instance.owner.id().and_then(|id| parse_id(id).ok()),
    }
}
