//! backendRefs: Services become upstreams, by the names that the DNS of a cluster has for them.

use std::collections::BTreeMap;

use super::{
    backend_tls::Policies,
    certificates::ConfigMaps,
    grants::Grants,
    objects::{Name, Object, Objects},
};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{Fields, Report},
        upstreams::{Upstreams, scale},
    },
};

#[derive(Debug)]
pub(crate) struct Backends<'f> {
    grants: Grants<'f>,
    policies: Policies<'f>,
    services: BTreeMap<Name<'f>, &'f Foreign>,
    upstreams: Upstreams,
    /// The certificate that the Gateway of the routes at hand shows to backends.
    showing: Option<Map>,
}

/// What a reference leads to.
#[derive(Clone, Debug)]
pub(crate) struct Backend<'f> {
    pub at: &'f Foreign,
    pub weight: i64,
    /// None where requests to it are errors, by the specification or because it has no equal.
    pub service: Option<ServicePort<'f>>,
    pub filters: &'f [Foreign],
}

#[derive(Clone, Debug)]
pub(crate) struct ServicePort<'f> {
    pub namespace: &'f str,
    pub name: &'f str,
    pub port: i64,
    address: String,
    speaks_http2: bool,
    tls: Option<Map>,
}

/// Who speaks to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Http,
    Grpc,
    /// Bytes: TLS that passes through, or TCP.
    Stream,
}

impl<'f> Backends<'f> {
    pub(crate) fn read(objects: &Objects<'f>, report: &mut Report) -> Backends<'f> {
        Backends {
            grants: Grants::read(&objects.grants, report),
            policies: Policies::read(&objects.backend_tls, &ConfigMaps::of(&objects.config_maps), report),
            services: objects.services.iter().map(|service| (service.id(), service.spec)).collect(),
            upstreams: Upstreams::default(),
            showing: None,
        }
    }

    /// From now on, upstreams over TLS are shown this certificate.
    pub(crate) fn show(&mut self, client_cert: Option<Map>) {
        self.showing = client_cert;
    }

    fn tls(&self, service: &ServicePort<'f>) -> Option<Map> {
        let mut tls = service.tls.clone()?;
        if let Some(own) = &self.showing {
            tls.set("client_cert", own.clone());
        }
        Some(tls)
    }

    pub(crate) fn grants(&self) -> &Grants<'f> {
        &self.grants
    }

    /// The upstreams that were used, as they are written.
    pub(crate) fn written(self) -> Map {
        self.upstreams.written()
    }

