//! `authz`: who may do what, by rules over the caller, its token, and the request. It takes what is proved by others: the
//! listener's TLS for SPIFFE IDs, a `jwt` filter for claims; and where a rule asks for what nobody has proved, it does
//! not match.

mod rule;

use std::{fmt, sync::Arc, time::Instant};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::Path,
    filter::{
        Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason,
        builtin::authz::rule::{Rule, RuleOptions},
    },
    observe::{log::event, log_throttle::Sparse, metrics::Results},
    route,
};

/// Lets requests in by rules. `deny` wins over `allow`; what no rule is about is decided by `default`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Authz {
    /// What is done with requests that no rule matches. Default: deny.
    default: Option<Verdict>,
    /// What matches any of these is let in, unless a rule of `deny` matches too.
    #[serde(default)]
    allow: Vec<RuleOptions>,
    /// What matches any of these is refused.
    #[serde(default)]
    deny: Vec<RuleOptions>,
    /// Refuse nothing, but say in the log and count what would have been.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Deny,
    Allow,
}

impl Options for Authz {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid: Vec<Invalid> = self.contradiction(at).into_iter().collect();
        let mut compile = |rules: Vec<RuleOptions>, at: &Path| {
            let mut compiled = Vec::new();
            for (index, rule) in rules.into_iter().enumerate() {
                match rule.compile(&at.index(index)) {
                    Ok(rule) => compiled.push(rule),
                    Err(wrong) => invalid.extend(wrong),
                }
            }
            compiled
        };
        let allow = compile(self.allow, &at.key("allow"));
        let deny = compile(self.deny, &at.key("deny"));
        if !invalid.is_empty() {
            return Err(invalid);
        }
        Ok(Arc::new(Rules {
            default: self.default.unwrap_or(Verdict::Deny),
            allow,
            deny,
            dry_run: self.dry_run,
            place: live.place().into(),
            results: live.keep("authz", |_| live.metrics().access().authz(live.place())),
            told: Sparse::default(),
        }))
    }
}

impl Authz {
    /// Rules that cannot do what they seem to.
    fn contradiction(&self, at: &Path) -> Option<Invalid> {
        match (self.default, self.allow.is_empty(), self.deny.is_empty()) {
            (None, true, true) => Some(Invalid::new(
                at.clone(),
                "without rules nobody would be let in (name who may under `allow`, or write `default: deny` if nobody may)",
            )),
            (None, true, false) => Some(Invalid::new(
                at.clone(),
                "with `deny` alone nobody would be let in (add `default: allow`, or name who may under `allow`)",
            )),
            (Some(Verdict::Deny), true, false) => Some(Invalid::new(
                at.key("deny"),
                "with `default: deny` and no `allow`, `deny` changes nothing (add `allow`, or leave `deny` out)",
            )),
            (Some(Verdict::Allow), true, true) => Some(Invalid::new(
                at.clone(),
                "everyone is let in (name who may not under `deny`, or leave the filter out)",
            )),
            (Some(Verdict::Allow), false, _) => Some(Invalid::new(
                at.key("allow"),
                "with `default: allow`, `allow` changes nothing (leave it out, or make it `default: deny`)",
            )),
            _ => None,
        }
    }
}

/// The filter that lets in callers with these SPIFFE IDs, each as a rule of its own, and nobody else.
///
/// # Errors
///
/// Which of them are none.
pub fn let_in(ids: &[String], at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
    let mut allow = Vec::new();
    let mut invalid = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        let at = at.index(index);
        match RuleOptions::caller(id).compile(&at) {
            Ok(rule) => allow.push(rule),
            Err(wrong) => {
                invalid.extend(wrong.into_iter().map(|wrong| Invalid::new(at.clone(), wrong.message)))
            }
        }
    }
    if !invalid.is_empty() {
        return Err(invalid);
    }
    Ok(Arc::new(Rules {
        default: Verdict::Deny,
        allow,
        deny: Vec::new(),
        dry_run: false,
        place: live.place().into(),
        results: live.keep("authz", |_| live.metrics().access().authz(live.place())),
        told: Sparse::default(),
    }))
}

struct Rules {
    default: Verdict,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    dry_run: bool,
    place: Box<str>,
    results: Arc<Results<3>>,
    told: Sparse,
}

const ALLOWED: usize = 0;
const DENIED: usize = 1;
const WOULD_DENY: usize = 2;

