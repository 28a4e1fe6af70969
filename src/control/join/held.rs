//! What a gateway knows of its services, on disk: a start finds endpoints though no control plane can be reached.
//!
//! A file that is cut off, changed by hand or of another release is not used: it is put aside, as whoever looks for the reason
//! will want to see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openssl::sha::sha256;
use serde::{Deserialize, Serialize};

use super::{
    known::Mark,
    services::{Services, Standing},
};
use crate::{identity::parse_id, observe::log::event, upstream::Instance};

/// Changes wait for each other for so long before they are written.
const EVERY: Duration = Duration::from_secs(5);
/// What a file has at most: far more than 100,000 instances take.
const LARGEST: u64 = 256 * 1024 * 1024;

pub(super) struct Held {
    path: PathBuf,
    /// Of what was written last, and whether that failed.
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    edition: u64,
    has_failed: bool,
}

#[derive(Serialize, Deserialize)]
struct File {
    release: String,
    /// Of the release and the services as they are written.
    sha256: String,
    services: Vec<HeldService>,
}

#[derive(Serialize, Deserialize)]
struct HeldService {
    name: Arc<str>,
    epoch: u64,
    revision: u64,
    instances: Vec<HeldInstance>,
}

#[derive(Serialize, Deserialize)]
struct HeldInstance {
    id: Arc<str>,
    address: Arc<str>,
    weight: u16,
    takes_requests: bool,
    tags: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

impl Held {
    pub(super) fn new(state_dir: &Path) -> Held {
        Held { path: state_dir.join("held").join("services.json"), written: Mutex::default() }
    }

    /// What the process before has left; nothing where that cannot be used.
    pub(super) fn read(&self, release: &str) -> Vec<Standing> {
        let why = match self.look(release) {
            Ok(held) => return held,
            Err(Unusable::Absent) => return Vec::new(),
            Err(Unusable::Because(why)) => why,
        };
        let aside = self.path.with_extension("json.old");
        let kept = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("kept as {}", aside.display()),
            Err(error) => format!("cannot be moved: {error}"),
        };
        let message = "held services are not used; without a control plane there are no endpoints";
        event!(Warn, message, file = self.path.display(), why = why, file_is = kept);
        Vec::new()
    }

    fn look(&self, release: &str) -> Result<Vec<Standing>, Unusable> {
        let because = |why: &str| Unusable::Because(why.to_owned());
        let size = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unusable::Absent),
            Err(error) => return Err(Unusable::Because(error.to_string())),
        };
        if size > LARGEST {
            return Err(because("it is larger than any that was written here"));
        }
        let text = fs::read(&self.path).map_err(|error| Unusable::Because(error.to_string()))?;
        let file: File = serde_json::from_slice(&text).map_err(|_| because("it is cut off or no JSON"))?;
        if file.release != release {
            return Err(Unusable::Because(format!("it is of release {}", file.release.escape_debug())));
        }
        if sum(release, &file.services).ok().as_ref() != Some(&file.sha256) {
            return Err(because("it is not what was written: its checksum differs"));
        }
        Ok(file.services.into_iter().map(HeldService::into_standing).collect())
    }

    /// Writes what has changed, for as long as it is polled.
    pub(super) async fn keep(self: Arc<Self>, services: Arc<Services>, release: &'static str) {
        loop {
            tokio::time::sleep(EVERY).await;
            let (held, services) = (self.clone(), services.clone());
            // Files may be slow. One that panics is told of in the log.
            let _ = tokio::task::spawn_blocking(move || held.write(&services, release)).await;
        }
    }

    /// Whole or not at all, and only where there is something new.
    pub(super) fn write(&self, services: &Services, release: &str) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let edition = services.edition();
        if edition == written.edition {
            return;
        }
        let standing = services.standing();
        match write(&self.path, release, &standing) {
            Ok(()) => *written = Written { edition, has_failed: false },
            Err(error) => {
                if !std::mem::replace(&mut written.has_failed, true) {
                    let message =
                        "held services cannot be written; a restart without a control plane would find none";
                    event!(Error, message, file = self.path.display(), why = error);
                }
            }
        }
    }
}

enum Unusable {
    Absent,
    Because(String),
}

impl HeldService {
    fn of(standing: &Standing) -> HeldService {
        let instances = standing.instances.iter().map(|instance| HeldInstance {
            id: instance.id.clone(),
            address: instance.address.clone(),
            weight: instance.weight,
            takes_requests: instance.takes_requests,
            tags: instance.tags.clone(),
            metadata: instance.metadata.clone(),
            owner: instance.owner.as_ref().map(ToString::to_string),
        });
        let Mark { epoch, revision } = standing.mark;
        HeldService { name: standing.name.clone(), epoch, revision, instances: instances.collect() }
    }

    fn into_standing(self) -> Standing {
        let HeldService { name, epoch, revision, instances } = self;
        let instances = instances.into_iter().map(|held| {
            let HeldInstance { id, address, weight, takes_requests, tags, metadata, owner } = held;
            let owner = owner.and_then(|owner| parse_id(&owner).ok());
            Arc::new(Instance { id, address, weight, takes_requests, tags, metadata, owner })
        });
        Standing { name, mark: Mark { epoch, revision }, instances: instances.collect() }
    }
}

fn write(path: &Path, release: &str, standing: &[Standing]) -> io::Result<()> {
    let services: Vec<HeldService> = standing.iter().map(HeldService::of).collect();
    let sha256 = sum(release, &services)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("json.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    serde_json::to_writer(&mut file, &File { release: release.to_owned(), sha256, services })?;
    file.flush()?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn sum(release: &str, services: &[HeldService]) -> io::Result<String> {
    let text = serde_json::to_string(&(release, services))?;
    Ok(sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn standing() -> Vec<Standing> {
        let instance = Instance {
            id: "a".into(),
            address: "10.0.0.1:80".into(),
            weight: 3,
            takes_requests: false,
            tags: ["v2".to_owned()].into(),
            metadata: [("region".to_owned(), "eu".to_owned())].into(),
            owner: parse_id("spiffe://mesh.local/users").ok(),
        };
        let mark = Mark { epoch: u64::MAX, revision: 7 };
        vec![Standing { name: "users".into(), mark, instances: vec![Arc::new(instance)] }]
    }

    fn shown(standing: &[Standing]) -> String {
        let of = |one: &Standing| format!("{} {:?} {:?}", one.name, one.mark, one.instances);
        standing.iter().map(of).collect()
    }

    #[test]
    fn what_is_written_is_read_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let held = Held::new(directory.path());
        assert!(held.read("1").is_empty());
        write(&held.path, "1", &standing()).unwrap();
        assert_eq!(shown(&held.read("1")), shown(&standing()));
        assert_eq!(fs::metadata(&held.path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_trusted_is_put_aside() {
        type Damage = fn(String) -> String;
        let changed: [(&str, Damage); 4] = [
            ("cut off", |text| text[..text.len() / 2].to_owned()),
            ("another weight", |text| text.replace("\"weight\":3", "\"weight\":4")),
            ("empty", |_| String::new()),
            ("of another release", |text| text.replace("\"release\":\"1\"", "\"release\":\"0\"")),
        ];
        for (what, change) in changed {
            let directory = tempfile::tempdir().unwrap();
            let held = Held::new(directory.path());
            write(&held.path, "1", &standing()).unwrap();
            fs::write(&held.path, change(fs::read_to_string(&held.path).unwrap())).unwrap();
            assert!(held.read("1").is_empty(), "{what}");
            assert!(!held.path.exists() && held.path.with_extension("json.old").exists(), "{what}");
        }
    }
}
