//! Where lines go: a bounded buffer in memory and one thread that empties it.
//!
//! Producers copy a finished line under a short lock and go on. Only the first line of a batch (and the one
//! that makes the buffer half full) wakes the writer, which then lets a batch gather, swaps the buffer for
//! an empty one and writes it with one call: about fifty wake-ups a second under load, none when idle.
//! When the target is slower than the traffic the buffer fills, and lines are dropped and counted.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::observe::{
    log::event,
    syslog::{Destination, Failed, Lookup, Server},
};

/// How long the writer lets lines gather after the first: also how stale a `tail -f` may be.
const GATHER: Duration = Duration::from_millis(20);
/// How often a target that cannot be written is complained about.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How long a drop waits for a stalled target before its lines are given up.
const DROP_PATIENCE: Duration = Duration::from_secs(1);
/// Pauses between attempts to reach a server of syslog.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What priority lines may take beyond the limit, so that a flood of access lines cannot silence errors.
const PRIORITY_RESERVE: usize = 256 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
    /// Appended to; created with mode 0640.
    File(PathBuf),
    Syslog(Destination),
}

/// What a sink lost. Owned by the metrics, so that the counts survive a sink that is replaced.
#[derive(Debug, Default)]
pub struct SinkStats {
    dropped: AtomicU64,
    write_errors: AtomicU64,
}

impl SinkStats {
    /// Lines lost because the buffer was full or the target could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Failed writes and failed attempts to reopen the file.
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Relaxed)
    }
}

/// A place to write lines that never blocks the one who writes.
pub struct LineSink {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl LineSink {
    /// Opens `target` and starts the thread that writes it. `limit` is in bytes: what may wait in memory.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or no thread can be started.
    pub fn open(
        target: &Target,
        limit: usize,
        stats: Arc<SinkStats>,
        lookup: &Lookup,
    ) -> io::Result<LineSink> {
        let output = match target {
            Target::Stdout => Output::inherited(&io::stdout())?,
            Target::Stderr => Output::inherited(&io::stderr())?,
            Target::File(path) => Output::File(Opened { file: append_to(path)?, path: Some(path.clone()) }),
            Target::Syslog(to) => Output::Syslog(Server::new(to.transport.clone(), lookup.clone())),
        };
        LineSink::start(output, limit, stats)
    }

    fn start(output: Output, limit: usize, stats: Arc<SinkStats>) -> io::Result<LineSink> {
        let shared = Arc::new(Shared {
            limit,
            stats,
            state: Mutex::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
        });
        let mut writer =
            Writer { shared: Arc::clone(&shared), output, batch: Vec::new(), torn: false, reported: None };
        let thread = thread::Builder::new().name("lines".into()).spawn(move || writer.run())?;
        Ok(LineSink { shared, writer: Some(thread) })
    }

    /// Queues one line, which ends with its newline; drops and counts it when the buffer is full.
    pub fn push(&self, line: &[u8]) {
        self.append(line, self.shared.limit);
    }

    /// As [`LineSink::push`], with a small reserve that ordinary lines cannot take.
    pub fn push_priority(&self, line: &[u8]) {
        self.append(line, self.shared.limit + PRIORITY_RESERVE);
    }

    /// Opens the file again, before anything queued after this call is written: for SIGUSR1, after a
    /// rotation. Until that succeeds the old file is written. Nothing happens for stdout and stderr.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.wake.notify_one();
    }

    /// Waits until what was queued before this call has been written or given up; false when `patience`
    /// ran out first.
    pub fn flush(&self, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        let target = state.queued;
        state.flushing += 1;
        self.shared.wake.notify_one();
        let unfinished = |state: &mut State| state.handled < target;
        let (mut state, _) = self
            .shared
            .progress
            .wait_timeout_while(state, patience, unfinished)
            .unwrap_or_else(PoisonError::into_inner);
        state.flushing -= 1;
        state.handled >= target
    }

