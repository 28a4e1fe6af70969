//! Why a request takes the route it takes, and which others were close: the answer an operator wants when the wrong one
//! wins. It asks every rule, unlike a lookup, so it belongs in a command, never on a request's path.

use std::{cmp::Reverse, collections::HashSet, fmt, ops::ControlFlow};

use http::{HeaderMap, Method};

use super::{
    HeaderPredicate, HostPattern, PathPattern, QueryPredicate, Request, Rule, Table, ValuePredicate, host,
};

/// In a large table nearly every rule misses by its path alone; these many are worth reading.
const MOST_OTHER_PATHS: usize = 5;
const MOST_OTHER_HOSTS: usize = 5;
/// All paths have this much in common.
const ROOT: usize = 1;

/// Values that must not end up on a screen or in a ticket.
const SECRET_HEADERS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// A rule that matches, or misses by one thing only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The caller's id of the rule.
    pub id: usize,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wins,
    /// It matches as well, but less specifically than the winner.
    Loses(Precedence),
    Misses(Miss),
}

/// The first thing in which a rule ranks below the winner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    Host,
    Path,
    Method,
    Headers,
    Query,
    LeftOut,
    FileOrder,
    /// Of two expressions the first in the file.
    RegexOrder,
}

/// The one thing that keeps a rule from matching. `Display` makes a phrase of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    Host {
        expected: String,
        got: String,
    },
    Path {
        expected: String,
        got: String,
    },
    Method {
        expected: String,
        got: String,
    },
    /// `got` is none when the header is absent. Values of headers that carry credentials are masked.
    Header {
        name: String,
        expected: String,
        got: Option<String>,
    },
    Query {
        name: String,
        expected: String,
        got: Option<String>,
    },
    /// It leaves out what the request is.
    LeftOut,
}

impl Table {
    /// Every rule that is close, best first: the winner; the others that match, in the order in which they would win;
    /// then those that miss by exactly one thing: method, header or query first, then at most five by their path, then at
    /// most five by their host; among each, those of which most matched come first. A rule of which nothing but a catch-all
    /// matched is not close.
    pub fn explain(&self, request: &Request<'_>) -> Vec<Candidate> {
        let mut candidates = self.matching(request);
        let (mut near, mut other_path, mut other_host) = (Vec::new(), Vec::new(), Vec::new());
        for rule in &self.rules {
            let Some(miss) = only_miss(rule, request) else { continue };
            match &miss {
                Miss::Host { .. } => other_host.push((rule, miss)),
                Miss::Path { .. } => other_path.push((rule, miss)),
                _ => near.push((rule, miss)),
            }
        }
        other_path.retain(|(rule, _)| !rule.hosts.is_empty() || likeness(&rule.path, request.path) > ROOT);
        other_host.retain(|(rule, _)| likeness(&rule.path, request.path) > ROOT || !rule.methods.is_empty());
        for misses in [&mut near, &mut other_path, &mut other_host] {
            misses.sort_by_cached_key(|(rule, _)| Reverse(matched(rule, request)));
        }
        let missing = near
            .into_iter()
            .chain(other_path.into_iter().take(MOST_OTHER_PATHS))
            .chain(other_host.into_iter().take(MOST_OTHER_HOSTS));
        candidates
            .extend(missing.map(|(rule, miss)| Candidate { id: rule.id, verdict: Verdict::Misses(miss) }));
        // Of alternatives the best says it.
        let mut known = HashSet::new();
        candidates.retain(|candidate| known.insert(candidate.id));
        candidates
    }

    fn matching(&self, request: &Request<'_>) -> Vec<Candidate> {
        let mut matching: Vec<(&Rule, Rank)> = Vec::new();
        let mut slots_seen = 0;
        let _ = self.visit(request, &mut |slot| {
            slots_seen += 1;
            for rule in self.in_order(slot, request.method) {
                let matches = rule.accepts_method(request.method) && rule.accepts_the_rest(request);
                // A rule with several hosts can be met at several of them; the first is its best.
                if matches && !matching.iter().any(|(other, _)| std::ptr::eq(*other, rule)) {
                    matching.push((rule, Rank::new(rule, request, slots_seen)));
                }
            }
            ControlFlow::Continue(())
        });
        let Some(winner) = matching.first().map(|(_, rank)| *rank) else { return Vec::new() };
        let verdict = |place: usize, rank: &Rank| match place {
            0 => Verdict::Wins,
            _ => Verdict::Loses(winner.outranks(rank)),
        };
        let matching = matching.iter().enumerate();
        matching
            .map(|(place, (rule, rank))| Candidate { id: rule.id, verdict: verdict(place, rank) })
            .collect()
    }
}

