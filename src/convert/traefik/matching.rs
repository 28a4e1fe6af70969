//! A conjunction of a rule as a match of ours, and what two matches have in common.

use super::rule::Atom;
use crate::{
    config::{PathMatch, ValueMatch},
    convert::hostnames,
    route::HostPattern,
};

/// What a route asks for; one host at most, since hosts decide which route goes first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matching {
    pub host: Option<String>,
    pub path: PathMatch,
    pub methods: Vec<String>,
    pub headers: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    /// Networks that clients must be of: no match of ours says so, a filter does.
    pub clients: Vec<String>,
}

/// What is common to two of them.
#[derive(Debug, PartialEq)]
pub(crate) enum Common {
    Nothing,
    Both(Box<Matching>),
    /// There may be something, and no match says what.
    Unknown,
}

impl Matching {
    /// # Errors
    ///
    /// Which function has no equal; `Ok(None)` where no request can fulfil all of them.
    pub(crate) fn of(atoms: &[Atom]) -> Result<Option<Matching>, String> {
        let mut all = Matching::anything();
        for atom in atoms {
            let one = of_atom(atom)?;
            if !all.clients.is_empty() && !one.clients.is_empty() {
                return Err("of two ClientIP both must hold".to_owned());
            }
            match all.common(&one) {
                Common::Both(both) => all = *both,
                Common::Nothing => return Ok(None),
                Common::Unknown => {
                    return Err(format!("{}({}) beside the others", atom.name, atom.args.join(", ")));
                }
            }
        }
        Ok(Some(all))
    }

    /// What takes all that these take, and more where one of them cannot be said; `None` where no request can fulfil them.
    pub(crate) fn wider(atoms: &[Atom], is_sayable: impl Fn(&Matching) -> bool) -> Option<Matching> {
        let mut all = Matching::anything();
        for one in atoms.iter().filter_map(|atom| of_atom(atom).ok()).filter(is_sayable) {
            match all.common(&one) {
                Common::Both(both) => all = *both,
                Common::Nothing => return None,
                Common::Unknown => {}
            }
        }
        // Clients of other networks would be refused as well.
        all.clients.clear();
        Some(all)
    }

    pub(crate) fn anything() -> Matching {
        Matching {
            host: None,
            path: PathMatch::Prefix("/".into()),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            clients: Vec::new(),
        }
    }

    pub(crate) fn common(&self, other: &Matching) -> Common {
        let Some(host) = hostnames::intersection(self.host.as_deref(), other.host.as_deref()) else {
            return Common::Nothing;
        };
        let methods = match (self.methods.is_empty(), other.methods.is_empty()) {
            (true, _) => other.methods.clone(),
            (_, true) => self.methods.clone(),
            _ => self.methods.iter().filter(|method| other.methods.contains(method)).cloned().collect(),
        };
        if methods.is_empty() && !(self.methods.is_empty() && other.methods.is_empty()) {
            return Common::Nothing;
        }
        let path = match paths(&self.path, &other.path) {
            Ok(Some(path)) => path,
            Ok(None) => return Common::Nothing,
            Err(()) => return Common::Unknown,
        };
        let (headers, query) =
            match (values(&self.headers, &other.headers), values(&self.query, &other.query)) {
                (Ok(Some(headers)), Ok(Some(query))) => (headers, query),
                (Ok(None), _) | (_, Ok(None)) => return Common::Nothing,
                _ => return Common::Unknown,
            };
        let clients = if self.clients.is_empty() { other.clients.clone() } else { self.clients.clone() };
        Common::Both(Box::new(Matching {
            host: host.map(ToOwned::to_owned),
            path,
            methods,
            headers,
            query,
            clients,
        }))
    }

    /// A part of this that holds all that it has in common with `other`, and that ours takes before it.
    pub(crate) fn within(&self, other: &Matching) -> Option<Matching> {
        let anywhere = Matching { path: PathMatch::Prefix("/".into()), ..other.clone() };
        match self.common(&anywhere) {
            Common::Both(both) => {
                let within = Matching { clients: self.clients.clone(), ..*both };
                (!other.outranks(&within)).then_some(within)
            }
            Common::Nothing | Common::Unknown => None,
        }
    }

