//! Upstreams and routes that stand beside the file, and orders for endpoints: how they are asked for and given over HTTP.
//! What comes of an order is the process's to say (`app/parts.rs`), which takes one at a time.

use std::fmt;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts as Head,
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Command, State,
    refused::{Reason, Refused},
    serve::RELOAD_TIMEOUT,
};
use crate::{
    api::reply::{self, Reply},
    config::{PartKind, PartName, Stamp, suggest},
};

/// What stands under a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Resource {
    Part(PartKind),
    Endpoint,
}

/// What is to become of something.
#[derive(Debug)]
pub(crate) struct Order {
    pub target: Target,
    pub change: Change,
    pub condition: Condition,
    /// Nothing is changed: it is only said whether it could be.
    pub is_dry: bool,
    /// Who gives it, for logs and for those who ask later.
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Part(PartName),
    Endpoint { upstream: String, endpoint: String },
}

#[derive(Debug)]
pub(crate) enum Change {
    /// YAML or JSON.
    Put(String),
    Remove,
}

impl Change {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Change::Put(_) => "put",
            Change::Remove => "remove",
        }
    }
}

/// What must be so for the order to be carried out (RFC 9110, 13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// `If-Match: *`
    Exists,
    /// `If-None-Match: *`
    IsNew,
    /// `If-Match` with these, without their quotes.
    Is(Vec<String>),
}

/// What came of an order.
pub(crate) type Answer = Result<Done, Refused>;

#[derive(Debug)]
pub(crate) struct Done {
    pub outcome: Outcome,
    pub etag: Option<String>,
    /// In words.
    pub changes: String,
    /// Whether it survives this process.
    pub is_kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Added,
    Changed,
    Unchanged,
    Removed,
    /// It was asked for with `dry_run`, and would be carried out.
    Valid,
}

impl Outcome {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Outcome::Added => "added",
            Outcome::Changed => "changed",
            Outcome::Unchanged => "unchanged",
            Outcome::Removed => "removed",
            Outcome::Valid => "valid",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Part(name) => name.fmt(f),
            Target::Endpoint { upstream, endpoint } => {
                write!(f, "admin:upstreams/{upstream}/endpoints/{endpoint}")
            }
        }
    }
}

impl Target {
    /// The kind by which it is counted.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Target::Part(name) => name.kind.word(),
            Target::Endpoint { .. } => "endpoint",
        }
    }
}

impl Condition {
    /// Looks at what is there.
    ///
    /// # Errors
    ///
    /// The condition does not hold.
    pub(crate) fn check(&self, stamp: Option<&Stamp>) -> Result<(), Refused> {
        let why = match (self, stamp) {
            (Condition::None, _) | (Condition::Exists, Some(_)) | (Condition::IsNew, None) => return Ok(()),
            (Condition::Is(etags), Some(stamp)) if etags.contains(&stamp.etag) => return Ok(()),
            (Condition::Is(_) | Condition::Exists, None) => {
                "there is none of that name (leave `If-Match` out to add it)".to_owned()
            }
            (Condition::Is(_), Some(Stamp { by, at, .. })) => {
                format!(
                    "it is another one by now, by {by} at {at} (GET it, and send the new ETag in `If-Match`)"
                )
            }
            (Condition::IsNew, Some(Stamp { by, at, .. })) => {
                format!("there is one of that name, by {by} at {at} (leave `If-None-Match` out to change it)")
            }
        };
        Err(Refused { etag: stamp.map(|stamp| stamp.etag.clone()), ..Reason::Stale.because(why) })
    }

    pub(super) fn of(headers: &HeaderMap) -> Result<Condition, Refused> {
        let all = |name: HeaderName| headers.get_all(name).iter().collect::<Vec<_>>();
        let (matches, none_matches) = (all(IF_MATCH), all(IF_NONE_MATCH));
        let is_any = |value: &&HeaderValue| value.as_bytes().trim_ascii() == b"*";
        match (matches.as_slice(), none_matches.as_slice()) {
            ([], []) => Ok(Condition::None),
            ([], [only]) if is_any(only) => Ok(Condition::IsNew),
            ([only], []) if is_any(only) => Ok(Condition::Exists),
            (values, []) => {
                let etags = values
                    .iter()
                    .map(|value| value.to_str().ok().and_then(etags))
                    .collect::<Option<Vec<_>>>();
                let why = "`If-Match` is no ETag (send it with its quotes, as it came)";
                Ok(Condition::Is(etags.ok_or_else(|| Reason::BadRequest.because(why))?.concat()))
            }
            (_, _) => {
                let why = "send `If-Match` with an ETag or `*`, or `If-None-Match: *`, and not both";
                Err(Reason::BadRequest.because(why))
            }
        }
    }
}

