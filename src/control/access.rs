//! Who calls, and what they may. Rules add up, and what none grants is refused. Without rules, which is so on loopback only,
//! everybody may everything.

use std::sync::Arc;

use http::HeaderMap;

use super::{
    instance::{Instance, Owner},
    peers::own_id,
    refused::{Reason, Refused},
};
use crate::{
    api::guard::{bearer, is_token},
    identity::{self, SpiffeId},
    snapshot::{
        Current,
        control::{Register, Rule, ServicePattern, Who},
    },
};

pub(crate) struct Access {
    rules: Arc<[Rule]>,
    /// Where it has replicas: who this process is, and they are.
    replicas: Option<Current>,
}

/// Somebody, with all that is granted to them.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) owner: Owner,
    grants: Grants,
    is_replica: bool,
}

#[derive(Clone, Debug)]
enum Grants {
    Everything,
    Some { rules: Arc<[Rule]>, granted: Vec<usize>, own: Option<String> },
}

impl Access {
    pub(crate) fn new(rules: Vec<Rule>) -> Access {
        Access { rules: rules.into(), replicas: None }
    }

    /// With replicas that have the SPIFFE ID of this process.
    pub(crate) fn with_replicas(self, current: Current) -> Access {
        Access { replicas: Some(current), ..self }
    }

    /// `certificate` is what the connection has proved.
    ///
    /// # Errors
    ///
    /// No rule knows them: `unauthenticated`.
    pub(crate) fn caller(
        &self,
        certificate: Option<&identity::Caller>,
        headers: &HeaderMap,
    ) -> Result<Caller, Refused> {
        if self.rules.is_empty() {
            return Ok(Caller { owner: Owner::Anybody, grants: Grants::Everything, is_replica: true });
        }
        let id = certificate.and_then(|caller| caller.id.as_ref());
        let token = bearer(headers);
        let granted = self.rules.iter().enumerate().filter(|(_, rule)| match &rule.who {
            Who::Spiffe(patterns) => id.is_some_and(|id| patterns.iter().any(|pattern| pattern.matches(id))),
            Who::Token(known) => token.is_some_and(|token| is_token(token, known)),
        });
        let granted: Vec<usize> = granted.map(|(index, _)| index).collect();
        let by_token = granted.iter().find(|index| matches!(self.rules[**index].who, Who::Token(_)));
        let is_replica = id.is_some() && self.replicas.as_ref().and_then(own_id).as_ref() == id;
        // Whoever shows a token speaks as its holder, whatever the connection proves beside.
        let owner = match (by_token, id) {
            (Some(rule), _) => Owner::Token(*rule),
            (None, Some(id)) if !granted.is_empty() || is_replica => Owner::Spiffe(id.to_string().into()),
            (None, id) => return Err(unknown(token.is_some(), id)),
        };
        let own = id.and_then(own_service);
        Ok(Caller { owner, grants: Grants::Some { rules: self.rules.clone(), granted, own }, is_replica })
    }

    /// Whether this comes with credentials that a rule knows, where there are rules.
    pub(crate) fn is_proven(&self, certificate: Option<&identity::Caller>, headers: &HeaderMap) -> bool {
        !self.rules.is_empty() && self.caller(certificate, headers).is_ok()
    }
}

impl Caller {
    /// This process itself, which does what its own configuration says.
    pub(crate) fn gateway() -> Caller {
        Caller { owner: Owner::Gateway, grants: Grants::Everything, is_replica: false }
    }

    /// # Errors
    ///
    /// `not_yours`: it is no replica of this control plane.
    pub(crate) fn check_replica(&self) -> Result<(), Refused> {
        if self.is_replica {
            return Ok(());
        }
        let hint = "which have the same SPIFFE ID";
        Err(Reason::NotYours.because(format!(
            "this is for replicas of this control plane ({hint}), and you are {}",
            self.owner
        )))
    }

    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_register(&self, name: &str) -> Result<(), Refused> {
        let may = |rule: &Rule, own: Option<&str>| match &rule.register {
            Register::Nothing => false,
            Register::Own => own == Some(name),
            Register::Services(patterns) => matches(patterns, name),
        };
        if self.is_granted(may) {
            return Ok(());
        }
        let hint = "add `register` to a rule of `control.serve.authorize`";
        Err(Reason::NotYours.because(format!("{} may not register {name:?} ({hint})", self.owner)))
    }

    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_discover(&self, name: &str) -> Result<(), Refused> {
        if self.may_discover(name) {
            return Ok(());
        }
        let hint = "add `discover` to a rule of `control.serve.authorize`";
        Err(Reason::NotYours.because(format!("{} may not see {name:?} ({hint})", self.owner)))
    }

    pub(crate) fn may_discover(&self, name: &str) -> bool {
        self.is_granted(|rule, _| matches(&rule.discover, name))
    }

