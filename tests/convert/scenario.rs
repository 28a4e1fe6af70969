//! A file of another gateway, what is not carried over of it, and requests with their answers, as data.

use std::{collections::BTreeMap, fs, path::Path};

use fastrand::Rng;
use serde::Deserialize;
use tempfile::TempDir;
use tidegate::{config, convert::Converted, filter, snapshot};

use super::served::{Case, Served};
use crate::support::{
    TlsClient,
    certificates::{authority, server, write},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// As it would stand on disk.
    pub file: String,
    /// A piece of each thing that is not carried over, in the order of the file.
    #[serde(default)]
    left: Vec<String>,
    #[serde(default)]
    requests: Vec<Case>,
    /// The share of requests that each backend gets.
    #[serde(default)]
    shares: Vec<Share>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    request: Case,
    expect: BTreeMap<String, f64>,
}

impl Scenario {
    /// One of `tests/convert`.
    pub(super) fn read(name: &str) -> Scenario {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert").join(name);
        let text = fs::read_to_string(path).unwrap();
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(super) fn check_left(&self, converted: &Converted) {
        let left: Vec<String> = converted.left.iter().map(ToString::to_string).collect();
        assert_eq!(left.len(), self.left.len(), "{left:#?}");
        for (left, expected) in left.iter().zip(&self.left) {
            assert!(left.contains(expected), "{expected:?} is not in {left:?}");
            assert!(converted.file.to_string().contains(&format!("# {left}")), "{left:?} is no comment");
        }
    }

    /// Serves the converted file, and sends it all requests.
    pub(super) async fn run(&self, converted: &Converted) {
        self.check_left(converted);
        let text = converted.file.to_string();
        let (directory, _) = certificates(&text);
        compile(&text, directory.path()).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let served = Served::start(&text, directory).await;
        for case in &self.requests {
            served.check(case).await;
        }
        for Share { request, expect } in &self.shares {
            const REQUESTS: usize = 400;
            let spread = served.spread(request, REQUESTS).await;
            assert_eq!(spread.keys().collect::<Vec<_>>(), expect.keys().collect::<Vec<_>>(), "{request:?}");
            for (name, share) in expect {
                // Five standard deviations, so that one in a million fails by chance.
                let width = 5.0 * (share * (1.0 - share) / REQUESTS as f64).sqrt();
                let found = spread[name] as f64 / REQUESTS as f64;
                assert!((found - share).abs() <= width, "{name} got {found} in place of {share}");
            }
        }
    }
}

/// What `tidegate check` does with the text as a file in this directory.
pub(crate) fn compile(text: &str, directory: &Path) -> Result<(), String> {
    let file = directory.join("gateway.yaml").display().to_string();
    let loaded = config::parse(text, &file).map_err(|problems| problems.to_string())?;
    snapshot::compile(loaded, &filter::Live::offline()).map(|_| ()).map_err(|problems| problems.to_string())
}

/// A directory with the files below `certs` that a converted file names: certificates for the names of the tests, and their authority.
pub(super) fn certificates(converted: &str) -> (TempDir, TlsClient) {
    let directory = TempDir::new().unwrap();
    let root = authority("mesh.local");
    let mut pairs = BTreeMap::new();
    for file in converted
        .split_whitespace()
        .map(|word| word.trim_matches('"'))
        .filter(|word| word.starts_with("certs/"))
    {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Each has a name of its own as well, so that none stands there in vain.
        let number = pairs.len();
        let issued = pairs.entry(path.with_extension("")).or_insert_with(|| {
            root.issue(&server(&["shop.example.com", "*.example.com", &format!("n{number}.test")]))
        });
        let content = match path.extension().and_then(|extension| extension.to_str()) {
            Some("key") => issued.key_pem(),
            _ if file.ends_with("ca.crt") => root.pem(),
            _ => issued.pem(),
        };
        write(&path, &content, 0o600);
    }
    (directory, TlsClient::of(&root))
}

/// The text with a few pieces cut out, doubled, exchanged or replaced.
pub(super) fn mutant(text: &str, rng: &mut Rng) -> String {
    const PIECES: [&str; 16] =
        ["", "*", "/", "{", "}", "'", "\"", "-1", "99999", "~", "[]", "{}", "é", "${x}", "a.b", "true"];
    let mut words: Vec<String> =
        text.split_inclusive([' ', ',', ':', '\n', '{', '}', '[', ']']).map(ToOwned::to_owned).collect();
    for _ in 0..rng.usize(1..6) {
        let (one, other) = (rng.usize(..words.len()), rng.usize(..words.len()));
        match rng.u8(..4) {
            0 => words[one] = String::new(),
            1 => words[one] = words[other].clone(),
            2 => words.swap(one, other),
            _ => {
                let end = words[one].chars().last().filter(|end| !end.is_alphanumeric());
                words[one] = rng.choice(PIECES).unwrap_or_default().to_owned();
                words[one].extend(end);
            }
        }
    }
    words.concat()
}
