//! Traffic policies that never act.

use super::{View, Warning, guards::GUARDS, listed, upstream_at, warning};
use crate::{
    config::{EndpointOrigin, Path, Protocol, Retry, RetryMethods, Route, Upstream, UpstreamProtocol},
    policy::classify::{Condition, Methods},
};

pub(super) fn warnings(view: &View<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (id, route, at) in view.each_route() {
        found.extend(never_retried(view, id, route, &at));
        found.extend(sent_twice(view, route, &at));
        found.extend(tried_once(view, route, &at));
        found.extend(to_itself(view, id, route, &at));
        if let (Some(_), Some(name)) = (&route.hedge, &route.upstream)
            && view.config.upstreams.get(name).is_some_and(is_alone)
        {
            let message = format!("`{name}` has one endpoint, and a second copy goes to another");
            found.push(warning(
                "hedge_alone",
                at.key("hedge"),
                message,
                "add endpoints, or leave `hedge` out",
            ));
        }
        for (index, mirror) in route.mirror.iter().flat_map(|mirrors| mirrors.all().iter().enumerate()) {
            if route.upstream.as_ref() != Some(&mirror.upstream) {
                continue;
            }
            let is_list = route.mirror.as_ref().is_some_and(|mirrors| mirrors.is_list());
            let at = if is_list { at.key("mirror").index(index) } else { at.key("mirror") };
            let message = format!(
                "`{}` serves this route already, and would have each such request twice",
                mirror.upstream
            );
            let hint = "mirror to another upstream";
            found.push(warning("mirror_to_itself", at.key("upstream"), message, hint));
        }
    }
    for (name, upstream) in &view.config.upstreams {
        found.extend(of_upstream(name, upstream));
        found.extend(zone_of_nobody(view, name, upstream));
    }
    found.extend(without_timeout(view));
    found
}

/// Zones count only for a gateway that stands in one.
fn zone_of_nobody(view: &View<'_>, name: &str, upstream: &Upstream) -> Option<Warning> {
    if view.config.zone.is_some() || !upstream.zone_aware {
        return None;
    }
    let index = upstream.endpoints.iter().position(|endpoint| endpoint.zone.is_some())?;
    let at = upstream_at(name).key("endpoints").index(index).key("zone");
    let message = "this gateway stands in no zone, so the zones of endpoints do not count";
    Some(warning("zone_of_nobody", at, message, "add `zone: ${env:ZONE}` at the top level"))
}

/// Conditions for statuses, on a route of which no method may be sent twice.
fn never_retried(view: &View<'_>, id: usize, route: &Route, at: &Path) -> Option<Warning> {
    let retry = route.retry.as_deref()?;
    let methods = &route.matching.methods;
    let is_default = retry.methods == RetryMethods::Idempotent;
    if !is_default || methods.is_empty() || methods.iter().any(|method| Methods::Idempotent.allows(method)) {
        return None;
    }
    // Where nothing was sent, any method goes elsewhere.
    let is_answer = |word: &str| {
        let condition = word.parse::<Condition>();
        !matches!(
            condition,
            Ok(Condition::ConnectError | Condition::Reset | Condition::RefusedStream | Condition::Nothing)
                | Err(_)
        )
    };
    retry.on.iter().any(|word| is_answer(&word.0)).then(|| {
        let methods = methods.join(", ");
        let message =
            format!("route `{}` takes {methods} alone, which is not retried by itself", view.routes[id].name);
        let hint = format!("add `methods: [{methods}]` where sending it twice does no harm");
        warning("never_retried", at.key("retry").key("on"), message, hint)
    })
}

