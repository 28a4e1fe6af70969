//! `control.serve.store` and `advertise`: what replicas of a control plane share, and how they reach each other.

use std::path::PathBuf;

use http::Uri;

use super::{Compiler, control::is_loopback};
use crate::config::{self, Certificate, ClientTrust, EtcdMembers, EtcdTls, Path, Store};

const SPIFFE: &str =
    "add `identity`, and `tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}`";

impl Compiler<'_> {
    pub(super) fn control_store(&mut self, serve: &config::ControlServe, at: &Path) {
        let Store::Etcd(etcd) = &serve.store else {
            if serve.advertise.is_some() && !self.sources.is_doubtful(&at.key("store")) {
                let message = "only replicas that share a store reach each other";
                let hint = "remove it, or add `store: {etcd: {endpoints: [\"https://etcd-1:2379\"]}}`";
                self.refuse_with_hint(&at.key("advertise"), message, hint);
            }
            return;
        };
        match &serve.advertise {
            Some(advertise) => {
                // Port 0 is the one that is listened at.
                let some = advertise.strip_suffix(":0").map(|host| format!("{host}:1"));
                self.advertised(some.as_ref().unwrap_or(advertise), &at.key("advertise"));
            }
            None if self.sources.is_doubtful(&at.key("advertise")) => {}
            None => {
                let message = "the replicas that share this store have to reach each other";
                let hint = "add `advertise: \"control-1.internal:9902\"` beside it";
                self.refuse_with_hint(&at.key("store"), message, hint);
            }
        }
        let etcd_at = at.key("store").key("etcd");
        let harm = "whoever is between could register a service";
        self.etcd_members(&etcd.members(), harm, &etcd_at);
        self.etcd_prefix(&etcd.prefix, "/tidegate/v1/", &etcd_at.key("prefix"));
        self.replicas_know_each_other(serve, at);
    }

    /// `harm` is what could be done by who reads and changes what is said to etcd.
    pub(super) fn etcd_members(&mut self, etcd: &EtcdMembers, harm: &str, at: &Path) {
        if etcd.endpoints.is_empty() {
            let hint = "add `endpoints: [\"https://etcd-1:2379\"]`";
            self.refuse_with_hint(&at.key("endpoints"), "names no member of the cluster", hint);
        }
        for (index, endpoint) in etcd.endpoints.iter().enumerate() {
            self.etcd_endpoint(endpoint, etcd.tls.is_some(), harm, &at.key("endpoints").index(index));
        }
        if etcd.user.is_some() != etcd.password.is_some() && !self.sources.is_doubtful(at) {
            let hint = "give both, or a client certificate whose common name is the user";
            self.refuse_with_hint(at, "`user` and `password` go together", hint);
        }
        if let Some(EtcdTls { cert, key, ca: _ }) = &etcd.tls
            && cert.is_some() != key.is_some()
            && !self.sources.is_doubtful(&at.key("tls"))
        {
            self.refuse(&at.key("tls"), "`cert` and `key` go together");
        }
    }

    pub(super) fn etcd_prefix(&mut self, prefix: &str, example: &str, at: &Path) {
        if !prefix.starts_with('/') || !prefix.ends_with('/') || prefix.len() < 3 {
            let message = format!("{prefix:?} is no prefix of keys");
            self.refuse_with_hint(at, message, format!("such as {example:?}"));
        }
    }

    fn etcd_endpoint(&mut self, endpoint: &str, has_tls: bool, harm: &str, at: &Path) {
        let uri = endpoint.parse::<Uri>().ok();
        let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?, uri.path())));
        match parts {
            Some(("https", place, "/" | "")) if place.port_u16().is_some() => {}
            Some(("http", place, "/" | "")) if place.port_u16().is_some() => {
                if has_tls {
                    let hint = "write https, or remove `tls`";
                    self.refuse_with_hint(at, format!("{endpoint:?} is not reached over TLS"), hint);
                } else if !is_loopback(place.as_str()) {
                    let message = format!("{endpoint:?} is not on this host, and {harm}");
                    self.refuse_with_hint(at, message, "write https, and `tls: {ca: etcd-ca.pem}`");
                }
            }
            _ => {
                let message = format!("{endpoint:?} is not the address of an etcd member");
                self.refuse_with_hint(at, message, "such as \"https://etcd-1:2379\"");
            }
        }
    }

    /// What a replica says of heartbeats is believed because it proves the same SPIFFE ID.
    fn replicas_know_each_other(&mut self, serve: &config::ControlServe, at: &Path) {
        let Some(tls) = &serve.tls else {
            if !serve.authorize.is_empty() && !self.sources.is_doubtful(&at.key("tls")) {
                let message = "with rules, replicas have to prove who they are as well";
                self.refuse_with_hint(&at.key("authorize"), message, SPIFFE);
            }
            return;
        };
        if self.sources.is_doubtful(&at.key("tls")) || self.sources.is_doubtful(&Path::root().key("identity"))
        {
            return;
        }
        let proves = self.config.identity.is_some()
            && tls.shown().contains(&Certificate::Identity)
            && tls.client_auth.trust == Some(ClientTrust::Spiffe);
        if !proves {
            let message = "replicas prove to each other who they are by their SPIFFE ID";
            self.refuse_with_hint(&at.key("tls"), message, SPIFFE);
        }
    }
}

