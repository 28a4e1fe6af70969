//! What a filter counts or judges by, and no filter before it finds out: the user of `rate_limit: {key: user}`, the claims of a token.
//! It would be empty for everybody, so that all the world has one count, or nobody is let in.

use std::collections::HashSet;

use serde_json::Value;

use super::{Compiler, serving::Serving};
use crate::config::{FilterUse, Path, Protocol, Segment};

/// Chains may not name chains that name them, so this is never met.
const DEEPEST: usize = 8;

/// What requests have been found to have, up to a filter.
#[derive(Clone, Copy, Default)]
struct Known {
    claims: bool,
    user: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Need {
    Claims,
    User,
}

/// Where something is needed, and whether it is only once all filters have seen the request.
struct Wanting {
    at: Path,
    need: Need,
    is_late: bool,
}

impl Compiler<'_> {
    pub(super) fn unproven(&mut self, serving: &Serving) {
        let mut told = HashSet::new();
        for (index, listener) in self.config.listeners.iter().enumerate() {
            if listener.protocol == Protocol::Http {
                let at = self.generated.listener_place(index).key("filters");
                self.look(&listener.filters, &at, Known::default(), None, &mut told);
            }
        }
        for (id, route) in self.config.routes.iter().enumerate() {
            let redirect = route.redirect.as_ref().filter(|redirect| has_claim(redirect.target()));
            let variants = || route.split.iter().flat_map(|split| split.to.iter().enumerate());
            let filters_variants = variants().any(|(_, variant)| !variant.filters.is_empty());
            if route.filters.is_empty() && redirect.is_none() && !filters_variants {
                continue;
            }
            let before = serving.listeners(id).map(|index| &self.config.listeners[index]);
            // One listener that finds it out is enough: another may serve those who need not say it.
            let before = before
                .fold(Known::default(), |known, listener| self.known_after(&listener.filters, known, 0));
            let at = self.generated.route_place(id);
            let redirect = redirect.map(|_| at.key("redirect"));
            self.look(&route.filters, &at.key("filters"), before, redirect, &mut told);
            let after = self.known_after(&route.filters, before, 0);
            for (index, variant) in variants() {
                let at = at.key("split").key("to").index(index).key("filters");
                self.look(&variant.filters, &at, after, None, &mut told);
            }
        }
    }

    /// `last` is a redirect behind the chain that needs a claim.
    fn look(
        &mut self,
        uses: &[FilterUse],
        at: &Path,
        before: Known,
        last: Option<Path>,
        told: &mut HashSet<Path>,
    ) {
        let mut wanting = Vec::new();
        let after = self.walk(uses, at, before, 0, &mut wanting);
        // What a listener's filters put in later may be found out by those of a route.
        let is_listener = at.segments().first() == Some(&Segment::Key("listeners".to_owned()));
        let later = if is_listener && wanting.iter().any(|wanting| wanting.is_late) {
            self.known_by_routes()
        } else {
            Known::default()
        };
        wanting.retain(|wanting| !wanting.is_late || !after.has(wanting.need) && !later.has(wanting.need));
        if let Some(at) = last.filter(|_| !after.claims) {
            wanting.push(Wanting { at, need: Need::Claims, is_late: true });
        }
        for Wanting { at, need, .. } in wanting {
            if self.sources.is_doubtful(&at) || !told.insert(at.clone()) {
                continue;
            }
            match need {
                Need::Claims => self.refuse_with_hint(
                    &at,
                    "no filter before it reads a token, so that there are no claims",
                    "put a `jwt` filter before it",
                ),
                Need::User => self.refuse_with_hint(
                    &at,
                    "no filter before it says who that is, so that everybody would be one user",
                    "put `api_key` or `basic_auth` before it, or count by `client_ip` or `{claim: sub}`",
                ),
            }
        }
    }

    fn known_by_routes(&self) -> Known {
        let routes = self.config.routes.iter();
        routes.fold(Known::default(), |known, route| self.known_after(&route.filters, known, 0))
    }

    fn known_after(&self, uses: &[FilterUse], known: Known, depth: usize) -> Known {
        self.walk(uses, &Path::root(), known, depth, &mut Vec::new())
    }

