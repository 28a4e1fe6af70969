//! `tidegate token`: what a gateway comes with for its first SVID.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use super::{
    plane::ServerArgs,
    services::ID,
    text::{self, safe},
};
use crate::{
    app::Failure,
    identity::{SpiffeId, parse_id},
};

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token, and print it: it is not shown again
    Create(CreateArgs),
    /// Show the tokens, without their secrets
    List(ListArgs),
    /// Make a token useless
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The SPIFFE ID that it is for
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: SpiffeId,
    /// How many SVIDs it is good for
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    uses: u32,
    /// How long it may be used
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print the list as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The id of the token, as `tidegate token list` shows it
    id: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// # Errors
///
/// The control plane cannot be asked, or refuses.
pub(crate) fn run(args: &TokenArgs) -> Result<(), Failure> {
    match &args.command {
        Command::Create(args) => create(args),
        Command::List(args) => list(args),
        Command::Revoke(args) => revoke(args),
    }
}

/// The token alone goes to standard output, so that it can be written to a file.
fn create(args: &CreateArgs) -> Result<(), Failure> {
    let target = args.server.target()?;
    let ttl = humantime::format_duration(args.ttl).to_string().replace(' ', "");
    let body = json!({"id": args.id.to_string(), "uses": args.uses, "ttl": ttl}).to_string();
    let made = super::asynchronous(async {
        let answer = target.ask(Method::POST, "/v1/tokens", body).await?;
        Ok(answer.expect(StatusCode::CREATED))
    })??;
    let text = |key: &str| safe(made[key].as_str().unwrap_or_default());
    eprintln!("token {} for {}, until {}", text("id"), text("spiffe"), text("until"));
    Ok(super::print(&format!("{}\n", text("token")))?)
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let target = args.server.target()?;
    let listed = super::asynchronous(async {
        let answer = target.ask(Method::GET, "/v1/tokens", "").await?;
        Ok(answer.expect(StatusCode::OK))
    })??;
    if args.json {
        return Ok(super::print_json(&listed["tokens"])?);
    }
    let tokens = listed["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(super::print(&safe(&table(tokens)))?)
}

fn revoke(args: &RevokeArgs) -> Result<(), Failure> {
    let target = args.server.target()?;
    let path = format!("/v1/tokens/{}", utf8_percent_encode(&args.id, ID));
    super::asynchronous(async {
        let answer = target.ask(Method::DELETE, &path, "").await?;
        Ok(if answer.status == StatusCode::NO_CONTENT { Ok(()) } else { Err(answer.failure()) })
    })??;
    Ok(super::print(&format!("revoked: {}\n", safe(&args.id)))?)
}

fn table(tokens: &[Value]) -> String {
    if tokens.is_empty() {
        return "there are no tokens\n".to_owned();
    }
    let rows = tokens.iter().map(|token| {
        let text = |key: &str| token[key].as_str().unwrap_or_default().to_owned();
        let left = format!("{} of {}", token["left"], token["uses"]);
        [text("id"), text("spiffe"), text("state"), left, text("until"), text("by")]
    });
    text::table(["ID", "FOR", "STATE", "USES LEFT", "UNTIL", "BY"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whose_it_is_and_whether_it_can_be_used() {
        let tokens = [json!({
            "id": "0123456789abcdef", "spiffe": "spiffe://mesh.local/a", "state": "usable", "left": 2, "uses": 3,
            "until": "2030-01-01T00:00:00.000Z", "created": "x", "by": "authorize[0].token",
        })];
        let expected = "ID                FOR                    STATE   USES LEFT  UNTIL                     BY\n\
            0123456789abcdef  spiffe://mesh.local/a  usable  2 of 3     2030-01-01T00:00:00.000Z  authorize[0].token\n";
        assert_eq!(table(&tokens), expected);
        assert_eq!(table(&[]), "there are no tokens\n");
    }
}
