//! The configuration that a control plane has given: documents that are read as if the main file included them, beside
//! the files and before parts (`load`). Whoever gives one says what is served and no more: what this process is, whom it
//! trusts and what it writes stays the file's. `${...}` reads only what the file has opened to it.

use std::{path::PathBuf, sync::Arc};

use crate::config::document::{
    node::{Map, Node, Value},
    parts::{PartKind, PartName, Parts},
    problem::{Location, Path, suggest},
    tree::Findings,
};

/// What is read beside the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Additions {
    pub parts: Arc<Parts>,
    pub received: Option<Arc<ReceivedConfig>>,
}

/// One version of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedConfig {
    /// What it is called at the control plane.
    pub name: String,
    pub version: u64,
    pub documents: Vec<Document>,
    /// The folders below which `${file:...}` may read.
    pub secrets: Arc<[PathBuf]>,
}

/// Text in YAML or JSON, as it was put. The main one is called as the configuration is (`edge`), a part as its path there
/// (`edge/upstreams/users`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub name: String,
    pub text: String,
}

/// What a document holds.
pub(in crate::config) enum Holds {
    Keys,
    Part(PartName),
    Unknown,
}

/// What a received configuration may say.
pub(in crate::config) const KEYS: [&str; 9] = [
    "listeners",
    "routes",
    "upstreams",
    "filters",
    "defaults",
    "error_pages",
    "trusted_proxies",
    "forwarded",
    "paths",
];

impl From<Parts> for Additions {
    fn from(parts: Parts) -> Additions {
        Additions { parts: Arc::new(parts), received: None }
    }
}

impl ReceivedConfig {
    /// How every document of one begins to be called.
    pub const ORIGIN: &str = "control:";

    /// How problems call `document`: `control:edge@42`, `control:edge@42/upstreams/users`.
    pub fn origin(&self, document: &Document) -> String {
        let ReceivedConfig { name, version, .. } = self;
        match document.name.strip_prefix(name.as_str()) {
            Some(path) => format!("{}{name}@{version}{path}", ReceivedConfig::ORIGIN),
            None => format!("{}{}@{version}", ReceivedConfig::ORIGIN, document.name),
        }
    }

    /// The document that this is a place in.
    pub fn document_at(&self, location: &Location) -> Option<&Document> {
        self.documents.iter().find(|document| *location.file == *self.origin(document))
    }

    pub(in crate::config) fn holds(&self, document: &Document) -> Holds {
        let Some(path) = document.name.strip_prefix(&self.name) else { return Holds::Unknown };
        if path.is_empty() {
            return Holds::Keys;
        }
        let part = PartKind::ALL.into_iter().find_map(|kind| {
            let name = path.strip_prefix('/')?.strip_prefix(kind.key())?.strip_prefix('/')?;
            (!name.is_empty()).then(|| PartName { kind, name: name.to_owned() })
        });
        part.map_or(Holds::Unknown, Holds::Part)
    }
}

