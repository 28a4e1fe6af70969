//! `tidegate ca`: the built-in CA, for meshes without SPIRE.

use std::{
    fmt::Write,
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};
use openssl::{hash::MessageDigest, x509::X509};

use super::{failure, text::safe};
use crate::{
    app::Failure,
    identity::{
        SpiffeId, TrustDomain, authority_domain,
        ca::{self, Authority},
        leaf_id, parse_id, parse_trust_domain,
    },
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
    let mut shown = String::new();
    for (index, certificate) in certificates.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let described = describe(certificate).map_err(|error| format!("{path}: {error}"))?;
        shown += &format!("{gap}{described}");
    }
    Ok(shown)
}

fn describe(certificate: &X509) -> Result<String, openssl::error::ErrorStack> {
    let (kind, id) = match (leaf_id(certificate), authority_domain(certificate)) {
        (Ok(id), _) => ("svid", id.to_string()),
        (_, Ok(domain)) => ("authority", domain.id_string()),
        (Err(why), _) => ("other", format!("(as an SVID it {why})")),
    };
    let entry = |name: &openssl::x509::X509NameRef| -> String {
        let entries = name.entries().map(|entry| {
            let kind = entry.object().nid().short_name().unwrap_or("?");
            format!("{kind}={}", entry.data().to_string().unwrap_or_default())
        });
        safe(&entries.collect::<Vec<_>>().join(", "))
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut lines = String::new();
    for (name, value) in [
        (kind, safe(&id)),
        ("subject", entry(certificate.subject_name())),
        ("issuer", entry(certificate.issuer_name())),
        ("serial", certificate.serial_number().to_bn()?.to_hex_str()?.to_lowercase()),
        ("from", certificate.not_before().to_string()),
        ("until", certificate.not_after().to_string()),
        ("sha256", hex(&certificate.digest(MessageDigest::sha256())?)),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name:<9} {value}");
    }
    Ok(lines)
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
