//! Plugins: filters that exist as WebAssembly, written for the ABI of proxy-wasm.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::config::model::units::{ByteSize, HumanDuration, Rate, Secret};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// The module. It is read again on each reload.
    pub file: PathBuf,
    /// What the file's SHA-256 must be, in hexadecimal digits. Default: any.
    #[serde(default)]
    pub sha256: Option<String>,
    /// What the plugin is configured with: text as it is, anything else as JSON. Default: nothing.
    #[serde(default)]
    pub config: Value,
    /// The same for its virtual machine.
    #[serde(default)]
    pub vm_config: Value,
    /// All of the environment that it sees.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    /// Under which filters of several in one module register.
    #[serde(default)]
    pub root_id: String,
    /// To whom shared data and queues belong. Default: the plugin's name, so that nobody shares by accident.
    #[serde(default)]
    pub vm_id: Option<String>,
    /// Whom it may call: the plugin's words, each with the upstream that it stands for; or a list where they are the same. Default: nobody.
    #[serde(default)]
    pub upstreams: PluginUpstreams,
    /// The callbacks that are made. Default: all that the module exports.
    #[serde(default)]
    pub phases: Option<Vec<PluginPhase>>,
    /// `true`: a plugin that pauses in the request's headers holds them, and goes on to the body.
    #[serde(default)]
    pub pause_headers_only: bool,
    /// How many there are of it, each with memory of its own. Default: as many as `threads`.
    #[serde(default)]
    pub instances: Option<NonZeroUsize>,
    /// `true`: it runs, for its ticks and queues, although no filter names it.
    #[serde(default)]
    pub background: bool,
    /// What becomes of requests while the plugin fails.
    #[serde(default)]
    pub fail: PluginFail,
    /// Labels that are cut out of the names of its metrics, by regular expressions whose first group is the value.
    #[serde(default)]
    pub metric_labels: BTreeMap<String, String>,
    /// What the plugin may take.
    #[serde(default)]
    pub limits: PluginLimits,
}

/// A callback of a plugin, or several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PluginPhase {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
}

/// What becomes of a request when its plugin fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PluginFail {
    /// 503 with the reason `plugin_error`.
    #[default]
    Closed,
    /// It goes on without the plugin.
    Open,
}

/// What a plugin may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PluginLimits {
    /// Memory of each instance.
    pub memory: ByteSize,
    /// CPU time in which an instance must have started and taken its configuration.
    pub start: HumanDuration,
    /// CPU time of one callback.
    pub call: HumanDuration,
    /// How long a request may stay paused.
    pub pause: HumanDuration,
    /// How much of a body is held back for it, each way. The listener's `filter_buffer` holds as well.
    pub buffer: ByteSize,
    /// Calls of each instance that may be under way.
    pub calls: NonZeroUsize,
    /// The most that a call may take; also where the plugin names no time.
    pub call_timeout: HumanDuration,
    /// Of the answer to a call.
    pub call_body: ByteSize,
    /// Shared data and queues of its `vm_id`.
    pub shared: ByteSize,
    /// Metrics that it may define.
    pub metrics: NonZeroU64,
    /// Log lines; the rest is counted.
    pub log: Rate,
}

impl Default for PluginLimits {
    fn default() -> Self {
        let some = |count| NonZeroU64::new(count).expect("it is not 0");
        PluginLimits {
            memory: ByteSize::mib(128),
            start: HumanDuration::from_secs(10),
            call: HumanDuration::from_millis(100),
            pause: HumanDuration::from_secs(30),
            buffer: ByteSize::mib(1),
            calls: NonZeroUsize::new(64).expect("it is not 0"),
            call_timeout: HumanDuration::from_secs(30),
            call_body: ByteSize::mib(1),
            shared: ByteSize::mib(16),
            metrics: some(1000),
            log: Rate::per_second_of(some(100)),
        }
    }
}

/// Words of a plugin, and the upstreams that they stand for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PluginUpstreams {
    Names(Vec<String>),
    Words(BTreeMap<String, String>),
}

impl Default for PluginUpstreams {
    fn default() -> Self {
        PluginUpstreams::Names(Vec::new())
    }
}

impl PluginUpstreams {
    /// The word, and the name of the upstream.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let (names, words) = match self {
            PluginUpstreams::Names(names) => (Some(names), None),
            PluginUpstreams::Words(words) => (None, Some(words)),
        };
        let names = names.into_iter().flatten().map(|name| (name.as_str(), name.as_str()));
        names.chain(words.into_iter().flatten().map(|(word, name)| (word.as_str(), name.as_str())))
    }
}

impl<'de> Deserialize<'de> for PluginUpstreams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PluginUpstreams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of upstreams, or a map such as `{httpbin: auth}`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PluginUpstreams, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(PluginUpstreams::Names(names))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PluginUpstreams, A::Error> {
                let mut words = BTreeMap::new();
                while let Some((word, name)) = map.next_entry()? {
                    words.insert(word, name);
                }
                Ok(PluginUpstreams::Words(words))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for PluginUpstreams {
    fn schema_name() -> Cow<'static, str> {
        "PluginUpstreams".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names = generator.subschema_for::<Vec<String>>();
        let words = generator.subschema_for::<BTreeMap<String, String>>();
        let description = "Upstreams that a plugin may call: a list, or its own words for them.";
        json_schema!({"description": description, "anyOf": [names, words]})
    }
}
