//! What all servers of one file share while they are converted.

use crate::convert::fields;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{maps::Mapping, notes::Notes, parser::Directive, scope::Scope, upstreams::Upstreams};
use crate::convert::draft::{List, Map, Node};

pub(super) struct World<'f> {
    pub(super) notes: Notes,
    /// What relative paths are relative to; absolute itself.
    prefix: PathBuf,
    pub(super) upstreams: Upstreams<'f>,
    /// Chains of filters that several routes name, so that they count together.
    pub(super) chains: Map,
    /// `limit_req_zone` by name.
    pub(super) zones: BTreeMap<String, &'f Directive>,
    /// `limit_conn_zone` by name.
    pub(super) connection_zones: BTreeMap<String, &'f Directive>,
    pub(super) maps: BTreeMap<String, Mapping<'f>>,
    pub(super) splits: BTreeMap<String, &'f Directive>,
}

impl<'f> World<'f> {
    pub(super) fn new(prefix: &Path) -> World<'f> {
        World {
            notes: Notes::default(),
            prefix: std::path::absolute(Path::new(".").join(prefix)).unwrap_or_else(|_| prefix.to_owned()),
            upstreams: Upstreams::default(),
            chains: Map::new(),
            zones: BTreeMap::new(),
            connection_zones: BTreeMap::new(),
            maps: BTreeMap::new(),
            splits: BTreeMap::new(),
        }
    }

    /// Take in what `http` or `stream` says for all its servers.
    pub(super) fn read_shared(&mut self, scope: &Scope<'f>) {
        for directive in scope.own() {
            match directive.name.as_str() {
                "upstream" => self.upstreams.define(directive),
                "limit_req_zone" | "limit_conn_zone" => {
                    let zone =
                        directive.texts().find_map(|text| text.strip_prefix("zone=")).unwrap_or_default();
                    let name = zone.split(':').next().unwrap_or_default();
                    let zones = match directive.name.as_str() {
                        "limit_req_zone" => &mut self.zones,
                        _ => &mut self.connection_zones,
                    };
                    zones.insert(name.to_owned(), directive);
                }
                "map" => {
                    let mapping = Mapping::read(directive);
                    self.maps.insert(directive.argument(1).trim_start_matches('$').to_owned(), mapping);
                }
                "split_clients" => {
                    self.splits.insert(directive.argument(1).trim_start_matches('$').to_owned(), directive);
                }
                _ => {}
            }
        }
    }

    /// The chain's name: filters that several routes have stand in one place.
    pub(super) fn chain(&mut self, name: &str, filters: impl IntoIterator<Item = Map>) -> String {
        let filters: Node = filters.into_iter().collect::<List>().into();
        if let Some((known, _)) =
            self.chains.entries().find(|(known, chain)| known.starts_with(name) && *chain == filters)
        {
            return known.clone();
        }
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let is_free = |name: &String| self.chains.find(name).is_none();
        let name =
            std::iter::once(name.to_owned()).chain(numbered).find(is_free).expect("numbers do not end");
        self.chains.set(&name, filters);
        name
    }

    /// A file that nginx names, wherever the new configuration will stand.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.prefix.join(path)
    }

    /// What is in it: of files only, and no more than anybody writes.
    pub(super) fn read_file(&self, path: &str) -> Result<String, String> {
        const LARGEST: u64 = 1 << 20;
        let path = self.file(path);
        let cannot = |why: String| format!("{} cannot be read: {why}", path.display());
        let found = fs::metadata(&path).map_err(|error| cannot(error.to_string()))?;
        if !found.is_file() || found.len() > LARGEST {
            return Err(cannot(format!("it is no file of at most {} MiB", LARGEST >> 20)));
        }
        fs::read_to_string(&path).map_err(|error| cannot(error.to_string()))
    }

    /// The same as the configuration has it.
    pub(super) fn file_text(&self, path: &str) -> String {
        fields::literal(&self.file(path).to_string_lossy())
    }
}

/// A filter that runs for all requests.
pub(super) fn filter(name: &str, options: impl Into<Node>) -> Map {
    Map::new().with(name, options)
}

/// All of these in one list.
pub(super) fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> List {
    texts.into_iter().collect()
}
