//! `tidegate reload` and `drain`: one request to a running gateway's admin API; and what all commands that ask one have in common.

use std::path::PathBuf;

use clap::Args;
use http::{Method, StatusCode, uri::Authority};
use serde_json::Value;

use super::{
    client::{Answer, Place, Target, TlsArgs, Words, place, reachable, secure, token},
    failure,
    text::safe,
};
use crate::{
    app::{Failure, Source},
    config::{Admin, Path, Problem, Problems, Secret},
};

const DEFAULT: &str = "127.0.0.1:9901";
const WORDS: Words = Words {
    what: "gateway",
    api: "tidegate's admin API",
    setting: "the admin address",
    token: "TIDEGATE_ADMIN_TOKEN",
    hint: "give --admin or -c",
};

#[derive(Clone, Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Take the address and the token from this configuration, and the certificate that the API has to show
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What a command that has a `--config` of its own takes beside it.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdminArgs {
    /// Where its admin API listens; https://HOST:PORT where that speaks TLS [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<Place>,
    /// Its token; better in the environment variable TIDEGATE_ADMIN_TOKEN, where other users do not see it
    #[arg(long, value_parser = |token: &str| Ok::<_, std::convert::Infallible>(Secret::new(token)))]
    token: Option<Secret>,
    #[command(flatten)]
    tls: TlsArgs,
}

impl AdminArgs {
    /// With what `config` says, if that is given.
    pub(super) fn of(&self, config: Option<&std::path::Path>) -> AskArgs {
        AskArgs { admin: self.clone(), config: config.map(Into::into) }
    }
}

/// # Errors
///
/// The problems of a configuration that the gateway rejects are this command's.
pub(crate) fn reload(args: &AskArgs) -> Result<(), Failure> {
    let answer = ask(args, Method::POST, "/reload")?;
    if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
        let result = answer.json()?;
        let problems = result["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
        return Err(problems.map(|problem| Problem::new(safe(problem))).collect::<Problems>().into());
    }
    let result = answer.expect(StatusCode::OK)?;
    let changes = result["changes"].as_str().map(|changes| format!(": {changes}")).unwrap_or_default();
    let word = result["result"].as_str().unwrap_or_default();
    Ok(super::print(&format!("{}\n", safe(&format!("{word}{changes}"))))?)
}

pub(crate) fn drain(args: &AskArgs) -> Result<(), Failure> {
    ask(args, Method::POST, "/drain")?.expect(StatusCode::ACCEPTED)?;
    Ok(super::print("draining: the gateway ends when what is in flight is done\n")?)
}

pub(super) fn ask(args: &AskArgs, method: Method, path: &str) -> Result<Answer, Failure> {
    let target = target(args)?;
    super::asynchronous(target.ask(method, path, ""))
}

/// What was typed goes before the environment, and that before the file.
pub(super) fn target(args: &AskArgs) -> Result<Target, Failure> {
    let mut at = Authority::from_static(DEFAULT);
    let (mut written, mut shown) = (None, None);
    if let Some(file) = &args.config {
        let loaded = Source::File(file.clone()).load()?;
        match &loaded.config().map_err(Problems::clone)?.admin {
            Admin::On(admin) => {
                let cert = Path::root().key("admin").key("tls").key("cert");
                shown = admin.tls.as_ref().map(|tls| loaded.sources.full_path(&cert, &tls.cert));
                at = reachable(&admin.address, &WORDS)
                    .map_err(|why| failure(format!("{}: {why}", file.display())))?;
                // Of several, the first that may all.
                let all = admin.tokens.iter().max_by_key(|token| token.role).map(|token| &token.token);
                written = admin.token.as_ref().or(all).cloned();
            }
            Admin::Off(_) => {
                let hint = "signal the process instead: SIGHUP reloads, SIGTERM drains";
                return Err(failure(format!(
                    "{}: `admin: false` turns the API off ({hint})",
                    file.display()
                )));
            }
        }
    }
    let AdminArgs { admin: place, token: typed, tls } = &args.admin;
    let place = place.as_ref();
    let secure = secure(tls, place, shown.as_deref(), "--admin").map_err(failure)?;
    let token = token(typed.as_ref(), &WORDS).or(written);
    Ok(Target { at: place.map_or(at, |place| place.at.clone()), token, secure, words: &WORDS })
}

fn address(text: &str) -> Result<Place, String> {
    place(text, &WORDS)
}
