//! The process's own messages: ours and Pingora's, through the `log` crate, in one format.
//!
//! Messages go through the same sink as access lines on standard output: two writers would tear each
//! other's lines, and a stalled pipe must not stop the thread that has something to say. They are
//! priority lines, so a flood of access lines does not displace them. Whoever ends the process flushes.
//!
//! `event!` adds stable fields to a message; plain `log::warn!` and friends have none.

use std::{
    backtrace::Backtrace,
    fmt::{Display, Write as _},
    panic::{self, PanicHookInfo},
    sync::{Arc, OnceLock, PoisonError, RwLock},
    thread,
    time::{Duration, Instant, SystemTime},
};

use ::log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use crate::observe::{Format, encode, events::Events, log_writer::LineSink, tail::PerSecond};

/// Longest message or field, in bytes: enough for a backtrace.
const VALUE_LIMIT: usize = 16 * 1024;
/// The same of what those who watch are told.
const SHOWN: usize = 1024;
/// How long a panicking thread waits for its message to be written.
const FLUSH_PATIENCE: Duration = Duration::from_millis(100);

/// The `log` crate has one logger a process; this is it, kept here too because `log` cannot carry fields.
static LOGGER: OnceLock<Logger> = OnceLock::new();

/// What [`init`] needs.
pub struct Settings {
    pub level: LevelFilter,
    pub format: Format,
    /// `RUST_LOG`, read by the caller: `warn`, `tidegate::route=debug,pingora=off`. It overrides `level`.
    pub rust_log: Option<String>,
    pub sink: Arc<LineSink>,
}

/// Makes this process log. Mistakes in `RUST_LOG` are logged as warnings and otherwise ignored.
///
/// # Errors
/// There is a logger already.
pub fn init(settings: Settings) -> Result<&'static Logger, SetLoggerError> {
    let (logger, mistakes) = Logger::new(settings);
    let logger = LOGGER.get_or_init(|| logger);
    ::log::set_logger(logger)?;
    ::log::set_max_level(logger.max_level());
    for mistake in mistakes {
        ::log::warn!("{mistake}");
    }
    Ok(logger)
}

/// Logs a message with fields: `event!(Warn, "endpoint is unhealthy", upstream = name, endpoint = address)`.
/// Fields are displayed, and strings in JSON.
macro_rules! event {
    ($level:ident, $message:expr $(, $name:ident = $value:expr)* $(,)?) => {
        $crate::observe::log::emit(
            ::log::Level::$level,
            ::std::module_path!(),
            &$message,
            &[$((::std::stringify!($name), &$value as &dyn ::std::fmt::Display)),*],
        )
    };
}
pub(crate) use event;

/// What `event!` calls: `target` is the module that speaks.
pub fn emit(level: Level, target: &str, message: &dyn Display, fields: &[(&str, &dyn Display)]) {
    if level > ::log::max_level() {
        return;
    }
    match LOGGER.get() {
        Some(logger) => logger.write(level, target, message, fields),
        // Somebody else's logger, as in a test of the library.
        None => {
            let mut text = message.to_string();
            for (name, value) in fields {
                let _ = write!(text, " {name}={value}");
            }
            ::log::log!(target: target, level, "{text}");
        }
    }
}

/// From now on a panic is one `error` line with its place and backtrace, instead of a block on stderr.
/// Works as soon as [`init`] has; before, panics go to stderr as usual.
pub fn install_panic_hook() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| match LOGGER.get() {
        Some(logger) => logger.write_panic(info),
        None => usual(info),
    }));
}

pub struct Logger {
    directives: Directives,
    configured: RwLock<(LevelFilter, Format)>,
    sink: Arc<LineSink>,
    /// Warnings and errors are told here, too.
    watched: OnceLock<Watched>,
}

/// For those who watch: not more of them than somebody can read.
struct Watched {
    events: Arc<Events>,
    rate: PerSecond,
    began: Instant,
}

/// Messages a second.
const WATCHED: u32 = 10;

impl Logger {
    /// Also returns what is wrong with `rust_log`.
    fn new(settings: Settings) -> (Logger, Vec<String>) {
        let (directives, mistakes) = Directives::parse(settings.rust_log.as_deref().unwrap_or_default());
        let configured = RwLock::new((settings.level, settings.format));
        let watched = OnceLock::new();
        (Logger { directives, configured, sink: settings.sink, watched }, mistakes)
    }

    /// Applies what a reload may change. `RUST_LOG` still overrides.
    pub fn configure(&self, level: LevelFilter, format: Format) {
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = (level, format);
        ::log::set_max_level(self.max_level());
    }

