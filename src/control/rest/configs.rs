//! Configurations as the API shows them, and the calls that put, repeat and lead them.

use std::collections::BTreeMap;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ETAG, IF_MATCH},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    reply::{self, Answer},
    router::Api,
};
use crate::{
    api::query::Query,
    config::PartKind,
    control::{
        access::Caller,
        configs::{Applied, Change, Lead, Progress, Removal, Terms, Version, part, path_of, timestamp},
        refused::{Reason, Refused},
    },
};

/// One version of a configuration.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConfigVersion {
    version: u64,
    sha256: String,
    /// Who has put it.
    by: String,
    at: String,
    /// The version that it repeats, after a rollback.
    repeats: Option<u64>,
}

/// A configuration with its texts.
#[derive(Serialize, JsonSchema)]
pub(super) struct Config {
    name: String,
    #[serde(flatten)]
    version: ConfigVersion,
    /// As it was put.
    main: String,
    /// By `upstreams/NAME` and `routes/NAME`.
    parts: BTreeMap<String, String>,
    /// Of the newest version.
    rollout: Progress,
}

/// Configurations, by name.
#[derive(Serialize, JsonSchema)]
pub(super) struct ConfigList {
    configs: Vec<ConfigEntry>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ConfigEntry {
    name: String,
    #[serde(flatten)]
    version: ConfigVersion,
    rollout: Progress,
}

/// The versions that are kept, the newest first.
#[derive(Serialize, JsonSchema)]
pub(super) struct VersionList {
    name: String,
    versions: Vec<ConfigVersion>,
}

/// What has come of a change.
#[derive(Serialize, JsonSchema)]
pub(super) struct AppliedConfig {
    name: String,
    /// Null for a dry run.
    version: Option<u64>,
    sha256: Option<String>,
    /// The gateway that has checked it, or `control` where none had joined.
    checked_by: String,
    /// Null for a dry run of a configuration that is not there yet.
    rollout: Option<Progress>,
}

impl ConfigList {
    pub(super) fn of(configs: Vec<ConfigEntry>) -> ConfigList {
        ConfigList { configs }
    }
}

impl ConfigEntry {
    pub(super) fn new(name: &str, version: ConfigVersion, rollout: Progress) -> ConfigEntry {
        ConfigEntry { name: name.to_owned(), version, rollout }
    }
}

impl VersionList {
    pub(super) fn of(name: &str, versions: Vec<ConfigVersion>) -> VersionList {
        VersionList { name: name.to_owned(), versions }
    }
}

impl ConfigVersion {
    pub(super) fn of(version: &Version) -> ConfigVersion {
        ConfigVersion {
            version: version.number,
            sha256: version.sha256.clone(),
            by: version.by.clone(),
            at: timestamp(version.at),
            repeats: version.repeats,
        }
    }
}

impl Api {
    pub(super) async fn list_configs(&self, caller: &Caller) -> Result<Answer, Refused> {
        let mut configs = Vec::new();
        for name in self.configs.names().await? {
            if caller.may_read(&name) {
                let version = ConfigVersion::of(&*self.configs.version(&name, None).await?);
                configs.push(ConfigEntry {
                    name: name.to_string(),
                    version,
                    rollout: self.configs.progress(&name)?,
                });
            }
        }
        Ok(reply::json(StatusCode::OK, &ConfigList { configs }))
    }

    pub(super) async fn read_config(
        &self,
        caller: &Caller,
        name: &str,
        query: &Query,
    ) -> Result<Answer, Refused> {
        caller.check_read(name)?;
        let number = query.number("version", usize::MAX)?.map(|number| number as u64);
        let version = self.configs.version(name, number).await?;
        let parts = version.documents.parts.iter();
        let config = Config {
            name: name.to_owned(),
            version: ConfigVersion::of(&version),
            main: version.documents.main.to_string(),
            parts: parts.map(|(part, text)| (path_of(part), text.to_string())).collect(),
            rollout: self.configs.progress(name)?,
        };
        Ok(tagged(version.number, reply::json(StatusCode::OK, &config)))
    }

