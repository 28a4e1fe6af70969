//! `tidegate proxy`: a gateway without a file. The arguments become the configuration that a file would hold, so that
//! it behaves like any other.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::{
    app::{self, Failure, Source, Terms},
    filter::Registry,
    upstream,
};

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Where to listen: an IP address and a port; `:8000` is every address of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    from: String,
    /// Where to send requests: `host:port`; may be repeated, requests then take turns
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = endpoint)]
    to: Vec<String>,
    /// Where the admin API listens [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
}

pub(crate) fn run(args: &ProxyArgs, registry: &Arc<Registry>) -> Result<(), Failure> {
    app::run(Source::Text(configuration(args)?), Terms::default(), registry)
}

/// JSON is YAML, and needs no quoting rules of our own.
fn configuration(args: &ProxyArgs) -> Result<String, Failure> {
    let admin = args.admin.as_ref().map_or(json!(false), |address| json!({"address": address}));
    let config = json!({
        "admin": admin,
        "listeners": [{"name": "proxy", "address": args.from}],
        "routes": [{"name": "all", "upstream": "backend"}],
        "upstreams": {"backend": {"endpoints": args.to}},
    });
    serde_yaml::to_string(&config).map_err(|error| super::failure(error.to_string()))
}

/// Refused here, where the operator wrote it, rather than in a file that does not exist.
fn endpoint(text: &str) -> Result<String, String> {
    match text.parse::<upstream::Address>() {
        Ok(_) => Ok(text.to_owned()),
        Err(bad) => Err(bad.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter, snapshot::compile};

    #[test]
    fn arguments_are_a_configuration_that_compiles() {
        let to = vec!["localhost:3000".to_owned(), "[::1]:3001".to_owned()];
        let args = ProxyArgs { from: ":8000".to_owned(), to, admin: None };
        let loaded = Source::Text(configuration(&args).unwrap()).load().unwrap();
        let plan = compile(loaded, &filter::Live::offline()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(&*plan.listeners[0].address, ":8000");
        assert_eq!(plan.config.upstreams["backend"].endpoints.len(), 2);
    }

    #[test]
    fn a_wrong_target_is_refused_at_once() {
        assert!(endpoint("http://localhost:3000").is_err());
        assert!(endpoint("localhost").is_err());
    }
}
