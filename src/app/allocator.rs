//! Memory that was freed goes back to the system. The allocator (mimalloc) keeps what a reload or a rush of requests had, each
//! thread for itself, and gives it back little by little as the thread allocates again; one that has nothing to do never does.

use std::alloc::{GlobalAlloc, Layout};

use futures::future::join_all;
use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};
use tokio::runtime::Handle;

use super::background_thread::aside;

/// Threads hand memory to each other all the time here; this allocator is made for it. It stands in the library, so that a
/// gateway of one's own has it too.
#[global_allocator]
static ALLOCATOR: Mimalloc = Mimalloc;

struct Mimalloc;

/// What is aligned without asking for it, as nearly all is: blocks of 16 bytes and more to 16, smaller ones to 8 (mimalloc,
/// `MI_MAX_ALIGN_SIZE`, and the assertion in its `_mi_page_malloc_zero`). To ask for it costs several times as much.
fn is_aligned_anyway(size: usize, alignment: usize) -> bool {
    alignment <= 16 && alignment <= size
}

// SAFETY: these are the functions that mimalloc has for this, and what each gives back is aligned: either by itself, or because it
// was asked to. Any of its functions may free or resize what another has allocated.
unsafe impl GlobalAlloc for Mimalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, alignment) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            if is_aligned_anyway(size, alignment) {
                mi_malloc(size)
            } else {
                mi_malloc_aligned(size, alignment)
            }
            .cast()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, alignment) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            if is_aligned_anyway(size, alignment) {
                mi_zalloc(size)
            } else {
                mi_zalloc_aligned(size, alignment)
            }
            .cast()
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: as above.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let alignment = layout.align();
        // SAFETY: as above.
        unsafe {
            if is_aligned_anyway(size, alignment) {
                mi_realloc(block.cast(), size)
            } else {
                mi_realloc_aligned(block.cast(), size, alignment)
            }
            .cast()
        }
    }
}

unsafe extern "C" {
    /// Of the calling thread: take in what other threads have freed of its pages, and free those that are empty. With
    /// `force`, what the whole process has free goes back to the system as well, now.
    fn mi_collect(force: bool);
}

/// The threads that serve, by which each can be reached.
#[derive(Clone)]
pub(crate) struct Allocator {
    threads: Vec<Handle>,
}

impl Allocator {
    pub(crate) fn new(threads: impl IntoIterator<Item = Handle>) -> Allocator {
        Allocator { threads: threads.into_iter().collect() }
    }

    /// Give back what is free. Those that serve do no more of it than a thread must do itself: to return memory to the system
    /// takes milliseconds, and another thread does that.
    pub(crate) async fn give_back(&self) {
        let own = self.threads.iter().map(|thread| thread.spawn(async { collect(false) }));
        // One that has ended holds nothing.
        let _ = join_all(own).await;
        aside(|| collect(true)).await;
    }
}

/// For a process that serves no traffic: its memory comes in pages of 4 KiB from now on. Huge ones save a gateway a twentieth of the
/// time of a request, and cost a control plane a quarter of its memory, as what each stream holds is scattered.
pub(crate) fn use_small_pages() {
    // SAFETY: it takes four numbers. A kernel that does not know it changes nothing.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// See [`mi_collect`].
pub(crate) fn collect(force: bool) {
    // SAFETY: it may be called at any time, from any thread.
    unsafe { mi_collect(force) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_aligned_whatever_its_size() {
        let sizes = (1..=300).chain([1000, 1024, 1025, 4095, 8192, 8200, 70_000, 2_000_000]);
        let layouts = sizes.flat_map(|size| {
            [1, 2, 4, 8, 16, 32, 64, 4096].map(|alignment| Layout::from_size_align(size, alignment).unwrap())
        });
        let mut held = Vec::new();
        for layout in layouts {
            // SAFETY: no size is 0, and each block is resized and freed once, as it was allocated.
            unsafe {
                let grown = Layout::from_size_align(layout.size() * 2, layout.align()).unwrap();
                let resized = ALLOCATOR.realloc(ALLOCATOR.alloc(layout), layout, grown.size());
                let zeroed = ALLOCATOR.alloc_zeroed(layout);
                assert!((0..layout.size()).all(|at| *zeroed.add(at) == 0), "{layout:?}");
                for (block, layout) in [(resized, grown), (zeroed, layout)] {
                    assert!(!block.is_null() && block.addr() % layout.align() == 0, "{layout:?}");
                    held.push((block, layout));
                }
            }
        }
        for (block, layout) in held {
            // SAFETY: as above.
            unsafe { ALLOCATOR.dealloc(block, layout) };
        }
    }
}
