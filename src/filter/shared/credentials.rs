//! Where the users of `basic_auth` and the keys of `api_key` come from: the options, or a file of lines that is read
//! again when it changes.
//!
//! A file is followed by looking at it once a second. That sees every way in which files are replaced (an editor's rename,
//! a mounted secret's swapped link), and needs no watch that could be lost. One thread does it for all.

use std::{
    fmt::Display,
    fs,
    io::{ErrorKind, Read},
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use openssl::sha::sha256;

use crate::{
    config::Path,
    filter::{Invalid, Live},
    observe::{log::event, metrics::Results},
};

/// Ten thousand users take about a megabyte.
const LARGEST: u64 = 16 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is made of the lines `NAME:REST`, or of what the options list.
pub(crate) trait Table: Sized + Send + Sync + 'static {
    /// Names the kind in messages: `users`.
    const KIND: &'static str;

    /// `entries` are names and what stands behind them.
    ///
    /// # Errors
    ///
    /// The number of the entry, from 0, and what is wrong with it, without what it says: it may be a secret.
    fn read<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, (usize, String)>;
}

/// Cheap to clone.
pub(crate) enum Credentials<T> {
    Fixed(Arc<T>),
    File(Arc<File<T>>),
}

impl<T: Table> Credentials<T> {
    /// From the options at `at`, where `key` lists them, or from the file that `file` names.
    ///
    /// # Errors
    ///
    /// There must be one of the two, and it must be right.
    pub(crate) fn build<'a>(
        listed: &[(&'a str, &'a str)],
        key: &str,
        file: Option<&FilePath>,
        at: &Path,
        live: &Live,
    ) -> Result<Credentials<T>, Invalid> {
        match (listed, file) {
            ([], None) => Err(Invalid::new(
                at.clone(),
                format!("without `{key}` and `file` nobody would be let in (give one of them)"),
            )),
            ([], Some(path)) => File::open(live.full_path(path), live)
                .map(Credentials::File)
                .map_err(|why| Invalid::new(at.key("file"), format!("{}: {why}", path.display()))),
            (_, Some(_)) => Err(Invalid::new(at.key("file"), format!("give `{key}` or `file`, not both"))),
            (listed, None) => T::read(listed.iter().copied())
                .map(|table| Credentials::Fixed(Arc::new(table)))
                .map_err(|(index, why)| Invalid::new(at.key(key).index(index), why)),
        }
    }

    pub(crate) fn current(&self) -> Arc<T> {
        match self {
            Credentials::Fixed(table) => table.clone(),
            Credentials::File(file) => file.content.load_full(),
        }
    }
}

pub(crate) struct File<T> {
    path: PathBuf,
    content: ArcSwap<T>,
    /// The digest of what was read last, good or bad.
    seen: Mutex<[u8; 32]>,
    results: Results<2>,
    /// Lives while there is a file to follow.
    _follower: Arc<Follower>,
}

const SUCCESS: usize = 0;
const FAILURE: usize = 1;

impl<T: Table> File<T> {
    fn open(path: PathBuf, live: &Live) -> Result<Arc<File<T>>, String> {
        let text = read(&path)?;
        let content = Arc::new(parse::<T>(&text)?);
        let follower = live.share((), |()| Follower::default());
        let mut is_new = false;
        let file = live.share(path.as_os_str().to_owned(), |_| {
            is_new = true;
            File {
                content: ArcSwap::new(content.clone()),
                seen: Mutex::new(sha256(&text)),
                results: live.metrics().access().credential_reloads(&path.to_string_lossy()),
                _follower: follower.clone(),
                path,
            }
        });
        match is_new {
            true => follower.follow(file.clone()),
            false => {
                *file.seen.lock().unwrap_or_else(PoisonError::into_inner) = sha256(&text);
                file.content.store(content);
            }
        }
        Ok(file)
    }
}

/// A file that may have changed.
trait Followed: Send + Sync {
    fn look(&self);
}

impl<T: Table> Followed for File<T> {
    /// What cannot be read or is wrong leaves what was, and is told once.
    fn look(&self) {
        let text = read(&self.path);
        let digest = match &text {
            Ok(text) => sha256(text),
            Err(why) => sha256(why.as_bytes()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *seen, digest) == digest {
            return;
        }
        match text.and_then(|text| parse::<T>(&text)) {
            Ok(content) => {
                self.content.store(Arc::new(content));
                self.results.count(SUCCESS);
                event!(Info, "credential file read again", file = self.path.display(), kind = T::KIND);
            }
            Err(why) => {
                self.results.count(FAILURE);
                event!(
                    Warn,
                    "credential file refused, what was read before stays in force",
                    file = self.path.display(),
                    kind = T::KIND,
                    problem = why
                );
            }
        }
    }
}

#[derive(Default)]
struct Follower(Mutex<Vec<Weak<dyn Followed>>>);

impl Follower {
    fn follow<T: Table>(self: &Arc<Follower>, file: Arc<File<T>>) {
        let file: Arc<dyn Followed> = file;
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push(Arc::downgrade(&file));
        if files.len() > 1 {
            return;
        }
        let this = Arc::downgrade(self);
        let spawned = thread::Builder::new().name("credentials".to_owned()).spawn(move || run(&this));
        if let Err(error) = spawned {
            log::error!(
                "files of users and keys are not followed: {error}; reload with SIGHUP after a change"
            );
        }
    }

