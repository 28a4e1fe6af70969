//! `upstreams.*.tls`: what would silently verify less than was meant is refused.

use super::Compiler;
use crate::{
    config::{Endpoint, EndpointOrigin, ExpectedIds, Path, Upstream, UpstreamProtocol, UpstreamTls, Verify},
    upstream::Address,
};

impl Compiler<'_> {
    pub(super) fn upstream_tls(&mut self, upstream: &Upstream, at: &Path) {
        let Some(tls) = &upstream.tls else {
            if upstream.protocol == UpstreamProtocol::Auto && !upstream.original_destination {
                let hint = "set `protocol: http1` or `http2`, or add `tls`";
                self.refuse_with_hint(
                    &at.key("protocol"),
                    "`auto` is negotiated over TLS, which this upstream does not speak",
                    hint,
                );
            }
            return;
        };
        let at = at.key("tls");
        let Verify { spiffe, uri, dns, name, ca } = &tls.verify;
        if !spiffe.is_empty() && (name.is_some() || ca.is_some()) {
            let hint = "an SVID is verified by the bundle of its trust domain: remove `name` and `ca`";
            self.refuse_with_hint(&at.key("verify"), "`spiffe` goes with neither `name` nor `ca`", hint);
        }
        if !uri.is_empty() {
            self.uris(tls, &at.key("verify").key("uri"));
        }
        if !dns.is_empty() && (!spiffe.is_empty() || name.is_some()) {
            let hint = "remove one of the two: a single name is `name`";
            self.refuse_with_hint(
                &at.key("verify").key("dns"),
                "`dns` goes with neither `spiffe` nor `name`",
                hint,
            );
        }
        if !spiffe.is_empty() {
            self.needs_identity(&at.key("verify").key("spiffe"), "whose bundle verifies them");
        }
        if let ExpectedIds::Word(_) = spiffe {
            self.owned(upstream, &at.key("verify").key("spiffe"));
        }
        if tls.client_identity {
            self.needs_identity(&at.key("client_identity"), "which is shown");
            if tls.client_cert.is_some() {
                let message = "goes with no `client_identity`: one certificate is shown";
                self.refuse_with_hint(&at.key("client_cert"), message, "remove one of the two");
            }
        }
        if tls.insecure_skip_verify {
            self.insecure(tls, &at.key("insecure_skip_verify"));
        } else if spiffe.is_empty() && uri.is_empty() && dns.is_empty() && name.is_none() {
            self.names_by_host(upstream, &at);
        }
    }

    /// Whoever has registered them is known of endpoints from a registry alone.
    fn owned(&mut self, upstream: &Upstream, at: &Path) {
        let unregistered = upstream.endpoints.iter().find_map(|endpoint| match &endpoint.origin {
            EndpointOrigin::Address { address } => Some(format!("{address} is not from a registry")),
            EndpointOrigin::Srv(endpoint) => Some(format!("{} is not from a registry", endpoint.srv)),
            EndpointOrigin::Registry(_) => None,
        });
        let passing = || upstream.original_destination.then(|| "an original destination is not".to_owned());
        if let Some(what) = unregistered.or_else(passing) {
            let message = format!("`registered` is for endpoints of a registry: {what}");
            self.refuse_with_hint(at, message, "name SPIFFE IDs, or give it an upstream of its own");
        }
    }

    fn uris(&mut self, tls: &UpstreamTls, at: &Path) {
        let Verify { spiffe, uri, dns: _, name, ca } = &tls.verify;
        if !spiffe.is_empty() || name.is_some() {
            self.refuse_with_hint(at, "`uri` goes with neither `spiffe` nor `name`", "remove one of the two");
        }
        if ca.is_none() && !self.sources.is_doubtful(at) {
            let hint = "add `ca: FILE`";
            self.refuse_with_hint(
                at,
                "needs `ca`: authorities that everybody trusts do not verify URIs",
                hint,
            );
        }
        for (index, uri) in uri.iter().enumerate() {
            let is_uri = uri.split_once(':').is_some_and(|(scheme, rest)| {
                let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
                scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                    && scheme.bytes().all(is_scheme)
                    && !rest.is_empty()
            });
            if !is_uri || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
                self.refuse_with_hint(
                    &at.index(index),
                    format!("{uri:?} is not a URI"),
                    "try \"urn:shop:users\"",
                );
            }
        }
    }

    fn needs_identity(&mut self, at: &Path, what_for: &str) {
        let identity = Path::root().key("identity");
        if self.config.identity.is_none() && !self.sources.is_doubtful(&identity) {
            self.refuse(at, format!("needs the section `identity`, {what_for}"));
        }
    }

    /// Verification is off: by intent, where nothing else says that it matters, and never in silence.
    fn insecure(&mut self, tls: &UpstreamTls, at: &Path) {
        let hint = "remove one of the two";
        if !tls.names_nobody() {
            self.refuse_with_hint(at, "goes with no `verify`", hint);
        }
        if tls.client_identity {
            let message = "goes with no `client_identity`: anybody would be shown who we are";
            self.refuse_with_hint(at, message, hint);
        } else if tls.client_cert.is_some() {
            let message = "goes with no `client_cert`: anybody would be shown who we are";
            self.refuse_with_hint(at, message, hint);
        } else if self.config.identity.is_some() {
            let message = "goes with no `identity`: a gateway that has one verifies whom it speaks to";
            self.refuse_with_hint(at, message, "name whom to trust with `verify`");
        }
        let warning = self.sources.problem(at, "certificates of this upstream are not verified");
        self.warnings.push(warning.hint("name whom to trust with `verify`").named("nobody_verified"));
    }

    /// Without a name, the hosts of the endpoints are verified: each has to be one.
    fn names_by_host(&mut self, upstream: &Upstream, at: &Path) {
        let is_host = |address: &str| matches!(address.parse(), Ok(Address::Host { .. }) | Err(_));
        // Where those of a registry are is not known yet.
        let is_host = |endpoint: &Endpoint| match &endpoint.origin {
            EndpointOrigin::Address { address } => is_host(address),
            // Whoever forges the answer names a host of his own, which has a certificate (RFC 6125, section 6.2.1).
            EndpointOrigin::Srv(_) | EndpointOrigin::Registry(_) => false,
        };
        if upstream.endpoints.iter().all(is_host) || self.sources.is_doubtful(&at.key("verify")) {
            return;
        }
        let is_srv = |endpoint: &Endpoint| matches!(endpoint.origin, EndpointOrigin::Srv(_));
        let (message, hint) = match upstream.endpoints.iter().any(is_srv) {
            true => (
                "needs a name or SPIFFE IDs to verify, as anybody who forges SRV records can name a host of his own",
                "add `verify: {name: users.internal}`, `verify: {dns: [...]}` or `verify: {spiffe: [...]}`",
            ),
            false => (
                "needs a name or SPIFFE IDs to verify, as an endpoint has no host name",
                "add `verify: {name: users.internal}` or `verify: {spiffe: [...]}`",
            ),
        };
        self.refuse_with_hint(at, message, hint);
    }
}
