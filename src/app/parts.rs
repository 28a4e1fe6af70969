//! Orders for parts, the upstreams and routes beside the file, and for endpoints, one at a time: an order for a part is a
//! reload with another part, one for an endpoint acts on its pool alone. What is in force is written down (`kept`) before
//! it is answered, so that it survives the process.

mod kept;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

pub(super) use self::kept::{Beside, Kept};
use super::{background_thread::aside, reload::Reloader};
use crate::{
    admin::{
        parts::{Answer, Change, Done, Order, Outcome, Target},
        parts_view::{find, unknown},
        refused::{Reason, Refused},
    },
    config::{
        Additions, EndpointOrder, EndpointOrders, OrderedEndpoint, Part, PartKind, PartName, Parts, Problems,
        Stamp,
    },
    observe::{log::event, metrics::Metrics},
    snapshot::Snapshot,
};
use kept::Saved;

impl Reloader {
    /// Carry an order out, or leave everything as it is.
    pub(super) async fn order(self: &Arc<Self>, order: &Order) -> Answer {
        let _turn = self.turn.lock().await;
        let answer = match &order.target {
            Target::Part(name) => self.order_part(name, order).await,
            Target::Endpoint { upstream, endpoint } => self.order_endpoint(upstream, endpoint, order).await,
        };
        self.tell_order(order, &answer);
        answer
    }

    async fn order_part(self: &Arc<Self>, name: &PartName, order: &Order) -> Answer {
        let current = self.current.pin();
        let before = current.additions.parts.get(name);
        order.condition.check(before.map(|part| &part.stamp))?;
        let mut parts = Parts::clone(&current.additions.parts);
        let stamp = stamp(order);
        let outcome = match (&order.change, before) {
            (Change::Put(text), Some(before)) if *text == before.text => {
                return Ok(self.done(Outcome::Unchanged, Some(before.stamp.etag.clone()), "nothing"));
            }
            (Change::Put(text), before) => {
                parts.put(name.clone(), Part { text: text.clone(), stamp: stamp.clone() });
                if before.is_some() { Outcome::Changed } else { Outcome::Added }
            }
            (Change::Remove, Some(_)) => {
                parts.remove(name);
                Outcome::Removed
            }
            (Change::Remove, None) => return Err(is_no_part(&current, name)),
        };
        if let Change::Put(_) = order.change {
            self.check_limits(&parts, count_orders(&current))?;
        }
        let additions = Additions { parts: Arc::new(parts), ..current.additions.clone() };
        if order.is_dry {
            self.check(additions).await.map_err(|problems| rejected(name, &problems))?;
            return Ok(self.done(Outcome::Valid, None, "nothing"));
        }
        let (before, began) = (self.current.pin().hash, Instant::now());
        let changes = self.take_in(additions).await.map_err(|error| error.refused(name))?;
        self.note_reload(&order.by, began.elapsed(), before, &changes).await;
        let etag = (outcome != Outcome::Removed).then_some(stamp.etag);
        Ok(self.done(outcome, etag, &changes))
    }

    /// As a reload does, but that it is written down before it is in force.
    async fn take_in(self: &Arc<Self>, additions: Additions) -> Result<String, Failed> {
        let Some(plan) = self.clone().read(additions).await? else { return Ok("nothing".to_owned()) };
        let ready = self.prepare(plan).await?;
        let before = Saved::of(&ready.previous);
        self.keep(Saved::of(&ready.next)).await.map_err(Failed::Unkept)?;
        match self.put_in_force(ready).await {
            Ok(changes) => {
                self.recorder.metrics.reload_succeeded(SystemTime::now());
                Ok(changes)
            }
            Err(problems) => {
                // It is in the log where that fails.
                let _ = self.keep(before).await;
                Err(problems.into())
            }
        }
    }

