//! BackendTLSPolicy: how a Service is spoken to over TLS, and whom it must prove to be
//! (<https://gateway-api.sigs.k8s.io/api-types/backendtlspolicy/>).

use super::{certificates::ConfigMaps, objects::Object};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map, Node},
        fields::{Fields, Report, literal},
    },
};

/// All policies, oldest first.
#[derive(Debug)]
pub(crate) struct Policies<'f>(Vec<Policy<'f>>);

#[derive(Debug)]
struct Policy<'f> {
    namespace: &'f str,
    service: &'f str,
    /// Of the Service; all where there is none.
    port_name: Option<&'f str>,
    /// `tls` of an upstream; `None` where it could not be said, and nothing may be sent.
    tls: Option<Map>,
}

impl<'f> Policies<'f> {
    pub(crate) fn read(
        objects: &[Object<'f>],
        config_maps: &ConfigMaps<'f>,
        report: &mut Report,
    ) -> Policies<'f> {
        let mut policies = Vec::new();
        for object in objects {
            let mut spec = Fields::of("spec", object.spec, report);
            let tls = match spec.take("validation") {
                Some(validation) => tls(object, validation, config_maps, report),
                None => {
                    report.add(
                        object.at,
                        format!("BackendTLSPolicy {}", object.name),
                        "it has no `validation`: requests are answered with 500",
                    );
                    None
                }
            };
            for target in spec.list("targetRefs", report) {
                let mut fields = Fields::of("targetRefs", target, report);
                fields.skip(&["group"]);
                let is_service = fields.text("kind", report) == Some("Service");
                let (service, port_name) = (fields.text("name", report), fields.text("sectionName", report));
                match service.filter(|_| is_service) {
                    Some(service) => {
                        policies.push(Policy {
                            namespace: object.namespace,
                            service,
                            port_name,
                            tls: tls.clone(),
                        });
                    }
                    None => report.entry("targetRefs", target, "a policy is for Services"),
                }
                fields.finish("a target has no such field", report);
            }
            spec.finish("it has no equal here", report);
        }
        Policies(policies)
    }

    /// Whether one is for a port of this Service alone.
    pub(crate) fn name_ports(&self, namespace: &str, service: &str) -> bool {
        self.0.iter().any(|policy| {
            policy.namespace == namespace && policy.service == service && policy.port_name.is_some()
        })
    }

    /// `None` without a policy. One for the port goes before one for the whole Service.
    pub(crate) fn find(
        &self,
        namespace: &str,
        service: &str,
        port_name: Option<&str>,
    ) -> Option<Option<&Map>> {
        let own =
            || self.0.iter().filter(|policy| policy.namespace == namespace && policy.service == service);
        let of_port = own().find(|policy| policy.port_name.is_some() && policy.port_name == port_name);
        let policy = of_port.or_else(|| own().find(|policy| policy.port_name.is_none()))?;
        Some(policy.tls.as_ref())
    }
}

fn tls(
    object: &Object<'_>,
    validation: &Foreign,
    config_maps: &ConfigMaps<'_>,
    report: &mut Report,
) -> Option<Map> {
    let mut fields = Fields::of("validation", validation, report);
    let hostname = fields.text("hostname", report);
    let authorities = fields.list("caCertificateRefs", report);
    let is_system = fields.text("wellKnownCACertificates", report) == Some("System");
    let names = fields.list("subjectAltNames", report);
    fields.finish("it has no equal here", report);
    let refuse = |at: &Foreign, name: &str, why: &str, report: &mut Report| {
        report.entry(name, at, format!("{why}: requests are answered with 500"));
        None
    };
    let Some(hostname) = hostname else {
        return refuse(validation, "validation", "it has no `hostname`", report);
    };
    let mut verify = match names {
        [] => Map::new().with("name", hostname),
        names => match alternatives(names) {
            Ok(verify) => verify,
            Err(at) => {
                let why = "a name is a Hostname with `hostname`, or a URI with `uri`";
                return refuse(at, "subjectAltNames", why, report);
            }
        },
    };
    match authorities {
        [] if is_system && verify.find("uri").is_some() => {
            let why = "authorities that everybody trusts do not verify URIs";
            return refuse(validation, "validation", why, report);
        }
        [] if is_system => {}
        [authority] => {
            let kind = authority.find_text("kind").unwrap_or_default();
            let file = match authority.find_text("name") {
                Some(name) if matches!(kind, "ConfigMap" | "Secret") => {
                    config_maps.authority(kind, object.namespace, name)
                }
                _ => Err("an authority is a ConfigMap or a Secret".to_owned()),
            };
            match file {
                Ok(file) => verify.set("ca", file),
                Err(why) => return refuse(authority, "caCertificateRefs", &why, report),
            }
        }
        [] => return refuse(validation, "validation", "it names no authority", report),
        [_, second, ..] => {
            return refuse(
                second,
                "caCertificateRefs",
                "one file of authorities can be named: put them together",
                report,
            );
        }
    }
    let verifies = |name: &str| matches!(verify.find("name"), Some(Node::Text(own)) if own == name);
    let asks_for_another = !verifies(hostname);
    let mut tls = Map::new().with("verify", verify);
    if asks_for_another {
        tls.set("server_name", hostname);
    }
    Some(tls)
}

/// Names of which the certificate must have one.
///
/// # Errors
///
/// The first that is none.
fn alternatives(names: &[Foreign]) -> Result<Map, &Foreign> {
    let (mut uris, mut hosts) = (Vec::new(), Vec::new());
    for name in names {
        match (name.find_text("type"), name.find_text("uri"), name.find_text("hostname")) {
            (Some("URI"), Some(uri), _) => uris.push(literal(uri)),
            (Some("Hostname"), _, Some(host)) => hosts.push(literal(host)),
            _ => return Err(name),
        }
    }
    let mut verify = Map::new();
    if let ([], [host]) = (&uris[..], &hosts[..]) {
        return Ok(verify.with("name", host.as_str()));
    }
    for (key, all) in [("uri", uris), ("dns", hosts)] {
        if !all.is_empty() {
            verify.set(key, all.into_iter().collect::<List>());
        }
    }
    Ok(verify)
}
