//! The handles that outlive every snapshot: the metrics, and the access log, which a reload may exchange.

use std::{io, path::PathBuf, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use crate::{
    kept::Kept,
    observe::{
        Format,
        access::AccessLog,
        log_writer::{LineSink, Target},
        metrics::Metrics,
        spans::Queue,
    },
};

pub struct Recorder {
    pub metrics: Arc<Metrics>,
    stdout: Arc<LineSink>,
    /// Without settings until they have been read.
    access: ArcSwap<KeptAccess>,
    /// Where spans wait to be exported, if they are.
    spans: ArcSwapOption<Queue>,
}

/// Where access lines go. Equal settings keep their sink over a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessSettings {
    /// `None` turns the log off.
    pub target: Option<Target>,
    pub format: Format,
    /// 0 to 1.
    pub sample: f64,
    /// Bytes of lines that may wait to be written; for standard output, what it was at start holds.
    pub buffer: usize,
}

struct Access {
    sink: Option<Arc<LineSink>>,
    log: AccessLog,
}

type KeptAccess = Kept<Option<AccessSettings>, Access>;

impl Recorder {
    /// With the access log off. `stdout` is the one writer of standard output.
    pub fn new(metrics: Arc<Metrics>, stdout: Arc<LineSink>) -> Recorder {
        let access = Kept::keep_or(None, None, |_| Access { sink: None, log: AccessLog::off() });
        Recorder { metrics, stdout, access: ArcSwap::from_pointee(access), spans: ArcSwapOption::empty() }
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

    pub fn spans(&self) -> Guard<Option<Arc<Queue>>> {
        self.spans.load()
    }

    fn open(&self, settings: &AccessSettings) -> io::Result<Access> {
        let sink = match &settings.target {
            Some(Target::Stdout) => Some(self.stdout.clone()),
            Some(target) => Some(Arc::new(LineSink::open(target, settings.buffer, self.metrics.lines())?)),
            None => None,
        };
        let log = match &sink {
            Some(sink) => AccessLog::new(sink.clone(), settings.format, settings.sample),
            None => AccessLog::off(),
        };
        Ok(Access { sink, log })
    }

    /// Open the access log's file again, after a rotation.
    pub fn reopen(&self) {
        if let Some(sink) = &self.access.load().sink {
            sink.reopen();
        }
    }

    /// Wait until what was logged so far is written, at most `patience`.
    pub fn flush(&self, patience: std::time::Duration) {
        if let Some(sink) = &self.access.load().sink {
            sink.flush(patience);
        }
    }

    #[cfg(test)]
    pub fn for_test() -> Arc<Recorder> {
        let metrics = Arc::new(Metrics::new("test"));
        let stdout = LineSink::open(&Target::Stderr, 0, metrics.lines()).expect("stderr is open");
        Arc::new(Recorder::new(metrics, Arc::new(stdout)))
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

/// `stdout`, `stderr`, `off` or a path.
pub fn target(to: &str) -> Option<Target> {
    match to {
        "off" => None,
        "stdout" => Some(Target::Stdout),
        "stderr" => Some(Target::Stderr),
        path => Some(Target::File(PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_keep_the_sink_and_others_open_it_anew() {
        let recorder = Recorder::for_test();
        let settings =
            AccessSettings { target: Some(Target::Stderr), format: Format::Text, sample: 1.0, buffer: 1024 };
        recorder.set_access(&settings).unwrap();
        let first = recorder.access.load().shared().clone();
        let keeps = |settings: &AccessSettings| {
            recorder.set_access(settings).unwrap();
            Arc::ptr_eq(recorder.access.load().shared(), &first)
        };
        assert!(keeps(&settings));
        assert!(!keeps(&AccessSettings { sample: 0.5, ..settings }));
    }
}
