//! `state_dir/parts.json`: the parts and the orders for endpoints in force, and how a gateway starts with them. Nothing that
//! stands there keeps it from starting; a successor, beside which another gateway serves, refuses what it cannot use.

use std::{
    collections::BTreeMap,
    io,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::super::Begins;
use crate::{
    config::{EndpointOrders, Loaded, OrderedEndpoint, Part, PartName, Parts, Path, Problem, Problems},
    snapshot::Snapshot,
    state_file,
};

const FILE: &str = "parts.json";
/// Of the form of the file. Another one is of another release.
const FORM: u32 = 1;
/// Parts may hold what only the gateway is to know.
const MODE: u32 = 0o600;
/// Far above what the limits of parts allow.
const LARGEST: u64 = 256 * 1024 * 1024;

/// Where parts are kept.
pub(crate) struct Kept {
    /// None without `state_dir`.
    path: Option<PathBuf>,
    written: Mutex<Saved>,
}

/// What stands beside the file when the gateway starts.
#[derive(Default)]
pub(in crate::app) struct Beside {
    parts: Parts,
    /// By the names of the upstreams.
    orders: BTreeMap<String, EndpointOrders>,
    path: Option<PathBuf>,
    /// As the file has it.
    written: Saved,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    form: u32,
    parts: Vec<SavedPart>,
    endpoints: Vec<SavedOrder>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPart {
    part: PartName,
    given: Part,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedOrder {
    upstream: String,
    endpoint: String,
    ordered: OrderedEndpoint,
}

impl Saved {
    /// What is in force.
    pub(super) fn of(snapshot: &Snapshot) -> Saved {
        Saved::made(
            &snapshot.additions.parts,
            snapshot.upstreams.iter().map(|(name, upstream)| (name, upstream.orders())),
        )
    }

    /// The same, with other orders for the endpoints of one upstream.
    pub(super) fn with(snapshot: &Snapshot, upstream: &str, orders: &EndpointOrders) -> Saved {
        let others = snapshot.upstreams.iter().map(|(name, known)| match name == upstream {
            true => (name, Arc::new(orders.clone())),
            false => (name, known.orders()),
        });
        Saved::made(&snapshot.additions.parts, others)
    }

    fn made<'a>(parts: &Parts, orders: impl Iterator<Item = (&'a String, Arc<EndpointOrders>)>) -> Saved {
        let parts = parts.iter().map(|(part, given)| SavedPart { part: part.clone(), given: given.clone() });
        let endpoints = orders.flat_map(|(upstream, orders)| {
            let orders = EndpointOrders::clone(&orders).into_iter();
            orders.map(|(endpoint, ordered)| SavedOrder { upstream: upstream.clone(), endpoint, ordered })
        });
        Saved { form: FORM, parts: parts.collect(), endpoints: endpoints.collect() }
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.endpoints.is_empty()
    }

    /// `None` where there is no file.
    fn read(path: &FilePath) -> Result<Option<Saved>, String> {
        state_file::read(path, LARGEST)?.map(|text| Saved::parse(&text)).transpose()
    }

    fn parse(text: &[u8]) -> Result<Saved, String> {
        #[derive(Deserialize)]
        struct OfAnyRelease {
            form: u32,
        }
        let of_any: OfAnyRelease =
            serde_json::from_slice(text).map_err(|error| format!("it is broken: {error}"))?;
        if of_any.form != FORM {
            return Err(format!(
                "it is of another release (form {}, and this one writes {FORM})",
                of_any.form
            ));
        }
        serde_json::from_slice(text).map_err(|error| format!("it is broken: {error}"))
    }
}

impl Kept {
    pub(in crate::app) fn new(beside: Beside) -> Kept {
        Kept { path: beside.path, written: Mutex::new(beside.written) }
    }

    /// Whether what is written survives this process.
    pub(in crate::app) fn is_durable(&self) -> bool {
        self.path.is_some()
    }

    /// Whole or not at all; nothing where it stands there already.
    pub(super) fn write(&self, saved: Saved) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut written = self.written();
        if *written == saved || written.is_empty() && saved.is_empty() {
            return Ok(());
        }
        let failed = |why: String| format!("{} cannot be written: {why}", path.display());
        let text = serde_json::to_vec(&saved).map_err(|error| failed(error.to_string()))?;
        state_file::write(path, MODE, &text).map_err(|error| failed(error.to_string()))?;
        *written = saved;
        Ok(())
    }

    /// The value is valid after every statement that changes it.
    fn written(&self) -> MutexGuard<'_, Saved> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beside {
    /// Have the endpoints of the first snapshot what was ordered of them. Orders for upstreams that are gone are dropped.
    pub(in crate::app) fn order(&self, first: &Snapshot) {
        for (name, orders) in &self.orders {
            match first.upstreams.get(name) {
                Some(upstream) => upstream.order(Arc::new(orders.clone())),
                None => log::warn!(
                    "what was ordered of endpoints of {name} is dropped: there is no such upstream"
                ),
            }
        }
    }

    /// None were kept.
    pub(in crate::app) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(in crate::app) fn parts(&self) -> Arc<Parts> {
        Arc::new(self.parts.clone())
    }

    /// What was kept for the gateway whose file was `loaded`.
    ///
    /// # Errors
    ///
    /// To a successor, what cannot be used.
    pub(in crate::app) fn read(
        loaded: &Loaded,
        begins: Begins,
        warnings: &mut Vec<Problem>,
    ) -> Result<Beside, Problems> {
        let config = loaded.readable();
        let Some(directory) = &config.state_dir else { return Ok(Beside::default()) };
        let path = loaded.sources.full_path(&Path::root().key("state_dir"), directory).join(FILE);
        if config.admin.parts().is_none() {
            if path.exists() {
                let path = path.display();
                warnings.push(Problem::new(format!(
                    "the parts in {path} are not used: `admin.parts` or `admin` is `false`"
                )));
            }
            return Ok(Beside::default());
        }
        let saved = match Saved::read(&path) {
            Ok(saved) => saved.unwrap_or_default(),
            Err(why) if begins == Begins::AsSuccessor => {
                let problem = Problem::new(format!("the parts in {} cannot be used: {why}", path.display()));
                return Err(problem
                    .hint("move the file away, or restart the gateway in the place of an upgrade")
                    .into());
            }
            Err(why) => {
                let moved = state_file::set_aside(&path);
                warnings.push(Problem::new(format!(
                    "the parts in {} are not used: {why}; the gateway starts without them, and the file is {moved}",
                    path.display()
                )));
                Saved::default()
            }
        };
        let mut orders: BTreeMap<String, EndpointOrders> = BTreeMap::new();
        for SavedOrder { upstream, endpoint, ordered } in saved.endpoints.clone() {
            orders.entry(upstream).or_default().insert(endpoint, ordered);
        }
        let parts = saved.parts.iter().map(|saved| (saved.part.clone(), saved.given.clone())).collect();
        Ok(Beside { parts, orders, path: Some(path), written: saved })
    }

    /// Parts that cannot stand beside the file any more stay out: all that a problem is told of, or all, where none is.
    pub(in crate::app) fn leave_out(&mut self, problems: &Problems, warnings: &mut Vec<Problem>) {
        let told = |name: &PartName| problems.iter().find(|problem| name.has(problem));
        let any_is_told = self.parts.iter().any(|(name, _)| told(name).is_some());
        let out = self.parts.iter().map(|(name, _)| name).filter(|name| !any_is_told || told(name).is_some());
        let out: Vec<PartName> = out.cloned().collect();
        let kept = match &self.path {
            Some(path) => self.copy(path),
            None => String::new(),
        };
        for name in out {
            let why =
                told(&name).or_else(|| problems.iter().next()).map(ToString::to_string).unwrap_or_default();
            warnings.push(Problem::new(format!(
                "{name} is left out, as the configuration with it is invalid: {why}{kept}"
            )));
            self.parts.remove(&name);
        }
    }

    /// What is left out is still there for whoever wants it.
    fn copy(&self, path: &FilePath) -> String {
        let aside = path.with_extension("json.old");
        let written = serde_json::to_vec(&self.written).map_err(io::Error::from);
        match written.and_then(|text| state_file::write(&aside, MODE, &text)) {
            Ok(()) => format!(" (all that was kept is in {})", aside.display()),
            Err(error) => format!(" (and {} cannot be written: {error})", aside.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;
    use crate::config::{EndpointOrder, PartKind, Stamp};

    fn saved() -> Saved {
        let stamp = Stamp { etag: "1".into(), by: "somebody".into(), at: "then".into() };
        let part = PartName { kind: PartKind::Upstream, name: "cart".into() };
        let given = Part { text: "endpoints: ['127.0.0.1:1']".into(), stamp: stamp.clone() };
        let ordered = OrderedEndpoint { order: EndpointOrder::Drain, stamp };
        let order = SavedOrder { upstream: "cart".into(), endpoint: "127.0.0.1:1".into(), ordered };
        Saved { form: FORM, parts: vec![SavedPart { part, given }], endpoints: vec![order] }
    }

    fn kept(home: &TempDir) -> Kept {
        Kept::new(Beside { path: Some(home.path().join("state").join(FILE)), ..Beside::default() })
    }

    #[test]
    fn what_was_written_is_read_and_nobody_else_can() {
        let home = TempDir::new().unwrap();
        let (kept, path) = (kept(&home), home.path().join("state").join(FILE));
        kept.write(Saved { form: FORM, ..Saved::default() }).unwrap();
        assert!(!path.exists(), "there is nothing to keep");
        kept.write(saved()).unwrap();
        assert_eq!(Saved::read(&path), Ok(Some(saved())));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        kept.write(Saved { form: FORM, ..Saved::default() }).unwrap();
        assert_eq!(Saved::read(&path), Ok(Some(Saved { form: FORM, ..Saved::default() })));
    }

    #[test]
    fn what_is_cut_off_or_of_another_release_or_open_to_others_is_not_read() {
        let home = TempDir::new().unwrap();
        let path = home.path().join(FILE);
        assert_eq!(Saved::read(&path), Ok(None));
        let whole = serde_json::to_string(&saved()).unwrap();
        let later = whole.replace("\"form\":1", "\"form\":2");
        for (text, mode, told) in [
            (&whole[..whole.len() / 2], 0o600, "broken"),
            ("", 0o600, "broken"),
            ("[]", 0o600, "broken"),
            (&later, 0o600, "another release"),
            (&whole.replace("\"by\"", "\"buy\""), 0o600, "broken"),
            (&whole, 0o622, "others can write"),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let why = Saved::read(&path).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Saved::read(&path).is_err(), "through a link, which is another's to turn");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Saved::read(&path).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_told_and_tried_again() {
        let home = TempDir::new().unwrap();
        let kept = kept(&home);
        fs::write(home.path().join("state"), "a file where the folder is to be").unwrap();
        let why = kept.write(saved()).unwrap_err();
        assert!(why.contains("parts.json cannot be written"), "{why}");
        fs::remove_file(home.path().join("state")).unwrap();
        kept.write(saved()).unwrap();
        assert_eq!(Saved::read(&home.path().join("state").join(FILE)), Ok(Some(saved())));
    }
}
