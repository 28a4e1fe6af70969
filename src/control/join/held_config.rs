//! The configuration that was in force last, on disk: a start finds it though no control plane can be reached, and a successor
//! begins with what its predecessor serves.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use openssl::sha::Sha256;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Document, ReceivedConfig},
    state_file,
};

/// Of the form of the file. Another one is of another release.
const FORM: u32 = 1;
/// It may hold what only the gateway is to know.
const MODE: u32 = 0o600;
/// Far above what a configuration has.
const LARGEST: u64 = 64 * 1024 * 1024;

pub(crate) struct HeldConfig {
    path: PathBuf,
    /// Of the configuration that is wanted.
    name: String,
    secrets: Arc<[PathBuf]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    form: u32,
    name: String,
    version: u64,
    sha256: String,
    documents: Vec<HeldDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldDocument {
    name: String,
    text: String,
}

impl HeldConfig {
    pub(crate) fn within(state_dir: &Path, name: &str, secrets: Arc<[PathBuf]>) -> HeldConfig {
        HeldConfig { path: state_dir.join("held").join("config.json"), name: name.to_owned(), secrets }
    }

    /// What was in force last; `None` where nothing was.
    ///
    /// # Errors
    ///
    /// Why what is there cannot be used.
    pub(crate) fn read(&self) -> Result<Option<ReceivedConfig>, String> {
        let Some(text) = state_file::read(&self.path, LARGEST)? else { return Ok(None) };
        let File { form: _, name, version, sha256, documents } = parse(&text)?;
        let of = |HeldDocument { name, text }| Document { name, text };
        let documents: Vec<Document> = documents.into_iter().map(of).collect();
        if checksum(&documents) != sha256 {
            return Err("it is not what was written: its checksum differs".to_owned());
        }
        if name != self.name {
            let wanted = &self.name;
            return Err(format!("it is the configuration {name:?}, and {wanted:?} is wanted"));
        }
        Ok(Some(ReceivedConfig { name, version, documents, secrets: self.secrets.clone() }))
    }

    /// Out of the way, in words for the operator.
    pub(crate) fn set_aside(&self) -> String {
        state_file::set_aside(&self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whole or not at all.
    ///
    /// # Errors
    ///
    /// Why not, for the operator.
    pub(crate) fn write(&self, config: &ReceivedConfig) -> Result<(), String> {
        let of =
            |document: &Document| HeldDocument { name: document.name.clone(), text: document.text.clone() };
        let file = File {
            form: FORM,
            name: config.name.clone(),
            version: config.version,
            sha256: checksum(&config.documents),
            documents: config.documents.iter().map(of).collect(),
        };
        let text = serde_json::to_vec(&file).map_err(|error| error.to_string())?;
        state_file::write(&self.path, MODE, &text)
            .map_err(|error| format!("{} cannot be written: {error}", self.path.display()))
    }
}

fn parse(text: &[u8]) -> Result<File, String> {
    #[derive(Deserialize)]
    struct OfAnyRelease {
        form: u32,
    }
    let broken = |_| "it is cut off or no JSON of ours".to_owned();
    let OfAnyRelease { form } = serde_json::from_slice(text).map_err(broken)?;
    if form != FORM {
        return Err(format!("it is of another release (form {form}, and this one writes {FORM})"));
    }
    serde_json::from_slice(text).map_err(broken)
}

/// The same for the same documents, as the control plane makes it.
pub(super) fn checksum(documents: &[Document]) -> String {
    let mut sum = Sha256::new();
    for Document { name, text } in documents {
        for part in [name, text] {
            sum.update(part.as_bytes());
            sum.update(&[0]);
        }
    }
    sum.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use tempfile::TempDir;

    use super::*;

    fn config() -> ReceivedConfig {
        let document = |name: &str, text: &str| Document { name: name.into(), text: text.into() };
        ReceivedConfig {
            name: "edge".into(),
            version: 42,
            documents: vec![document("edge", "routes: []\n"), document("edge/upstreams/a", "{}")],
            secrets: [PathBuf::from("/run/secrets")].into(),
        }
    }

    fn held(home: &TempDir, name: &str) -> HeldConfig {
        HeldConfig::within(home.path(), name, [PathBuf::from("/run/secrets")].into())
    }

    #[test]
    fn what_is_written_is_read_and_nobody_else_may_read_it() {
        let home = TempDir::new().unwrap();
        let held = held(&home, "edge");
        assert_eq!(held.read(), Ok(None));
        held.write(&config()).unwrap();
        assert_eq!(held.read(), Ok(Some(config())));
        assert_eq!(fs::metadata(held.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_trusted_is_not_read_and_put_aside() {
        type Damage = fn(String) -> String;
        let damages: [(Damage, &str); 5] = [
            (|text| text[..text.len() / 2].to_owned(), "cut off"),
            (|_| String::new(), "cut off"),
            (|text| text.replace("routes: []", "routes: [x]"), "checksum differs"),
            (|text| text.replace("\"form\":1", "\"form\":2"), "of another release (form 2"),
            (|text| text.replace("\"version\":42,", ""), "no JSON of ours"),
        ];
        for (damage, why) in damages {
            let home = TempDir::new().unwrap();
            let held = held(&home, "edge");
            held.write(&config()).unwrap();
            fs::write(held.path(), damage(fs::read_to_string(held.path()).unwrap())).unwrap();
            let told = held.read().unwrap_err();
            assert!(told.contains(why), "{told}");
            assert!(held.set_aside().contains("config.json.old"));
            assert_eq!(held.read(), Ok(None));
        }
        let home = TempDir::new().unwrap();
        held(&home, "edge").write(&config()).unwrap();
        let told = held(&home, "mesh").read().unwrap_err();
        assert!(told.contains("\"edge\", and \"mesh\" is wanted"), "{told}");
        fs::set_permissions(held(&home, "edge").path(), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(held(&home, "edge").read().unwrap_err().contains("others can write"));
    }

    #[test]
    fn a_checksum_tells_names_from_texts() {
        let of = |documents: &[(&str, &str)]| {
            let of = |(name, text): &(&str, &str)| Document { name: (*name).into(), text: (*text).into() };
            checksum(&documents.iter().map(of).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let one = of(&[("edge", "a"), ("b", "c")]);
        for other in
            [of(&[("edge", "ab"), ("", "c")]), of(&[("edgea", ""), ("b", "c")]), of(&[("edge", "a")])]
        {
            assert_ne!(one, other);
        }
    }
}
