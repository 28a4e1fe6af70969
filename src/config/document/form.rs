//! What can be said of a configuration far from the gateways that are to take it: its form. What it means depends on each
//! gateway: on its own file, which it is read beside, on its variables and on its files. So nothing of `${...}` is looked
//! up here; a value that holds one is passed over.

use std::{env::VarError, path::PathBuf};

use crate::config::{
    document::{
        blank::blank,
        collect::{Start, collect},
        expand::Reach,
        json::whole_characters,
        load::{Includes, Loader},
        node::{At, Entry, Map, Node, Value},
        parts::{self, PartName},
        problem::{Path, Problems, suggest},
        received::KEYS,
        tree,
    },
    model::rollout::RolloutSettings,
};

/// Beside what gateways may be given: what is for the control plane.
const ROLLOUT: &str = "rollout";

/// One of the texts that a configuration is made of.
pub struct Received<'a> {
    /// How problems call it.
    pub label: String,
    /// `None` is the main document.
    pub part: Option<&'a PartName>,
    pub text: &'a str,
}

/// What was found in all of them.
#[derive(Debug)]
pub struct Form {
    pub problems: Problems,
    /// How it is to spread, where the main document says so.
    pub rollout: Option<RolloutSettings>,
    /// The main document as gateways are to read it, where that is another than was written.
    pub sent: Option<String>,
}

/// Whether gateways could read `documents`, as far as that is the same for all of them.
pub fn check_form<'a>(documents: impl IntoIterator<Item = Received<'a>>) -> Form {
    let unset = |_: &str| Err(VarError::NotPresent);
    let mut checker =
        Checker { loader: Loader::new(Reach::All(&unset), Includes::Refused), rollout: None, sent: None };
    for document in documents {
        checker.read(&document);
    }
    let Checker { loader, rollout, sent } = checker;
    let problems = match loader.finish() {
        Ok(loaded) => loaded.into_parts().2,
        Err(problems) => problems,
    };
    Form { problems, rollout, sent }
}

struct Checker<'e> {
    loader: Loader<'e>,
    rollout: Option<RolloutSettings>,
    sent: Option<String>,
}

impl Checker<'_> {
    fn read(&mut self, document: &Received<'_>) {
        let file = self.loader.add_source(document.label.as_str().into(), PathBuf::new());
        let findings = &mut self.loader.findings;
        let known = findings.problems.len();
        let root = tree::parse(&whole_characters(document.text), file, findings);
        let Some(mut root) = root.filter(|root| !root.is_null()) else {
            if findings.problems.len() == known {
                let hint = match document.part {
                    Some(name) => name.kind.example(),
                    None => "send at least one of listeners, routes and upstreams",
                };
                findings.add_with_hint(At::without_line(file, 0), Path::root(), "is empty", hint);
            }
            return self.loader.lose_part();
        };
        pass_over_references(&mut root);
        let root = match document.part {
            Some(name) => parts::configuration(name, root, findings),
            None => self.main(root, document.text),
        };
        self.loader.take(root, &PathBuf::new());
    }

    /// Without what is not for gateways.
    fn main(&mut self, root: Node, text: &str) -> Node {
        let Node { at, value: Value::Map(map), is_partial } = root else { return root };
        let mut kept = Vec::new();
        let mut is_partial = is_partial;
        for entry in map.into_entries() {
            if KEYS.contains(&entry.key.as_str()) {
                kept.push(entry);
            } else if entry.key == ROLLOUT {
                self.rollout(&entry, text);
            } else {
                is_partial = true;
                self.refuse(&entry);
            }
        }
        Node { is_partial, ..Node::new(at, Value::Map(Map::new(kept).0)) }
    }

    fn refuse(&mut self, entry: &Entry) {
        let known = KEYS.into_iter().chain([ROLLOUT]);
        let hint = match suggest(&entry.key, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
        };
        let message = format!("`{}` is not for a configuration that gateways take", entry.key);
        self.loader.findings.add_with_hint(entry.key_at, Path::root(), message, &hint);
    }

    fn rollout(&mut self, entry: &Entry, text: &str) {
        let path = Path::root().key(ROLLOUT);
        let findings = &mut self.loader.findings;
        let start = Start { node: &entry.value, at: entry.value.at, path: &path };
        match collect::<RolloutSettings>(&start, &findings.names) {
            Ok(rollout) => match rollout.fault() {
                Some((key, what, hint)) => findings.add_with_hint(entry.value.at, path.key(key), what, hint),
                None => self.rollout = Some(rollout),
            },
            Err(problems) => problems.into_iter().for_each(|problem| findings.push(problem)),
        }
        match blank(&whole_characters(text), ROLLOUT).filter(|sent| has_no_rollout(sent)) {
            Some(sent) => self.sent = Some(sent),
            None => findings.add_with_hint(
                entry.key_at,
                Path::root(),
                "`rollout` cannot be told from the rest here",
                "write it on lines of its own",
            ),
        }
    }
}

