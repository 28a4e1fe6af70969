//! What cookies are signed with where the operator gives no key: made at random once, and kept in `state_dir`, so that it outlives
//! restarts and upgrades. It is no other gateway's.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use openssl::rand::rand_bytes;

use crate::{observe::log::event, state_file};

const FILE: &str = "affinity.json";
const LENGTH: usize = 32;
/// More than it ever has.
const LARGEST: u64 = 1024;

type Key = [u8; LENGTH];

/// Read or made when it is first asked for; the same for as long as the process lives.
#[derive(Default)]
pub(in crate::upstream) struct OwnKey(OnceLock<Key>);

#[derive(serde::Serialize, serde::Deserialize)]
struct File {
    key: String,
}

impl OwnKey {
    /// Without a directory it ends with the process.
    pub(in crate::upstream) fn within(&self, state_dir: Option<&Path>) -> &[u8] {
        self.0.get_or_init(|| match state_dir {
            Some(state_dir) => kept(state_dir.join(FILE)),
            None => random(),
        })
    }
}

fn kept(path: PathBuf) -> Key {
    let unusable = match state_file::read(&path, LARGEST) {
        Ok(Some(text)) => match parse(&text) {
            Some(key) => return key,
            None => Some("it holds no key".to_owned()),
        },
        Ok(None) => None,
        Err(why) => Some(why),
    };
    if let Some(why) = unusable {
        let (file, aside) = (path.display().to_string(), state_file::set_aside(&path));
        event!(
            Warn,
            "the key of affinity cookies cannot be read: sessions get new cookies",
            file = file,
            error = why,
            aside = aside
        );
    }
    let key = random();
    let text = serde_json::to_vec(&File { key: BASE64_STANDARD.encode(key) }).unwrap_or_default();
    if let Err(error) = state_file::write(&path, 0o600, &text) {
        let (file, error) = (path.display().to_string(), error.to_string());
        event!(
            Warn,
            "the key of affinity cookies cannot be kept: after a restart sessions get new cookies",
            file = file,
            error = error
        );
    }
    key
}

fn parse(text: &[u8]) -> Option<Key> {
    let File { key } = serde_json::from_slice(text).ok()?;
    BASE64_STANDARD.decode(key).ok()?.try_into().ok()
}

fn random() -> Key {
    let mut key = [0; LENGTH];
    rand_bytes(&mut key).expect("OpenSSL has randomness, or no TLS either");
    key
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_key_outlives_the_process_and_one_that_cannot_be_read_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let of = |key: &OwnKey| key.within(Some(directory.path())).to_vec();
        let (first, file) = (OwnKey::default(), directory.path().join(FILE));
        let key = of(&first);
        assert_eq!(of(&OwnKey::default()), key);
        fs::write(&file, "{\"key\": \"c2hvcnQ=\"}").unwrap();
        assert_eq!(of(&first), key, "as long as the process lives");
        let next = OwnKey::default();
        assert_ne!(of(&next), key);
        assert_eq!(of(&OwnKey::default()), of(&next));
        assert!(directory.path().join("affinity.json.old").exists());
        let without = |key: &OwnKey| key.within(None).to_vec();
        assert_ne!(without(&OwnKey::default()), without(&OwnKey::default()));
    }
}
