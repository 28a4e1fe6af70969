//! `tidegate proxy`: a gateway without a file. The arguments become the configuration that a file would hold, so that
//! it behaves like any other.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    app::{self, Failure, Source, Terms},
    filter::Registry,
    upstream,
};

#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Where to listen: an IP address and a port (`:8000` is every address of this machine); or https://NAME, for which a
    /// certificate is ordered from Let's Encrypt
    #[arg(long, value_name = "ADDRESS|URL", default_value = "127.0.0.1:8000")]
    from: String,
    /// Where to send requests: `host:port`; may be repeated, requests then take turns
    #[arg(long, value_name = "ADDRESS", required = true, value_parser = endpoint)]
    to: Vec<String>,
    /// Where the admin API listens [default: nowhere]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    #[command(flatten)]
    secure: SecureArgs,
}

/// What `--from https://NAME` takes beside it.
#[derive(Debug, Default, Args)]
struct SecureArgs {
    /// With https://NAME: where HTTPS listens [default: :443]
    #[arg(long, value_name = "ADDRESS")]
    https: Option<String>,
    /// With https://NAME: where plain HTTP listens, for the CA's questions and to redirect all others [default: :80]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// With https://NAME: where the CA writes to when something is wrong
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// With https://NAME: order at the CA's staging, for trying things out
    #[arg(long, conflicts_with = "directory")]
    staging: bool,
    /// With https://NAME: the directory of another CA
    #[arg(long, value_name = "URL")]
    directory: Option<String>,
    /// With --directory: trust the authorities in this file (PEM) for the CA's own HTTPS
    #[arg(long, value_name = "FILE", requires = "directory")]
    directory_ca: Option<PathBuf>,
    /// With https://NAME: where the certificate is kept [default: tidegate in $STATE_DIRECTORY, $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

pub(crate) fn run(args: &ProxyArgs, registry: &Arc<Registry>) -> Result<(), Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    app::run(Source::Text(configuration(args, &variable)?), Terms::default(), registry)
}

/// JSON is YAML, and needs no quoting rules of our own.
fn configuration(args: &ProxyArgs, variable: &impl Fn(&str) -> Option<String>) -> Result<String, Failure> {
    let admin = args.admin.as_ref().map_or(json!(false), |address| json!({"address": address}));
    let mut config = json!({
        "admin": admin,
        "listeners": [{"name": "proxy", "address": args.from}],
        "routes": [{"name": "all", "upstream": "backend"}],
        "upstreams": {"backend": {"endpoints": args.to}},
    });
    match args.from.strip_prefix("https://") {
        Some(name) => secure(&mut config, name.trim_end_matches('/'), &args.secure, variable)?,
        None if args.secure.is_given() => {
            let hint = "write `--from https://www.example.com`";
            return Err(super::failure(format!("what is given is for a name with a certificate ({hint})")));
        }
        None => {}
    }
    serde_yaml::to_string(&config).map_err(|error| super::failure(error.to_string()))
}

fn secure(
    config: &mut Value,
    name: &str,
    args: &SecureArgs,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<(), Failure> {
    if name.contains([':', '/']) {
        let hint = "write `--from https://www.example.com --https :8443`";
        return Err(super::failure(format!("https://{name} has a port or a path ({hint})")));
    }
    let folder = args.state_dir.clone().or_else(|| {
        let below = |variable: Option<String>, path: &str| Some(PathBuf::from(variable?).join(path));
        below(variable("STATE_DIRECTORY"), "")
            .or_else(|| below(variable("XDG_STATE_HOME"), "tidegate"))
            .or_else(|| below(variable("HOME"), ".local/state/tidegate"))
    });
    let Some(folder) = folder else {
        return Err(super::failure("there is no place for the certificate (give --state-dir FOLDER)"));
    };
    config["state_dir"] = json!(folder);
    let mut account = json!({"staging": args.staging});
    if let Some(email) = &args.email {
        account["email"] = json!(email);
    }
    if let Some(directory) = &args.directory {
        let mut ca = json!({"directory": directory});
        if let Some(file) = &args.directory_ca {
            ca["ca"] = json!(file);
        }
        account["cas"] = json!([ca]);
    }
    config["acme"] = json!({"default": account});
    let (https, http) = (args.https.as_deref().unwrap_or(":443"), args.http.as_deref().unwrap_or(":80"));
    let port = https.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(443);
    config["listeners"] = json!([
        {"name": "proxy", "address": https, "tls": {"acme": {"names": [name]}}},
        {"name": "redirect", "address": http, "filters": [{"https_redirect": {"port": port}}]},
    ]);
    Ok(())
}

impl SecureArgs {
    fn is_given(&self) -> bool {
        let SecureArgs { https, http, email, staging, directory, directory_ca, state_dir } = self;
        let texts = [https, http, email, directory];
        *staging
            || texts.into_iter().any(Option::is_some)
            || [directory_ca, state_dir].into_iter().any(Option::is_some)
    }
}

/// Refused here, where the operator wrote it, rather than in a file that does not exist.
fn endpoint(text: &str) -> Result<String, String> {
    // As for listeners: a port alone is one of this machine.
    let full = if text.starts_with(':') { format!("localhost{text}") } else { text.to_owned() };
    match full.parse::<upstream::Address>() {
        Ok(_) => Ok(full),
        Err(bad) => Err(bad.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter, snapshot::compile};

    fn args(from: &str, secure: SecureArgs) -> ProxyArgs {
        let to = vec!["localhost:3000".to_owned(), "[::1]:3001".to_owned()];
        ProxyArgs { from: from.to_owned(), to, admin: None, secure }
    }

    fn home(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/me".to_owned())
    }

    #[test]
    fn arguments_are_a_configuration_that_compiles() {
        let args = args(":8000", SecureArgs::default());
        let loaded = Source::Text(configuration(&args, &home).unwrap()).load().unwrap();
        let plan = compile(loaded, &filter::Live::offline()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(&*plan.listeners[0].address, ":8000");
        assert_eq!(plan.config.upstreams["backend"].endpoints.len(), 2);
    }

    #[test]
    fn a_name_gets_a_certificate_and_a_redirect() {
        let args = args("https://www.example.com/", SecureArgs { staging: true, ..SecureArgs::default() });
        let loaded = Source::Text(configuration(&args, &home).unwrap()).load().unwrap();
        let plan = compile(loaded, &filter::Live::offline()).unwrap_or_else(|problems| panic!("{problems}"));
        let addresses: Vec<&str> = plan.listeners.iter().map(|listener| &*listener.address).collect();
        assert_eq!(addresses, [":443", ":80"]);
        let folder = std::path::Path::new("/home/me/.local/state/tidegate");
        assert_eq!(plan.config.state_dir.as_deref(), Some(folder));
    }

    #[test]
    fn what_makes_no_sense_says_what_does() {
        let refused = |from: &str, secure: SecureArgs| {
            configuration(&args(from, secure), &|_| None).unwrap_err().to_string()
        };
        assert!(refused("https://www.example.com", SecureArgs::default()).contains("--state-dir"));
        assert!(refused("https://www.example.com:8443", SecureArgs::default()).contains("--https :8443"));
        let staging = SecureArgs { staging: true, ..SecureArgs::default() };
        assert!(refused(":8000", staging).contains("--from https://"));
    }

    #[test]
    fn a_wrong_target_is_refused_at_once() {
        assert!(endpoint("http://localhost:3000").is_err());
        assert!(endpoint("localhost").is_err());
        assert_eq!(endpoint(":3000").as_deref(), Ok("localhost:3000"));
    }
}
