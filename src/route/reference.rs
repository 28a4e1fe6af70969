//! The same contract written a second time, slowly and without sharing code with the table: every rule is asked, and
//! the matching ones are sorted. Generated tables and requests must agree. Also the builder other tests use.

use std::cmp::Reverse;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// A rule as text, built step by step: `rule(7, "/v1").host("a.com").method("GET")`.
#[derive(Clone, Debug)]
pub struct RuleText {
    id: usize,
    hosts: Vec<String>,
    path: PathText,
    methods: Vec<String>,
    headers: Vec<(String, ValueText)>,
    query: Vec<(String, ValueText)>,
}

#[derive(Clone, Debug, PartialEq)]
enum PathText {
    Exact(String),
    Prefix(String),
    Regex(String),
    Template(String),
}

#[derive(Clone, Debug)]
enum ValueText {
    Exact(String),
    /// An expression of the form `^text`.
    Begins(String),
    Present(bool),
}

/// A rule for a prefix, or for a template if the path holds `{`.
pub(crate) fn rule(id: usize, path: &str) -> RuleText {
    let path = match path.contains('{') {
        true => PathText::Template(path.into()),
        false => PathText::Prefix(path.into()),
    };
    RuleText { id, hosts: vec![], path, methods: vec![], headers: vec![], query: vec![] }
}

impl RuleText {
    pub fn host(mut self, host: &str) -> Self {
        self.hosts.push(host.into());
        self
    }

    pub fn method(mut self, method: &str) -> Self {
        self.methods.push(method.into());
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), ValueText::Exact(value.into())));
        self
    }

    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.into(), ValueText::Exact(value.into())));
        self
    }

    fn exact(mut self, path: &str) -> Self {
        self.path = PathText::Exact(path.into());
        self
    }

    fn regex(mut self, path: &str) -> Self {
        self.path = PathText::Regex(path.into());
        self
    }

    fn has_header(mut self, name: &str) -> Self {
        self.headers.push((name.into(), ValueText::Present(true)));
        self
    }
}

impl From<RuleText> for Rule {
    fn from(text: RuleText) -> Rule {
        Rule {
            id: text.id,
            hosts: text.hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect(),
            path: match &text.path {
                PathText::Exact(path) => PathPattern::exact(path),
                PathText::Prefix(path) => PathPattern::prefix(path),
                PathText::Regex(path) => PathPattern::regex(path),
                PathText::Template(path) => PathPattern::template(path),
            }
            .unwrap(),
            methods: text.methods.iter().map(|method| method.parse().unwrap()).collect(),
            headers: text
                .headers
                .iter()
                .map(|(name, value)| HeaderPredicate::new(name, value.into()).unwrap())
                .collect(),
            query: text.query.iter().map(|(name, value)| QueryPredicate::new(name, value.into())).collect(),
            not: Vec::new(),
            any: Vec::new(),
        }
    }
}

impl From<&ValueText> for ValuePredicate {
    fn from(text: &ValueText) -> ValuePredicate {
        match text {
            ValueText::Exact(value) => ValuePredicate::Exact(value.clone()),
            ValueText::Begins(value) => ValuePredicate::regex(&format!("^{value}")).unwrap(),
            ValueText::Present(present) => ValuePredicate::Present(*present),
        }
    }
}

type Pairs = Vec<(String, String)>;

#[derive(Clone, Debug)]
struct Asked {
    host: String,
    path: String,
    query: Pairs,
    method: String,
    headers: Pairs,
}

impl Asked {
    fn find(&self, table: &Table) -> Outcome {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let query =
            self.query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        table.find(&Request {
            host: &self.host,
            path: &self.path,
            query: (!query.is_empty()).then_some(query.as_str()),
            method: &self.method.parse().unwrap(),
            headers: &headers,
        })
    }
}

#[derive(Debug, PartialEq)]
enum Expected {
    Found(usize, Pairs),
    MethodNotAllowed(Vec<String>),
    NotFound,
}

