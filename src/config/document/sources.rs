//! What stays known about the files, or what was read in their place, once they are read: where each value stands, what it looked like before
//! `${...}` was expanded, and the values of options that no type in `model` describes.

use std::{
    collections::hash_map::DefaultHasher,
    hash::Hasher,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use serde::de::DeserializeOwned;

use crate::config::{
    document::{
        collect::{Start, collect},
        defaults::{self, DEFAULTS},
        effective::Effective,
        node::{At, Node, Value, shortened},
        omissions::Gaps,
        problem::{Path, Problem, Segment},
        secrets,
        tree::locate,
    },
    model::Config,
};

/// Cheap to share behind an `Arc`; not cloneable, since filters mark in it which values they read as secrets.
#[derive(Debug)]
pub struct Sources {
    /// By file number, as are `paths`.
    names: Vec<Arc<str>>,
    paths: Vec<PathBuf>,
    files: Vec<PathBuf>,
    root: Node,
    gaps: Gaps,
    has_defaults: bool,
    reads_no_files: bool,
}

/// Nothing can be below this: it stands before each path of a configuration for which no file may be read.
pub const UNREAD: &str = "/dev/null/unread";

/// `path` where nothing can be.
pub fn unread(path: &FilePath) -> PathBuf {
    let below = path.strip_prefix("/").unwrap_or(path);
    FilePath::new(UNREAD).join(below)
}

impl Sources {
    pub(in crate::config) fn new(
        names: Vec<Arc<str>>,
        paths: Vec<PathBuf>,
        mut files: Vec<PathBuf>,
        root: Node,
        gaps: Gaps,
    ) -> Self {
        files.sort();
        files.dedup();
        let has_defaults = root.child(&Segment::Key(DEFAULTS.to_owned())).is_some();
        Sources { names, paths, files, root, gaps, has_defaults, reads_no_files: false }
    }

    /// A problem with what stands at `path`, or would stand there: it points at the nearest that exists.
    pub fn problem(&self, path: &Path, message: impl Into<String>) -> Problem {
        self.told(path, message.into(), None)
    }

    /// The same, with what to do about it.
    pub fn problem_with_hint(
        &self,
        path: &Path,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Problem {
        self.told(path, message.into(), Some(hint.into()))
    }

    /// Either may quote the value, or one below it, and what that was expanded to may be a secret.
    fn told(&self, path: &Path, message: String, hint: Option<String>) -> Problem {
        let path = self.place_of(path);
        let (at, _) = self.root.find(&path);
        let nearest = self.root.nearest(&path);
        let mut expanded = Vec::new();
        nearest.expanded(&mut expanded);
        let quotes = |words: &str| expanded.iter().copied().find(|scalar| scalar.is_quoted_in(words));
        let unspoken = match &nearest.value {
            Value::Scalar(scalar) => {
                let may_tell =
                    scalar.raw.is_none() || !scalar.is_expanded() && !message.contains(&scalar.text);
                (!may_tell).then_some(scalar)
            }
            _ => quotes(&message),
        };
        let hint = hint.filter(|hint| quotes(hint).is_none());
        let message = match unspoken {
            Some(scalar) => format!("what `{}` stands for is not valid here", shortened(scalar.written())),
            None => message,
        };
        let problem = Problem::new(message).at(locate(&self.names, at)).path(path);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    /// The same where `message` holds nothing of the value, whatever that is.
    pub fn problem_without_value(&self, path: &Path, message: impl Into<String>) -> Problem {
        let path = self.place_of(path);
        let (at, _) = self.root.find(&path);
        Problem::new(message.into()).at(locate(&self.names, at)).path(path)
    }

    /// Where in the defaults that was written which stands at `path`, or would stand there; `None` for what is the thing's own.
    pub fn inherited(&self, path: &Path) -> Option<Path> {
        let origin = self.has_defaults.then(|| defaults::origin(path)).flatten()?;
        let all = origin.up_to(2);
        let (given, written) = (self.root.find(path).0, self.root.find(&origin).0);
        (given == written && written != self.root.find(&all).0).then_some(origin)
    }

    /// The keys of the thing at `path` that come from the defaults, down to single values: `retry.attempts`.
    pub fn inherited_keys(&self, path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(node) = self.root.find(path).1.filter(|_| self.has_defaults) {
            self.each_inherited(node, path, path.segments().len(), &mut found);
        }
        found
    }

    fn each_inherited(&self, node: &Node, at: &Path, depth: usize, found: &mut Vec<String>) {
        let Value::Map(map) = &node.value else {
            // Of a chain only its first filters may be.
            let is_list = matches!(node.value, Value::List(_));
            let first = at.index(0);
            if self.inherited(if is_list { &first } else { at }).is_some() {
                found.push(at.from(depth).to_string());
            }
            return;
        };
        map.iter()
            .for_each(|entry| self.each_inherited(&entry.value, &at.key(entry.key.as_str()), depth, found));
    }

    fn place_of(&self, path: &Path) -> Path {
        let written = self.gaps.as_written(path);
        self.inherited(&written).unwrap_or(written)
    }

    /// Whether `${...}` was expanded in the value at `path`.
    pub fn is_expanded(&self, path: &Path) -> bool {
        let (_, node) = self.root.find(&self.gaps.as_written(path));
        matches!(node, Some(Node { value: Value::Scalar(scalar), .. }) if scalar.is_expanded())
    }

    /// Whether one value stands at `path`, and no list or map.
    pub fn is_text(&self, path: &Path) -> bool {
        let (_, node) = self.root.find(&self.gaps.as_written(path));
        matches!(node, Some(Node { value: Value::Scalar(_), .. }))
    }

    /// Each text at or below `path`, with where it stands, as it is written. Secrets are left out.
    pub fn texts(&self, path: &Path, take: &mut dyn FnMut(&Path, &str)) {
        let written = self.gaps.as_written(path);
        if let (_, Some(node)) = self.root.find(&written) {
            each_text(node, &written, take);
        }
    }

    /// Reads the value at `path`, all of it, with the same care as the types of the configuration. Nothing, or
    /// nothing after the colon, reads as an empty map.
    ///
    /// A [`Secret`](crate::config::Secret) read this way is from then on redacted in [`effective`](Self::effective);
    /// not so when serde buffers the value first, as for `untagged` and `flatten`.
    ///
    /// # Errors
    /// All problems with the value, at most [`MOST_PROBLEMS`](crate::config::MOST_PROBLEMS).
    pub fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<T, Vec<Problem>> {
        let path = self.gaps.as_written(path);
        let (at, node) = self.root.find(&path);
        let path = self.inherited(&path).unwrap_or(path);
        let nothing = Node::null(at);
        collect(&Start { node: node.unwrap_or(&nothing), at, path: &path }, &self.names)
    }

    /// Whether something at, above or below `path` was reported and left out, or is missing because it was misspelt or
    /// stands in a file that could not be read: then what seems wrong there may follow from that alone.
    pub fn is_doubtful(&self, path: &Path) -> bool {
        let path = self.gaps.as_written(path);
        // What was wrong in the defaults is given to nobody.
        let is_default_doubtful = || {
            let origin = self.has_defaults.then(|| defaults::origin(&path)).flatten();
            origin.is_some_and(|origin| self.gaps.is_doubtful(&self.root, &origin))
        };
        self.gaps.is_doubtful(&self.root, &path) || is_default_doubtful()
    }

    /// Whether the list or map at `path` may have had entries of which not even the names are known.
    pub fn may_lack_entries(&self, path: &Path) -> bool {
        self.gaps.may_lack_entries(&self.root, &self.gaps.as_written(path))
    }

    /// The names in the map at `path` whose values were reported and left out.
    pub fn left_out(&self, path: &Path) -> Vec<&str> {
        self.gaps.names(&self.gaps.as_written(path))
    }

    /// Equal for configurations that mean the same after expansion, however they are written or split into
    /// files. Comparable within one build of the program only.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.root.hash(&mut hasher);
        hasher.finish()
    }

    /// Every file that was read: configuration, includes and those named by `${file:...}`; and for each folder that is
    /// included, a name in it that stands for all files to come.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whatever it names of files is not there from now on.
    pub(in crate::config) fn read_no_files(&mut self) {
        self.reads_no_files = true;
    }

    /// The directory of the file in which the value at `path` stands; empty if that is the working directory.
    pub fn directory_of(&self, path: &Path) -> PathBuf {
        if self.reads_no_files {
            return UNREAD.into();
        }
        let (At { file, .. }, _) = self.root.find(&self.gaps.as_written(path));
        self.paths[file as usize].parent().map(FilePath::to_owned).unwrap_or_default()
    }

    /// `relative` as seen from the file in which the value at `path` stands.
    pub fn full_path(&self, path: &Path, relative: impl AsRef<FilePath>) -> PathBuf {
        if self.reads_no_files {
            return unread(relative.as_ref());
        }
        self.directory_of(path).join(relative)
    }

    /// Where secrets stand in the files as they are, rather than as `${env:...}` or `${file:...}`. Asked once all is read
    /// into its types, as some are known by these alone.
    pub fn literal_secrets(&self) -> Vec<Path> {
        secrets::literals(&self.root)
    }

    /// `config`, which must be the one loaded with these sources, with all defaults written out. Values with
    /// `${...}` are shown as written and secrets not at all.
    pub fn effective(&self, config: &Config) -> Effective {
        Effective::of(config, &self.root)
    }
}

fn each_text(node: &Node, at: &Path, take: &mut dyn FnMut(&Path, &str)) {
    match &node.value {
        Value::Scalar(scalar) if scalar.is_secret() => {}
        Value::Scalar(scalar) => take(at, scalar.written()),
        Value::List(items) => {
            items.iter().enumerate().for_each(|(index, item)| each_text(item, &at.index(index), take));
        }
        Value::Map(map) => {
            map.iter().for_each(|entry| each_text(&entry.value, &at.key(entry.key.as_str()), take))
        }
    }
}