/// Those of a list, without their quotes. Weak ones never match here (RFC 9110, 8.8.3.2).
fn etags(list: &str) -> Option<Vec<String>> {
    let tags = list.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    tags.map(|tag| {
        let quoted = tag.strip_prefix("W/").unwrap_or(tag);
        let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
        Some(if quoted.len() == tag.len() { inner.to_owned() } else { format!("W/{inner}") })
    })
    .collect()
}

impl Order {
    /// What `head` and `body` ask for of what stands under `names`.
    pub(super) fn of(
        resource: Resource,
        names: &[String],
        head: &Head,
        body: Bytes,
        by: String,
    ) -> Result<Order, Refused> {
        let target = target(resource, names)?;
        if let Target::Part(part) = &target
            && head.method == Method::PUT
        {
            check_name(&part.name)?;
        }
        let is_dry = is_dry(head.uri.query().unwrap_or_default())?;
        let change = match head.method {
            Method::DELETE => Change::Remove,
            _ => Change::Put(String::from_utf8(body.into()).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                Reason::BadRequest
                    .because(format!("the body is not UTF-8 text from byte {at} on (send YAML or JSON)"))
            })?),
        };
        Ok(Order { target, change, condition: Condition::of(&head.headers)?, is_dry, by })
    }
}

/// What the names in a path stand for.
pub(super) fn target(resource: Resource, names: &[String]) -> Result<Target, Refused> {
    match (resource, names) {
        (Resource::Part(kind), [name]) => Ok(Target::Part(PartName { kind, name: name.clone() })),
        (Resource::Endpoint, [upstream, endpoint]) => {
            Ok(Target::Endpoint { upstream: upstream.clone(), endpoint: endpoint.clone() })
        }
        _ => Err(Reason::NotFound.because("there is nothing here (GET / lists what there is)")),
    }
}

/// Names stand in paths, logs, labels and problems, and are to look the same everywhere.
fn check_name(name: &str) -> Result<(), Refused> {
    const LONGEST: usize = 128;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:@+".contains(&byte);
    if (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_good) {
        return Ok(());
    }
    let why =
        format!("a part's name is 1 to {LONGEST} letters of ASCII, digits and `-_.~:@+` (choose another)");
    Err(Reason::BadRequest.because(why))
}

/// What is misspelt must not be taken for an order that is meant.
fn is_dry(query: &str) -> Result<bool, Refused> {
    let mut is_dry = false;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        is_dry = match parameter {
            "dry_run" | "dry_run=" | "dry_run=true" | "dry_run=1" => true,
            "dry_run=false" | "dry_run=0" => false,
            other => {
                let key = other.split('=').next().unwrap_or_default();
                let hint = suggest(key, ["dry_run"].into_iter()).map_or("", |_| "; did you mean `dry_run`?");
                let why = format!(
                    "the only parameter here is `dry_run`, with nothing, `true` or `false` behind it{hint}"
                );
                return Err(Reason::BadRequest.because(why));
            }
        };
    }
    Ok(is_dry)
}

impl State {
    /// Has the process carry out an order.
    pub(super) async fn order(&self, order: Order) -> Reply {
        if self.phase.is_draining() {
            return Reason::Conflict
                .because("the gateway is draining and changes nothing any more")
                .problem();
        }
        let (sender, answer) = oneshot::channel();
        if self.commands.try_send(Command::Order(Box::new(order), sender)).is_err() {
            let why = "the gateway is busy with earlier commands (try again in a moment)";
            return Reason::Busy.because(why).problem();
        }
        match timeout(RELOAD_TIMEOUT, answer).await {
            Ok(Ok(Ok(done))) => said(&done),
            Ok(Ok(Err(refused))) => refused.problem(),
            Ok(Err(_)) | Err(_) => reply::text(
                StatusCode::GATEWAY_TIMEOUT,
                "the order has not been carried out yet, or the gateway began to drain (GET what it is about, or look in the log)",
            ),
        }
    }
}

