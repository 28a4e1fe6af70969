//! How this process was started, so that it can start its own successor alike: the same program, which may be a newer one by
//! then, with the same arguments.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::VERSION;

/// Says to a successor that its standard input leads to its predecessor. There is no path that another process could take, and
/// each end sees at once that the other has gone.
const BY_STDIN: &str = "TIDEGATE_PREDECESSOR";
/// Of the service manager, for this process alone.
const OURS_ALONE: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];
/// A program takes this long at most to say its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// Taken at the start: later, the program may have been replaced or removed.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
}

impl Launch {
    /// # Errors
    ///
    /// The system does not say what runs.
    pub(crate) fn of_this_process() -> io::Result<Launch> {
        let mut args = std::env::args_os();
        // As it was called, links included: they may lead to a newer one by then.
        let called = args.next().map(PathBuf::from).filter(|program| program.components().count() > 1);
        let program = match called {
            Some(program) => std::path::absolute(program)?,
            None => std::env::current_exe()?,
        };
        Ok(Launch { program, args: args.collect() })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// That what stands there now is a gateway, and none older than this one: it might not know what this one has written, and
    /// would not be what anybody means by an upgrade.
    ///
    /// # Errors
    ///
    /// Why it cannot follow, and what to do.
    pub(super) async fn check(&self) -> Result<(), String> {
        let program = self.program.display();
        let mut command = Command::new(&self.program);
        command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = match timeout(PATIENCE, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                return Err(format!("{program} cannot be started: {error} (install it again)"));
            }
            Err(_) => return Err(format!("{program} --version does not end (install it again)")),
        };
        if !output.status.success() {
            return Err(format!("{program} --version ended with {} (install it again)", output.status));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let Some((version, text)) = version(&said) else {
            return Err(format!("{program} is no tidegate: it does not say its version (install it again)"));
        };
        match own_version() {
            Some(own) if version < own => Err(format!(
                "{program} is {text}, older than {VERSION}, which runs (to go back, restart, or hand over with `run --upgrade` \
                 and SIGQUIT)"
            )),
            _ => Ok(()),
        }
    }

    /// The successor, as a child whose standard input is `meeting`.
    ///
    /// # Errors
    ///
    /// The system cannot start it.
    pub(super) fn start(&self, meeting: OwnedFd) -> io::Result<tokio::process::Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env(BY_STDIN, "stdin").stdin(Stdio::from(meeting));
        if !self.args.iter().any(|arg| arg == "--upgrade") {
            command.arg("--upgrade");
        }
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        command.spawn()
    }
}

/// Where a predecessor has started this process, the way to it.
///
/// # Errors
///
/// What is there is no socket.
pub(super) fn predecessor() -> io::Result<Option<UnixStream>> {
    if std::env::var_os(BY_STDIN).is_none_or(|by| by != "stdin") {
        return Ok(None);
    }
    let stdin = io::stdin();
    let stream = stdin.as_fd().try_clone_to_owned()?;
    // Nobody else reads there. It may be something else where the variable was set by hand.
    rustix::net::sockopt::socket_type(&stream)?;
    Ok(Some(UnixStream::from(stream)))
}

type Version = (u64, u64, u64);

fn own_version() -> Option<Version> {
    numbers(VERSION)
}

/// Of `tidegate 1.2.3`.
fn version(said: &str) -> Option<(Version, &str)> {
    let text = said.lines().next()?.strip_prefix("tidegate ")?.trim();
    Some((numbers(text)?, text))
}

/// What comes before a release counts as the release.
fn numbers(text: &str) -> Option<Version> {
    let release = text.split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(str::parse);
    match (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()) {
        (Ok(major), Ok(minor), Ok(patch), None) => Some((major, minor, patch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(own_version().is_some());
        let of = |said| version(said).map(|(version, _)| version);
        assert_eq!(of("tidegate 1.2.3\n"), Some((1, 2, 3)));
        assert_eq!(of("tidegate 1.2.3-rc.1+5"), Some((1, 2, 3)));
        assert!(of("tidegate 0.10.0") > of("tidegate 0.9.9"));
        for other in
            ["", "nginx version: nginx/1.22", "tidegate", "tidegate one", "tidegate 1.2", "tidegate 1.2.3.4"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
