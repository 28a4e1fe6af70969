//! A version of a configuration, and how far it has spread, as they are written down: in files, and in a store that is shared.
//! Whatever is read may have been edited, cut off or written by another release.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::RolloutSettings,
    control::configs::{
        document::{Documents, path_of, read_part},
        versions::{Course, Version},
    },
    policy::waves::{Kept, Phase},
};

/// Another one is of another release.
const FORMAT: u32 = 1;

#[derive(Deserialize)]
struct OfAnyRelease {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionText {
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
struct CourseText {
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

pub(crate) fn version_text(version: &Version) -> serde_json::Result<Vec<u8>> {
    let parts = version.documents.parts.iter();
    serde_json::to_vec(&VersionText {
        format: FORMAT,
        version: version.number,
        sha256: version.sha256.clone(),
        by: version.by.clone(),
        at_ms: milliseconds(version.at),
        repeats: version.repeats,
        main: version.documents.main.to_string(),
        sent: version.documents.sent.as_ref().map(ToString::to_string),
        parts: parts.map(|(part, text)| (path_of(part), text.to_string())).collect(),
    })
}

/// # Errors
///
/// Why it is not version `number` of the configuration `name`.
pub(crate) fn read_version(text: &[u8], name: &str, number: u64) -> Result<Version, String> {
    parse::<VersionText>(text)?.version(name, number)
}

pub(crate) fn course_text(course: &Course) -> serde_json::Result<Vec<u8>> {
    let Course { version, stable, checked_by, settings, rollout, basis: _ } = course.clone();
    serde_json::to_vec(&CourseText {
        format: FORMAT,
        version,
        stable,
        checked_by,
        settings,
        phase: rollout.phase.into(),
        wave: rollout.wave,
        gateways: rollout.members.iter().map(ToString::to_string).collect(),
        why: rollout.why,
    })
}

/// # Errors
///
/// Why it says nothing about these.
pub(crate) fn read_course(text: &[u8], versions: &BTreeMap<u64, Arc<Version>>) -> Result<Course, String> {
    parse::<CourseText>(text)?.course(versions)
}

/// Of which version it says how far it has spread; `None` where it is none of ours.
pub(crate) fn version_of(text: &[u8]) -> Option<u64> {
    parse::<CourseText>(text).ok().map(|course| course.version)
}

fn parse<F: DeserializeOwned>(text: &[u8]) -> Result<F, String> {
    let broken = |error: serde_json::Error| format!("it is broken: {error}");
    let OfAnyRelease { format } = serde_json::from_slice(text).map_err(broken)?;
    if format != FORMAT {
        return Err(format!("it is of another release (format {format}, and this one writes {FORMAT})"));
    }
    serde_json::from_slice(text).map_err(broken)
}

impl VersionText {
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

impl CourseText {
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
            basis: 0,
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
