//! The handles that outlive every snapshot: the metrics, and the access log, which a reload may exchange.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use crate::{
    kept::Kept,
    observe::{
        access::{AccessLog, Output, Records, Shape},
        log_writer::{LineSink, Target},
        metrics::Metrics,
        otlp::Queue,
        syslog::Lookup,
        tail::Tail,
    },
};

pub struct Recorder {
    pub metrics: Arc<Metrics>,
    stdout: Arc<LineSink>,
    /// Of servers that lines are sent to.
    lookup: Lookup,
    /// Without settings until they have been read.
    access: ArcSwap<KeptAccess>,
    /// Where spans wait to be exported, if they are.
    spans: ArcSwapOption<Queue>,
    /// The same of the access log's records.
    records: Records,
    tail: Tail,
}

/// Where access lines go. Equal settings keep their sink over a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessSettings {
    /// Without any, and without records, the log is off.
    pub targets: Vec<Target>,
    pub shape: Shape,
    /// Records wait for a collector, beside lines for the targets.
    pub records: bool,
    /// Bytes of lines that may wait to be written to each; for standard output, what it was at start holds.
    pub buffer: usize,
}

struct Access {
    sinks: Vec<Arc<LineSink>>,
    log: AccessLog,
}

type KeptAccess = Kept<Option<AccessSettings>, Access>;

impl Recorder {
    /// With the access log off. `stdout` is the one writer of standard output.
    pub fn new(metrics: Arc<Metrics>, stdout: Arc<LineSink>, lookup: Lookup) -> Recorder {
        let access = Kept::keep_or(None, None, |_| Access { sinks: Vec::new(), log: AccessLog::off() });
        let records = Records { queue: Arc::default(), stats: metrics.log_exports().stats() };
        Recorder {
            metrics,
            stdout,
            lookup,
            access: ArcSwap::from_pointee(access),
            spans: ArcSwapOption::empty(),
            records,
            tail: Tail::default(),
        }
    }

    /// Where access lines are followed live.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    pub fn access(&self) -> AccessGuard {
        AccessGuard(self.access.load())
    }

    /// Log as `settings` say from now on. Lines that wait for the old target are still written there.
    ///
    /// # Errors
    ///
    /// The file cannot be opened; the log stays as it was.
    pub fn set_access(&self, settings: &AccessSettings) -> io::Result<()> {
        let next =
            Kept::try_keep_or(Some(&self.access.load()), Some(settings.clone()), |_| self.open(settings))?;
        self.access.store(Arc::new(next));
        Ok(())
    }

    /// Where spans are put from now on.
    pub fn set_spans(&self, queue: Option<Arc<Queue>>) {
        self.spans.store(queue);
    }

    /// Where the access log's records are put from now on.
    pub fn set_records(&self, queue: Option<Arc<Queue>>) {
        self.records.queue.store(queue);
    }

    pub fn spans(&self) -> Guard<Option<Arc<Queue>>> {
        self.spans.load()
    }

    fn open(&self, settings: &AccessSettings) -> io::Result<Access> {
        let mut outputs = Vec::new();
        for target in &settings.targets {
            let sink = match target {
                Target::Stdout => self.stdout.clone(),
                target => {
                    let lines = self.metrics.lines();
                    Arc::new(LineSink::open(target, settings.buffer, lines, &self.lookup)?)
                }
            };
            let head = match target {
                Target::Syslog(to) => Some(to.head.clone()),
                _ => None,
            };
            outputs.push(Output { sink, head });
        }
        let sinks = outputs.iter().map(|output| output.sink.clone()).collect();
        let records = settings.records.then(|| self.records.clone());
        Ok(Access { sinks, log: AccessLog::new(outputs, records, &settings.shape) })
    }

    /// Open the access log's files again, after a rotation.
    pub fn reopen(&self) {
        self.access.load().sinks.iter().for_each(|sink| sink.reopen());
    }

    /// Wait until what was logged so far is written, at most `patience`.
    pub fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        for sink in &self.access.load().sinks {
            sink.flush(until.saturating_duration_since(Instant::now()));
        }
    }

    #[cfg(test)]
    pub fn for_test() -> Arc<Recorder> {
        let metrics = Arc::new(Metrics::new("test"));
        let lookup: Lookup = Arc::new(|_| Err(io::ErrorKind::NotFound.into()));
        let stdout = LineSink::open(&Target::Stderr, 0, metrics.lines(), &lookup).expect("stderr is open");
        Arc::new(Recorder::new(metrics, Arc::new(stdout), lookup))
    }
}

/// The access log in force.
pub struct AccessGuard(Guard<Arc<KeptAccess>>);

impl std::ops::Deref for AccessGuard {
    type Target = AccessLog;

    fn deref(&self) -> &AccessLog {
        &self.0.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Format;

    #[test]
    fn equal_settings_keep_the_sink_and_others_open_it_anew() {
        let recorder = Recorder::for_test();
        let shape = Shape::plain(Format::Text);
        let settings = AccessSettings { targets: vec![Target::Stderr], shape, records: false, buffer: 1024 };
        recorder.set_access(&settings).unwrap();
        let first = recorder.access.load().shared().clone();
        let keeps = |settings: &AccessSettings| {
            recorder.set_access(settings).unwrap();
            Arc::ptr_eq(recorder.access.load().shared(), &first)
        };
        assert!(keeps(&settings));
        let shape = Shape { sample: 0.5, ..settings.shape.clone() };
        assert!(!keeps(&AccessSettings { shape, ..settings.clone() }));
        assert!(!keeps(&AccessSettings { records: true, ..settings }));
    }
}
