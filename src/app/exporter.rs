//! Spans on their way to the collector: one thread for it, which gives way to those that serve.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed, mpsc},
    time::{Duration, Instant},
};

use super::background_thread::give_way;
use crate::{
    export::Exporter,
    names::Resolve,
    observe::{Recorder, log::event, spans::Queue},
    snapshot::PlannedExport,
};

pub(crate) struct Exporting {
    recorder: Arc<Recorder>,
    names: Arc<dyn Resolve>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Of exporters that a reload has replaced, and that have something left to send.
    leaving: Vec<Ended>,
}

struct Running {
    planned: PlannedExport,
    queue: Arc<Queue>,
    ended: Ended,
}

/// Breaks when an exporter's thread has ended.
type Ended = mpsc::Receiver<()>;

impl Exporting {
    pub(crate) fn new(recorder: Arc<Recorder>, names: Arc<dyn Resolve>) -> Exporting {
        Exporting { recorder, names, state: Mutex::default() }
    }

    /// Export as is planned from now on. What waits goes where it was meant to go, for as long as it may be tried.
    ///
    /// # Errors
    ///
    /// It cannot be begun, and all stays as it was.
    pub(crate) fn set(&self, planned: Option<&PlannedExport>) -> Result<(), String> {
        let mut state = self.lock();
        if state.running.as_ref().map(|running| &running.planned) == planned {
            return Ok(());
        }
        let next = planned.map(|planned| self.start(planned)).transpose()?;
        self.recorder.set_spans(next.as_ref().map(|next| next.queue.clone()));
        state.leaving.retain(|ended| ended.try_recv() == Err(mpsc::TryRecvError::Empty));
        if let Some(before) = std::mem::replace(&mut state.running, next) {
            before.queue.close();
            state.leaving.push(before.ended);
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

    /// The process ends: what waits is sent, as far as that takes no longer than `patience`, and the log says what became of
    /// all spans, as nobody can ask for the metrics any more.
    pub(crate) fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        self.recorder.set_spans(None);
        let State { running, leaving } = std::mem::take(&mut *self.lock());
        if let Some(running) = &running {
            running.queue.close();
        }
        for ended in leaving.iter().chain(running.as_ref().map(|running| &running.ended)) {
            // They send nothing: either their end is heard, or patience is over.
            let _ = ended.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
        self.account();
    }

    fn account(&self) {
        let stats = self.recorder.metrics.spans().stats();
        let [recorded, exported, rejected, dropped_queue, dropped_export] =
            [&stats.recorded, &stats.exported, &stats.rejected, &stats.dropped_queue, &stats.dropped_export]
                .map(|count| count.load(Relaxed));
        if recorded == 0 {
            return;
        }
        let lost = recorded - exported - rejected - dropped_queue - dropped_export;
        event!(
            Info,
            "spans accounted for",
            recorded = recorded,
            exported = exported,
            rejected = rejected,
            dropped_queue = dropped_queue,
            dropped_export = dropped_export,
            lost = lost,
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
