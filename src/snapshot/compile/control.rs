//! `control`: whose registry is followed and what is announced there.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use super::Compiler;
use crate::{
    config::{self, Path},
    names::SystemResolver,
    upstream::{self, Address, Upstream, check_service},
};

/// Within which an instance has to be heard of again.
const TTL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// As much as a control plane takes.
const MOST_TAGS: usize = 32;
const MOST_PAIRS: usize = 32;
const LONGEST_WORD: usize = 64;
const LONGEST_VALUE: usize = 512;
const LONGEST_NODE: usize = 128;

impl Compiler<'_> {
    pub(super) fn control(&mut self) {
        let at = Path::root().key("control");
        let Some(control) = &self.config.control else {
            self.registers_nowhere(&at);
            return;
        };
        if let Some(join) = &control.join {
            if control.serve.is_some() {
                let message = "goes with no `serve`: endpoints come from the registry that is served here";
                self.refuse_with_hint(&at.key("join"), message, "remove one of the two");
            }
            self.join(join, &at.key("join"));
        }
        if !control.has_registry() {
            self.registers_nowhere(&at);
        }
        for (index, registration) in control.register.iter().enumerate() {
            self.registration(registration, &at.key("register").index(index));
        }
    }

    fn registers_nowhere(&mut self, at: &Path) {
        if self.sources.is_doubtful(at) {
            return;
        }
        let hint = "add `control: {join: {servers: [\"control:9902\"]}}`";
        let message = "there is no control plane to register at";
        if self.config.control.as_ref().is_some_and(|control| !control.register.is_empty()) {
            self.refuse_with_hint(&at.key("register"), message, hint);
        }
        let inbound = self.config.sidecar.as_ref().and_then(|sidecar| sidecar.inbound.as_ref());
        if inbound.is_some_and(|inbound| inbound.register) {
            let at = Path::root().key("sidecar").key("inbound").key("register");
            self.refuse_with_hint(&at, message, hint);
        }
    }

    fn join(&mut self, join: &config::Join, at: &Path) {
        if join.protocol == config::ControlProtocol::Xds {
            let message = "`protocol` is not supported yet: only control planes of ours are followed";
            self.refuse_with_hint(
                &at.key("protocol"),
                message,
                "remove it, and join a control plane of ours",
            );
        }
        self.received(join, at);
        if join.servers.is_empty() && !self.sources.is_doubtful(&at.key("servers")) {
            self.refuse_with_hint(
                &at.key("servers"),
                "names nobody to join",
                "add `servers: [\"control:9902\"]`",
            );
        }
        for (index, server) in join.servers.iter().enumerate() {
            let at = at.key("servers").index(index);
            match server.parse() {
                Ok(Address::Ip(_) | Address::Host { .. }) => {}
                Ok(Address::Unix(_)) => {
                    self.refuse(&at, format!("{server:?} is a socket's file, not `host:port`"))
                }
                Err(_) if !server.contains(':') => {
                    self.refuse_with_hint(
                        &at,
                        format!("{server:?} has no port"),
                        format!("try \"{server}:9902\""),
                    );
                }
                Err(bad) => self.refuse(&at, bad.to_string()),
            }
        }
        self.join_security(join, at);
        self.words("labels", &join.labels, at);
        let is_node = |node: &str| {
            !node.is_empty() && node.len() <= LONGEST_NODE && node.bytes().all(|b| b.is_ascii_graphic())
        };
        if let Some(node) = &join.node
            && !is_node(node)
        {
            let message = "is not the name of a node (1 to 128 printable characters without spaces)";
            self.refuse_unless_doubtful(&at.key("node"), format!("{node:?} {message}"));
        }
    }

    /// What a configuration is called that is to be received, and what it may read.
    fn received(&mut self, join: &config::Join, at: &Path) {
        for (index, folder) in join.secrets.iter().enumerate() {
            if folder.parent().is_none() {
                let message = format!("{:?} opens all that this process can read", folder.display());
                let hint = "name a folder that holds nothing but secrets for it";
                self.refuse_with_hint(&at.key("secrets").index(index), message, hint);
            }
        }
        let Some(name) = &join.config else {
            if !join.secrets.is_empty() && !self.sources.is_doubtful(&at.key("config")) {
                let message = "is for received configurations, and none is asked for";
                self.refuse_with_hint(&at.key("secrets"), message, "add `config`, or remove it");
            }
            return;
        };
        if check_service(name).is_err() {
            let message = format!("{name:?} is not the name of a configuration");
            let hint = "lower-case letters, digits, `-` and `_`, at most 128 characters";
            self.refuse_with_hint(&at.key("config"), message, hint);
        }
        if self.config.state_dir.is_none() && !self.sources.is_doubtful(&Path::root().key("state_dir")) {
            let message = "without `state_dir` no configuration is held: a restart while no control plane can be \
                           reached would find none";
            self.warn("configuration_not_kept", &at.key("config"), message, "add `state_dir`");
        }
    }

    /// Whoever answers there says where requests go.
    fn join_security(&mut self, join: &config::Join, at: &Path) {
        let is_open = join.servers.iter().find(|server| !is_loopback(server));
        match (&join.tls, is_open) {
            (Some(tls), _) => {
                let upstream = config::Upstream {
                    endpoints: join.servers.iter().map(|server| config::Endpoint::at(server, 1)).collect(),
                    protocol: config::UpstreamProtocol::Http2,
                    tls: Some(tls.clone()),
                    ..config::Upstream::default()
                };
                self.upstream_tls(&upstream, at);
                let upstream = super::upstreams::with_full_paths(&upstream, self.sources, at);
                let offline = upstream::Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
                let refused = Upstream::new("control", &upstream, &offline, None).err().unwrap_or_default();
                for refusal in refused.into_iter().filter(|refusal| refusal.path.starts_with("tls")) {
                    self.refuse_unless_doubtful(&super::upstreams::below(at, &refusal.path), refusal.why);
                }
            }
            (None, Some(server)) if !self.sources.is_doubtful(&at.key("tls")) => {
                let message =
                    format!("{server} is not on this host, and whoever answers there says where requests go");
                let hint =
                    "add `tls: {verify: {spiffe: [\"spiffe://mesh.local/control\"]}, client_identity: true}`";
                self.refuse_with_hint(at, message, hint);
            }
            (None, _) => {}
        }
    }

    fn registration(&mut self, registration: &config::Registration, at: &Path) {
        let config::Registration { service, upstream, advertise, tags, metadata, weight: _, ttl } =
            registration;
        if let Err(why) = check_service(service) {
            self.refuse_unless_doubtful(&at.key("service"), format!("{service:?} {why}"));
        }
        if let Some(name) = upstream
            && !self.config.upstreams.contains_key(name)
            && !self.sources.left_out(&Path::root().key("upstreams")).contains(&name.as_str())
        {
            let near = self.near(name, self.config.upstreams.keys().map(String::as_str)).map(str::to_owned);
            let message = format!("names upstream `{name}`, which does not exist");
            match near {
                Some(near) => {
                    self.refuse_with_hint(&at.key("upstream"), message, format!("did you mean `{near}`?"));
                }
                None => self.refuse_unless_doubtful(&at.key("upstream"), message),
            }
        }
        self.advertised(advertise, &at.key("advertise"));
        if !TTL.contains(&Duration::from(*ttl)) {
            self.refuse_with_hint(
                &at.key("ttl"),
                format!("{ttl} is not between 1s and 24h"),
                "30s is the default",
            );
        }
        if let Some(index) = tags.iter().position(|tag| tag.is_empty() || tag.len() > LONGEST_WORD) {
            let message = "a tag has 1 to 64 characters";
            self.refuse_unless_doubtful(&at.key("tags").index(index), message);
        }
        if tags.len() > MOST_TAGS {
            self.refuse(&at.key("tags"), format!("more than {MOST_TAGS} tags are not taken"));
        }
        self.words("metadata", metadata, at);
    }

    pub(super) fn advertised(&mut self, advertise: &str, at: &Path) {
        match advertise.parse() {
            Ok(Address::Ip(address)) if address.ip().is_unspecified() => {
                let hint = "name the address at which others reach this host";
                self.refuse_with_hint(at, format!("nobody can connect to {address}"), hint);
            }
            Ok(Address::Ip(_) | Address::Host { .. }) => {}
            Ok(Address::Unix(_)) => self.refuse(at, "a socket's file cannot be reached from elsewhere"),
            Err(bad) => self.refuse_unless_doubtful(at, bad.to_string()),
        }
    }

    fn words(&mut self, key: &str, pairs: &BTreeMap<String, String>, at: &Path) {
        let at = at.key(key);
        if pairs.len() > MOST_PAIRS {
            self.refuse(&at, format!("more than {MOST_PAIRS} pairs are not taken"));
        }
        for (name, value) in pairs {
            if name.is_empty() || name.len() > LONGEST_WORD {
                self.refuse(&at.key(name), "a key has 1 to 64 characters");
            }
            if value.len() > LONGEST_VALUE {
                self.refuse(&at.key(name), "a value has at most 512 bytes");
            }
        }
    }
}

