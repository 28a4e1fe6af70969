//! `maintenance`: everything is answered with 503 while a switch is on. A file turns it on by being there, so that a script, a timer or
//! another program can; an order over the admin API goes before the file, either way. A task looks for the file, so that no request waits
//! for a disk.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use http::header::RETRY_AFTER;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::ip_rules::canonical;
use crate::{
    config::{HumanDuration, Path, networks},
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response, switches::Switch},
};

/// Answers with 503 `maintenance` and `Retry-After` while it is switched on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Maintenance {
    /// What orders call it. Filters of one name are switched together.
    name: String,
    /// It is on while this file is there. Default: only orders switch it.
    file: Option<PathBuf>,
    /// When clients are told to come back.
    retry_after: HumanDuration,
    /// Clients that are served all the same: networks such as `10.0.0.0/8`, or addresses.
    #[serde(deserialize_with = "networks")]
    #[schemars(with = "Vec<String>")]
    allow: Vec<IpNet>,
}

impl Default for Maintenance {
    fn default() -> Self {
        Maintenance {
            name: "maintenance".to_owned(),
            file: None,
            retry_after: HumanDuration::from_secs(300),
            allow: Vec::new(),
        }
    }
}

impl Options for Maintenance {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || !self.name.chars().all(is_plain) {
            let why = format!("{:?} is no name of a switch (letters, digits, `-`, `_` and `.`)", self.name);
            invalid.push(Invalid::new(at.key("name"), why));
        }
        let retry_after = Duration::from(self.retry_after);
        if retry_after.is_zero() {
            invalid.push(Invalid::new(
                at.key("retry_after"),
                "a duration of 0 makes no sense here (try \"5m\")",
            ));
        }
        if !invalid.is_empty() {
            return Err(invalid);
        }
        let file = self.file.map(|file| live.full_path(&file));
        Ok(Arc::new(Closed {
            switch: live.switch(&self.name, file),
            retry_after: retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0),
            allow: self.allow.into_iter().map(canonical).collect(),
        }))
    }
}

struct Closed {
    switch: Arc<Switch>,
    /// Seconds.
    retry_after: u64,
    allow: Vec<IpNet>,
}

impl Closed {
    fn serves(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.iter().any(|network| network.contains(&client))
    }
}

impl Filter for Closed {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        if !self.switch.is_on() || self.serves(exchange.facts.client) {
            return Ok(Flow::Continue);
        }
        let mut response = Response::refusal(Reason::Maintenance, &exchange.request.headers);
        response.headers.retain(|(name, _)| *name != RETRY_AFTER);
        response.headers.push((RETRY_AFTER, self.retry_after.into()));
        Ok(Flow::Reply(response))
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::{filter::Facts, policy::switch::Ordered};

    fn build(yaml: &str, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let options: Maintenance = serde_yaml::from_str(yaml).unwrap();
        options.build(&Path::root(), live)
    }

    /// `Retry-After`, where the request is refused.
    fn ask(filter: &dyn Filter, client: &str) -> Option<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts { client: client.parse().unwrap(), ..Facts::default() };
        match filter.on_request(&mut Exchange::new(&mut request, &mut facts)).unwrap() {
            Flow::Continue => None,
            Flow::Reply(response) => {
                assert_eq!(response.reason, Some(Reason::Maintenance));
                let mut after = response.headers.iter().filter(|(name, _)| *name == RETRY_AFTER);
                let told = after.next().unwrap().1.to_str().unwrap().to_owned();
                assert!(after.next().is_none());
                Some(told)
            }
        }
    }

    #[test]
    fn an_order_switches_all_of_one_name_and_lets_the_allowed_in() {
        let live = Live::offline();
        let shop =
            build("{name: shop, retry_after: 90s, allow: [10.0.0.0/8, '2001:db8::/32']}", &live).unwrap();
        let again = build("{name: shop, retry_after: 1500ms}", &live).unwrap();
        let other = build("{}", &live).unwrap();
        assert_eq!(ask(&*shop, "192.0.2.1"), None);
        let ordered = live.switches().order("shop", Ordered::On);
        assert!(!ordered.is_empty());
        assert_eq!(ask(&*shop, "192.0.2.1").as_deref(), Some("90"));
        assert_eq!(ask(&*again, "10.1.2.3").as_deref(), Some("2"));
        for client in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
            assert_eq!(ask(&*shop, client), None, "{client}");
        }
        assert_eq!(ask(&*other, "192.0.2.1"), None);
        live.switches().order("shop", Ordered::Auto);
        assert_eq!(ask(&*shop, "192.0.2.1"), None);
        assert!(live.switches().order("none", Ordered::On).is_empty());
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for (yaml, at) in
            [("{name: ''}", "name"), ("{name: 'a b'}", "name"), ("{retry_after: 0s}", "retry_after")]
        {
            let invalid = build(yaml, &Live::offline()).err().unwrap();
            assert_eq!(invalid[0].path.to_string(), at, "{yaml}");
        }
    }
}