/// What decided, as the operator would point at it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Allow(usize),
    Deny(usize),
    Default,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Allow(index) => write!(f, "allow[{index}]"),
            By::Deny(index) => write!(f, "deny[{index}]"),
            By::Default => f.write_str("default"),
        }
    }
}

impl Rules {
    fn decide(&self, exchange: &Exchange<'_>) -> (Verdict, By) {
        let request = route::Request {
            host: exchange.facts.host(),
            // Not the one that an earlier filter may have made of it.
            path: exchange.facts.path(),
            query: exchange.facts.target.query(),
            method: &exchange.request.method,
            headers: &exchange.request.headers,
        };
        let first = |rules: &[Rule]| rules.iter().position(|rule| rule.matches(&request, exchange));
        if let Some(index) = first(&self.deny) {
            return (Verdict::Deny, By::Deny(index));
        }
        match first(&self.allow) {
            Some(index) => (Verdict::Allow, By::Allow(index)),
            None => (self.default, By::Default),
        }
    }

    fn tell(&self, by: By, exchange: &Exchange<'_>) {
        // A dry run on a busy route must not flood the log.
        let Some(passed_over) = self.told.say(Instant::now()) else { return };
        let caller = exchange.facts.caller.as_ref().and_then(|caller| caller.id.as_ref());
        event!(
            Info,
            "authz would have refused a request",
            filter = self.place,
            rule = by,
            route = exchange.facts.route.as_deref().unwrap_or_default(),
            method = exchange.request.method,
            path = exchange.facts.path(),
            client = exchange.facts.client,
            caller = caller.map(ToString::to_string).unwrap_or_default(),
            others = passed_over,
        );
    }
}

