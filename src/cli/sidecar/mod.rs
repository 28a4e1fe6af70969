//! `tidegate sidecar iptables`: has the kernel bring an application's connections to its sidecar, or no longer.
//!
//! Ports come from the sidecar's configuration, so that the rules and the listeners agree.

mod rules;
mod run;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;

use self::rules::{Capture, Family, Rules, removal_of_all};
use super::{failure, text::safe};
use crate::{
    app::{Failure, Source},
    config::{Addresses, Admin, Config, Mode, OriginalDestination},
};

#[derive(Debug, Args)]
pub(crate) struct SidecarArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Redirect the application's connections to the sidecar, or no longer
    Iptables(Box<IptablesArgs>),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["print", "apply", "remove"])))]
struct IptablesArgs {
    /// Print the commands instead of running them; with --remove those that remove
    #[arg(long)]
    print: bool,
    /// Make the rules what they are to be; twice is the same as once
    #[arg(long, conflicts_with = "remove")]
    apply: bool,
    /// Take all of them away again, if they are there
    #[arg(long)]
    remove: bool,
    /// The sidecar's configuration, which says the ports [default: conf/gateway.yaml, unless a port is given]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where connections to the application go, instead of what the configuration says
    #[arg(long, value_name = "PORT")]
    inbound_port: Option<u16>,
    /// Where connections of the application go, instead of what the configuration says
    #[arg(long, value_name = "PORT")]
    outbound_port: Option<u16>,
    /// The user that the sidecar runs as, whose own connections are left alone: a name or a number
    #[arg(long, value_name = "USER", default_value = "tidegate", value_parser = user)]
    uid: String,
    /// Connections to these ports of this host are left alone
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "22")]
    exclude_inbound_ports: Vec<u16>,
    /// Connections to these ports of others are left alone
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Vec<u16>,
    /// Connections to these networks are left alone, such as 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    exclude_cidrs: Vec<IpNet>,
    /// Leave IPv6 alone
    #[arg(long)]
    no_ipv6: bool,
}

