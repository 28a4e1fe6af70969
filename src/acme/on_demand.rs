//! Names that nobody has configured: where somebody begins TLS for one, a service of the operator's is asked whether it may have a
//! certificate (`ask`, as Caddy has it), and it is ordered while the client waits. What strangers can cause is bounded
//! by `policy::demand`; whoever is not allowed is shown what anybody is shown who asks for a name that is not there.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, StatusCode};
use tokio::sync::watch;

use super::{
    ari,
    desk::AccountDesk,
    holding::{Holding, read},
    is_public_name,
    keeper::{Id, Keeper, held_of},
};
use crate::{
    fetch::{Client, Options},
    names::Resolve,
    observe::log::event,
    policy::demand::{Bounds, Demands, Verdict},
    tls::{Certificate, OnDemand, Want},
};

#[derive(Clone, Debug, PartialEq)]
pub struct OnDemandSettings {
    /// `http` or `https`. The name is added as `domain`.
    pub ask: String,
    /// Of one question.
    pub timeout: Duration,
    pub bounds: Bounds,
}

/// Who is asked.
pub(super) struct Asking {
    settings: OnDemandSettings,
    client: Result<Client, String>,
}

/// What is under way, of all accounts.
#[derive(Default)]
pub(super) struct Waiting {
    by_account: BTreeMap<Arc<str>, Demands>,
    /// Handshakes wait until it is gone from here.
    names: BTreeMap<Id, watch::Sender<()>>,
}

/// Of an answer, which is its status alone.
const LARGEST: usize = 16 * 1024;

impl Asking {
    pub(super) fn new(settings: OnDemandSettings, names: Arc<dyn Resolve>) -> Asking {
        let client = Client::new(&Options::default(), names).map_err(|error| error.to_string());
        Asking { settings, client }
    }

    /// Whether `name` may have a certificate.
    ///
    /// # Errors
    ///
    /// Nobody says so, which is no permission.
    pub(super) async fn allows(&self, name: &str) -> Result<bool, String> {
        let OnDemandSettings { ask, timeout, .. } = &self.settings;
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let and = if ask.contains('?') { '&' } else { '?' };
        // A name that got here needs no escapes.
        let request = Request::get(format!("{ask}{and}domain={name}")).body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = client.send(request, *timeout, LARGEST).await.map_err(|error| error.to_string())?;
        Ok(answer.status() == StatusCode::OK)
    }
}

impl Waiting {
    /// An order has come to its end, or is not wanted any more.
    pub(super) fn end(&mut self, id: &Id) {
        self.names.remove(id);
    }
}

/// Ends the wait, whatever has become of the look.
struct Looking {
    keeper: Arc<Keeper>,
    id: Id,
    is_ordered: bool,
}

impl Drop for Looking {
    fn drop(&mut self) {
        if !self.is_ordered {
            self.keeper.lock().waiting.end(&self.id);
        }
    }
}

impl Keeper {
    /// What a client is shown that asks for a name of nobody's; it may take as long as an order.
    async fn demand(self: Arc<Self>, id: Id, client: IpAddr) -> Option<Arc<Certificate>> {
        if !is_public_name(&id.1) {
            return None;
        }
        let mut over = self.begin_demand(&id, client)?;
        while over.changed().await.is_ok() {}
        self.issued().one(&id.0, &id.1)
    }

