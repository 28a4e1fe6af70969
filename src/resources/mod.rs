//! What all of the process shares and can run out of: descriptors and memory. Who is about to take more of one asks here, so that
//! the newest and the idle give way before nobody can be served.

mod descriptors;
mod memory;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) use self::{
    descriptors::{Descriptors, Room},
    memory::{Level, Memory, available},
};

/// One for the process.
#[derive(Debug)]
pub(crate) struct Resources {
    pub descriptors: Descriptors,
    pub memory: Memory,
    /// How often a client was told that there are no descriptors.
    refused: AtomicUsize,
}

impl Resources {
    pub(crate) fn new(descriptors: Descriptors) -> Resources {
        Resources { descriptors, memory: Memory::default(), refused: AtomicUsize::new(0) }
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

#[cfg(test)]
impl Resources {
    pub(crate) fn for_test() -> std::sync::Arc<Resources> {
        std::sync::Arc::new(Resources::new(Descriptors::of(1 << 20)))
    }
}
