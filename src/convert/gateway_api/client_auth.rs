//! Client certificates that a Gateway asks for: `frontend` of its `tls`, or of a listener.

use super::{certificates::ConfigMaps, grants::Grants, objects::Object};
use crate::{
    config::Foreign,
    convert::{
        draft::Map,
        fields::{Fields, Report},
    },
};

/// Of `spec.tls.frontend`: what is said for the port, or for all.
pub(crate) fn validation(frontend: &Foreign, port: i64) -> Option<&Foreign> {
    let per_port = frontend.find("perPort").map_or(&[][..], Foreign::items);
    let own =
        per_port.iter().find(|own| own.find_text("port").and_then(|text| text.parse().ok()) == Some(port));
    match own {
        Some(own) => own.find("tls")?.find("validation"),
        None => frontend.find("default")?.find("validation"),
    }
}

/// # Errors
///
/// Where it does not say who clients must be, which is reported.
pub(crate) fn client_auth(
    object: &Object<'_>,
    validation: &Foreign,
    grants: &Grants<'_>,
    config_maps: &ConfigMaps<'_>,
    report: &mut Report,
) -> Result<Map, ()> {
    let mut fields = Fields::of("validation", validation, report);
    let references = fields.list("caCertificateRefs", report);
    let mode = fields.take("mode");
    fields.finish("it has no equal here", report);
    let ours = match mode.and_then(Foreign::text) {
        None | Some("AllowValidOnly") => "require",
        Some("AllowInsecureFallback") => "lenient",
        Some(_) => {
            let why = "AllowValidOnly or AllowInsecureFallback is expected here";
            report.entry("mode", mode.unwrap_or(validation), why);
            return Err(());
        }
    };
    for second in references.iter().skip(1) {
        report.entry("caCertificateRefs", second, "one file of authorities can be named: put them together");
    }
    let Some(reference) = references.first() else {
        report.entry("validation", validation, "it names no authority");
        return Err(());
    };
    let kind = reference.find_text("kind").unwrap_or("ConfigMap");
    let is_core = reference.find_text("group").unwrap_or_default().is_empty();
    let namespace = reference.find_text("namespace").unwrap_or(object.namespace);
    let why = match reference.find_text("name") {
        None => "it has no name".to_owned(),
        Some(_) if !is_core || !matches!(kind, "ConfigMap" | "Secret") => {
            "an authority is a ConfigMap or a Secret".to_owned()
        }
        Some(name) if grants.allow("Gateway", object.namespace, kind, (namespace, name)) => {
            match config_maps.authority(kind, namespace, name) {
                Ok(ca) => return Ok(Map::new().with("mode", ours).with("trust", Map::new().with("ca", ca))),
                Err(why) => why,
            }
        }
        Some(_) => {
            format!("no ReferenceGrant lets Gateways of `{}` name {kind}s of `{namespace}`", object.namespace)
        }
    };
    report.entry("caCertificateRefs", reference, why);
    Err(())
}

#[cfg(test)]
mod tests {
    use crate::convert::gateway_api::written;

    /// A Gateway in `default` with two HTTPS listeners on a port and one for HTTP, and a route to all of them.
    fn with(one: &str, other: &str, more: &str) -> serde_json::Value {
        let text = written(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: g}}, spec: {{listeners: [
  {{name: plain, port: 80, protocol: HTTP}},
  {{name: one, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {{certificateRefs: [{{name: c}}]{one}}}}},
  {{name: other, port: 443, protocol: HTTPS, hostname: '*.example.com', tls: {{certificateRefs: [{{name: c}}]{other}}}}}]}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: g}}], rules: [{{backendRefs: [{{name: s, port: 80}}]}}]}}}}
---
{more}"
        ));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn by(name: &str) -> String {
        format!(", frontendValidation: {{caCertificateRefs: [{{kind: ConfigMap, {name}}}]}}")
    }

    fn is_served(file: &serde_json::Value) -> bool {
        let listeners = file["listeners"].as_array().unwrap();
        assert!(listeners.iter().any(|listener| listener["name"] == "default/g:80"), "{file:#}");
        listeners.iter().any(|listener| listener["name"] == "default/g:443")
    }

    #[test]
    fn a_port_whose_listeners_ask_for_different_clients_is_not_served() {
        let (a, b) = (by("name: a"), by("name: b"));
        let file = with(&a, &a, "");
        assert!(is_served(&file), "{file:#}");
        assert_eq!(file["listeners"][1]["tls"]["client_auth"]["trust"]["ca"], "certs/default/a/ca.crt");
        assert!(is_served(&with("", "", "")));
        for (one, other) in [(&a, &b), (&a, &String::new()), (&String::new(), &a)] {
            assert!(!is_served(&with(one, other, "")), "{one} {other}");
        }
    }

    #[test]
    fn an_authority_is_one_that_may_be_named() {
        let grant = |kind: &str| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: g, namespace: other}}, spec: {{from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}}], to: [{{group: '', kind: {kind}}}]}}}}"
            )
        };
        let foreign = by("name: a, namespace: other");
        assert!(is_served(&with(&foreign, &foreign, &grant("ConfigMap"))));
        assert!(!is_served(&with(&foreign, &foreign, &grant("Secret"))));
        for wrong in ["name: a, namespace: other", "nothing: a", "name: a, group: example.com"] {
            assert!(!is_served(&with(&by(wrong), &by(wrong), "")), "{wrong}");
        }
        let odd = ", frontendValidation: {caCertificateRefs: [{kind: Bundle, name: a}]}";
        assert!(!is_served(&with(odd, odd, "")));
        assert!(!is_served(&with(", frontendValidation: {}", ", frontendValidation: {}", "")));
    }
}