    fn append(&self, line: &[u8], limit: usize) {
        let mut state = self.shared.lock();
        let before = state.waiting.len();
        if before + state.writing + line.len() > limit {
            drop(state);
            self.shared.stats.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        state.queued += line.len() as u64;
        drop(state);

        let half = self.shared.limit / 2;
        if before == 0 || (before < half && before + line.len() >= half) {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for LineSink {
    /// Writes what is queued. A target that stalls is left to the writer thread after a second.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.wake.notify_one();
        let (state, _) = self
            .shared
            .progress
            .wait_timeout_while(state, DROP_PATIENCE, |state| !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let closed = state.closed;
        drop(state);
        if let Some(writer) = self.writer.take().filter(|_| closed) {
            // It ended by itself; a panic there has been reported by the panic hook.
            let _ = writer.join();
        }
    }
}

struct Shared {
    limit: usize,
    stats: Arc<SinkStats>,
    state: Mutex<State>,
    /// There is something for the writer to do.
    wake: Condvar,
    /// The writer has done something: for those who flush.
    progress: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes in the writer's hands: still in memory, so still part of the limit.
    writing: usize,
    /// Bytes queued, and bytes written or given up, since the start.
    queued: u64,
    handled: u64,
    flushing: usize,
    reopen: bool,
    closing: bool,
    closed: bool,
}

impl Shared {
    /// Nothing panics while it holds the lock, and lines are better late than never.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn idle(&self) -> bool {
        self.waiting.is_empty() && !self.reopen && !self.closing
    }

    fn in_no_hurry(&self, limit: usize) -> bool {
        self.waiting.len() < limit / 2 && self.flushing == 0 && !self.reopen && !self.closing
    }
}

struct Writer {
    shared: Arc<Shared>,
    output: Output,
    batch: Vec<u8>,
    /// The last write ended inside a line.
    torn: bool,
    reported: Option<Instant>,
}

impl Writer {
    fn run(&mut self) {
        while let Some(reopen) = self.take_batch() {
            if reopen && let Err(error) = self.output.reopen() {
                self.report(&error, "cannot reopen the log file, still writing the old one");
            }
            self.write_batch();

            let mut state = self.shared.lock();
            state.handled += self.batch.len() as u64;
            state.writing = 0;
            drop(state);
            self.shared.progress.notify_all();

            self.batch.clear();
            // After a burst, give back what an ordinary batch does not need.
            self.batch.shrink_to(self.shared.limit / 4);
        }
        self.shared.lock().closed = true;
        self.shared.progress.notify_all();
    }

    /// Sleeps until there is something to do and a batch has gathered; `None` when the sink was dropped and
    /// everything is written, else whether to reopen the file first.
    fn take_batch(&mut self) -> Option<bool> {
        let shared = &self.shared;
        let state = shared.wake.wait_while(shared.lock(), |state| state.idle());
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let gathered = shared.wake.wait_timeout_while(state, GATHER, |state| state.in_no_hurry(shared.limit));
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        let reopen = mem::take(&mut state.reopen);
        if state.waiting.is_empty() && !reopen {
            return None;
        }
        mem::swap(&mut state.waiting, &mut self.batch);
        state.writing = self.batch.len();
        Some(reopen)
    }

    fn write_batch(&mut self) {
        match &mut self.output {
            Output::File(_) => self.write_to_file(),
            Output::Syslog(_) => self.send_batch(),
        }
    }

    fn write_to_file(&mut self) {
        let Output::File(Opened { file, .. }) = &mut self.output else { return };
        if self.torn && !self.batch.is_empty() {
            // Without it the next line would continue the broken one, and both would be lost to the reader.
            self.torn = file.write_all(b"\n").is_err();
        }
        let mut rest = &self.batch[..];
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return self.give_up(rest.len(), &io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody made the terminal or pipe we share non-blocking.
                #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(GATHER),
                Err(error) => return self.give_up(rest.len(), &error),
            }
        }
    }

    /// Each line is a message. While nobody takes them they wait, and what comes meanwhile has the rest of the buffer.
    fn send_batch(&mut self) {
        let batch = mem::take(&mut self.batch);
        let mut rest = &batch[..];
        let mut pause = FIRST_PAUSE;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let Output::Syslog(server) = &mut self.output else { break };
            match server.send(&rest[..end]) {
                Ok(()) => pause = FIRST_PAUSE,
                Err(Failed::Lost(error)) => {
                    self.shared.stats.dropped.fetch_add(1, Relaxed);
                    self.report(&error, "cannot send a log line, dropping it");
                }
                Err(Failed::Away(error)) => {
                    self.report(&error, "the syslog server cannot be reached, lines wait for it");
                    if self.is_closing_within(pause) {
                        let lines = memchr::memchr_iter(b'\n', rest).count();
                        self.shared.stats.dropped.fetch_add(lines as u64, Relaxed);
                        break;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
            rest = &rest[end + 1..];
        }
        self.batch = batch;
    }

    fn is_closing_within(&self, pause: Duration) -> bool {
        let open = |state: &mut State| !state.closing;
        let waited = self.shared.wake.wait_timeout_while(self.shared.lock(), pause, open);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    /// The last `unwritten` bytes of the batch are lost.
    fn give_up(&mut self, unwritten: usize, error: &io::Error) {
        let (written, lost) = self.batch.split_at(self.batch.len() - unwritten);
        self.torn |= written.last().is_some_and(|byte| *byte != b'\n');
        let lines = lost.iter().filter(|byte| **byte == b'\n').count();
        self.shared.stats.dropped.fetch_add(lines as u64, Relaxed);
        self.report(error, "cannot write log lines, dropping them");
    }

    fn report(&mut self, error: &io::Error, what: &str) {
        let errors = self.shared.stats.write_errors.fetch_add(1, Relaxed) + 1;
        if self.reported.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return;
        }
        self.reported = Some(Instant::now());
        let target = match &self.output {
            Output::File(opened) => opened.path.as_deref().unwrap_or(Path::new("standard output or error")),
            Output::Syslog(server) => server.name(),
        };
        event!(Error, what, target = target.display(), error = error, errors_so_far = errors);
    }
}

enum Output {
    File(Opened),
    Syslog(Server),
}

struct Opened {
    /// Standard output and error are files too: their own handles buffer lines and would split a batch.
    file: File,
    /// What to reopen.
    path: Option<PathBuf>,
}

impl Output {
    fn inherited(stream: &impl AsFd) -> io::Result<Output> {
        Ok(Output::File(Opened { file: stream.as_fd().try_clone_to_owned()?.into(), path: None }))
    }

    fn reopen(&mut self) -> io::Result<()> {
        match self {
            Output::File(Opened { path: None, .. }) => {}
            Output::File(Opened { file, path: Some(path) }) => *file = append_to(path)?,
            Output::Syslog(server) => server.disconnect(),
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
pub(in crate::observe) mod tests {
    use std::{
        fs,
        io::{BufRead, BufReader, Read},
        os::{fd::OwnedFd, unix::fs::PermissionsExt},
    };

    use super::*;

    /// For what has no host's name in it.
    pub(in super::super) fn nowhere() -> Lookup {
        Arc::new(|_| Err(io::ErrorKind::NotFound.into()))
    }

    const AT_ONCE: Duration = Duration::from_secs(10);

    /// A sink into a new file, and the file's path.
    pub(in super::super) fn file_sink(directory: &tempfile::TempDir, limit: usize) -> (LineSink, PathBuf) {
        let path = directory.path().join("lines.log");
        (LineSink::open(&Target::File(path.clone()), limit, Arc::default(), &nowhere()).unwrap(), path)
    }

    fn pipe_sink(limit: usize) -> (LineSink, File) {
        let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
        let output = Output::File(Opened { file: writer.into(), path: None });
        (LineSink::start(output, limit, Arc::default()).unwrap(), reader.into())
    }

    #[test]
    fn writes_what_was_queued_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 1 << 20);
        let expected: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        expected.split_inclusive('\n').for_each(|line| sink.push(line.as_bytes()));
        assert!(sink.flush(AT_ONCE));
        assert_eq!(fs::read_to_string(path).unwrap(), expected);
    }

    #[test]
    fn writes_without_being_flushed() {
        let (sink, reader) = pipe_sink(1 << 20);
        sink.push(b"hello\n");
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, "hello\n");
    }

    #[test]
    fn dropping_the_sink_writes_what_is_queued() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 1 << 20);
        sink.push(b"last words\n");
        drop(sink);
        assert_eq!(fs::read_to_string(path).unwrap(), "last words\n");
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 16 << 20);
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let line = format!("{}\n", name.repeat(200));
                let sink = &sink;
                scope.spawn(move || (0..5000).for_each(|_| sink.push(line.as_bytes())));
            }
        });
        drop(sink);
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 20_000);
        assert!(text.lines().all(|line| line.len() == 200 && line.bytes().all(|b| b == line.as_bytes()[0])));
    }

    #[test]
    fn a_stalled_target_drops_and_counts_lines_and_never_blocks() {
        let limit = 256 * 1024;
        let (sink, mut reader) = pipe_sink(limit);
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let pushed = 1000;
        (0..pushed).for_each(|_| sink.push(&line));
        let dropped = sink.shared.stats.dropped() as usize;
        let pipe = 64 * 1024;
        assert!(dropped >= pushed - (limit + pipe) / line.len(), "{dropped}");
        assert!(!sink.flush(Duration::ZERO));

        // What was not dropped arrives once somebody reads.
        let reading = thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).map(|_| text.len())
        });
        drop(sink);
        assert_eq!(reading.join().unwrap().unwrap(), (pushed - dropped) * line.len());
    }

    #[test]
    fn priority_lines_fit_when_ordinary_lines_do_not() {
        let (sink, mut reader) = pipe_sink(0);
        sink.push(b"access\n");
        sink.push_priority(b"error\n");
        assert_eq!(sink.shared.stats.dropped(), 1);
        drop(sink);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "error\n");
    }

    #[test]
    fn a_broken_pipe_is_counted_and_survived() {
        let (sink, reader) = pipe_sink(1 << 20);
        drop(reader);
        for lost in 1..=3 {
            sink.push(b"nobody reads this\n");
            assert!(sink.flush(AT_ONCE));
            assert_eq!((sink.shared.stats.dropped(), sink.shared.stats.write_errors()), (lost, lost));
        }
    }

    #[test]
    fn reopens_after_a_rename() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 1 << 20);
        sink.push(b"before\n");
        assert!(sink.flush(AT_ONCE));
        let rotated = path.with_extension("1");
        fs::rename(&path, &rotated).unwrap();
        sink.reopen();
        sink.push(b"after\n");
        assert!(sink.flush(AT_ONCE));
        assert_eq!(fs::read_to_string(rotated).unwrap(), "before\n");
        assert_eq!(fs::read_to_string(path).unwrap(), "after\n");
    }

    #[test]
    fn keeps_the_old_file_when_reopening_fails() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("access.log");
        let sink = LineSink::open(&Target::File(path), 1 << 20, Arc::default(), &nowhere()).unwrap();
        let moved = directory.path().join("moved");
        fs::rename(&inner, &moved).unwrap();
        sink.reopen();
        sink.push(b"still here\n");
        assert!(sink.flush(AT_ONCE));
        assert_eq!(sink.shared.stats.write_errors(), 1);
        assert_eq!(fs::read_to_string(moved.join("access.log")).unwrap(), "still here\n");
    }

    #[test]
    fn files_are_not_readable_by_others() {
        let directory = tempfile::tempdir().unwrap();
        let (_sink, path) = file_sink(&directory, 1 << 20);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o037, 0);
    }
}
