//! What is counted for a route. A route that never had a request costs its names and little more, and is
//! not written at all: most of ten thousand routes are idle.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{exposition::Exposition, histogram::Histogram, listener::ListenerMetrics, live::Counts};

pub struct RouteMetrics {
    route: Arc<str>,
    upstream: Option<Arc<str>>,
    requests: OnceLock<Box<Requests>>,
    errors: OnceLock<Box<Counts<&'static str>>>,
    retries: OnceLock<Box<Counts<&'static str>>>,
}

#[derive(Default)]
struct Requests {
    /// By the listener's id and status. Listeners that are gone keep their slots and are not written.
    statuses: Counts<(u32, Status)>,
    duration: Histogram,
}

/// A status as a label: an upstream may answer with any number, but may not make any number of series.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Status(u16);

impl Status {
    const OTHER: Status = Status(0);

    fn new(status: u16) -> Status {
        if (100..600).contains(&status) { Status(status) } else { Status::OTHER }
    }

    fn label(self) -> String {
        if self == Status::OTHER { "other".into() } else { self.0.to_string() }
    }
}

impl RouteMetrics {
    pub(super) fn new(route: Arc<str>, upstream: Option<Arc<str>>) -> RouteMetrics {
        RouteMetrics {
            route,
            upstream,
            requests: OnceLock::new(),
            errors: OnceLock::new(),
            retries: OnceLock::new(),
        }
    }

    /// A request ended with `status`, `duration` after it began. A status outside 100 to 599 counts as
    /// `other`.
    pub fn record(&self, listener: &ListenerMetrics, status: u16, duration: Duration) {
        let requests = self.requests.get_or_init(Box::default);
        requests.statuses.add_one((listener.id(), Status::new(status)));
        requests.duration.observe(duration);
    }

    /// The gateway answered by itself, because of `reason`.
    pub fn error(&self, reason: &'static str) {
        self.errors.get_or_init(Box::default).add_one(reason);
    }

    /// One more attempt was made, because of `reason`.
    pub fn retry(&self, reason: &'static str) {
        self.retries.get_or_init(Box::default).add_one(reason);
    }

    fn upstream(&self) -> &str {
        self.upstream.as_deref().unwrap_or_default()
    }
}

pub(super) fn write(out: &mut Exposition, routes: &[Arc<RouteMetrics>], listeners: &[Arc<ListenerMetrics>]) {
    let listeners: HashMap<u32, &str> =
        listeners.iter().map(|listener| (listener.id(), listener.name())).collect();
    let busy = || routes.iter().filter_map(|route| Some((route, route.requests.get()?)));

    out.counter("tidegate_requests_total", "Requests answered, by status.");
    for (route, requests) in busy() {
        for ((listener, status), count) in requests.statuses.totals() {
            let Some(listener) = listeners.get(&listener) else { continue };
            let labels = [
                ("listener", *listener),
                ("route", &*route.route),
                ("upstream", route.upstream()),
                ("status", &*status.label()),
            ];
            out.sample(&labels, count);
        }
    }
    out.histogram("tidegate_request_duration_seconds", "From a request's first byte to its answer's last.");
    for (route, requests) in busy() {
        let labels = [("route", &*route.route), ("upstream", route.upstream())];
        out.distribution(&labels, &requests.duration.read());
    }
    out.counter("tidegate_errors_total", "Requests that the gateway answered by itself, by reason.");
    write_by_route(out, routes, |route| route.errors.get());
    out.counter("tidegate_retries_total", "Attempts beyond a request's first, by the reason for them.");
    write_by_route(out, routes, |route| route.retries.get());
}

/// One route may have several upstreams, now or while a reload settles; these series do not tell them apart.
fn write_by_route(
    out: &mut Exposition,
    routes: &[Arc<RouteMetrics>],
    counts: impl Fn(&RouteMetrics) -> Option<&Box<Counts<&'static str>>>,
) {
    let mut totals = BTreeMap::<(&str, &str), u64>::new();
    for (route, counts) in routes.iter().filter_map(|route| Some((route, counts(route)?))) {
        for (reason, count) in counts.totals() {
            *totals.entry((&route.route, reason)).or_default() += count;
        }
    }
    for ((route, reason), count) in totals {
        out.sample(&[("route", route), ("reason", reason)], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_route_is_small() {
        assert!(size_of::<RouteMetrics>() <= 80, "{}", size_of::<RouteMetrics>());
    }

    #[test]
    fn odd_statuses_share_one_label() {
        let labels = [0, 99, 100, 204, 599, 600, 999].map(|status| Status::new(status).label());
        assert_eq!(labels, ["other", "other", "100", "204", "599", "other", "other"]);
    }
}