    /// What `reference`, of a route of this kind, leads to. `failure` says what becomes of requests to one that is none.
    pub(crate) fn resolve(
        &self,
        kind: &str,
        route: &Object<'f>,
        reference: &'f Foreign,
        failure: &str,
        report: &mut Report,
    ) -> Backend<'f> {
        let mut fields = Fields::of("backendRefs", reference, report);
        let weight = match fields.take("weight") {
            None => 1,
            Some(value) => value
                .text()
                .and_then(|text| text.parse().ok())
                .filter(|weight| (0..=1_000_000).contains(weight))
                .unwrap_or_else(|| {
                    report.entry(
                        "weight",
                        value,
                        "a weight is a whole number from 0 to 1000000: it is 1 here",
                    );
                    1
                }),
        };
        let filters = fields.list("filters", report);
        let service = self.service(kind, route, &mut fields, report).and_then(|mut service| {
            let (namespace, name) = (service.namespace, service.name);
            let is_unknown = self.port_of(namespace, name, service.port).is_none();
            if is_unknown && self.policies.name_ports(namespace, name) {
                return Err("a BackendTLSPolicy is for a port by its name, and no Service in the files says which that is".to_owned());
            }
            match self.policies.find(service.namespace, service.name, self.port_name(&service)) {
                None => Ok(service),
                Some(Some(tls)) => {
                    service.tls = Some(tls.clone());
                    Ok(service)
                }
                Some(None) => Err("its BackendTLSPolicy could not be carried over".to_owned()),
            }
        });
        fields.finish("a reference has no such field", report);
        let service =
            service.map_err(|why| report.entry("backendRefs", reference, format!("{why}: {failure}"))).ok();
        Backend { at: reference, weight, service, filters }
    }

    fn service(
        &self,
        kind: &str,
        route: &Object<'f>,
        fields: &mut Fields<'f>,
        report: &mut Report,
    ) -> Result<ServicePort<'f>, String> {
        let group = fields.text("group", report).unwrap_or_default();
        let of_kind = fields.text("kind", report).unwrap_or("Service");
        let namespace = fields.text("namespace", report).unwrap_or(route.namespace);
        let name = fields.text("name", report).ok_or("it has no name")?;
        let port = fields.number("port", 1, 65_535, report);
        if (group, of_kind) != ("", "Service") {
            return Err(format!("{of_kind} is no kind of backend here, only Service is"));
        }
        let port = port.ok_or("it has no port")?;
        if !self.grants.allow(kind, route.namespace, of_kind, (namespace, name)) {
            return Err(format!(
                "no ReferenceGrant lets {kind} of `{}` name Services of `{namespace}`",
                route.namespace
            ));
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        };
        if !is_name(name) || !is_name(namespace) {
            return Err(format!("`{namespace}/{name}` is no name of a Service"));
        }
        let dns = format!("{name}.{namespace}.svc.cluster.local");
        let mut found = ServicePort {
            namespace,
            name,
            port,
            address: format!("{dns}:{port}"),
            speaks_http2: false,
            tls: None,
        };
        let Some(spec) = self.services.get(&(namespace, name)) else {
            // Files without any Service say nothing of which there are.
            return match self.services.keys().any(|(known, _)| *known == namespace) {
                true => Err(format!("the files hold Services of `{namespace}`, and none named `{name}`")),
                false => Ok(found),
            };
        };
        if spec.find_text("type") == Some("ExternalName") {
            let external = spec
                .find_text("externalName")
                .filter(|name| is_name(name))
                .ok_or("the Service has no externalName")?;
            found.address = format!("{external}:{port}");
            return Ok(found);
        }
        let own =
            self.port_of(namespace, name, port).ok_or_else(|| format!("the Service has no port {port}"))?;
        found.speaks_http2 = own.find_text("appProtocol") == Some("kubernetes.io/h2c");
        if spec.find_text("clusterIP") == Some("None") {
            // Its name stands for the pods themselves, which listen on the port behind.
            let target = own.find_text("targetPort").map_or(Some(port), |target| target.parse().ok());
            let target =
                target.ok_or("the Service is headless, and names its targetPort: write the number")?;
            found.address = format!("{dns}:{target}");
        }
        Ok(found)
    }

    fn port_of(&self, namespace: &str, name: &str, port: i64) -> Option<&'f Foreign> {
        let ports = self.services.get(&(namespace, name))?.find("ports")?.items();
        ports.iter().find(|own| own.find_text("port").and_then(|text| text.parse().ok()) == Some(port))
    }

    fn port_name(&self, service: &ServicePort<'f>) -> Option<&'f str> {
        self.port_of(service.namespace, service.name, service.port)?.find_text("name")
    }

    /// The name of an upstream to this Service, which is made if there is none. `balancer` is what keeps clients on an endpoint.
    pub(crate) fn upstream(
        &mut self,
        service: &ServicePort<'f>,
        use_: Use,
        keeps: Option<(&str, Map)>,
    ) -> String {
        let mut upstream = Map::new().with("endpoints", List::from_iter([service.address.as_str()]));
        match use_ {
            Use::Grpc => upstream.set("protocol", "grpc"),
            Use::Http if service.speaks_http2 => upstream.set("protocol", "http2"),
            Use::Http | Use::Stream => {}
        }
        if let Some(tls) = self.tls(service) {
            upstream.set("tls", tls);
        }
        if let Some((key, how)) = keeps {
            upstream.set(key, how);
        }
        self.upstreams.keep(&format!("{}/{}:{}", service.namespace, service.name, service.port), upstream)
    }

    /// One upstream for all of these, as a connection of TCP has it. `None` where nothing is left of them.
    pub(crate) fn stream(
        &mut self,
        name: &str,
        backends: &[Backend<'f>],
        carries_tls: bool,
    ) -> Option<String> {
        let usable: Vec<_> = backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .filter_map(|backend| Some((backend.service.as_ref()?, backend.weight)))
            .collect();
        if let [(service, _)] = usable[..] {
            let plain = ServicePort { tls: service.tls.clone().filter(|_| !carries_tls), ..service.clone() };
            return Some(self.upstream(&plain, Use::Stream, None));
        }
        let scale = scale(usable.iter().map(|(_, weight)| *weight));
        let mut endpoints = List::new();
        for (service, weight) in &usable {
            endpoints
                .push(Map::new().with("address", service.address.as_str()).with("weight", scale(*weight)));
        }
        let (first, _) = *usable.first()?;
        let mut upstream = Map::new().with("endpoints", endpoints);
        // What one upstream cannot say of two Services is not said of either: nothing goes out in the clear by accident.
        if !carries_tls && usable.iter().any(|(service, _)| service.tls != first.tls) {
            return None;
        }
        if let Some(tls) = self.tls(first).filter(|_| !carries_tls) {
            upstream.set("tls", tls);
        }
        Some(self.upstreams.keep(name, upstream))
    }
}

#[cfg(test)]
mod tests {
    use crate::convert::gateway_api::written;

    /// What a route to port 443 of the Service `s` becomes, beside a policy for its port `https`.
    fn with(more: &str) -> serde_json::Value {
        let text = written(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}}, spec: {{listeners: [{{name: plain, port: 80, protocol: HTTP}}]}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{{name: s, port: 443}}]}}]}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: p}}, spec: {{targetRefs: [{{group: '', kind: Service, name: s, sectionName: https}}], validation: {{hostname: s.example.com, wellKnownCACertificates: System}}}}}}
---
{more}"
        ));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn nothing_goes_out_in_the_clear_where_a_policy_may_be_for_the_port() {
        let service = |spec: &str| {
            with(&format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}"))
        };
        let file = service("ports: [{port: 443, name: https}]");
        assert_eq!(file["upstreams"]["default/s:443"]["tls"]["verify"]["name"], "s.example.com", "{file:#}");
        let file = service("ports: [{port: 443, name: other}]");
        assert!(file["upstreams"]["default/s:443"]["endpoints"].is_array(), "{file:#}");
        for file in [with(""), service("type: ExternalName, externalName: s.example.net")] {
            assert_eq!(file["upstreams"], serde_json::Value::Null, "{file:#}");
            assert_eq!(file["routes"][0]["respond"]["status"], 500, "{file:#}");
        }
    }
}
