//! Memory that was freed goes back to the system. The allocator (mimalloc) keeps what a reload or a rush of requests had, each
//! thread for itself, and gives it back little by little as the thread allocates again; one that has nothing to do never does.

use futures::future::join_all;
use tokio::runtime::Handle;

use super::background_thread::aside;

/// Threads hand memory to each other all the time here; this allocator is made for it. It stands in the library, so that a
/// gateway of one's own has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
