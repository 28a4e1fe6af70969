//! `tidegate top`: what a running gateway's routes and endpoints do, second by second, in a terminal. Elsewhere it prints one
//! table and ends.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    io::{self, IsTerminal, Read, Write as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use clap::Args;
use serde_json::Value;
use tokio::sync::Notify;

use super::{
    ask::{AskArgs, target},
    events::{Event, follow},
    failure, terminal,
    text::{Colours, safe},
};
use crate::app::Failure;

/// Where a terminal does not say how large it is.
const USUAL: (usize, usize) = (80, 24);
/// Seconds that something stays in the table after its last request.
const STAYS: u32 = 30;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Print one table, or with --json one object, of the last second, and end
    #[arg(long)]
    once: bool,
    /// Print an object of JSON each second, for programs
    #[arg(long)]
    json: bool,
    /// The column by which rows are sorted
    #[arg(long, value_enum, default_value = "requests")]
    sort: Column,
    #[command(flatten)]
    control: AskArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Column {
    Name,
    Requests,
    Errors,
    P99,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Routes,
    Endpoints,
}

struct Screen {
    page: Page,
    sort: Column,
    is_over: bool,
    latest: Value,
    routes: BTreeMap<String, Row>,
    endpoints: BTreeMap<String, Row>,
    colours: Colours,
}

/// A route or an endpoint, as it was told of last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    requests: f64,
    client_errors: f64,
    errors: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    /// Of an endpoint.
    active: u64,
    state: String,
    /// Seconds since it was told of.
    idle: u32,
}

pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    let target = target(&args.control)?;
    let is_live = !args.json && !args.once && io::stdout().is_terminal() && io::stdin().is_terminal();
    if !is_live {
        let once = args.once || !args.json;
        let sort = args.sort;
        let json = args.json;
        return super::following(follow(&target, "/v1/events", move |event| {
            let Some(traffic) = traffic(&event)? else { return Ok(false) };
            let mut screen = Screen::new(sort, Colours::of_stdout());
            screen.take(traffic);
            let text = if json { format!("{}\n", event.data) } else { screen.both() };
            Ok(!super::print_more(&text)? || once)
        }));
    }
    let screen = Arc::new(Mutex::new(Screen::new(args.sort, Colours::of_stdout())));
    let raw =
        Raw::enter().map_err(|error| failure(format!("cannot read keys from this terminal: {error}")))?;
    let over = Arc::new(Notify::new());
    listen(screen.clone(), over.clone());
    let shown = screen.clone();
    let watching = follow(&target, "/v1/events", move |event| {
        if let Some(traffic) = traffic(&event)? {
            let mut screen = lock(&shown);
            screen.take(traffic);
            screen.draw()?;
        }
        Ok(lock(&shown).is_over)
    });
    let ended = super::following(async {
        tokio::select! {
            ended = watching => ended,
            () = over.notified() => Ok(()),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    });
    drop(raw);
    ended
}

/// What one second brought; an error where the gateway says that nothing is sampled.
fn traffic(event: &Event) -> io::Result<Option<Value>> {
    match event.kind.as_str() {
        "traffic" => serde_json::from_str(&event.data).map(Some).map_err(io::Error::other),
        _ => Ok(None),
    }
}

/// Keys, on a thread of their own: it ends with the process.
fn listen(screen: Arc<Mutex<Screen>>, over: Arc<Notify>) {
    thread::spawn(move || {
        for key in io::stdin().lock().bytes() {
            let Ok(key) = key else { return };
            let mut screen = lock(&screen);
            if screen.press(key) {
                over.notify_one();
                return;
            }
            // The next second draws it where this cannot.
            let _ = screen.draw();
        }
    });
}

