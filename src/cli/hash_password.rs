//! `tidegate hash-password`: what a `basic_auth` filter has in the place of a password. It is read from the terminal or from
//! standard input, and never from an argument, which other users see and shells remember.

use std::io::{self, BufRead, IsTerminal};

use clap::{Args, ValueEnum};

use super::failure;
use crate::{
    app::Failure,
    filter::{self, HashKind},
};

/// Twice bcrypt's own bound, and more than anybody types.
const LONGEST: u64 = 1024;

#[derive(Debug, Args)]
pub(crate) struct HashPasswordArgs {
    /// By which function
    #[arg(long, value_enum, default_value_t = Algorithm::Argon2id)]
    algorithm: Algorithm,
    /// Of bcrypt: two to the power of this many rounds
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(10..=15))]
    cost: u32,
    /// Print a line of a file of users: NAME:HASH
    #[arg(long, value_name = "NAME", value_parser = name)]
    user: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Algorithm {
    /// 19 MiB, two passes: what OWASP asks for
    Argon2id,
    /// Also read by other servers; of a password's bytes 72 at most
    Bcrypt,
}

pub(crate) fn run(args: &HashPasswordArgs) -> Result<(), Failure> {
    let kind = match args.algorithm {
        Algorithm::Argon2id => HashKind::Argon2id,
        Algorithm::Bcrypt => HashKind::Bcrypt { cost: args.cost },
    };
    let hash = filter::hash_password(&password()?, kind).map_err(failure)?;
    let line = match &args.user {
        Some(user) => format!("{user}:{hash}\n"),
        None => format!("{hash}\n"),
    };
    Ok(super::print(&line)?)
}

/// Typed twice and not shown, or a line of standard input.
fn password() -> Result<String, Failure> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let first = rpassword::prompt_password("Password: ")?;
        if first != rpassword::prompt_password("Once more: ")? {
            return Err(failure("the two are not the same (type it again)"));
        }
        first
    } else {
        let mut line = String::new();
        io::Read::take(stdin.lock(), LONGEST + 1).read_line(&mut line)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    match password.len() as u64 {
        0 => Err(failure("the password is empty (type one, or give it on standard input)")),
        length if length > LONGEST => Err(failure(format!("the password is longer than {LONGEST} bytes"))),
        _ => Ok(password),
    }
}

fn name(text: &str) -> Result<String, String> {
    match text.contains([':', '\n']) || text.is_empty() {
        true => Err("a name is not empty and has no colon".to_owned()),
        false => Ok(text.to_owned()),
    }
}
