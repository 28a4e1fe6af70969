//! Whether gateways could put a new version in force. Only they know the files that it names, so one of them compiles it, without putting
//! anything in force, before it is even kept.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
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
        let asked: Vec<Name> = self.with(name, |group| group.order()).into_iter().take(MOST_ASKED).collect();
        let count = u32::try_from(asked.len()).unwrap_or(1).max(1);
        for (index, node) in asked.iter().enumerate() {
            let check = NEXT.fetch_add(1, Relaxed);
            let Some(answer) = self.send_check(name, node, check, version, documents) else { continue };
            // Each has its share of the time.
            let end = until - patience / count * (count - 1 - u32::try_from(index).unwrap_or(0));
            match timeout_at(end, answer).await {
                Ok(Ok(problems)) if problems.is_empty() => return Ok(node.to_string()),
                Ok(Ok(problems)) => return Err(rejected(problems)),
                Ok(Err(_)) | Err(_) => {
                    let message = "a gateway was asked to check a configuration and says nothing";
                    event!(Warn, message, config = name, version = version, gateway = node);
                    self.forget_check(name, node, check);
                }
            }
        }
        Ok(CONTROL.to_owned())
    }

    fn send_check(
        &self,
        name: &Name,
        node: &Name,
        check: u64,
        version: u64,
        documents: &Documents,
    ) -> Option<oneshot::Receiver<Vec<Located>>> {
        let order = v1::Check { check, version, documents: documents.wire(name) };
        self.with(name, |group| {
            let stream = group.gateways.get_mut(node)?.stream.as_mut()?;
            // One that has so many before it would not answer in time.
            stream.orders.try_send(order).ok()?;
            let (sender, receiver) = oneshot::channel();
            stream.asked.insert(check, sender);
            Some(receiver)
        })
    }

    fn forget_check(&self, name: &Name, node: &Name, check: u64) {
        self.with(name, |group| {
            let stream = group.gateways.get_mut(node).and_then(|gateway| gateway.stream.as_mut());
            stream.and_then(|stream| stream.asked.remove(&check))
        });
    }
}