/// Lower wins. The parts are host, path, method, headers, query, file order.
type Key = ((u8, Reverse<usize>), PathKey, u8, Reverse<usize>, Reverse<usize>, usize);
/// Kind, then per segment literal < capture < rest, then place of the regex, then the prefix's length.
type PathKey = (u8, Vec<u8>, usize, Reverse<usize>);

fn expect(rules: &[RuleText], asked: &Asked) -> Expected {
    let mut best: Option<(Key, usize, Pairs)> = None;
    let mut allow = std::collections::BTreeSet::new();
    for (place, rule) in rules.iter().enumerate() {
        let any_host = String::new();
        let hosts = if rule.hosts.is_empty() { vec![&any_host] } else { rule.hosts.iter().collect() };
        for host in hosts {
            let Some(host_key) = host_key(host, &asked.host) else { continue };
            let Some((path_key, params)) = path_key(rules, host, &rule.path, &asked.path) else { continue };
            if !holds(&rule.headers, &asked.headers) || !holds(&rule.query, &asked.query) {
                continue;
            }
            let named = |method: &str| rule.methods.iter().any(|m| m == method);
            let method_key = match asked.method.as_str() {
                method if named(method) => 0,
                "HEAD" if named("GET") => 1,
                "TRACE" if rule.methods.is_empty() => {
                    let usual = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
                    allow.extend(usual.map(str::to_owned));
                    continue;
                }
                _ if rule.methods.is_empty() => 2,
                _ => {
                    allow.extend(rule.methods.iter().cloned());
                    allow.extend(named("GET").then(|| "HEAD".to_owned()));
                    continue;
                }
            };
            let (headers, query) = (Reverse(rule.headers.len()), Reverse(rule.query.len()));
            let key = (host_key, path_key, method_key, headers, query, place);
            if best.as_ref().is_none_or(|(other, ..)| key < *other) {
                best = Some((key, rule.id, params));
            }
        }
    }
    match best {
        Some((_, id, params)) => Expected::Found(id, params),
        None if allow.is_empty() => Expected::NotFound,
        None => Expected::MethodNotAllowed(allow.into_iter().collect()),
    }
}

fn host_key(pattern: &str, host: &str) -> Option<(u8, Reverse<usize>)> {
    let host = host.trim_end_matches('.').to_lowercase();
    match pattern.strip_prefix('*') {
        _ if pattern.is_empty() => Some((2, Reverse(0))),
        Some(suffix) => host.ends_with(suffix).then_some((1, Reverse(suffix.len()))),
        None => (host == pattern).then_some((0, Reverse(0))),
    }
}

fn path_key(rules: &[RuleText], host: &str, pattern: &PathText, path: &str) -> Option<(PathKey, Pairs)> {
    let plain = |kind, place, length| ((kind, vec![], place, Reverse(length)), vec![]);
    match pattern {
        PathText::Exact(text) => (text == path).then(|| plain(0, 0, 0)),
        PathText::Template(text) => {
            let (shape, params) = split_template(text, path)?;
            Some(((1, shape, 0, Reverse(0)), params))
        }
        PathText::Regex(text) => {
            let on_host = |rule: &RuleText| match host.is_empty() {
                true => rule.hosts.is_empty(),
                false => rule.hosts.iter().any(|h| h == host),
            };
            let place = rules.iter().position(|rule| rule.path == *pattern && on_host(rule)).unwrap();
            regex::Regex::new(text).unwrap().is_match(path).then(|| plain(2, place, 0))
        }
        PathText::Prefix(text) => {
            let with_slash = format!("{}/", text.trim_end_matches('/'));
            (text == "/" || text == path || path.starts_with(&with_slash)).then(|| plain(3, 0, text.len()))
        }
    }
}