    /// Tells warnings and errors to those who watch `events` from now on.
    pub fn watched_by(&self, events: Arc<Events>) {
        // The first who asks.
        let _ = self.watched.set(Watched { events, rate: PerSecond::new(WATCHED), began: Instant::now() });
    }

    fn configured(&self) -> (LevelFilter, Format) {
        *self.configured.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn max_level(&self) -> LevelFilter {
        let default = self.directives.default.unwrap_or(self.configured().0);
        self.directives.targets.iter().fold(default, |max, (_, level)| max.max(*level))
    }

    fn allows(&self, level: Level, target: &str) -> bool {
        if let Some(named) = self.directives.named(target) {
            return level <= named;
        }
        let default = self.directives.default.unwrap_or_else(|| self.configured().0);
        // Pingora prints whole headers at debug, credentials included: only who names it gets to see that.
        let most = if target.starts_with("tidegate") { default } else { default.min(LevelFilter::Info) };
        level <= most
    }

    fn write(&self, level: Level, target: &str, message: &dyn Display, fields: &[(&str, &dyn Display)]) {
        if !self.allows(level, target) {
            return;
        }
        let mut line = Vec::with_capacity(256);
        match self.configured().1 {
            Format::Json => json(&mut line, level, target, message, fields),
            Format::Text => text(&mut line, level, target, message, fields),
        }
        line.push(b'\n');
        self.sink.push_priority(&line);
        if level <= Level::Warn
            && let Some(watched) = self.watched.get()
        {
            watched.tell(level, message, fields);
        }
    }

    fn write_panic(&self, info: &PanicHookInfo<'_>) {
        let payload = info.payload();
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = format!("panic: {}", said.unwrap_or("(no message)"));
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current().name().unwrap_or("unnamed").to_owned();
        let backtrace = Backtrace::force_capture();
        let fields: [(&str, &dyn Display); 3] =
            [("location", &location), ("thread", &thread), ("backtrace", &backtrace)];
        self.write(Level::Error, "tidegate::panic", &message, &fields);
        // The process may be about to end.
        self.sink.flush(FLUSH_PATIENCE);
    }
}

impl Watched {
    fn tell(&self, level: Level, message: &dyn Display, fields: &[(&str, &dyn Display)]) {
        if !self.rate.takes(self.began.elapsed().as_secs()) {
            return;
        }
        let mut line = Vec::with_capacity(128);
        encode::text_message(&mut line, &message.to_string(), SHOWN);
        for (name, value) in fields {
            line.push(b' ');
            line.extend_from_slice(name.as_bytes());
            line.push(b'=');
            encode::text_value(&mut line, &value.to_string(), SHOWN);
        }
        let mut at = Vec::new();
        encode::timestamp(&mut at, SystemTime::now());
        self.events.tell(
            "message",
            &serde_json::json!({
                "at": String::from_utf8_lossy(&at),
                "level": level.as_str().to_ascii_lowercase(),
                "text": String::from_utf8_lossy(&line),
            }),
        );
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.allows(quieted(metadata), metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        self.write(quieted(record.metadata()), record.target(), record.args(), &[]);
    }

    /// Waits up to a second for what was logged to be written.
    fn flush(&self) {
        self.sink.flush(Duration::from_secs(1));
    }
}

/// What is an error to Pingora, a client that went away among them, is to us a warning: an error is what someone must act on.
fn quieted(metadata: &Metadata<'_>) -> Level {
    match metadata.level() {
        Level::Error if metadata.target().starts_with("pingora") => Level::Warn,
        level => level,
    }
}

fn json(
    line: &mut Vec<u8>,
    level: Level,
    target: &str,
    message: &dyn Display,
    fields: &[(&str, &dyn Display)],
) {
    line.extend_from_slice(br#"{"ts":""#);
    encode::timestamp(line, SystemTime::now());
    line.extend_from_slice(br#"","level":""#);
    line.extend_from_slice(level.as_str().to_ascii_lowercase().as_bytes());
    line.extend_from_slice(br#"","msg":"#);
    encode::json_string(line, &message.to_string(), VALUE_LIMIT);
    line.extend_from_slice(br#","target":"#);
    encode::json_string(line, target, VALUE_LIMIT);
    for (name, value) in fields {
        line.push(b',');
        encode::json_string(line, name, VALUE_LIMIT);
        line.push(b':');
        encode::json_string(line, &value.to_string(), VALUE_LIMIT);
    }
    line.push(b'}');
}

/// `2026-01-01T00:00:00.000Z WARN  tidegate::upstream: endpoint is unhealthy upstream=users`
fn text(
    line: &mut Vec<u8>,
    level: Level,
    target: &str,
    message: &dyn Display,
    fields: &[(&str, &dyn Display)],
) {
    encode::timestamp(line, SystemTime::now());
    line.extend_from_slice(format!(" {level:<5} {target}: ").as_bytes());
    encode::text_message(line, &message.to_string(), VALUE_LIMIT);
    for (name, value) in fields {
        line.push(b' ');
        line.extend_from_slice(name.as_bytes());
        line.push(b'=');
        encode::text_value(line, &value.to_string(), VALUE_LIMIT);
    }
}

/// `RUST_LOG`: levels by the prefix of a target, and one for the rest.
#[derive(Debug, Default, PartialEq)]
struct Directives {
    default: Option<LevelFilter>,
    /// The longest prefix first, so that the first that matches is the most specific.
    targets: Vec<(String, LevelFilter)>,
}

impl Directives {
    /// Also returns what could not be understood.
    fn parse(text: &str) -> (Directives, Vec<String>) {
        let (mut directives, mut mistakes) = (Directives::default(), Vec::new());
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None => match part.parse() {
                    Ok(level) => directives.default = Some(level),
                    // As usual in RUST_LOG: a target alone means everything it says.
                    Err(_) => directives.targets.push((part.to_owned(), LevelFilter::Trace)),
                },
                Some((target, level)) => match level.trim().parse() {
                    Ok(level) => directives.targets.push((target.trim().to_owned(), level)),
                    Err(_) => mistakes.push(format!(
                        "RUST_LOG: {part:?} is ignored, {level:?} is not a level (try off, error, warn, info, debug or trace)"
                    )),
                },
            }
        }
        directives.targets.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        (directives, mistakes)
    }

    /// The level given to this target by name.
    fn named(&self, target: &str) -> Option<LevelFilter> {
        let specific = self.targets.iter().find(|(prefix, _)| target.starts_with(prefix.as_str()));
        specific.map(|(_, level)| *level)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use serde_json::Value;

    use super::*;
    use crate::observe::log_writer::tests::file_sink;

    /// A logger of its own and the file it writes.
    struct Fixture {
        logger: Logger,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new(level: LevelFilter, format: Format, rust_log: &str) -> Fixture {
            let directory = tempfile::tempdir().unwrap();
            let (sink, path) = file_sink(&directory, 1 << 20);
            let settings =
                Settings { level, format, rust_log: Some(rust_log.to_owned()), sink: Arc::new(sink) };
            Fixture { logger: Logger::new(settings).0, path, _directory: directory }
        }

        fn says(&self, level: Level, target: &str, message: &str) {
            self.logger
                .log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
        }

        fn lines(&self) -> Vec<String> {
            assert!(self.logger.sink.flush(Duration::from_secs(10)));
            fs::read_to_string(&self.path).unwrap().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn a_json_message_is_one_object_with_its_fields() {
        let fixture = Fixture::new(LevelFilter::Info, Format::Json, "");
        fixture.logger.write(
            Level::Warn,
            "tidegate::upstream",
            &"endpoint is\nunhealthy",
            &[("upstream", &"users"), ("failed_probes", &3)],
        );
        let lines = fixture.lines();
        assert_eq!(lines.len(), 1);
        let (time, rest) = lines[0].split_once(r#"","level""#).unwrap();
        assert!(humantime::parse_rfc3339(time.strip_prefix(r#"{"ts":""#).unwrap()).is_ok());
        assert_eq!(
            rest,
            r#":"warn","msg":"endpoint is\nunhealthy","target":"tidegate::upstream","upstream":"users","failed_probes":"3"}"#
        );
    }

    #[test]
    fn a_text_message_is_one_line_with_its_fields() {
        let fixture = Fixture::new(LevelFilter::Info, Format::Text, "");
        fixture.logger.write(
            Level::Info,
            "tidegate::app",
            &"it's\nlistening",
            &[("address", &"[::1]:80"), ("note", &"a b")],
        );
        let lines = fixture.lines();
        let (_, rest) = lines[0].split_once("Z ").unwrap();
        assert_eq!(rest, r#"INFO  tidegate::app: it's\nlistening address=[::1]:80 note="a b""#);
    }

    #[test]
    fn the_configured_level_filters_and_can_be_changed() {
        let fixture = Fixture::new(LevelFilter::Warn, Format::Text, "");
        fixture.says(Level::Info, "tidegate", "hidden");
        fixture.logger.configure(LevelFilter::Debug, Format::Json);
        fixture.says(Level::Debug, "tidegate", "shown");
        let lines = fixture.lines();
        assert_eq!(lines.len(), 1);
        assert_eq!(serde_json::from_str::<Value>(&lines[0]).unwrap()["msg"], "shown");
    }

    #[test]
    fn rust_log_overrides_the_configured_level() {
        let fixture = Fixture::new(LevelFilter::Trace, Format::Text, "error,tidegate::route=debug");
        fixture.says(Level::Warn, "tidegate::app", "hidden");
        fixture.says(Level::Debug, "tidegate::route::table", "shown");
        fixture.says(Level::Error, "tidegate::app", "shown");
        assert_eq!(fixture.lines().len(), 2);
    }

    #[test]
    fn the_most_specific_directive_wins() {
        let (directives, mistakes) = Directives::parse("pingora=off, pingora_core=info,tidegate,warn");
        assert_eq!(mistakes, Vec::<String>::new());
        for (target, level) in [
            ("pingora_limits", LevelFilter::Off),
            ("pingora_core::server", LevelFilter::Info),
            ("tidegate::route", LevelFilter::Trace),
        ] {
            assert_eq!(directives.named(target), Some(level), "{target}");
        }
        assert_eq!((directives.default, directives.named("h2")), (Some(LevelFilter::Warn), None));
    }

    #[test]
    fn what_others_say_at_debug_is_shown_only_when_they_are_named() {
        let fixture = Fixture::new(LevelFilter::Info, Format::Text, "trace");
        fixture.says(Level::Debug, "pingora_core::protocols", "authorization: hidden");
        fixture.says(Level::Debug, "tidegate::app", "shown");
        assert_eq!(fixture.lines().len(), 1);
        let named = Fixture::new(LevelFilter::Info, Format::Text, "pingora_core=debug");
        named.says(Level::Debug, "pingora_core::protocols", "shown");
        assert_eq!(named.lines().len(), 1);
    }

    #[test]
    fn a_mistaken_directive_is_reported_and_the_rest_applies() {
        let (directives, mistakes) = Directives::parse("tidegate=loud,info");
        assert_eq!(directives, Directives { default: Some(LevelFilter::Info), targets: Vec::new() });
        assert!(mistakes.len() == 1 && mistakes[0].contains("loud"), "{mistakes:?}");
    }

    #[test]
    fn what_pingora_calls_an_error_is_a_warning() {
        let fixture = Fixture::new(LevelFilter::Warn, Format::Json, "");
        fixture.says(Level::Error, "pingora_core", "fail to connect");
        fixture.says(Level::Error, "tidegate::app", "out of memory");
        let levels: Vec<Value> = fixture
            .lines()
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["level"].clone())
            .collect();
        assert_eq!(levels, ["warn", "error"]);

        let fixture = Fixture::new(LevelFilter::Error, Format::Json, "");
        fixture.says(Level::Error, "pingora_core", "fail to connect");
        assert_eq!(fixture.lines(), Vec::<String>::new());
    }

    /// The only test that touches the process's logger and panic hook.
    #[test]
    fn a_panic_is_one_error_line_with_its_place_and_backtrace() {
        let directory = tempfile::tempdir().unwrap();
        let (sink, path) = file_sink(&directory, 1 << 20);
        let sink = Arc::new(sink);
        let settings = Settings {
            level: LevelFilter::Info,
            format: Format::Json,
            rust_log: None,
            sink: Arc::clone(&sink),
        };
        init(settings).unwrap();
        let usual = panic::take_hook();
        install_panic_hook();
        let panicked = thread::Builder::new()
            .name("doomed".into())
            .spawn(|| panic!("no\nmore {}", "luck"))
            .unwrap()
            .join();
        panic::set_hook(usual);
        assert!(panicked.is_err());

        event!(Warn, "endpoint is unhealthy", upstream = "users", port = 80);
        ::log::logger().flush();
        let lines: Vec<Value> = fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let panic = lines.iter().find(|line| line["thread"] == "doomed").unwrap();
        assert_eq!((&panic["level"], &panic["msg"]), (&"error".into(), &"panic: no\nmore luck".into()));
        assert!(panic["location"].as_str().unwrap().contains("observe/log.rs:"));
        assert!(panic["backtrace"].as_str().unwrap().contains('\n'));
        let event = lines.iter().find(|line| line["msg"] == "endpoint is unhealthy").unwrap();
        assert_eq!((&event["upstream"], &event["port"]), (&"users".into(), &"80".into()));
        assert_eq!(event["target"], module_path!());
    }
}