    fn begin_demand(self: &Arc<Self>, id: &Id, client: IpAddr) -> Option<watch::Receiver<()>> {
        let of = self.account(&id.0)?;
        let bounds = of.asking.as_ref()?.settings.bounds;
        let now = self.passed();
        let mut guard = self.lock();
        let inner = &mut *guard;
        let client = self.digest_of(client);
        if let Some(waiting) = inner.waiting.names.get(id) {
            return Some(waiting.subscribe());
        }
        // It is allowed, but all CAs rest that might issue something for it.
        if inner.holdings.contains_key(id) {
            return None;
        }
        let holdings = &inner.holdings;
        let kept = || {
            let own = holdings.iter().filter(|((account, _), _)| *account == id.0);
            own.filter(|(_, holding)| holding.want == Want::OnDemand).count()
        };
        let pending = inner.waiting.names.keys().filter(|(account, _)| *account == id.0).count();
        let demands = inner.waiting.by_account.entry(id.0.clone()).or_default();
        let refused = match demands.decide(&id.1, client, pending, kept, &bounds, now) {
            Verdict::Look => None,
            Verdict::Refused => Some("refused"),
            Verdict::Busy => Some("busy"),
            Verdict::Full => Some("full"),
            Verdict::Throttled => Some("throttled"),
        };
        if let Some(word) = refused {
            self.acme().demanded(&id.0, word);
            return None;
        }
        let (sender, receiver) = watch::channel(());
        inner.waiting.names.insert(id.clone(), sender);
        self.runtime().spawn(Arc::clone(self).look(of, id.clone(), client));
        Some(receiver)
    }

    /// Another gateway may have it, or this one had it before it was started again. Else somebody is asked.
    async fn look(self: Arc<Self>, of: Arc<AccountDesk>, id: Id, client: u64) {
        let mut looking = Looking { keeper: self.clone(), id: id.clone(), is_ordered: false };
        let word = match self.stored(&of, &id).await {
            Some((certificate, holding)) => {
                self.issued().put(&id.0, &id.1, certificate, Want::OnDemand);
                self.lock().holdings.entry(id.clone()).or_insert(holding);
                "stored"
            }
            None => {
                let word = self.asked(&of, &id, client).await;
                if word == "allowed" {
                    let holding = Holding::new([id.1.clone()].into(), Want::OnDemand, None);
                    self.lock().holdings.entry(id.clone()).or_insert(holding);
                    looking.is_ordered = true;
                    self.wake();
                }
                word
            }
        };
        self.acme().demanded(&id.0, word);
    }

    /// Whoever is due for renewal has to be allowed again.
    async fn stored(&self, of: &AccountDesk, id: &Id) -> Option<(Arc<Certificate>, Holding)> {
        let stored = of.storage.load(&super::keeper::place("certificates", id)).await.ok()??;
        let (certificate, record) = read(std::slice::from_ref(&id.1), &stored).ok()?;
        let now = SystemTime::now();
        let held = held_of(&certificate, record.directory, now + ari::AFTER_FAILURE);
        (held.due(of.settings.renewal) > now)
            .then(|| (certificate, Holding::new([id.1.clone()].into(), Want::OnDemand, Some(held))))
    }

    async fn asked(&self, of: &AccountDesk, id: &Id, client: u64) -> &'static str {
        let Some(asking) = &of.asking else { return "refused" };
        let may_ask = {
            let (now, mut inner) = (self.passed(), self.lock());
            let demands = inner.waiting.by_account.entry(id.0.clone()).or_default();
            demands.may_ask(client, &asking.settings.bounds, now)
        };
        if !may_ask {
            return "throttled";
        }
        match self.allowed(asking, id).await {
            Some(true) => "allowed",
            Some(false) => "refused",
            None => "ask_failed",
        }
    }

    /// `None` where nobody says so.
    pub(super) async fn allowed(&self, asking: &Asking, id: &Id) -> Option<bool> {
        match asking.allows(&id.1).await {
            Ok(true) => Some(true),
            Ok(false) => {
                let (now, mut inner) = (self.passed(), self.lock());
                inner.waiting.by_account.entry(id.0.clone()).or_default().refuse(id.1.clone(), now);
                Some(false)
            }
            Err(why) => {
                event!(Warn, "nobody says whether a name may have a certificate", name = id.1, why = why);
                None
            }
        }
    }
}

/// What TLS asks for names that nobody has configured.
pub(super) struct Demanding(pub Weak<Keeper>);

impl OnDemand for Demanding {
    fn certificate(
        &self,
        account: Arc<str>,
        name: Arc<str>,
        client: IpAddr,
    ) -> BoxFuture<'static, Option<Arc<Certificate>>> {
        let keeper = self.0.upgrade();
        async move { keeper?.demand((account, name), client).await }.boxed()
    }
}