    /// Whether ours would take this before `other`, for a request that fits both, where `other` stands earlier in the file.
    pub(crate) fn outranks(&self, other: &Matching) -> bool {
        let host = |matching: &Matching| hostnames::specificity(matching.host.as_deref());
        let path = |matching: &Matching| match &matching.path {
            PathMatch::Exact(_) => (3, 0),
            PathMatch::Template(_) => (2, 0),
            PathMatch::Regex(_) => (1, 0),
            PathMatch::Prefix(prefix) => (0, prefix.len()),
        };
        let general = (host(self), path(self)).cmp(&(host(other), path(other)));
        let rest = |matching: &Matching| {
            (!matching.methods.is_empty(), matching.headers.len(), matching.query.len())
        };
        // Only routes of one host and one path are told apart by what else they ask for.
        let is_one_place = self.host == other.host && self.path == other.path;
        general.is_gt() || (general.is_eq() && is_one_place && rest(self) > rest(other))
    }
}

fn of_atom(atom: &Atom) -> Result<Matching, String> {
    let mut one = Matching::anything();
    let args: Vec<&str> = atom.args.iter().map(String::as_str).collect();
    let wrong = || format!("{}({}) is not understood", atom.name, atom.args.join(", "));
    if !atom.holds {
        return match (atom.name.as_str(), &args[..]) {
            ("headerregexp" | "headersregexp", [name, ".*" | ".+" | "^.*$" | "^.+$"]) => {
                one.headers.push((name.to_ascii_lowercase(), ValueMatch::Present(false)));
                Ok(one)
            }
            _ => Err(format!(
                "a match of ours says what is there, not what is not: !{}({})",
                atom.name,
                atom.args.join(", ")
            )),
        };
    }
    match (atom.name.as_str(), &args[..]) {
        ("host" | "hostheader", [host]) => match HostPattern::parse(host) {
            Ok(_) if !host.starts_with('*') => {
                one.host = Some(host.trim_end_matches('.').to_ascii_lowercase())
            }
            Ok(_) => return Err(format!("{host:?} is no host name")),
            Err(error) => return Err(error.to_string()),
        },
        ("hostregexp", [expression]) => match wildcard(expression) {
            Some(host) => one.host = Some(host),
            None => one.headers.push(("host".into(), ValueMatch::Regex(host_regex(expression)))),
        },
        ("path", [path]) => {
            one.path = with_variables(path, true).unwrap_or_else(|| PathMatch::Exact((*path).to_owned()))
        }
        ("pathprefix", [path]) => {
            one.path = with_variables(path, false).unwrap_or_else(|| PathMatch::Prefix((*path).to_owned()))
        }
        ("pathregexp", [expression]) => one.path = PathMatch::Regex((*expression).to_owned()),
        ("method", [method]) => one.methods.push(method.to_ascii_uppercase()),
        ("header" | "headers", [name, value]) => {
            one.headers.push((name.to_ascii_lowercase(), ValueMatch::Exact((*value).to_owned())))
        }
        ("headerregexp" | "headersregexp", [name, value]) => {
            one.headers.push((name.to_ascii_lowercase(), ValueMatch::Regex((*value).to_owned())))
        }
        ("query", [name]) => one.query.push(((*name).to_owned(), ValueMatch::Present(true))),
        ("query", [name, value]) => {
            one.query.push(((*name).to_owned(), ValueMatch::Exact((*value).to_owned())))
        }
        ("queryregexp", [name, value]) => {
            one.query.push(((*name).to_owned(), ValueMatch::Regex((*value).to_owned())))
        }
        ("clientip", [network]) if is_network(network) => one.clients.push((*network).to_owned()),
        _ => return Err(wrong()),
    }
    Ok(one)
}

pub(crate) fn is_network(text: &str) -> bool {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.is_none_or(|length| {
        length.parse::<u8>().is_ok_and(|length| length <= most) && !length.starts_with('+')
    })
}

/// `{sub:.+}.example.com` and `^.+\.example\.com$`, which are what `*.example.com` is here.
fn wildcard(expression: &str) -> Option<String> {
    let rest = if let Some(rest) = expression.strip_prefix('{') {
        let (variable, rest) = rest.split_once('}')?;
        let (_, own) = variable.split_once(':')?;
        matches!(own, ".+" | ".*").then_some(())?;
        rest.to_owned()
    } else {
        let rest = expression.strip_prefix("^.+\\.")?.strip_suffix('$')?;
        format!(".{}", rest.replace("\\.", "."))
    };
    let host = format!("*{}", rest.to_ascii_lowercase());
    HostPattern::parse(&host).is_ok().then_some(host)
}

/// An expression for hosts as one for the field, which may have a port.
fn host_regex(expression: &str) -> String {
    if expression.contains('{') && expression.contains('}') && expression.contains(':') {
        return format!("(?i)^{}(?::[0-9]+)?$", variables(expression));
    }
    match expression.strip_suffix('$').filter(|rest| !rest.ends_with('\\')) {
        Some(rest) => format!("(?i)(?:{rest})(?::[0-9]+)?$"),
        None => format!("(?i){expression}"),
    }
}

