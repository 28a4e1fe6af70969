//! What the control plane's API would show to whoever may see everything, for those who look over the admin API of the same
//! process. They change nothing there.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::{runtime::Handle, time::timeout};

use super::{
    configs::{ConfigEntry, ConfigList, ConfigVersion, VersionList},
    gateways::GatewayList,
    services::{Catalog, MOST, Record},
};
use crate::control::{configs::Configs, refused::Refused, registry::Registry};

/// A store that is shared may take its time; whoever looks does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// Its calls are for threads that may wait.
#[derive(Clone)]
pub(crate) struct ShownPlane {
    pub(in crate::control) registry: Arc<Registry>,
    pub(in crate::control) configs: Arc<Configs>,
    pub(in crate::control) address: String,
}

impl ShownPlane {
    pub(crate) fn summary(&self) -> Value {
        let catalog = self.registry.store().names();
        let instances: usize = self.registry.store().states(None).into_values().sum();
        json!({
            "address": self.address,
            "ready": self.registry.check_open().is_ok(),
            "services": catalog.len(),
            "instances": instances,
            "gateways": self.configs.gateways(|_| true).len(),
            "configs": wait(self.configs.names()).map(|names| names.len()),
        })
    }

    pub(crate) fn services(&self) -> Value {
        shown(&Catalog::of(&self.registry, self.registry.position(), |_| true))
    }

    pub(crate) fn instances(&self, name: Option<&str>) -> Value {
        let found = self.registry.store().list(name, None, MOST);
        let records: Vec<Record> =
            found.iter().map(|instance| Record::of(instance, &self.registry)).collect();
        json!({ "instances": shown(&records) })
    }

    pub(crate) fn configs(&self) -> Value {
        let configs = wait(async {
            let mut configs = Vec::new();
            for name in self.configs.names().await? {
                let version = ConfigVersion::of(&*self.configs.version(&name, None).await?);
                configs.push(ConfigEntry::new(&name, version, self.configs.progress(&name)?));
            }
            Ok(configs)
        });
        shown(&ConfigList::of(configs.unwrap_or_default()))
    }

    /// `None`: there is no such configuration.
    pub(crate) fn versions(&self, name: &str) -> Option<Value> {
        let versions = wait(self.configs.versions(name))?;
        let versions = versions.iter().map(|version| ConfigVersion::of(version)).collect();
        Some(shown(&VersionList::of(name, versions)))
    }

    pub(crate) fn rollouts(&self) -> Value {
        let names = wait(self.configs.names()).unwrap_or_default();
        let rollouts = names.iter().filter_map(|name| {
            let mut progress = shown(&self.configs.progress(name).ok()?);
            progress["config"] = name.to_string().into();
            Some(progress)
        });
        rollouts.collect()
    }

    pub(crate) fn gateways(&self) -> Value {
        shown(&GatewayList::of(self.configs.gateways(|_| true)))
    }
}

/// `None` where it is refused, or takes too long.
fn wait<T>(asking: impl Future<Output = Result<T, Refused>>) -> Option<T> {
    Handle::current().block_on(async { timeout(PATIENCE, asking).await }).ok()?.ok()
}

fn shown(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
