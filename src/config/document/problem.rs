//! What is wrong with a configuration and where: the one form in which every layer reports to the operator.
//! A problem is data until it is displayed, so that those of all layers sort into one list, in file order.

use std::{collections::HashSet, error::Error, fmt, sync::Arc};

use crate::config::document::node::REDACTED;

/// After this many problems the reading stops: whoever has a hundred fixes the first ten and runs again.
pub const MOST_PROBLEMS: usize = 100;

/// One problem, displayed as `file:line:column: path: message (hint)`; what is not known is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    location: Option<Location>,
    path: Path,
    message: String,
    hint: Option<String>,
    /// Of a warning, by which the documentation and programs know it.
    name: Option<&'static str>,
    is_of_a_name_twice: bool,
}

impl Problem {
    /// A problem of the configuration as a whole, or of something outside its files.
    pub fn new(message: impl Into<String>) -> Self {
        let message = cut(without_passwords(message.into()));
        Problem {
            location: None,
            path: Path::default(),
            message,
            hint: None,
            name: None,
            is_of_a_name_twice: false,
        }
    }

    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    pub fn path(mut self, path: Path) -> Self {
        self.path = path;
        self
    }

    /// What to do about it; shown in parentheses.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(without_passwords(hint.into()));
        self
    }

    /// What kind of warning it is.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    pub fn name(&self) -> Option<&'static str> {
        self.name
    }

    pub fn told_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Something of this name is there already, and its place is in the message.
    pub(crate) fn of_a_name_twice(mut self) -> Self {
        self.is_of_a_name_twice = true;
        self
    }

    pub fn is_of_a_name_twice(&self) -> bool {
        self.is_of_a_name_twice
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn whereabouts(&self) -> &Path {
        &self.path
    }

    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// Where it is, for the words of another problem: by its path, too, where there is no line to point at.
    pub fn place(&self) -> String {
        match &self.location {
            None => self.path.to_string(),
            Some(at) if at.line > 0 || self.path.is_root() => at.to_string(),
            Some(at) => format!("{at}: {}", self.path),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Error for Problem {}

/// Without its middle where a quote makes it long: what is wrong with the quoted stands behind it.
fn cut(message: String) -> String {
    const MOST: usize = 2000;
    const END: usize = 500;
    if message.len() <= MOST {
        return message;
    }
    let start = message.floor_char_boundary(MOST - END);
    let end = message.ceil_char_boundary(message.len() - END);
    format!("{} [...] {}", &message[..start], &message[end..])
}

/// Whatever is quoted, and whoever quotes it: a URL may stand at any place, and has a password in it at any.
fn without_passwords(text: String) -> String {
    const SCHEME: &str = "://";
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(SCHEME) {
        let end = after.find(|c: char| c.is_whitespace() || "\"'`(),".contains(c)).unwrap_or(after.len());
        let user = after[..end].rfind('@').filter(|at| tells(&after[..*at]));
        shown.push_str(before);
        shown.push_str(SCHEME);
        if user.is_some() {
            shown.push_str(REDACTED);
        }
        rest = &after[user.unwrap_or(0)..];
    }
    if shown.is_empty() { text } else { shown + rest }
}

/// Whether what stands before the `@` of a URL may hold a password. It may have in it what ends a host: then the URL is wrong, and shown.
fn tells(user: &str) -> bool {
    // `redis://[user:password@]host` is how one is written, `${...}` where it comes from.
    let is_form = user == "[user:password";
    let is_variable = user.starts_with("${") && user.find('}') == Some(user.len() - 1);
    let host = user.split(['/', '?', '#']).next().unwrap_or_default();
    !is_form && !is_variable && (host.len() == user.len() || host.contains(':'))
}

/// A place in a file or in what another origin said. Lines and columns count from 1, columns in characters. Line 0
/// is a file as a whole, or a value of an origin without lines: then the column only says which of its values comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its name, or the origin in its place.
    pub file: Arc<str>,
    /// The how-manieth file read this is: problems are listed in that order.
    pub order: u32,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{}:{}", self.file, line, self.column),
        }
    }
}

/// Problems in file order, without repetitions, [`MOST_PROBLEMS`] at most; displayed one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(mut problems: Vec<Problem>) -> Self {
        let place = |problem: &Problem| problem.location.as_ref().map(|at| (at.order, at.line, at.column));
        // A mistake behind an anchor is found once per alias, always at the same place in the file.
        let mut known = HashSet::new();
        problems.retain(|problem| {
            // Where there are no lines, what is absent from one map is told apart by its path alone.
            let path = problem.location.as_ref().filter(|at| at.line == 0).map(|_| problem.path.clone());
            place(problem).is_none_or(|place| known.insert((place, path, problem.message.clone())))
        });
        problems.sort_by_key(place);
        problems.truncate(MOST_PROBLEMS);
        Problems(problems)
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(problems: I) -> Self {
        Problems::from(problems.into_iter().collect::<Vec<_>>())
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        if self.0.len() == MOST_PROBLEMS {
            write!(f, "\nstopped after {MOST_PROBLEMS} problems; there may be more")?;
        }
        Ok(())
    }
}

