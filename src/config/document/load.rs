//! From files, text or the values of another origin to one tree: reads, expands, follows `include` and merges, then
//! reads the tree into a configuration.
//! Nothing stops at the first problem; what could be read is checked even when other files could not be.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Read,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use crate::config::{
    document::{
        collect::{Collected, Start, collect_all},
        defaults,
        expand::{Environment, Expander, Reach, reason},
        inline,
        json::whole_characters,
        loaded::Loaded,
        node::{At, Entry, Map, Node, Value},
        omissions::Gaps,
        origin::{self, Origin},
        parts::{self, PartName},
        problem::{Path, Problem, Problems, Trail, suggest},
        received::{self, Additions, Document, Holds, ReceivedConfig},
        secrets,
        slips::{OF_NGINX, is_of_nginx},
        sources::Sources,
        tree::{self, Findings, locate, place},
    },
    model::Config,
};

const LARGEST_FILE: u64 = 32 * 1024 * 1024;
const DEEPEST_INCLUDE: usize = 16;

/// Appended in the order in which they are read; every other key is set in one file.
const LISTS: [&str; 3] = ["include", "listeners", "routes"];
/// Merged name by name.
const MAPS: [&str; 2] = ["filters", "upstreams"];

const SMALLEST: &str = "the smallest useful file: {listeners: [{address: \"127.0.0.1:8000\"}], \
     routes: [{upstream: backend}], upstreams: {backend: {endpoints: [\"127.0.0.1:3000\"]}}}";

/// Reads the configuration at `path` with everything it includes; variables come from this process's environment.
///
/// # Errors
/// All problems, when so little could be read that there is nothing to look for more in.
pub fn load(path: &FilePath) -> Result<Loaded, Problems> {
    load_beside(path, &Additions::default())
}

/// The same, with `additions` read as if the file at `path` included them: relative paths in them are relative to it.
///
/// # Errors
/// As for [`load`].
pub fn load_beside(path: &FilePath, additions: &Additions) -> Result<Loaded, Problems> {
    load_with(path, additions, &|name| std::env::var(name))
}

/// Reads a configuration in YAML or JSON that is not a file, under the name by which problems are to call it.
/// `${...}` is expanded as in a file; `include` is refused.
///
/// # Errors
/// As for [`load`].
pub fn parse(text: &str, file_name: &str) -> Result<Loaded, Problems> {
    parse_beside(text, file_name, &Additions::default())
}

/// The same, with `additions` read as if it included them.
///
/// # Errors
/// As for [`load`].
pub fn parse_beside(text: &str, file_name: &str, additions: &Additions) -> Result<Loaded, Problems> {
    parse_with(text, file_name, additions, &|name| std::env::var(name))
}

/// Reads a configuration that somebody has sent to have it looked at. `${...}` and `include` are refused, as they would read
/// what is this machine's own; and what it names of files cannot be read: see [`crate::config::UNREAD`].
///
/// # Errors
/// As for [`load`].
pub fn parse_unread(text: &str, file_name: &str) -> Result<Loaded, Problems> {
    let mut loader = Loader::new(Reach::Nothing, Includes::Refused);
    loader.read_text(text, FilePath::new(file_name), true);
    let mut loaded = loader.finish()?;
    loaded.sources.read_no_files();
    Ok(loaded)
}

/// Reads a configuration that `origin` says. It can do less than a file: `${...}` and `include` are refused, as they
/// would read what is this machine's own. Options that name a file, such as a certificate's, still do: whoever takes
/// configurations from where it is not trusted with those has to look at them.
///
/// # Errors
/// As for [`load`].
pub fn from_value(value: serde_json::Value, origin: Origin) -> Result<Loaded, Problems> {
    let mut loader =
        Loader { start: At::without_line(0, 0), ..Loader::new(Reach::Nothing, Includes::Refused) };
    loader.read_value(value, &origin);
    loader.finish()
}

pub(in crate::config) fn load_with(
    path: &FilePath,
    additions: &Additions,
    environment: Environment<'_>,
) -> Result<Loaded, Problems> {
    let mut loader = Loader::new(Reach::All(environment), Includes::Followed);
    loader.read_file(path, None);
    loader.read_additions(additions, path, environment);
    loader.finish()
}

