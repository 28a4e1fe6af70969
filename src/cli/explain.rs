//! `tidegate explain`: which route a request would take, and why not another. It asks the table that the gateway would
//! run, so it cannot disagree with it.

use std::{fmt::Write, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::HOST, uri::Authority};

use super::text::safe;
use crate::{
    app::{Failure, Source},
    config,
    error::Reason,
    filter::{Chain, Registry},
    http::{Speaker, is_in_disguise, speaker},
    route::{Outcome, PathError, Request, Verdict, has_encoded_slash, normalise},
    snapshot::{Plan, PlannedListener, compile},
};

/// The first are the closest; whoever needs more of them asks for another URL.
const MOST_CLOSE: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The request's method
    #[arg(value_parser = method)]
    method: Method,
    /// The request's URL, such as `http://api.example.com/users?page=2`, or a path
    #[arg(value_parser = url)]
    url: Uri,
    /// A header field the request carries; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "conf/gateway.yaml")]
    config: PathBuf,
    /// Explain for this listener only, by name or address [default: each in turn]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
}

/// Fine where a route wins on one of the listeners at least.
pub(crate) fn run(args: &ExplainArgs, registry: &Arc<Registry>) -> Result<ExitCode, Failure> {
    let plan = compile(Source::File(args.config.clone()).load()?, &registry.offline())?;
    let asked = |listener: &&PlannedListener| {
        listener.protocol == config::Protocol::Http
            && args.listener.as_ref().is_none_or(|name| *listener.name == **name || listener.address == *name)
    };
    let listeners: Vec<_> = plan.listeners.iter().filter(asked).collect();
    if listeners.is_empty() {
        let of_http = plan.listeners.iter().filter(|listener| listener.protocol == config::Protocol::Http);
        let names: Vec<_> = of_http.map(|listener| &*listener.name).collect();
        let asked = args.listener.as_deref().unwrap_or_default();
        eprintln!(
            "{}",
            safe(&format!("no listener of HTTP is named `{asked}` (there are: {})", names.join(", ")))
        );
        return Ok(ExitCode::from(2));
    }
    let mut out = format!("{} {}\n", args.method, args.url);
    let asked = match Asked::new(args, &plan) {
        Ok(asked) => asked,
        Err(why) => {
            let reason = match why {
                PathError::DotSegment => Reason::DotSegment,
                _ => Reason::BadRequest,
            };
            line(&mut out, "refused", format!("{} {}: {why}", reason.status().as_u16(), reason.code()));
            super::print(&safe(&out))?;
            return Ok(ExitCode::FAILURE);
        }
    };
    if asked.path != args.url.path() {
        line(&mut out, "path", format!("{} (normalised; matched and forwarded so)", asked.path));
    }
    for (name, _) in args.headers.iter().filter(|(name, _)| is_forged(name, &plan)) {
        line(&mut out, "header", format!("{name} is taken off on arrival (see `trusted_proxies`)"));
    }
    let mut is_won = false;
    for (place, listener) in listeners.into_iter().enumerate() {
        if place > 0 {
            out.push('\n');
        }
        is_won |= explain(&mut out, &plan, listener, &asked.request());
    }
    super::print(&safe(&out))?;
    Ok(if is_won { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether it is taken off on arrival. Where proxies are trusted, the request is taken for one of theirs.
fn is_forged(name: &HeaderName, plan: &Plan) -> bool {
    match speaker(name.as_str()) {
        Some(Speaker::Gateway) => true,
        Some(_) => plan.config.trusted_proxies.is_empty(),
        None => is_in_disguise(name.as_str()),
    }
}

/// The request as the gateway would see it.
struct Asked<'a> {
    host: String,
    path: String,
    query: Option<&'a str>,
    method: &'a Method,
    headers: HeaderMap,
}

impl<'a> Asked<'a> {
    fn new(args: &'a ExplainArgs, plan: &Plan) -> Result<Asked<'a>, PathError> {
        let mut headers = HeaderMap::new();
        for (name, value) in args.headers.iter().filter(|(name, _)| !is_forged(name, plan)) {
            headers.append(name, value.clone());
        }
        // The target's authority goes before the `Host` field (RFC 9112, section 3.2.2).
        let of_field = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        let authority = args.url.authority().cloned().or(of_field);
        if let Some(host) = args.url.authority().and_then(|host| HeaderValue::try_from(host.as_str()).ok()) {
            headers.entry(HOST).or_insert(host);
        }
        Ok(Asked {
            host: authority.map(|authority| authority.host().to_ascii_lowercase()).unwrap_or_default(),
            path: normalise(args.url.path())?.into_owned(),
            query: args.url.query(),
            method: &args.method,
            headers,
        })
    }

    fn request(&self) -> Request<'_> {
        let Asked { host, path, query, method, headers } = self;
        Request { host, path, query: *query, method, headers }
    }
}

/// True when a route wins.
fn explain(out: &mut String, plan: &Plan, listener: &PlannedListener, request: &Request<'_>) -> bool {
    let name = match *listener.name == *listener.address {
        true => listener.address.clone(),
        false => format!("{} ({})", listener.name, listener.address),
    };
    line(out, "listener", name);
    let won = match listener.table.find(request) {
        Outcome::Found { id, .. } => {
            line(out, "route", format!("{} -> {}", plan.routes[id].name, target(&plan.config.routes[id])));
            Some(id)
        }
        Outcome::MethodNotAllowed { allow } => {
            let allow: Vec<_> = allow.iter().map(Method::as_str).collect();
            line(
                out,
                "route",
                format!("{}, Allow: {}", no_route(Reason::MethodNotAllowed), allow.join(", ")),
            );
            None
        }
        Outcome::NotFound => {
            line(out, "route", no_route(Reason::NoRoute));
            None
        }
    };
    if has_encoded_slash(request.path) {
        let own = won.and_then(|id| plan.config.routes[id].paths.encoded_slashes);
        if own.unwrap_or(listener.encoded_slashes) == config::EncodedSlashes::Refuse {
            let reason = Reason::EncodedSlash;
            let how = "`paths.encoded_slashes: keep` on the route lets it pass";
            line(out, "refused", format!("{} {} ({how})", reason.status().as_u16(), reason.code()));
            return false;
        }
    }
    // The listener's filters see a request that no route takes, too.
    let route = won.map(|id| (&plan.routes[id].chain, &plan.config.routes[id]));
    line(out, "filters", filters(&listener.chain, route, request));
    let mut label = "close";
    let candidates = listener.table.explain(request).into_iter();
    for candidate in candidates.filter(|candidate| candidate.verdict != Verdict::Wins).take(MOST_CLOSE) {
        line(out, label, format!("{}: {}", plan.routes[candidate.id].name, candidate.verdict));
        label = "";
    }
    won.is_some()
}

fn no_route(reason: Reason) -> String {
    format!("none: {} {}", reason.status().as_u16(), reason.code())
}

fn target(route: &config::Route) -> String {
    match (&route.upstream, &route.respond, &route.redirect) {
        (Some(upstream), ..) => format!("upstream {upstream}"),
        (_, Some(respond), _) => format!("respond {}", respond.status),
        (_, _, Some(redirect)) => format!("redirect {} {}", redirect.status, redirect.to),
        (None, None, None) => "nothing".to_owned(),
    }
}

/// Those whose conditions hold, in the order in which they run.
fn filters(listener: &Chain, route: Option<(&Chain, &config::Route)>, request: &Request<'_>) -> String {
    let mut names: Vec<_> = listener.running(listener.decide(request)).collect();
    if let Some((chain, config)) = route {
        names.extend(chain.running(chain.decide(request)));
        // A route that answers itself ends in the filter that does; that is its target.
        if config.upstream.is_none() {
            names.pop();
        }
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn line(out: &mut String, label: &str, text: String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{label:<9} {}", text.replace('\n', "\\n"));
}

fn method(text: &str) -> Result<Method, String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => Ok(method),
        Ok(_) => Err(format!("methods are upper case (try {})", text.to_ascii_uppercase())),
        Err(_) => Err("not a method (try GET)".to_owned()),
    }
}

fn url(text: &str) -> Result<Uri, String> {
    const HINT: &str = "write http://HOST/PATH or /PATH, with spaces and the like percent-encoded";
    let url: Uri = text.parse().map_err(|error| format!("{error} ({HINT})"))?;
    match url.path().starts_with('/') && (url.scheme().is_some() || text.starts_with('/')) {
        true => Ok(url),
        false => Err(format!("not a URL ({HINT})")),
    }
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    const HINT: &str = "write -H 'name: value'";
    let (name, value) = text.split_once(':').ok_or_else(|| format!("no colon in it ({HINT})"))?;
    let name = name.trim().parse().map_err(|_| format!("not a header's name ({HINT})"))?;
    let value = value.trim().parse().map_err(|_| format!("not a header's value ({HINT})"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_curl_reads_them() {
        assert_eq!(url("http://a.example/b?c=d").unwrap().query(), Some("c=d"));
        assert!(url("/b").is_ok());
        assert!(url("a.example").is_err());
        assert!(url("http://a.example/a b").is_err());
        assert!(method("get").unwrap_err().contains("GET"));
        assert_eq!(field("X-A:  b: c ").unwrap(), ("x-a".parse().unwrap(), "b: c".parse().unwrap()));
        assert!(field("x-a").is_err());
    }
}