/// `root` with nothing but what may be received. Keys that nobody knows are left for the types to refuse.
pub(in crate::config) fn confine(root: Node, known: &[String], findings: &mut Findings) -> Node {
    let Node { at, value: Value::Map(map), mut is_partial } = root else { return root };
    let is_the_files = |key: &str| !KEYS.contains(&key) && known.iter().any(|known| known == key);
    let (entries, refused): (Vec<_>, Vec<_>) =
        map.into_entries().into_iter().partition(|entry| !is_the_files(&entry.key));
    for entry in refused {
        let message = format!("`{}` cannot come from a control plane", entry.key);
        let meant = suggest(&entry.key, KEYS.into_iter());
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("set it in the gateway's own file; here there may be {}", KEYS.join(", ")),
        };
        findings.add_with_hint(entry.key_at, Path::root().key(entry.key), message, &hint);
        is_partial = true;
    }
    Node { is_partial, ..Node::new(at, Value::Map(Map::new(entries).0)) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path as FilePath};

    use tempfile::TempDir;

    use super::*;
    use crate::config::{Loaded, document::load::parse_with, parse_beside};

    const FILE: &str = "listeners: [{address: '127.0.0.1:0'}]\nroutes: [{name: all, upstream: users}]\n\
                        upstreams: {users: {endpoints: ['127.0.0.1:1']}}\n";

    fn received(documents: &[(&str, &str)]) -> ReceivedConfig {
        let of = |(name, text): &(&str, &str)| Document { name: (*name).into(), text: (*text).into() };
        let documents = documents.iter().map(of).collect();
        ReceivedConfig { name: "edge".into(), version: 42, documents, secrets: Arc::default() }
    }

    fn beside(received: ReceivedConfig) -> Additions {
        Additions { received: Some(received.into()), ..Additions::default() }
    }

    fn load(documents: &[(&str, &str)]) -> Loaded {
        parse_beside(FILE, "g.yaml", &beside(received(documents))).unwrap()
    }

    fn problems(loaded: &Loaded) -> Vec<String> {
        loaded.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_is_read_as_if_the_file_included_it() {
        let main =
            "routes:\n- {name: cart, match: {path: /cart}, upstream: cart}\ntrusted_proxies: [10.0.0.0/8]\n";
        let loaded = load(&[("edge", main), ("edge/upstreams/cart", r#"{"endpoints": ["127.0.0.1:2"]}"#)]);
        let config = loaded.config().unwrap();
        let names: Vec<_> = config.routes.iter().map(|route| route.name.as_deref()).collect();
        assert_eq!(names, [Some("all"), Some("cart")]);
        assert_eq!(config.upstreams.keys().collect::<Vec<_>>(), ["cart", "users"]);
        assert_eq!(config.trusted_proxies.len(), 1);
        assert!(loaded.sources.files().is_empty(), "there is no file of it to watch");
        assert!(load(&[("edge", "# all are parts\n")]).config().is_ok());
    }

    #[test]
    fn problems_stand_at_their_places_in_what_was_put() {
        let main =
            "routes:\n- {upstrem: users}\nlimits: {}\nidentity: {}\nroute: []\nupstreams: {users: {}}\n";
        let loaded = load(&[
            ("edge", main),
            ("edge/upstreams/cart", "endpoints: [127.0.0.1:1]\nbalancr: random\n"),
            ("edge/routes/empty", ""),
            ("edge/listeners/x", "{}"),
            ("other", "{}"),
        ]);
        let found = problems(&loaded);
        let expected = [
            "control:edge@42:2:4: routes[1]: unknown key `upstrem` (did you mean `upstream`?)",
            "control:edge@42:3:1: limits: `limits` cannot come from a control plane (set it in the gateway's own file; here",
            "control:edge@42:4:1: identity: `identity` cannot come from a control plane",
            "control:edge@42:5:1: unknown key `route` (did you mean `routes`?)",
            "control:edge@42:6:13: upstreams: `users` already stands at g.yaml:3:13; names are unique",
            "control:edge@42/upstreams/cart:2:1: upstreams.cart: unknown key `balancr`",
            "control:edge@42/routes/empty: is empty (send the route itself",
            "control:edge@42/listeners/x: is no part of the configuration `edge` that this release knows",
            "control:other@42: is no part of the configuration `edge`",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nand not\n{expected}");
        }
    }

    #[test]
    fn a_place_is_told_by_its_document() {
        let received = received(&[("edge", "routes: 7"), ("edge/upstreams/cart", "[]")]);
        let loaded = parse_beside(FILE, "g.yaml", &beside(received.clone())).unwrap();
        let of = |problem: &crate::config::Problem| {
            received.document_at(problem.location().unwrap()).map(|document| document.name.clone())
        };
        let documents: Vec<_> = loaded.problems().iter().map(of).collect();
        assert_eq!(documents, [Some("edge".to_owned()), Some("edge/upstreams/cart".to_owned())]);
    }

    #[test]
    fn parts_stand_beside_it_and_a_name_in_both_is_a_problem() {
        use crate::config::{Part, Stamp};
        let stamp = Stamp { etag: "1".into(), by: "somebody".into(), at: "then".into() };
        let given = Part { text: "endpoints: [127.0.0.1:3]".into(), stamp };
        let part = |name: &str| (PartName { kind: PartKind::Upstream, name: name.into() }, given.clone());
        let beside = |name: &str| Additions {
            parts: Arc::new([part(name)].into_iter().collect()),
            received: Some(Arc::new(received(&[("edge", "upstreams: {cart: {endpoints: [127.0.0.1:2]}}")]))),
        };
        let loaded = parse_beside(FILE, "g.yaml", &beside("more")).unwrap();
        assert_eq!(loaded.config().unwrap().upstreams.len(), 3);
        let loaded = parse_beside(FILE, "g.yaml", &beside("cart")).unwrap();
        let told = "admin:upstreams/cart:1:1: upstreams: `cart` already stands at control:edge@42:1:13; names are unique";
        assert_eq!(problems(&loaded), [told]);
    }

    /// A header that is set to `value`, and what comes of it.
    fn header(value: &str, secrets: &[&FilePath]) -> Result<String, String> {
        let text = format!("filters: {{f: [{{headers: {{request: {{set: {{x: '{value}'}}}}}}}}]}}");
        let mut received = received(&[("edge", &text)]);
        received.secrets = secrets.iter().map(|folder| folder.to_path_buf()).collect();
        let environment = |name: &str| match name {
            "TIDEGATE_ZONE" => Ok("eu".to_owned()),
            "HOME" => Ok("/root".to_owned()),
            _ => Err(std::env::VarError::NotPresent),
        };
        let loaded = parse_with(FILE, "g.yaml", &beside(received), &environment).unwrap();
        match problems(&loaded).first() {
            Some(problem) => Err(problem.clone()),
            None => {
                let at = Path::root().key("filters").key("f").index(0).key("headers").key("request");
                let set: std::collections::BTreeMap<String, String> =
                    loaded.sources.read(&at.key("set")).unwrap();
                Ok(set["x"].clone())
            }
        }
    }

    #[test]
    fn only_variables_that_are_open_to_it_are_read() {
        assert_eq!(header("${env:TIDEGATE_ZONE}", &[]), Ok("eu".into()));
        assert_eq!(header("${env:TIDEGATE_NONE:-x}", &[]), Ok("x".into()));
        assert_eq!(header("{env.TIDEGATE_ZONE}", &[]), Ok("{env.TIDEGATE_ZONE}".into()));
        for value in
            ["${env:HOME}", "${env:HOME:-x}", "${env:NONE}", "{env.HOME}", "{env.TIDEGATE_ZONE}{env.HOME}"]
        {
            let told = header(value, &[]).unwrap_err();
            assert!(told.contains("begin with `TIDEGATE_`") && !told.contains("/root"), "{told}");
        }
    }

    #[test]
    fn only_files_below_the_folders_that_are_open_to_it_are_read() {
        let home = TempDir::new().unwrap();
        let home = home.path().canonicalize().unwrap();
        let (open, more) = (home.join("open"), home.join("more"));
        fs::create_dir_all(open.join("below")).unwrap();
        fs::create_dir(&more).unwrap();
        fs::write(open.join("below/token"), "s3cret\n").unwrap();
        fs::write(more.join("token"), "another").unwrap();
        fs::write(home.join("shadow"), "root:x").unwrap();
        symlink(home.join("shadow"), open.join("link")).unwrap();
        symlink(&home, open.join("up")).unwrap();
        symlink("below/token", open.join("current")).unwrap();
        symlink(&open, home.join("mounted")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(open.join("pipe")).status().unwrap();
        assert!(made.success());
        let of = |path: &FilePath| format!("${{file:{}}}", path.display());
        assert_eq!(header(&of(&open.join("below/token")), &[&open]), Ok("s3cret".into()));
        assert_eq!(header(&of(&open.join("current")), &[&open]), Ok("s3cret".into()), "a link within");
        assert_eq!(header(&of(&more.join("token")), &[&open, &more]), Ok("another".into()));
        let mounted = home.join("mounted");
        assert_eq!(header(&of(&mounted.join("current")), &[&mounted]), Ok("s3cret".into()));
        for (path, why) in [
            (home.join("shadow"), "does not lie below"),
            (home.join("none"), "does not lie below"),
            (FilePath::new("/etc/shadow").into(), "does not lie below"),
            (more.join("token"), "does not lie below"),
            (home.join("open-not/x"), "does not lie below"),
            (open.join("../shadow"), "holds `..`"),
            (open.join("link"), "leads out of it"),
            (open.join("up/shadow"), "leads out of it"),
            (open.join("up/more/token"), "leads out of it"),
            (open.join("none"), "there is no such file"),
            (open.join("below"), "it is no file"),
            (open.join("pipe"), "it is no file"),
            (open.clone(), "does not lie below"),
        ] {
            let told = header(&of(&path), &[&open]).unwrap_err();
            assert!(told.contains(why) && !told.contains("root:x"), "{}: {told}", path.display());
        }
        let told = header("${file:/etc/shadow}", &[]).unwrap_err();
        assert!(told.contains("no folder is open to it") && told.contains("control.join.secrets"), "{told}");
    }
}
