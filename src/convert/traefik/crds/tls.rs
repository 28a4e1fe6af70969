//! TLSOption, TLSStore and ServersTransport: files instead of Secrets.

use super::{
    Object, Parts,
    made::{self, certificate, edited, entry, kept, list},
};
use crate::{
    config::Foreign,
    convert::fields::{Fields, Report},
};

/// Options that are named so are everybody's, whatever their namespace.
pub(super) fn options_id(namespace: &str, name: &str) -> String {
    if name == "default" || name.contains('@') { name.to_owned() } else { format!("{namespace}/{name}") }
}

pub(super) fn options(object: &Object<'_>) -> Foreign {
    edited(object.spec, |name, value| match name {
        "clientAuth" => {
            let files = |name: &str, value: &Foreign| match name {
                "secretNames" => Some(("caFiles".to_owned(), authorities(object, value))),
                _ => kept(name, value),
            };
            Some((name.to_owned(), edited(value, files)))
        }
        _ => kept(name, value),
    })
}

pub(super) fn transport(object: &Object<'_>) -> Foreign {
    edited(object.spec, |name, value| match name {
        "rootCAsSecrets" => Some(("rootCAs".to_owned(), authorities(object, value))),
        "rootCAs" => {
            let file = |item: &Foreign| {
                let name = item.find_text("secret").or_else(|| item.find_text("configMap"));
                made::file(item, object.namespace, name.unwrap_or_default(), "ca.crt")
            };
            Some((name.to_owned(), list(value, value.items().iter().map(file).collect())))
        }
        _ => kept(name, value),
    })
}

/// Of Secrets that are named by text.
fn authorities(object: &Object<'_>, names: &Foreign) -> Foreign {
    let file = |item: &Foreign| made::file(item, object.namespace, item.text().unwrap_or_default(), "ca.crt");
    list(names, names.one_or_more().iter().map(file).collect())
}

impl Parts {
    /// Traefik knows one store.
    pub(super) fn tls_store(&mut self, object: &Object<'_>, report: &mut Report) {
        if object.name != "default" {
            return report.add(object.at, format!("TLSStore {}", object.id()), "the only store is `default`");
        }
        for certificate in object.spec.find("certificates").map_or(&[][..], Foreign::items) {
            self.secret_name(object, certificate, report);
        }
        let store = edited(object.spec, |name, value| match (name, value.find_text("secretName")) {
            ("certificates", _) => None,
            ("defaultCertificate", Some(secret)) => {
                Some((name.to_owned(), certificate(value, object.namespace, secret)))
            }
            _ => kept(name, value),
        });
        self.stores.push((object.name.to_owned(), store));
    }

    /// The certificate in `secretName`, for all who ask for a name of it.
    fn secret_name(&mut self, object: &Object<'_>, at: &Foreign, report: &mut Report) {
        match at.find_text("secretName") {
            Some(secret) => self.certificates.push(certificate(at, object.namespace, secret)),
            None => report.entry("certificates", at, "it names no Secret"),
        }
    }

    /// `tls` of a route, as a router has it.
    pub(super) fn router_tls(&mut self, object: &Object<'_>, tls: &Foreign, report: &mut Report) -> Foreign {
        if tls.find("secretName").is_some() {
            self.secret_name(object, tls, report);
        }
        edited(tls, |name, value| match name {
            "secretName" => None,
            "options" => {
                let mut fields = Fields::of(name, value, report);
                let namespace = fields.text("namespace", report).unwrap_or(object.namespace);
                // Options that are none close the router: they may have asked clients for certificates.
                let id = options_id(namespace, fields.text("name", report).unwrap_or_default());
                fields.finish("it has no equal here", report);
                Some((name.to_owned(), made::text(value, id)))
            }
            "store" => {
                report.needless(name, value, "since a listener shows all its certificates");
                None
            }
            _ => kept(name, value),
        })
    }

    /// A service under its name, or under another if that name is a different one's.
    pub(super) fn keep(services: &mut Vec<(String, Foreign)>, name: &str, service: Foreign) -> String {
        let names = std::iter::once(name.to_owned()).chain((2..).map(|number| format!("{name}#{number}")));
        for name in names {
            match services.iter().find(|(known, _)| *known == name) {
                Some((_, known)) if made::are_alike(known, &service) => return name,
                Some(_) => {}
                None => {
                    services.push((name.clone(), service));
                    return name;
                }
            }
        }
        name.to_owned()
    }

    /// A service that is nothing but this.
    pub(super) fn keep_kind(
        services: &mut Vec<(String, Foreign)>,
        name: &str,
        kind: &str,
        service: Foreign,
    ) -> String {
        let service = entry(&service.clone(), kind, service);
        Parts::keep(services, name, service)
    }
}