fn split_template(text: &str, path: &str) -> Option<(Vec<u8>, Pairs)> {
    let (mut shape, mut params) = (vec![], vec![]);
    let segments: Vec<&str> = path.split('/').collect();
    let wanted: Vec<&str> = text.split('/').collect();
    for (at, want) in wanted.iter().enumerate() {
        if let Some(name) = want.strip_prefix("{*") {
            // Nothing may be left, but for the slash before it.
            let rest = segments.get(at..).filter(|left| !left.is_empty())?.join("/");
            shape.push(2);
            params.push((name.trim_end_matches('}').to_owned(), rest.clone()));
            return Some((shape, params));
        }
        let segment = *segments.get(at)?;
        if let Some(name) = want.strip_prefix('{') {
            shape.push(1);
            params.push((name.trim_end_matches('}').to_owned(), segment.to_owned()));
            if segment.is_empty() {
                return None;
            }
        } else if *want == segment {
            shape.push(0);
        } else {
            return None;
        }
    }
    (segments.len() == wanted.len()).then_some((shape, params))
}

fn holds(wanted: &[(String, ValueText)], given: &[(String, String)]) -> bool {
    wanted.iter().all(|(name, value)| {
        let mut values = given.iter().filter(|(other, _)| other == name).map(|(_, value)| value);
        match value {
            ValueText::Exact(text) => values.any(|value| value == text),
            ValueText::Begins(text) => values.any(|value| value.starts_with(text.as_str())),
            ValueText::Present(present) => (values.count() > 0) == *present,
        }
    })
}

/// Compiles what is left after taking out the rules found to be shadowed, and gives those too.
fn compile(mut rules: Vec<RuleText>) -> (Table, Vec<RuleText>, Vec<Shadowed>) {
    match Table::compile(rules.iter().cloned().map(Into::into).collect()) {
        Ok(table) => (table, rules, vec![]),
        Err(shadowed) => {
            rules.retain(|rule| !shadowed.iter().any(|s| s.rule == rule.id));
            let again = rules.iter().cloned().map(Into::into).collect();
            (Table::compile(again).expect("the first pass names every shadowed rule"), rules, shadowed)
        }
    }
}

fn agrees(outcome: &Outcome, path: &str, expected: &Expected) -> bool {
    match (outcome, expected) {
        (Outcome::Found { id, params }, Expected::Found(wanted, values)) => {
            id == wanted
                && params.iter(path).map(|(k, v)| (k.to_owned(), v.to_owned())).eq(values.iter().cloned())
        }
        (Outcome::MethodNotAllowed { allow }, Expected::MethodNotAllowed(wanted)) => {
            allow.iter().map(Method::as_str).eq(wanted.iter().map(String::as_str))
        }
        (Outcome::NotFound, Expected::NotFound) => true,
        _ => false,
    }
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(texts).prop_map(str::to_owned)
}

fn some_path(most: usize) -> impl Strategy<Value = String> {
    (vec(one_of(&["a", "b", "ab"]), 0..=most), any::<bool>()).prop_map(|(segments, slash)| {
        let path = format!("/{}", segments.join("/"));
        if slash && path.len() > 1 { path + "/" } else { path }
    })
}

fn some_pattern() -> impl Strategy<Value = PathText> {
    let template = (vec(one_of(&["a", "b", "ab", "{}"]), 1..=3), 0..4u8).prop_map(|(segments, end)| {
        let named = segments.iter().enumerate().map(|(at, s)| match s.as_str() {
            "{}" => format!("/{{p{at}}}"),
            literal => format!("/{literal}"),
        });
        named.collect::<String>() + ["", "", "/", "/{*rest}"][end as usize]
    });
    prop_oneof![
        some_path(2).prop_map(PathText::Exact),
        some_path(2).prop_map(PathText::Prefix),
        template.prop_map(PathText::Template),
        one_of(&["^/a", "b", "^/a/b$", "^/[^/]+$", "a/?$", "^/b/", "ab", "^/a.*b", "^/$", "."])
            .prop_map(PathText::Regex),
    ]
}

