//! What is observed on its way to collectors: a thread for each signal, which gives way to those that serve.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::oneshot;

use super::background_thread::give_way;
use crate::{
    export::{self, Exporter, Pusher, Signal},
    names::Resolve,
    observe::{
        Recorder,
        log::event,
        otlp::{Queue, QueueStats},
    },
    snapshot::{Current, PlannedExport, PlannedExports},
};

pub(crate) struct Exporting {
    recorder: Arc<Recorder>,
    current: Current,
    names: Arc<dyn Resolve>,
    running: Mutex<Running>,
}

/// What is exported at present.
#[derive(Default)]
struct Running {
    planned: PlannedExports,
    traces: Option<(Arc<Queue>, Worker)>,
    logs: Option<(Arc<Queue>, Worker)>,
    metrics: Option<Worker>,
    /// Those that a reload has replaced, and that have something left to send.
    leaving: Vec<Worker>,
}

/// What is started for other plans, and exports nothing yet. Each is none where it stays as it is.
pub(crate) struct Prepared {
    planned: PlannedExports,
    traces: Option<Option<(Arc<Queue>, Worker)>>,
    logs: Option<Option<(Arc<Queue>, Worker)>>,
    metrics: Option<Option<Worker>>,
}

/// A thread that exports. Once this is closed or dropped, it sends what waits and ends.
struct Worker {
    close: Option<Box<dyn FnOnce() + Send>>,
    /// Breaks when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Worker {
    fn close(&mut self) {
        if let Some(close) = self.close.take() {
            close();
        }
    }

    fn lives(&self) -> bool {
        self.ended.try_recv() == Err(mpsc::TryRecvError::Empty)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.close();
    }
}

impl Exporting {
    pub(crate) fn new(recorder: Arc<Recorder>, current: Current, names: Arc<dyn Resolve>) -> Exporting {
        Exporting { recorder, current, names, running: Mutex::default() }
    }

    /// Start what `planned` needs that does not run.
    ///
    /// # Errors
    ///
    /// It cannot be started, and all stays as it was.
    pub(crate) fn prepare(&self, planned: &PlannedExports) -> Result<Prepared, String> {
        let running = self.lock();
        let exporter = |signal, planned: &Option<PlannedExport>, before: &Option<PlannedExport>| {
            let start = || planned.as_ref().map(|planned| self.start(signal, planned)).transpose();
            (planned != before).then(start).transpose()
        };
        let before = &running.planned;
        let metrics = || planned.metrics.as_ref().map(|settings| self.push(settings)).transpose();
        Ok(Prepared {
            traces: exporter(Signal::Traces, &planned.traces, &before.traces)?,
            logs: exporter(Signal::Logs, &planned.logs, &before.logs)?,
            metrics: (planned.metrics != before.metrics).then(metrics).transpose()?,
            planned: planned.clone(),
        })
    }

    /// Export so from now on. What waits goes where it was meant to go, for as long as it may be tried.
    pub(crate) fn put_in_force(&self, prepared: Prepared) {
        let Prepared { planned, traces, logs, metrics } = prepared;
        let mut running = self.lock();
        let queue = |of: &Option<(Arc<Queue>, Worker)>| of.as_ref().map(|(queue, _)| queue.clone());
        running.planned = planned;
        // The next queue first, then the end of the one before.
        let mut leaving = Vec::new();
        if let Some(traces) = traces {
            self.recorder.set_spans(queue(&traces));
            hand_on(&running.traces, &traces);
            leaving.extend(std::mem::replace(&mut running.traces, traces).map(|(_, worker)| worker));
        }
        if let Some(logs) = logs {
            self.recorder.set_records(queue(&logs));
            hand_on(&running.logs, &logs);
            leaving.extend(std::mem::replace(&mut running.logs, logs).map(|(_, worker)| worker));
        }
        if let Some(metrics) = metrics {
            leaving.extend(std::mem::replace(&mut running.metrics, metrics));
        }
        leaving.iter_mut().for_each(Worker::close);
        running.leaving.retain(Worker::lives);
        running.leaving.extend(leaving);
    }