/// Where a matching rule stands; compared part by part.
#[derive(Clone, Copy, PartialEq)]
struct Rank {
    host: Option<usize>,
    /// Slots are met in order of precedence.
    slot: usize,
    /// Among expressions nothing but the file's order decides.
    is_regex: bool,
    method: u8,
    headers: usize,
    query: usize,
    left_out: usize,
}

impl Rank {
    fn new(rule: &Rule, request: &Request<'_>, slot: usize) -> Rank {
        let name = host::canonical(request.host);
        let accepting = rule.hosts.iter().filter(|pattern| pattern.accepts(&name));
        let method = match rule.methods.is_empty() {
            true => 0,
            false => 1 + u8::from(rule.methods.contains(request.method)),
        };
        Rank {
            host: accepting.map(HostPattern::specificity).max(),
            slot,
            is_regex: rule.path.is_regex(),
            method,
            headers: rule.headers.len(),
            query: rule.query.len(),
            left_out: rule.not.len(),
        }
    }

    fn outranks(&self, loser: &Rank) -> Precedence {
        if self.host != loser.host {
            Precedence::Host
        } else if self.slot != loser.slot && self.is_regex && loser.is_regex {
            Precedence::RegexOrder
        } else if self.slot != loser.slot {
            Precedence::Path
        } else if self.method != loser.method {
            Precedence::Method
        } else if self.headers != loser.headers {
            Precedence::Headers
        } else if self.query != loser.query {
            Precedence::Query
        } else if self.left_out != loser.left_out {
            Precedence::LeftOut
        } else {
            Precedence::FileOrder
        }
    }
}

/// None when nothing misses, and when two things do.
fn only_miss(rule: &Rule, request: &Request<'_>) -> Option<Miss> {
    let name = host::canonical(request.host);
    let host = !rule.hosts.is_empty() && !rule.hosts.iter().any(|pattern| pattern.accepts(&name));
    let host = host.then(|| Miss::Host { expected: list(&rule.hosts), got: request.host.to_owned() });
    let path = (!rule.path.matches(request.path))
        .then(|| Miss::Path { expected: rule.path.to_string(), got: request.path.to_owned() });
    let method = (!rule.accepts_method(request.method)).then(|| method_miss(&rule.methods, request.method));
    let headers = rule.headers.iter().filter(|predicate| !predicate.matches(request.headers));
    let query = rule.query.iter().filter(|predicate| !predicate.matches(request.query));

    let left_out = rule.not.iter().any(|rule| rule.leaves_out(request)).then_some(Miss::LeftOut);

    let mut misses = host
        .into_iter()
        .chain(path)
        .chain(method)
        .chain(headers.map(|predicate| header_miss(predicate, request.headers)))
        .chain(query.map(|predicate| query_miss(predicate, request.query)))
        .chain(left_out);
    let first = misses.next()?;
    misses.next().is_none().then_some(first)
}

fn method_miss(methods: &[Method], got: &Method) -> Miss {
    let expected = if methods.is_empty() { "any but TRACE".to_owned() } else { list(methods) };
    Miss::Method { expected, got: got.to_string() }
}

fn header_miss(predicate: &HeaderPredicate, headers: &HeaderMap) -> Miss {
    let name = predicate.name();
    let is_secret = SECRET_HEADERS.contains(&name.as_str());
    let masked = || "(hidden)".to_owned();
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let expected = match predicate.value() {
        ValuePredicate::Exact(_) | ValuePredicate::Regex(_) if is_secret => masked(),
        value => value.to_string(),
    };
    let got = (!values.is_empty()).then(|| if is_secret { masked() } else { values.join(", ") });
    Miss::Header { name: name.to_string(), expected, got }
}

fn query_miss(predicate: &QueryPredicate, query: Option<&str>) -> Miss {
    let values: Vec<_> =
        predicate.values(query).map(|value| String::from_utf8_lossy(&value).into_owned()).collect();
    let got = (!values.is_empty()).then(|| values.join(", "));
    Miss::Query { name: predicate.name().to_owned(), expected: predicate.value().to_string(), got }
}

/// How much of a rule matches: a host of its own, then the path, then what else it asks for.
fn matched(rule: &Rule, request: &Request<'_>) -> (Option<usize>, usize, usize) {
    let name = host::canonical(request.host);
    let host = rule.hosts.iter().filter(|pattern| pattern.accepts(&name)).map(HostPattern::specificity).max();
    let others = usize::from(!rule.methods.is_empty()) + rule.headers.len() + rule.query.len();
    (host, likeness(&rule.path, request.path), others)
}