pub(in crate::config) fn parse_with(
    text: &str,
    file_name: &str,
    additions: &Additions,
    environment: Environment<'_>,
) -> Result<Loaded, Problems> {
    let mut loader = Loader::new(Reach::All(environment), Includes::Refused);
    loader.read_text(text, FilePath::new(file_name), true);
    loader.read_additions(additions, FilePath::new(file_name), environment);
    loader.finish()
}

pub(in crate::config) enum Includes {
    Followed,
    Refused,
}

pub(in crate::config) struct Loader<'e> {
    /// Of what is being read.
    reach: Reach<'e>,
    includes: Includes,
    additions: Additions,
    pub(in crate::config) findings: Findings,
    /// Where the configuration as a whole begins.
    start: At,
    /// By file number; empty for what is no file.
    paths: Vec<PathBuf>,
    /// All files read, also those that values came from.
    watched: Vec<PathBuf>,
    /// Something that could not be read may have set any key.
    is_incomplete: bool,
    /// The files that are being read, each included by the one before.
    open: Vec<(PathBuf, PathBuf)>,
    seen: HashSet<PathBuf>,
    /// Top-level keys in the order in which they were first seen, each with every place that sets it.
    keys: Vec<Vec<Entry>>,
    by_name: HashMap<String, usize>,
}

/// The entry of an `include` list.
struct Inclusion {
    at: At,
    path: Path,
}

impl<'e> Loader<'e> {
    pub(in crate::config) fn new(reach: Reach<'e>, includes: Includes) -> Self {
        Loader {
            reach,
            includes,
            additions: Additions::default(),
            findings: Findings::default(),
            start: At { file: 0, line: 1, column: 1 },
            paths: Vec::new(),
            watched: Vec::new(),
            is_incomplete: false,
            open: Vec::new(),
            seen: HashSet::new(),
            keys: Vec::new(),
            by_name: HashMap::new(),
        }
    }