/// What came of an order.
#[derive(Serialize, JsonSchema)]
pub(super) struct PartOrdered {
    /// `added`, `changed`, `unchanged`, `removed`, or `valid` where it was asked for with `dry_run`.
    result: &'static str,
    /// In words.
    changes: String,
    /// Whether it survives this process.
    kept: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

fn said(done: &Done) -> Reply {
    let status = if done.outcome == Outcome::Added { StatusCode::CREATED } else { StatusCode::OK };
    let note = "it lasts until the gateway ends: configure `state_dir` to keep it";
    let ordered = PartOrdered {
        result: done.outcome.word(),
        changes: done.changes.clone(),
        kept: done.is_kept,
        note: (!done.is_kept).then_some(note),
    };
    tagged(reply::json(status, &ordered), done.etag.as_deref())
}

/// With the ETag of what it is about.
pub(super) fn tagged(mut reply: Reply, etag: Option<&str>) -> Reply {
    if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(format!("\"{etag}\"")).ok()) {
        reply.headers_mut().insert(ETAG, etag);
    }
    reply
}

/// Parts are turned off: what there is can be looked at all the same.
pub(super) fn turned_off() -> Refused {
    let why = "parts are turned off here (`admin.parts: false` in the configuration)";
    Refused { allow: Some("GET, HEAD".into()), ..Reason::Method.because(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(headers: &[(HeaderName, &'static str)]) -> Result<Condition, Reason> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(name, HeaderValue::from_static(value));
        }
        Condition::of(&all).map_err(|refused| refused.reason)
    }

    fn is(etags: &[&str]) -> Condition {
        Condition::Is(etags.iter().map(|etag| (*etag).to_owned()).collect())
    }

    #[test]
    fn conditions_are_read() {
        assert_eq!(condition(&[]), Ok(Condition::None));
        assert_eq!(condition(&[(IF_MATCH, "*")]), Ok(Condition::Exists));
        assert_eq!(condition(&[(IF_NONE_MATCH, " * ")]), Ok(Condition::IsNew));
        assert_eq!(condition(&[(IF_MATCH, "\"a\"")]), Ok(is(&["a"])));
        assert_eq!(
            condition(&[(IF_MATCH, "\"a\", W/\"b\""), (IF_MATCH, "\"c\"")]),
            Ok(is(&["a", "W/b", "c"]))
        );
        for wrong in [
            &[(IF_MATCH, "a")][..],
            &[(IF_MATCH, "\"a")],
            &[(IF_MATCH, "\"a\""), (IF_MATCH, "*")],
            &[(IF_NONE_MATCH, "\"a\"")],
            &[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")],
        ] {
            assert_eq!(condition(wrong), Err(Reason::BadRequest), "{wrong:?}");
        }
    }

    #[test]
    fn conditions_hold_for_what_they_name() {
        let there = Stamp { etag: "a".into(), by: "somebody".into(), at: "then".into() };
        for (condition, for_none, for_this) in [
            (Condition::None, true, true),
            (Condition::Exists, false, true),
            (Condition::IsNew, true, false),
            (is(&["a"]), false, true),
            (is(&["b", "a"]), false, true),
            (is(&["b", "W/a"]), false, false),
            (is(&[]), false, false),
        ] {
            assert_eq!(condition.check(None).is_ok(), for_none, "{condition:?}");
            assert_eq!(condition.check(Some(&there)).is_ok(), for_this, "{condition:?}");
        }
        let refused = is(&["b"]).check(Some(&there)).unwrap_err();
        assert_eq!((refused.reason, refused.etag.as_deref()), (Reason::Stale, Some("a")));
    }

    #[test]
    fn a_misspelt_dry_run_is_no_order() {
        for (query, dry) in [
            ("", Ok(false)),
            ("dry_run", Ok(true)),
            ("dry_run=true", Ok(true)),
            ("dry_run=false", Ok(false)),
            ("dryrun", Err(Reason::BadRequest)),
            ("dry_run=yes", Err(Reason::BadRequest)),
            ("dry_run&x=1", Err(Reason::BadRequest)),
        ] {
            assert_eq!(is_dry(query).map_err(|refused| refused.reason), dry, "{query}");
        }
    }

    #[test]
    fn names_look_the_same_everywhere() {
        let longest = "a".repeat(128);
        for name in ["cart", "cart.shop", "v1:users@eu+x~_-", &longest] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let longer = "a".repeat(129);
        for name in ["", "a/b", "..%2f", "a b", "a\nb", "b\u{fc}cher", "\u{fffd}", "a\0", &longer] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