impl Filter for Rules {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let (verdict, by) = self.decide(exchange);
        let result = match verdict {
            Verdict::Allow => ALLOWED,
            Verdict::Deny if self.dry_run => WOULD_DENY,
            Verdict::Deny => DENIED,
        };
        self.results.count(result);
        match result {
            WOULD_DENY => self.tell(by, exchange),
            _ => log::debug!("authz {}: {verdict:?} by {by}", self.place),
        }
        if result == DENIED {
            exchange.facts.explain(format!("authz.{by}"));
            return Err(Reason::Forbidden);
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use pingora_http::RequestHeader;
    use serde_json::json;

    use super::*;
    use crate::{filter::Facts, identity::Caller};

    fn build(yaml: &str, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let options: Authz = serde_yaml::from_str(yaml).unwrap();
        options.build(&Path::root(), live)
    }

    /// A request by whoever the test says.
    #[derive(Default)]
    struct Asking {
        id: Option<&'static str>,
        claims: Option<serde_json::Value>,
        method: Option<&'static str>,
        path: Option<&'static str>,
        headers: Vec<(&'static str, &'static str)>,
        client: Option<&'static str>,
        peer: Option<&'static str>,
    }

    impl Asking {
        fn is_let_in(&self, filter: &dyn Filter) -> bool {
            let path = self.path.unwrap_or("/");
            let mut request =
                RequestHeader::build(self.method.unwrap_or("GET"), b"/rewritten", None).unwrap();
            for (name, value) in &self.headers {
                request.append_header(*name, *value).unwrap();
            }
            let caller = self.id.map(|id| Caller {
                id: Some(id.parse().unwrap()),
                until: std::time::SystemTime::UNIX_EPOCH,
                subject: String::new(),
                hash: String::new(),
                uris: Vec::new(),
                dns: Vec::new(),
            });
            let address = |text: Option<&str>| text.unwrap_or("192.0.2.1").parse().unwrap();
            let mut facts = Facts {
                caller: caller.map(Arc::new),
                claims: self.claims.as_ref().map(|claims| Arc::new(claims.as_object().unwrap().clone())),
                target: path.parse().unwrap(),
                client: address(self.client),
                peer: address(self.peer),
                authority: Some(HeaderValue::from_static("a.example")),
                ..Facts::default()
            };
            let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
            match filter.on_request(&mut exchange) {
                Ok(Flow::Continue) => true,
                Err(Reason::Forbidden) => false,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn each_predicate_must_hold() {
        let yaml = "allow: [{spiffe: ['spiffe://mesh.local/orders'], claims: {role: admin}, methods: [GET], \
             path: /v1, headers: {x-a: '1'}, ip: [10.0.0.0/8], peer: [10.1.0.0/16]}]";
        let filter = build(yaml, &Live::offline()).unwrap();
        let right = || Asking {
            id: Some("spiffe://mesh.local/orders"),
            claims: Some(json!({"role": "admin"})),
            method: Some("GET"),
            path: Some("/v1/users"),
            headers: vec![("x-a", "1")],
            client: Some("10.2.3.4"),
            peer: Some("::ffff:10.1.2.3"),
        };
        assert!(right().is_let_in(&*filter));
        assert!(Asking { method: Some("HEAD"), ..right() }.is_let_in(&*filter));
        for wrong in [
            Asking { id: None, ..right() },
            Asking { id: Some("spiffe://mesh.local/pets"), ..right() },
            Asking { claims: None, ..right() },
            Asking { claims: Some(json!({"role": "user"})), ..right() },
            Asking { method: Some("POST"), ..right() },
            Asking { path: Some("/v10"), ..right() },
            Asking { headers: vec![], ..right() },
            Asking { client: Some("11.2.3.4"), ..right() },
            Asking { peer: Some("10.2.3.4"), ..right() },
        ] {
            assert!(!wrong.is_let_in(&*filter));
        }
    }

    #[test]
    fn deny_wins_and_the_default_decides_the_rest() {
        let both = "{allow: [{path: /a}], deny: [{methods: [DELETE]}]}";
        let open = "{default: allow, deny: [{methods: [DELETE]}]}";
        let shut = "{default: deny}";
        for (yaml, method, path, let_in) in [
            (both, "GET", "/a", true),
            (both, "DELETE", "/a", false),
            (both, "GET", "/b", false),
            (open, "GET", "/b", true),
            (open, "DELETE", "/b", false),
            (shut, "GET", "/a", false),
        ] {
            let filter = build(yaml, &Live::offline()).unwrap();
            let asking = Asking { method: Some(method), path: Some(path), ..Asking::default() };
            assert_eq!(asking.is_let_in(&*filter), let_in, "{yaml} {method} {path}");
        }
    }

    #[test]
    fn a_dry_run_refuses_nothing_and_counts_what_it_would_have() {
        let live = Live::offline().within("routes users[0]");
        let filter = build("{default: deny, dry_run: true}", &live).unwrap();
        assert!(Asking::default().is_let_in(&*filter));
        let metrics = live.metrics();
        let metrics = metrics.render(crate::observe::metrics::Format::Text, &metrics.gather(|| {}));
        let line = "tidegate_authz_total{filter=\"routes users[0]\",result=\"would_deny\"} 1";
        assert!(metrics.contains(line), "{metrics}");
    }

    #[test]
    fn refuses_rules_that_are_empty_or_change_nothing() {
        for (yaml, path, message) in [
            ("{}", "", "without rules nobody"),
            ("{deny: [{path: /a}]}", "", "with `deny` alone"),
            ("{default: deny, deny: [{path: /a}]}", "deny", "changes nothing"),
            ("{default: allow}", "", "everyone is let in"),
            ("{default: allow, allow: [{path: /a}]}", "allow", "changes nothing"),
            ("{allow: [{}]}", "allow[0]", "an empty rule matches every request"),
            ("{allow: [{spiffe: [], methods: [GET]}]}", "allow[0].spiffe", "is empty"),
            ("{allow: [{claims: {}}]}", "allow[0].claims", "is empty"),
            ("{allow: [{claims: {role: []}}]}", "allow[0].claims.role", "is compared with"),
            ("{allow: [{claims: {role: {a: b}}}]}", "allow[0].claims.role", "is compared with"),
            ("{allow: [{methods: []}]}", "allow[0].methods", "is empty"),
            ("{allow: [{headers: {}}]}", "allow[0].headers", "is empty"),
            ("{allow: [{ip: []}]}", "allow[0].ip", "is empty"),
            ("{allow: [{peer: []}]}", "allow[0].peer", "is empty"),
            ("{allow: [{spiffe: [orders]}]}", "allow[0].spiffe[0]", "is not a SPIFFE ID"),
            ("{allow: [{methods: [get]}]}", "allow[0].methods[0]", "did you mean `GET`?"),
            ("{allow: [{path: {regex: '('}}]}", "allow[0].path", "regular expression"),
        ] {
            let invalid = build(yaml, &Live::offline()).err().unwrap();
            let [only] = invalid.as_slice() else { panic!("{yaml}: {invalid:?}") };
            assert_eq!(only.path.to_string(), path, "{yaml}");
            assert!(only.message.contains(message), "{only:?}");
        }
    }
}