    fn start(&self, signal: Signal, planned: &PlannedExport) -> Result<(Arc<Queue>, Worker), String> {
        let metrics = &self.recorder.metrics;
        let series = match signal {
            Signal::Traces => metrics.span_exports(),
            Signal::Logs => metrics.log_exports(),
            Signal::Metrics => metrics.metric_exports(),
        };
        let encoding = planned.settings.protocol.encoding();
        let queue = Arc::new(Queue::new(encoding, planned.limits, series.stats()));
        let exporter =
            Exporter::new(signal, planned.settings.clone(), queue.clone(), series, self.names.clone())?;
        let closing = queue.clone();
        let worker = spawn(exporter.run(), move || closing.close())?;
        Ok((queue, worker))
    }

    fn push(&self, settings: &export::Settings) -> Result<Worker, String> {
        let (current, metrics) = (self.current.clone(), self.recorder.metrics.clone());
        let read = Box::new(move |encoding| {
            let rare = current.pin().gather(&metrics);
            metrics.export(encoding, &rare, SystemTime::now())
        });
        let series = self.recorder.metrics.metric_exports();
        let pusher = Pusher::new(settings.clone(), series, read, self.names.clone())?;
        let (close, closing) = oneshot::channel();
        spawn(pusher.run(closing), move || drop(close))
    }

    /// The process ends: what waits is sent, and the metrics once more, as far as that takes no longer than `patience`. The log
    /// says what became of all spans and records, as nobody can ask for the metrics any more.
    pub(crate) fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        self.recorder.set_spans(None);
        self.recorder.set_records(None);
        let Running { planned: _, traces, logs, metrics, leaving } = std::mem::take(&mut *self.lock());
        let queues = [traces, logs].into_iter().flatten().map(|(_, worker)| worker);
        let mut workers: Vec<Worker> = queues.chain(metrics).chain(leaving).collect();
        workers.iter_mut().for_each(Worker::close);
        for worker in &workers {
            // It sends nothing: either its end is heard, or patience is over.
            let _ = worker.ended.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
        let metrics = &self.recorder.metrics;
        account("spans accounted for", &metrics.span_exports().stats());
        account("log records accounted for", &metrics.log_exports().stats());
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests that end just now may still hold the queue of before.
fn hand_on(before: &Option<(Arc<Queue>, Worker)>, next: &Option<(Arc<Queue>, Worker)>) {
    if let (Some((before, _)), Some((next, _))) = (before, next) {
        before.hand_on(next);
    }
}

fn account(message: &str, stats: &QueueStats) {
    let [recorded, exported, rejected, dropped_queue, dropped_export] =
        [&stats.recorded, &stats.exported, &stats.rejected, &stats.dropped_queue, &stats.dropped_export]
            .map(|count| count.load(Relaxed));
    if recorded == 0 {
        return;
    }
    let lost = recorded.saturating_sub(exported + rejected + dropped_queue + dropped_export);
    event!(
        Info,
        message,
        recorded = recorded,
        exported = exported,
        rejected = rejected,
        dropped_queue = dropped_queue,
        dropped_export = dropped_export,
        lost = lost,
    );
}

/// `close` has `work` end soon.
fn spawn(
    work: impl Future<Output = ()> + Send + 'static,
    close: impl FnOnce() + Send + 'static,
) -> Result<Worker, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no thread to export by: {error}"))?;
    let (lives, ended) = mpsc::channel();
    let thread = thread::Builder::new().name("export".into()).spawn(move || {
        give_way();
        runtime.block_on(work);
        drop(lives);
    });
    thread.map_err(|error| format!("no thread to export by: {error}"))?;
    Ok(Worker { close: Some(Box::new(close)), ended })
}