fn lock(screen: &Mutex<Screen>) -> std::sync::MutexGuard<'_, Screen> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    fn new(sort: Column, colours: Colours) -> Screen {
        Screen {
            page: Page::Routes,
            sort,
            is_over: false,
            latest: Value::Null,
            routes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            colours,
        }
    }

    fn take(&mut self, traffic: Value) {
        for (rows, key) in [(&mut self.routes, "routes"), (&mut self.endpoints, "endpoints")] {
            rows.values_mut().for_each(|row| {
                *row = Row { idle: row.idle + 1, state: row.state.clone(), ..Row::default() }
            });
            for (name, told) in traffic[key].as_object().into_iter().flatten() {
                rows.insert(name.clone(), Row::of(told));
            }
            rows.retain(|_, row| row.idle <= STAYS);
        }
        self.latest = traffic;
    }

    /// True where that was the last.
    fn press(&mut self, key: u8) -> bool {
        match key {
            b'q' | b'Q' | 0x1b | 0x03 => self.is_over = true,
            b'\t' => {
                self.page = match self.page {
                    Page::Routes => Page::Endpoints,
                    Page::Endpoints => Page::Routes,
                }
            }
            b'n' => self.sort = Column::Name,
            b'r' => self.sort = Column::Requests,
            b'e' => self.sort = Column::Errors,
            b'p' => self.sort = Column::P99,
            _ => {}
        }
        self.is_over
    }

    fn draw(&self) -> io::Result<()> {
        let (width, height) = size();
        terminal::redraw(self.lines(self.page, width, height.saturating_sub(1)))
    }

    /// Both tables, for those who read no terminal.
    fn both(&self) -> String {
        let mut lines = self.lines(Page::Routes, usize::MAX, usize::MAX);
        lines.push(String::new());
        lines.extend(self.table(Page::Endpoints, usize::MAX));
        lines.join("\n") + "\n"
    }

    fn lines(&self, page: Page, width: usize, height: usize) -> Vec<String> {
        let gateway = &self.latest["gateway"];
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let ms = |value: &Value| value.as_f64().map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let mut lines = vec![
            self.colours.bold(&cut(
                &format!(
                    "tidegate  {}  {} req/s  {} 5xx/s  p50 {}  p99 {}  {} of {} connections",
                    self.latest["phase"].as_str().unwrap_or("waiting for the gateway"),
                    number(&gateway["requests_per_second"]),
                    number(&gateway["errors_5xx_per_second"]),
                    ms(&gateway["p50_ms"]),
                    ms(&gateway["p99_ms"]),
                    self.latest["connections"]["open"],
                    self.latest["connections"]["limit"],
                ),
                width,
            )),
            cut("sort: n name, r requests, e errors, p p99   tab: routes, endpoints   q: leave", width),
            String::new(),
        ];
        if width == usize::MAX {
            lines.truncate(1);
            lines.push(String::new());
        }
        let left = height.saturating_sub(lines.len() + 1);
        let mut table = self.table(page, width);
        table.truncate(left.saturating_add(1));
        lines.extend(table);
        lines
    }

    fn table(&self, page: Page, width: usize) -> Vec<String> {
        let (rows, title) = match page {
            Page::Routes => (&self.routes, "ROUTE"),
            Page::Endpoints => (&self.endpoints, "ENDPOINT"),
        };
        let mut sorted: Vec<(&String, &Row)> = rows.iter().collect();
        sorted.sort_by(|one, other| compare(self.sort, *one, *other));
        let names = sorted.iter().map(|(name, _)| name.chars().count()).chain([title.len()]);
        let longest = names.max().unwrap_or_default().min(width.saturating_sub(52).max(16));
        let head = match page {
            Page::Routes => {
                format!("{:>10} {:>8} {:>8} {:>10} {:>10}", "REQ/S", "4XX/S", "5XX/S", "P50 MS", "P99 MS")
            }
            Page::Endpoints => format!("{:>10} {:>8} {:>8}  {}", "REQ/S", "ERR/S", "ACTIVE", "STATE"),
        };
        let mut lines = vec![self.colours.bold(&cut(&format!("{title:<longest$} {head}"), width))];
        for (name, row) in sorted {
            let name = cut(&safe(name).replace('\n', "\\n"), longest);
            let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| ms.to_string());
            let cells = match page {
                Page::Routes => format!(
                    "{:>10} {:>8} {:>8} {:>10} {:>10}",
                    row.requests,
                    row.client_errors,
                    row.errors,
                    ms(row.p50),
                    ms(row.p99)
                ),
                Page::Endpoints => {
                    format!("{:>10} {:>8} {:>8}  {}", row.requests, row.errors, row.active, row.state)
                }
            };
            let line = cut(&format!("{name:<longest$} {cells}"), width);
            lines.push(if row.errors > 0.0 { self.colours.red(&line) } else { line });
        }
        lines
    }
}

