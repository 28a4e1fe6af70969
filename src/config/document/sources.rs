//! What stays known about the files, or what was read in their place, once they are read: where each value stands, what it looked like before
//! `${...}` was expanded, and the values of options that no type in `model` describes.

use std::{
    collections::hash_map::DefaultHasher,
    hash::Hasher,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::config::{
    document::{
        collect::{Start, collect},
        node::{At, Node, REDACTED, Value},
        omissions::Gaps,
        problem::{Path, Problem},
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
        Sources { names, paths, files, root, gaps }
    }

    /// A problem with what stands at `path`, or would stand there: it points at the nearest that exists.
    pub fn problem(&self, path: &Path, message: impl Into<String>) -> Problem {
        let path = self.gaps.as_written(path);
        let (at, node) = self.root.find(&path);
        // The message may quote the value, and what it was expanded to may be a secret.
        let message = match node.map(|node| &node.value) {
            Some(Value::Scalar(scalar)) if scalar.raw.is_some() => {
                format!("what `{}` stands for is not valid here", scalar.written())
            }
            _ => message.into(),
        };
        Problem::new(message).at(locate(&self.names, at)).path(path)
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
        let nothing = Node::null(at);
        collect(&Start { node: node.unwrap_or(&nothing), at, path: &path }, &self.names)
    }

    /// Whether something at, above or below `path` was reported and left out, or is missing because it was misspelt or
    /// stands in a file that could not be read: then what seems wrong there may follow from that alone.
    pub fn is_doubtful(&self, path: &Path) -> bool {
        self.gaps.is_doubtful(&self.root, &self.gaps.as_written(path))
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

    /// Every file that was read: configuration, includes and those named by `${file:...}`.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The directory of the file in which the value at `path` stands; empty if that is the working directory.
    pub fn directory_of(&self, path: &Path) -> PathBuf {
        let (At { file, .. }, _) = self.root.find(&self.gaps.as_written(path));
        self.paths[file as usize].parent().map(FilePath::to_owned).unwrap_or_default()
    }

    /// `relative` as seen from the file in which the value at `path` stands.
    pub fn full_path(&self, path: &Path, relative: impl AsRef<FilePath>) -> PathBuf {
        self.directory_of(path).join(relative)
    }

    /// `config`, which must be the one loaded with these sources, with all defaults written out. Values with
    /// `${...}` are shown as written and secrets not at all.
    pub fn effective(&self, config: &Config) -> Json {
        let mut json =
            serde_json::to_value(config).expect("the configuration has text keys and finite numbers");
        overlay(&self.root, &mut json);
        json
    }
}

/// Puts what must not be shown as it is in `json` back to what was written at the same place in `node`.
fn overlay(node: &Node, json: &mut Json) {
    if !node.hides() {
        return;
    }
    match (&node.value, &mut *json) {
        (Value::List(items), Json::Array(values)) if items.len() == values.len() => {
            items.iter().zip(values).for_each(|(item, value)| overlay(item, value));
        }
        (Value::Map(map), Json::Object(values)) => {
            for entry in map.iter().filter(|entry| entry.value.hides()) {
                match values.get_mut(&entry.key) {
                    Some(value) => overlay(&entry.value, value),
                    None => drop(values.insert(entry.key.clone(), entry.value.as_written())),
                }
            }
        }
        // A secret stays one when it is written in a form that the type spells out.
        (Value::Scalar(scalar), _) if scalar.is_secret() => *json = REDACTED.into(),
        _ => *json = node.as_written(),
    }
}