pub(super) fn is_loopback(server: &str) -> bool {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use crate::{config::parse, filter::Live, snapshot::compile};

    fn problems(control: &str) -> Vec<String> {
        let yaml = format!(
            "control: {control}\nlisteners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{upstream: users}}]\n\
             upstreams: {{users: {{endpoints: [{{registry: users}}]}}}}\n"
        );
        let loaded = parse(&yaml, "g.yaml").unwrap_or_else(|problems| panic!("{problems}"));
        compile(loaded, &Live::offline()).err().into_iter().flatten().map(|p| p.to_string()).collect()
    }

    #[test]
    fn a_gateway_joins_with_a_server_alone() {
        assert_eq!(problems("{join: {servers: ['127.0.0.1:9902', 'localhost:9902']}}"), [""; 0]);
        let registers = "{join: {servers: ['[::1]:9902'], token: x, labels: {a: b}, node: n, wait: 0s}, register: \
                         [{service: edge, advertise: '10.0.0.1:80', upstream: users, ttl: 5s}]}";
        assert_eq!(problems(registers), [""; 0]);
    }

    #[test]
    fn who_is_given_a_configuration_needs_no_listener_and_no_route_of_its_own() {
        let compiled = |control: &str, more: &str| {
            compile(parse(&format!("control: {control}\n{more}"), "g.yaml").unwrap(), &Live::offline())
        };
        let takes = "{join: {servers: ['127.0.0.1:1'], config: edge, secrets: [/run/secrets]}}";
        for more in ["", "listeners: [{address: '127.0.0.1:0'}]\n"] {
            let plan = compiled(takes, more).unwrap_or_else(|problems| panic!("{problems}"));
            let told = plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert!(told.iter().any(|told| told.contains("no configuration is held")), "{told:?}");
        }
        let told = compiled("{join: {servers: ['127.0.0.1:1']}}", "").err().unwrap().to_string();
        assert!(told.contains("no listeners, so nothing would be served"), "{told}");
        let received = crate::config::ReceivedConfig {
            name: "edge".into(),
            version: 1,
            documents: Vec::new(),
            secrets: Default::default(),
        };
        let additions = crate::config::Additions { received: Some(received.into()), ..Default::default() };
        let loaded = crate::config::parse_beside(&format!("control: {takes}\n"), "g.yaml", &additions);
        let told = compile(loaded.unwrap(), &Live::offline()).err().unwrap().to_string();
        assert!(told.contains("no listeners, so nothing would be served"), "{told}");
    }

    #[test]
    fn what_cannot_work_is_refused_where_it_stands() {
        for (control, expected) in [
            (
                "{}",
                "g.yaml:4:44: upstreams.users.endpoints[0].registry: there is no control plane to ask (add ",
            ),
            ("{join: {servers: []}}", "control.join.servers: names nobody to join"),
            (
                "{join: {servers: [control]}}",
                "control.join.servers[0]: \"control\" has no port (try \"control:9902\")",
            ),
            ("{join: {servers: ['unix:/run/x']}}", "is a socket's file"),
            (
                "{join: {servers: ['10.0.0.1:9902'], token: x}}",
                "control.join: 10.0.0.1:9902 is not on this host",
            ),
            ("{join: {servers: ['control:9902']}}", "control:9902 is not on this host"),
            (
                "{join: {servers: ['10.0.0.1:9902'], tls: {}}}",
                "control.join.tls: needs a name or SPIFFE IDs to verify",
            ),
            (
                "{join: {servers: ['a:1'], tls: {verify: {spiffe: ['http://x']}}}}",
                "control.join.tls.verify.spiffe[0]: \"http://x\" is not a SPIFFE ID",
            ),
            (
                "{join: {servers: ['127.0.0.1:1'], config: Edge/x}}",
                "control.join.config: \"Edge/x\" is not the name of a configuration",
            ),
            (
                "{join: {servers: ['127.0.0.1:1'], secrets: [/x]}}",
                "control.join.secrets: is for received configurations, and none is asked for (add `config`",
            ),
            (
                "{join: {servers: ['127.0.0.1:1'], config: edge, secrets: [/]}}",
                "control.join.secrets[0]: \"/\" opens all that this process can read",
            ),
            ("{join: {servers: ['127.0.0.1:1'], protocol: xds}}", "`protocol` is not supported yet"),
            (
                "{join: {servers: ['127.0.0.1:1'], node: 'a b'}}",
                "control.join.node: \"a b\" is not the name of a node",
            ),
            ("{serve: true, join: {servers: ['127.0.0.1:1']}}", "control.join: goes with no `serve`"),
            (
                "{register: [{service: a, advertise: 'a:1'}]}",
                "control.register: there is no control plane to register at",
            ),
            (
                "{join: {servers: ['127.0.0.1:1']}, register: [{service: A, advertise: 'a:1'}]}",
                "capital letters",
            ),
            (
                "{join: {servers: ['127.0.0.1:1']}, register: [{service: a, advertise: 'a:1', upstream: user}]}",
                "register[0].upstream: names upstream `user`, which does not exist (did you mean `users`?)",
            ),
            (
                "{join: {servers: ['127.0.0.1:1']}, register: [{service: a, advertise: '0.0.0.0:1'}]}",
                "nobody can connect to 0.0.0.0:1",
            ),
            (
                "{join: {servers: ['127.0.0.1:1']}, register: [{service: a, advertise: 'a:1', ttl: 0s}]}",
                "register[0].ttl: 0s is not between 1s and 24h",
            ),
        ] {
            let found = problems(control);
            assert!(found.iter().any(|problem| problem.contains(expected)), "{control}: {found:#?}");
        }
    }
}
