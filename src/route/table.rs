//! The compiled table. A lookup goes from the most specific host that has rules to the least, and in each through its
//! [`PathIndex`]; the first rule that holds in full wins. Only rules that share one host *and* one path pattern are
//! tried one after another, so that is the one number that cost grows with.

use std::{cmp::Reverse, collections::HashMap, ops::ControlFlow};

use http::Method;

use super::{
    HostPattern, Outcome, Params, Request, Rule, host,
    index::{PathIndex, Slot},
    pattern,
};

/// Rules, ready to be looked up. Immutable; share it behind an `Arc`.
#[derive(Debug, Default)]
pub struct Table {
    /// In file order.
    pub(super) rules: Vec<Rule>,
    // Keyed by SipHash, since clients choose host names.
    exact_hosts: HashMap<Box<str>, PathIndex>,
    /// By what follows `*.`.
    wildcard_hosts: HashMap<Box<str>, PathIndex>,
    /// Labels of the longest suffix: a name made of hundreds of labels costs no more than one made of these.
    wildcard_labels: usize,
    any_host: PathIndex,
}

/// A rule that can never match: whenever it would, another wins. Both are the callers' ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    pub rule: usize,
    pub by: usize,
    /// The first of the rule's hosts for which this is so; none when both are for any host.
    pub host: Option<HostPattern>,
}

impl Table {
    /// Compiles rules in file order. Refuses each rule that, for one of its hosts, asks for the same path as another
    /// one that goes first and asks for no more: the same methods or more of them, and predicates that hold wherever
    /// the rule's own do. Names in templates make no difference.
    pub fn compile(rules: Vec<Rule>) -> Result<Table, Vec<Shadowed>> {
        let rules = rules.into_iter().flat_map(|mut rule| match rule.any.is_empty() {
            true => vec![rule],
            false => std::mem::take(&mut rule.any),
        });
        let mut table = Table { rules: rules.collect(), ..Table::default() };
        for at in 0..table.rules.len() {
            table.insert(at);
        }
        let Table { rules, exact_hosts, wildcard_hosts, any_host, .. } = &mut table;
        let hosts = exact_hosts.values_mut().chain(wildcard_hosts.values_mut()).chain([any_host]);
        let mut shadowed = Vec::new();
        for index in hosts {
            index.seal();
            for slot in index.slots_mut() {
                slot.rules.sort_by_key(|at| precedence(&rules[*at as usize], *at));
                shadowed.extend(find_shadowed(slot, rules));
            }
        }
        // Of one rule's alternatives one may take what another would.
        shadowed.retain(|(rule, by)| table.rules[*rule as usize].id != table.rules[*by as usize].id);
        if shadowed.is_empty() { Ok(table) } else { Err(table.name_shadowed(shadowed)) }
    }

    /// The rule that a request takes. Of those that hold in full, in this order: the most specific host (exact,
    /// then the longest wildcard, then none); the most specific path (exact, then template, where literals go
    /// before captures from left to right, then regex in file order, then the longest prefix); a named method;
    /// more header predicates; more query predicates; more that is left out; file order.
    ///
    /// A rule that names GET takes HEAD too, after those for the same host and path that name HEAD. Regexes that
    /// are written the same are one pattern and stand where the first of them does.
    pub fn find(&self, request: &Request<'_>) -> Outcome {
        let mut found = None;
        let mut is_method_missed = false;
        let _ = self.visit(request, &mut |slot| {
            for rule in self.in_order(slot, request.method) {
                if !rule.accepts_the_rest(request) {
                    continue;
                }
                if rule.accepts_method(request.method) {
                    found = Some(rule);
                    return ControlFlow::Break(());
                }
                is_method_missed = true;
            }
            ControlFlow::Continue(())
        });
        match found {
            Some(rule) => Outcome::Found { id: rule.id, params: params(rule) },
            None if is_method_missed => Outcome::MethodNotAllowed { allow: self.allowed(request) },
            None => Outcome::NotFound,
        }
    }

    /// Shows every slot whose host and path match, in order of precedence.
    pub(super) fn visit(
        &self,
        request: &Request<'_>,
        visit: &mut dyn FnMut(&Slot) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let path = request.path;
        if !request.host.is_empty() && request.host.len() <= host::LONGEST + 1 {
            let host = &*host::canonical(request.host);
            if let Some(index) = self.exact_hosts.get(host) {
                index.visit(path, visit)?;
            }
            for suffix in self.suffixes(host) {
                if let Some(index) = self.wildcard_hosts.get(suffix) {
                    index.visit(path, visit)?;
                }
            }
        }
        self.any_host.visit(path, visit)
    }

