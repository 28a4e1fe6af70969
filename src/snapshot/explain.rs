//! Which route a request would take, why not another, and which filters would run. It asks the tables that the gateway runs, or
//! would run, so it cannot disagree with them. `tidegate explain` asks a plan, and the API what is in force.

use std::collections::BTreeMap;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{HOST, LOCATION},
    uri::Authority,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Places, Plan, Snapshot};
use crate::{
    config::{self, Config},
    error::Reason,
    filter::{Chain, Exchange, Facts, RequestHeader},
    http::{Speaker, is_in_disguise, speaker},
    route::{Outcome, Params, PathError, Request, Table, Verdict, has_encoded_slash, normalise},
    snapshot::compile::stand_ins,
    upstream::cookie_name,
};

/// The first are the closest; whoever needs more of them asks for another URL.
const MOST_CLOSE: usize = 5;

/// What is asked.
pub struct Asked<'a> {
    pub listeners: Vec<AskedListener<'a>>,
    config: &'a Config,
    /// By id: name, and filters.
    routes: Vec<(&'a str, &'a Chain)>,
    places: &'a Places,
}

/// A listener of HTTP.
pub struct AskedListener<'a> {
    pub name: &'a str,
    pub address: &'a str,
    has_tls: bool,
    table: &'a Table,
    chain: &'a Chain,
    encoded_slashes: config::EncodedSlashes,
}

/// A request that is not sent.
pub struct Question<'a> {
    pub method: &'a Method,
    pub url: &'a Uri,
    pub headers: &'a [(HeaderName, HeaderValue)],
}

/// The request as the gateway would see it.
struct Arrived<'a> {
    host: String,
    path: String,
    query: Option<&'a str>,
    method: &'a Method,
    headers: HeaderMap,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct Explained {
    pub method: String,
    pub url: String,
    /// As it is matched and forwarded.
    pub path: Option<String>,
    /// It is another one than was sent.
    pub normalised: bool,
    /// Before any listener looks at it.
    pub refused: Option<RefusedRequest>,
    /// Header fields that are taken off on arrival, see `trusted_proxies`.
    pub removed_headers: Vec<String>,
    pub listeners: Vec<AtListener>,
}

/// What becomes of it at one listener.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct AtListener {
    pub name: String,
    pub address: String,
    /// Null where no route takes it.
    pub route: Option<WonRoute>,
    /// Why it is answered with an error.
    pub refused: Option<RefusedRequest>,
    /// The request as the upstream sees it, or the answer, as far as that is said by the file: other filters may change or refuse it.
    #[serde(default)]
    pub then: Option<Then>,
    /// Those whose conditions hold, in the order in which they run.
    pub filters: Vec<String>,
    /// What of the listener, the route and its upstreams comes from the top-level `defaults`: `route.retry.attempts`.
    #[serde(default)]
    pub defaults: Vec<String>,
    /// What keeps a client at an endpoint of the route's upstreams.
    #[serde(default)]
    pub affinity: Vec<String>,
    /// Routes that were close, the closest first.
    pub close: Vec<CloseRoute>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct WonRoute {
    pub name: String,
    pub target: String,
    /// Where it stands in the files.
    pub place: Option<String>,
}

