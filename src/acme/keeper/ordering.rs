//! One order, from the lock to what is written down of its end. Several gateways may want the same certificate: whoever has the lock orders,
//! and looks first whether another one has it by now.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::FutureExt;

use super::{Id, Keeper, LONGEST_SLEEP, failures::directories, held_of, leading, place};
use crate::{
    acme::{
        ari,
        desk::AccountDesk,
        holding::{Held, Tried, read},
        order::Obtained,
        storage::Storage,
        trouble::{Reason, Trouble},
    },
    fleet::{Keep, Lock},
    observe::log::event,
    policy::{
        issuance::{Attempts, Next},
        renewal::Life,
    },
    tls::Want,
};

/// Whoever else has the lock may have a certificate by then.
const LOCKED: Duration = Duration::from_secs(3);

/// Of the certificate that is to be replaced: its life, its CA's directory, and how that calls it.
pub(super) type Before = (Life, String, Option<String>);

/// One order's.
struct Turn {
    /// Which is asked.
    ca: usize,
    /// Held until it is written down what has become of the order.
    lock: Option<Lock>,
}

enum Outcome {
    Held(Box<Held>),
    /// Another gateway orders.
    Elsewhere,
    /// No more orders are allowed, or nobody says whether this one is: look again after this.
    NotYet(Duration),
    /// Nobody wants it any more, or nobody may have it.
    NotAllowed,
}

impl Keeper {
    /// One order, whatever comes of it: also a panic ends it.
    pub(super) async fn order(self: Arc<Self>, of: Arc<AccountDesk>, id: Id, ca: usize) {
        let storage = of.storage.as_ref();
        let mut turn = Turn { ca, lock: None };
        let tried = self.try_order(&of, storage, &id, &mut turn);
        let tried = AssertUnwindSafe(tried).catch_unwind().await;
        let outcome = tried.unwrap_or_else(|_| Err(Trouble::new(Reason::Internal, "the order has panicked")));
        let now = SystemTime::now();
        let attempts = {
            let mut inner = self.lock();
            // What another gateway orders is soon there. All else may take as long as a budget, and keeps places that others wait for.
            if !matches!(outcome, Ok(Outcome::Elsewhere)) {
                inner.waiting.end(&id);
            }
            let Some(holding) = inner.holdings.get_mut(&id) else { return };
            holding.is_busy = false;
            match outcome {
                Ok(Outcome::NotAllowed) => {
                    inner.holdings.remove(&id);
                    self.issued.remove(&id.0, &id.1);
                    None
                }
                Ok(Outcome::Elsewhere) => {
                    holding.not_before = Some(now + LOCKED);
                    None
                }
                Ok(Outcome::NotYet(wait)) => {
                    holding.not_before = Some(now + wait);
                    None
                }
                Ok(Outcome::Held(held)) => {
                    let had_failed = !holding.attempts.is_new();
                    holding.held = Some(*held);
                    (holding.is_wanted, holding.is_woken) = (false, false);
                    holding.failed = None;
                    holding.attempts.succeeded();
                    had_failed.then(Attempts::default)
                }
                Err(trouble) => {
                    // A storage that fails one gateway says nothing of the CA to the others.
                    let is_of_ca = trouble.reason != Reason::Storage;
                    self.tell_failure(&of, &id, turn.ca, holding, trouble, now);
                    is_of_ca.then(|| holding.attempts.clone())
                }
            }
        };
        if let Some(attempts) = attempts {
            let text = serde_json::to_vec(&Tried { cas: directories(&of), attempts }).unwrap_or_default();
            if let Err(trouble) = storage.save(&place("attempts", &id), &text, Keep::ForGood).await {
                event!(Warn, "failed orders cannot be written down", name = leading(&id), why = trouble);
            }
        }
        // Not before: whoever has it next is to know what has failed.
        drop(turn);
        self.count_states();
    }