    fn walk(
        &self,
        uses: &[FilterUse],
        at: &Path,
        before: Known,
        depth: usize,
        wanting: &mut Vec<Wanting>,
    ) -> Known {
        let mut known = before;
        for (index, each) in uses.iter().enumerate() {
            match each {
                FilterUse::Named(name) if depth < DEEPEST => {
                    let chain = self.config.filters.get(name).map(Vec::as_slice).unwrap_or_default();
                    let at = Path::root().key("filters").key(name);
                    known = self.walk(chain, &at, known, depth + 1, wanting);
                }
                FilterUse::Named(_) => {}
                FilterUse::Inline(entry) => {
                    for (name, options) in entry.values() {
                        if FilterUse::CONDITIONS.contains(&name) {
                            continue;
                        }
                        let found = needs(name, &options, &at.index(index).key(name));
                        wanting.extend(found.into_iter().filter(|wanting| !known.has(wanting.need)));
                        known = known.after(name);
                    }
                }
            }
        }
        known
    }
}

impl Known {
    fn after(self, filter: &str) -> Known {
        match filter {
            "introspection" | "jwt" | "oidc" => Known { claims: true, ..self },
            "api_key" | "basic_auth" => Known { user: true, ..self },
            "authz" | "body_limit" | "compression" | "concurrency_limit" | "cors" | "ext_auth" | "fault"
            | "grpc_web" | "headers" | "https_redirect" | "ip_rules" | "maintenance" | "rate_limit"
            | "redirect" | "request_id" | "respond" | "rewrite" | "wasm" | "hold" | "panic" => self,
            // What a filter of one's own finds out is not known here.
            _ => Known { claims: true, user: true },
        }
    }

    fn has(self, need: Need) -> bool {
        match need {
            Need::Claims => self.claims,
            Need::User => self.user,
        }
    }
}

fn needs(filter: &str, options: &Value, at: &Path) -> Vec<Wanting> {
    let wanting = |at: Path, need, is_late| Wanting { at, need, is_late };
    match filter {
        "rate_limit" | "concurrency_limit" => {
            let mut parts: Vec<(Path, &Value)> = match (at.key("key"), options.get("key")) {
                (at, Some(Value::Array(parts))) => {
                    parts.iter().enumerate().map(|(index, part)| (at.index(index), part)).collect()
                }
                (at, Some(part)) => vec![(at, part)],
                (_, None) => Vec::new(),
            };
            let by = options.get("rate").and_then(|rate| rate.get("by"));
            parts.extend(by.map(|by| (at.key("rate").key("by"), by)));
            let need = |part: &Value| match part {
                Value::String(word) if word == "user" => Some(Need::User),
                Value::String(text) if has_claim(text) => Some(Need::Claims),
                Value::Object(of) if of.contains_key("claim") => Some(Need::Claims),
                _ => None,
            };
            parts.into_iter().filter_map(|(at, part)| Some(wanting(at, need(part)?, false))).collect()
        }
        "authz" => {
            let rules = ["allow", "deny"].into_iter().flat_map(|key| {
                let rules = options.get(key).and_then(Value::as_array).into_iter().flatten();
                rules.enumerate().map(move |(index, rule)| (key, index, rule))
            });
            let by_claims = rules.filter(|(_, _, rule)| rule.get("claims").is_some());
            by_claims
                .map(|(key, index, _)| wanting(at.key(key).index(index).key("claims"), Need::Claims, false))
                .collect()
        }
        // They are filled in when the request goes on, behind all filters.
        "headers" | "rewrite" => {
            let mut found = Vec::new();
            texts(options, at, &mut |at, text| {
                if has_claim(text) {
                    found.push(wanting(at.clone(), Need::Claims, true));
                }
            });
            found
        }
        "redirect" => {
            let to = options.get("to").or(Some(options)).and_then(Value::as_str);
            to.filter(|to| has_claim(to))
                .map(|_| wanting(at.clone(), Need::Claims, false))
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}

fn has_claim(text: &str) -> bool {
    text.replace("{{", "").contains("{claim.")
}

fn texts(value: &Value, at: &Path, take: &mut dyn FnMut(&Path, &str)) {
    match value {
        Value::String(text) => take(at, text),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| texts(item, &at.index(index), take))
        }
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| texts(value, &at.key(key.as_str()), take))
        }
        _ => {}
    }
}
