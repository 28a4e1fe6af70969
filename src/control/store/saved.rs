//! What of the registry outlives the process: `registry.json` in the `state_dir`. It holds no times of renewal, which mean
//! nothing to another process: after a start everybody has one TTL to be heard again.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{Position, file};
use crate::control::{
    instance::{Health, Instance, Owner, Protocol},
    registration::{Registration, Ttls, Written},
};

/// Of the file. Another one is of another release.
const FORMAT: u32 = 1;

pub(crate) struct StateFile(PathBuf);

impl StateFile {
    pub(crate) fn within(directory: &Path) -> StateFile {
        StateFile(directory.join("registry.json"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What was saved. What cannot be used is set aside: instances come back with their next heartbeat.
    pub(crate) fn read(&self, ttls: &Ttls) -> Option<(Position, Vec<Arc<Instance>>)> {
        let text = file::read(&self.0)?;
        match read(&text, ttls) {
            Ok(saved) => Some(saved),
            Err(why) => {
                file::set_aside(&self.0, &why);
                None
            }
        }
    }

    /// Blocking.
    pub(crate) fn write(&self, position: Position, instances: &[Arc<Instance>]) -> io::Result<()> {
        file::write(&self.0, &text(position, instances)?)
    }
}

#[derive(Serialize, Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    format: u32,
    epoch: u64,
    revision: u64,
    instances: Vec<Saved>,
}

/// An instance. What a later release adds to it is passed over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    id: String,
    name: String,
    host: String,
    port: u16,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    ttl_ms: u64,
    weight: u16,
    protocol: Option<Protocol>,
    health: Health,
    draining: bool,
    owner: String,
    registered_ms: u64,
    since_ms: u64,
    revision: u64,
}

impl Saved {
    pub(super) fn of(instance: &Instance) -> Saved {
        Saved {
            id: instance.id.to_string(),
            name: instance.name.to_string(),
            host: instance.host.to_string(),
            port: instance.port,
            tags: instance.tags.iter().cloned().collect(),
            metadata: instance.metadata.clone(),
            ttl_ms: u64::try_from(instance.ttl.as_millis()).unwrap_or(u64::MAX),
            weight: instance.weight,
            protocol: instance.protocol,
            health: instance.health,
            draining: instance.draining,
            owner: instance.owner.to_string(),
            registered_ms: milliseconds(instance.registered),
            since_ms: milliseconds(instance.since),
            revision: instance.revision,
        }
    }

