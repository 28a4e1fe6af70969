//! This process and its control plane: what it follows there, and what it announces.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{VERSION, received::served};
use crate::{
    config::Config,
    control::{
        self,
        join::{Configurations, Member, Order, Plane, Signed},
    },
    identity::Issuer,
    names::Resolve,
    observe::metrics::Metrics,
    snapshot::Current,
    upstream,
};

pub(super) struct Membership {
    /// Nothing, where there is none.
    member: Option<(Member, Plane)>,
    configurations: Option<Configurations>,
}

impl Membership {
    /// `own` is the control plane that is served here.
    pub(super) fn new(config: &Config, own: Option<&control::Plane>, metrics: &Metrics) -> Membership {
        let join = config.control.as_ref().and_then(|control| control.join.clone());
        let own = own.map(|own| Plane::Own(own.registry()));
        let plane = own.or(join.map(|join| Plane::Joined(Box::new(join))));
        let member = plane.map(|plane| (Member::new(config, metrics.member().clone(), VERSION), plane));
        Membership { member, configurations: None }
    }

    /// `upstreams` that find endpoints there.
    pub(super) fn found_by(&self, upstreams: upstream::Live) -> upstream::Live {
        match &self.member {
            Some((member, _)) => upstreams.with_directory(member.directory()),
            None => upstreams,
        }
    }

    /// Who signs SVIDs for this gateway, where it has joined a control plane.
    pub(super) fn issuer(
        &self,
        upstreams: &upstream::Live,
        names: Arc<dyn Resolve>,
    ) -> Option<Arc<dyn Issuer>> {
        match &self.member {
            Some((_, Plane::Joined(join))) => Some(Arc::new(Signed::new(join, upstreams.clone(), names))),
            _ => None,
        }
    }

    /// What is asked for is to be known at the instant that is returned.
    pub(super) fn follow(
        &self,
        current: &Current,
        live: &upstream::Live,
        names: Arc<dyn Resolve>,
    ) -> Instant {
        match &self.member {
            Some((member, plane)) => member.follow(plane, current, live, names),
            None => Instant::now(),
        }
    }

    /// Takes configurations from now on, if one is wanted.
    pub(super) fn receive(
        &mut self,
        current: &Current,
        live: &upstream::Live,
        names: Arc<dyn Resolve>,
        metrics: &Arc<Metrics>,
    ) {
        let metrics = metrics.clone();
        let counting = Arc::new(move || served(&metrics));
        if let Some((member, plane)) = &self.member {
            self.configurations = member.receive(plane, current, live, names, counting);
        }
    }

    /// Waits for that.
    pub(super) async fn settle(&self, until: Instant) {
        if let Some((member, _)) = &self.member {
            member.settle(until).await;
        }
    }

    pub(super) fn configurations(&mut self) -> Option<&mut Configurations> {
        self.configurations.as_mut()
    }

    /// What the control plane wants of the configuration. May be dropped and asked again.
    pub(super) async fn next_order(&mut self) -> Order {
        match &mut self.configurations {
            Some(configurations) => configurations.next().await,
            None => std::future::pending().await,
        }
    }

    /// This process takes no configuration any more.
    pub(super) fn receive_no_more(&self) {
        self.member.iter().for_each(|(member, _)| member.receive_no_more());
    }

    pub(super) fn announce(&self, current: &Current) {
        if let Some((member, plane)) = &self.member {
            member.announce(plane, current);
        }
    }

    /// For how long it is to be served on.
    pub(super) async fn leave(&self) -> Duration {
        match &self.member {
            Some((member, _)) => member.leave().await,
            None => Duration::ZERO,
        }
    }

    pub(super) fn give_away(&self) {
        self.member.iter().for_each(|(member, _)| member.give_away());
    }

    pub(super) fn take_back(&self) {
        self.member.iter().for_each(|(member, _)| member.take_back());
    }

    pub(super) fn write(&self) {
        self.member.iter().for_each(|(member, _)| member.write());
    }
}
