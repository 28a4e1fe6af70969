//! What stands behind the memory of one instance: its contexts, the requests lent to it, and what its hostcalls have asked for.
//! What a hostcall causes happens when the callback has returned: plugins hold their tables while it runs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, OnceLock, Weak},
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::sync::{Notify, Semaphore, mpsc::UnboundedSender};
use wasmtime::{Memory, ResourceLimiter, TypedFunc};

use super::{
    Plugin,
    custom::Custom,
    module::Abi,
    outbound::{Answered, Message, Way},
    settings::Settings,
    shared::{Rooms, Shared},
    view::{Status, View},
};

/// The last lines that are told with a failure.
const LINES: usize = 5;

pub(super) struct State {
    /// `None` where a module is only looked at.
    pub plugin: Option<Arc<Own>>,
    pub abi: Abi,
    pub place: Place,
    /// Calls under way, by number.
    pub calls: HashMap<u32, Pending>,
    next_call: u32,
    /// The answer to a call, while the plugin hears of it.
    pub answered: Option<Answered>,
    pub memory: Option<Memory>,
    pub allocate: Option<TypedFunc<i32, i32>>,
    /// The plugin's own allocator runs on behalf of a hostcall, and may call none itself.
    pub allocates: bool,
    /// It has been initialised, and has contexts.
    pub runs: bool,
    pub limiter: Limiter,
    /// What it shares with others: in a trial, with nobody.
    pub common: Common,
    /// By number. There are few, and each hostcall looks for one.
    pub contexts: BTreeMap<u32, Context>,
    /// The one that hostcalls are about.
    pub effective: u32,
    /// It has asked for its `root_id`.
    pub asked_for_root: bool,
    pub lines: VecDeque<String>,
    /// What `get_status` says.
    pub status: (i32, Vec<u8>),
    /// When its own clock began, if it has looked at it.
    pub began: Option<Instant>,
    /// When the running callback had used up its time; known once it has been interrupted.
    pub clock: Clock,
}

/// What an instance has in common with others.
#[derive(Clone)]
pub(super) struct Common {
    pub shared: Arc<Shared>,
    pub rooms: Arc<Rooms>,
    pub custom: Arc<Custom>,
}

/// What all instances of a plugin have in common.
pub(super) struct Own {
    pub settings: Settings,
    pub metrics: crate::observe::metrics::PluginMetrics,
    pub lines: super::lines::Lines,
    pub early: Arc<super::lines::Early>,
    pub common: Common,
    pub way: Arc<Way>,
    /// Itself, once it is whole.
    pub plugin: OnceLock<Weak<Plugin>>,
}

/// Where an instance is, and which of all that were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub slot: usize,
    /// Counted from 1.
    pub serial: u64,
}

impl Place {
    /// Of one that is thrown away.
    pub(super) fn trial() -> Place {
        Place { slot: 0, serial: 0 }
    }

    pub(super) fn is_trial(self) -> bool {
        self.serial == 0
    }
}

pub(super) enum Kind {
    Http,
    Grpc,
    Stream(Messages),
}

/// Messages of a stream, on their way out.
pub(super) struct Messages {
    pub sender: UnboundedSender<Message>,
    /// In bytes.
    pub room: Arc<Semaphore>,
    pub is_closed: bool,
}

/// A call under way: whose it is, and what gives it up when it is dropped.
pub(super) struct Pending {
    pub root: u32,
    pub kind: Kind,
    pub _under_way: Box<dyn Send>,
}

pub(super) enum Context {
    Root(Root),
    Stream(Stream),
}

pub(super) struct Root {
    pub config: Arc<[u8]>,
    /// How often it is to hear `on_tick`.
    pub tick: Option<Duration>,
    pub ticks_at: Option<Instant>,
    pub done: Done,
}

/// Whether a root that is not needed any more has something left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    NotAsked,
    Pending,
    Said,
}

pub(super) struct Stream {
    pub root: u32,
    /// While a callback runs, or the request is paused.
    pub view: Option<Box<dyn View>>,
    /// What hostcalls have asked for since it was last looked at.
    pub wish: Wish,
    pub woken: Arc<Notify>,
}

/// What a plugin wants of a request, beyond what its callbacks return.
#[derive(Default)]
pub(super) struct Wish {
    pub answer: Option<Answer>,
    pub resume: bool,
    pub reset: bool,
}

impl Wish {
    pub(super) fn is_empty(&self) -> bool {
        self.answer.is_none() && !self.resume && !self.reset
    }
}

/// An answer that a plugin gives by itself.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub grpc_status: Option<u8>,
    /// In its own words, for the access log.
    pub detail: String,
    pub fields: Vec<(http::HeaderName, http::HeaderValue)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// In the place of one that cannot be read.
    pub(crate) fn unreadable() -> Answer {
        Answer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            grpc_status: None,
            detail: "its answer cannot be read".to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        }
    }
}

#[derive(Default)]
pub(super) struct Clock {
    pub allowed: Duration,
    /// CPU time of this thread at the first interruption.
    pub since: Option<Duration>,
}

