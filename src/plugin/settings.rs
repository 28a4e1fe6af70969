//! What an operator says of a plugin, as far as it makes its instances: two plugins with equal settings are one, so that a
//! reload which changes nothing of them keeps them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::config::{self, PluginFail, PluginPhase};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub name: Arc<str>,
    /// Of the module.
    pub sha256: [u8; 32],
    pub vm_config: Arc<[u8]>,
    /// `NAME=value`.
    pub env: Vec<Vec<u8>>,
    pub root_id: Arc<str>,
    pub vm_id: Arc<str>,
    pub instances: usize,
    pub phases: Option<Vec<PluginPhase>>,
    pub pause_headers_only: bool,
    /// Whom it may call: its word, and our name.
    pub upstreams: BTreeMap<String, Arc<str>>,
    pub fail: PluginFail,
    /// Names of labels, and where their values stand in names of metrics.
    pub metric_labels: Vec<(String, String)>,
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    pub memory: usize,
    pub start: Duration,
    pub call: Duration,
    pub pause: Duration,
    pub buffer: usize,
    pub calls: usize,
    pub call_timeout: Duration,
    pub call_body: usize,
    pub shared: usize,
    pub metrics: usize,
    pub log: config::Rate,
}

impl Settings {
    /// `threads` is how many instances there are where nothing is said.
    pub(crate) fn new(name: &str, written: &config::Plugin, sha256: [u8; 32], threads: usize) -> Settings {
        let config::PluginLimits {
            memory,
            start,
            call,
            pause,
            buffer,
            calls,
            call_timeout,
            call_body,
            shared,
            metrics,
            log,
        } = &written.limits;
        let size = |size: config::ByteSize| usize::try_from(size.bytes()).unwrap_or(usize::MAX);
        Settings {
            name: name.into(),
            sha256,
            vm_config: payload(&written.vm_config),
            env: environment(&written.env),
            root_id: written.root_id.as_str().into(),
            vm_id: written.vm_id.as_deref().unwrap_or(name).into(),
            instances: written.instances.map_or(threads, |instances| instances.get()).max(1),
            phases: written.phases.clone(),
            pause_headers_only: written.pause_headers_only,
            upstreams: written.upstreams.pairs().map(|(word, name)| (word.to_owned(), name.into())).collect(),
            fail: written.fail,
            metric_labels: written.metric_labels.clone().into_iter().collect(),
            limits: Limits {
                memory: size(*memory),
                start: start.as_std(),
                call: call.as_std(),
                pause: pause.as_std(),
                buffer: size(*buffer),
                calls: calls.get(),
                call_timeout: call_timeout.as_std(),
                call_body: size(*call_body),
                shared: size(*shared),
                metrics: usize::try_from(metrics.get()).unwrap_or(usize::MAX),
                log: *log,
            },
        }
    }

    /// Whether the callbacks of this phase are wanted.
    pub(crate) fn wants(&self, phase: PluginPhase) -> bool {
        self.phases.as_ref().is_none_or(|phases| phases.contains(&phase))
    }
}

/// What a plugin reads as its configuration: text as it is, anything else as compact JSON, and nothing where nothing is said.
pub(crate) fn payload(written: &serde_json::Value) -> Arc<[u8]> {
    match written {
        serde_json::Value::Null => Arc::default(),
        serde_json::Value::String(text) => text.as_bytes().into(),
        other => other.to_string().into_bytes().into(),
    }
}

fn environment(env: &BTreeMap<String, config::Secret>) -> Vec<Vec<u8>> {
    env.iter().map(|(name, value)| format!("{name}={}", value.expose()).into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::payload;

    #[test]
    fn text_is_a_payload_as_it_is_and_anything_else_is_json() {
        for (written, expected) in [
            (json!(null), ""),
            (json!("text: as it is"), "text: as it is"),
            (json!({"b": [1, true], "a": null}), r#"{"a":null,"b":[1,true]}"#),
            (json!(7), "7"),
        ] {
            assert_eq!(&*payload(&written), expected.as_bytes());
        }
    }
}
