//! Takes the steps of a set of rules: runs the tools of iptables, and says clearly why one of them could not.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use super::rules::{Family, RESTORE, Step, TABLE, hook};

/// A hook that was made more often than this is not ours alone.
const MOST_HOOKS: usize = 16;

impl Step {
    pub(crate) fn family(&self) -> Family {
        match self {
            Step::Restore { family, .. }
            | Step::Hook { family, .. }
            | Step::Unhook { family, .. }
            | Step::Drop { family, .. } => *family,
        }
    }
}

/// # Errors
///
/// The first step that could not be taken, and what could be done about it. Those before it are in force.
pub(crate) fn take(steps: &[Step]) -> Result<(), String> {
    let mut able = Vec::new();
    for family in Family::ALL {
        let of_family = || steps.iter().filter(|step| step.family() == family);
        if of_family().next().is_none() {
            continue;
        }
        // Asks whether rules can be looked at at all: what is missing is told before anything is half done.
        let asked = spawn(Command::new(family.tool()).args(TABLE).args(["-S", "PREROUTING"]), "");
        let is_missing = asked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let only_removes = of_family().all(|step| matches!(step, Step::Unhook { .. } | Step::Drop { .. }));
        // Where there is no IPv6 there is nothing of ours to take away.
        if is_missing && only_removes && family == Family::V6 {
            continue;
        }
        judge(family.tool(), asked)?;
        able.push(family);
    }
    steps.iter().filter(|step| able.contains(&step.family())).try_for_each(step)
}

fn step(step: &Step) -> Result<(), String> {
    match step {
        Step::Restore { family, input } => {
            let output = spawn(Command::new(family.restore()).args(RESTORE), input);
            judge(family.restore(), output)
        }
        Step::Hook { family, from, to } => match exists(*family, "-C", from, to)? {
            true => Ok(()),
            false => change(*family, "-A", from, to),
        },
        Step::Unhook { family, from, to } => {
            for _ in 0..MOST_HOOKS {
                if !exists(*family, "-C", from, to)? {
                    return Ok(());
                }
                change(*family, "-D", from, to)?;
            }
            Err(format!("{from} leads to {to} by more than {MOST_HOOKS} rules; remove them by hand"))
        }
        Step::Drop { family, chain } => {
            if !succeeds(*family, &["-S", chain])? {
                return Ok(());
            }
            run(*family, &["-F", chain])?;
            run(*family, &["-X", chain])
        }
    }
}

fn exists(family: Family, ask: &str, from: &str, to: &str) -> Result<bool, String> {
    // A rule that leads to a chain which is not there cannot be asked for.
    let rule = hook(from, to);
    let words: Vec<&str> = std::iter::once(ask).chain(rule.iter().map(String::as_str)).collect();
    succeeds(family, &words)
}

fn change(family: Family, how: &str, from: &str, to: &str) -> Result<(), String> {
    let rule = hook(from, to);
    let words: Vec<&str> = std::iter::once(how).chain(rule.iter().map(String::as_str)).collect();
    run(family, &words)
}

fn run(family: Family, words: &[&str]) -> Result<(), String> {
    judge(family.tool(), spawn(Command::new(family.tool()).args(TABLE).args(words), ""))
}

fn succeeds(family: Family, words: &[&str]) -> Result<bool, String> {
    match spawn(Command::new(family.tool()).args(TABLE).args(words), "") {
        Ok(output) => Ok(output.status.success()),
        Err(error) => judge(family.tool(), Err(error)).map(|()| false),
    }
}

fn spawn(command: &mut Command, input: &str) -> io::Result<Output> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read to the end says why on its way out.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

fn judge(tool: &str, output: io::Result<Output>) -> Result<(), String> {
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{tool} is not installed (on Debian: apt-get install iptables{})", without_ipv6(tool))
        }
        _ => format!("{tool} cannot be run: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("{tool} failed: {}{}", said.join("; "), hint(tool, &said.join(" "))))
}

fn hint(tool: &str, said: &str) -> String {
    let hint = match said {
        _ if said.contains("Permission denied") || said.contains("not permitted") => {
            "it takes root, or CAP_NET_ADMIN and CAP_NET_RAW, in the application's network namespace"
                .to_owned()
        }
        _ if said.contains("uid-owner") => "is there such a user? name the sidecar's with --uid".to_owned(),
        _ if said.contains("does not exist") || said.contains("No such") => {
            format!("does this kernel have the nat table and the owner match?{}", without_ipv6(tool))
        }
        _ => return String::new(),
    };
    format!(" ({hint})")
}

fn without_ipv6(tool: &str) -> &'static str {
    if tool.starts_with("ip6") { "; --no-ipv6 leaves IPv6 alone" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let missing = judge("ip6tables", Err(io::ErrorKind::NotFound.into())).unwrap_err();
        assert!(missing.contains("is not installed"), "{missing}");
        assert!(missing.contains("--no-ipv6"), "{missing}");
        let failed = |stderr: &str| {
            let stderr = stderr.as_bytes().to_vec();
            judge("iptables", Ok(Output { status: ExitStatus::from_raw(256), stdout: Vec::new(), stderr }))
        };
        let refused =
            failed("iptables v1.8.9: Could not fetch rule set: Permission denied (you must be root)\n");
        assert!(refused.unwrap_err().contains("CAP_NET_ADMIN"));
        let nobody = failed("iptables-restore v1.8.9: owner: Bad value for \"--uid-owner\" option: \"x\"\n");
        assert!(nobody.unwrap_err().contains("--uid"));
        assert_eq!(failed("").unwrap_err(), "iptables failed: ");
    }
}