impl Error for Problems {}

/// Where a value stands in the configuration, such as `routes[2].filters[0].cors.max_age`.
/// Indexes count in the merged configuration, not in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    Key(String),
    Index(usize),
}

impl Path {
    pub fn root() -> Self {
        Path::default()
    }

    /// The path of `key` in the map that stands here.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.join(Segment::Key(key.into()))
    }

    /// Of the map or list that this stands in; none at the top.
    pub(in crate::config) fn parent(&self) -> Option<Path> {
        let (_, rest) = self.0.split_last()?;
        Some(Path(rest.to_vec()))
    }

    /// Its first so many segments.
    pub(in crate::config) fn up_to(&self, depth: usize) -> Path {
        Path(self.0[..depth.min(self.0.len())].to_vec())
    }

    /// Those behind them.
    pub(in crate::config) fn from(&self, depth: usize) -> Path {
        Path(self.0[depth.min(self.0.len())..].to_vec())
    }

    /// The path of element `index`, from 0, of the list that stands here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.join(Segment::Index(index))
    }

    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn join(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Path(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, segment) in self.0.iter().enumerate() {
            let dot = if depth == 0 { "" } else { "." };
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if is_bare(key) => write!(f, "{dot}{key}")?,
                Segment::Key(key) => write!(f, "{dot}{key:?}")?,
            }
        }
        Ok(())
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A path on the stack of a walk down the tree; it becomes a [`Path`] only when there is something to report.
#[derive(Clone, Copy)]
pub(in crate::config) enum Trail<'a> {
    Start(&'a Path),
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    pub(crate) fn path(&self) -> Path {
        match self {
            Trail::Start(path) => (*path).clone(),
            Trail::Key(parent, key) => parent.path().key(*key),
            Trail::Index(parent, index) => parent.path().index(*index),
        }
    }
}

/// The candidate that `wrong` was most likely meant to be, if one is near enough to be worth saying.
pub fn suggest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The distance costs the product of both lengths, and what is longer than this was not mistyped.
    const LONGEST: usize = 64;
    let length = wrong.chars().count();
    if length > LONGEST {
        return None;
    }
    let wrong = wrong.to_lowercase();
    candidates
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (strsim::damerau_levenshtein(&wrong, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            let shorter = length.min(candidate.chars().count());
            *distance <= (shorter / 3).clamp(1, 3) && *distance < shorter
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(order: u32, line: u32) -> Location {
        Location { file: format!("{order}.yaml").into(), order, line, column: 3 }
    }

    #[test]
    fn shows_only_what_is_known() {
        let problem = Problem::new("is wrong");
        assert_eq!(problem.to_string(), "is wrong");
        let problem = problem.at(location(1, 0));
        assert_eq!(problem.to_string(), "1.yaml: is wrong");
        let problem = problem.at(location(1, 2)).path(Path::root().key("routes").index(2)).hint("fix it");
        assert_eq!(problem.to_string(), "1.yaml:2:3: routes[2]: is wrong (fix it)");
    }

    #[test]
    fn lists_in_file_order_without_repetitions() {
        let at = |order, line| Problem::new(format!("{order}-{line}")).at(location(order, line));
        let problems = Problems::from(vec![at(1, 1), at(0, 9), at(0, 2), at(0, 9), Problem::new("outside")]);
        let lines: Vec<_> = problems.iter().map(|p| p.message().to_owned()).collect();
        assert_eq!(lines, ["outside", "0-2", "0-9", "1-1"]);
    }

    #[test]
    fn quotes_keys_that_would_read_as_something_else() {
        let path = Path::root().key("upstreams").key("a.b c").key("x-y").index(0).key("");
        assert_eq!(path.to_string(), r#"upstreams."a.b c".x-y[0]."""#);
    }

    #[test]
    fn passwords_in_urls_are_not_repeated() {
        for (message, shown) in [
            ("\"http://alice:hunter2@a.example/x\" is none", "\"http://[redacted]@a.example/x\" is none"),
            ("`redis://:hunter2@a:1` and http://b@c", "`redis://[redacted]@a:1` and http://[redacted]@c"),
            ("http://a.example/@x, https://b", "http://a.example/@x, https://b"),
            ("redis://[user:password@]host", "redis://[user:password@]host"),
            ("redis://${env:USER}@host", "redis://${env:USER}@host"),
            ("nothing", "nothing"),
        ] {
            let problem = Problem::new(message).hint(message);
            assert_eq!((problem.message(), problem.told_hint()), (shown, Some(shown)));
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["upstream", "respond", "redirect"];
        assert_eq!(suggest("upstrem", known.into_iter()), Some("upstream"));
        assert_eq!(suggest("Upstream", known.into_iter()), Some("upstream"));
        assert_eq!(suggest("listen", known.into_iter()), None);
        assert_eq!(suggest("a", ["b"].into_iter()), None);
    }
}