fn has_no_rollout(text: &str) -> bool {
    let mut findings = tree::Findings { names: vec!["".into()], ..Default::default() };
    let root = tree::parse(&whole_characters(text), 0, &mut findings);
    let is_there = |root: &Node| matches!(&root.value, Value::Map(map) if map.entry(ROLLOUT).is_some());
    findings.problems.is_empty() && !root.as_ref().is_some_and(is_there)
}

/// What such a value stands for is each gateway's own.
fn pass_over_references(node: &mut Node) {
    match &mut node.value {
        Value::Scalar(scalar) => {
            if scalar.text.replace("$${", "").contains("${") {
                scalar.text.clear();
                scalar.broken = true;
            }
        }
        Value::List(items) => items.iter_mut().for_each(pass_over_references),
        Value::Map(map) => map.values_mut().for_each(|(_, value)| pass_over_references(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PartKind;

    const ROUTES: &str = "routes: [{upstream: users}]\n";

    fn form(main: &str, parts: &[(PartKind, &str, &str)]) -> Form {
        let names: Vec<_> =
            parts.iter().map(|(kind, name, _)| PartName { kind: *kind, name: (*name).into() }).collect();
        let main = Received { label: "control:edge@3".into(), part: None, text: main };
        let parts = parts.iter().zip(&names).map(|((kind, name, text), part)| Received {
            label: format!("control:edge@3/{}/{name}", kind.key()),
            part: Some(part),
            text,
        });
        check_form([main].into_iter().chain(parts))
    }

    fn problems(main: &str, parts: &[(PartKind, &str, &str)]) -> Vec<String> {
        form(main, parts).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_gateways_could_read_has_no_problems() {
        let parts = [
            (PartKind::Upstream, "cart", "{endpoints: ['127.0.0.1:2']}"),
            (PartKind::Route, "cart", "match: {path: /cart}\nupstream: cart"),
        ];
        let main = "listeners: [{address: '${env:TIDEGATE_IP}:80', name: '$${x}'}]\ntrusted_proxies: [10.0.0.0/8]\n\
                    routes: [{upstream: elsewhere}]\nupstreams: {a: {endpoints: ['${file:a}']}}\nforwarded: {}\npaths: {}\n";
        let form = form(main, &parts);
        assert_eq!(form.problems.to_string(), "");
        assert_eq!((form.rollout, form.sent), (None, None));
    }

    #[test]
    fn problems_stand_at_their_places() {
        let found = problems(
            "routes: [{upstrem: a}]\ncontrol: {}\nadmin: false\nrutes: []\ninclude: [/etc/passwd]\n",
            &[
                (PartKind::Upstream, "cart", "endpoints: [127.0.0.1:1]\nbalancr: random\n"),
                (PartKind::Route, "web", ""),
            ],
        );
        let expected = [
            "control:edge@3:1:11: routes[0]: unknown key `upstrem` (did you mean `upstream`?)",
            "control:edge@3:2:1: `control` is not for a configuration that gateways take (known: ",
            "control:edge@3:3:1: `admin` is not for",
            "control:edge@3:4:1: `rutes` is not for a configuration that gateways take (did you mean `routes`?)",
            "control:edge@3:5:1: `include` is not for",
            "control:edge@3/upstreams/cart:2:1: upstreams.cart: unknown key `balancr` (did you mean `balancer`?)",
            "control:edge@3/routes/web: is empty",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nand not\n{expected}");
        }
        for (text, says) in [
            ("", "control:edge@3: is empty"),
            ("[", "malformed YAML"),
            ("7", "expected a map"),
            ("a\0: 1", "NUL"),
        ] {
            assert!(problems(text, &[])[0].contains(says), "{text}: {:?}", problems(text, &[]));
        }
    }

    #[test]
    fn a_name_in_both_names_both_places() {
        let main = "upstreams: {users: {endpoints: ['127.0.0.1:1']}}";
        let found = problems(main, &[(PartKind::Upstream, "users", "endpoints: ['127.0.0.1:2']")]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`users` already stands at control:edge@3:1:13"), "{found:?}");
    }

    #[test]
    fn how_it_spreads_is_not_for_gateways() {
        let written = format!("rollout: {{waves: [2, 100%], hold: 1s}}\n{ROUTES}");
        let form = form(&written, &[]);
        assert_eq!(form.problems.to_string(), "");
        assert_eq!(form.rollout.unwrap().waves.len(), 2);
        let sent = form.sent.unwrap();
        assert_eq!(sent.find("routes"), written.find("routes"));
        assert!(!sent.contains("rollout"));
        for (rollout, says) in [
            (
                "{waves: [1]}",
                "control:edge@3:1:10: rollout.waves: the last wave is not all gateways (end with",
            ),
            ("{hold: 5}", "control:edge@3:1:17: rollout.hold: 5 is not a duration"),
            ("{wave: []}", "rollout: unknown key `wave` (did you mean `waves`?)"),
        ] {
            let found = problems(&format!("rollout: {rollout}\n{ROUTES}"), &[]);
            assert!(found[0].contains(says), "{rollout}: {found:?}");
        }
    }
}