    /// The rules of a slot in the order in which they win.
    pub(super) fn in_order<'t>(&'t self, slot: &Slot, method: &Method) -> impl Iterator<Item = &'t Rule> {
        let head_first = slot.names_head && method == Method::HEAD;
        let rules = || slot.rules.iter().map(|at| &self.rules[*at as usize]);
        let goes_first = move |rule: &&Rule| head_first && rule.methods.contains(&Method::HEAD);
        let first = head_first.then(rules).into_iter().flatten().filter(goes_first);
        first.chain(rules().filter(move |rule| !goes_first(rule)))
    }

    /// What follows each dot of `host`, longest first, leaving out what is longer than every wildcard.
    fn suffixes<'h>(&self, host: &'h str) -> impl Iterator<Item = &'h str> {
        let most = self.wildcard_labels;
        let dots = if most == 0 { 0 } else { memchr::memchr_iter(b'.', host.as_bytes()).count() };
        memchr::memchr_iter(b'.', host.as_bytes())
            .take(dots)
            .skip(dots.saturating_sub(most))
            .filter(|dot| *dot > 0)
            .map(|dot| &host[dot + 1..])
    }

    fn allowed(&self, request: &Request<'_>) -> Vec<Method> {
        let mut allow = Vec::new();
        let _ = self.visit(request, &mut |slot| {
            let rules = self.in_order(slot, request.method);
            for rule in rules.filter(|rule| rule.accepts_the_rest(request)) {
                // Any method but the one that is refused.
                let all = rule.methods.is_empty();
                allow.extend_from_slice(if all { &USUAL[..] } else { &rule.methods });
            }
            ControlFlow::Continue(())
        });
        if allow.contains(&Method::GET) {
            allow.push(Method::HEAD);
        }
        allow.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        allow.dedup();
        allow
    }

    fn insert(&mut self, at: usize) {
        let rule = &self.rules[at];
        let names_head = rule.methods.contains(&Method::HEAD);
        let add = |index: &mut PathIndex| {
            let slot = index.slot(&rule.path);
            slot.names_head |= names_head;
            // A host that a rule names twice counts once.
            if slot.rules.last() != Some(&(at as u32)) {
                slot.rules.push(at as u32);
            }
        };
        for host in &rule.hosts {
            match &host.0 {
                host::Kind::Exact(name) => add(self.exact_hosts.entry(name.clone()).or_default()),
                host::Kind::Below(suffix) => {
                    self.wildcard_labels = self.wildcard_labels.max(suffix.split('.').count());
                    add(self.wildcard_hosts.entry(suffix.clone()).or_default());
                }
            }
        }
        if rule.hosts.is_empty() {
            add(&mut self.any_host);
        }
    }

    /// One finding per rule, in file order, with the host it is about.
    fn name_shadowed(&self, mut pairs: Vec<(u32, u32)>) -> Vec<Shadowed> {
        pairs.sort_unstable();
        pairs.dedup_by_key(|(rule, _)| *rule);
        let rules =
            pairs.into_iter().map(|(rule, by)| (&self.rules[rule as usize], &self.rules[by as usize]));
        rules
            .map(|(rule, by)| Shadowed {
                rule: rule.id,
                by: by.id,
                host: rule.hosts.iter().find(|host| by.hosts.contains(host)).cloned(),
            })
            .collect()
    }
}

/// What `Allow` says of a rule that takes any method, as far as they can be listed.
static USUAL: [Method; 7] =
    [Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS, Method::PATCH, Method::POST, Method::PUT];

fn params(rule: &Rule) -> Params {
    match &rule.path.0 {
        pattern::Kind::Template(template) => Params::of(template),
        _ => Params::default(),
    }
}

/// Sorts the rules of one host and one path pattern: lowest wins.
fn precedence(rule: &Rule, at: u32) -> (bool, [Reverse<usize>; 3], u32) {
    let asked = [rule.headers.len(), rule.query.len(), rule.not.len()];
    (rule.methods.is_empty(), asked.map(Reverse), at)
}

/// Pairs of a rule of a sorted slot that never wins and the one that always does.
fn find_shadowed(slot: &Slot, rules: &[Rule]) -> Vec<(u32, u32)> {
    let rule = |at: &u32| &rules[*at as usize];
    let by =
        |place: usize, at: &u32| slot.rules[..place].iter().find(|by| covers(rule(by), rule(at))).copied();
    slot.rules.iter().enumerate().filter_map(|(place, at)| Some((*at, by(place, at)?))).collect()
}

/// Whether `first`, which has precedence, matches wherever `second` does on the same host and path.
fn covers(first: &Rule, second: &Rule) -> bool {
    let same_methods = match first.methods.is_empty() {
        true => second.methods.is_empty(),
        false => !second.methods.is_empty() && second.methods.iter().all(|m| first.methods.contains(m)),
    };
    same_methods
        // What it leaves out may be all that the other takes.
        && first.not.is_empty()
        && first.headers.iter().all(|a| second.headers.iter().any(|b| a.covers(b)))
        && first.query.iter().all(|a| second.query.iter().any(|b| a.covers(b)))
}
