//! Where the files of Secrets and ConfigMaps lie: as if each were mounted at `certs/NAMESPACE/NAME`.

use std::collections::BTreeMap;

use super::{
    grants::Grants,
    objects::{Name, Object},
};
use crate::{
    config::Foreign,
    convert::{
        draft::Map,
        fields::{Fields, Report, literal},
    },
};

/// The ConfigMaps in the files.
#[derive(Debug, Default)]
pub(crate) struct ConfigMaps<'f>(BTreeMap<Name<'f>, &'f Foreign>);

impl<'f> ConfigMaps<'f> {
    pub(crate) fn of(objects: &[Object<'f>]) -> ConfigMaps<'f> {
        ConfigMaps(objects.iter().map(|object| (object.id(), object.at)).collect())
    }

    /// The file of the authority in one, or in a Secret.
    ///
    /// # Errors
    ///
    /// The files say that there is none. Where they hold no ConfigMap of the namespace, they say nothing.
    pub(crate) fn authority(&self, kind: &str, namespace: &str, name: &str) -> Result<String, String> {
        if kind == "ConfigMap" && self.0.keys().any(|(known, _)| *known == namespace) {
            let own = self.0.get(&(namespace, name)).ok_or_else(|| {
                format!("the files hold ConfigMaps of `{namespace}`, and none named `{name}`")
            })?;
            own.find("data")
                .and_then(|data| data.find_text("ca.crt"))
                .ok_or_else(|| format!("the ConfigMap `{name}` has no `ca.crt`"))?;
        }
        Ok(path(namespace, name, "ca.crt"))
    }
}

/// `certificateRefs` of a listener.
pub(crate) fn shown(
    object: &Object<'_>,
    tls: &Foreign,
    grants: &Grants<'_>,
    report: &mut Report,
) -> Vec<Map> {
    let mut fields = Fields::of("tls", tls, report);
    fields.skip(&["mode", "frontendValidation"]);
    let mut certificates = Vec::new();
    for reference in fields.list("certificateRefs", report) {
        match secret(object, reference, grants) {
            Ok(pair) => certificates.push(pair),
            Err(why) => report.entry("certificateRefs", reference, why),
        }
    }
    fields.finish("it has no equal here", report);
    certificates
}

/// `tls.backend` of a Gateway: what it shows to backends.
pub(crate) fn to_backends(
    object: &Object<'_>,
    backend: &Foreign,
    grants: &Grants<'_>,
    report: &mut Report,
) -> Option<Map> {
    let mut fields = Fields::of("backend", backend, report);
    let reference = fields.take("clientCertificateRef");
    fields.finish("it has no equal here", report);
    match secret(object, reference?, grants) {
        Ok(pair) => Some(pair),
        Err(why) => {
            report.entry("clientCertificateRef", reference?, why);
            None
        }
    }
}

/// The certificate and key in a Secret.
///
/// # Errors
///
/// It is none that the Gateway may name.
fn secret(object: &Object<'_>, reference: &Foreign, grants: &Grants<'_>) -> Result<Map, String> {
    let kind = reference.find_text("kind").unwrap_or("Secret");
    let namespace = reference.find_text("namespace").unwrap_or(object.namespace);
    match reference.find_text("name") {
        Some(_) if kind != "Secret" || reference.find_text("group").unwrap_or_default() != "" => {
            Err("a certificate is a Secret".to_owned())
        }
        Some(name) if grants.allow("Gateway", object.namespace, "Secret", (namespace, name)) => {
            Ok(pair(namespace, name))
        }
        Some(_) => Err(format!(
            "no ReferenceGrant lets Gateways of `{}` name Secrets of `{namespace}`",
            object.namespace
        )),
        None => Err("it has no name".to_owned()),
    }
}

pub(crate) fn path(namespace: &str, name: &str, file: &str) -> String {
    // Names of Kubernetes hold no slashes; what else stands here leads nowhere else.
    let segment = |text: &str| literal(&text.replace(['/', '\\'], "_").replace("..", "_"));
    format!("certs/{}/{}/{file}", segment(namespace), segment(name))
}

pub(crate) fn pair(namespace: &str, name: &str) -> Map {
    Map::new().with("cert", path(namespace, name, "tls.crt")).with("key", path(namespace, name, "tls.key"))
}
