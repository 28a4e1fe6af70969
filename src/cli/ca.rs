//! `tidegate ca`: the built-in CA, for meshes without SPIRE.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    x509::{X509, X509NameRef},
};
use serde::Serialize;

use super::{failure, text::safe};
use crate::{
    app::Failure,
    identity::{
        SpiffeId, TrustDomain, authority_domain,
        ca::{self, Authority},
        hex, leaf_id, parse_id, parse_trust_domain,
    },
    tls::time,
};

#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new CA: ca.pem and ca.key
    Init(InitArgs),
    /// Issue an SVID: svid.pem, svid.key and bundle.pem
    Issue(IssueArgs),
    /// Show the certificates in a file
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Whose members it vouches for, such as mesh.local
    #[arg(long, value_name = "NAME", value_parser = parse_trust_domain)]
    trust_domain: TrustDomain,
    /// The directory to keep it in
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid
    #[arg(long, value_name = "DURATION", default_value = "3650d", value_parser = duration)]
    ttl: Duration,
    /// Leave one that is there already as it is, if it is of the same trust domain
    #[arg(long)]
    if_missing: bool,
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// Who it is for, such as spiffe://mesh.local/payments
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: SpiffeId,
    /// The directory of the CA
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The directory to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid; never longer than the CA is
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    ttl: Duration,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// A file of certificates in PEM
    file: PathBuf,
    /// Print them as JSON, for programs
    #[arg(long)]
    json: bool,
}

/// # Errors
///
/// It cannot be made, issued or read. Nothing is left half written.
pub(crate) fn run(args: &CaArgs) -> Result<ExitCode, Failure> {
    let result = match &args.command {
        Command::Init(args) => init(args),
        Command::Issue(args) => issue(args),
        Command::Show(args) => show(args),
    };
    super::print(&result.map_err(failure)?)?;
    Ok(ExitCode::SUCCESS)
}

fn init(args: &InitArgs) -> Result<String, String> {
    if args.if_missing && args.out.join("ca.key").exists() {
        let there = Authority::open(&args.out).map_err(|error| error.to_string())?;
        let (domain, out) = (&there.trust_domain, safe(&args.out.display().to_string()));
        return match *domain == args.trust_domain {
            true => Ok(format!("CA of {domain} is in {out} already\n")),
            false => Err(format!("{out} holds a CA of {domain} (give another --out)")),
        };
    }
    let authority =
        Authority::new(args.trust_domain.clone(), args.ttl, SystemTime::now()).map_err(|e| e.to_string())?;
    authority.write_to(&args.out).map_err(|error| error.to_string())?;
    Ok(format!(
        "CA of {}, valid until {}, in {} (keep ca.key secret)\n",
        authority.trust_domain,
        moment(authority.not_after),
        safe(&args.out.display().to_string()),
    ))
}

fn issue(args: &IssueArgs) -> Result<String, String> {
    let authority = Authority::open(&args.ca).map_err(|error| error.to_string())?;
    let bundle = authority.bundle().map_err(|error| format!("the CA's certificate {error}"))?;
    let now = SystemTime::now();
    let svid = authority.issue(&args.id, args.ttl, now).map_err(|error| error.to_string())?;
    ca::write_svid(&svid, &bundle, &args.out).map_err(|error| error.to_string())?;
    let cut =
        if svid.not_after + Duration::from_secs(1) < now + args.ttl { ", as long as the CA" } else { "" };
    let out = safe(&args.out.display().to_string());
    Ok(format!("{}, valid until {}{cut}, in {out}\n", svid.id, moment(svid.not_after)))
}

fn show(args: &ShowArgs) -> Result<String, String> {
    let path = safe(&args.file.display().to_string());
    let pem = fs::read(&args.file).map_err(|error| format!("cannot read {path}: {error}"))?;
    let certificates = X509::stack_from_pem(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(format!("{path} holds no certificate in PEM (name svid.pem, bundle.pem or ca.pem)"));
    }
    let described: Result<Vec<Described>, _> = certificates.iter().map(Described::of).collect();
    let described = described.map_err(|error| format!("{path}: {error}"))?;
    if args.json {
        return Ok(serde_json::to_string_pretty(&described).map_err(|error| error.to_string())? + "\n");
    }
    Ok(described.iter().map(Described::lines).collect::<Vec<_>>().join("\n"))
}

/// A certificate, for people and for programs.
#[derive(Serialize)]
struct Described {
    /// `svid`, `authority` or `other`.
    kind: &'static str,
    /// Of SPIFFE; null where it has none.
    id: Option<String>,
    #[serde(skip)]
    why_none: Option<String>,
    subject: String,
    issuer: String,
    serial: String,
    from: String,
    until: String,
    sha256: String,
}

impl Described {
    fn of(certificate: &X509) -> Result<Described, ErrorStack> {
        let (kind, id, why_none) = match (leaf_id(certificate), authority_domain(certificate)) {
            (Ok(id), _) => ("svid", Some(id.to_string()), None),
            (_, Ok(domain)) => ("authority", Some(domain.id_string()), None),
            (Err(why), _) => ("other", None, Some(format!("(as an SVID it {why})"))),
        };
        let entry = |name: &X509NameRef| -> String {
            let entries = name.entries().map(|entry| {
                let kind = entry.object().nid().short_name().unwrap_or("?");
                format!("{kind}={}", entry.data().to_string().unwrap_or_default())
            });
            entries.collect::<Vec<_>>().join(", ")
        };
        Ok(Described {
            kind,
            id,
            why_none,
            subject: entry(certificate.subject_name()),
            issuer: entry(certificate.issuer_name()),
            serial: certificate.serial_number().to_bn()?.to_hex_str()?.to_lowercase(),
            from: moment(time(certificate.not_before())).to_string(),
            until: moment(time(certificate.not_after())).to_string(),
            sha256: hex(&certificate.digest(MessageDigest::sha256())?),
        })
    }

    fn lines(&self) -> String {
        let id = self.id.as_ref().or(self.why_none.as_ref());
        let id = id.map(String::as_str).unwrap_or_default();
        let lines = [
            (self.kind, id),
            ("subject", self.subject.as_str()),
            ("issuer", self.issuer.as_str()),
            ("serial", self.serial.as_str()),
            ("from", self.from.as_str()),
            ("until", self.until.as_str()),
            ("sha256", self.sha256.as_str()),
        ];
        lines.iter().map(|(name, value)| format!("{name:<9} {}\n", safe(value))).collect()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    /// Beyond this a date no longer fits where certificates keep it.
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
    let duration = humantime::parse_duration(text).map_err(|_| "is no duration, such as 24h or 30d")?;
    match duration {
        _ if duration < Duration::from_secs(1) => Err("is less than a second".into()),
        _ if duration > LONGEST => Err("is more than a hundred years".into()),
        _ => Ok(duration),
    }
}

fn moment(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(time)
}