    async fn try_order(
        &self,
        of: &AccountDesk,
        storage: &dyn Storage,
        id: &Id,
        turn: &mut Turn,
    ) -> Result<Outcome, Trouble> {
        let key = place("certificates", id);
        turn.lock = storage.lock(&key).await?;
        if turn.lock.is_none() {
            return Ok(Outcome::Elsewhere);
        }
        let before = self.lock().holdings.get(id).and_then(|holding| {
            let held = holding.held.as_ref()?;
            Some((held.life, held.directory.clone(), held.id.clone()))
        });
        let (names, is_wanted, want, is_new) = {
            let inner = self.lock();
            let Some(holding) = inner.holdings.get(id) else { return Ok(Outcome::NotAllowed) };
            let is_new = holding.held.is_none() && holding.attempts.is_new();
            (holding.names.clone(), holding.is_wanted, holding.want, is_new)
        };
        let now = SystemTime::now();
        let next = self.next_ca(of, id, now).await;
        // Whoever was asked a moment ago is not asked again, nor before an order that cannot be made yet.
        if want == Want::OnDemand
            && !is_new
            && matches!(next, Next::Try(..))
            && let Some(asking) = &of.asking
        {
            match self.allowed(asking, id).await {
                Some(true) => {}
                Some(false) => return Ok(Outcome::NotAllowed),
                None => return Ok(Outcome::NotYet(LONGEST_SLEEP)),
            }
        }
        // Another gateway may have ordered meanwhile.
        if let Some(stored) = storage.load(&key).await?
            && let Ok((certificate, record)) = read(&names, &stored)
            && certificate.is_for_exactly(&names)
        {
            let ask_at = now + ari::AFTER_FAILURE;
            let found = held_of(&certificate, record.directory, ask_at);
            let is_newer = before.as_ref().is_none_or(|(life, ..)| found.life.from > life.from);
            if is_newer && (is_wanted || found.due(of.settings.renewal) > now) {
                self.issued.put(&id.0, &id.1, certificate, want);
                self.acme().taken(&id.0);
                event!(Info, "certificate taken from the storage", name = leading(id), account = id.0);
                return Ok(Outcome::Held(Box::new(found)));
            }
        }
        let failures = match next {
            Next::Try(ca, failures) => {
                turn.ca = ca;
                failures
            }
            Next::Wait(until) => {
                let wait = until.duration_since(now).unwrap_or_default();
                return Ok(Outcome::NotYet(if storage.is_shared() { wait.min(LONGEST_SLEEP) } else { wait }));
            }
        };
        let is_strangers = want == Want::OnDemand && before.is_none();
        if let Err(wait) = self.take_order(of, is_strangers) {
            self.acme().throttled(&id.0);
            return Ok(Outcome::NotYet(wait));
        }
        self.lock().holdings.get_mut(id).into_iter().for_each(|holding| holding.is_woken = false);
        let ca = &of.cas[turn.ca];
        let Obtained { certificate, .. } =
            self.obtain(of, (id, &names), ca, failures, before.as_ref()).await?;
        let ask_at = now + ari::AFTER_FAILURE;
        let held = held_of(&certificate, ca.settings.directory.clone(), ask_at);
        self.issued.put(&id.0, &id.1, certificate, want);
        self.acme().ordered(&id.0, &ca.settings.name, "issued");
        let ends = humantime::format_rfc3339_seconds(held.life.until);
        event!(
            Info,
            "certificate issued",
            name = leading(id),
            account = id.0,
            ca = ca.settings.name,
            not_after = ends
        );
        Ok(Outcome::Held(Box::new(held)))
    }

    /// # Errors
    ///
    /// The account may not order now; how long until it may.
    fn take_order(&self, of: &AccountDesk, is_strangers: bool) -> Result<(), Duration> {
        let now = self.passed();
        self.lock().budgets.entry(of.name.clone()).or_default().take(&of.settings.orders, is_strangers, now)
    }
}
