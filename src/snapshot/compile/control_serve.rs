//! `control.serve`: what the control plane of this process allows, and whom.

use std::time::Duration;

use super::{Compiler, PlannedTls, listeners::listen_address};
use crate::{
    config::{self, ClientAuthMode, ClientTrust, HoldRule, Path, RegisterGrant},
    identity::IdPattern,
    snapshot::control::{Register, Rule, ServicePattern, Who},
    tls::Speaks,
};

/// A control plane that is not served yet.
pub struct PlannedControl {
    pub(in crate::snapshot) rules: Vec<Rule>,
    pub(in crate::snapshot) tls: Option<PlannedTls>,
}

impl Compiler<'_> {
    pub(super) fn control_serve(&mut self) -> Option<PlannedControl> {
        let serve = self.config.serves_control()?;
        let at = Path::root().key("control").key("serve");
        self.control_address(serve, &at);
        let tls = serve.tls.as_ref().and_then(|tls| self.tls(tls, Speaks::Http, &[], &at.key("tls")));
        if serve.tls.as_ref().is_some_and(|tls| !tls.isolated_hosts.is_empty()) {
            let at = at.key("tls").key("isolated_hosts");
            self.refuse_with_hint(&at, "there is one host here, the control plane", "remove it");
        }
        self.control_store(serve, &at);
        self.registry(&serve.registry, &at.key("registry"));
        if let Some((key, what, hint)) = serve.configs.rollout.fault() {
            let at = at.key("configs").key("rollout").key(key);
            if !self.sources.is_doubtful(&at) {
                self.refuse_with_hint(&at, what, hint);
            }
        }
        let rules = serve.authorize.iter().enumerate();
        let rules =
            rules.filter_map(|(index, rule)| self.rule(rule, serve, &at.key("authorize").index(index)));
        let rules = rules.collect();
        if let Some(issue) = &serve.issue {
            self.issue(issue, serve, &at);
        }
        Some(PlannedControl { rules, tls })
    }

    /// What is signed makes its owner a member of the mesh: all that proves who asks has to be there.
    fn issue(&mut self, issue: &config::Issue, serve: &config::ControlServe, at: &Path) {
        let issues = at.key("issue");
        self.svid_ttl(issue.ttl.into(), &issues.key("ttl"));
        let identity = Path::root().key("identity");
        let has_ca = self.config.identity.as_ref().is_some_and(|identity| identity.ca.is_some());
        let auth = serve.tls.as_ref().map(|tls| &tls.client_auth);
        let proves = auth.is_some_and(|auth| {
            auth.mode == ClientAuthMode::Request && auth.trust == Some(ClientTrust::Spiffe)
        });
        for (is_there, doubtful, message, hint) in [
            (
                has_ca,
                identity.clone(),
                "needs `identity.ca`, the CA that signs",
                "`tidegate ca init` makes one; add `identity: {trust_domain: mesh.local, ca: ca}`",
            ),
            (
                self.config.state_dir.is_some(),
                Path::root().key("state_dir"),
                "needs `state_dir`, where it is written down which tokens are used",
                "add `state_dir: /var/lib/tidegate`",
            ),
            (
                proves,
                at.key("tls"),
                "needs TLS that asks for SVIDs, and does not require them: whoever comes with a token has none",
                "add `control.serve.tls: {certificates: [identity], client_auth: {mode: request, trust: spiffe}}`",
            ),
            (
                !serve.authorize.is_empty(),
                at.key("authorize"),
                "needs `authorize`: without rules anybody could make a token for anybody's ID",
                "add a rule with `operate: true` for whoever makes tokens",
            ),
        ] {
            if !is_there && !self.sources.is_doubtful(&doubtful) {
                self.refuse_with_hint(&issues, message, hint);
            }
        }
    }

    fn control_address(&mut self, serve: &config::ControlServe, at: &Path) {
        let address = match listen_address(&serve.address) {
            Ok(address) => address,
            Err(message) => return self.refuse(&at.key("address"), message),
        };
        let lacks = |key: &str, is_there: bool| !is_there && !self.sources.is_doubtful(&at.key(key));
        let (tls, rules) =
            (lacks("tls", serve.tls.is_some()), lacks("authorize", !serve.authorize.is_empty()));
        if !address.ip().is_loopback() && (tls || rules) {
            let message = format!(
                "{} is not a loopback address, and anyone who reaches it could register a service",
                serve.address
            );
            let hint = "set `tls` and `authorize` beside it, or listen on 127.0.0.1";
            self.refuse_with_hint(&at.key("address"), message, hint);
        }
    }

    pub(super) fn control_beside_admin(&mut self, control: &config::ControlServe, at: &Path) {
        let config::Admin::On(admin) = &self.config.admin else { return };
        if admin.address == control.address && !control.address.ends_with(":0") {
            let hint = "give each an address of its own";
            self.refuse_with_hint(at, "the admin API listens there already", hint);
        }
    }

    fn registry(&mut self, registry: &config::RegistrySettings, at: &Path) {
        let ttl = registry.ttl;
        self.refuse_zero(&at.key("ttl").key("min"), ttl.min);
        if !(ttl.min..=ttl.max).contains(&ttl.default) && !self.sources.is_doubtful(&at.key("ttl")) {
            let config::TtlRange { default, min, max } = ttl;
            let message = format!("the default of {default} is not between `min`, {min}, and `max`, {max}");
            self.refuse(&at.key("ttl"), message);
        }
        if let HoldRule::On(hold) = &registry.hold {
            self.refuse_zero(&at.key("hold").key("for"), hold.r#for);
        }
        let window = registry.flapping.window;
        self.refuse_zero(&at.key("flapping").key("window"), window);
        if registry.flapping.turns.get() > 1000 || Duration::from(window) > Duration::from_secs(3600) {
            let message = "this is remembered of each instance: at most 1000 turns in an hour";
            self.refuse(&at.key("flapping"), message);
        }
    }

    fn rule(&mut self, rule: &config::Authorize, serve: &config::ControlServe, at: &Path) -> Option<Rule> {
        let who = self.who(rule, serve, at);
        let register = match &rule.register {
            None => Register::Nothing,
            Some(RegisterGrant::Word(_)) => {
                if rule.spiffe.is_empty() && !self.sources.is_doubtful(&at.key("spiffe")) {
                    let hint = "name the services, such as `register: [\"*.shop\"]`";
                    self.refuse_with_hint(&at.key("register"), "a token has no service of its own", hint);
                }
                Register::Own
            }
            Some(RegisterGrant::Names(names)) => {
                Register::Services(self.services(names, &at.key("register")))
            }
        };
        let discover = self.services(&rule.discover, &at.key("discover"));
        let join = self.services(&rule.join, &at.key("join"));
        let configure = self.services(&rule.configure, &at.key("configure"));
        let grants_something = register != Register::Nothing
            || rule.operate
            || [&rule.discover, &rule.join, &rule.configure].iter().any(|names| !names.is_empty());
        if !grants_something && !self.sources.is_doubtful(at) {
            let hint = "add `register`, `discover`, `join`, `configure` or `operate`";
            self.refuse_with_hint(at, "this rule grants nothing", hint);
        }
        Some(Rule { who: who?, register, discover, join, configure, operates: rule.operate })
    }

    fn who(&mut self, rule: &config::Authorize, serve: &config::ControlServe, at: &Path) -> Option<Who> {
        match (&rule.token, rule.spiffe.is_empty()) {
            (Some(token), true) => return Some(Who::Token(token.clone())),
            (None, false) => {}
            (None, true) if self.sources.is_doubtful(at) => return None,
            _ => {
                let hint = "name whom it is for; what two may do is two rules";
                self.refuse_with_hint(at, "a rule is for one of `spiffe` and `token`", hint);
                return None;
            }
        }
        let trusts = serve.tls.as_ref().is_some_and(|tls| tls.client_auth.trust == Some(ClientTrust::Spiffe));
        let tls_at = Path::root().key("control").key("serve").key("tls");
        if !trusts && !self.sources.is_doubtful(&tls_at) {
            let hint = "add `control.serve.tls: {client_auth: {mode: request, trust: spiffe}}`";
            self.refuse_with_hint(&at.key("spiffe"), "nobody can prove a SPIFFE ID here", hint);
        }
        let mut ids = Vec::new();
        for (index, text) in rule.spiffe.iter().enumerate() {
            match IdPattern::parse(text) {
                Ok(id) => ids.push(id),
                Err(why) => self.refuse(&at.key("spiffe").index(index), why),
            }
        }
        Some(Who::Spiffe(ids))
    }

    fn services(&mut self, names: &[String], at: &Path) -> Vec<ServicePattern> {
        let mut patterns = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match ServicePattern::parse(name) {
                Ok(pattern) => patterns.push(pattern),
                Err(why) => self.refuse(&at.index(index), why),
            }
        }
        patterns
    }
}
