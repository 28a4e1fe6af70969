//! The thread on which everything of the SDK runs. It is the SDK's own, so that heartbeats go on while the application is
//! busy, and so that it makes no difference which runtime the application has, or none.

use std::{convert::Infallible, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::error::Error;

/// Dropped, it ends, and with it all that runs on it. What runs on it must not hold it.
pub(crate) struct Thread {
    runtime: Handle,
    _stop: oneshot::Sender<Infallible>,
}

impl Thread {
    pub(crate) fn start() -> Result<Thread, Error> {
        let failed = |error| Error::Setup(format!("the thread of the SDK cannot be started: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(stopped);
            // A name that is being looked up keeps nobody waiting.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("tidegate-sdk".into()).spawn(run).map_err(failed)?;
        Ok(Thread { runtime: handle, _stop: stop })
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}
