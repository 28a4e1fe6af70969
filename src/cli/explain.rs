//! `tidegate explain`: which route a request would take, and why not another: by a file, or as a running gateway has it.

use std::{fmt::Write, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use serde_json::json;

use super::{
    ask::{AdminArgs, target},
    text::safe,
};
use crate::{
    app::{Failure, Source},
    filter::Registry,
    snapshot::{
        compile,
        explain::{Asked, AtListener, Explained, Question, Then, read_method, read_url},
    },
};

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The request's method
    #[arg(value_parser = read_method)]
    method: Method,
    /// The request's URL, such as `http://api.example.com/users?page=2`, or a path
    #[arg(value_parser = read_url)]
    url: Uri,
    /// A header field the request carries; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The configuration file; with --live, whence the address and the token are taken [default: conf/gateway.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Explain for this listener only, by name or address [default: each in turn]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Ask a running gateway what it would do now, in the place of the file
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print it as JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Fine where a route wins on one of the listeners at least.
pub(crate) fn run(args: &ExplainArgs, registry: &Arc<Registry>) -> Result<ExitCode, Failure> {
    let explained = match if args.live { ask(args) } else { read(args, registry) }? {
        Ok(explained) => explained,
        Err(why) => {
            eprintln!("{}", safe(&why));
            return Ok(ExitCode::from(2));
        }
    };
    let text = match args.json {
        true => serde_json::to_string_pretty(&explained).map_err(std::io::Error::other)? + "\n",
        false => safe(&text(&explained)),
    };
    super::print(&text)?;
    let is_won = |at: &AtListener| at.route.is_some() && at.refused.is_none();
    Ok(if explained.listeners.iter().any(is_won) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// By the file. The inner error is a listener that is not there.
fn read(args: &ExplainArgs, registry: &Arc<Registry>) -> Result<Result<Explained, String>, Failure> {
    let file = args.config.clone().unwrap_or_else(|| PathBuf::from("conf/gateway.yaml"));
    let plan = compile(Source::File(file).load()?, &registry.offline())?;
    let asked = Asked::plan(&plan);
    let question = Question { method: &args.method, url: &args.url, headers: &args.headers };
    let explained = asked.explain(&question, args.listener.as_deref());
    if explained.refused.is_none() && explained.listeners.is_empty() {
        let names: Vec<_> = asked.listeners.iter().map(|listener| listener.name).collect();
        let asked = args.listener.as_deref().unwrap_or_default();
        return Ok(Err(format!("no listener of HTTP is named `{asked}` (there are: {})", names.join(", "))));
    }
    Ok(Ok(explained))
}

/// As a running gateway has it.
fn ask(args: &ExplainArgs) -> Result<Result<Explained, String>, Failure> {
    let headers: Vec<_> = args
        .headers
        .iter()
        .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    let body = json!({
        "method": args.method.as_str(),
        "url": args.url.to_string(),
        "headers": headers,
        "listener": args.listener,
    });
    let target = target(&args.admin.of(args.config.as_deref()))?;
    let answer = super::asynchronous(target.ask(Method::POST, "/v1/explain", body.to_string()))?;
    if answer.status == StatusCode::NOT_FOUND
        && let Ok(problem) = answer.json()
        && problem["reason"] == "not_found"
    {
        return Ok(Err(problem["detail"].as_str().unwrap_or_default().to_owned()));
    }
    let explained = answer.expect(StatusCode::OK)?;
    Ok(Ok(serde_json::from_value(explained).map_err(std::io::Error::other)?))
}

fn text(explained: &Explained) -> String {
    let mut out = format!("{} {}\n", explained.method, explained.url);
    if let Some(refused) = &explained.refused {
        let why = refused.detail.as_deref().unwrap_or_default();
        line(&mut out, "refused", format!("{} {}: {why}", refused.status, refused.reason));
        return out;
    }
    if let Some(path) = explained.path.as_ref().filter(|_| explained.normalised) {
        line(&mut out, "path", format!("{path} (normalised; matched and forwarded so)"));
    }
    for name in &explained.removed_headers {
        line(&mut out, "header", format!("{name} is taken off on arrival (see `trusted_proxies`)"));
    }
    for (place, listener) in explained.listeners.iter().enumerate() {
        if place > 0 {
            out.push('\n');
        }
        at(&mut out, listener);
    }
    out
}

fn at(out: &mut String, listener: &AtListener) {
    let name = match listener.name == listener.address {
        true => listener.address.clone(),
        false => format!("{} ({})", listener.name, listener.address),
    };
    line(out, "listener", name);
    match (&listener.route, &listener.refused) {
        (Some(route), _) => line(out, "route", format!("{} -> {}", route.name, route.target)),
        (None, Some(refused)) if refused.allow.is_empty() => {
            line(out, "route", format!("none: {} {}", refused.status, refused.reason));
        }
        (None, Some(refused)) => {
            let allow = refused.allow.join(", ");
            line(out, "route", format!("none: {} {}, Allow: {allow}", refused.status, refused.reason));
        }
        (None, None) => line(out, "route", "none".to_owned()),
    }
    if let Some(refused) = &listener.refused
        && let Some(how) = &refused.detail
    {
        return line(out, "refused", format!("{} {} ({how})", refused.status, refused.reason));
    }
    match &listener.then {
        Some(Then::Forwarded { method, target, host }) => {
            line(
                out,
                "forwarded",
                format!("{method} {target}, host {}", if host.is_empty() { "none" } else { host }),
            );
        }
        Some(Then::Answered { status, location: Some(to) }) => {
            line(out, "answered", format!("{status} {to}"))
        }
        Some(Then::Answered { status, location: None }) => line(out, "answered", status.to_string()),
        None => {}
    }
    let filters = if listener.filters.is_empty() { "none".to_owned() } else { listener.filters.join(", ") };
    line(out, "filters", filters);
    if !listener.defaults.is_empty() {
        line(out, "defaults", listener.defaults.join(", "));
    }
    let mut label = "affinity";
    for affinity in &listener.affinity {
        line(out, label, affinity.clone());
        label = "";
    }
    let mut label = "close";
    for close in &listener.close {
        line(out, label, format!("{}: {}", close.route, close.why));
        label = "";
    }
}

fn line(out: &mut String, label: &str, text: String) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{label:<9} {}", text.replace('\n', "\\n"));
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
    fn headers_are_read_as_curl_reads_them() {
        assert_eq!(field("X-A:  b: c ").unwrap(), ("x-a".parse().unwrap(), "b: c".parse().unwrap()));
        assert!(field("x-a").is_err());
    }
}
