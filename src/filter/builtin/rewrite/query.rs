//! What an upstream sees of the query: parameters taken off, set and added. A parameter is meant in every form in which an upstream may read it,
//! so that what is taken off is gone, and what is set is said once.

use std::collections::BTreeMap;

use percent_encoding::utf8_percent_encode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::Path,
    filter::{Exchange, Invalid, Template, shared::template::IN_QUERY},
    route::QueryPredicate,
};

/// Edits the query: `remove` runs first, then `set`, then `add`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct QueryEdits {
    /// Takes off parameters by their names; `utm_*` is all that begin so, `*` all.
    remove: Vec<String>,
    /// Replaces all parameters of that name. Values may have placeholders, and are percent-encoded.
    set: BTreeMap<String, String>,
    /// Adds one more parameter of that name.
    add: BTreeMap<String, String>,
}

pub(super) struct Query {
    remove: Vec<Name>,
    set: Vec<Pair>,
    add: Vec<Pair>,
}

/// As [`parameter`] has it.
struct Name {
    text: Vec<u8>,
    /// All that begin with it.
    is_prefix: bool,
}

struct Pair {
    name: Vec<u8>,
    /// As it is written.
    encoded: String,
    value: Template,
}

impl QueryEdits {
    /// `None` where nothing is edited, or something is wrong.
    pub(super) fn build(self, at: &Path, invalid: &mut Vec<Invalid>) -> Option<Query> {
        let known = invalid.len();
        if self.remove.is_empty() && self.set.is_empty() && self.add.is_empty() {
            invalid.push(Invalid::new(at.clone(), "nothing to edit: give remove, set or add"));
        }
        let mut remove = Vec::new();
        for (index, name) in self.remove.iter().enumerate() {
            let (text, is_prefix) =
                name.strip_suffix('*').map_or((name.as_str(), false), |text| (text, true));
            if text.contains('*') || name.is_empty() {
                let why = format!("{name:?} is no name (`*` stands at the end only: `utm_*`)");
                invalid.push(Invalid::new(at.key("remove").index(index), why));
            }
            remove.push(Name { text: text.to_ascii_lowercase().into_bytes(), is_prefix });
        }
        let mut pairs = |pairs: BTreeMap<String, String>, key: &str| -> Vec<Pair> {
            let each = pairs.into_iter().filter_map(|(name, value)| {
                let at = at.key(key).key(&name);
                if name.is_empty() {
                    invalid.push(Invalid::new(at, "a parameter has a name"));
                    return None;
                }
                let encoded = utf8_percent_encode(&name, IN_QUERY).to_string();
                match Template::parse(&value) {
                    Ok(value) => Some(Pair { name: parameter(&encoded), encoded, value }),
                    Err(why) => {
                        invalid.push(Invalid::new(at, why));
                        None
                    }
                }
            });
            each.collect()
        };
        let (set, add) = (pairs(self.set, "set"), pairs(self.add, "add"));
        (invalid.len() == known).then_some(Query { remove, set, add })
    }
}

impl Query {
    pub(super) fn edit(&self, query: Option<&str>, exchange: &Exchange<'_>) -> Option<String> {
        let is_gone = |name: &[u8]| {
            self.set.iter().any(|pair| pair.name == name)
                || self.remove.iter().any(|gone| match gone.is_prefix {
                    true => name.starts_with(&gone.text),
                    false => name == gone.text,
                })
        };
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let mut edited = pairs
            .filter(|pair| !pair.split(';').any(|part| is_gone(&parameter(part))))
            .collect::<Vec<_>>()
            .join("&");
        for Pair { encoded, value, .. } in self.set.iter().chain(&self.add) {
            if !edited.is_empty() {
                edited.push('&');
            }
            let value = value.fill(exchange);
            edited.push_str(&format!("{encoded}={}", utf8_percent_encode(&value, IN_QUERY)));
        }
        (!edited.is_empty()).then_some(edited)
    }
}

/// The name of a parameter as upstreams may read it: decoded, in any case, without the brackets by which PHP makes lists.
pub(super) fn parameter(pair: &str) -> Vec<u8> {
    let name = QueryPredicate::name_of(pair).to_ascii_lowercase();
    let end = name.iter().position(|byte| *byte == b'[').unwrap_or(name.len());
    name[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn edited(yaml: &str, query: Option<&str>) -> Option<String> {
        let edits: QueryEdits = serde_yaml::from_str(yaml).unwrap();
        let query_edits = edits.build(&Path::root(), &mut Vec::new()).unwrap();
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("x-user", "a&b=c d").unwrap();
        let mut facts = Facts::default();
        query_edits.edit(query, &Exchange::new(&mut request, &mut facts))
    }

    #[test]
    fn takes_off_then_sets_then_adds() {
        for (yaml, query, expected) in [
            ("remove: [a]", Some("a=1&b=2"), Some("b=2")),
            ("remove: [a]", Some("a=1"), None),
            ("remove: [a]", None, None),
            ("remove: ['utm_*', fbclid]", Some("utm_source=x&id=7&UTM_Medium=y&fbclid=z"), Some("id=7")),
            ("remove: ['*']", Some("a=1&b"), None),
            ("set: {a: '1'}", Some("a=2&b=3&a=4"), Some("b=3&a=1")),
            ("set: {a: '1'}", None, Some("a=1")),
            ("add: {a: '1'}", Some("a=2"), Some("a=2&a=1")),
            ("{remove: ['*'], set: {x: y}, add: {x: z}}", Some("q"), Some("x=y&x=z")),
            ("set: {user: '{header.x-user}'}", Some("b=1"), Some("b=1&user=a%26b%3Dc%20d")),
            ("set: {'a b': 'é'}", None, Some("a%20b=%C3%A9")),
        ] {
            assert_eq!(edited(yaml, query).as_deref(), expected, "{yaml} {query:?}");
        }
    }

    #[test]
    fn no_spelling_gets_by() {
        for query in ["admin=1", "Admin=1", "%61dmin=1", "admin[]=1", "admin[x]=1", "a=1;admin=1", "admin"] {
            assert_eq!(edited("remove: [admin]", Some(query)), None, "{query}");
            assert_eq!(edited("set: {admin: '0'}", Some(query)).as_deref(), Some("admin=0"), "{query}");
        }
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for yaml in ["{}", "remove: ['']", "remove: ['a*b']", "set: {'': x}", "set: {a: '{nonsense}'}"] {
            let edits: QueryEdits = serde_yaml::from_str(yaml).unwrap();
            let mut invalid = Vec::new();
            assert!(edits.build(&Path::root(), &mut invalid).is_none(), "{yaml}");
            assert_eq!(invalid.len(), 1, "{yaml}");
        }
    }
}
