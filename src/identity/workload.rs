//! An identity from the SPIFFE Workload API: the agent sends a new one whenever there is one, for as long as it lives;
//! when it is away, what it gave last stays, and it is asked for again and again, more and more patiently.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use openssl::{error::ErrorStack, pkey::PKey, x509::X509};
use spiffe::X509Context;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Bundle, Bundles, Material, Settings, Source, SpiffeId, Svid, SvidError,
    agent::{self, Keepalive},
    feed::Feed,
    files::Print,
    settings::check,
};

/// An agent that is there answers at once.
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn follow(mut feed: Feed, mut seen: Print, mut backoff: Backoff) {
    let Source::WorkloadApi { endpoint, id } = feed.settings.source.clone() else { return };
    loop {
        let why = listen(&mut feed, &endpoint, id.as_ref(), &mut seen, &mut backoff).await;
        feed.fail(why);
        let mut left = backoff.next();
        while !left.is_zero() {
            let step = left.min(TICK);
            tokio::time::sleep(step).await;
            left -= step;
            tend(&mut feed, &mut seen);
        }
    }
}

/// Until the agent is gone, and why.
async fn listen(
    feed: &mut Feed,
    endpoint: &str,
    id: Option<&SpiffeId>,
    seen: &mut Print,
    backoff: &mut Backoff,
) -> String {
    let mut contexts = match agent::ask(endpoint, PATIENCE, Keepalive::default()).await {
        Ok(contexts) => contexts,
        Err(why) => return why,
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let context = tokio::select! {
            context = contexts.next() => context,
            _ = ticks.tick() => {
                tend(feed, seen);
                continue;
            }
        };
        match context {
            Some(Ok(context)) => match material(&context, &feed.settings, id, SystemTime::now()) {
                Ok(material) => {
                    feed.put(material);
                    *backoff = Backoff::default();
                }
                // The stream is sound; the next message may be, too.
                Err(why) => feed.fail(why),
            },
            Some(Err(error)) => return format!("the workload API at {endpoint}: {error}"),
            None => return format!("the workload API at {endpoint} closed the connection"),
        }
    }
}

impl Settings {
    /// What the agent has for us now, once; `None` where none is named.
    ///
    /// # Errors
    ///
    /// It has nothing that could be used, or does not say so within `patience`.
    pub async fn ask_agent(&self, patience: Duration) -> Option<Result<Material, String>> {
        let Source::WorkloadApi { endpoint, id } = &self.source else { return None };
        let mut contexts = match agent::ask(endpoint, patience, Keepalive::default()).await {
            Ok(contexts) => contexts,
            Err(why) => return Some(Err(why)),
        };
        let context = contexts.next().await?.map_err(|error| error.to_string());
        Some(context.and_then(|context| material(&context, self, id.as_ref(), SystemTime::now())))
    }
}

/// Besides an agent there may be files with bundles, and the SVID may run out.
pub(super) fn tend(feed: &mut Feed, seen: &mut Print) {
    feed.look_at_times(SystemTime::now());
    let files = feed.settings.files();
    if files.is_empty() {
        return;
    }
    let print = Print::of(&files);
    if print == *seen {
        return;
    }
    *seen = print;
    let mut faults = Vec::new();
    let federated = feed.settings.federated(&mut faults);
    if !faults.is_empty() {
        return feed.fail_with(&faults);
    }
    let current = feed.current();
    let mut bundles = current.bundles.clone();
    bundles.extend(federated);
    feed.put(Material { svid: current.svid.clone(), bundles });
}

/// What an agent sent, once it keeps our own rules.
fn material(
    context: &X509Context,
    settings: &Settings,
    id: Option<&SpiffeId>,
    now: SystemTime,
) -> Result<Material, String> {
    let found = match id {
        Some(id) => context.svids().iter().find(|svid| svid.spiffe_id() == id),
        None => context.default_svid(),
    };
    let found = found.ok_or_else(|| match id {
        Some(id) => format!("the agent has no SVID for {id}"),
        None => "the agent has no SVID for this workload".to_owned(),
    })?;
    let svid = svid(found).map_err(|why| format!("the agent's SVID {why}"))?;
    let mut bundles = Bundles::default();
    for (trust_domain, bundle) in context.bundle_set().iter() {
        let authorities = bundle.authorities().iter().map(|authority| X509::from_der(authority.as_bytes()));
        let authorities =
            authorities.collect::<Result<Vec<_>, ErrorStack>>().map_err(|_| SvidError::Unreadable);
        match authorities.and_then(|authorities| Bundle::new(trust_domain.clone(), authorities)) {
            Ok(bundle) => bundles.insert(bundle),
            Err(why) if trust_domain == &settings.trust_domain => {
                return Err(format!("the agent's bundle of {trust_domain}: a certificate in it {why}"));
            }
            // One that others sent must not take away our own.
            Err(why) => {
                log::warn!("the agent's bundle of {trust_domain} is passed over: a certificate in it {why}")
            }
        }
    }
    check(&svid, &settings.trust_domain, &bundles, now)
        .map_err(|(why, _)| format!("the agent's SVID {why}"))?;
    let mut faults = Vec::new();
    // What cannot be read was told when it changed.
    bundles.extend(settings.federated(&mut faults));
    Ok(Material { svid: Some(Arc::new(svid)), bundles })
}

fn svid(svid: &spiffe::X509Svid) -> Result<Svid, SvidError> {
    let chain = svid.cert_chain().iter().map(|link| X509::from_der(link.as_bytes()));
    let chain = chain.collect::<Result<Vec<_>, ErrorStack>>().map_err(|_| SvidError::Unreadable)?;
    let key = PKey::private_key_from_der(svid.private_key().as_bytes()).map_err(|_| SvidError::BadKey)?;
    Svid::new(chain, key)
}

/// How long to wait before the agent is asked again: twice as long each time, and by chance up to half of it less, so
/// that those who lost it together do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);

    pub(super) fn next(&mut self) -> Duration {
        let full = Backoff::FIRST.saturating_mul(1 << self.tries.min(8)).min(Backoff::LONGEST);
        self.tries += 1;
        full.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_and_never_too_long() {
        let mut backoff = Backoff::default();
        let mut full = Backoff::FIRST;
        for _ in 0..100 {
            let wait = backoff.next();
            assert!(full / 2 <= wait && wait <= full, "{wait:?} of {full:?}");
            full = (full * 2).min(Backoff::LONGEST);
        }
    }
}