    fn read_file(&mut self, path: &FilePath, by: Option<&Inclusion>) {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(start) = self.open.iter().position(|(open, _)| *open == real) {
            let loop_of = self.open[start..].iter().map(|(_, path)| path.display().to_string());
            let chain: Vec<_> = loop_of.chain([path.display().to_string()]).collect();
            return self.tell(by, format!("a file includes itself: {}", chain.join(" -> ")), None);
        }
        if self.open.len() == DEEPEST_INCLUDE {
            return self.lose(by, format!("includes are nested deeper than {DEEPEST_INCLUDE} files"), None);
        }
        if !self.seen.insert(real.clone()) {
            return self.tell(by, format!("{} is included twice", path.display()), Some("include it once"));
        }
        self.watched.push(path.to_owned());
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            let hint = by.map(|_| "relative paths are relative to the file they stand in");
            return self.lose(by, format!("cannot read {}: {}", path.display(), reason(&error)), hint);
        }
        if bytes.len() as u64 > LARGEST_FILE {
            let message = format!("cannot read {}: it is larger than 32 MiB", path.display());
            return self.lose(by, message, Some("is it a configuration?"));
        }
        self.open.push((real, path.to_owned()));
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.read_text(text, path, by.is_none()),
            Err(error) => {
                self.is_incomplete = true;
                let file = self.add_file(path);
                let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let at = place(file, &valid, valid.len());
                self.findings.add(at, Path::root(), "is not UTF-8 text");
            }
        }
        self.open.pop();
    }

    fn read_text(&mut self, text: &str, path: &FilePath, is_main: bool) {
        let file = self.add_file(path);
        let known = self.findings.problems.len();
        self.findings.is_foreign = !is_main;
        let root =
            tree::parse(&whole_characters(text), file, &mut self.findings).filter(|root| !root.is_null());
        match root {
            Some(root) if !is_main && is_foreign(&root) => {
                self.findings.problems.truncate(known);
                let message = "this is no configuration: it has none of its keys";
                self.findings.add_with_hint(
                    At::without_line(file, 0),
                    Path::root(),
                    message,
                    "nothing of it is shown; look at `include`",
                );
                self.is_incomplete = true;
            }
            Some(root) => self.take(root, &directory_of(path)),
            None => self.take_nothing(file, is_main, known),
        }
    }

    fn read_value(&mut self, value: serde_json::Value, origin: &Origin) {
        let file = self.add_source(origin.to_string().into(), PathBuf::new());
        let known = self.findings.problems.len();
        let root = origin::tree_of(value, file, &mut self.findings).filter(|root| !root.is_null());
        match root {
            Some(root) => self.take(root, FilePath::new("")),
            None => self.take_nothing(file, true, known),
        }
    }

    /// Without the main file there is nothing that they could stand beside.
    fn read_additions(&mut self, additions: &'e Additions, main: &FilePath, environment: Environment<'e>) {
        self.additions = additions.clone();
        if self.findings.names.is_empty() {
            return;
        }
        if let Some(received) = &additions.received {
            self.reach = Reach::Open { environment, folders: &received.secrets };
            self.includes = Includes::Refused;
            self.read_received(received, main);
        }
        // Whoever gives one has no say over this machine's variables and files.
        self.reach = Reach::Nothing;
        for (name, part) in additions.parts.iter() {
            let file = self.add_source(name.to_string().into(), main.to_owned());
            self.read_part(name, &part.text, file, main);
        }
    }

    fn read_received(&mut self, received: &ReceivedConfig, main: &FilePath) {
        let known = top_level_keys();
        for document in &received.documents {
            let Document { name: _, text } = document;
            let file = self.add_source(received.origin(document).into(), main.to_owned());
            match received.holds(document) {
                Holds::Keys => {
                    let before = self.findings.problems.len();
                    let root = tree::parse(&whole_characters(text), file, &mut self.findings);
                    match root.filter(|root| !root.is_null()) {
                        Some(root) => {
                            let root = received::confine(root, &known, &mut self.findings);
                            self.take(root, &directory_of(main));
                        }
                        None => self.take_nothing(file, false, before),
                    }
                }
                Holds::Part(name) => self.read_part(&name, text, file, main),
                Holds::Unknown => {
                    self.is_incomplete = true;
                    let message = format!(
                        "is no part of the configuration `{}` that this release knows",
                        received.name
                    );
                    self.findings.add(At::without_line(file, 0), Path::root(), message);
                }
            }
        }
    }

    fn read_part(&mut self, name: &PartName, text: &str, file: u32, main: &FilePath) {
        let known = self.findings.problems.len();
        let root = tree::parse(&whole_characters(text), file, &mut self.findings);
        match root.filter(|root| !root.is_null()) {
            Some(root) => {
                let root = parts::configuration(name, root, &mut self.findings);
                self.take(root, &directory_of(main));
            }
            None => {
                self.is_incomplete = true;
                if self.findings.problems.len() == known {
                    let at = At::without_line(file, 0);
                    self.findings.add_with_hint(at, Path::root(), "is empty", name.kind.example());
                }
            }
        }
    }

    /// Source number `file` is empty or could not be read; `known` is how many problems there were before it.
    fn take_nothing(&mut self, file: u32, is_main: bool, known: usize) {
        self.is_incomplete |= is_main || self.findings.problems.len() > known;
        // In a directory of includes, one that is commented out is nothing to complain about.
        if is_main && self.findings.problems.len() == known {
            self.findings.add_with_hint(At::without_line(file, 0), Path::root(), "is empty", SMALLEST);
        }
    }

    /// Takes in the tree of one source whose relative paths are relative to `directory`.
    pub(in crate::config) fn take(&mut self, mut root: Node, directory: &FilePath) {
        let mut expander = Expander { reach: self.reach, directory, read: &mut self.watched };
        expander.expand(&mut root, &Trail::Start(&Path::root()), &mut self.findings);
        let Value::Map(map) = root.value else {
            self.is_incomplete = true;
            if !root.is_broken() {
                let message = format!("expected a map, found {}", root.describe());
                let hint = match &root.value {
                    Value::Scalar(scalar) if is_of_nginx(scalar.written()) => OF_NGINX,
                    _ => SMALLEST,
                };
                self.findings.add_with_hint(root.at, Path::root(), message, hint);
            }
            return;
        };
        let include = map.entry("include").map(|entry| entry.value.clone());
        for entry in map.into_entries() {
            let next = self.keys.len();
            match *self.by_name.entry(entry.key.clone()).or_insert(next) {
                index if index == next => self.keys.push(vec![entry]),
                index => self.keys[index].push(entry),
            }
        }
        self.is_incomplete |= root.is_partial;
        match include {
            Some(Node { value: Value::List(items), .. }) => self.include(&items, directory),
            Some(other) => self.is_incomplete |= !other.is_null(),
            None => {}
        }
    }

    /// What is not text is left for the types to refuse.
    fn include(&mut self, items: &[Node], directory: &FilePath) {
        for (index, item) in items.iter().enumerate() {
            let scalar = match &item.value {
                Value::Scalar(scalar) if !scalar.broken => scalar,
                _ => {
                    self.is_incomplete = true;
                    continue;
                }
            };
            let by = Inclusion { at: item.at, path: Path::root().key("include").index(index) };
            match self.includes {
                Includes::Refused => {
                    self.lose(Some(&by), "files cannot be included here", Some("write it all in one"))
                }
                Includes::Followed if scalar.text.contains(['*', '?', '[']) => {
                    self.include_pattern(&scalar.text, directory, &by);
                }
                Includes::Followed => self.read_file(&directory.join(&scalar.text), Some(&by)),
            }
        }
    }

    /// In alphabetical order; a pattern that matches nothing is fine, and hidden files are not matched.
    fn include_pattern(&mut self, pattern: &str, directory: &FilePath, by: &Inclusion) {
        let base = glob::Pattern::escape(&directory.to_string_lossy());
        let full = FilePath::new(&base).join(pattern).to_string_lossy().into_owned();
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let paths = match glob::glob_with(&full, options) {
            Ok(paths) => paths,
            Err(error) => {
                return self.lose(Some(by), format!("{pattern:?} is not a pattern: {}", error.msg), None);
            }
        };
        self.watch_folders(pattern, directory, &base, options);
        for path in paths {
            match path {
                Ok(path) if path.is_dir() => {}
                Ok(path) => self.read_file(&path, Some(by)),
                Err(error) => {
                    let message =
                        format!("cannot read {}: {}", error.path().display(), reason(error.error()));
                    self.lose(Some(by), message, None);
                }
            }
        }
    }

    /// Files may come to the folders that a pattern speaks of, the empty ones too. A name in each stands for it.
    fn watch_folders(
        &mut self,
        pattern: &str,
        directory: &FilePath,
        base: &str,
        options: glob::MatchOptions,
    ) {
        const ANY: &str = "*";
        for folder in FilePath::new(pattern).ancestors().skip(1) {
            if !folder.to_string_lossy().contains(['*', '?', '[']) {
                return self.watched.push(directory.join(folder).join(ANY));
            }
            let folders = FilePath::new(base).join(folder);
            let found = glob::glob_with(&folders.to_string_lossy(), options).into_iter().flatten().flatten();
            self.watched.extend(found.filter(|path| path.is_dir()).map(|path| path.join(ANY)));
        }
    }

    /// Tells of something that cannot be read.
    fn lose(&mut self, by: Option<&Inclusion>, message: impl Into<String>, hint: Option<&str>) {
        self.is_incomplete = true;
        self.tell(by, message, hint);
    }

    fn tell(&mut self, by: Option<&Inclusion>, message: impl Into<String>, hint: Option<&str>) {
        let mut problem = Problem::new(message);
        if let Some(by) = by {
            problem = problem.at(locate(&self.findings.names, by.at)).path(by.path.clone());
        }
        if let Some(hint) = hint {
            problem = problem.hint(hint);
        }
        self.findings.push(problem);
    }

    fn add_file(&mut self, path: &FilePath) -> u32 {
        self.add_source(path.display().to_string().into(), path.to_owned())
    }

    /// What a document would have set is not known.
    pub(in crate::config) fn lose_part(&mut self) {
        self.is_incomplete = true;
    }

    pub(in crate::config) fn add_source(&mut self, name: Arc<str>, path: PathBuf) -> u32 {
        self.findings.names.push(name);
        self.paths.push(path);
        self.paths.len() as u32 - 1
    }

    pub(in crate::config) fn finish(mut self) -> Result<Loaded, Problems> {
        let keys = std::mem::take(&mut self.keys);
        let entries = keys.into_iter().filter_map(|places| self.merge(places)).collect();
        let at = self.start;
        let mut root = Node::new(at, Value::Map(Map::new(entries).0));
        inline::name_addresses(&mut root);
        secrets::hide(&mut root);
        let Findings { names, mut problems, is_foreign: _ } = self.findings;
        if names.is_empty() {
            return Err(problems.into());
        }
        let of_defaults = defaults::spread(&mut root, &names);
        problems.extend(of_defaults.problems);
        let start = Start { node: &root, at, path: &Path::root() };
        let Collected { value, problems: more, mut pruned, mut misspelt } = collect_all(&start, &names);
        problems.extend(more);
        pruned.extend(of_defaults.pruned);
        misspelt.extend(of_defaults.misspelt);
        let Some(config) = value else { return Err(problems.into()) };
        let is_incomplete = self.is_incomplete || misspelt.contains(&(Path::root(), Some("include")));
        let lost = if is_incomplete { [LISTS.as_slice(), &MAPS].concat() } else { Vec::new() };
        let gaps = match problems.is_empty() {
            true => Gaps::default(),
            false => Gaps::new(&root, &pruned, misspelt, &lost),
        };
        let sources = Sources::new(names, self.paths, self.watched, root, gaps);
        Ok(Loaded { config, sources, additions: self.additions, problems: problems.into() })
    }

    /// Makes one entry of all that set the same top-level key.
    fn merge(&mut self, places: Vec<Entry>) -> Option<Entry> {
        let (key, key_at) = places.first().map(|first| (first.key.clone(), first.key_at))?;
        let at = places.first().map_or(key_at, |first| first.value.at);
        let is_partial = places.iter().any(|entry| entry.value.is_partial || entry.value.is_broken());
        let misfits = self.findings.problems.len();
        let value = match key.as_str() {
            _ if places.len() == 1 => return places.into_iter().next(),
            name if LISTS.contains(&name) => Value::List(self.append(places)),
            name if MAPS.contains(&name) => Value::Map(self.unite(places)),
            _ => {
                let first = locate(&self.findings.names, key_at);
                for entry in &places[1..] {
                    let message = format!("`{key}` is already set at {first}");
                    self.findings.add_with_hint(
                        entry.key_at,
                        Path::root(),
                        message,
                        "set it in one file only",
                    );
                }
                let first = places.into_iter().next();
                return first.map(|first| Entry { value: Node { is_partial: true, ..first.value }, ..first });
            }
        };
        let is_partial = is_partial || self.findings.problems.len() > misfits;
        Some(Entry { key, key_at, value: Node { is_partial, ..Node::new(at, value) } })
    }

    fn append(&mut self, places: Vec<Entry>) -> Vec<Node> {
        let mut all = Vec::new();
        for mut entry in places {
            match &mut entry.value.value {
                Value::List(items) => all.append(items),
                _ => self.misfit(&entry, "a list"),
            }
        }
        all
    }

    fn unite(&mut self, places: Vec<Entry>) -> Map {
        let path = places.first().map(|first| Path::root().key(first.key.as_str())).unwrap_or_default();
        let mut all = Vec::new();
        for mut entry in places {
            match &mut entry.value.value {
                Value::Map(map) => all.append(&mut std::mem::take(map).into_entries()),
                _ => self.misfit(&entry, "a map"),
            }
        }
        let (map, repeated) = Map::new(all);
        for (first, entry) in repeated {
            let first = locate(&self.findings.names, first);
            let message = format!("`{}` already stands at {first}; names are unique", entry.key);
            let at = locate(&self.findings.names, entry.key_at);
            self.findings.push(Problem::new(message).at(at).path(path.clone()).of_a_name_twice());
        }
        map
    }

    /// A key with nothing after it adds nothing.
    fn misfit(&mut self, entry: &Entry, expected: &str) {
        if !entry.value.is_null() && !entry.value.is_broken() {
            let message = format!("expected {expected}, found {}", entry.value.describe());
            self.findings.add(entry.at(), Path::root().key(entry.key.as_str()), message);
        }
    }
}

/// Whether an included file was hardly meant for us, such as one with passwords: whoever may write `include` must not read
/// by it what only this process may.
fn is_foreign(root: &Node) -> bool {
    let Value::Map(map) = &root.value else { return true };
    let known = top_level_keys();
    let known = || known.iter().map(String::as_str);
    !map.iter().any(|entry| known().any(|key| key == entry.key) || suggest(&entry.key, known()).is_some())
}

fn top_level_keys() -> Vec<String> {
    match serde_json::to_value(Config::default()) {
        Ok(serde_json::Value::Object(keys)) => keys.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    }
}

fn directory_of(path: &FilePath) -> PathBuf {
    path.parent().map(FilePath::to_owned).unwrap_or_default()
}
