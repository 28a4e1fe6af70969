//! Spans on their way to the collector: one thread for it, which gives way to those that serve.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use super::background_thread::give_way;
use crate::{
    export::Exporter,
    names::Resolve,
    observe::{Recorder, spans::Queue},
    snapshot::PlannedExport,
};

pub(crate) struct Exporting {
    recorder: Arc<Recorder>,
    names: Arc<dyn Resolve>,
    running: Mutex<Option<Running>>,
}

struct Running {
    planned: PlannedExport,
    queue: Arc<Queue>,
    /// Breaks when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Exporting {
    pub(crate) fn new(recorder: Arc<Recorder>, names: Arc<dyn Resolve>) -> Exporting {
        Exporting { recorder, names, running: Mutex::default() }
    }

    /// Export as is planned from now on. What waits goes where it was meant to go, for as long as it may be tried.
    ///
    /// # Errors
    ///
    /// It cannot be begun, and all stays as it was.
    pub(crate) fn set(&self, planned: Option<&PlannedExport>) -> Result<(), String> {
        let mut running = self.lock();
        if running.as_ref().map(|running| &running.planned) == planned {
            return Ok(());
        }
        let next = planned.map(|planned| self.start(planned)).transpose()?;
        self.recorder.set_spans(next.as_ref().map(|next| next.queue.clone()));
        if let Some(before) = std::mem::replace(&mut *running, next) {
            before.queue.close();
        }
        Ok(())
    }

    fn start(&self, planned: &PlannedExport) -> Result<Running, String> {
        let series = self.recorder.metrics.spans();
        let encoding = planned.settings.protocol.encoding();
        let queue = Arc::new(Queue::new(encoding, planned.limits, series.stats()));
        let exporter =
            Exporter::new(planned.settings.clone(), queue.clone(), series.exports(), self.names.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("no thread for the export of spans: {error}"))?;
        let (lives, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("export".into()).spawn(move || {
            give_way();
            runtime.block_on(exporter.run());
            drop(lives);
        });
        thread.map_err(|error| format!("no thread for the export of spans: {error}"))?;
        Ok(Running { planned: planned.clone(), queue, ended })
    }

    /// The process ends: what waits is sent, as far as that takes no longer than `patience`.
    pub(crate) fn finish(&self, patience: Duration) {
        self.recorder.set_spans(None);
        let Some(running) = self.lock().take() else { return };
        running.queue.close();
        // It sends nothing: either its end is heard, or patience is over.
        let _ = running.ended.recv_timeout(patience);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
