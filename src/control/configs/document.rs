//! What a configuration is made of: a main document, and parts beside it that come and go by themselves. All of it is text, as it was
//! put: what stands there means something only to the gateway that reads it.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use openssl::sha::Sha256;

use crate::{
    config::{PartKind, PartName, Received, RolloutSettings, check_form},
    control::refused::{Located, Reason, Refused},
    upstream::check_service,
    wire::v1,
};

/// Of all texts together. Whoever takes them in one message needs a little more.
pub(crate) const LARGEST: usize = 4 * 1024 * 1024;
const MOST_PARTS: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Documents {
    /// As it was put.
    pub(crate) main: Arc<str>,
    /// As gateways are to read it, where that is another.
    pub(crate) sent: Option<Arc<str>>,
    pub(crate) parts: BTreeMap<PartName, Arc<str>>,
}

impl Documents {
    pub(crate) fn new(main: Arc<str>) -> Documents {
        Documents { main, sent: None, parts: BTreeMap::new() }
    }

    /// Bytes that are kept of it.
    pub(crate) fn size(&self) -> usize {
        let sent = self.sent.as_ref().map_or(0, |sent| sent.len());
        self.main.len() + sent + self.parts.values().map(|text| text.len()).sum::<usize>()
    }

    /// As gateways get them, with their names, in order.
    fn all<'a>(&'a self, config: &'a str) -> impl Iterator<Item = (String, &'a Arc<str>)> {
        let main = (config.to_owned(), self.sent.as_ref().unwrap_or(&self.main));
        let parts = self.parts.iter().map(move |(part, text)| (format!("{config}/{}", path_of(part)), text));
        [main].into_iter().chain(parts)
    }

    pub(crate) fn wire(&self, config: &str) -> Vec<v1::Document> {
        self.all(config).map(|(name, text)| v1::Document { name, text: text.to_string() }).collect()
    }

    /// As it was put.
    pub(crate) fn written(&self, config: &str) -> Vec<v1::Document> {
        Documents { sent: None, ..self.clone() }.wire(config)
    }

    pub(crate) fn sha256(&self, config: &str) -> String {
        let mut hasher = Sha256::new();
        for (name, text) in self.all(config) {
            for bytes in [name.as_bytes(), &[0], text.as_bytes(), &[0]] {
                hasher.update(bytes);
            }
        }
        hasher.finish().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Whether gateways could read it, as far as that is the same for all. The main document is then as they are to get it.
    ///
    /// # Errors
    ///
    /// `too_large`, or `config_rejected` with all problems.
    pub(crate) fn check(
        mut self,
        config: &str,
        version: u64,
    ) -> Result<(Documents, Option<RolloutSettings>), Refused> {
        if self.parts.len() > MOST_PARTS {
            return Err(Reason::TooLarge.because(format!("a configuration has at most {MOST_PARTS} parts")));
        }
        self.sent = None;
        if self.size() > LARGEST {
            return Err(Reason::TooLarge.because("a configuration has at most 4 MiB, with all of its parts"));
        }
        let label = |name: &str| label(config, version, name);
        let named: Vec<_> = self.all(config).map(|(name, _)| name).collect();
        let parts = self.parts.iter().zip(named.iter().skip(1));
        let parts = parts.map(|((part, text), name)| Received { label: label(name), part: Some(part), text });
        let main = Received { label: label(config), part: None, text: &self.main };
        let form = check_form([main].into_iter().chain(parts));
        let problems = form.problems.iter().map(|problem| {
            let at = problem.location();
            let document = at.and_then(|at| named.iter().find(|name| label(name) == *at.file));
            Located {
                message: problem.to_string(),
                document: document.cloned().unwrap_or_default(),
                line: at.map_or(0, |at| at.line),
                column: at.filter(|at| at.line > 0).map_or(0, |at| at.column),
            }
        });
        let problems: Vec<_> = problems.collect();
        if !problems.is_empty() {
            return Err(rejected(problems));
        }
        self.sent = form.sent.map(Into::into);
        Ok((self, form.rollout))
    }
}

/// What a document is called in problems.
fn label(config: &str, version: u64, document: &str) -> String {
    format!("control:{config}@{version}{}", document.strip_prefix(config).unwrap_or_default())
}

/// None of it is in force.
pub(crate) fn rejected(problems: Vec<Located>) -> Refused {
    let why = "the configuration is invalid, and nothing was changed (see `problems`)";
    Refused { problems, ..Reason::ConfigRejected.because(why) }
}