    /// Under today's limits: a file may have been edited, and the configuration may have changed.
    pub(super) fn instance(self, ttls: &Ttls) -> Result<Instance, String> {
        let ttl = Duration::from_millis(self.ttl_ms).clamp(ttls.min, ttls.max);
        let owner = Owner::parse(&self.owner).ok_or_else(|| format!("{:?} is nobody's name", self.owner))?;
        let written = Written {
            name: self.name,
            host: Some(self.host),
            port: Some(self.port),
            id: Some(self.id),
            tags: self.tags,
            metadata: self.metadata,
            ttl: Some(ttl.into()),
            weight: Some(self.weight),
            protocol: self.protocol,
            health: self.health,
            address: None,
        };
        let registration = Registration::read(written, ttls).map_err(|refused| refused.why)?;
        let mut instance = registration.instance(owner, time(self.registered_ms));
        instance.draining = self.draining;
        instance.since = time(self.since_ms);
        instance.revision = self.revision;
        Ok(instance)
    }
}

pub(in crate::control) fn text(
    position: Position,
    instances: &[Arc<Instance>],
) -> serde_json::Result<Vec<u8>> {
    let Position { epoch, revision } = position;
    let instances = instances.iter().map(|instance| Saved::of(instance)).collect();
    serde_json::to_vec(&Whole { format: FORMAT, epoch, revision, instances })
}

/// # Errors
///
/// Why none of it is used.
pub(in crate::control) fn read(text: &[u8], ttls: &Ttls) -> Result<(Position, Vec<Arc<Instance>>), String> {
    let broken = |error: serde_json::Error| format!("it is broken: {error}");
    let Format { format } = serde_json::from_slice(text).map_err(broken)?;
    if format != FORMAT {
        return Err(format!("it is of another release (format {format}, this one reads {FORMAT})"));
    }
    let whole: Whole = serde_json::from_slice(text).map_err(broken)?;
    let mut ids = HashSet::new();
    let mut instances = Vec::with_capacity(whole.instances.len());
    for saved in whole.instances {
        let instance = saved.instance(ttls).map_err(|why| format!("it was edited: {why}"))?;
        if !ids.insert(instance.id.clone()) {
            return Err(format!("it was edited: {} is there twice", instance.id));
        }
        instances.push(Arc::new(instance));
    }
    Ok((Position { epoch: whole.epoch, revision: whole.revision }, instances))
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// No later than the year 10000, after which times cannot be written down.
fn time(milliseconds: u64) -> SystemTime {
    const LATEST: u64 = 253_402_300_799_000;
    UNIX_EPOCH + Duration::from_millis(milliseconds.min(LATEST))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::control::instance::tests::instance;

    const TTLS: Ttls = Ttls {
        default: Duration::from_secs(30),
        min: Duration::from_secs(1),
        max: Duration::from_secs(86_400),
    };
    const AT: Position = Position { epoch: 5, revision: 42 };

    fn saved() -> (TempDir, StateFile, Vec<Arc<Instance>>) {
        let directory = TempDir::new().unwrap();
        let file = StateFile::within(&directory.path().join("state"));
        let owner = Owner::Spiffe("spiffe://mesh.local/a".into());
        let metadata = [("region".to_owned(), "eu".to_owned())].into();
        let one =
            Instance { owner, metadata, tags: ["v2".to_owned()].into(), revision: 41, ..instance("a", 1) };
        let two = Instance { draining: true, health: Health::Critical, ..instance("b", 2) };
        let instances = vec![Arc::new(one), Arc::new(two)];
        file.write(AT, &instances).unwrap();
        (directory, file, instances)
    }

    #[test]
    fn what_was_written_is_read_and_only_by_its_owner() {
        let (_directory, file, instances) = saved();
        assert_eq!(file.read(&TTLS), Some((AT, instances)));
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        file.write(AT, &[]).unwrap();
        assert_eq!(file.read(&TTLS), Some((AT, vec![])));
    }

    #[test]
    fn what_cannot_be_used_is_set_aside() {
        let (_directory, file, _) = saved();
        let good = fs::read_to_string(file.path()).unwrap();
        for bad in [
            good[..good.len() / 2].to_owned(),
            good.replace("\"format\":1", "\"format\":2"),
            good.replace("\"port\":1,", "\"port\":0,"),
            good.replace("b-127.0.0.1-2", "a-127.0.0.1-1"),
            good.replace("spiffe://mesh.local/a", "somebody"),
            String::new(),
            "[]".to_owned(),
        ] {
            assert_ne!(bad, good);
            fs::write(file.path(), &bad).unwrap();
            assert_eq!(file.read(&TTLS), None, "{bad}");
            assert!(!file.path().exists());
            assert_eq!(fs::read_to_string(file.path().with_extension("json.old")).unwrap(), bad);
        }
        assert_eq!(file.read(&TTLS), None, "there is none, and that is no fault");
    }

    #[test]
    fn a_ttl_that_is_no_longer_allowed_becomes_the_nearest_that_is() {
        let (_directory, file, _) = saved();
        let (_, instances) = file.read(&Ttls { max: Duration::from_secs(10), ..TTLS }).unwrap();
        assert!(instances.iter().all(|instance| instance.ttl == Duration::from_secs(10)));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much_for_it(cut in 0usize..400, with in any::<Vec<u8>>()) {
            let (_directory, file, _) = saved();
            let mut text = fs::read(file.path()).unwrap();
            let cut = cut.min(text.len());
            text.splice(cut.., with);
            let _ = read(&text, &TTLS);
        }
    }
}