    async fn order_endpoint(self: &Arc<Self>, name: &str, endpoint: &str, order: &Order) -> Answer {
        let current = self.current.pin();
        let upstream = find(&current, name)?;
        let (orders, endpoints) = (upstream.orders(), upstream.endpoints());
        let before = orders.get(endpoint);
        order.condition.check(before.map(|ordered| &ordered.stamp))?;
        let mut next = EndpointOrders::clone(&orders);
        let stamp = stamp(order);
        let (outcome, changes) = match (&order.change, before) {
            (Change::Put(text), before) => {
                let there = || endpoints.iter().map(|endpoint| &*endpoint.name);
                if before.is_none() && !there().any(|name| name == endpoint) {
                    return Err(unknown("endpoint", endpoint, there()));
                }
                let ordered = EndpointOrder::read(text, &order.target.to_string());
                let ordered = ordered.map_err(|problems| invalid(&problems))?;
                if let Some(before) = before.filter(|before| before.order == ordered) {
                    return Ok(self.done(Outcome::Unchanged, Some(before.stamp.etag.clone()), "nothing"));
                }
                next.insert(endpoint.to_owned(), OrderedEndpoint { order: ordered, stamp: stamp.clone() });
                let outcome = if before.is_some() { Outcome::Changed } else { Outcome::Added };
                (outcome, format!("{endpoint} has the weight {}", ordered.weight()))
            }
            (Change::Remove, Some(_)) => {
                next.remove(endpoint);
                (Outcome::Removed, format!("{endpoint} has the weight that is configured"))
            }
            (Change::Remove, None) => {
                return Err(Reason::NotFound.because(format!("nothing is ordered of {endpoint}")));
            }
        };
        let more = next.len().saturating_sub(orders.len());
        if more > 0 {
            self.check_limits(&current.additions.parts, count_orders(&current) + more)?;
        }
        if order.is_dry {
            return Ok(self.done(Outcome::Valid, None, &changes));
        }
        self.keep(Saved::with(&current, name, &next))
            .await
            .map_err(|why| Failed::Unkept(why).into_refused())?;
        upstream.order(Arc::new(next));
        let etag = (outcome != Outcome::Removed).then_some(stamp.etag);
        Ok(self.done(outcome, etag, &changes))
    }

    fn check_limits(&self, parts: &Parts, orders: usize) -> Result<(), Refused> {
        let config = &self.current.pin().config;
        // Where they are turned off, nobody comes so far.
        let Some(limits) = config.admin.parts() else { return Ok(()) };
        let count = PartKind::ALL.iter().map(|kind| parts.count(*kind)).sum::<usize>() + orders;
        if count > limits.most.get() {
            let why = format!(
                "there are {} parts and orders for endpoints already (remove some, or raise `admin.parts.most`)",
                limits.most
            );
            return Err(Reason::Limit.because(why));
        }
        if parts.size() > limits.total_size.bytes() {
            let why = format!(
                "all parts together would be larger than {} (remove some, or raise `admin.parts.total_size`)",
                limits.total_size
            );
            return Err(Reason::Limit.because(why));
        }
        Ok(())
    }

    fn done(&self, outcome: Outcome, etag: Option<String>, changes: &str) -> Done {
        Done { outcome, etag, changes: changes.to_owned(), is_kept: self.kept.is_durable() }
    }

    async fn keep(&self, saved: Saved) -> Result<(), String> {
        let kept = self.kept.clone();
        let written = aside(move || kept.write(saved)).await;
        let written = written.unwrap_or_else(|| Err("writing it failed, see the log".to_owned()));
        if let Err(why) = &written {
            self.recorder.metrics.parts().count_save_error();
            log::error!("cannot keep the parts of the configuration: {why}");
        }
        written
    }

    /// After a reload, which nobody takes back where this fails: it is told, and tried again after the next.
    pub(super) async fn keep_what_is_in_force(&self) {
        let snapshot = self.current.pin();
        // It is in the log where that fails.
        let _ = self.keep(Saved::of(&snapshot)).await;
        count(&snapshot, &self.recorder.metrics);
    }

    /// A successor reads what is kept, and without `state_dir` nothing is.
    pub(super) fn warn_of_loss(&self) {
        let snapshot = self.current.pin();
        let has_any = !snapshot.additions.parts.is_empty() || count_orders(&snapshot) > 0;
        if has_any && !self.kept.is_durable() {
            log::warn!(
                "parts beside the file are lost with this process: configure `state_dir` to keep them"
            );
        }
    }

