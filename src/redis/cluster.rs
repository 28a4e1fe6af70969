//! A cluster: who has which slot, and a connection to each master. A task of its own looks who has them: at first, whenever a node is
//! gone or sends elsewhere, and now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use redis::{Cmd, Value, cmd};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Common, Trouble, Watcher,
    link::{Link, Refusal},
    node::{ANSWER, HEARTBEAT, Node, Target, understood},
    servers::{Address, Which},
    topology::{self, Range},
};

pub(super) struct Cluster {
    shared: Arc<Shared>,
    /// Started by the first question.
    keeper: OnceLock<AbortHandle>,
}

struct Shared {
    common: Arc<Common>,
    watcher: Arc<dyn Watcher>,
    members: Mutex<HashMap<Address, Arc<Member>>>,
    state: watch::Sender<State>,
    wake: Arc<Wake>,
}

#[derive(Clone)]
enum State {
    /// For the first time.
    Looking,
    Known(Arc<Table>),
    Unknown(Arc<str>),
}

struct Member {
    address: Address,
    node: Node,
}

/// By slot.
struct Table(Vec<(Range, Arc<Member>)>);

/// Has somebody look who has which slot.
#[derive(Default)]
struct Wake(Notify);

/// Redis has no more in a cluster that works well.
const MOST_MEMBERS: usize = 1000;
/// From one node to another for one question.
const MOST_REDIRECTIONS: usize = 5;
/// A node that sends elsewhere does so for each question until that is known.
const LEAST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(60);

impl Cluster {
    pub(super) fn new(common: Arc<Common>, watcher: Arc<dyn Watcher>) -> Cluster {
        let (state, _) = watch::channel(State::Looking);
        let (members, wake) = (Mutex::default(), Arc::default());
        Cluster {
            shared: Arc::new(Shared { common, watcher, members, state, wake }),
            keeper: OnceLock::new(),
        }
    }