/// Relative paths are relative to the file they stand in.
pub(super) fn with_full_paths(
    tls: Option<&mut EtcdTls>,
    at: &Path,
    full: impl Fn(&Path, &PathBuf) -> PathBuf,
) {
    let Some(EtcdTls { ca, cert, key }) = tls else { return };
    for (name, file) in [("ca", ca), ("cert", cert), ("key", key)] {
        if let Some(file) = file {
            *file = full(&at.key(name), file);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{config::parse, filter::Live, snapshot::compile};

    fn problems(serve: &str) -> Vec<String> {
        let loaded = parse(&format!("control: {{serve: {serve}}}\n"), "c.yaml")
            .map_err(|problems| problems.to_string());
        match loaded {
            Ok(loaded) => {
                compile(loaded, &Live::offline()).err().into_iter().flatten().map(|p| p.to_string()).collect()
            }
            Err(problems) => vec![problems],
        }
    }

    #[test]
    fn replicas_on_one_host_need_an_address_and_an_endpoint() {
        for store in [
            "{etcd: {endpoints: ['http://127.0.0.1:2379']}}",
            "{etcd: {endpoints: ['http://127.0.0.1:1', 'https://etcd-2:2379'], prefix: /a/, user: a, password: b}}",
            "{etcd: {endpoints: ['https://etcd:2379'], tls: {ca: ca.pem, cert: a.pem, key: a.key}}}",
        ] {
            let serve = format!("{{advertise: '127.0.0.1:9902', store: {store}}}");
            assert_eq!(problems(&serve), [""; 0], "{store}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_where_it_stands() {
        let etcd = |etcd: &str| format!("{{advertise: '127.0.0.1:9902', store: {{etcd: {etcd}}}}}");
        let tls = "address: '10.0.0.1:9902', tls: {certificates: [{cert: a, key: b}]}, authorize: [{token: t, operate: true}]";
        for (serve, expected) in [
            ("{store: etcd}".to_owned(), "control.serve.store: etcd needs its endpoints"),
            ("{store: disk}".to_owned(), "\"disk\" is not a store"),
            (
                "{advertise: '127.0.0.1:1'}".to_owned(),
                "control.serve.advertise: only replicas that share a store",
            ),
            (
                "{store: {etcd: {endpoints: ['http://127.0.0.1:1']}}}".to_owned(),
                "control.serve.store: the replicas that share this store have to reach each other (add `advertise",
            ),
            (etcd("{}"), "endpoints"),
            (etcd("{endpoints: []}"), "etcd.endpoints: names no member of the cluster"),
            (
                etcd("{endpoints: ['etcd:2379']}"),
                "etcd.endpoints[0]: \"etcd:2379\" is not the address of an etcd member",
            ),
            (etcd("{endpoints: ['https://etcd']}"), "is not the address of an etcd member"),
            (etcd("{endpoints: ['http://etcd:2379']}"), "\"http://etcd:2379\" is not on this host"),
            (etcd("{endpoints: ['http://127.0.0.1:1'], tls: {}}"), "is not reached over TLS"),
            (
                etcd("{endpoints: ['https://e:1'], prefix: tidegate}"),
                "etcd.prefix: \"tidegate\" is no prefix of keys",
            ),
            (
                etcd("{endpoints: ['https://e:1'], user: a}"),
                "control.serve.store.etcd: `user` and `password` go together",
            ),
            (etcd("{endpoints: ['https://e:1'], tls: {cert: a}}"), "etcd.tls: `cert` and `key` go together"),
            (etcd("{endpoints: ['https://e:1'], lease: 1}"), "lease"),
            (
                format!(
                    "{{{tls}, advertise: '10.0.0.1:9902', store: {{etcd: {{endpoints: ['https://e:1']}}}}}}"
                ),
                "control.serve.tls: replicas prove to each other who they are",
            ),
            (
                "{advertise: '0.0.0.0:1', store: {etcd: {endpoints: ['https://e:1']}}}".to_owned(),
                "control.serve.advertise: nobody can connect to 0.0.0.0:1",
            ),
        ] {
            let found = problems(&serve);
            assert!(found.iter().any(|problem| problem.contains(expected)), "{serve}: {found:#?}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let etcd = "{endpoints: ['https://e:1'], user: a, password: hunter2}";
        let loaded =
            parse(&format!("control: {{serve: {{advertise: 'a:1', store: {{etcd: {etcd}}}}}}}\n"), "c.yaml")
                .unwrap();
        let config = loaded.config().unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(config).unwrap().contains("hunter2"));
    }
}