    /// A gateway that is to take this configuration.
    ///
    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_join(&self, config: &str) -> Result<(), Refused> {
        if self.is_granted(|rule, _| matches(&rule.join, config)) {
            return Ok(());
        }
        let hint = "add `join` to a rule of `control.serve.authorize`";
        Err(Reason::NotYours.because(format!("{} may not take {config:?} ({hint})", self.owner)))
    }

    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_configure(&self, config: &str) -> Result<(), Refused> {
        if self.is_granted(|rule, _| matches(&rule.configure, config)) {
            return Ok(());
        }
        let hint = "add `configure` to a rule of `control.serve.authorize`";
        Err(Reason::NotYours.because(format!("{} may not change {config:?} ({hint})", self.owner)))
    }

    /// Pause, resume and abort: for operators, and for whoever may have begun it.
    ///
    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_lead(&self, config: &str) -> Result<(), Refused> {
        if self.operates() { Ok(()) } else { self.check_configure(config) }
    }

    /// Whether they may see what stands in a configuration.
    pub(crate) fn may_read(&self, config: &str) -> bool {
        let may = |rule: &Rule, _: Option<&str>| {
            rule.operates || matches(&rule.configure, config) || matches(&rule.join, config)
        };
        self.is_granted(may)
    }

    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_read(&self, config: &str) -> Result<(), Refused> {
        if self.may_read(config) {
            return Ok(());
        }
        let hint = "add `configure`, `join` or `operate` to a rule of `control.serve.authorize`";
        Err(Reason::NotYours.because(format!("{} may not see {config:?} ({hint})", self.owner)))
    }

    /// Whether they may see the gateways that take a configuration.
    pub(crate) fn may_see_gateways(&self, config: &str) -> bool {
        self.is_granted(|rule, _| rule.operates || matches(&rule.configure, config))
    }

    /// # Errors
    ///
    /// `not_yours`.
    pub(crate) fn check_operate(&self) -> Result<(), Refused> {
        if self.operates() {
            return Ok(());
        }
        let hint = "add `operate: true` to a rule of `control.serve.authorize`";
        Err(Reason::NotYours.because(format!("this is for operators, which {} is not ({hint})", self.owner)))
    }

    /// # Errors
    ///
    /// `not_yours`: somebody else has registered it.
    pub(crate) fn check_owns(&self, instance: &Instance) -> Result<(), Refused> {
        // What was registered before there were rules belongs to whoever may register the service.
        if instance.owner == self.owner || instance.owner == Owner::Anybody || self.operates() {
            return Ok(());
        }
        let why = format!("{} was registered by {}, and you are {}", instance.id, instance.owner, self.owner);
        Err(Reason::NotYours.because(format!("{why} (choose another `id`)")))
    }

    fn operates(&self) -> bool {
        self.is_granted(|rule, _| rule.operates)
    }

    fn is_granted(&self, may: impl Fn(&Rule, Option<&str>) -> bool) -> bool {
        match &self.grants {
            Grants::Everything => true,
            Grants::Some { rules, granted, own } => {
                granted.iter().any(|index| may(&rules[*index], own.as_deref()))
            }
        }
    }
}

/// The service that an ID's path names: `/payments` is `payments`, `/shop/cart` is `cart.shop`. A segment that is no label
/// names nothing: `/cart.shop` must not be `/shop/cart`.
pub(crate) fn own_service(id: &SpiffeId) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let mut segments: Vec<&str> = id.path().split('/').skip(1).collect();
    segments.reverse();
    let is_name = segments.iter().all(|segment| !segment.is_empty() && segment.bytes().all(is_plain));
    (is_name && !segments.is_empty()).then(|| segments.join("."))
}