    pub(super) async fn list_versions(&self, caller: &Caller, name: &str) -> Result<Answer, Refused> {
        caller.check_read(name)?;
        let versions = self.configs.versions(name).await?;
        let versions = versions.iter().map(|version| ConfigVersion::of(version)).collect();
        Ok(reply::json(StatusCode::OK, &VersionList { name: name.to_owned(), versions }))
    }

    pub(super) async fn put_config(
        &self,
        caller: &Caller,
        name: &str,
        query: &Query,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Answer, Refused> {
        self.apply(caller, name, Change::Main(text(body)?), query, headers).await
    }

    pub(super) async fn remove_config(
        &self,
        caller: &Caller,
        name: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Answer, Refused> {
        caller.check_configure(name)?;
        let removal = Removal {
            if_version: if_version(headers)?,
            is_forced: query.flag("force")?,
            by: caller.owner.to_string(),
        };
        self.configs.remove(name, removal).await?;
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn put_part(
        &self,
        caller: &Caller,
        (name, kind, of): (&str, PartKind, &str),
        query: &Query,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Answer, Refused> {
        let change = Change::Part(part(kind, of)?, Some(text(body)?));
        self.apply(caller, name, change, query, headers).await
    }

    pub(super) async fn remove_part(
        &self,
        caller: &Caller,
        (name, kind, of): (&str, PartKind, &str),
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Answer, Refused> {
        self.apply(caller, name, Change::Part(part(kind, of)?, None), query, headers).await
    }

    pub(super) async fn rollback(
        &self,
        caller: &Caller,
        name: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Answer, Refused> {
        let version = query.number("version", usize::MAX)?.ok_or_else(|| {
            Reason::BadRequest.because("say which version is to be had again: `?version=NUMBER`")
        })?;
        self.apply(caller, name, Change::Repeat(version as u64), query, headers).await
    }

    async fn apply(
        &self,
        caller: &Caller,
        name: &str,
        change: Change,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Answer, Refused> {
        caller.check_configure(name)?;
        let terms = Terms {
            if_version: if_version(headers)?,
            is_dry: query.flag("dry_run")?,
            at_once: match query.text("rollout") {
                None => false,
                Some("now") => true,
                Some(other) => {
                    let hint = "`now` is for emergencies, and waves are the default";
                    return Err(
                        Reason::BadRequest.because(format!("rollout: {other:?} is not `now` ({hint})"))
                    );
                }
            },
            by: caller.owner.to_string(),
        };
        let Applied { version, checked_by, is_unchanged, rollout } =
            self.configs.apply(name, change, terms).await?;
        let number = version.as_ref().map(|version| version.number);
        let status = match number {
            Some(_) if !is_unchanged => StatusCode::ACCEPTED,
            _ => StatusCode::OK,
        };
        let sha256 = version.map(|version| version.sha256.clone());
        let applied = AppliedConfig { name: name.to_owned(), version: number, sha256, checked_by, rollout };
        let answer = reply::json(status, &applied);
        Ok(number.map(|number| tagged(number, reply::json(status, &applied))).unwrap_or(answer))
    }

    pub(super) async fn lead(&self, caller: &Caller, name: &str, lead: Lead) -> Result<Answer, Refused> {
        caller.check_lead(name)?;
        let progress = self.configs.lead(name, lead, &caller.owner.to_string()).await?;
        Ok(reply::json(StatusCode::OK, &progress))
    }
}

/// What `If-Match` wants to be the newest version.
fn if_version(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().ok().map(|text| text.trim().trim_matches('"'));
    let version = text.and_then(|text| text.parse().ok());
    version.map(Some).ok_or_else(|| {
        Reason::BadRequest.because("If-Match is not a version (give what `ETag` said, such as \"7\")")
    })
}

fn tagged(version: u64, mut answer: Answer) -> Answer {
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

fn text(body: &[u8]) -> Result<String, Refused> {
    match std::str::from_utf8(body) {
        Ok("") => Err(Reason::BadRequest.because("the body is empty (send YAML or JSON)")),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Reason::BadRequest.because("the body is not UTF-8 (send YAML or JSON)")),
    }
}
