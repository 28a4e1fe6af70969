//! Whether gateways could put a new version in force. Only they know the files that it names, so one of them compiles it, without putting
//! anything in force, before it is even kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    Configs,
    document::{Documents, rejected},
    versions::Name,
};
use crate::{
    control::refused::{Located, Refused},
    observe::log::event,
    wire::v1,
};

/// As `checked_by` says that no gateway has.
const CONTROL: &str = "control";
/// Where the first asked says nothing, so many are.
const MOST_ASKED: usize = 3;
/// Whoever puts it does not wait for longer, nor do they who put something else.
const LONGEST: Duration = Duration::from_secs(30);

/// Numbers of checks.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Configs {
    /// Who has checked it: one that has joined, or the control plane alone where none has, or none answers in time. The first wave tries
    /// it on one gateway in any case.
    ///
    /// # Errors
    ///
    /// `config_rejected`, in the words of the gateway.
    pub(super) async fn check(
        &self,
        name: &Name,
        version: u64,
        documents: &Documents,
        patience: Duration,
    ) -> Result<String, Refused> {
        self.with(name, |group| group.checking = Some(version));
        let checked = self.ask(name, version, documents, patience.min(LONGEST)).await;
        self.with(name, |group| group.checking = None);
        checked
    }

    async fn ask(
        &self,
        name: &Name,
        version: u64,
        documents: &Documents,
        patience: Duration,
    ) -> Result<String, Refused> {
        let until = Instant::now() + patience;
        let asked = self.with(name, |group| group.places()).into_iter().take(MOST_ASKED);
        let asked: Vec<(Name, Option<Arc<str>>)> = asked.collect();
        let count = u32::try_from(asked.len()).unwrap_or(1).max(1);
        for (index, (node, replica)) in asked.iter().enumerate() {
            // Each has its share of the time.
            let end = until - patience / count * (count - 1 - u32::try_from(index).unwrap_or(0));
            let checked = match replica {
                None => self.ask_here(name, node, version, documents.wire(name), end).await,
                Some(replica) => self.ask_there(replica, name, node, version, documents, end).await,
            };
            match checked {
                Some(problems) if problems.is_empty() => return Ok(node.to_string()),
                Some(problems) => return Err(rejected(problems)),
                None => {
                    let message = "a gateway was asked to check a configuration and says nothing";
                    event!(Warn, message, config = name, version = version, gateway = node);
                }
            }
        }
        Ok(CONTROL.to_owned())
    }

    /// What a gateway that is connected here finds wrong; `None` where it says nothing until `end`.
    pub(crate) async fn ask_here(
        &self,
        name: &Name,
        node: &Name,
        version: u64,
        documents: Vec<v1::Document>,
        end: Instant,
    ) -> Option<Vec<Located>> {
        let check = NEXT.fetch_add(1, Relaxed);
        let answer = self.send_check(name, node, v1::Check { check, version, documents })?;
        let answered = timeout_at(end.min(Instant::now() + LONGEST), answer).await;
        if answered.is_err() {
            self.forget_check(name, node, check);
        }
        answered.ok()?.ok()
    }

    async fn ask_there(
        &self,
        replica: &str,
        name: &Name,
        node: &Name,
        version: u64,
        documents: &Documents,
        end: Instant,
    ) -> Option<Vec<Located>> {
        let patience = end.saturating_duration_since(Instant::now());
        let request = v1::CheckRequest {
            config: name.to_string(),
            node: node.to_string(),
            version,
            documents: documents.wire(name),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        timeout_at(end, self.store.others()?.check(replica, request)).await.ok()?
    }

    fn send_check(
        &self,
        name: &Name,
        node: &Name,
        order: v1::Check,
    ) -> Option<oneshot::Receiver<Vec<Located>>> {
        let check = order.check;
        self.with(name, |group| {
            let stream = group.gateways.get_mut(node)?.stream_mut()?;
            // One that has so many before it would not answer in time.
            stream.orders.try_send(order).ok()?;
            let (sender, receiver) = oneshot::channel();
            stream.asked.insert(check, sender);
            Some(receiver)
        })
    }

    fn forget_check(&self, name: &Name, node: &Name, check: u64) {
        self.with(name, |group| {
            let stream = group.gateways.get_mut(node).and_then(|gateway| gateway.stream_mut());
            stream.and_then(|stream| stream.asked.remove(&check))
        });
    }
}