fn some_predicates() -> impl Strategy<Value = Vec<(String, ValueText)>> {
    let value = prop_oneof![
        one_of(&["1", "12"]).prop_map(ValueText::Exact),
        one_of(&["1", "2"]).prop_map(ValueText::Begins),
        any::<bool>().prop_map(ValueText::Present),
    ];
    prop_oneof![2 => Just(vec![]), 1 => vec((one_of(&["x", "y"]), value), 1..=2)]
}

fn some_rules() -> impl Strategy<Value = Vec<RuleText>> {
    let hosts = vec(one_of(&["a.com", "x.a.com", "*.a.com", "*.x.a.com", "*.com"]), 0..=2);
    let methods = prop_oneof![1 => Just(vec![]), 1 => vec(one_of(&["GET", "HEAD", "POST", "TRACE"]), 1..=2)];
    let rule = (hosts, some_pattern(), methods, some_predicates(), some_predicates());
    vec(rule, 1..24).prop_map(|rules| {
        let number = |(id, (hosts, path, methods, headers, query))| RuleText {
            id,
            hosts,
            path,
            methods,
            headers,
            query,
        };
        rules.into_iter().enumerate().map(number).collect()
    })
}

fn some_request() -> impl Strategy<Value = Asked> {
    let pairs = || vec((one_of(&["x", "y"]), one_of(&["1", "12", "2"])), 0..=2);
    (
        one_of(&["a.com", "X.a.com", "y.x.a.com", "y.a.com.", "b.com", "b.org", ""]),
        some_path(4),
        pairs(),
        one_of(&["GET", "HEAD", "POST", "PUT", "TRACE"]),
        pairs(),
    )
        .prop_map(|(host, path, query, method, headers)| Asked { host, path, query, method, headers })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_table_agrees_with_the_reference(rules in some_rules(), asked in vec(some_request(), 1..24)) {
        let (table, kept, _) = compile(rules);
        for asked in &asked {
            let (outcome, expected) = (asked.find(&table), expect(&kept, asked));
            prop_assert!(
                agrees(&outcome, &asked.path, &expected), "{asked:?}: {outcome:?}, not {expected:?}\n{kept:#?}"
            );
        }
    }

    #[test]
    fn a_shadowed_rule_never_wins_on_that_host(rules in some_rules(), asked in vec(some_request(), 1..24)) {
        let (_, _, shadowed) = compile(rules.clone());
        for shadow in &shadowed {
            let mut rules = rules.clone();
            rules[shadow.rule].hosts = shadow.host.iter().map(ToString::to_string).collect();
            for asked in &asked {
                prop_assert!(!matches!(expect(&rules, asked), Expected::Found(id, _) if id == shadow.rule));
            }
        }
    }

    #[test]
    fn explaining_agrees_with_finding(rules in some_rules(), asked in some_request()) {
        let (table, _, _) = compile(rules);
        let headers = HeaderMap::new();
        let method = asked.method.parse().unwrap();
        let request =
            Request { host: &asked.host, path: &asked.path, query: None, method: &method, headers: &headers };
        let winners: Vec<usize> = table
            .explain(&request)
            .iter()
            .filter_map(|candidate| (candidate.verdict == Verdict::Wins).then_some(candidate.id))
            .collect();
        match table.find(&request) {
            Outcome::Found { id, .. } => prop_assert_eq!(winners, vec![id]),
            _ => prop_assert!(winners.is_empty()),
        }
    }
}

fn asked(text: &str) -> Asked {
    let (method, url) = text.split_once(' ').unwrap();
    let at = url.find('/').unwrap();
    let (host, path) = url.split_at(at);
    let headers = vec![("x".to_owned(), "1".to_owned()), ("y".to_owned(), "1".to_owned())];
    let query = vec![("v".to_owned(), "1".to_owned())];
    Asked { host: host.into(), path: path.into(), query, method: method.into(), headers }
}

