//! What all of the process shares and can run out of: descriptors and memory. Who is about to take more of one asks here, so that
//! the newest and the idle give way before nobody can be served.

pub(crate) mod children;
mod descriptors;
mod memory;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

pub(crate) use self::{
    descriptors::{Descriptors, Room},
    memory::{Level, Memory, available},
};

/// One for the process.
#[derive(Debug)]
pub(crate) struct Resources {
    pub descriptors: Descriptors,
    pub memory: Memory,
    /// How often there was no descriptor for somebody.
    refused: AtomicUsize,
}

/// Memory that somebody may come to hold; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lent {
    from: Arc<Resources>,
    bytes: u64,
}

impl Resources {
    pub(crate) fn new(descriptors: Descriptors) -> Resources {
        Resources { descriptors, memory: Memory::default(), refused: AtomicUsize::new(0) }
    }

    /// Let somebody hold so many bytes more than everybody may, as far as there is memory to be lent.
    pub(crate) fn lend(self: &Arc<Self>, bytes: u64) -> Option<Lent> {
        self.memory.lend(bytes).then(|| Lent { from: self.clone(), bytes })
    }

    /// Whether there is a descriptor for another connection to an upstream, for a client with so many requests under way.
    ///
    /// Idle clients may hold so many that none is left for an upstream, and still be too few for a new client to be refused. So each
    /// refusal here has idle clients give way.
    pub(crate) fn may_connect(&self, requests: u32) -> bool {
        let may = self.descriptors.may_connect(requests);
        if !may {
            self.descriptors_ran_short();
        }
        may
    }

    /// A client was told that there are no descriptors: those that are idle are to give theirs up.
    pub(crate) fn descriptors_ran_short(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Grows whenever descriptors ran short.
    pub(crate) fn shortages(&self) -> usize {
        self.refused.load(Relaxed)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.from.memory.take_back(self.bytes);
    }
}

#[cfg(test)]
impl Resources {
    pub(crate) fn for_test() -> Arc<Resources> {
        Arc::new(Resources::new(Descriptors::of(1 << 20)))
    }
}
