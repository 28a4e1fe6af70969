//! An identity that a control plane signs: the key is made here and never leaves, the SVID is renewed at half of its life, and
//! what came is kept on disk, so that only the very first one takes a token. While the plane is away the last SVID stays, to its
//! end.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use openssl::{error::ErrorStack, sha::sha256, x509::X509};
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use super::{
    Bundle, Bundles, JoinToken, Material, Source, SpiffeId, Svid, TrustDomain, ca, csr,
    feed::Feed,
    files::Print,
    held,
    live::{State, renewal},
    settings::check,
    workload::{Backoff, tend},
};
use crate::{observe::log::event, state_file};

const TICK: Duration = Duration::from_secs(1);
/// Those who began together do not renew together: of the time to a renewal, up to this share is left to chance.
const JITTER: f64 = 0.1;
/// A stream of bundles that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(60);

/// Who signs SVIDs for us.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// Signs what `csr` (PKCS #10, DER) asks for.
    ///
    /// # Errors
    ///
    /// Why not, for the operator.
    async fn issue(&self, csr: Vec<u8>, proof: &Proof) -> Result<Issued, String>;

    /// The authorities of our trust domain in DER, now and whenever they change, for whoever is `material`.
    ///
    /// # Errors
    ///
    /// Why not, for the operator.
    async fn authorities(&self, material: Arc<Material>) -> Result<Authorities, String>;
}

pub type Authorities = BoxStream<'static, Vec<Vec<u8>>>;

/// That the ID is ours.
#[derive(Clone, Debug)]
pub enum Proof {
    Token(JoinToken),
    /// An SVID of that ID, which is valid.
    Svid(Arc<Material>),
}

/// All in DER.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The SVID, and after it what is between it and an authority.
    pub chain: Vec<Vec<u8>>,
    pub authorities: Vec<Vec<u8>>,
}

/// Keeps the feed's identity current, for as long as it is polled. `issued` is when the SVID that was held had come.
pub(super) async fn follow(feed: Feed, seen: Print, issued: Option<SystemTime>, issuer: Arc<dyn Issuer>) {
    let Source::Control { id, token, held } = feed.settings.source.clone() else { return };
    let backoff = Backoff::default();
    let mut renewing =
        Renewing { feed, seen, issuer, id, token, held, issued, due: SystemTime::UNIX_EPOCH, backoff };
    renewing.begin();
    let (sender, mut news) = mpsc::channel(1);
    // Ends with this.
    let mut watching = JoinSet::new();
    watching.spawn(watch(renewing.issuer.clone(), renewing.feed.state().clone(), sender));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(authorities) = news.recv() => renewing.trust(&authorities).await,
            _ = ticks.tick() => renewing.look(SystemTime::now()).await,
        }
    }
}

struct Renewing {
    feed: Feed,
    seen: Print,
    issuer: Arc<dyn Issuer>,
    id: SpiffeId,
    token: Option<JoinToken>,
    held: Option<PathBuf>,
    issued: Option<SystemTime>,
    due: SystemTime,
    backoff: Backoff,
}

impl Renewing {
    fn begin(&mut self) {
        let svid = self.feed.current().svid.clone();
        match (svid, self.issued) {
            (Some(svid), Some(issued)) => self.due = next(issued, svid.not_after),
            // What could not be used was told when it was read.
            _ => {
                if let Some(path) = self.held.as_deref()
                    && held::read(path, &self.id, SystemTime::now()).is_err()
                {
                    let moved = state_file::set_aside(path);
                    event!(Warn, "a held identity is not used", file = path.display(), file_is = moved);
                }
            }
        }
    }

    async fn look(&mut self, now: SystemTime) {
        tend(&mut self.feed, &mut self.seen);
        // The clock has gone back: what it said then says nothing of when to renew.
        let is_early = self.feed.current().svid.as_ref().is_some_and(|svid| svid.is_early(now));
        if now < self.due && !is_early {
            return;
        }
        match self.renew(now).await {
            Ok(()) => self.backoff = Backoff::default(),
            Err(why) => {
                self.feed.fail(why);
                self.due = SystemTime::now() + self.backoff.next();
            }
        }
    }

