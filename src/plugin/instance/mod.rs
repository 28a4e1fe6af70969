//! One instance: a memory of its own, in which a plugin keeps its contexts. One callback runs in it at a time. After a trap its
//! memory is in no state that anybody knows, so it is never entered again.

mod answered;
mod running;
mod starting;
mod turn;

use std::{collections::HashMap, sync::Arc, time::Instant};

use wasmtime::{Store, TypedFunc, WasmParams, WasmResults};

pub(super) use self::turn::granted;
pub(crate) use self::{
    answered::grpc_status,
    running::Failure,
    turn::{Taken, Turn, Verdict},
};

use self::running::{arm, run};
use super::{
    callbacks::Callbacks,
    state::{Context, Done, Own, State},
};
use crate::observe::metrics::PluginCallback;

pub(super) struct Instance {
    store: Store<State>,
    callbacks: Callbacks,
    /// The root contexts, by the numbers that they have in all instances.
    roots: HashMap<u64, u32>,
    next: u32,
    /// It has failed. Known before anybody else can enter.
    is_broken: bool,
}

impl Instance {
    /// Let those roots hear a tick whose time it is. When the next one is due.
    pub(super) fn tick(&mut self, now: Instant) -> Result<Option<Instant>, Failure> {
        let mut due = Vec::new();
        for (id, context) in &mut self.store.data_mut().contexts {
            if let Context::Root(root) = context
                && let (Some(at), Some(period)) = (root.ticks_at, root.tick)
                && at <= now
            {
                root.ticks_at = Some(now + period);
                due.push(*id);
            }
        }
        if let Some(tick) = self.callbacks.tick.clone() {
            for id in due {
                self.call(id, PluginCallback::Tick, &tick, id.cast_signed())?;
            }
        }
        Ok(self.next_tick())
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        let contexts = self.store.data().contexts.values();
        let ticks = contexts.filter_map(|context| match context {
            Context::Root(root) => root.ticks_at,
            Context::Stream(_) => None,
        });
        ticks.min()
    }

    pub(super) fn queue_ready(&mut self, root: u32, queue: u32) -> Result<(), Failure> {
        let Some(ready) = self.callbacks.queue_ready.clone() else { return Ok(()) };
        if !self.store.data().contexts.contains_key(&root) {
            return Ok(());
        }
        self.call(root, PluginCallback::QueueReady, &ready, (root.cast_signed(), queue.cast_signed()))
    }

    /// No more requests will come to that root. Whether it has nothing more to do, as it says now, or has said since.
    pub(super) fn finish_root(&mut self, number: u64) -> Result<bool, Failure> {
        let Some(id) = self.roots.get(&number).copied() else { return Ok(true) };
        let Some(done) = self.root_mut(id) else { return Ok(true) };
        match *done {
            Done::NotAsked => *done = Done::Pending,
            Done::Pending => return Ok(false),
            Done::Said => return Ok(true),
        }
        let said = match self.callbacks.done.clone() {
            Some(done) => self.call(id, PluginCallback::Done, &done, id.cast_signed())?,
            None => 1,
        };
        let Some(done) = self.root_mut(id) else { return Ok(true) };
        if said != 0 {
            *done = Done::Said;
        }
        // It may have said so while it was asked.
        Ok(*done == Done::Said)
    }

    /// A root context is over.
    pub(super) fn remove_root(&mut self, number: u64) -> Result<(), Failure> {
        let finished = self.finish_root(number);
        let Some(id) = self.roots.remove(&number) else { return Ok(()) };
        let deleted = finished.and_then(|_| self.delete(id));
        self.store.data_mut().contexts.remove(&id);
        deleted
    }

    fn root_mut(&mut self, id: u32) -> Option<&mut Done> {
        match self.store.data_mut().contexts.get_mut(&id) {
            Some(Context::Root(root)) => Some(&mut root.done),
            _ => None,
        }
    }

    fn delete(&mut self, id: u32) -> Result<(), Failure> {
        let Some(delete) = self.callbacks.delete.clone() else { return Ok(()) };
        self.call(id, PluginCallback::Delete, &delete, id.cast_signed())
    }

    /// Whoever waits inside it is to look.
    pub(super) fn wake_all(&mut self) {
        for context in self.store.data().contexts.values() {
            if let Context::Stream(stream) = context {
                stream.woken.notify_one();
            }
        }
    }

    pub(super) fn has_roots(&self) -> bool {
        !self.roots.is_empty()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Its memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    /// Its contexts, roots included.
    pub(super) fn contexts(&self) -> usize {
        self.store.data().contexts.len()
    }

    /// The last lines that it wrote.
    pub(super) fn lines(&self) -> String {
        self.store.data().last_lines()
    }

    /// Into a callback of a context, unless the instance has failed.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        id: u32,
        counted: PluginCallback,
        function: &TypedFunc<P, R>,
        arguments: P,
    ) -> Result<R, Failure> {
        if self.is_broken {
            return Err(Failure::of_another());
        }
        let own = self.own();
        own.metrics.called(counted);
        let allowed = own.settings.limits.call;
        self.store.data_mut().effective = id;
        arm(&mut self.store, allowed);
        let called = run(&mut self.store, function, arguments);
        self.is_broken = called.is_err();
        called
    }

    fn own(&self) -> &Arc<Own> {
        self.store.data().plugin.as_ref().expect("an instance is a plugin's")
    }

    fn next_id(&mut self) -> u32 {
        let contexts = &self.store.data().contexts;
        let mut id = self.next;
        while id == 0 || contexts.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        self.next = id.wrapping_add(1);
        id
    }
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
