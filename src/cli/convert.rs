//! `tidegate convert`: another gateway's configuration in our words. What has no equal here stands as a comment in what is written, and is
//! listed on standard error as well.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{
    failure,
    text::{count, safe},
};
use crate::{
    app::Failure,
    convert::{Converted, gateway_api, nginx, traefik},
};

/// With `--strict`: something was not carried over.
const LEFT: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// A configuration of nginx, with what it includes
    Nginx(NginxArgs),
    /// Traefik's dynamic configuration in YAML, and its static one beside it
    Traefik(FilesArgs),
    /// Gateways and routes of the Kubernetes Gateway API, as manifests or as kubectl prints them
    GatewayApi(FilesArgs),
}

#[derive(Debug, Args)]
struct NginxArgs {
    /// nginx.conf, or the file of one site
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What relative paths in it are relative to, such as /etc/nginx [default: the file's folder]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct FilesArgs {
    /// YAML or JSON
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// What all conversions have in common.
#[derive(Debug, Args)]
struct Output {
    /// Write to this file in place of standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fail with exit code 3 where something was not carried over
    #[arg(long)]
    strict: bool,
}

pub(crate) fn run(args: &ConvertArgs) -> Result<ExitCode, Failure> {
    match &args.from {
        From::Nginx(NginxArgs { file, prefix, output }) => {
            let converted = nginx::convert(file, prefix.as_deref())
                .map_err(|refused| failure(safe(&refused.to_string())))?;
            write(&converted, output)
        }
        From::Traefik(FilesArgs { files, output }) => {
            let converted = traefik::convert(&read(files)?);
            write(&converted.map_err(|problems| failure(safe(&problems.to_string())))?, output)
        }
        From::GatewayApi(FilesArgs { files, output }) => {
            let converted = gateway_api::convert(&read(files)?);
            write(&converted.map_err(|problems| failure(safe(&problems.to_string())))?, output)
        }
    }
}

/// Names and texts.
fn read(files: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let read = |path: &PathBuf| match fs::read_to_string(path) {
        Ok(text) => Ok((path.display().to_string(), text)),
        Err(error) => Err(failure(format!("cannot read {}: {error}", path.display()))),
    };
    files.iter().map(read).collect()
}

fn write(converted: &Converted, output: &Output) -> Result<ExitCode, Failure> {
    let text = converted.file.to_string();
    match &output.out {
        None => super::print(&text)?,
        Some(path) => {
            fs::write(path, text)
                .map_err(|error| failure(format!("cannot write {}: {error}", path.display())))?;
        }
    }
    converted.left.iter().for_each(|left| eprintln!("{}", safe(&left.to_string())));
    match converted.left.len() {
        0 => eprintln!("everything was carried over"),
        left => eprintln!("{} not carried over; the same is in the file's comments", count(left, "line")),
    }
    Ok(if output.strict && !converted.left.is_empty() { ExitCode::from(LEFT) } else { ExitCode::SUCCESS })
}