/// What a method that is not idempotent does, it does again. Who writes a route for such methods alone has thought of it. Calls of gRPC are
/// all POST, and say nothing by it.
fn sent_twice(view: &View<'_>, route: &Route, at: &Path) -> Option<Warning> {
    let RetryMethods::Listed(methods) = &route.retry.as_deref()?.methods else { return None };
    let index = methods.iter().position(|method| method == "POST" || method == "PATCH")?;
    let is_call = |name: &String| {
        view.config.upstreams.get(name).is_some_and(|upstream| upstream.protocol == UpstreamProtocol::Grpc)
    };
    // Who matches on a header has named those requests of which it is known.
    let taken = &route.matching.methods;
    let is_narrowed = !route.matching.headers.is_empty()
        || !taken.is_empty() && !taken.iter().any(|method| Methods::Idempotent.allows(method));
    (!is_narrowed && !route.upstreams().any(is_call)).then(|| {
        let message = format!("a {} that an upstream has acted on may be sent again", methods[index]);
        let hint = "leave it out, or match on `headers: {idempotency-key: {present: true}}`";
        warning("retries_post", at.key("retry").key("methods").index(index), message, hint)
    })
}

/// `retry: {attempts: 1}` alone turns retries off.
fn tried_once(view: &View<'_>, route: &Route, at: &Path) -> Option<Warning> {
    let retry = route.retry.as_deref().filter(|retry| retry.attempts.get() == 1)?;
    let at = at.key("retry");
    let is_off = retry.on.iter().any(|word| word.0 == "none");
    let is_inherited = view.sources.inherited(&at.key("on").index(0)).is_some();
    let names = retry.on != Retry::default().on && !is_off && !is_inherited;
    (names || view.sources.is_text(&at)).then(|| {
        let message = "the first try counts as well, so that nothing is retried";
        let hint = "write `attempts: 2` for one retry, or `retry: {attempts: 1}` alone for none";
        warning("retries_nothing", at, message, hint)
    })
}

/// What comes back is the same request, unless a filter has made another of it.
fn to_itself(view: &View<'_>, id: usize, route: &Route, at: &Path) -> Option<Warning> {
    let mut steps = view.chains(route, at).into_iter().flat_map(|(uses, at)| view.steps(uses, &at));
    // Which endpoint is picked may be another the second time.
    if route.upstreams_and_subsets().any(|(_, subset)| !subset.is_empty()) {
        return None;
    }
    if steps.any(|step| !GUARDS.contains(&step.name.as_str()) && !PASSES_ON.contains(&step.name.as_str())) {
        return None;
    }
    route.upstreams().find_map(|name| {
        let endpoints = view.config.upstreams.get(name)?.endpoints.iter().enumerate();
        let (index, address) = endpoints
            .filter_map(|(index, endpoint)| match &endpoint.origin {
                EndpointOrigin::Address { address } => Some((index, address)),
                EndpointOrigin::Srv(_) | EndpointOrigin::Registry(_) => None,
            })
            .find(|(_, address)| {
                view.serving(id).any(|(_, listener)| leads_to(address, &listener.address))
            })?;
        // What the gateway adds to a request may lead it elsewhere.
        if view.each_route().any(|(_, route, _)| !route.matching.headers.is_empty()) {
            return None;
        }
        let message =
            format!("`{address}` is the listener that the requests come from, so that they go in circles");
        let hint = "write the address of the server behind this gateway";
        Some(warning("forwards_to_itself", upstream_at(name).key("endpoints").index(index), message, hint))
    })
}

/// Filters beside the guards that change nothing by which requests find their route.
const PASSES_ON: [&str; 6] =
    ["compression", "cors", "rate_limit", "concurrency_limit", "body_limit", "request_id"];

/// Whether a connection to `endpoint` is accepted by the listener of this address, on the same machine.
fn leads_to(endpoint: &str, listener: &str) -> bool {
    let listener =
        listener.strip_prefix(':').map_or_else(|| listener.to_owned(), |port| format!("[::]:{port}"));
    let endpoint = endpoint
        .strip_prefix("localhost:")
        .map_or_else(|| endpoint.to_owned(), |port| format!("127.0.0.1:{port}"));
    let (Ok(to), Ok(at)) =
        (endpoint.parse::<std::net::SocketAddr>(), listener.parse::<std::net::SocketAddr>())
    else {
        return false;
    };
    let is_here = to.ip().is_loopback() || to.ip().is_unspecified();
    to.port() == at.port() && (to.ip() == at.ip() || at.ip().is_unspecified() && is_here)
}