/// What becomes of a request that a route has taken.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It goes on.
    Forwarded { method: String, target: String, host: String },
    /// The gateway answers.
    Answered { status: u16, location: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct CloseRoute {
    pub route: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct RefusedRequest {
    pub status: u16,
    pub reason: String,
    pub detail: Option<String>,
    /// The methods that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
}

impl<'a> Asked<'a> {
    pub fn plan(plan: &'a Plan) -> Asked<'a> {
        let of_http = plan.listeners.iter().filter(|listener| listener.protocol == config::Protocol::Http);
        let listeners = of_http.map(|listener| AskedListener {
            name: &listener.name,
            address: &listener.address,
            has_tls: listener.tls.is_some(),
            table: &listener.table,
            chain: &listener.chain,
            encoded_slashes: listener.encoded_slashes,
        });
        Asked {
            listeners: listeners.collect(),
            config: &plan.config,
            routes: plan.routes.iter().map(|route| (&*route.name, &route.chain)).collect(),
            places: &plan.places,
        }
    }

    pub fn snapshot(snapshot: &'a Snapshot) -> Asked<'a> {
        // In the order of the file.
        let written = snapshot.config.listeners.iter();
        let of_http = written.filter(|listener| listener.protocol == config::Protocol::Http);
        let listeners = of_http.filter_map(|written| {
            let name = written.name.as_deref().unwrap_or(&written.address);
            let listener = snapshot.listeners.values().find(|listener| *listener.name == *name)?;
            Some(AskedListener {
                name: &listener.name,
                address: &listener.address,
                has_tls: listener.tls.is_some(),
                table: &listener.table,
                chain: &listener.chain,
                encoded_slashes: listener.encoded_slashes,
            })
        });
        Asked {
            listeners: listeners.collect(),
            config: &snapshot.config,
            routes: snapshot.routes.iter().map(|route| (&*route.name, &route.chain)).collect(),
            places: &snapshot.places,
        }
    }

    /// At the listeners of that name or address; at all, where none is named.
    pub fn explain(&self, question: &Question<'_>, listener: Option<&str>) -> Explained {
        let Question { method, url, headers } = question;
        let mut explained = Explained {
            method: method.to_string(),
            url: url.to_string(),
            path: None,
            normalised: false,
            refused: None,
            removed_headers: Vec::new(),
            listeners: Vec::new(),
        };
        let arrived = match Arrived::of(question, self.config) {
            Ok(arrived) => arrived,
            Err(why) => {
                let reason = match why {
                    PathError::DotSegment => Reason::DotSegment,
                    _ => Reason::BadRequest,
                };
                explained.refused = Some(RefusedRequest::of(reason, Some(why.to_string())));
                return explained;
            }
        };
        explained.normalised = arrived.path != url.path();
        explained.path = Some(arrived.path.clone());
        let forged = headers.iter().filter(|(name, _)| is_forged(name, self.config));
        explained.removed_headers = forged.map(|(name, _)| name.to_string()).collect();
        let asked: Vec<_> = match listener {
            Some(asked) => {
                let is_asked = |known: &&AskedListener<'_>| known.name == asked || known.address == asked;
                self.listeners.iter().filter(is_asked).collect()
            }
            None => self.reached_by(url),
        };
        explained.listeners = asked.into_iter().map(|listener| self.at(listener, &arrived)).collect();
        explained
    }

    /// The listeners that a client which asks for `url` comes to, as far as it says; all where none fits, since others may
    /// lead to them: a balancer, another port.
    fn reached_by(&self, url: &Uri) -> Vec<&AskedListener<'a>> {
        let all: Vec<_> = self.listeners.iter().collect();
        let Some(scheme) = url.scheme_str() else { return all };
        let secure = narrowed(all, |listener| listener.has_tls == (scheme == "https"));
        let Some(port) = url.port_u16() else { return secure };
        narrowed(secure, |listener| {
            listener.address.rsplit_once(':').is_some_and(|(_, own)| own.parse() == Ok(port))
        })
    }

    fn at(&self, listener: &AskedListener<'_>, arrived: &Arrived<'_>) -> AtListener {
        let request = &arrived.request();
        let (won, mut refused) = match listener.table.find(request) {
            Outcome::Found { id, params } => (Some((id, params)), None),
            Outcome::MethodNotAllowed { allow } => {
                let allow = allow.iter().map(ToString::to_string).collect();
                (None, Some(RefusedRequest { allow, ..RefusedRequest::of(Reason::MethodNotAllowed, None) }))
            }
            Outcome::NotFound => (None, Some(RefusedRequest::of(Reason::NoRoute, None))),
        };
        let (won, params) = won.map_or((None, Params::default()), |(id, params)| (Some(id), params));
        if has_encoded_slash(request.path) {
            let own = won.and_then(|id| self.config.routes[id].paths.encoded_slashes);
            if own.unwrap_or(listener.encoded_slashes) == config::EncodedSlashes::Refuse {
                let how = "`paths.encoded_slashes: keep` on the route lets it pass";
                refused = Some(RefusedRequest::of(Reason::EncodedSlash, Some(how.to_owned())));
            }
        }
        let candidates = listener.table.explain(request).into_iter();
        let close = candidates.filter(|candidate| candidate.verdict != Verdict::Wins).take(MOST_CLOSE);
        AtListener {
            name: listener.name.to_owned(),
            address: listener.address.to_owned(),
            route: won.map(|id| WonRoute {
                name: self.routes[id].0.to_owned(),
                target: target(self.config, &self.config.routes[id]),
                place: self.places.route(id),
            }),
            then: won.filter(|_| refused.is_none()).and_then(|id| self.then(listener, arrived, id, params)),
            refused,
            // The listener's filters see a request that no route takes, too.
            filters: filters(
                listener.chain,
                won.map(|id| (self.routes[id].1, &self.config.routes[id])),
                request,
            ),
            defaults: self.inherited(listener, won),
            affinity: won.map(|id| self.affinity(id)).unwrap_or_default(),
            close: close
                .map(|candidate| CloseRoute {
                    route: self.routes[candidate.id].0.to_owned(),
                    why: candidate.verdict.to_string(),
                })
                .collect(),
        }
    }
}

impl Asked<'_> {
    fn inherited(&self, listener: &AskedListener<'_>, won: Option<usize>) -> Vec<String> {
        let of = |kind: &str, keys: &[String]| -> Vec<String> {
            keys.iter().map(|key| format!("{kind}.{key}")).collect()
        };
        let mut found = of("listener", self.places.inherited_by(&format!("listeners/{}", listener.name)));
        let Some(id) = won else { return found };
        found.extend(of("route", self.places.inherited_by_route(id)));
        let mut of_upstreams = Vec::new();
        for name in self.config.routes[id].upstreams() {
            of_upstreams.extend(of("upstream", self.places.inherited_by(&format!("upstreams/{name}"))));
        }
        of_upstreams.sort();
        of_upstreams.dedup();
        found.extend(of_upstreams);
        found
    }
}

impl Asked<'_> {
    fn affinity(&self, id: usize) -> Vec<String> {
        let upstreams = self.config.routes[id].upstreams_and_subsets();
        let mut found: Vec<String> = upstreams
            .filter_map(|(name, tags)| {
                let affinity = self.config.upstreams.get(name)?.affinity.as_ref()?;
                let by = match affinity {
                    config::Affinity::Cookie(_) => format!("the cookie `{}`", cookie_name(affinity, tags)),
                    config::Affinity::Header(header) => format!("the header `{}`", header.name),
                };
                Some(format!("{name}: by {by}"))
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

/// Those that fit; all where none does.
fn narrowed<'l, 'a>(
    listeners: Vec<&'l AskedListener<'a>>,
    fits: impl Fn(&AskedListener<'_>) -> bool,
) -> Vec<&'l AskedListener<'a>> {
    let fitting: Vec<_> = listeners.iter().copied().filter(|listener| fits(listener)).collect();
    if fitting.is_empty() { listeners } else { fitting }
}

impl Asked<'_> {
    /// Has those filters see the request whose effect the file says: no others, which may count it or ask others.
    fn then(
        &self,
        listener: &AskedListener<'_>,
        arrived: &Arrived<'_>,
        id: usize,
        params: Params,
    ) -> Option<Then> {
        let request = arrived.request();
        let mut target = arrived.path.clone();
        if let Some(query) = arrived.query {
            target = format!("{target}?{query}");
        }
        let mut head = RequestHeader::build(arrived.method.clone(), target.as_bytes(), None).ok()?;
        for (name, value) in &arrived.headers {
            head.append_header(name.clone(), value.clone()).ok()?;
        }
        let mut facts = Facts {
            scheme: if listener.has_tls { "https" } else { "http" },
            spoken: if listener.has_tls { "https" } else { "http" },
            authority: arrived.headers.get(HOST).cloned(),
            target: target.parse().ok()?,
            params,
            route: Some(self.routes[id].0.into()),
            listener: Some(listener.name.into()),
            ..Facts::default()
        };
        let mut exchange = Exchange { request: &mut head, response: None, facts: &mut facts };
        for chain in [listener.chain, self.routes[id].1] {
            if let Some(answer) = chain.rehearse(chain.decide(&request), &mut exchange) {
                let location = answer.headers.iter().find(|(name, _)| *name == LOCATION);
                let location =
                    location.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned());
                return Some(Then::Answered { status: answer.status.as_u16(), location });
            }
        }
        let host = head.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        Some(Then::Forwarded { method: head.method.to_string(), target, host: host.unwrap_or_default() })
    }
}

impl<'a> Arrived<'a> {
    fn of(question: &Question<'a>, config: &Config) -> Result<Arrived<'a>, PathError> {
        let Question { method, url, headers: given } = *question;
        let mut headers = HeaderMap::new();
        for (name, value) in given.iter().filter(|(name, _)| !is_forged(name, config)) {
            headers.append(name, value.clone());
        }
        // The target's authority goes before the `Host` field (RFC 9112, section 3.2.2).
        let of_field = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        let authority = url.authority().cloned().or(of_field);
        if let Some(host) = url.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
            headers.entry(HOST).or_insert(host);
        }
        Ok(Arrived {
            host: authority.map(|authority| authority.host().to_ascii_lowercase()).unwrap_or_default(),
            path: normalise(url.path())?.into_owned(),
            query: url.query(),
            method,
            headers,
        })
    }

    fn request(&self) -> Request<'_> {
        let Arrived { host, path, query, method, headers } = self;
        Request { host, path, query: *query, method, headers }
    }
}

impl RefusedRequest {
    fn of(reason: Reason, detail: Option<String>) -> RefusedRequest {
        let (status, reason) = (reason.status().as_u16(), reason.code().to_owned());
        RefusedRequest { status, reason, detail, allow: Vec::new() }
    }
}

/// Whether it is taken off on arrival. Where proxies are trusted, the request is taken for one of theirs.
fn is_forged(name: &HeaderName, config: &Config) -> bool {
    match speaker(name.as_str()) {
        Some(Speaker::Gateway) => true,
        Some(_) => config.trusted_proxies.is_empty(),
        None => is_in_disguise(name.as_str()),
    }
}

fn target(config: &Config, route: &config::Route) -> String {
    let led = |name: &String| led_on(config, name);
    let part = |name: &String, subset: &BTreeMap<String, String>| match subset.is_empty() {
        true => led(name),
        false => {
            let tags: Vec<String> = subset.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            format!("{} of {}", tags.join(", "), led(name))
        }
    };
    match (&route.upstream, &route.respond, &route.redirect) {
        (Some(upstream), ..) => format!("upstream {}", part(upstream, &route.subset)),
        (_, Some(respond), _) => format!("respond {}", respond.status),
        (_, _, Some(redirect)) => format!("redirect {} {}", redirect.status, redirect.target()),
        (None, None, None) => match (&route.split, &route.canary) {
            (Some(split), _) => {
                let names: Vec<_> =
                    split.to.iter().map(|variant| part(&variant.upstream, &variant.subset)).collect();
                format!("split between {}", names.join(", "))
            }
            (_, Some(canary)) => format!("canary of {} beside {}", canary.candidate, led(&canary.stable)),
            (None, None) => "nothing".to_owned(),
        },
    }
}

/// An upstream, and those that stand in for it.
fn led_on(config: &Config, name: &str) -> String {
    let mut others = stand_ins(config, name).skip(1);
    let first = others.next().map(|then| format!(" (then {then}")).unwrap_or_default();
    let close = if first.is_empty() { "" } else { ")" };
    let more: String = others.map(|then| format!(", then {then}")).collect();
    format!("{name}{first}{more}{close}")
}

fn filters(listener: &Chain, route: Option<(&Chain, &config::Route)>, request: &Request<'_>) -> Vec<String> {
    let mut names: Vec<_> = listener.running(listener.decide(request)).collect();
    if let Some((chain, config)) = route {
        names.extend(chain.running(chain.decide(request)));
        // A route that answers itself ends in the filter that does; that is its target.
        if config.respond.is_some() || config.redirect.is_some() {
            names.pop();
        }
    }
    names.into_iter().map(str::to_owned).collect()
}

/// What is in an argument or a field of JSON, as `http` has it.
///
/// # Errors
///
/// It is none, and what to write instead.
pub fn read_method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => Ok(method),
        Ok(_) => Err(format!("methods are upper case (try {})", text.to_ascii_uppercase())),
        Err(_) => Err("not a method (try GET)".to_owned()),
    }
}

/// # Errors
///
/// As for [`read_method`].
pub fn read_url(text: &str) -> Result<Uri, String> {
    const HINT: &str = "write http://HOST/PATH or /PATH, with spaces and the like percent-encoded";
    let url: Uri = text.parse().map_err(|error| format!("{error} ({HINT})"))?;
    match url.path().starts_with('/') && (url.scheme().is_some() || text.starts_with('/')) {
        true => Ok(url),
        false => Err(format!("not a URL ({HINT})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_urls_are_read_as_curl_reads_them() {
        assert_eq!(read_url("http://a.example/b?c=d").unwrap().query(), Some("c=d"));
        assert!(read_url("/b").is_ok());
        assert!(read_url("a.example").is_err());
        assert!(read_url("http://a.example/a b").is_err());
        assert!(read_method("get").unwrap_err().contains("GET"));
    }
}
