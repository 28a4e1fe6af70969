//! `tidegate control`: a control plane. Without a file it listens on loopback; a file says more, and may hold a gateway's
//! listeners and routes as well.

use std::{
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::json;

use crate::{
    app::{self, Failure, Source, Terms},
    config::{Problem, Problems},
    filter::Registry,
};

#[derive(Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    /// The configuration file, which has `control.serve`
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["listen", "state_dir", "etcd"])]
    config: Option<PathBuf>,
    /// Where to listen: an address of this machine alone; any other needs a file with `tls` and `authorize`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9902")]
    listen: String,
    /// Where what is registered is kept over a restart [default: nowhere]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Share what is registered with the replicas of this machine that are given the same etcd
    #[arg(long, value_name = "URL,..", value_delimiter = ',', conflicts_with = "state_dir")]
    etcd: Vec<String>,
}

pub(crate) fn run(args: &ControlPlaneArgs, registry: &Arc<Registry>) -> Result<(), Failure> {
    let source = match &args.config {
        Some(file) => {
            let source = Source::File(file.clone());
            check_serves(&source, file)?;
            source
        }
        None => Source::Text(configuration(args)?),
    };
    app::run(source, Terms::default(), registry)
}

fn check_serves(source: &Source, file: &FilePath) -> Result<(), Failure> {
    let loaded = source.load()?;
    if loaded.config().map_err(Problems::clone)?.serves_control().is_some() {
        return Ok(());
    }
    let problem = Problem::new(format!("{}: no control plane is served", file.display()));
    Err(Failure::Config(problem.hint("add `control: {serve: {}}`, or use `tidegate run`").into()))
}

/// JSON is YAML, and needs no quoting rules of our own.
fn configuration(args: &ControlPlaneArgs) -> Result<String, Failure> {
    let mut config = json!({"admin": false, "control": {"serve": {"address": args.listen}}});
    if let Some(directory) = &args.state_dir {
        // The text has no place of its own from which a relative path would lead.
        config["state_dir"] = json!(std::path::absolute(directory)?);
    }
    if !args.etcd.is_empty() {
        config["control"]["serve"]["store"] = json!({"etcd": {"endpoints": args.etcd}});
        config["control"]["serve"]["advertise"] = json!(args.listen);
    }
    serde_yaml::to_string(&config).map_err(|error| super::failure(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{filter, snapshot::compile};

    fn compiled(listen: &str) -> Result<(), String> {
        compiled_with(listen, &[])
    }

    fn compiled_with(listen: &str, etcd: &[&str]) -> Result<(), String> {
        let args = ControlPlaneArgs {
            config: None,
            listen: listen.to_owned(),
            state_dir: Some(PathBuf::from("state")),
            etcd: etcd.iter().map(ToString::to_string).collect(),
        };
        let loaded = Source::Text(configuration(&args).unwrap()).load().unwrap();
        compile(loaded, &filter::Live::offline()).map(drop).map_err(|problems| problems.to_string())
    }

    #[test]
    fn arguments_are_a_configuration_that_compiles_on_loopback_alone() {
        assert_eq!(compiled("127.0.0.1:0"), Ok(()));
        assert_eq!(compiled("[::1]:9902"), Ok(()));
        assert_eq!(compiled_with("127.0.0.1:0", &["http://127.0.0.1:2379", "https://etcd:2379"]), Ok(()));
        assert!(compiled_with("127.0.0.1:0", &["http://etcd:2379"]).is_err());
        for elsewhere in [":9902", "0.0.0.0:9902"] {
            assert!(compiled(elsewhere).unwrap_err().contains("is not a loopback address"));
        }
    }
}
