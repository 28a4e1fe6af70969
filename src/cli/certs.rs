//! `tidegate certs`: the certificates that a running gateway has from CAs, and orders for new ones.

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    ask::{AskArgs, ask},
    failure,
    text::safe,
};
use crate::app::Failure;

#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Each name with how its certificate is, and why there is none
    List(ListArgs),
    /// Order a name's certificate now, whatever has failed before
    Renew(RenewArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    control: AskArgs,
    /// Print the answer as it came, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RenewArgs {
    /// As it is listed, such as www.example.com
    name: String,
    #[command(flatten)]
    control: AskArgs,
}

pub(crate) fn run(args: &CertsArgs) -> Result<(), Failure> {
    match &args.what {
        What::List(args) => list(args),
        What::Renew(args) => renew(args),
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let answer = ask(&args.control, Method::GET, "/v1/certificates")?.expect(StatusCode::OK)?;
    if args.json {
        return Ok(super::print(&format!("{}\n", answer["acme"]))?);
    }
    let names = answer["acme"].as_array().map(Vec::as_slice).unwrap_or_default();
    if names.is_empty() {
        return Ok(super::print("no certificates from CAs (`tls: {acme: {}}` on a listener orders them)\n")?);
    }
    let text: String = names.iter().map(describe).collect();
    Ok(super::print(&safe(&text))?)
}

fn renew(args: &RenewArgs) -> Result<(), Failure> {
    let name = utf8_percent_encode(&args.name, NON_ALPHANUMERIC);
    let answer = ask(&args.control, Method::POST, &format!("/v1/certificates/{name}/renew"))?;
    if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::CONFLICT) {
        return Err(failure(safe(answer.json()?["detail"].as_str().unwrap_or(&answer.text))));
    }
    let done = answer.expect(StatusCode::ACCEPTED)?;
    let result = done["result"].as_str().unwrap_or_default();
    Ok(super::print(&format!("{}\n", safe(&format!("{}: {result}", args.name))))?)
}

fn describe(name: &Value) -> String {
    let word = |key: &str| name[key].as_str().unwrap_or_default().to_owned();
    let mut text = format!("{}: {}", word("name"), word("state"));
    if let Some(until) = name["not_after"].as_str() {
        text += &format!(", until {until} ({} days), from {}", name["days_left"], word("ca"));
    }
    if let Some(at) = name["renews_at"].as_str() {
        text += &format!(", renewed at {at}");
    }
    text += &format!(", account {}\n", word("account"));
    if let Some(failed) = name["failed"].as_object() {
        let word = |key: &str| failed.get(key).and_then(Value::as_str).unwrap_or_default();
        text += &format!("  {} at {}: {}: {}\n", word("at"), word("ca"), word("reason"), word("why"));
    }
    // It may have failed at another gateway.
    if let Some(again) = name["again_at"].as_str() {
        text += &format!("  tried again at {again}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_says_how_it_is_and_why_not() {
        let name = json!({
            "name": "a.example", "account": "default", "state": "valid", "ca": "ca.test",
            "not_after": "2026-03-01T00:00:00Z", "days_left": 60, "renews_at": "2026-02-01T00:00:00Z",
            "failed": null, "again_at": null,
        });
        let expected = "a.example: valid, until 2026-03-01T00:00:00Z (60 days), from ca.test, renewed at \
            2026-02-01T00:00:00Z, account default\n";
        assert_eq!(describe(&name), expected);
        let name = json!({
            "name": "b.example", "account": "default", "state": "missing", "ca": null, "not_after": null,
            "days_left": null, "renews_at": null, "again_at": "2026-01-01T00:05:00Z",
            "failed": {"at": "2026-01-01T00:00:00Z", "ca": "ca.test", "reason": "rate_limited", "why": "no"},
        });
        let expected = "b.example: missing, account default\n  \
            2026-01-01T00:00:00Z at ca.test: rate_limited: no\n  tried again at 2026-01-01T00:05:00Z\n";
        assert_eq!(describe(&name), expected);
    }
}
