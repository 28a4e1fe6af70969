//! Which filters there are, by their names. A value and no static, so that a gateway of one's own may have more of them:
//! whatever compiles or describes a configuration is given it, and treats them all alike.

use std::{collections::BTreeMap, sync::Arc};

use super::{Filter, Live, Modules, Options, builtin};
use crate::{
    config::{FilterUse, Path, Problem, Redirect, Respond, Sources},
    names::SystemResolver,
    observe::metrics::Metrics,
};

/// By name: the order in the operator's YAML is the order of execution.
#[derive(Clone)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Kind>,
}

/// Reads the options at a path and makes the filter of them.
type Build = fn(&Sources, &Path, &Live) -> Result<Arc<dyn Filter>, Vec<Problem>>;

/// One kind of filter.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub build: Build,
    schema: fn() -> serde_json::Value,
    /// In debug builds only, and not shown.
    is_for_tests: bool,
}

impl Registry {
    /// Those that every gateway has.
    pub fn built_in() -> Registry {
        let mut built_in = Registry { kinds: BTreeMap::new() };
        built_in.add::<builtin::api_key::ApiKeys>("api_key");
        built_in.add::<builtin::authz::Authz>("authz");
        built_in.add::<builtin::basic_auth::BasicAuth>("basic_auth");
        built_in.add::<builtin::body_limit::BodyLimit>("body_limit");
        built_in.add::<builtin::compression::Compression>("compression");
        built_in.add::<builtin::concurrency_limit::ConcurrencyLimit>("concurrency_limit");
        built_in.add::<builtin::cors::Cors>("cors");
        built_in.add::<builtin::ext_auth::ExtAuth>("ext_auth");
        built_in.add::<builtin::fault::Fault>("fault");
        built_in.add::<builtin::grpc_web::GrpcWeb>("grpc_web");
        built_in.add::<builtin::headers::Headers>("headers");
        built_in.add::<builtin::https_redirect::HttpsRedirect>("https_redirect");
        built_in.add::<builtin::introspection::Introspection>("introspection");
        built_in.add::<builtin::ip_rules::IpRules>("ip_rules");
        built_in.add::<builtin::jwt::Jwt>("jwt");
        built_in.add::<builtin::maintenance::Maintenance>("maintenance");
        built_in.add::<builtin::oidc::Oidc>("oidc");
        built_in.add::<builtin::rate_limit::RateLimit>("rate_limit");
        built_in.add::<Redirect>("redirect");
        built_in.add::<builtin::request_id::RequestId>("request_id");
        built_in.add::<Respond>("respond");
        built_in.add::<builtin::rewrite::Rewrite>("rewrite");
        #[cfg(feature = "wasm")]
        built_in.add::<builtin::wasm::Wasm>("wasm");
        #[cfg(debug_assertions)]
        {
            built_in.kinds.insert("hold", Kind::for_tests::<builtin::hold::Hold>());
            built_in.kinds.insert("panic", Kind::for_tests::<builtin::panic::Panic>());
        }
        built_in
    }

    /// # Panics
    ///
    /// The name is taken, or could not be written in a configuration: the gateway would start with another filter than its
    /// operator means.
    #[track_caller]
    pub fn add<O: Options>(&mut self, name: &'static str) {
        assert!(
            is_name(name),
            "filter `{name}` cannot be added: a name is small letters, digits and `_`, and begins with a letter"
        );
        assert!(
            !FilterUse::CONDITIONS.contains(&name),
            "filter `{name}` cannot be added: beside a filter, `{name}` is a condition; choose another name"
        );
        let is_taken = self.kinds.get(name).is_some_and(|kind| !kind.is_for_tests);
        assert!(!is_taken, "filter `{name}` cannot be added: there is one of that name; choose another");
        self.kinds.insert(name, Kind::of::<O>());
    }

    /// What an operator may write.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.shown().map(|(name, _)| name)
    }

    /// The JSON Schema of each filter's options.
    pub fn schemas(&self) -> BTreeMap<String, serde_json::Value> {
        self.shown().map(|(name, kind)| (name.to_owned(), (kind.schema)())).collect()
    }

    /// For building filters that will never run.
    pub fn offline(self: &Arc<Self>) -> Live {
        self.without_traffic(Modules::Unread)
    }

    /// The same where all is to be found out that would hinder them.
    pub(crate) fn trial(self: &Arc<Self>) -> Live {
        self.without_traffic(Modules::TriedOut)
    }

    fn without_traffic(self: &Arc<Self>, modules: Modules) -> Live {
        let (metrics, names) = (Arc::new(Metrics::new("")), Arc::new(SystemResolver::new()));
        Live::new(self.clone(), metrics, names).with_modules(modules)
    }

    pub(super) fn find(&self, name: &str) -> Option<(&'static str, Kind)> {
        self.kinds.get_key_value(name).map(|(name, kind)| (*name, *kind))
    }

    fn shown(&self) -> impl Iterator<Item = (&'static str, &Kind)> {
        self.kinds.iter().filter(|(_, kind)| !kind.is_for_tests).map(|(name, kind)| (*name, kind))
    }
}

impl Kind {
    fn of<O: Options>() -> Kind {
        Kind { build: build::<O>, schema: schema::<O>, is_for_tests: false }
    }

    #[cfg(debug_assertions)]
    fn for_tests<O: Options>() -> Kind {
        Kind { is_for_tests: true, ..Kind::of::<O>() }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn build<O: Options>(sources: &Sources, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Problem>> {
    let options: O = sources.read(at)?;
    let live = live.beside(sources.directory_of(at));
    options.build(at, &live).map_err(|invalid| {
        let told = invalid.into_iter().filter(|invalid| !sources.is_doubtful(&invalid.path));
        told.map(|invalid| sources.problem(&invalid.path, invalid.message)).collect()
    })
}

fn schema<O: Options>() -> serde_json::Value {
    schemars::schema_for!(O).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_filter_is_named_and_described_beside_the_others() {
        let mut registry = Registry::built_in();
        let before = registry.names().count();
        registry.add::<Respond>("another");
        assert_eq!(registry.names().count(), before + 1);
        assert_eq!(registry.schemas()["another"], registry.schemas()["respond"]);
    }

    #[test]
    fn names_that_no_configuration_could_mean_are_refused_with_why() {
        let cases = [
            ("cors", "there is one of that name"),
            ("when", "is a condition"),
            ("Shadow", "small letters"),
            ("", "small letters"),
            ("1st", "small letters"),
        ];
        for (name, why) in cases {
            let added = std::panic::catch_unwind(|| Registry::built_in().add::<Respond>(name));
            let said = added.unwrap_err().downcast::<String>().unwrap();
            assert!(said.contains(why) && said.contains(&format!("`{name}`")), "{said}");
        }
    }

    #[test]
    fn the_filters_of_debug_builds_neither_show_nor_keep_a_name_from_others() {
        let mut registry = Registry::built_in();
        assert!(registry.names().all(|name| name != "hold" && name != "panic"));
        registry.add::<Respond>("hold");
        assert!(registry.names().any(|name| name == "hold"));
    }
}