/// Version 2 let paths hold `{name:expression}` and `{name}`.
fn with_variables(path: &str, is_whole: bool) -> Option<PathMatch> {
    (path.contains('{') && path.contains('}'))
        .then(|| PathMatch::Regex(format!("^{}{}", variables(path), if is_whole { "$" } else { "" })))
}

/// The text as an expression, in which each `{name:expression}` is that and each `{name}` a segment.
fn variables(text: &str) -> String {
    let mut expression = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        expression.push_str(&regex::escape(before));
        let mut depth = 1_usize;
        let end = behind.find(|c| {
            depth = match c {
                '{' => depth + 1,
                '}' => depth - 1,
                _ => depth,
            };
            depth == 0
        });
        let variable = end.map_or(behind, |end| &behind[..end]);
        let own = variable.split_once(':').map_or("[^/.]+", |(_, own)| own);
        expression.push_str(&format!("(?:{own})"));
        rest = end.map_or("", |end| &behind[end + 1..]);
    }
    expression + &regex::escape(rest)
}

/// What both take: `Ok(None)` is nothing, and an error that no pattern says it.
fn paths(one: &PathMatch, other: &PathMatch) -> Result<Option<PathMatch>, ()> {
    use PathMatch::{Exact, Prefix, Regex, Template};
    if one == other {
        return Ok(Some(one.clone()));
    }
    let is_below = |prefix: &str, path: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    };
    match (one, other) {
        (Template(_), _) | (_, Template(_)) => Err(()),
        (Prefix(short), any) | (any, Prefix(short)) if short == "/" => Ok(Some(any.clone())),
        (Prefix(a), Prefix(b)) if is_below(a, b) => Ok(Some(other.clone())),
        (Prefix(a), Prefix(b)) if is_below(b, a) => Ok(Some(one.clone())),
        (Prefix(_), Prefix(_)) | (Exact(_), Exact(_)) => Ok(None),
        (Prefix(prefix), Exact(path)) | (Exact(path), Prefix(prefix)) => {
            Ok(is_below(prefix, path).then(|| Exact(path.clone())))
        }
        (Regex(expression), Exact(path)) | (Exact(path), Regex(expression)) => {
            // Most are told apart without the expression being compiled, which takes long.
            if begins_with(expression).is_some_and(|start| !path.starts_with(&start)) {
                return Ok(None);
            }
            match regex::Regex::new(expression) {
                Ok(expression) => Ok(expression.is_match(path).then(|| Exact(path.clone()))),
                Err(_) => Err(()),
            }
        }
        (Regex(expression), Prefix(prefix)) | (Prefix(prefix), Regex(expression)) => {
            match begins_with(expression) {
                Some(start) if start.len() > prefix.len() => {
                    Ok(is_below(prefix, &start).then(|| Regex(expression.clone())))
                }
                Some(start) if !prefix.starts_with(&start) => Ok(None),
                _ => Err(()),
            }
        }
        (Regex(one), Regex(other)) => match (begins_with(one), begins_with(other)) {
            (Some(one), Some(other)) if !one.starts_with(&other) && !other.starts_with(&one) => Ok(None),
            _ => Err(()),
        },
    }
}

