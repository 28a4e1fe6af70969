//! Plugins: read, compiled and checked before the filters that name them are built.

use super::Compiler;
use crate::{
    config::{self, Path},
    filter,
};

impl Compiler<'_> {
    /// For the filters, with the plugins that they may name.
    #[cfg(feature = "wasm")]
    pub(super) fn plugins(&mut self) -> filter::Live {
        use std::sync::Arc;

        use crate::{filter::Modules, plugin};

        let mut table = plugin::Table::default();
        let threads = self.config.threads.or(std::thread::available_parallelism().ok());
        let threads = threads.map_or(1, |threads| threads.get());
        let beside = self.sources.directory_of(&Path::root().key("state_dir"));
        let state_dir = self.config.state_dir.as_ref().map(|directory| beside.join(directory));
        for (name, written) in &self.config.plugins {
            let at = Path::root().key("plugins").key(name);
            let is_sound = self.limits_of_plugin(written, &at);
            let mut entry = None;
            if is_sound && self.live.modules() != Modules::Unread {
                let file = self.sources.full_path(&at.key("file"), &written.file);
                let is_trial = self.live.modules() == Modules::TriedOut;
                let (host, metrics) = (self.live.plugin_host(), self.live.metrics());
                let sought = plugin::Sought { file, state_dir: state_dir.as_deref(), threads, is_trial };
                match host.load(name, written, sought, metrics) {
                    Ok(loaded) => entry = Some(loaded),
                    Err(plugin::Refused { key, message, hint }) => {
                        let problem = self.sources.problem(&at.key(key), message);
                        self.problems.push(match hint {
                            Some(hint) => problem.hint(hint),
                            None => problem,
                        });
                    }
                }
            }
            table.add(name, entry);
        }
        // They exist, whatever is wrong with them.
        for name in self.sources.left_out(&Path::root().key("plugins")) {
            table.add(name, None);
        }
        self.live.with_plugins(Arc::new(table))
    }

    /// Those that no filter names: they run by themselves, or not at all.
    #[cfg(feature = "wasm")]
    pub(super) fn plugins_without_filters(&mut self) {
        let plugins = self.live_with_plugins.plugins().clone();
        for (name, entry) in plugins.entries().filter(|(_, entry)| !entry.is_used()) {
            let at = Path::root().key("plugins").key(name);
            if self.config.plugins.get(name).is_some_and(|plugin| plugin.background) {
                if let Err(why) = entry.open(None) {
                    self.refuse(&at, format!("plugin `{name}` does not start: {why}"));
                }
                continue;
            }
            let hint =
                format!("name it in a chain: `- wasm: {name}`; or let it run by itself: `background: true`");
            self.warn("unused_plugin", &at, format!("no filter uses plugin `{name}`"), hint);
        }
    }

    #[cfg(not(feature = "wasm"))]
    pub(super) fn plugins(&mut self) -> filter::Live {
        let config = self.config;
        for (name, written) in &config.plugins {
            let at = Path::root().key("plugins").key(name);
            self.limits_of_plugin(written, &at);
            let hint = "use a gateway that was built with its default features";
            self.refuse_with_hint(&at, "this gateway was built without plugins", hint);
        }
        self.live.clone()
    }

    #[cfg(not(feature = "wasm"))]
    pub(super) fn plugins_without_filters(&mut self) {}

    /// False where something is wrong with them.
    fn limits_of_plugin(&mut self, written: &config::Plugin, at: &Path) -> bool {
        let before = self.problems.len();
        let limits = at.key("limits");
        let config::PluginLimits { memory, start, call, pause, buffer, call_timeout, .. } = &written.limits;
        for (key, time) in
            [("start", start), ("call", call), ("pause", pause), ("call_timeout", call_timeout)]
        {
            self.refuse_zero(&limits.key(key), *time);
        }
        for (key, size) in [("memory", memory), ("buffer", buffer)] {
            if size.bytes() == 0 {
                self.refuse(&limits.key(key), "nothing works with a size of 0");
            }
        }
        if memory.bytes() > MOST_MEMORY {
            self.refuse(&limits.key("memory"), "an instance cannot have more than 4GiB");
        }
        for (word, upstream) in written.upstreams.pairs() {
            let at = match &written.upstreams {
                config::PluginUpstreams::Words(_) => at.key("upstreams").key(word),
                config::PluginUpstreams::Names(_) => at.key("upstreams"),
            };
            self.upstream_exists("the plugin", upstream, &at);
        }
        for (label, regex) in &written.metric_labels {
            let at = at.key("metric_labels").key(label);
            match regex::Regex::new(regex) {
                Ok(regex) if regex.captures_len() == 2 => {}
                Ok(_) => self.refuse(
                    &at,
                    "exactly one group must say what the label's value is (try \"_value=([a-z]+)\")",
                ),
                Err(error) => self.refuse(&at, format!("this is no regular expression: {error}")),
            }
            let is_name = !label.starts_with(|c: char| c.is_ascii_digit())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !is_name || label.is_empty() || label == "plugin" || label == "le" {
                self.refuse(&at, format!("`{label}` cannot be the name of a label here"));
            }
        }
        if written.instances.is_some_and(|instances| instances.get() > MOST_INSTANCES) {
            self.refuse(&at.key("instances"), format!("more than {MOST_INSTANCES} instances help nobody"));
        }
        if written.phases.as_ref().is_some_and(Vec::is_empty) {
            let hint = "leave it out for all that the module exports";
            self.refuse_with_hint(&at.key("phases"), "without a phase the plugin does nothing", hint);
        }
        self.problems.len() == before
    }
}

/// What 32 bits reach.
const MOST_MEMORY: u64 = 4 << 30;
const MOST_INSTANCES: usize = 1024;
