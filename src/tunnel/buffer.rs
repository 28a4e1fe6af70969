//! Buffers for bytes on their way, a few kept by each thread. A connection holds one only while something is in it, so
//! ten thousand that are silent hold none.

use std::cell::RefCell;

/// What one read may bring. Of what is longer the rest goes through a pipe, and TLS gives no more than 16 KiB at once.
const SIZE: usize = 64 * 1024;
/// Kept by a thread when they are not in use.
const KEPT: usize = 8;

thread_local! {
    static IDLE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Goes back to the thread on which it is dropped.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(crate) fn take() -> Buffer {
        let kept = IDLE.with_borrow_mut(Vec::pop);
        Buffer(kept.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends keeps nothing.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < KEPT {
                idle.push(buffer);
            }
        });
    }
}