    /// False when none is left, and nobody follows any longer.
    fn look(&self) -> bool {
        let files = {
            let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            files.retain(|file| file.strong_count() > 0);
            files.clone()
        };
        files.iter().filter_map(Weak::upgrade).for_each(|file| file.look());
        !files.is_empty()
    }
}

fn run(follower: &Weak<Follower>) {
    loop {
        #[expect(clippy::disallowed_methods, reason = "on a thread of its own")]
        thread::sleep(LOOK_EVERY);
        if !follower.upgrade().is_some_and(|follower| follower.look()) {
            return;
        }
    }
}

fn read(path: &FilePath) -> Result<Vec<u8>, String> {
    let explain = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    let file = fs::File::open(path).map_err(explain)?;
    if !file.metadata().map_err(explain)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(explain)?;
    if text.len() as u64 > LARGEST {
        return Err("it is larger than 16 MiB".to_owned());
    }
    Ok(text)
}

/// Empty lines and those that begin with `#` are passed over.
fn parse<T: Table>(text: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines: Vec<(usize, &str)> =
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    let at = |line: usize, why: &dyn Display| format!("line {}: {why}", line + 1);
    let mut entries = Vec::with_capacity(lines.len());
    for (line, text) in &lines {
        entries.push(text.split_once(':').ok_or_else(|| at(*line, &"it is not of the form NAME:HASH"))?);
    }
    if entries.is_empty() {
        return Err(format!("it names no {} (a line is NAME:HASH)", T::KIND));
    }
    T::read(entries.into_iter()).map_err(|(index, why)| at(lines[index].0, &why))
}

/// A name that can stand in a header, a log line and before a colon.
///
/// # Errors
///
/// Why it cannot.
pub(crate) fn name(name: &str) -> Result<Arc<str>, String> {
    if name.is_empty()
        || name.len() > 256
        || name.trim() != name
        || name.contains(|c: char| c == ':' || c.is_control())
    {
        return Err(
            "a name is 1 to 256 characters, no colon or control character, no blank at an end".to_owned()
        );
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any lines will do, but for those that say `bad`.
    struct Words(Vec<String>);

    impl Table for Words {
        const KIND: &'static str = "words";

        fn read<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Words, (usize, String)> {
            let word = |(index, (_, word)): (usize, (&str, &str))| match word {
                "bad" => Err((index, "it is bad".to_owned())),
                word => Ok(word.to_owned()),
            };
            entries.enumerate().map(word).collect::<Result<_, _>>().map(Words)
        }
    }

    fn open(path: &FilePath, live: &Live) -> Result<Arc<File<Words>>, String> {
        File::open(path.to_owned(), live)
    }

    #[test]
    fn a_bad_change_leaves_what_was_and_is_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("words");
        fs::write(&path, "# comment\n\na: one \n").unwrap();
        let live = Live::offline();
        let file = open(&path, &live).unwrap();
        let words = || file.content.load().0.clone();
        assert_eq!(words(), [" one"]);
        for (change, expected) in
            [("a:two\n", "two"), ("a:bad\n", "two"), ("", "two"), ("a:three\n", "three")]
        {
            fs::write(&path, change).unwrap();
            file.look();
            file.look();
            assert_eq!(words(), [expected], "{change:?}");
        }
        fs::remove_file(&path).unwrap();
        file.look();
        file.look();
        assert_eq!(words(), ["three"]);
        let metrics = live.metrics();
        let metrics = metrics.render(crate::observe::metrics::Format::Text, &metrics.gather(|| {}));
        let line = |result, count| {
            format!(
                "tidegate_credential_file_reloads_total{{file=\"{}\",result=\"{result}\"}} {count}",
                path.display()
            )
        };
        assert!(metrics.contains(&line("success", 2)) && metrics.contains(&line("failure", 3)), "{metrics}");
    }

    #[test]
    fn the_same_file_is_read_once_for_all_and_anew_with_each_build() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("words");
        fs::write(&path, "a:one\n").unwrap();
        let live = Live::offline();
        let first = open(&path, &live.within("routes a[0]")).unwrap();
        fs::write(&path, "a:two\n").unwrap();
        let second = open(&path, &live.within("routes b[0]")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.content.load().0, ["two"]);
    }

    #[test]
    fn says_where_it_is_wrong_but_not_what_stands_there() {
        let directory = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("# none\n", "it names no words"),
            ("a:one\n\nhunter2\n", "line 3: it is not of the form NAME:HASH"),
            ("# b\nhunter2:bad\n", "line 2: it is bad"),
        ] {
            let path = directory.path().join("words");
            fs::write(&path, text).unwrap();
            let why = open(&path, &Live::offline()).err().unwrap();
            assert!(why.contains(expected) && !why.contains("hunter2"), "{why}");
        }
        assert!(open(directory.path(), &Live::offline()).err().unwrap().contains("not a file"));
        assert!(
            open(&directory.path().join("none"), &Live::offline()).err().unwrap().contains("no such file")
        );
    }

    #[test]
    fn knows_names_that_can_stand_anywhere() {
        for (text, ok) in
            [("alice", true), ("Ünal 2", true), ("", false), ("a:b", false), (" a", false), ("a\n", false)]
        {
            assert_eq!(name(text).is_ok(), ok, "{text:?}");
        }
    }
}