    pub(super) async fn ask<T>(
        &self,
        question: &Cmd,
        slot: u16,
        read: impl Fn(Value) -> Option<T>,
    ) -> Result<T, Trouble> {
        self.keeper.get_or_init(|| tokio::spawn(self.shared.clone().keep()).abort_handle());
        let (mut member, mut asking) = (self.shared.member_of(slot).await.map_err(Trouble::Away)?, false);
        for _ in 0..=MOST_REDIRECTIONS {
            let link = member.node.link().await.map_err(Trouble::Away)?;
            let to = match link.ask(question, asking).await {
                Ok(answer) => return understood(&link, answer, read),
                Err(Refusal::Broken(why)) => return Err(Trouble::Error(why)),
                Err(Refusal::NotNow(why)) => {
                    self.shared.wake.0.notify_one();
                    return Err(Trouble::Error(why));
                }
                Err(Refusal::Moved(to)) => {
                    self.shared.wake.0.notify_one();
                    asking = false;
                    to
                }
                Err(Refusal::Ask(to)) => {
                    asking = true;
                    to
                }
            };
            let next = topology::address(&to, &member.address);
            let next = next.and_then(|address| self.shared.member(&address));
            member = next.ok_or_else(|| Trouble::Error(format!("it sends to {to:?}, which is nowhere")))?;
        }
        Err(Trouble::Error("its nodes send from one to another".to_owned()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
    }
}

impl Watcher for Wake {
    fn up(&self, is_new: bool) {
        if is_new {
            self.0.notify_one();
        }
    }

    fn away(&self, _: &str, is_new: bool) {
        if is_new {
            self.0.notify_one();
        }
    }
}

impl Shared {
    async fn member_of(&self, slot: u16) -> Result<Arc<Member>, Arc<str>> {
        let state = self.state.borrow().clone();
        let state = match state {
            State::Looking => {
                let mut changes = self.state.subscribe();
                let known = changes.wait_for(|state| !matches!(state, State::Looking)).await;
                known.map_or(State::Looking, |state| state.clone())
            }
            known => known,
        };
        match state {
            State::Known(table) => table.member(slot).ok_or_else(|| nobody_has(slot).into()),
            State::Unknown(why) => Err(why),
            State::Looking => Err("it is not connected to any more".into()),
        }
    }

    /// Connected to from its first question on. `None` where there are too many.
    fn member(&self, address: &Address) -> Option<Arc<Member>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.get(address) {
            return Some(member.clone());
        }
        if members.len() >= MOST_MEMBERS {
            return None;
        }
        let node = Node::new(self.common.clone(), Target::Server(address.clone()), self.wake.clone());
        let member = Arc::new(Member { address: address.clone(), node });
        members.insert(address.clone(), member.clone());
        Some(member)
    }

    async fn keep(self: Arc<Self>) {
        let (mut was_up, mut rest) = (None, LEAST_REST);
        loop {
            let (looked, found) = (Instant::now(), self.look().await);
            match found {
                Ok(ranges) => self.adopt(ranges),
                // What was known is better than nothing.
                Err(why) => {
                    self.state.send_if_modified(|state| {
                        let is_known = matches!(state, State::Known(_));
                        if !is_known {
                            *state = State::Unknown(why.into());
                        }
                        !is_known
                    });
                }
            }
            loop {
                let trouble = self.trouble().await;
                let is_new = was_up.replace(trouble.is_none()) != Some(trouble.is_none());
                match &trouble {
                    None => self.watcher.up(is_new),
                    Some(why) => self.watcher.away(why, is_new),
                }
                rest = if trouble.is_none() { HEARTBEAT } else { (rest * 2).clamp(LEAST_REST, LONGEST_REST) };
                let is_woken = timeout(rest, self.wake.0.notified()).await.is_ok();
                if is_woken || trouble.is_some() || looked.elapsed() > LOOK {
                    break;
                }
            }
            // Not all gateways at the same moment.
            sleep(LEAST_REST.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    /// # Errors
    ///
    /// Nobody knows who has which slot, and why.
    async fn look(&self) -> Result<Vec<Range>, String> {
        let (mut why, mut part) = (String::new(), Vec::new());
        for address in self.advisers() {
            let asking = self.slots_by(&address);
            let answer =
                timeout(ANSWER, asking).await.unwrap_or_else(|_| Err("it does not answer".to_owned()));
            match answer {
                Ok(ranges) if topology::gap(&ranges).is_none() => return Ok(ranges),
                // It may have been told of some only; another knows more.
                Ok(ranges) if topology::covered(&ranges) > topology::covered(&part) => part = ranges,
                Ok(ranges) if ranges.is_empty() => {
                    why = format!("{address}: nobody has any slots (is the cluster made?)");
                }
                Ok(_) => {}
                Err(refused) => why = format!("{address}: {refused}"),
            }
        }
        if part.is_empty() { Err(why) } else { Ok(part) }
    }

    /// Those that work first, and not always the same: it may be cut off from the others.
    fn advisers(&self) -> Vec<Address> {
        let Which::Cluster(named) = &self.common.servers.which else { return Vec::new() };
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut advisers: Vec<(bool, Address)> =
            members.values().map(|member| (!member.node.is_up(), member.address.clone())).collect();
        drop(members);
        advisers.extend(named.iter().map(|address| (true, address.clone())));
        fastrand::shuffle(&mut advisers);
        advisers.sort_by_key(|(is_down, _)| *is_down);
        let mut advisers: Vec<Address> = advisers.into_iter().map(|(_, address)| address).collect();
        let mut seen = std::collections::HashSet::new();
        advisers.retain(|address| seen.insert(address.clone()));
        advisers
    }

    async fn slots_by(&self, address: &Address) -> Result<Vec<Range>, String> {
        let login = &self.common.servers.login;
        let link = Link::for_servers(address, login, &self.common).await?;
        let answer = link.ask(cmd("CLUSTER").arg("SLOTS"), false).await.map_err(Refusal::why)?;
        topology::read(answer, address).ok_or_else(|| "what it says of slots is no answer".to_owned())
    }

    fn adopt(&self, ranges: Vec<Range>) {
        let table = ranges.into_iter().filter_map(|range| {
            let member = self.member(&range.master)?;
            Some((range, member))
        });
        let table = Table(table.collect());
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|_, member| table.0.iter().any(|(_, kept)| Arc::ptr_eq(kept, member)));
        drop(members);
        self.state.send_replace(State::Known(Arc::new(table)));
    }

    /// Why some key cannot be asked for, once that is known.
    async fn trouble(&self) -> Option<String> {
        let state = self.state.borrow().clone();
        let table = match state {
            State::Known(table) => table,
            State::Unknown(why) => return Some(why.to_string()),
            State::Looking => return None,
        };
        if let Some(slot) = topology::gap(table.0.iter().map(|(range, _)| range)) {
            return Some(nobody_has(slot));
        }
        let members: HashMap<&Address, &Arc<Member>> =
            table.0.iter().map(|(_, member)| (&member.address, member)).collect();
        let looking = members.values().map(|member| async move {
            let why = member.node.link().await.err()?;
            Some(format!("{}: {why}", member.address))
        });
        join_all(looking).await.into_iter().flatten().next()
    }
}

fn nobody_has(slot: u16) -> String {
    format!("no node has slot {slot}")
}

impl Table {
    fn member(&self, slot: u16) -> Option<Arc<Member>> {
        let after = self.0.partition_point(|(range, _)| range.first <= slot);
        let (range, member) = self.0.get(after.checked_sub(1)?)?;
        (slot <= range.last).then(|| member.clone())
    }
}
