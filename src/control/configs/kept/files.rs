//! The files of configurations. One that cannot be used is set aside: an operator can put it again, and gateways keep what they have.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Entry;
use crate::{
    config::RolloutSettings,
    control::{
        configs::{
            document::{Documents, check_config_name, path_of, read_part},
            versions::{Course, Name, Version},
        },
        store::file,
    },
    observe::log::event,
    policy::waves::{Kept, Phase},
};

/// Of the files. Another one is of another release.
const FORMAT: u32 = 1;
const COURSE: &str = "current";

pub(super) struct Files {
    directory: PathBuf,
    /// Where it is not known any more how far a version has spread.
    settings: RolloutSettings,
}

#[derive(Deserialize)]
struct OfAnyRelease {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionFile {
    format: u32,
    version: u64,
    sha256: String,
    by: String,
    at_ms: u64,
    repeats: Option<u64>,
    main: String,
    sent: Option<String>,
    /// By `upstreams/NAME` or `routes/NAME`.
    parts: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CourseFile {
    format: u32,
    version: u64,
    stable: u64,
    checked_by: String,
    settings: RolloutSettings,
    phase: PhaseWord,
    wave: usize,
    gateways: Vec<String>,
    why: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseWord {
    Rolling,
    Holding,
    Paused,
    Done,
    Aborted,
}

impl Files {
    pub(super) fn within(state_dir: &Path, settings: RolloutSettings) -> Files {
        Files { directory: state_dir.join("configs"), settings }
    }

    pub(super) fn write_version(&self, name: &str, version: &Version) -> io::Result<()> {
        let parts = version.documents.parts.iter();
        let text = serde_json::to_vec(&VersionFile {
            format: FORMAT,
            version: version.number,
            sha256: version.sha256.clone(),
            by: version.by.clone(),
            at_ms: milliseconds(version.at),
            repeats: version.repeats,
            main: version.documents.main.to_string(),
            sent: version.documents.sent.as_ref().map(ToString::to_string),
            parts: parts.map(|(part, text)| (path_of(part), text.to_string())).collect(),
        })?;
        file::write(&self.directory.join(name).join(version.number.to_string()), &text)
    }

    pub(super) fn write_course(&self, name: &str, course: &Course) -> io::Result<()> {
        let Course { version, stable, checked_by, settings, rollout } = course.clone();
        let text = serde_json::to_vec(&CourseFile {
            format: FORMAT,
            version,
            stable,
            checked_by,
            settings,
            phase: rollout.phase.into(),
            wave: rollout.wave,
            gateways: rollout.members.iter().map(ToString::to_string).collect(),
            why: rollout.why,
        })?;
        file::write(&self.directory.join(name).join(COURSE), &text)
    }

    /// What stays is no more than space.
    pub(super) fn remove(&self, name: &str, versions: &[u64]) {
        for version in versions {
            let path = self.directory.join(name).join(version.to_string());
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("{} is not needed any more and cannot be removed: {error}", path.display());
            }
        }
    }

    /// Everything that can be used.
    pub(super) fn read(&self) -> BTreeMap<Name, Entry> {
        let mut all = BTreeMap::new();
        for (name, path) in entries(&self.directory) {
            if check_config_name(&name).is_ok()
                && let Some(entry) = self.read_one(&name, &path)
            {
                all.insert(Name::from(name), entry);
            }
        }
        if !all.is_empty() {
            event!(Info, "configurations go on", configurations = all.len());
        }
        all
    }

    fn read_one(&self, name: &str, directory: &Path) -> Option<Entry> {
        let mut versions = BTreeMap::new();
        for (file, path) in entries(directory) {
            let Ok(number) = file.parse::<u64>() else { continue };
            if let Some(version) = read(&path, |file: VersionFile| file.version(name, number)) {
                versions.insert(number, Arc::new(version));
            }
        }
        let newest = *versions.keys().next_back()?;
        let path = directory.join(COURSE);
        let course = read(&path, |file: CourseFile| file.course(&versions)).unwrap_or_else(|| {
            log::warn!(
                "it is not known how far version {newest} of {name} has spread: its rollout is paused"
            );
            Course::lost(newest, self.settings.clone())
        });
        // Whoever put it never had an answer.
        for (number, _) in versions.split_off(&(course.version + 1)) {
            file::set_aside(&directory.join(number.to_string()), "it was never answered");
        }
        Some(Entry { versions: versions.into_values().collect(), course })
    }
}

fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let found = match fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            log::warn!("cannot read {}: {error}; its configurations are not used", directory.display());
            return Vec::new();
        }
    };
    let entries = found.flatten();
    entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

