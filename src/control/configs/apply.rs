//! A change of a configuration: checked, kept, and from then on rolled out. Changes of one configuration wait for each other.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::OwnedMutexGuard;

use super::{
    ATTEMPTS, Configs,
    document::{Documents, check_config_name, path_of},
    rollout::Group,
    shown::Progress,
    versions::{Course, Name, Version, stale},
};
use crate::{
    config::{PartName, RolloutSettings},
    control::refused::{Reason, Refused},
    observe::log::event,
    policy::waves::{Kept, Phase},
};

/// How long a change waits for the one before it.
const TURN: Duration = Duration::from_secs(40);

#[derive(Clone)]
pub(crate) enum Change {
    Main(String),
    /// `None` removes it.
    Part(PartName, Option<String>),
    /// An earlier version once more.
    Repeat(u64),
}

/// How a change is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// Only if this is the newest version.
    pub(crate) if_version: Option<u64>,
    pub(crate) is_dry: bool,
    /// To all gateways at once.
    pub(crate) at_once: bool,
    pub(crate) by: String,
}

/// What has come of it.
pub(crate) struct Applied {
    /// `None` for a dry run.
    pub(crate) version: Option<Arc<Version>>,
    pub(crate) checked_by: String,
    /// The newest version says the same already.
    pub(crate) is_unchanged: bool,
    pub(crate) rollout: Option<Progress>,
}

/// What there was before.
#[derive(Default)]
struct Before {
    newest: Option<Arc<Version>>,
    repeated: Option<Arc<Version>>,
    course: Option<Course>,
    /// There is somebody to try it on.
    has_gateways: bool,
}

impl Configs {
    /// # Errors
    ///
    /// `stale`, `config_rejected`, `too_large`, `not_found`, `limit`, `store_unavailable`, `warming`, `bad_request`.
    pub(crate) async fn apply(&self, name: &str, change: Change, terms: Terms) -> Result<Applied, Refused> {
        check_config_name(name)?;
        self.ready().await?;
        let name: Name = name.into();
        self.check_most(&name)?;
        let _turn = self.turn(&name).await?;
        let applied = self.apply_to_newest(&name, &change, &terms).await;
        match &applied {
            Ok(Applied { version: Some(version), is_unchanged: false, .. }) => event!(
                Info,
                "configuration put",
                config = name,
                version = version.number,
                by = terms.by,
                at_once = terms.at_once
            ),
            Err(refused) => event!(
                Warn,
                "configuration refused",
                config = name,
                reason = refused.reason.code(),
                why = refused.problems.first().map_or(&refused.why, |problem| &problem.message),
                by = terms.by
            ),
            Ok(_) => {}
        }
        applied
    }

    /// Where another replica was quicker, the change is made to what came of that.
    async fn apply_to_newest(&self, name: &Name, change: &Change, terms: &Terms) -> Result<Applied, Refused> {
        let mut attempt = 1;
        loop {
            let before = self.before(name, change)?;
            let newest = before.newest.as_ref().map_or(0, |newest| newest.number);
            if terms.if_version.is_some_and(|wanted| wanted != newest) {
                return Err(stale(name, newest));
            }
            match self.apply_in_turn(name, change.clone(), before, terms).await {
                Err(Refused { reason: Reason::Stale, .. }) if attempt < ATTEMPTS => {
                    self.refresh(name).await;
                    attempt += 1;
                }
                applied => return applied,
            }
        }
    }

    async fn apply_in_turn(
        &self,
        name: &Name,
        change: Change,
        before: Before,
        terms: &Terms,
    ) -> Result<Applied, Refused> {
        let newest = before.newest.as_ref().map_or(0, |newest| newest.number);
        let repeats = before.repeated.as_ref().map(|version| version.number);
        let number = newest + 1;
        let documents = documents(name, change, &before)?;
        // A large one takes a while.
        let config = name.clone();
        let checked = tokio::task::spawn_blocking(move || documents.check(&config, number)).await;
        let (documents, own) = checked.unwrap_or_else(|_| {
            Err(Reason::BadRequest.because("reading it failed, see the control plane's log"))
        })?;
        let settings = own.unwrap_or_else(|| self.settings.rollout.clone());
        if !terms.is_dry
            && let Some(same) = before.same(&documents, terms)
        {
            let rollout = self.progress(name).ok();
            let checked_by = rollout.as_ref().map(|rollout| rollout.checked_by.clone()).unwrap_or_default();
            return Ok(Applied { version: Some(same), checked_by, is_unchanged: true, rollout });
        }
        // Whoever puts it does not wait for a gateway for nothing.
        self.store.ready().await?;
        let checked_by = self.check(name, number, &documents, settings.ack_timeout.into()).await?;
        if terms.is_dry {
            return Ok(Applied { version: None, checked_by, is_unchanged: false, rollout: None });
        }
        let version = Arc::new(Version {
            number,
            sha256: documents.sha256(name),
            documents,
            by: terms.by.clone(),
            at: SystemTime::now(),
            repeats,
        });
        let mut course = before.course(number, checked_by.clone(), settings, terms);
        if self.store.others().is_some() {
            // Nobody is to be given what was before meanwhile.
            course = self.with(name, |group| group.begun(&version, course, Instant::now()));
        }
        if terms.at_once {
            let message = "configuration goes to all gateways at once, as it was asked for";
            event!(Warn, message, config = name, version = number, by = terms.by);
        }
        self.store.put(name, version.clone(), course).await?;
        self.refresh(name).await;
        self.look_soon().await;
        let rollout = Some(self.progress(name)?);
        Ok(Applied { version: Some(version), checked_by, is_unchanged: false, rollout })
    }