/// How many bytes a pattern's text and a path begin with in common.
fn likeness(pattern: &PathPattern, path: &str) -> usize {
    let text = pattern.to_string();
    let text = text.split_once(' ').map_or("", |(_, text)| text);
    let text = text.trim_start_matches('^');
    text.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count()
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Wins => f.write_str("wins"),
            Verdict::Loses(precedence) => write!(f, "also matches: {precedence}"),
            Verdict::Misses(miss) => miss.fmt(f),
        }
    }
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precedence::Host => "less specific host",
            Precedence::Path => "less specific path",
            Precedence::Method => "less specific method",
            Precedence::Headers => "fewer headers asked for",
            Precedence::Query => "fewer query parameters asked for",
            Precedence::LeftOut => "less is left out",
            Precedence::FileOrder => "later in the file",
            Precedence::RegexOrder => "an expression later in the file",
        })
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |got: &Option<String>| got.as_ref().map_or("none".to_owned(), |got| format!("{got:?}"));
        match self {
            Miss::Host { expected, got } => write!(f, "host: expected {expected}, got {got:?}"),
            Miss::Path { expected, got } => write!(f, "path: expected {expected}, got {got:?}"),
            Miss::Method { expected, got } => write!(f, "method: expected {expected}, got {got}"),
            Miss::Header { name, expected, got } => {
                write!(f, "header {name}: expected {expected}, got {}", or_none(got))
            }
            Miss::Query { name, expected, got } => {
                write!(f, "query {name}: expected {expected}, got {}", or_none(got))
            }
            Miss::LeftOut => f.write_str("`not` leaves it out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reference::rule, *};

    fn verdicts(rules: Vec<Rule>, host: &str, path: &str, headers: &HeaderMap) -> Vec<(usize, String)> {
        let table = Table::compile(rules).unwrap();
        let request = Request { host, path, query: Some("v=2"), method: &Method::GET, headers };
        let candidates = table.explain(&request).into_iter();
        candidates.map(|candidate| (candidate.id, candidate.verdict.to_string())).collect()
    }

    #[test]
    fn says_who_wins_and_why_the_others_do_not() {
        let mut headers = HeaderMap::new();
        headers.insert("x-type", "basic".parse().unwrap());
        headers.insert("authorization", "hunter2".parse().unwrap());
        let rules = vec![
            rule(0, "/"),
            rule(1, "/v1/users"),
            rule(2, "/v1/users").host("*.example.com"),
            rule(3, "/v1/users").host("api.example.com").method("GET"),
            rule(4, "/v1/users").host("api.example.com"),
            rule(5, "/v1/users").method("POST"),
            rule(6, "/v1/users").header("x-type", "premium"),
            rule(7, "/v1/users").header("authorization", "a-secret"),
            rule(8, "/v1/users").query("v", "1"),
            rule(9, "/v1/groups"),
            rule(10, "/v1/users").host("other.com"),
            rule(11, "/v1/groups").method("POST"),
        ];
        let expected = [
            (3, "wins"),
            (4, "also matches: less specific method"),
            (2, "also matches: less specific host"),
            (1, "also matches: less specific host"),
            (0, "also matches: less specific host"),
            (5, "method: expected POST, got GET"),
            (6, "header x-type: expected \"premium\", got \"basic\""),
            (7, "header authorization: expected (hidden), got \"(hidden)\""),
            (8, "query v: expected \"1\", got \"2\""),
            (9, "path: expected prefix /v1/groups, got \"/v1/users/7\""),
            (10, "host: expected other.com, got \"API.example.com\""),
        ];
        let got =
            verdicts(rules.into_iter().map(Into::into).collect(), "API.example.com", "/v1/users/7", &headers);
        assert_eq!(got, expected.map(|(id, text)| (id, text.to_owned())));
    }

    #[test]
    fn a_rule_is_close_by_how_much_of_it_matched() {
        let rules = vec![
            rule(0, "/").method("POST"),
            rule(1, "/v1/users").method("POST"),
            rule(2, "/v1").method("POST").host("a.example"),
            rule(3, "/v2"),
            rule(4, "/assets").host("a.example"),
            rule(5, "/v1/groups"),
            rule(6, "/").host("b.example"),
            rule(7, "/v1/users").host("b.example"),
        ];
        let rules = rules.into_iter().map(Into::into).collect();
        let got = verdicts(rules, "a.example", "/v1/users", &HeaderMap::new());
        assert_eq!(got.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [2, 1, 0, 4, 5, 3, 7]);
    }

    #[test]
    fn lists_only_the_most_similar_of_many_other_paths() {
        let rules = (0..100).map(|id| rule(id, &format!("/v1/users{id}")).into()).collect();
        let got = verdicts(rules, "", "/v1/users42x", &HeaderMap::new());
        assert_eq!(got.len(), MOST_OTHER_PATHS);
        assert_eq!(got[0].0, 42);
    }
}
