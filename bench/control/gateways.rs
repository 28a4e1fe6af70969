//! Gateways that follow services, each over a connection of its own, as a real one does.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

use crate::v1::{self, registry_client::RegistryClient, watch_request::Message};

/// What all of them have seen.
#[derive(Default)]
pub(crate) struct Fleet {
    /// When an instance was given a weight.
    pub(crate) changed: RefCell<HashMap<(String, u16), Instant>>,
    /// How long it took until a gateway had it.
    pub(crate) took: RefCell<Vec<Duration>>,
    /// Instances that gateways were told to give up.
    pub(crate) removed: Cell<u64>,
    /// Those that have heard of everything on the stream that they have.
    pub(crate) in_sync: Cell<usize>,
}

pub(crate) struct Gateway {
    number: usize,
    names: Vec<String>,
    fleet: Rc<Fleet>,
    known: Vec<Known>,
}

/// Of one service.
#[derive(Default)]
struct Known {
    instances: BTreeMap<String, u16>,
    epoch: u64,
    revision: u64,
    is_told: bool,
    /// What has come of a change so far.
    changed: Vec<v1::Instance>,
    removed: Vec<String>,
    reset: bool,
}

impl Gateway {
    pub(crate) fn new(number: usize, names: Vec<String>, fleet: Rc<Fleet>) -> Gateway {
        let known = names.iter().map(|_| Known::default()).collect();
        Gateway { number, names, fleet, known }
    }

    pub(crate) async fn run(mut self, port: u16) {
        let mut failures = 0;
        loop {
            let heard = self.follow(port).await.is_some();
            if self.is_in_sync() {
                self.fleet.in_sync.set(self.fleet.in_sync.get() - 1);
            }
            self.known.iter_mut().for_each(|known| known.is_told = false);
            failures = if heard { 1 } else { failures + 1 };
            // Full jitter, as a gateway's.
            let most = Duration::from_millis(250 << (failures - 1).min(7)).min(Duration::from_secs(30));
            tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
        }
    }

    fn is_in_sync(&self) -> bool {
        self.known.iter().all(|known| known.is_told)
    }

    /// One stream. `None` where none came about.
    async fn follow(&mut self, port: u16) -> Option<()> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        let mut client = RegistryClient::new(endpoint.connect().await.ok()?);
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let hello = v1::Hello { node: format!("gateway-{}", self.number), ..v1::Hello::default() };
        let subscriptions =
            self.names.iter().zip(&self.known).zip(1..).map(|((name, known), subscription)| {
                Message::Subscribe(v1::Subscribe {
                    subscription,
                    selector: Some(v1::Selector { name: name.clone(), ..v1::Selector::default() }),
                    epoch: known.epoch,
                    revision: known.revision,
                })
            });
        let first: Vec<Message> = std::iter::once(Message::Hello(hello)).chain(subscriptions).collect();
        let requests = stream::iter(first).chain(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        let requests = requests.map(|message| v1::WatchRequest { message: Some(message) });
        let mut updates = client.watch_services(requests).await.ok()?.into_inner();
        while let Ok(Some(update)) = updates.message().await {
            let (epoch, revision, is_end) = (update.epoch, update.revision, update.end);
            if update.subscription == 0 {
                continue;
            }
            let was_in_sync = self.is_in_sync();
            self.known[usize::try_from(update.subscription).unwrap() - 1].take(update, &self.fleet);
            if !was_in_sync && self.is_in_sync() {
                self.fleet.in_sync.set(self.fleet.in_sync.get() + 1);
            }
            if is_end {
                let _ = sender.send(Message::Applied(v1::Applied { epoch, revision }));
            }
        }
        Some(())
    }
}

impl Known {
    fn take(&mut self, update: v1::Update, fleet: &Fleet) {
        self.reset |= update.reset;
        self.changed.extend(update.changed);
        self.removed.extend(update.removed.into_iter().map(|removed| removed.id));
        if !update.end {
            return;
        }
        let now = Instant::now();
        let named: BTreeSet<String> = self.changed.iter().map(|instance| instance.id.clone()).collect();
        let before = self.instances.len();
        if std::mem::take(&mut self.reset) && !update.warming {
            self.instances.retain(|id, _| named.contains(id));
        }
        self.removed.drain(..).for_each(|id| _ = self.instances.remove(&id));
        fleet.removed.set(fleet.removed.get() + (before - self.instances.len()) as u64);
        for instance in self.changed.drain(..) {
            let weight = u16::try_from(instance.weight).unwrap_or(u16::MAX);
            let key = (instance.id, weight);
            let is_new = weight > 1 && self.instances.get(&key.0) != Some(&weight);
            if let Some(changed) = fleet.changed.borrow().get(&key).filter(|_| is_new) {
                fleet.took.borrow_mut().push(now - *changed);
            }
            self.instances.insert(key.0, weight);
        }
        (self.epoch, self.revision, self.is_told) = (update.epoch, update.revision, true);
    }
}
