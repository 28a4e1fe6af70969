//! `tls` of the dynamic configuration: certificates, and options, which are a listener's here and a router's there.

use std::collections::BTreeMap;

use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{Fields, Report, literal},
    },
};

#[derive(Debug, Default)]
pub(crate) struct Tls<'f> {
    certificates: Vec<Map>,
    options: BTreeMap<&'f str, &'f Foreign>,
}

impl<'f> Tls<'f> {
    pub(crate) fn add(&mut self, tls: &'f Foreign, report: &mut Report) {
        let mut fields = Fields::of("tls", tls, report);
        for certificate in fields.list("certificates", report) {
            let mut fields = Fields::of("certificates", certificate, report);
            fields.skip(&["stores"]);
            self.certificate(certificate, &mut fields, false, report);
            fields.finish("it has no equal here", report);
        }
        if let Some(stores) = fields.take("stores") {
            for (name, store) in stores.entries() {
                let mut fields = Fields::of(name, store, report);
                if let Some(default) = fields.take("defaultCertificate") {
                    let mut fields = Fields::of("defaultCertificate", default, report);
                    self.certificate(default, &mut fields, true, report);
                    fields.finish("it has no equal here", report);
                }
                fields.finish("certificates are files here, which another program renews", report);
            }
        }
        for (name, options) in fields.take("options").map_or(&[][..], Foreign::entries) {
            self.options.insert(name, options);
        }
        fields.finish("it has no equal here", report);
    }

    /// The first is for clients that ask for no name, or an unknown one.
    fn certificate(&mut self, at: &Foreign, fields: &mut Fields<'_>, is_default: bool, report: &mut Report) {
        match (fields.text("certFile", report), fields.text("keyFile", report)) {
            (Some(cert), Some(key)) => {
                let pair = Map::new().with("cert", literal(cert)).with("key", literal(key));
                self.certificates.retain(|known| *known != pair);
                self.certificates.insert(if is_default { 0 } else { self.certificates.len() }, pair);
            }
            _ => report.entry("certificates", at, "a certificate has a certFile and a keyFile"),
        }
    }

    /// Whether these options ask clients for certificates.
    pub(crate) fn asks_clients(&self, options: &str) -> bool {
        self.options.get(options).is_some_and(|options| options.find("clientAuth").is_some())
    }

    pub(crate) fn has_options(&self, options: &str) -> bool {
        options == "default" || self.options.contains_key(options)
    }

    /// `tls` of a listener whose routers name these options.
    pub(crate) fn listener(&self, options: Option<&str>, report: &mut Report) -> Map {
        let mut certificates: List = self.certificates.iter().cloned().collect();
        if certificates.is_empty() {
            certificates.comment("no certificate is named: put one here");
            certificates.push(Map::new().with("cert", "certs/tls.crt").with("key", "certs/tls.key"));
        }
        let mut tls = Map::new().with("certificates", certificates);
        let name = options.unwrap_or("default");
        if let Some(options) = self.options.get(name) {
            let mut fields = Fields::of(name, options, report);
            let least = fields.take("minVersion");
            match least.map(|least| (least, least.text())) {
                None | Some((_, Some("VersionTLS12"))) => {}
                Some((_, Some("VersionTLS13"))) => tls.set("min_version", "1.3"),
                Some((least, _)) => report.entry("minVersion", least, "TLS 1.2 is the oldest that is spoken"),
            }
            if let Some(auth) = fields.take("clientAuth") {
                tls.set("client_auth", client_auth(auth, report));
            }
            fields.skip(&["disableSessionTickets"]);
            fields.finish("what is spoken is fixed: see TLS towards clients", report);
        }
        tls
    }
}

fn client_auth(auth: &Foreign, report: &mut Report) -> Map {
    let mut fields = Fields::of("clientAuth", auth, report);
    let files = fields.list("caFiles", report);
    let kind = fields.take("clientAuthType");
    fields.finish("it has no equal here", report);
    let mode = match kind.map(|kind| (kind, kind.text())) {
        Some((_, Some("RequireAndVerifyClientCert"))) => "require",
        Some((_, Some("VerifyClientCertIfGiven"))) => "request",
        Some((kind, _)) => {
            report.entry(
                "clientAuthType",
                kind,
                "a certificate that is shown is verified: it is required, by the authorities in caFiles",
            );
            "require"
        }
        None => "require",
    };
    for second in files.iter().skip(1) {
        report.entry("caFiles", second, "one file of authorities can be named: put them together");
    }
    let ca = files.first().and_then(Foreign::text);
    if ca.is_none() {
        report.entry("clientAuth", auth, "it names no file of authorities");
    }
    Map::new().with("mode", mode).with("trust", Map::new().with("ca", literal(ca.unwrap_or("certs/ca.crt"))))
}
