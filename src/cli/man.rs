//! `tidegate man`: manual pages, one for each command. What is true of the process as a whole (signals, exit codes, files) is
//! taken from the documentation, so that it is written once.

use std::{fs, io, path::PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::failure;
use crate::app::{Failure, VERSION};

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write all pages to this directory, which is made where it is missing [default: print tidegate(1)]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    let mut command = super::Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.out else {
        return Ok(super::print(&String::from_utf8_lossy(&page(command)?))?);
    };
    let failed = |error: io::Error| failure(format!("{}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(failed)?;
    for command in all(command) {
        let file = folder.join(Man::new(command.clone()).get_filename());
        fs::write(file, page(command)?).map_err(failed)?;
    }
    Ok(())
}

/// A command and those below it.
fn all(command: Command) -> Vec<Command> {
    let below: Vec<_> = command.get_subcommands().filter(|below| !below.is_hide_set()).cloned().collect();
    let mut commands = vec![command];
    commands.extend(below.into_iter().flat_map(all));
    commands
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone()).source(format!("tidegate {}", VERSION)).manual("Tidegate");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let runs = matches!(name.as_str(), "tidegate" | "tidegate-run");
    let mut more = Roff::new();
    if runs {
        section(&mut more, "SIGNALS", rows("## Signals"));
        section(&mut more, "FILES", files());
    }
    section(&mut more, "EXIT STATUS", rows("## Exit codes"));
    see_also(&mut more, &name);
    more.to_writer(&mut page)?;
    Ok(page)
}

fn section(page: &mut Roff, title: &str, rows: Vec<(String, String)>) {
    page.control("SH", [title]);
    for (name, meaning) in rows {
        page.control("TP", []);
        page.text([bold(name)]);
        page.text([roman(meaning)]);
    }
}

fn see_also(page: &mut Roff, name: &str) {
    page.control("SH", ["SEE ALSO"]);
    let others = ["tidegate", "tidegate-run", "tidegate-check", "tidegate-explain", "tidegate-upgrade"];
    let others: Vec<_> =
        others.into_iter().filter(|other| *other != name).map(|other| format!("{other}(1)")).collect();
    page.text([roman(others.join(", "))]);
}

/// The first two columns of the table below this heading.
fn rows(heading: &str) -> Vec<(String, String)> {
    let below = OPERATIONS.lines().skip_while(|line| *line != heading).skip(1);
    let table = below.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| "));
    // The head is the first.
    let cells = table.skip(1).filter_map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(|cell| plain(cell.trim()));
        Some((cells.next()?, cells.next()?))
    });
    cells.collect()
}

fn files() -> Vec<(String, String)> {
    let of = |file: &str, meaning: &str| (file.to_owned(), meaning.to_owned());
    vec![
        of("/etc/tidegate/gateway.yaml", "The configuration of the packaged service."),
        of(
            "/var/lib/tidegate",
            "What survives a restart there (state_dir): canaries, parts, held configurations.",
        ),
        of("/run/tidegate/upgrade.sock", "Where `run --upgrade` waits for the running gateway, as root."),
        of("tidegate schema", "Prints the JSON Schema of the configuration, for editors."),
    ]
}

/// Markdown without its marks: `[text](target)` is the text.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (lead, label) = before.rsplit_once('[').unwrap_or((before, ""));
        plain += lead;
        plain += label;
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    plain += rest;
    plain.replace(['`', '*'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_says_of_signals_and_codes_is_found() {
        let signals = rows("## Signals");
        assert!(signals.iter().any(|(name, meaning)| name == "SIGHUP" && meaning.contains("configuration")));
        assert!(signals.iter().any(|(name, _)| name == "SIGUSR2"));
        let codes = rows("## Exit codes");
        assert_eq!(codes.first().map(|(code, _)| code.as_str()), Some("0"));
        assert!(codes.len() >= 6);
    }

    #[test]
    fn marks_are_taken_off() {
        assert_eq!(plain("a [successor](#upgrading) `run`"), "a successor run");
        assert_eq!(plain("no marks"), "no marks");
    }
}
