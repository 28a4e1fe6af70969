//! `tls` of the dynamic configuration: certificates, and options, which are a listener's here and a router's there.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{Fields, Report, literal},
    },
};

#[derive(Debug, Default)]
pub(crate) struct Tls<'f> {
    certificates: Vec<(Map, &'f Foreign)>,
    options: BTreeMap<&'f str, &'f Foreign>,
    /// Some listener shows the certificates.
    is_shown: Cell<bool>,
}

impl<'f> Tls<'f> {
    pub(crate) fn add(&mut self, tls: &'f Foreign, report: &mut Report) {
        let mut fields = Fields::of("tls", tls, report);
        for certificate in fields.list("certificates", report) {
            let mut fields = Fields::of("certificates", certificate, report);
            fields.needless(&["stores"], "since a listener shows all its certificates", report);
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
                fields
                    .finish("write `{acme: ACCOUNT, names: [...]}` among a listener's certificates", report);
            }
        }
        for (name, options) in fields.take("options").map_or(&[][..], Foreign::entries) {
            self.options.insert(name, options);
        }
        fields.finish("it has no equal here", report);
    }

    /// The first is for clients that ask for no name, or an unknown one.
    fn certificate(
        &mut self,
        at: &'f Foreign,
        fields: &mut Fields<'_>,
        is_default: bool,
        report: &mut Report,
    ) {
        match (fields.text("certFile", report), fields.text("keyFile", report)) {
            (Some(cert), Some(key)) => {
                let pair = Map::new().with("cert", literal(cert)).with("key", literal(key));
                self.certificates.retain(|(known, _)| *known != pair);
                self.certificates.insert(if is_default { 0 } else { self.certificates.len() }, (pair, at));
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

    /// Names what no listener has.
    pub(crate) fn finish(&self, named: &BTreeSet<&str>, report: &mut Report) {
        if !self.is_shown.get() {
            for (_, at) in &self.certificates {
                report.entry("certificates", at, "no listener speaks TLS");
            }
        }
        for (name, options) in self.options.iter().filter(|(name, _)| **name != "default") {
            if !named.contains(name) {
                report.add(options, format!("options: {name}"), "no router of these files has them");
            }
        }
    }

    /// `tls` of a listener whose routers name these options; `ordered` are certificates that a CA gives.
    pub(crate) fn listener(&self, options: Option<&str>, ordered: Vec<Map>, report: &mut Report) -> Map {
        self.is_shown.set(true);
        let mut certificates: List = self.certificates.iter().map(|(pair, _)| pair.clone()).collect();
        ordered.into_iter().for_each(|entry| certificates.push(entry));
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
            match fields.take("maxVersion").map(|most| (most, most.text())) {
                None | Some((_, Some("VersionTLS13"))) => {}
                Some((_, Some("VersionTLS12"))) if tls.find("min_version").is_none() => {
                    tls.set("max_version", "1.2");
                }
                Some((most, _)) => report.entry("maxVersion", most, "TLS 1.2 and 1.3 are spoken"),
            }
            if let Some(auth) = fields.take("clientAuth") {
                tls.set("client_auth", client_auth(auth, report));
            }
            fields.usual(
                "disableSessionTickets",
                false,
                "clients can always resume sessions by tickets",
                report,
            );
            fields.leave("cipherSuites", "see `tls.ciphers`, which has OpenSSL's names", report);
            fields.leave("curvePreferences", "see `tls.groups`, which has OpenSSL's names", report);
            let names = "clients that ask for an unknown name get the first certificate";
            fields.usual("sniStrict", false, names, report);
            fields.leave("alpnProtocols", "HTTP/2 and HTTP/1.1 are offered", report);
            fields.usual("preferServerCipherSuites", true, "the gateway chooses the cipher", report);
            fields.finish("it has no equal here", report);
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
