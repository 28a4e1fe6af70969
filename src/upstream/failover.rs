//! What stands in for an upstream of which no endpoint can be used: the policy's adapter. Which upstream that is, is a name here;
//! the snapshot knows who bears it.

use std::{sync::Arc, time::Instant};

use crate::{
    config::{self, Then},
    policy::{
        breaker,
        failover::{Failover, Phase, Settings, Standing, View},
    },
    upstream::{
        Upstream,
        endpoint::{Endpoint, Health},
    },
};

/// Whether requests are at home.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailoverView<'a> {
    /// The upstream that stands in.
    pub to: &'a str,
    pub phase: Phase,
    /// Of the requests that stay, 0 to 1.
    pub share: f64,
}

/// As logs, metrics and the API call it.
pub fn failover_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::Away => "failed_over",
        Phase::Recovering => "recovering",
    }
}

pub(super) fn settings(then: &Then) -> Settings {
    Settings { stay: then.stay.into(), recover: then.recover.into() }
}

impl Upstream {
    /// Whether a request that comes now goes to the upstream that stands in. Never without one.
    pub fn yields(&self, now: Instant, rng: &mut fastrand::Rng) -> bool {
        let Some((then, failover)) = self.failover_and_its_name() else { return false };
        let decision = failover.decide(self.standing(now), now, || rng.f64());
        self.turned(then, decision.turned);
        !decision.stays || self.subset.is_some() && is_out(of(self.table().endpoints.iter(), now))
    }

    /// Whether another try of a request goes to the upstream that stands in: nothing less takes it from where it is.
    pub fn is_out(&self, now: Instant) -> bool {
        let Some((then, failover)) = self.failover_and_its_name() else { return false };
        let standing = self.standing(now);
        self.turned(then, failover.look(standing, now).turned);
        is_out(standing) || self.subset.is_some() && is_out(of(self.table().endpoints.iter(), now))
    }

    /// Whether nobody would be left if the endpoint of this id could not be reached.
    pub fn is_out_without(&self, id: u64, now: Instant) -> bool {
        let table = self.table();
        is_out(of(table.endpoints.iter().filter(|endpoint| endpoint.id() != id), now))
    }

    /// Where its requests are now, if another may stand in. Whoever looks makes time pass, as a request would.
    pub fn failover(&self, now: Instant) -> Option<FailoverView<'_>> {
        let (then, failover) = self.failover_and_its_name()?;
        let View { phase, share, turned } = failover.look(self.standing(now), now);
        self.turned(then, turned);
        Some(FailoverView { to: &then.upstream, phase, share })
    }

    fn failover_and_its_name(&self) -> Option<(&config::Then, &Failover)> {
        self.settings.then.as_ref().zip(self.failover.as_deref())
    }

    fn turned(&self, then: &config::Then, turned: Option<Phase>) {
        if let Some(phase) = turned {
            self.pool.shared.observer.failover_changed(&self.name, &then.upstream, failover_word(phase));
        }
    }

    /// Of the whole upstream, where this is a subset: that has no state of its own.
    fn standing(&self, now: Instant) -> Standing {
        let table = self.pool.shared.peek();
        match of(table.endpoints.iter(), now) {
            Standing::Out if table.endpoints.is_empty() && !self.pool.shared.is_settled() => {
                Standing::Undecided
            }
            standing => standing,
        }
    }
}

fn is_out(standing: Standing) -> bool {
    matches!(standing, Standing::Out | Standing::Undecided)
}

/// Panic is not asked: before requests go to endpoints that cannot serve, another upstream has them.
fn of<'a>(endpoints: impl Iterator<Item = &'a Arc<Endpoint>>, now: Instant) -> Standing {
    let mut best = Standing::Out;
    for endpoint in endpoints.filter(|endpoint| endpoint.weight > 0) {
        match of_endpoint(endpoint, now) {
            Standing::Usable => return Standing::Usable,
            Standing::Due => best = Standing::Due,
            Standing::Undecided if best == Standing::Out => best = Standing::Undecided,
            Standing::Undecided | Standing::Out => {}
        }
    }
    best
}

fn of_endpoint(endpoint: &Endpoint, now: Instant) -> Standing {
    let is_closed = || {
        let circuit = endpoint.circuit();
        circuit.is_none_or(|circuit| circuit.breaker.state(now) == breaker::State::Closed)
    };
    if endpoint.health() == Health::Unknown {
        return Standing::Undecided;
    }
    match endpoint.serves(now) {
        true if endpoint.is_well(now) && is_closed() => Standing::Usable,
        true if !endpoint.is_avoided(now) && endpoint.guard().admits(now) => Standing::Due,
        _ => Standing::Out,
    }
}
