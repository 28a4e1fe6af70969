//! The command line: one file for each command. A command prints its result to standard output and says why it failed
//! in one `Failure`, whose kind is the exit code.

mod admin_tls;
mod ask;
mod backend;
mod ca;
mod canary;
mod certs;
mod check;
mod client;
mod completions;
mod configs;
mod control_plane;
mod convert;
mod diff;
mod events;
mod explain;
mod gateway;
mod gateways;
mod hash_password;
mod man;
mod plane;
#[cfg(feature = "wasm")]
mod plugin;
mod proxy;
mod run;
mod schema;
mod services;
mod sidecar;
mod status;
mod tail;
mod terminal;
mod text;
mod token;
mod top;
mod upgrade;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use serde::Serialize;

pub use gateway::Gateway;

use crate::{app::Failure, filter::Registry};

/// A programmable gateway: routes in one YAML file, reload without a lost request
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 failed while running, 2 usage, 3 configuration invalid (`check --strict`: warned, `convert --strict`: something left), \
4 could not bind, 5 hand-over or upgrade failed";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (SIGHUP reload, SIGTERM drain, SIGUSR2 upgrade, SIGQUIT hand over, SIGUSR1 reopen logs)
    Run(run::RunArgs),
    /// Compile a configuration without running it
    Check(check::CheckArgs),
    /// Show which route a request would take, which were close and why not, and which filters would run
    Explain(explain::ExplainArgs),
    /// Write another gateway's configuration in our words
    Convert(convert::ConvertArgs),
    /// Print the JSON Schema of the configuration, for editors; with --api, what the admin API is
    Schema(schema::SchemaArgs),
    /// Hash a password for a `basic_auth` filter
    HashPassword(hash_password::HashPasswordArgs),
    /// Print what a shell needs to complete the arguments of this program
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(man::ManArgs),
    /// Show what a file with a plugin is, and whether it can be one here
    #[cfg(feature = "wasm")]
    Plugin(plugin::PluginArgs),
    /// Run a gateway without a file: everything from one address to one upstream
    Proxy(proxy::ProxyArgs),
    /// Run a small test backend
    Backend(backend::BackendArgs),
    /// Run a control plane: a registry that services announce themselves at
    Control(control_plane::ControlPlaneArgs),
    /// Show who is registered at a control plane, register something that has no sidecar, or remove it
    Services(Box<services::ServicesArgs>),
    /// Put, show and roll back configurations that gateways take from a control plane, and lead their rollouts
    Config(Box<configs::ConfigArgs>),
    /// Show the gateways that take their configuration from a control plane
    Gateways(gateways::GatewaysArgs),
    /// Make, list and revoke the tokens with which a gateway asks its control plane for a first SVID
    Token(token::TokenArgs),
    /// Show how a running gateway is, and what needs attention and why; exit code 1 unless it is ready
    Status(status::StatusArgs),
    /// Watch what a running gateway's routes and endpoints do, second by second
    Top(top::TopArgs),
    /// Follow a running gateway's access log, filtered there
    Tail(tail::TailArgs),
    /// Tell a running gateway to read its configuration again
    Reload(ask::AskArgs),
    /// Have a running gateway start the program anew, which then takes its place; exit code 5 if it serves on
    Upgrade(upgrade::UpgradeArgs),
    /// Show a running gateway's canaries, or promote, roll back, pause, resume or step one
    Canary(canary::CanaryArgs),
    /// Show a running gateway's certificates from CAs (ACME), or order one anew
    Certs(certs::CertsArgs),
    /// The built-in CA: make one, issue SVIDs, show certificates
    Ca(ca::CaArgs),
    /// What a sidecar needs of its host
    Sidecar(sidecar::SidecarArgs),
    /// Tell a running gateway to finish what is in flight and end
    Drain(ask::AskArgs),
}

/// Run the command that the arguments name, with these filters.
fn run_command(registry: &Arc<Registry>) -> ExitCode {
    // clap ends the process itself with 2 when the arguments are wrong.
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args, registry).map(done),
        Command::Check(args) => check::run(&args, registry),
        Command::Explain(args) => explain::run(&args, registry),
        Command::Convert(args) => convert::run(&args),
        Command::Schema(args) => schema::run(&args, registry).map(done),
        Command::HashPassword(args) => hash_password::run(&args).map(done),
        Command::Completions(args) => completions::run(&args).map(done),
        Command::Man(args) => man::run(&args).map(done),
        #[cfg(feature = "wasm")]
        Command::Plugin(args) => plugin::run(&args),
        Command::Proxy(args) => proxy::run(&args, registry).map(done),
        Command::Backend(args) => asynchronous(backend::run(args)).map(done),
        Command::Control(args) => control_plane::run(&args, registry).map(done),
        Command::Services(args) => services::run(&args),
        Command::Config(args) => configs::run(&args, registry),
        Command::Gateways(args) => gateways::run(&args).map(done),
        Command::Token(args) => token::run(&args).map(done),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args).map(done),
        Command::Tail(args) => tail::run(&args).map(done),
        Command::Reload(args) => ask::reload(&args).map(done),
        Command::Upgrade(args) => upgrade::run(&args).map(done),
        Command::Canary(args) => canary::run(&args).map(done),
        Command::Certs(args) => certs::run(&args).map(done),
        Command::Ca(args) => ca::run(&args),
        Command::Sidecar(args) => sidecar::run(&args),
        Command::Drain(args) => ask::drain(&args).map(done),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Run a command that goes on until it has enough. One that reads no more (`| head`) has.
fn following<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

/// Run a command that waits.
fn asynchronous<T>(command: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(command)?)
}

/// Write a command's result. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> io::Result<()> {
    print_more(text).map(drop)
}

/// An answer for programs.
fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value).map_err(io::Error::other)?))
}

/// The same for what goes on: false once nobody reads it any more.
fn print_more(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// A failure in words of our own.
fn failure(message: impl Into<String>) -> Failure {
    Failure::Runtime(io::Error::other(message.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense_to_clap() {
        super::Cli::command().debug_assert();
    }
}