/// A name may stand for many addresses.
fn is_alone(upstream: &Upstream) -> bool {
    match upstream.endpoints.as_slice() {
        [only] => match &only.origin {
            EndpointOrigin::Address { address } => {
                address.parse::<std::net::SocketAddr>().is_ok() || address.starts_with("unix:")
            }
            EndpointOrigin::Srv(_) | EndpointOrigin::Registry(_) => false,
        },
        _ => false,
    }
}

fn of_upstream(name: &str, upstream: &Upstream) -> Vec<Warning> {
    let mut found = Vec::new();
    let at = upstream_at(name).key("endpoints");
    if upstream.tls.is_none() {
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            if let EndpointOrigin::Address { address } = &endpoint.origin
                && address.ends_with(":443")
            {
                let message = format!("`{address}` is where TLS is spoken, and this upstream speaks none");
                let hint = "add `tls: {}` beside `endpoints`";
                found.push(warning("tls_port_without_tls", at.index(index), message, hint));
            }
        }
    }
    if !upstream.endpoints.is_empty() && upstream.endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        let message = format!("all weights of `{name}` are 0, so that it gets no request");
        found.push(warning("all_weights_zero", at, message, "give one of them a weight of at least 1"));
    }
    found
}

/// One for all of them. Not of a gateway that only this machine reaches: whoever tries one out has other things to read.
fn without_timeout(view: &View<'_>) -> Option<Warning> {
    let is_public = |index: &usize| {
        let listener = &view.config.listeners[*index];
        listener.protocol == Protocol::Http && !is_local(&listener.address)
    };
    let forwards =
        |route: &Route| route.upstream.is_some() || route.split.is_some() || route.canary.is_some();
    let streams = |route: &Route| {
        let upstream = route.upstream.as_ref().and_then(|name| view.config.upstreams.get(name));
        route.grpc_streams == Some(true)
            || upstream.is_some_and(|upstream| upstream.protocol == UpstreamProtocol::Grpc)
    };
    let lacking: Vec<_> = view
        .each_route()
        .filter(|(id, route, _)| {
            let is_reached = view.serving(*id).any(|(index, _)| is_public(&index));
            route.timeout.is_none() && forwards(route) && !streams(route) && is_reached
        })
        .collect();
    let (_, _, at) = lacking.first()?;
    let names: Vec<&str> = lacking.iter().map(|(id, ..)| &*view.routes[*id].name).collect();
    let message = format!(
        "without `timeout` a request of {} may take as long as its upstream goes on answering",
        listed(&names)
    );
    let hint = "add `timeout: 30s`, or longer where it serves streams";
    Some(warning("no_timeout", at.clone(), message, hint))
}

/// Only this machine comes by it.
pub(super) fn is_local(address: &str) -> bool {
    let is_loopback =
        |address: &str| address.parse::<std::net::SocketAddr>().is_ok_and(|at| at.ip().is_loopback());
    address.starts_with("unix:") || is_loopback(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_leads_to_a_listener_of_this_machine_alone() {
        for (endpoint, listener) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("127.0.0.1:8000", ":8000"),
            ("localhost:8000", "0.0.0.0:8000"),
            ("[::1]:8000", "[::]:8000"),
            ("192.0.2.1:8000", "192.0.2.1:8000"),
        ] {
            assert!(leads_to(endpoint, listener), "{endpoint} {listener}");
        }
        for (endpoint, listener) in [
            ("127.0.0.1:8001", ":8000"),
            ("192.0.2.1:8000", ":8000"),
            ("127.0.0.1:8000", "192.0.2.1:8000"),
            ("app.example:8000", ":8000"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert!(!leads_to(endpoint, listener), "{endpoint} {listener}");
        }
    }
}