#[track_caller]
fn assert_winners(rules: Vec<RuleText>, expected: &[(&str, Option<usize>)]) {
    let table = Table::compile(rules.into_iter().map(Into::into).collect()).unwrap();
    for (text, winner) in expected {
        let found = match asked(text).find(&table) {
            Outcome::Found { id, .. } => Some(id),
            _ => None,
        };
        assert_eq!(found, *winner, "{text}");
    }
}

#[test]
fn the_more_specific_host_wins_if_it_matches_in_full() {
    let rules = vec![
        rule(0, "/"),
        rule(1, "/").host("*.example.com"),
        rule(2, "/").host("*.eu.example.com"),
        rule(3, "/only").host("api.eu.example.com"),
        rule(4, "/post").host("api.eu.example.com").method("POST"),
        rule(5, "/very/specific").exact("/very/specific"),
    ];
    assert_winners(
        rules,
        &[
            ("GET api.eu.example.com/only", Some(3)),
            ("GET API.EU.example.com./only", Some(3)),
            ("GET api.eu.example.com/other", Some(2)),
            ("GET api.eu.example.com/post", Some(2)),
            ("POST api.eu.example.com/post", Some(4)),
            ("GET a.b.eu.example.com/very/specific", Some(2)),
            ("GET us.example.com/", Some(1)),
            ("GET example.com/", Some(0)),
            ("GET /very/specific", Some(5)),
        ],
    );
}

#[test]
fn the_more_specific_path_wins_whatever_the_file_order() {
    let rules = vec![
        rule(0, "/"),
        rule(1, "/users"),
        rule(2, "/users/me/x"),
        rule(3, "/").regex("^/users/\\d+$"),
        rule(4, "/").regex("^/users/7"),
        rule(5, "/users/{id}/posts"),
        rule(6, "/users/{id}/{what}"),
        rule(7, "/users/me/{what}"),
        rule(8, "/").exact("/users/me/posts"),
    ];
    assert_winners(
        rules,
        &[
            ("GET /users/me/posts", Some(8)),
            ("GET /users/me/likes", Some(7)),
            ("GET /users/me/x", Some(7)),
            ("GET /users/9/posts", Some(5)),
            ("GET /users/9/likes", Some(6)),
            ("GET /users/7", Some(3)),
            ("GET /users/7a", Some(4)),
            ("GET /users/me/x/y", Some(2)),
            ("GET /users/me", Some(1)),
            ("GET /usersx", Some(0)),
        ],
    );
}

#[test]
fn method_then_headers_then_query_then_file_order_break_ties() {
    let rules = vec![
        rule(0, "/a"),
        rule(1, "/a").has_header("x"),
        rule(2, "/a").method("POST"),
        rule(3, "/b").query("v", "1").query("v", "1"),
        rule(4, "/b").has_header("y"),
        rule(5, "/b").has_header("x"),
        rule(6, "/c"),
        rule(7, "/c").query("v", "1"),
    ];
    assert_winners(
        rules,
        &[("POST /a", Some(2)), ("GET /a", Some(1)), ("GET /b", Some(4)), ("GET /c", Some(7))],
    );
}

#[test]
fn get_includes_head_unless_head_is_named() {
    let rules = vec![
        rule(0, "/a").method("GET").has_header("x"),
        rule(1, "/a").method("HEAD"),
        rule(2, "/a"),
        rule(3, "/b").method("GET"),
        rule(4, "/b"),
    ];
    assert_winners(
        rules,
        &[("HEAD /a", Some(1)), ("GET /a", Some(0)), ("HEAD /b", Some(3)), ("PUT /b", Some(4))],
    );
}