impl Row {
    fn of(told: &Value) -> Row {
        let number = |key: &str| told[key].as_f64().unwrap_or_default();
        Row {
            requests: number("requests_per_second"),
            client_errors: number("errors_4xx_per_second"),
            errors: number("errors_5xx_per_second") + number("errors_per_second"),
            p50: told["p50_ms"].as_f64(),
            p99: told["p99_ms"].as_f64(),
            active: told["active_requests"].as_u64().unwrap_or_default(),
            state: told["state"].as_str().unwrap_or_default().to_owned(),
            idle: 0,
        }
    }
}

/// The busiest and worst first.
fn compare(sort: Column, one: (&String, &Row), other: (&String, &Row)) -> Ordering {
    let by = |of: fn(&Row) -> f64| of(other.1).total_cmp(&of(one.1));
    let order = match sort {
        Column::Name => Ordering::Equal,
        Column::Requests => by(|row| row.requests),
        Column::Errors => by(|row| row.errors),
        Column::P99 => by(|row| row.p99.unwrap_or_default()),
    };
    order.then_with(|| one.0.cmp(other.0))
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

fn size() -> (usize, usize) {
    match terminal::size() {
        Some((width, height)) if width > 0 && height > 0 => (width.into(), height.into()),
        _ => USUAL,
    }
}

/// Keys come one by one, and the screen is another one, until this is dropped.
struct Raw(terminal::Settings);

impl Raw {
    fn enter() -> io::Result<Raw> {
        let before = terminal::key_by_key()?;
        print!("\u{1b}[?1049h\u{1b}[?25l");
        io::stdout().flush()?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        print!("\u{1b}[?25h\u{1b}[?1049l");
        // Nothing more can be done for a terminal that is gone.
        let _ = io::stdout().flush();
        self.0.restore();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn screen() -> Screen {
        let mut screen = Screen::new(Column::Requests, Colours::none());
        screen.take(json!({
            "phase": "ready", "gateway": {"requests_per_second": 12.5, "errors_5xx_per_second": 0.5, "p50_ms": 1.0, "p99_ms": null},
            "connections": {"open": 2, "limit": 100},
            "routes": {
                "slow": {"requests_per_second": 2.5, "p99_ms": 90.0},
                "users": {"requests_per_second": 10.0, "errors_5xx_per_second": 0.5, "p50_ms": 1.0, "p99_ms": 2.0},
            },
            "endpoints": {"v1/10.0.0.1:80": {"requests_per_second": 12.5, "errors_per_second": 0.0, "active_requests": 3, "state": "healthy"}},
        }));
        screen
    }

    fn names(screen: &Screen) -> Vec<String> {
        let table = screen.table(Page::Routes, 80);
        table[1..].iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn rows_are_sorted_by_the_key_that_was_pressed() {
        let mut screen = screen();
        assert_eq!(names(&screen), ["users", "slow"]);
        assert!(!screen.press(b'p'));
        assert_eq!(names(&screen), ["slow", "users"]);
        assert!(!screen.press(b'n'));
        assert_eq!(names(&screen), ["slow", "users"]);
        assert!(screen.press(b'q'));
    }

    #[test]
    fn what_is_idle_stays_for_a_while_with_zeros() {
        let mut screen = screen();
        screen.take(json!({"routes": {}, "endpoints": {}}));
        assert_eq!((names(&screen).len(), screen.routes["users"].requests), (2, 0.0));
        (0..STAYS).for_each(|_| screen.take(json!({})));
        assert!(screen.routes.is_empty());
    }

    #[test]
    fn a_small_terminal_is_not_written_beyond() {
        let screen = screen();
        for (width, height) in [(80, 24), (20, 3), (1, 1), (0, 0)] {
            for page in [Page::Routes, Page::Endpoints] {
                let lines = screen.lines(page, width, height);
                assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
            }
        }
        assert!(screen.both().contains("v1/10.0.0.1:80"), "{}", screen.both());
    }
}
