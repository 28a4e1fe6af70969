//! A process that waits to take over from the gateway that runs (`run --upgrade`). It hears signals meanwhile, and reads the
//! configuration again when it has the listeners: what the other one has read since must not be undone.

use std::{pin::pin, sync::Arc};

use super::{
    Begins, Compiled, Failure, Source, launch,
    meeting::socket_path,
    signals::{Signals, Told},
};
use crate::{
    accept::{Handover, Inherited},
    config::Config,
    filter::Registry,
    observe::{log::event, metrics::Metrics},
};

/// The listeners of the gateway that runs, and the configuration as it is then. `None`: this process was told to end.
pub(super) async fn wait(
    source: &Source,
    registry: &Arc<Registry>,
    config: &Config,
    metrics: &Arc<Metrics>,
    signals: &mut Signals,
) -> Result<Option<(Inherited, Compiled)>, Failure> {
    let handover = match launch::predecessor()? {
        Some(predecessor) => {
            event!(Info, "taking over from the process that has started this one");
            Handover::with(predecessor)
        }
        None => {
            let path = socket_path(config).map_err(Failure::Handover)?;
            let handover = Handover::listen(&path).map_err(Failure::Handover)?;
            event!(Info, "waiting for hand-over", socket = path.display());
            handover
        }
    };
    let mut receiving = pin!(handover.receive(config.upgrade.timeout.into()));
    let inherited = loop {
        let told = tokio::select! {
            received = &mut receiving => break received.map_err(Failure::Handover)?,
            told = signals.next() => told,
        };
        let why = match told {
            Told::Reload => {
                match Compiled::read(source, registry, metrics, Begins::AsSuccessor) {
                    Ok(_) => event!(Info, "configuration read again"),
                    // It may be right when the listeners come.
                    Err(problems) => event!(Error, "configuration rejected", problems = problems),
                }
                continue;
            }
            // No access log is open yet, and nobody follows one that does not serve.
            Told::Reopen | Told::Upgrade => continue,
            Told::HandOver => "SIGQUIT",
            Told::End(why) => why,
        };
        event!(Info, "stopped", why = why);
        return Ok(None);
    };
    Ok(Some((inherited, Compiled::read(source, registry, metrics, Begins::AsSuccessor)?)))
}