#[test]
fn only_the_method_missing_is_405_with_all_that_would_do() {
    let rules = [
        rule(0, "/a").host("a.com").method("PUT"),
        rule(1, "/a").method("GET").method("PUT"),
        rule(2, "/a/{id}").method("DELETE").header("x", "other"),
        rule(3, "/").regex("^/a$").method("PATCH"),
    ];
    let table = Table::compile(rules.map(Into::into).into()).unwrap();
    let Outcome::MethodNotAllowed { allow } = asked("POST a.com/a").find(&table) else { panic!("not a 405") };
    assert_eq!(allow, [Method::GET, Method::HEAD, Method::PATCH, Method::PUT]);
    assert!(matches!(asked("GET a.com/b").find(&table), Outcome::NotFound));
}

#[test]
fn a_rule_that_can_never_match_is_refused() {
    let base = || rule(0, "/users/{id}").host("a.com").method("GET").header("x", "1");
    for (later, is_shadowed) in [
        (base(), true),
        (rule(1, "/users/{other}").host("b.com").host("A.com.").method("GET").header("X", "1"), true),
        (rule(1, "/users/{id}").host("b.com").method("GET").header("x", "1"), false),
        (rule(1, "/users/{id}").method("GET").header("x", "1"), false),
        (rule(1, "/users/{id}").host("a.com").method("POST").header("x", "1"), false),
        (rule(1, "/users/{id}").host("a.com").method("HEAD").header("x", "1"), false),
        (rule(1, "/users/{id}").host("a.com").header("x", "1"), false),
        (rule(1, "/users/{id}").host("a.com").method("GET").header("x", "2"), false),
        (rule(1, "/users/{id}").host("a.com").method("GET").has_header("x"), false),
    ] {
        let later = RuleText { id: 1, ..later };
        let result = Table::compile(vec![base().into(), later.clone().into()]);
        let expected = Shadowed { rule: 1, by: 0, host: Some(HostPattern::parse("a.com").unwrap()) };
        assert_eq!(result.err(), is_shadowed.then(|| vec![expected]), "{later:?}");
    }
}

#[test]
fn an_earlier_weaker_predicate_shadows_a_later_stronger_one() {
    let rules = vec![rule(0, "/a").has_header("x").into(), rule(1, "/a").header("x", "1").into()];
    assert_eq!(Table::compile(rules).unwrap_err(), [Shadowed { rule: 1, by: 0, host: None }]);
}

#[test]
fn a_path_spelled_differently_still_meets_its_guarded_route() {
    let table = Table::compile(vec![rule(0, "/").into(), rule(1, "/admin").into()]).unwrap();
    for path in [
        "/admin",
        "/admin/",
        "/%61dmin",
        "//admin",
        "/./admin/x",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/.%2E/%61dmin",
        "/../admin",
        "/admin/x/..",
        "/public//..//admin",
    ] {
        let normal = normalise(path).unwrap();
        let found = asked(&format!("GET {normal}")).find(&table);
        assert!(matches!(found, Outcome::Found { id: 1, .. }), "{path} became {normal}");
    }
}

#[test]
fn many_regexes_go_by_file_order_too() {
    let rules = (0..50)
        .map(|id| rule(id, "/").regex(&format!("^/r{}", id % 25 + 10 * (id / 25))))
        .collect::<Vec<_>>();
    let (table, kept, _) = compile(rules);
    for path in ["/r1", "/r12", "/r30", "/r9/x", "/none"] {
        let asked = asked(&format!("GET {path}"));
        let expected = expect(&kept, &asked);
        assert!(agrees(&asked.find(&table), path, &expected), "{path}: {expected:?}");
    }
}

#[test]
fn a_host_of_many_labels_is_looked_up_like_any_other() {
    let rules = vec![rule(0, "/").host("*.com"), rule(1, "/").host("*.b.com"), rule(2, "/")];
    let deep = "a.".repeat(124) + "b.com";
    let too_long = "a.".repeat(200) + "b.com";
    assert_winners(
        rules,
        &[(&format!("GET {deep}/"), Some(1)), (&format!("GET {too_long}/"), Some(2)), ("GET .com/", Some(2))],
    );
}