fn matches(patterns: &[ServicePattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

fn unknown(has_token: bool, id: Option<&SpiffeId>) -> Refused {
    let why = match (has_token, id) {
        (true, _) => "no rule of `control.serve.authorize` has this token".to_owned(),
        (false, Some(id)) => format!("no rule of `control.serve.authorize` names {id}"),
        (false, None) => "come with a certificate, or with `Authorization: Bearer TOKEN`".to_owned(),
    };
    Reason::Unauthenticated.because(why)
}

/// A rule for whoever has `token`, as tests want it.
#[cfg(test)]
pub(crate) fn rule(token: &str, register: Register, discover: &[&str], operates: bool) -> Rule {
    let discover = discover.iter().map(|name| ServicePattern::parse(name).unwrap()).collect();
    let who = Who::Token(crate::config::Secret::new(token));
    Rule { who, register, discover, join: Vec::new(), configure: Vec::new(), operates }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;
    use crate::{control::instance::tests::instance, identity::IdPattern};

    fn certificate(id: &str) -> identity::Caller {
        identity::Caller {
            id: Some(id.parse().unwrap()),
            until: std::time::SystemTime::now(),
            subject: String::new(),
            hash: String::new(),
            uris: vec![id.to_owned()],
            dns: Vec::new(),
        }
    }

    fn token(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    fn services(names: &[&str]) -> Vec<ServicePattern> {
        names.iter().map(|name| ServicePattern::parse(name).unwrap()).collect()
    }

    fn access() -> Access {
        let mesh = Who::Spiffe(vec![IdPattern::parse("spiffe://mesh.local/*").unwrap()]);
        let deploy = Who::Spiffe(vec![IdPattern::parse("spiffe://mesh.local/shop/deploy").unwrap()]);
        Access::new(vec![
            Rule {
                who: mesh,
                register: Register::Own,
                discover: services(&["*"]),
                join: services(&["mesh"]),
                configure: Vec::new(),
                operates: false,
            },
            Rule {
                who: deploy,
                register: Register::Services(services(&["*.shop"])),
                discover: Vec::new(),
                join: Vec::new(),
                configure: services(&["*.shop"]),
                operates: false,
            },
            rule("ci", Register::Nothing, &[], true),
        ])
    }

    #[test]
    fn an_id_names_its_own_service() {
        for (id, own) in [
            ("spiffe://mesh.local/payments", Some("payments")),
            ("spiffe://mesh.local/shop/cart", Some("cart.shop")),
            ("spiffe://mesh.local/cart.shop", None),
            ("spiffe://mesh.local/Payments", None),
            ("spiffe://mesh.local", None),
        ] {
            assert_eq!(own_service(&id.parse().unwrap()).as_deref(), own, "{id}");
        }
    }

    #[test]
    fn rules_add_up_and_grant_no_more() {
        let access = access();
        let cart =
            access.caller(Some(&certificate("spiffe://mesh.local/shop/cart")), &HeaderMap::new()).unwrap();
        assert!(cart.check_register("cart.shop").is_ok() && cart.check_discover("anything").is_ok());
        assert_eq!(cart.check_register("payments").unwrap_err().reason, Reason::NotYours);
        assert!(cart.check_operate().is_err());
        assert_eq!(cart.check_replica().unwrap_err().reason, Reason::NotYours);
        let deploy = certificate("spiffe://mesh.local/shop/deploy");
        let deploy = access.caller(Some(&deploy), &HeaderMap::new()).unwrap();
        assert!(deploy.check_register("deploy.shop").is_ok() && deploy.check_register("cart.shop").is_ok());
        assert!(deploy.check_register("payments").is_err());
        let ci = access.caller(None, &token("ci")).unwrap();
        assert!(ci.check_operate().is_ok() && ci.check_register("a").is_err() && !ci.may_discover("a"));
        assert_eq!(ci.owner, Owner::Token(2));
    }

    #[test]
    fn whom_no_rule_knows_is_refused() {
        let access = access();
        for (certificate, headers, says) in [
            (None, HeaderMap::new(), "come with a certificate"),
            (None, token("guess"), "has this token"),
            (Some(certificate("spiffe://other.local/a")), HeaderMap::new(), "names spiffe://other.local/a"),
        ] {
            let refused = access.caller(certificate.as_ref(), &headers).unwrap_err();
            assert_eq!(refused.reason, Reason::Unauthenticated);
            assert!(refused.why.contains(says), "{}", refused.why);
            assert!(!access.is_proven(certificate.as_ref(), &headers));
        }
    }

    #[test]
    fn only_whoever_registered_it_or_an_operator_may_change_it() {
        let access = access();
        let who = |id: &str| access.caller(Some(&certificate(id)), &HeaderMap::new()).unwrap();
        let own = Instance { owner: who("spiffe://mesh.local/a").owner, ..instance("a", 1) };
        assert!(who("spiffe://mesh.local/a").check_owns(&own).is_ok());
        assert_eq!(who("spiffe://mesh.local/b").check_owns(&own).unwrap_err().reason, Reason::NotYours);
        assert!(access.caller(None, &token("ci")).unwrap().check_owns(&own).is_ok());
    }

    #[test]
    fn configurations_are_taken_changed_and_seen_by_whom_they_are_granted_to() {
        let access = access();
        let who = |id: &str| access.caller(Some(&certificate(id)), &HeaderMap::new()).unwrap();
        let gateway = who("spiffe://mesh.local/a");
        assert!(gateway.check_join("mesh").is_ok() && gateway.check_read("mesh").is_ok());
        for refused in [
            gateway.check_join("edge"),
            gateway.check_configure("mesh"),
            gateway.check_lead("mesh"),
            gateway.check_read("edge"),
        ] {
            assert_eq!(refused.unwrap_err().reason, Reason::NotYours);
        }
        assert!(!gateway.may_see_gateways("mesh"));
        let deploy = who("spiffe://mesh.local/shop/deploy");
        assert!(deploy.check_configure("edge.shop").is_ok() && deploy.check_lead("edge.shop").is_ok());
        assert!(deploy.may_see_gateways("edge.shop") && deploy.check_configure("edge").is_err());
        let operator = access.caller(None, &token("ci")).unwrap();
        assert!(operator.check_lead("edge").is_ok() && operator.may_read("edge"));
        assert!(operator.check_configure("edge").is_err() && operator.check_join("edge").is_err());
    }

    #[test]
    fn without_rules_everybody_may_everything() {
        let anybody = Access::new(Vec::new()).caller(None, &HeaderMap::new()).unwrap();
        assert!(anybody.check_register("a").is_ok() && anybody.check_operate().is_ok());
        assert!(anybody.check_replica().is_ok());
    }
}