/// The text that everything begins with in which an anchored expression finds a match.
fn begins_with(expression: &str) -> Option<String> {
    let rest = expression.strip_prefix('^')?;
    if rest.contains('|') {
        return None;
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    let mut start: String = rest.chars().take_while(|c| is_plain(*c)).collect();
    // What is repeated may be absent.
    if rest[start.len()..].starts_with(['?', '*', '{', '+']) {
        start.pop();
    }
    Some(start)
}

type Values = Vec<(String, ValueMatch)>;

fn values(one: &Values, other: &Values) -> Result<Option<Values>, ()> {
    let mut all = one.clone();
    for (name, value) in other {
        match all.iter().find(|(known, _)| known == name) {
            None => all.push((name.clone(), value.clone())),
            Some((_, known)) if known == value => {}
            // A field may occur twice; that one with both values is meant is as good as impossible.
            Some((_, ValueMatch::Exact(_) | ValueMatch::Present(false)))
                if matches!(value, ValueMatch::Exact(_) | ValueMatch::Present(false)) =>
            {
                return Ok(None);
            }
            Some(_) => return Err(()),
        }
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::traefik::rule::parse;

    fn of(rule: &str) -> Result<Option<Matching>, String> {
        Matching::of(&parse(rule).unwrap()[0])
    }

    #[test]
    fn functions_become_what_a_match_says() {
        let one = of("Host(`A.example.`) && PathPrefix(`/x`) && Method(`get`) && Header(`X-A`, `b`) && QueryRegexp(`c`, `d+`)").unwrap().unwrap();
        assert_eq!(one.host.as_deref(), Some("a.example"));
        assert_eq!(one.path, PathMatch::Prefix("/x".into()));
        assert_eq!(one.methods, ["GET"]);
        assert_eq!(one.headers, [("x-a".to_owned(), ValueMatch::Exact("b".into()))]);
        assert_eq!(one.query, [("c".to_owned(), ValueMatch::Regex("d+".into()))]);
        assert_eq!(of("Host(`a`) && Host(`b`)").unwrap(), None);
        assert_eq!(of("PathPrefix(`/a`) && PathPrefix(`/b`)").unwrap(), None);
        assert!(of("!Host(`a`)").unwrap_err().contains("what is not"));
        assert!(of("Tea(`a`)").unwrap_err().contains("is not understood"));
        assert!(of("ClientIP(`10.0.0.0/99`)").unwrap_err().contains("is not understood"));
    }

    #[test]
    fn expressions_of_hosts_and_paths_are_those_of_both_versions() {
        for (rule, host) in [
            ("HostRegexp(`{sub:.+}.Example.com`)", "*.example.com"),
            ("HostRegexp(`^.+\\.example\\.com$`)", "*.example.com"),
        ] {
            assert_eq!(of(rule).unwrap().unwrap().host.as_deref(), Some(host), "{rule}");
        }
        for (rule, expected) in [
            ("HostRegexp(`{sub:[a-z]+}.example.com`)", "(?i)^(?:[a-z]+)\\.example\\.com(?::[0-9]+)?$"),
            ("HostRegexp(`^[a-z]+\\.example\\.com$`)", "(?i)(?:^[a-z]+\\.example\\.com)(?::[0-9]+)?$"),
        ] {
            assert_eq!(
                of(rule).unwrap().unwrap().headers,
                [("host".to_owned(), ValueMatch::Regex(expected.into()))],
                "{rule}"
            );
        }
        for (rule, expected) in [
            ("Path(`/users/{id:[0-9]{2}}/x`)", "^/users/(?:[0-9]{2})/x$"),
            ("PathPrefix(`/{any}`)", "^/(?:[^/.]+)"),
            ("PathRegexp(`\\.jpg$`)", "\\.jpg$"),
        ] {
            assert_eq!(of(rule).unwrap().unwrap().path, PathMatch::Regex(expected.into()), "{rule}");
        }
    }

    #[test]
    fn what_two_have_in_common_is_what_both_take() {
        let path = |one: &str, other: &str| {
            let common = of(one).unwrap().unwrap().common(&of(other).unwrap().unwrap());
            match common {
                Common::Both(both) => format!("{:?}", both.path),
                other => format!("{other:?}"),
            }
        };
        for (one, other, expected) in [
            ("PathPrefix(`/a`)", "PathPrefix(`/a/b`)", "Prefix(\"/a/b\")"),
            ("PathPrefix(`/a`)", "PathPrefix(`/ab`)", "Nothing"),
            ("Path(`/a/b`)", "PathPrefix(`/a`)", "Exact(\"/a/b\")"),
            ("Path(`/ab`)", "PathPrefix(`/a`)", "Nothing"),
            ("PathRegexp(`^/a/[0-9]+`)", "PathPrefix(`/a`)", "Regex(\"^/a/[0-9]+\")"),
            ("PathRegexp(`^/ab?`)", "PathPrefix(`/ab`)", "Unknown"),
            ("PathRegexp(`^/b`)", "PathPrefix(`/a`)", "Nothing"),
            ("PathRegexp(`^/ab`)", "PathPrefix(`/a`)", "Nothing"),
            ("PathRegexp(`x`)", "PathPrefix(`/a`)", "Unknown"),
            ("PathRegexp(`^/[ab]$`)", "Path(`/a`)", "Exact(\"/a\")"),
            ("PathRegexp(`^/[ab]$`)", "Path(`/c`)", "Nothing"),
            ("Method(`GET`)", "Method(`POST`)", "Nothing"),
            ("Header(`a`, `b`)", "Header(`a`, `c`)", "Nothing"),
            ("Header(`a`, `b`)", "HeaderRegexp(`a`, `c`)", "Unknown"),
        ] {
            assert_eq!(path(one, other), expected, "{one} {other}");
            assert_eq!(path(other, one), expected, "{other} {one}");
        }
    }
}
