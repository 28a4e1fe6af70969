//! Stage 2: which route a request takes.
//!
//! Pure and compiled: rules go in once, are parsed into patterns that cannot be wrong, and become a [`Table`]
//! whose lookups cost the same for ten routes and for ten thousand. It knows neither the configuration nor the
//! proxy: a rule carries the caller's `id` and a match gives it back.
//!
//! [`Table::find`] states the order in which rules win. Paths must have been through [`normalise`],
//! and what was normalised is what must be forwarded, or a route's filters could be bypassed.

mod example;
mod explain;
mod host;
mod index;
mod path;
mod pattern;
mod predicate;
#[cfg(test)]
mod reference;
mod table;
mod template;
mod tree;

use http::{HeaderMap, Method};

pub use self::{
    explain::{Candidate, Miss, Precedence, Verdict},
    host::HostPattern,
    path::{PathError, has_encoded_slash, normalise, normalise_made},
    pattern::{PathPattern, PatternError},
    predicate::{HeaderPredicate, QueryPredicate, ValuePredicate},
    table::{Shadowed, Table},
    template::Params,
};

/// What a request must look like to take one route. All parts must hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The caller's own number, given back by [`Outcome::Found`]. Rank comes from the place in the list, not from it.
    pub id: usize,
    /// Any of these; none means any host.
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    /// Any of these; none means any method but TRACE, which has a server show what it was sent, secrets of ours included.
    /// Naming GET includes HEAD, but a rule that names HEAD goes first.
    pub methods: Vec<Method>,
    pub headers: Vec<HeaderPredicate>,
    pub query: Vec<QueryPredicate>,
    /// None of these may hold.
    pub not: Vec<Rule>,
    /// With any, the rule is nothing but these: one of them must hold, each with all parts of its own. They have none themselves.
    pub any: Vec<Rule>,
}

/// The parts of a request that routes look at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// Without the port; in any case, with or without a trailing dot; empty when there is none.
    pub host: &'r str,
    /// As [`normalise`] returned it.
    pub path: &'r str,
    /// Without the question mark, as received.
    pub query: Option<&'r str>,
    pub method: &'r Method,
    pub headers: &'r HeaderMap,
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub enum Outcome {
    Found {
        id: usize,
        params: Params,
    },
    /// Rules match but for the method: 405.
    MethodNotAllowed {
        /// Sorted and without duplicates; HEAD is listed wherever GET is.
        allow: Vec<Method>,
    },
    NotFound,
}

impl Rule {
    /// Whether all parts hold, for a rule that stands alone. [`Table`] does not ask rule by rule.
    pub fn matches(&self, request: &Request<'_>) -> bool {
        self.holds(request, &Rule::accepts_method)
    }

    fn holds(&self, request: &Request<'_>, accepts: &dyn Fn(&Rule, &Method) -> bool) -> bool {
        if !self.any.is_empty() {
            return self.any.iter().any(|rule| rule.holds(request, accepts));
        }
        (self.hosts.is_empty() || self.hosts.iter().any(|host| host.matches(request.host)))
            && self.path.matches(request.path)
            && accepts(self, request.method)
            && self.accepts_the_rest(request)
    }

    /// As `not` has it: what names no method means all of them, TRACE too.
    fn leaves_out(&self, request: &Request<'_>) -> bool {
        self.holds(request, &|rule, method| rule.methods.is_empty() || rule.accepts_method(method))
    }

    fn accepts_method(&self, method: &Method) -> bool {
        (self.methods.is_empty() && method != Method::TRACE)
            || self.methods.contains(method)
            || (method == Method::HEAD && self.methods.contains(&Method::GET))
    }

    /// All but host, path and method.
    fn accepts_the_rest(&self, request: &Request<'_>) -> bool {
        self.headers.iter().all(|predicate| predicate.matches(request.headers))
            && self.query.iter().all(|predicate| predicate.matches(request.query))
            && !self.not.iter().any(|rule| rule.leaves_out(request))
    }
}
