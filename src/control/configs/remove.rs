//! A whole configuration is taken away. Gateways keep what they have in force: nothing that happens here takes it from them.

use super::{
    ATTEMPTS, Configs,
    document::check_config_name,
    versions::{Name, stale},
};
use crate::{
    control::refused::{Reason, Refused},
    observe::log::event,
};

/// How it is removed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removal {
    /// Only if this is the newest version.
    pub(crate) if_version: Option<u64>,
    /// Also where gateways follow it.
    pub(crate) is_forced: bool,
    pub(crate) by: String,
}

impl Configs {
    /// # Errors
    ///
    /// `not_found`, `stale`, `conflict`: gateways follow it; `store_unavailable`, `warming`.
    pub(crate) async fn remove(&self, name: &str, removal: Removal) -> Result<(), Refused> {
        check_config_name(name)?;
        self.ready().await?;
        let name: Name = name.into();
        let _turn = self.turn(&name).await?;
        for attempt in 1.. {
            match self.remove_once(&name, &removal).await {
                Err(Refused { reason: Reason::Stale, .. })
                    if attempt < ATTEMPTS && removal.if_version.is_none() =>
                {
                    self.refresh(&name).await;
                }
                removed => {
                    removed?;
                    break;
                }
            }
        }
        self.refresh(&name).await;
        event!(Warn, "configuration removed", config = name, by = removal.by, forced = removal.is_forced);
        Ok(())
    }

    async fn remove_once(&self, name: &Name, removal: &Removal) -> Result<(), Refused> {
        let course = {
            let groups = self.groups();
            let group = groups.get(name);
            let known = group.and_then(|group| group.configuration.as_ref());
            let (Some(group), Some(known)) = (group, known) else { return Err(super::not_found(name)) };
            if removal.if_version.is_some_and(|wanted| wanted != known.course.version) {
                return Err(stale(name, known.course.version));
            }
            let following: Vec<_> = group.order();
            if let Some(first) = following.first().filter(|_| !removal.is_forced) {
                let (count, hint) =
                    (following.len(), "`?force` removes it, and they keep what they have in force");
                return Err(Reason::Conflict
                    .because(format!("{count} gateways follow {name:?}, such as {first:?} ({hint})")));
            }
            known.course.clone()
        };
        self.store.remove(name, course).await
    }
}
