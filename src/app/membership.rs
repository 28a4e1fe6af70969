//! This process and its control plane: what it follows there, and what it announces.

use std::{sync::Arc, time::Duration};

use super::VERSION;
use crate::{
    config::Config,
    control::{
        self,
        join::{Member, Plane},
    },
    names::Resolve,
    observe::metrics::Metrics,
    snapshot::Current,
    upstream,
};

/// Nothing, where there is none.
pub(super) struct Membership(Option<(Member, Plane)>);

impl Membership {
    /// `own` is the control plane that is served here.
    pub(super) fn new(config: &Config, own: Option<&control::Plane>, metrics: &Metrics) -> Membership {
        let join = config.control.as_ref().and_then(|control| control.join.clone());
        let own = own.map(|own| Plane::Own(own.registry()));
        let plane = own.or(join.map(|join| Plane::Joined(Box::new(join))));
        Membership(plane.map(|plane| (Member::new(config, metrics.member().clone(), VERSION), plane)))
    }

    /// `upstreams` that find endpoints there.
    pub(super) fn found_by(&self, upstreams: upstream::Live) -> upstream::Live {
        match &self.0 {
            Some((member, _)) => upstreams.with_directory(member.directory()),
            None => upstreams,
        }
    }

    pub(super) async fn follow(&self, current: &Current, live: &upstream::Live, names: Arc<dyn Resolve>) {
        if let Some((member, plane)) = &self.0 {
            member.follow(plane, current, live, names).await;
        }
    }

    pub(super) fn announce(&self, current: &Current) {
        if let Some((member, plane)) = &self.0 {
            member.announce(plane, current);
        }
    }

    /// For how long it is to be served on.
    pub(super) async fn leave(&self) -> Duration {
        match &self.0 {
            Some((member, _)) => member.leave().await,
            None => Duration::ZERO,
        }
    }

    pub(super) fn give_away(&self) {
        self.0.iter().for_each(|(member, _)| member.give_away());
    }

    pub(super) fn take_back(&self) {
        self.0.iter().for_each(|(member, _)| member.take_back());
    }

    pub(super) fn write(&self) {
        self.0.iter().for_each(|(member, _)| member.write());
    }
}