/// What is in a file; where that cannot be used, it is set aside.
fn read<F: DeserializeOwned, T>(path: &Path, take: impl FnOnce(F) -> Result<T, String>) -> Option<T> {
    let text = file::read(path)?;
    match parse(&text).and_then(take) {
        Ok(read) => Some(read),
        Err(why) => {
            file::set_aside(path, &why);
            None
        }
    }
}

fn parse<F: DeserializeOwned>(text: &[u8]) -> Result<F, String> {
    let broken = |error: serde_json::Error| format!("it is broken: {error}");
    let OfAnyRelease { format } = serde_json::from_slice(text).map_err(broken)?;
    if format != FORMAT {
        return Err(format!("it is of another release (format {format}, and this one writes {FORMAT})"));
    }
    serde_json::from_slice(text).map_err(broken)
}

impl VersionFile {
    fn version(self, name: &str, number: u64) -> Result<Version, String> {
        if self.version != number {
            return Err(format!("it is of version {}", self.version));
        }
        let parts = self.parts.into_iter().map(|(path, text)| {
            let part = read_part(&path).map_err(|refused| format!("it was edited: {}", refused.why))?;
            Ok((part, text.into()))
        });
        let parts = parts.collect::<Result<BTreeMap<_, _>, String>>()?;
        let documents = Documents { main: self.main.into(), sent: self.sent.map(Into::into), parts };
        if documents.sha256(name) != self.sha256 {
            return Err("it is not what was written: its checksum differs".to_owned());
        }
        Ok(Version {
            number,
            documents,
            sha256: self.sha256,
            by: self.by,
            at: UNIX_EPOCH.checked_add(Duration::from_millis(self.at_ms)).unwrap_or(UNIX_EPOCH),
            repeats: self.repeats,
        })
    }
}

impl CourseFile {
    fn course(self, versions: &BTreeMap<u64, Arc<Version>>) -> Result<Course, String> {
        let lacks = |number: u64| number != 0 && !versions.contains_key(&number);
        if self.version == 0 || lacks(self.version) || lacks(self.stable) {
            return Err("a version that it names is not there".to_owned());
        }
        if let Some((key, what, _)) = self.settings.fault() {
            return Err(format!("it was edited: {key}: {what}"));
        }
        let members = self.gateways.into_iter().map(Into::into).collect();
        Ok(Course {
            version: self.version,
            stable: self.stable,
            checked_by: self.checked_by,
            settings: self.settings,
            rollout: Kept { phase: self.phase.into(), wave: self.wave, members, why: self.why },
        })
    }
}

impl From<Phase> for PhaseWord {
    fn from(phase: Phase) -> PhaseWord {
        match phase {
            Phase::Rolling => PhaseWord::Rolling,
            Phase::Holding => PhaseWord::Holding,
            Phase::Paused => PhaseWord::Paused,
            Phase::Done => PhaseWord::Done,
            Phase::Aborted => PhaseWord::Aborted,
        }
    }
}

impl From<PhaseWord> for Phase {
    fn from(word: PhaseWord) -> Phase {
        match word {
            PhaseWord::Rolling => Phase::Rolling,
            PhaseWord::Holding => Phase::Holding,
            PhaseWord::Paused => Phase::Paused,
            PhaseWord::Done => Phase::Done,
            PhaseWord::Aborted => Phase::Aborted,
        }
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
