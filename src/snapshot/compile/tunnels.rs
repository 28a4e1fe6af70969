//! Tunnels between sidecars: which upstreams lead to others, and who may come in here.

use super::{
    Compiler,
    sidecar::{Direction, GUARDS, INBOUND, ORIGINAL_DESTINATION},
};
use crate::{
    config::{self, Path, Unknown},
    filter::Chain,
    identity::IdPattern,
    snapshot::tunnels::{Inward, Outward, Tunnels},
};

impl Compiler<'_> {
    /// `None` for a listener that has nothing to do with other sidecars.
    pub(super) fn tunnels(
        &mut self,
        index: usize,
        listener: &config::Listener,
        chain: &Chain,
    ) -> Option<Tunnels<String>> {
        let sidecar = self.config.sidecar.as_ref()?;
        match self.generated.direction(index)? {
            Direction::Outbound => self.outward(listener).map(Tunnels::Out),
            Direction::Inbound => self.inward(sidecar.inbound.as_ref()?, listener, chain).map(Tunnels::In),
        }
    }

    /// Whether other sidecars may ask for tunnels there, be it that none gets one.
    pub(super) fn takes_tunnels(&self, index: usize) -> bool {
        self.generated.direction(index) == Some(Direction::Inbound)
            && self.config.upstreams.contains_key(INBOUND)
    }

    fn outward(&self, listener: &config::Listener) -> Option<Outward<String>> {
        let unknown = listener.original_destination.as_ref()?.unknown?;
        if unknown == Unknown::Refuse || self.config.identity.is_none() {
            return None;
        }
        let is_sidecar = |upstream: &config::Upstream| {
            let tls = upstream.tls.as_ref();
            !upstream.original_destination
                && tls.is_some_and(|tls| tls.client_identity && !tls.verify.spiffe.is_empty())
        };
        let known = self.config.upstreams.iter().filter(|(_, upstream)| is_sidecar(upstream));
        Some(Outward {
            known: known.map(|(name, _)| name.clone()).collect(),
            unknown: (unknown == Unknown::Mtls).then(|| ORIGINAL_DESTINATION.to_owned()),
        })
    }

    fn inward(
        &mut self,
        inbound: &config::SidecarInbound,
        listener: &config::Listener,
        chain: &Chain,
    ) -> Option<Inward<String>> {
        let at = Direction::Inbound.place().key("tunnel_ports");
        if let Some(ports) = &inbound.tunnel_ports {
            if let Some(index) = ports.iter().position(|port| *port == 0) {
                self.refuse(&at.index(index), "0 is not a port");
            }
            let allow_at = Direction::Inbound.place().key("allow");
            if !ports.is_empty() && inbound.allow.is_none() && !self.sources.is_doubtful(&allow_at) {
                let hint = "add `allow: [\"spiffe://mesh.local/orders\"]`: filters see HTTP alone";
                self.refuse_with_hint(&at, "who may open a tunnel is not said", hint);
            }
        }
        if listener.tls.is_none() || !self.config.upstreams.contains_key(INBOUND) {
            return None;
        }
        // What cannot be read is told of the filter that is made of it.
        let allow = inbound.allow.iter().flatten().filter_map(|id| IdPattern::parse(id).ok());
        // That of `allow` is the first, and the only one that looks at tunnels as well.
        let is_guard = |name: &str| GUARDS.contains(&name);
        let own = usize::from(inbound.allow.is_some());
        let is_guarded = chain.names().skip(own).any(is_guard)
            || inbound.routes.as_ref().is_some_and(|routes| !routes.is_empty());
        Some(Inward {
            allow: allow.collect(),
            ports: inbound.tunnel_ports.clone().or(is_guarded.then(Vec::new)),
            app: inbound.app.as_ref().and_then(|app| app.parse().ok()),
            to: INBOUND.to_owned(),
        })
    }

    /// `unknown: mtls` is for those who have something to show.
    pub(super) fn reaches_sidecars(
        &mut self,
        index: usize,
        settings: &config::OriginalDestination,
        at: &Path,
    ) {
        let at = at.key("unknown");
        if settings.unknown != Some(Unknown::Mtls) {
            return;
        }
        if self.generated.direction(index) != Some(Direction::Outbound) {
            let hint = "`forward` or `refuse`; `mtls` is for `sidecar.outbound`";
            self.refuse_with_hint(&at, "only a sidecar reaches others over mTLS", hint);
        } else if self.config.identity.is_none() && !self.sources.is_doubtful(&Path::root().key("identity")) {
            let hint = "add `identity` at the top level";
            self.refuse_with_hint(&at, "there is no identity to show to other sidecars", hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{config::parse, filter::Live, snapshot::compile};

    #[test]
    fn what_is_wrong_is_told_where_it_stands() {
        let inbound = |more: &str| {
            format!(
                "mode: sidecar\nsidecar: {{inbound: {{address: '127.0.0.1:1', app: '127.0.0.1:2', {more}}}}}\n"
            )
        };
        for (yaml, expected) in [
            (
                "listeners: [{address: ':1', original_destination: {unknown: mtls}}]\nroutes: [{respond: {}}]\n".to_owned(),
                "listeners[0].original_destination.unknown: only a sidecar reaches others over mTLS (`forward` or `refuse`;",
            ),
            (
                "mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:1', original_destination: {unknown: mtls}}}\n".to_owned(),
                "sidecar.outbound.original_destination.unknown: there is no identity to show to other sidecars (add `identity`",
            ),
            (
                inbound("allow: ['spiffe://a/b'], tunnel_ports: [80, 0]"),
                "sidecar.inbound.tunnel_ports[1]: 0 is not a port",
            ),
            (
                inbound("filters: [{authz: {allow: [{peer: ['127.0.0.1']}]}}], tunnel_ports: [80]"),
                "sidecar.inbound.tunnel_ports: who may open a tunnel is not said (add `allow:",
            ),
        ] {
            let problems = compile(parse(&yaml, "g.yaml").unwrap(), &Live::offline()).err().unwrap();
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{yaml}{problems:#?}");
        }
    }
}