impl Common {
    /// Of an instance that shares nothing.
    fn of_one(settings: Option<&Settings>) -> Common {
        let (vm_id, labels) = match settings {
            Some(settings) => (settings.vm_id.clone(), settings.metric_labels.as_slice()),
            None => (Arc::from(""), &[][..]),
        };
        let rooms = Arc::<Rooms>::default();
        Common { shared: rooms.of(&vm_id), rooms, custom: Arc::new(Custom::new(labels)) }
    }
}

impl State {
    pub(super) fn empty() -> State {
        State::new(None, Abi::V0_2_1, Place::trial())
    }

    pub(super) fn new(plugin: Option<Arc<Own>>, abi: Abi, place: Place) -> State {
        let most = plugin.as_ref().map_or(0, |plugin| plugin.settings.limits.memory);
        let common = match &plugin {
            Some(own) if !place.is_trial() => own.common.clone(),
            own => Common::of_one(own.as_ref().map(|own| &own.settings)),
        };
        State {
            plugin,
            abi,
            place,
            calls: HashMap::new(),
            next_call: 1,
            answered: None,
            memory: None,
            allocate: None,
            allocates: false,
            runs: false,
            limiter: Limiter::new(most),
            common,
            contexts: BTreeMap::new(),
            effective: 0,
            asked_for_root: false,
            lines: VecDeque::new(),
            status: (0, Vec::new()),
            began: None,
            clock: Clock::default(),
        }
    }

    /// The request that hostcalls are about.
    pub(super) fn stream(&mut self) -> Option<&mut Stream> {
        match self.contexts.get_mut(&self.effective) {
            Some(Context::Stream(stream)) => Some(stream),
            _ => None,
        }
    }

    /// What is lent of that request.
    ///
    /// # Errors
    ///
    /// There is none, or it is not lent now.
    pub(super) fn view(&mut self) -> Result<&mut dyn View, Status> {
        self.stream().and_then(|stream| stream.view.as_deref_mut()).ok_or(Status::BadArgument)
    }

    /// The root that the effective context is, or belongs to.
    pub(super) fn root(&mut self) -> Option<(u32, &mut Root)> {
        let id = match self.contexts.get(&self.effective)? {
            Context::Root(_) => self.effective,
            Context::Stream(stream) => stream.root,
        };
        match self.contexts.get_mut(&id) {
            Some(Context::Root(root)) => Some((id, root)),
            _ => None,
        }
    }

    /// A number that no call under way has.
    pub(super) fn next_call(&mut self) -> u32 {
        while self.next_call == 0 || self.calls.contains_key(&self.next_call) {
            self.next_call = self.next_call.wrapping_add(1);
        }
        let number = self.next_call;
        self.next_call = number.wrapping_add(1);
        number
    }

    /// Something happened to this request: whoever waits for it looks.
    pub(super) fn wake(&mut self) {
        if let Some(stream) = self.stream() {
            stream.woken.notify_one();
        }
    }

    /// The last lines that it wrote.
    pub(super) fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join(" | ")
    }

    pub(super) fn remember(&mut self, line: &str) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.chars().take(500).collect());
    }
}

/// Bounds the memory of an instance, its tables included.
pub(super) struct Limiter {
    most: usize,
    used: usize,
    /// More was asked for, which often is why a trap follows.
    pub refused: bool,
}

/// Compilers make one or two.
const MOST_TABLES: usize = 16;
/// An element of a table is a reference.
const ELEMENT: usize = size_of::<usize>();

impl Limiter {
    fn new(most: usize) -> Limiter {
        Limiter { most, used: 0, refused: false }
    }

    fn grow(&mut self, by: usize) -> bool {
        let used = self.used.saturating_add(by);
        if used > self.most {
            self.refused = true;
            return false;
        }
        self.used = used;
        true
    }
}

/// Whether it is no more than what grows allows itself. What fails later stays counted: nothing that a module does takes from the count.
fn is_within(desired: usize, maximum: Option<usize>) -> bool {
    maximum.is_none_or(|maximum| desired <= maximum)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(is_within(desired, maximum) && self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(is_within(desired, maximum) && self.grow(desired.saturating_sub(current).saturating_mul(ELEMENT)))
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        MOST_TABLES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_tables_are_bounded_together() {
        let mut limiter = Limiter::new(1000);
        assert!(limiter.memory_growing(0, 500, None).unwrap());
        assert!(limiter.table_growing(0, 300 / ELEMENT, None).unwrap());
        assert!(!limiter.memory_growing(500, 900, None).unwrap() && limiter.refused);
        assert!(!limiter.table_growing(0, usize::MAX, None).unwrap());
        assert!(limiter.memory_growing(500, 700, None).unwrap());
        assert!(!limiter.table_growing(0, 1, None).unwrap());
        // What fails by its own maximum has taken nothing.
        let mut limiter = Limiter::new(1000);
        assert!(!limiter.memory_growing(0, 900, Some(800)).unwrap());
        assert!(limiter.memory_growing(0, 900, None).unwrap());
    }
}
