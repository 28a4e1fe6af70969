//! Who may come, and what they are shown.

use super::{View, Warning, guards::GUARDS, listener_at, route_at, traffic::is_local, warning};
use crate::config::{ClientAuthMode, ForwardedHeader, Limits, Listener, Path, Protocol, unix_path};

pub(super) fn warnings(view: &View<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (index, proxy) in view.config.trusted_proxies.iter().enumerate() {
        if proxy.prefix_len() == 0 {
            let message = "anybody is believed about who the client is, so that addresses can be made up";
            let at = Path::root().key("trusted_proxies").index(index);
            found.push(warning(
                "trusts_everybody",
                at,
                message,
                "name the networks of your proxies: `[10.0.0.0/8]`",
            ));
        }
    }
    if view.config.trusted_proxies.is_empty() && view.config.forwarded.trust != ForwardedHeader::default() {
        let message = "nobody is trusted, so that no such header is believed";
        let at = Path::root().key("forwarded").key("trust");
        let hint = "add `trusted_proxies: [10.0.0.0/8]`, with the networks of your proxies";
        found.push(warning("trusts_nobody", at, message, hint));
    }
    for (index, listener) in view.config.listeners.iter().enumerate() {
        found.extend(without_limits(view, index, listener));
    }
    found.extend(without_certificate(view));
    let open = view.config.listeners.iter().enumerate().filter(|(_, listener)| is_open(view, listener));
    found.extend(open.filter_map(|(index, listener)| past_client_auth(view, index, listener)));
    found
}

/// It serves all routes, to whoever comes.
fn is_open(view: &View<'_>, listener: &Listener) -> bool {
    let asks = listener.tls.as_ref().is_some_and(|tls| tls.client_auth.mode != ClientAuthMode::None);
    let keeps_out = |name: &str| GUARDS.contains(&name) || name == "https_redirect";
    listener.protocol == Protocol::Http
        && listener.routes.is_none()
        && !asks
        && !is_local(&listener.address)
        && !view.steps(&listener.filters, &Path::root()).iter().any(|step| keeps_out(&step.name))
}

/// Told only of routes that are named where certificates are required: who names them there has meant them for there.
fn past_client_auth(view: &View<'_>, index: usize, open: &Listener) -> Option<Warning> {
    let requires = |listener: &Listener| {
        listener.routes.is_some()
            && listener.tls.as_ref().is_some_and(|tls| tls.client_auth.mode == ClientAuthMode::Require)
    };
    let called = |listener: &Listener| listener.name.clone().unwrap_or_else(|| listener.address.clone());
    let (route, by) = view.each_route().find_map(|(id, route, at)| {
        let (_, guarded) = view.serving(id).find(|(_, listener)| requires(listener))?;
        let mut steps =
            view.chains(route, &at).into_iter().flat_map(|(uses, filters_at)| view.steps(uses, &filters_at));
        let is_guarded = steps.any(|step| GUARDS.contains(&step.name.as_str()));
        (!is_guarded).then(|| (&view.routes[id].name, called(guarded)))
    })?;
    let message = format!(
        "`{}` serves all routes without client certificates, also `{route}`, for which `{by}` requires one",
        called(open)
    );
    let hint = format!("name the `routes` that `{}` serves", called(open));
    Some(warning("past_client_auth", listener_at(index), message, hint))
}

fn without_limits(view: &View<'_>, index: usize, listener: &Listener) -> Option<Warning> {
    let Limits { connections_per_ip, connection_rate, connection_rate_per_ip, .. } = &listener.limits;
    let is_limited =
        connections_per_ip.is_some() || connection_rate.is_some() || connection_rate_per_ip.is_some();
    let is_everywhere = unix_path(&listener.address).is_none()
        && !is_local(&listener.address)
        && ["0.0.0.0:", "[::]:", ":"].iter().any(|all| listener.address.starts_with(all));
    let is_internal = listener.tls.as_ref().is_some_and(|tls| tls.client_auth.trust.is_some());
    let limits_rates =
        || view.steps(&listener.filters, &Path::root()).iter().any(|step| step.name == "rate_limit");
    (is_everywhere && !is_limited && !is_internal && !limits_rates()).then(|| {
        let message = "it listens on every address, and one client may take all of its connections";
        let hint = "add `limits: {connections_per_ip: 100}`";
        warning("open_without_limits", listener_at(index).key("address"), message, hint)
    })
}

/// Hosts of routes that clients are shown another name's certificate for.
fn without_certificate(view: &View<'_>) -> Vec<Warning> {
    let mut found = Vec::new();
    for (id, route, _) in view.each_route() {
        for (place, host) in route.matching.hosts.iter().enumerate() {
            let secure: Vec<_> = view
                .serving(id)
                .filter_map(|(index, listener)| Some((listener, view.listeners.get(index)?.tls.as_ref()?)))
                .collect();
            let is_shown = secure.iter().any(|(_, tls)| tls.material.serves(host));
            let Some((listener, _)) = secure.first().filter(|_| !is_shown) else { continue };
            let name = listener.name.as_deref().unwrap_or(&listener.address);
            let message =
                format!("no certificate of listener `{name}` is for `{host}`, so that browsers refuse it");
            let hint = format!("add a certificate for it to `tls.certificates` of `{name}`");
            let at = route_at(id).key("match").key("hosts").index(place);
            found.push(warning("host_without_certificate", at, message, hint));
        }
    }
    found
}