/// `upstreams/users`
pub(crate) fn path_of(part: &PartName) -> String {
    format!("{}/{}", part.kind.key(), part.name)
}

/// # Errors
///
/// `bad_request`: it is neither an upstream's path nor a route's.
pub(crate) fn read_part(path: &str) -> Result<PartName, Refused> {
    let (key, name) = path.split_once('/').unwrap_or((path, ""));
    let kind = PartKind::ALL.into_iter().find(|kind| kind.key() == key).ok_or_else(|| {
        Reason::BadRequest.because(format!("{path:?} is no part (write `upstreams/NAME` or `routes/NAME`)"))
    })?;
    part(kind, name)
}

/// # Errors
///
/// `bad_request`: no part can have this name.
pub(crate) fn part(kind: PartKind, name: &str) -> Result<PartName, Refused> {
    const LONGEST: usize = 128;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:@+".contains(&byte);
    if (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_good) {
        return Ok(PartName { kind, name: name.to_owned() });
    }
    let why =
        format!("a part's name is 1 to {LONGEST} letters of ASCII, digits and `-_.~:@+` (choose another)");
    Err(Reason::BadRequest.because(why))
}

/// Names of configurations are as those of services: they stand in paths of files as well.
///
/// # Errors
///
/// `bad_request`.
pub(crate) fn check_config_name(name: &str) -> Result<(), Refused> {
    // The file system has 255 bytes for a name.
    check_service(name).map_err(|_| {
        let hint =
            "lower-case letters, digits, `-` and `_`, with dots between, such as \"edge\"; at most 128";
        Reason::BadRequest.because(format!("{name:?} is not the name of a configuration ({hint})"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(main: &str, parts: &[(&str, &str)]) -> Documents {
        let parts = parts.iter().map(|(path, text)| (read_part(path).unwrap(), Arc::from(*text))).collect();
        Documents { parts, ..Documents::new(main.into()) }
    }

    #[test]
    fn documents_are_named_in_order_and_known_by_their_sum() {
        let both = documents("a: 1", &[("routes/web", "r"), ("upstreams/users", "u")]);
        let names: Vec<_> = both.wire("edge").into_iter().map(|document| document.name).collect();
        assert_eq!(names, ["edge", "edge/upstreams/users", "edge/routes/web"]);
        let one = documents("x", &[]);
        assert_eq!(one.sha256("e"), "944c01017ec83068782c0ba01e481a89128f081aaffb96abd329b8e5d82d1d34");
        assert_ne!(one.sha256("e"), one.sha256("f"));
    }

    #[test]
    fn problems_say_which_document_they_stand_in() {
        let refused = documents("routes: [{upstrem: a}]", &[("upstreams/users", "endpoint: []")])
            .check("edge", 7)
            .unwrap_err();
        assert_eq!(refused.reason, Reason::ConfigRejected);
        let at: Vec<_> = refused
            .problems
            .iter()
            .map(|problem| (&*problem.document, problem.line, problem.column))
            .collect();
        assert_eq!(at, [("edge", 1, 11), ("edge/upstreams/users", 1, 1)], "{refused:?}");
        assert!(
            refused.problems[0].message.starts_with("control:edge@7:1:11: routes[0]: unknown key `upstrem`")
        );
        assert!(refused.problems[1].message.starts_with("control:edge@7/upstreams/users:1:1: "));
    }

    #[test]
    fn more_than_four_mebibytes_are_too_large() {
        let comment = format!("routes: []\n#{}", "x".repeat(LARGEST));
        let refused = documents(&comment, &[]).check("edge", 1).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLarge);
        let fits = &comment[..LARGEST];
        assert!(documents(fits, &[]).check("edge", 1).is_ok());
        assert!(documents(fits, &[("upstreams/a", "{}")]).check("edge", 1).is_err());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "upstreams", "upstreams/", "listeners/a", "upstreams/a/b", "routes/ä"] {
            assert_eq!(read_part(bad).unwrap_err().reason, Reason::BadRequest, "{bad}");
        }
        for bad in ["", ".", "..", "a/b", "Edge", "a b", "x.", &"x".repeat(129)] {
            assert_eq!(check_config_name(bad).unwrap_err().reason, Reason::BadRequest, "{bad}");
        }
        assert!(check_config_name("edge-1.shop").is_ok());
    }
}