/// # Errors
///
/// The configuration says no port, or the rules cannot be changed.
pub(crate) fn run(args: &SidecarArgs) -> Result<ExitCode, Failure> {
    let Command::Iptables(args) = &args.command;
    let families = if args.no_ipv6 { &Family::ALL[..1] } else { &Family::ALL[..] };
    let steps = match args.remove {
        true => removal_of_all(families),
        false => {
            let rules = rules(args)?;
            told_of_ipv6(&rules, args);
            let mut steps = rules.steps();
            steps.retain(|step| families.contains(&step.family()));
            steps
        }
    };
    if args.print {
        let script: String = steps.iter().map(|step| format!("{step}\n")).collect();
        super::print(&format!("#!/bin/sh\nset -e\n{script}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    run::take(&steps).map_err(failure)?;
    Ok(ExitCode::SUCCESS)
}

fn rules(args: &IptablesArgs) -> Result<Rules, Failure> {
    let both = |port| Capture { port, excluded_ports: Vec::new(), families: [true, !args.no_ipv6] };
    let mut rules = Rules {
        inbound: args.inbound_port.map(both),
        outbound: args.outbound_port.map(both),
        user: args.uid.clone(),
        excluded_networks: args.exclude_cidrs.iter().map(IpNet::trunc).collect(),
    };
    if args.config.is_some() || (rules.inbound.is_none() && rules.outbound.is_none()) {
        let file = args.config.clone().unwrap_or_else(|| "conf/gateway.yaml".into());
        let loaded = Source::File(file.clone()).load()?;
        let config = loaded.config().map_err(|problems| Failure::Config(problems.clone()))?;
        let (inbound, outbound) = captured(config);
        rules.inbound = rules.inbound.or(inbound);
        rules.outbound = rules.outbound.or(outbound);
        if let Some(inbound) = &mut rules.inbound {
            inbound.excluded_ports = own_ports(config);
        }
        if rules.inbound.is_none() && rules.outbound.is_none() {
            let file = safe(&file.display().to_string());
            return Err(failure(format!(
                "{file} has nothing to redirect connections to (give `sidecar.inbound` or `sidecar.outbound` an \
                 `original_destination: true`, or name a port with --inbound-port or --outbound-port)"
            )));
        }
    }
    if let Some(inbound) = &mut rules.inbound {
        inbound.excluded_ports.extend(&args.exclude_inbound_ports);
    }
    if let Some(outbound) = &mut rules.outbound {
        outbound.excluded_ports.extend(&args.exclude_outbound_ports);
    }
    Ok(rules)
}

/// The listeners of a sidecar that redirected connections are meant for.
fn captured(config: &Config) -> (Option<Capture>, Option<Capture>) {
    let Some(sidecar) = config.sidecar.as_ref().filter(|_| config.mode == Mode::Sidecar) else {
        return (None, None);
    };
    let capture = |addresses: &Addresses, original: &Option<OriginalDestination>| {
        original.as_ref().and_then(|_| capture(addresses))
    };
    let inbound = sidecar.inbound.as_ref();
    let outbound = sidecar.outbound.as_ref();
    (
        inbound.and_then(|inbound| capture(&inbound.address, &inbound.original_destination)),
        outbound.and_then(|outbound| capture(&outbound.address, &outbound.original_destination)),
    )
}

/// The port of the first address; the others that have it say for which family it is open too.
fn capture(addresses: &Addresses) -> Option<Capture> {
    let addresses: Vec<SocketAddr> = addresses.0.iter().filter_map(|address| parse(address)).collect();
    let port = addresses.first()?.port();
    let mut families = [false, false];
    for address in addresses.iter().filter(|address| address.port() == port) {
        families[0] |= address.is_ipv4() || address.ip().is_unspecified();
        families[1] |= address.is_ipv6();
    }
    Some(Capture { port, excluded_ports: Vec::new(), families })
}

/// Where this gateway is to be reached directly: its API and the listeners that nothing is redirected to.
fn own_ports(config: &Config) -> Vec<u16> {
    let listeners = config.listeners.iter().filter(|listener| listener.original_destination.is_none());
    let admin = match &config.admin {
        Admin::On(admin) => Some(&admin.address),
        Admin::Off(_) => None,
    };
    let addresses = listeners.map(|listener| &listener.address).chain(admin);
    let reachable = addresses.filter_map(|address| parse(address)).filter(|at| !at.ip().is_loopback());
    reachable.map(|address| address.port()).collect()
}

fn parse(address: &str) -> Option<SocketAddr> {
    match address.strip_prefix(':') {
        Some(_) => format!("[::]{address}").parse().ok(),
        None => address.parse().ok(),
    }
}

/// Connections that go past the sidecar without a word would be a surprise.
fn told_of_ipv6(rules: &Rules, args: &IptablesArgs) {
    let directions = [("inbound", &rules.inbound), ("outbound", &rules.outbound)];
    for (name, capture) in directions {
        if capture.as_ref().is_some_and(|capture| !capture.families[1]) && !args.no_ipv6 {
            eprintln!(
                "note: {name} connections over IPv6 are left alone, as sidecar.{name}.address has no IPv6 address \
                 (--no-ipv6 silences this)"
            );
        }
    }
}

/// Goes into the input of a command as it is.
fn user(text: &str) -> Result<String, String> {
    let is_possible = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_user =
        !text.is_empty() && !text.starts_with('-') && text.len() <= 32 && text.bytes().all(is_possible);
    if is_user { Ok(text.to_owned()) } else { Err("is no user's name or number".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn read(yaml: &str) -> Config {
        config::parse(yaml, "g.yaml").unwrap().config().unwrap().clone()
    }

    #[test]
    fn ports_are_those_of_the_listeners_that_connections_are_redirected_to() {
        let config = read(
            "mode: sidecar\nadmin: {address: '0.0.0.0:9901'}\nlisteners: [{address: ':8443'}, {address: \
             '127.0.0.1:7000'}]\nsidecar:\n  inbound: {address: '0.0.0.0:15006', original_destination: true}\n  \
             outbound: {address: ['127.0.0.1:15001', '[::1]:15001'], original_destination: true}\n",
        );
        let (inbound, outbound) = captured(&config);
        let (inbound, outbound) = (inbound.unwrap(), outbound.unwrap());
        assert_eq!((inbound.port, inbound.families), (15006, [true, false]));
        assert_eq!((outbound.port, outbound.families), (15001, [true, true]));
        assert_eq!(own_ports(&config), [8443, 9901]);
    }

    #[test]
    fn nothing_is_redirected_to_a_listener_that_does_not_say_so() {
        let config = read("mode: sidecar\nsidecar: {outbound: {address: '127.0.0.1:15001'}}\n");
        assert_eq!(captured(&config), (None, None));
    }

    #[test]
    fn every_address_is_open_to_both_families() {
        let capture = capture(&Addresses(vec![":15001".into()])).unwrap();
        assert_eq!((capture.port, capture.families), (15001, [true, true]));
    }

    #[test]
    fn a_user_is_a_word() {
        assert!(["tidegate", "1337", "_app-1.x"].iter().all(|name| user(name).is_ok()));
        assert!(["", "-j", "a b", "a\n-A x", "a;b"].iter().all(|name| user(name).is_err()));
    }
}
