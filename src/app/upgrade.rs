//! An upgrade in place: this process starts its own successor, hands over to it, and tells the service manager that it is the
//! service from now on. Whatever goes wrong before that, the successor ends and this process serves on.

use std::{os::unix::net::UnixStream, pin::pin, time::Duration};

use rustix::process::Pid;
use tokio::{process::Child, time::timeout};

use super::{Running, launch::Launch, signals::Signals};
use crate::{
    accept::{Handover, Successor},
    observe::log::event,
};

/// Of an upgrade that is asked for while one is under way.
pub(super) const SECOND: &str = "an upgrade is under way; the second one is not begun";
/// How long a successor that has failed may take to end.
const TO_END: Duration = Duration::from_secs(1);

/// What became of it.
pub(super) enum Upgrade {
    /// This process serves.
    Done(Pid),
    /// Why this one serves on.
    Failed(String),
    /// This one was told to end meanwhile.
    Ended(&'static str),
}

/// A successor that does not serve yet; dropped, it is ended.
struct Starting {
    child: Option<Child>,
    process: Pid,
    handover: Successor,
}

impl Running {
    /// Signals are heard meanwhile: the one that ends this process ends the attempt, and no second one is begun.
    pub(super) async fn upgrade(&self, signals: &mut Signals) -> Upgrade {
        let patience: Duration = self.current.pin().config.upgrade.timeout.into();
        let starting = {
            let mut starting = pin!(self.start_successor(patience));
            loop {
                tokio::select! {
                    started = &mut starting => break started,
                    told = signals.end_or_upgrade() => match told {
                        Some(why) => return Upgrade::Ended(why),
                        None => log::error!("{SECOND}"),
                    },
                }
            }
        };
        let served = match starting {
            Ok(starting) => self.let_serve(&starting.handover).map(|()| starting).map_err(|e| e.to_string()),
            Err(why) => Err(why),
        };
        match served {
            Ok(mut starting) => {
                starting.child = None;
                // It serves already. It says so when what this process had to say has been said, which it sees by the end of
                // the hand-over.
                self.notify.main_is(starting.process);
                Upgrade::Done(starting.process)
            }
            Err(why) => {
                log::error!("the upgrade failed: {why}; serving on");
                Upgrade::Failed(why)
            }
        }
    }

    async fn start_successor(&self, patience: Duration) -> Result<Starting, String> {
        let launch = self.launch()?;
        event!(Info, "upgrading", program = launch.program().display());
        launch.check().await?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        let started = launch.start(theirs.into());
        let child = started.map_err(|error| format!("{}: {error}", launch.program().display()))?;
        let process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let process = process.ok_or("the successor ended at once")?;
        let sockets = self.sockets();
        let give = move || Handover::give_over(ours, &sockets, patience);
        let mut waiting = Waiting(Some(child));
        let given = tokio::task::spawn_blocking(give).await.map_err(|panic| panic.to_string())?;
        let ready = async {
            let handover = given?;
            handover.ready(patience).await.map(|()| handover)
        };
        match ready.await {
            Ok(handover) => Ok(Starting { child: waiting.0.take(), process, handover }),
            Err(error) => Err(waiting.why(&error.to_string()).await),
        }
    }

    fn launch(&self) -> Result<&Launch, String> {
        if rustix::process::getpid().is_init() {
            return Err(
                "this is the first process of its container, which ends with it (replace the container)"
                    .to_owned(),
            );
        }
        self.launch.as_ref().ok_or_else(|| {
            "only `tidegate run` can be upgraded in place (start the new one yourself, and end this one)"
                .to_owned()
        })
    }
}

/// A successor that gets ready; dropped, it is ended.
struct Waiting(Option<Child>);

impl Waiting {
    /// Why it does not follow: how it has ended says more than that it is gone.
    async fn why(mut self, error: &str) -> String {
        let Some(child) = &mut self.0 else { return error.to_owned() };
        match timeout(TO_END, child.wait()).await {
            Ok(Ok(status)) => format!("the successor ended with {status} (its messages say why)"),
            _ => format!("{error} (raise `upgrade.timeout` if it needs longer)"),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(child) = child {
        // It may have ended by itself.
        let _ = child.start_kill();
    }
}