    fn tell_order(&self, order: &Order, answer: &Answer) {
        let metrics = &self.recorder.metrics;
        let (target, by) = (&order.target, &order.by);
        match answer {
            Ok(done) => {
                let result = done.outcome.word();
                if !order.is_dry {
                    self.journal.ordered(by, order.change.word(), &target.to_string(), Ok(&done.changes));
                }
                metrics.parts().count_order(target.kind(), result);
                if !order.is_dry {
                    count(&self.current.pin(), metrics);
                    event!(
                        Warn,
                        "part ordered",
                        part = target,
                        result = result,
                        changes = done.changes,
                        by = by
                    );
                }
            }
            Err(refused) => {
                metrics.parts().count_order(target.kind(), "refused");
                let why = if refused.problems.is_empty() {
                    refused.why.clone()
                } else {
                    refused.problems.join("; ")
                };
                if !order.is_dry {
                    self.journal.ordered(by, order.change.word(), &target.to_string(), Err(&why));
                }
                event!(
                    Warn,
                    "part refused",
                    part = target,
                    reason = refused.reason.code(),
                    why = why,
                    by = by
                );
            }
        }
    }
}

/// Why parts could not be put in force.
enum Failed {
    Rejected(Problems),
    Unkept(String),
}

impl From<Problems> for Failed {
    fn from(problems: Problems) -> Failed {
        Failed::Rejected(problems)
    }
}

impl Failed {
    fn refused(self, name: &PartName) -> Refused {
        match self {
            Failed::Rejected(problems) => rejected(name, &problems),
            Failed::Unkept(_) => self.into_refused(),
        }
    }

    fn into_refused(self) -> Refused {
        match self {
            Failed::Rejected(problems) => invalid(&problems),
            Failed::Unkept(why) => {
                Reason::StoreUnavailable.because(format!("it cannot be kept, and nothing was changed: {why}"))
            }
        }
    }
}

/// The configuration with the part of this name is none.
fn rejected(name: &PartName, problems: &Problems) -> Refused {
    if !problems.iter().any(|problem| problem.is_of_a_name_twice() && name.has(problem)) {
        return invalid(problems);
    }
    let why = format!(
        "the file, or the configuration from the control plane, says something of that name (change it there, or \
         choose another name than {:?})",
        name.name
    );
    Refused { problems: lines(problems), ..Reason::Conflict.because(why) }
}

fn invalid(problems: &Problems) -> Refused {
    let why = "the configuration with it is invalid, and nothing was changed (see `problems`)";
    Refused { problems: lines(problems), ..Reason::ConfigRejected.because(why) }
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// What is to be removed was never added.
fn is_no_part(current: &Snapshot, name: &PartName) -> Refused {
    let is_of_file = match name.kind {
        PartKind::Upstream => current.upstreams.contains_key(&name.name),
        PartKind::Route => current.routes.iter().any(|route| *route.name == *name.name),
    };
    let word = name.kind.word();
    if is_of_file {
        let why = format!(
            "the {word} {} is no part: it stands in the file, or in the configuration from the control plane (remove it \
             there)",
            name.name
        );
        return Reason::Conflict.because(why);
    }
    let known = current.additions.parts.iter().filter(|(known, _)| known.kind == name.kind);
    unknown(&format!("part that is the {word}"), &name.name, known.map(|(known, _)| known.name.as_str()))
}

fn stamp(order: &Order) -> Stamp {
    Stamp {
        // Of all that ever was, so that nobody takes one for another.
        etag: format!("{:016x}", fastrand::u64(..)),
        by: order.by.clone(),
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
    }
}

fn count_orders(snapshot: &Snapshot) -> usize {
    snapshot.upstreams.values().map(|upstream| upstream.orders().len()).sum()
}

/// How many are in force.
pub(super) fn count(snapshot: &Snapshot, metrics: &Metrics) {
    for kind in PartKind::ALL {
        metrics.parts().set(kind.word(), snapshot.additions.parts.count(kind));
    }
    metrics.parts().set("endpoint", count_orders(snapshot));
}