    fn check_most(&self, name: &Name) -> Result<(), Refused> {
        let groups = self.groups();
        let is_there = |group: &Group| group.configuration.is_some();
        let count = groups.values().filter(|group| is_there(group)).count();
        let most = self.settings.most.get();
        if count >= most && !groups.get(name).is_some_and(is_there) {
            let why = format!("there are {most} configurations already (`control.serve.configs.most`)");
            return Err(Reason::Limit.because(why));
        }
        Ok(())
    }

    /// Who changes it, one at a time.
    pub(super) async fn turn(&self, name: &Name) -> Result<OwnedMutexGuard<()>, Refused> {
        let turn = self.with(name, |group| group.turn.clone());
        tokio::time::timeout(TURN, turn.lock_owned()).await.map_err(|_| {
            Reason::Limit.because(format!("other changes of {name:?} are being checked (ask again)"))
        })
    }

    fn before(&self, name: &Name, change: &Change) -> Result<Before, Refused> {
        self.with(name, |group| {
            let has_gateways = group.gateways.values().any(|gateway| gateway.is_there());
            let Some(known) = &group.configuration else {
                return match change {
                    Change::Main(_) => Ok(Before { has_gateways, ..Before::default() }),
                    Change::Part(..) | Change::Repeat(_) => Err(super::not_found(name)),
                };
            };
            let repeated = match change {
                Change::Repeat(number) => {
                    let repeated = known.versions.get(number).cloned();
                    Some(repeated.ok_or_else(|| {
                        let hint = "`GET .../versions` lists those that are";
                        Reason::NotFound.because(format!("version {number} of {name:?} is not kept ({hint})"))
                    })?)
                }
                _ => None,
            };
            Ok(Before {
                newest: known.versions.get(&known.course.version).cloned(),
                repeated,
                // As it is now: what was kept may be a moment behind.
                course: Some(Course { rollout: known.rollout.kept(), ..known.course.clone() }),
                has_gateways,
            })
        })
    }
}

impl Before {
    /// The newest version, where it says the same and is on its way: nothing would come of another.
    fn same(&self, documents: &Documents, terms: &Terms) -> Option<Arc<Version>> {
        let newest = self.newest.as_ref().filter(|newest| newest.documents == *documents)?;
        let phase = self.course.as_ref()?.rollout.phase;
        let is_useless = phase == Phase::Done || phase != Phase::Aborted && !terms.at_once;
        is_useless.then(|| newest.clone())
    }

    fn course(self, version: u64, checked_by: String, settings: RolloutSettings, terms: &Terms) -> Course {
        let stable = self.course.as_ref().map_or(0, Course::proven);
        let basis = self.course.as_ref().map_or(0, |course| course.basis);
        // Without a version before there is nothing to be kept from those who come.
        let is_first = stable == 0 && !self.has_gateways;
        let (phase, wave) = match terms.at_once || is_first {
            true => (Phase::Done, settings.waves.len().saturating_sub(1)),
            false => (Phase::Rolling, 0),
        };
        let rollout = Kept { phase, wave, members: BTreeSet::new(), why: None };
        Course { version, stable, checked_by, settings, rollout, basis }
    }
}

fn documents(name: &str, change: Change, before: &Before) -> Result<Documents, Refused> {
    let newest = before.newest.as_ref().map(|newest| newest.documents.clone());
    let known = || newest.clone().ok_or_else(|| super::not_found(name));
    match change {
        Change::Main(text) => {
            let parts = newest.map(|newest| newest.parts).unwrap_or_default();
            Ok(Documents { parts, ..Documents::new(text.into()) })
        }
        Change::Part(part, Some(text)) => {
            let mut documents = known()?;
            documents.parts.insert(part, text.into());
            Ok(documents)
        }
        Change::Part(part, None) => {
            let mut documents = known()?;
            match documents.parts.remove(&part) {
                Some(_) => Ok(documents),
                None => {
                    let path = path_of(&part);
                    Err(Reason::NotFound.because(format!(
                        "{name:?} has no part {path:?} (what stands in the main document is changed there)"
                    )))
                }
            }
        }
        Change::Repeat(_) => {
            let repeated = before.repeated.as_ref().ok_or_else(|| super::not_found(name))?;
            Ok(repeated.documents.clone())
        }
    }
}
