//! What the control plane has signed for us, on disk: a restart goes on with it and needs no other token. Key and certificate
//! stand in one file, which is replaced whole, so they always belong together.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::x509::X509;
use serde::{Deserialize, Serialize};

use super::{Bundle, Bundles, SpiffeId, Svid, settings::check};
use crate::state_file;

/// Only we may read it.
const MODE: u32 = 0o600;
/// Far more than a chain and a bundle take.
const LARGEST: u64 = 1024 * 1024;
const VERSION: u32 = 1;

pub(super) struct Held {
    pub(super) svid: Svid,
    /// Its own trust domain's alone.
    pub(super) bundles: Bundles,
    /// When it came, by our own clock.
    pub(super) issued: SystemTime,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// Seconds since 1970.
    issued: u64,
    /// All in PEM.
    chain: String,
    key: String,
    bundle: String,
}

pub fn within(state_dir: &Path) -> PathBuf {
    state_dir.join("held").join("identity.json")
}

/// What an earlier process has left for `id`; `None` where there is nothing, or nothing that is valid at `now` any more.
///
/// # Errors
///
/// Why what is there is not used.
pub(super) fn read(path: &Path, id: &SpiffeId, now: SystemTime) -> Result<Option<Held>, String> {
    let Some(text) = state_file::read(path, LARGEST)? else { return Ok(None) };
    let File { version, issued, chain, key, bundle } =
        serde_json::from_slice(&text).map_err(|_| "it is cut off, or no JSON of ours".to_owned())?;
    if version != VERSION {
        return Err(format!("it is of another release (version {version})"));
    }
    let svid = Svid::from_pem(chain.as_bytes(), key.as_bytes()).map_err(|why| format!("its SVID {why}"))?;
    let domain = id.trust_domain();
    let bundle = Bundle::from_pem(domain.clone(), bundle.as_bytes())
        .map_err(|why| format!("a certificate of its bundle {why}"))?;
    if svid.id != *id {
        return Err(format!("it is the SVID of {}", svid.id));
    }
    if svid.not_after <= now {
        return Ok(None);
    }
    let bundles = Bundles::from_iter([bundle]);
    check(&svid, domain, &bundles, now).map_err(|(why, _)| format!("its SVID {why}"))?;
    Ok(Some(Held { svid, bundles, issued: UNIX_EPOCH + Duration::from_secs(issued) }))
}

/// # Errors
///
/// It cannot be written.
pub(super) fn write(path: &Path, svid: &Svid, bundle: &Bundle, issued: SystemTime) -> Result<(), String> {
    let pem = |all: &[X509]| -> Result<String, String> {
        let each = all.iter().map(|one| one.to_pem()).collect::<Result<Vec<_>, _>>();
        String::from_utf8(each.map_err(|error| error.to_string())?.concat())
            .map_err(|error| error.to_string())
    };
    let key = svid.key.private_key_to_pem_pkcs8().map_err(|error| error.to_string())?;
    let file = File {
        version: VERSION,
        issued: issued.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        chain: pem(&svid.chain)?,
        key: String::from_utf8(key).map_err(|error| error.to_string())?,
        bundle: pem(&bundle.authorities)?,
    };
    let text = serde_json::to_vec(&file).map_err(|error| error.to_string())?;
    state_file::write(path, MODE, &text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::identity::{
        certificates::{HOUR, authority, svid},
        parse_id,
    };

    const ID: &str = "spiffe://mesh.local/payments";

    fn held() -> (tempfile::TempDir, PathBuf, SystemTime) {
        let directory = tempfile::TempDir::new().unwrap();
        let path = within(directory.path());
        let root = authority("mesh.local");
        let own = root.issue(&svid(ID));
        let id = parse_id(ID).unwrap();
        let bundle = Bundle::new(id.trust_domain().clone(), vec![root.certificate]).unwrap();
        let now = SystemTime::now();
        write(&path, &Svid::new(vec![own.certificate], own.key).unwrap(), &bundle, now).unwrap();
        (directory, path, now)
    }

    #[test]
    fn what_is_held_is_read_again_and_by_nobody_else() {
        let (_directory, path, now) = held();
        let id = parse_id(ID).unwrap();
        let found = read(&path, &id, now).unwrap().unwrap();
        assert_eq!(found.svid.id, id);
        assert!(found.bundles.of(id.trust_domain()).is_some());
        assert!(now.duration_since(found.issued).unwrap() < Duration::from_secs(1));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path, &id, now + 2 * HOUR).unwrap().is_none(), "it has ended");
        fs::remove_file(&path).unwrap();
        assert!(read(&path, &id, now).unwrap().is_none());
    }

    #[test]
    fn what_is_not_ours_or_not_whole_is_not_used() {
        let (_directory, path, now) = held();
        let other = parse_id("spiffe://mesh.local/orders").unwrap();
        let refused = |id: &SpiffeId| read(&path, id, now).err().unwrap();
        assert!(refused(&other).contains("it is the SVID of spiffe://mesh.local/payments"));
        let id = parse_id(ID).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (changed, says) in [
            (good[..good.len() / 2].to_owned(), "cut off"),
            (good.replace("\"version\":1", "\"version\":2"), "another release"),
            (good.replace("BEGIN PRIVATE KEY", "BEGIN NOTHING"), "private key"),
        ] {
            fs::write(&path, changed).unwrap();
            assert!(refused(&id).contains(says), "{}", refused(&id));
        }
    }
}
