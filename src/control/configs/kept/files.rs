//! The files of configurations. One that cannot be used is set aside: an operator can put it again, and gateways keep what they have.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Entry,
    text::{course_text, read_course, read_version, version_text},
};
use crate::{
    config::RolloutSettings,
    control::{
        configs::{
            document::check_config_name,
            versions::{Course, Name, Version},
        },
        store::file,
    },
    observe::log::event,
};

const COURSE: &str = "current";
/// No configuration's name begins with it.
const GONE: char = '~';

pub(super) struct Files {
    directory: PathBuf,
    /// Where it is not known any more how far a version has spread.
    settings: RolloutSettings,
}

impl Files {
    pub(super) fn within(state_dir: &Path, settings: RolloutSettings) -> Files {
        Files { directory: state_dir.join("configs"), settings }
    }

    pub(super) fn write_version(&self, name: &str, version: &Version) -> io::Result<()> {
        file::write(&self.directory.join(name).join(version.number.to_string()), &version_text(version)?)
    }

    pub(super) fn write_course(&self, name: &str, course: &Course) -> io::Result<()> {
        file::write(&self.directory.join(name).join(COURSE), &course_text(course)?)
    }

    /// All of it at once: none of it is read again, even where this is cut short.
    pub(super) fn remove_all(&self, name: &str) -> io::Result<()> {
        let gone = self.directory.join(format!("{GONE}{name}"));
        drop_directory(&gone);
        fs::rename(self.directory.join(name), &gone)?;
        fs::File::open(&self.directory)?.sync_all()?;
        drop_directory(&gone);
        Ok(())
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
            if name.starts_with(GONE) {
                drop_directory(&path);
            }
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
            if let Some(version) = read(&path, |text| read_version(text, name, number)) {
                versions.insert(number, Arc::new(version));
            }
        }
        let newest = *versions.keys().next_back()?;
        let path = directory.join(COURSE);
        let course = read(&path, |text| read_course(text, &versions)).unwrap_or_else(|| {
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

/// What stays is no more than space.
fn drop_directory(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{} is not needed any more and cannot be removed: {error}", directory.display());
        }
        _ => {}
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
fn read<T>(path: &Path, take: impl FnOnce(&[u8]) -> Result<T, String>) -> Option<T> {
    let text = file::read(path)?;
    match take(&text) {
        Ok(read) => Some(read),
        Err(why) => {
            file::set_aside(path, &why);
            None
        }
    }
}