    async fn renew(&mut self, now: SystemTime) -> Result<(), String> {
        let current = self.feed.current();
        let is_valid = current.svid.as_ref().is_some_and(|svid| !svid.is_early(now) && now < svid.not_after);
        let proof = match (is_valid, &self.token) {
            (true, _) => Proof::Svid(current),
            (false, Some(token)) => Proof::Token(token.clone()),
            (false, None) => {
                let hint =
                    "make a token with `tidegate token create`, and name it as `identity.control.token`";
                return Err(format!("there is no valid SVID to renew, and no token ({hint})"));
            }
        };
        let key = ca::new_key().map_err(failed)?;
        let csr = csr::request(&self.id, &key).map_err(failed)?;
        let Issued { chain, authorities } = self.issuer.issue(csr, &proof).await?;
        let issued = SystemTime::now();
        let bundle = bundle(self.id.trust_domain(), &authorities)?;
        if let Proof::Token(token) = &proof
            && !authorities.iter().any(|authority| sha256(authority) == token.authority)
        {
            return Err("the control plane's authorities are not those that the token names".to_owned());
        }
        let svid =
            Svid::new(certificates(&chain)?, key).map_err(|why| format!("the SVID that was signed {why}"))?;
        if svid.id != self.id {
            return Err(format!("the control plane has signed for {} and not for {}", svid.id, self.id));
        }
        let bundles = Bundles::from_iter([bundle]);
        check(&svid, self.id.trust_domain(), &bundles, issued)
            .map_err(|(why, hint)| format!("the SVID that was signed {why} ({hint})"))?;
        self.due = next(issued, svid.not_after);
        self.issued = Some(issued);
        self.put(Arc::new(svid), bundles);
        self.keep().await;
        Ok(())
    }

    /// The authorities have changed. An SVID that they do not vouch for any more is renewed at once.
    async fn trust(&mut self, authorities: &[Vec<u8>]) {
        let bundle = match bundle(self.id.trust_domain(), authorities) {
            Ok(bundle) => bundle,
            Err(why) => return self.feed.fail(why),
        };
        let current = self.feed.current();
        let Some(svid) = &current.svid else { return };
        let is_known = |known: &Arc<Bundle>| known.fingerprint == bundle.fingerprint;
        if current.bundles.of(self.id.trust_domain()).is_some_and(is_known) {
            return;
        }
        let now = SystemTime::now();
        let bundles = Bundles::from_iter([bundle]);
        if check(svid, self.id.trust_domain(), &bundles, now).is_err() {
            self.due = now;
        }
        self.put(svid.clone(), bundles);
        self.keep().await;
    }

    /// With the bundles of other trust domains, as they are now.
    fn put(&mut self, svid: Arc<Svid>, mut bundles: Bundles) {
        let mut faults = Vec::new();
        bundles.extend(self.feed.settings.federated(&mut faults));
        self.feed.put(Material { svid: Some(svid), bundles });
    }

    async fn keep(&self) {
        let (Some(path), Some(issued)) = (self.held.clone(), self.issued) else { return };
        let (material, domain) = (self.feed.current(), self.id.trust_domain().clone());
        let kept = tokio::task::spawn_blocking(move || {
            let (Some(svid), Some(bundle)) = (&material.svid, material.bundles.of(&domain)) else {
                return Ok(());
            };
            held::write(&path, svid, bundle, issued).map_err(|why| format!("{}: {why}", path.display()))
        });
        if let Ok(Err(why)) = kept.await {
            let message = "the identity cannot be kept; a restart needs another token";
            event!(Error, message, why = why);
        }
    }
}

/// At half of its life, or a little earlier.
fn next(issued: SystemTime, not_after: SystemTime) -> SystemTime {
    let wait = renewal(issued, not_after).duration_since(issued).unwrap_or_default();
    issued + wait.mul_f64(1.0 - JITTER * fastrand::f64())
}

/// Passes on the authorities as they change, once there is an SVID to ask with.
async fn watch(issuer: Arc<dyn Issuer>, state: Arc<State>, sender: mpsc::Sender<Vec<Vec<u8>>>) {
    let mut backoff = Backoff::default();
    let mut changes = state.subscribe();
    loop {
        let material = state.current();
        if material.svid.is_none() {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        let began = tokio::time::Instant::now();
        match issuer.authorities(material).await {
            Ok(mut stream) => {
                while let Some(authorities) = stream.next().await {
                    if sender.send(authorities).await.is_err() {
                        return;
                    }
                }
            }
            Err(why) => log::debug!("the trust bundle is not followed: {why}"),
        }
        if began.elapsed() >= GOOD {
            backoff = Backoff::default();
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

fn bundle(trust_domain: &TrustDomain, authorities: &[Vec<u8>]) -> Result<Bundle, String> {
    Bundle::new(trust_domain.clone(), certificates(authorities)?)
        .map_err(|why| format!("a certificate of the control plane's bundle {why}"))
}

fn certificates(all: &[Vec<u8>]) -> Result<Vec<X509>, String> {
    let read = all.iter().map(|der| X509::from_der(der)).collect::<Result<Vec<_>, ErrorStack>>();
    read.map_err(|_| "the control plane's answer holds what is no certificate".to_owned())
}

fn failed(error: ErrorStack) -> String {
    format!("openssl failed: {error}")
}
