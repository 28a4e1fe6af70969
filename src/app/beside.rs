//! What a gateway starts with: its file, and beside it what was in force when the process before ended: the configuration of a
//! control plane (`held`), and parts (`kept`). Nothing that stands there keeps it from starting; a successor, beside which
//! another gateway serves, refuses what it cannot use.

use std::{path::PathBuf, sync::Arc};

use super::{Begins, Source, parts::Beside};
use crate::{
    config::{Additions, Loaded, Path, Problem, Problems, ReceivedConfig},
    control::join::HeldConfig,
    filter,
    snapshot::{Plan, compile},
};

/// What it comes to.
pub(super) struct Beginning {
    /// That were read for it.
    pub files: Vec<PathBuf>,
    pub plan: Plan,
    pub parts: Beside,
    pub held: Held,
}

/// The configuration of a control plane that stands on disk.
#[derive(Default)]
pub(super) struct Held {
    /// Where it is held; none without `state_dir`, or where none is asked for.
    pub file: Option<HeldConfig>,
    /// A process before may have had one, and this one does not know it.
    pub is_lost: bool,
}

/// What the file that is `loaded` means with what stands beside it.
///
/// # Errors
///
/// What is wrong with the file. To a successor also what is wrong with the rest: the gateway that serves goes on.
pub(super) fn compile_beside(
    source: &Source,
    loaded: Loaded,
    filters: &filter::Live,
    begins: Begins,
) -> Result<Beginning, Problems> {
    let mut warnings = Vec::new();
    let mut parts = Beside::read(&loaded, begins, &mut warnings)?;
    let (mut held, mut received) = read_held(&loaded, begins, &mut warnings);
    let mut loaded = Some(loaded);
    let (files, mut plan) = loop {
        let additions = Additions { parts: parts.parts(), received: received.clone() };
        let is_alone = additions == Additions::default();
        let loaded = match loaded.take().filter(|_| is_alone) {
            Some(loaded) => Ok(loaded),
            None => source.load_beside(&additions),
        };
        let compiled = loaded.and_then(|loaded| {
            let files = loaded.sources.files().to_vec();
            Ok((files, compile(loaded, filters)?))
        });
        let problems = match compiled {
            Ok(compiled) => break compiled,
            Err(problems) if is_alone || begins == Begins::AsSuccessor => return Err(problems),
            Err(problems) => problems,
        };
        match received.take() {
            Some(config) if parts.is_empty() || is_in(&config, &problems) => {
                warnings.push(left_out(&config, &problems));
                held.is_lost = true;
            }
            config => {
                received = config;
                parts.leave_out(&problems, &mut warnings);
            }
        }
    };
    plan.warnings.extend(warnings);
    Ok(Beginning { files, plan, parts, held })
}

fn read_held(
    loaded: &Loaded,
    begins: Begins,
    warnings: &mut Vec<Problem>,
) -> (Held, Option<Arc<ReceivedConfig>>) {
    let config = loaded.readable();
    let Some((join, name)) = config.takes_config() else { return (Held::default(), None) };
    let Some(state_dir) = &config.state_dir else { return (Held { file: None, is_lost: true }, None) };
    let state_dir = loaded.sources.full_path(&Path::root().key("state_dir"), state_dir);
    let secrets = Path::root().key("control").key("join").key("secrets");
    let secrets = join.secrets.iter().map(|folder| loaded.sources.full_path(&secrets, folder)).collect();
    let file = HeldConfig::within(&state_dir, name, secrets);
    let (is_lost, received) = match file.read() {
        Ok(received) => (false, received.map(Arc::new)),
        Err(why) => {
            // It may be the predecessor's, that goes on.
            let moved = match begins {
                Begins::Anew => format!("; the file is {}", file.set_aside()),
                Begins::AsSuccessor => String::new(),
            };
            let path = file.path().display();
            warnings
                .push(Problem::new(format!("the held configuration in {path} is not used: {why}{moved}")));
            (true, None)
        }
    };
    (Held { file: Some(file), is_lost }, received)
}

fn is_in(config: &ReceivedConfig, problems: &Problems) -> bool {
    problems.iter().any(|problem| problem.location().is_some_and(|at| config.document_at(at).is_some()))
}

fn left_out(config: &ReceivedConfig, problems: &Problems) -> Problem {
    let ReceivedConfig { name, version, .. } = config;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Problem::new(format!(
        "the held configuration {name}@{version} is left out, as it does not go with this file any more: {}",
        problems.join("; ")
    ))
}
