//! The threads of the process that serve connections: one runtime for each, which nothing leaves. The first is the thread
//! that the process began with; what runs beside the traffic (signals, the admin API, health checks, names, sweepers) runs
//! there as well.
//!
//! Not one runtime that shares its work between threads: looking for work of others, and being woken by them, costs each
//! request 5 % and more of its time.

use std::{io, sync::mpsc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

use crate::sharded::number_this_thread;

/// A thread that does not end on its own has had its time, and the process has promised when it ends.
const ENDING: Duration = Duration::from_millis(200);

pub(crate) struct Threads {
    first: Runtime,
    others: Vec<Other>,
    /// Held by each of the others while it runs.
    runs: mpsc::Sender<()>,
    /// Hears when the last of the others has ended.
    ended: mpsc::Receiver<()>,
}

struct Other {
    runtime: Handle,
    /// Dropped, it ends the thread.
    _goes_on: oneshot::Sender<()>,
}

impl Threads {
    /// The first alone.
    ///
    /// # Errors
    ///
    /// The kernel refuses what a runtime needs.
    pub(crate) fn start() -> io::Result<Threads> {
        let first = runtime()?;
        number_this_thread(0);
        let (runs, ended) = mpsc::channel();
        Ok(Threads { first, others: Vec::new(), runs, ended })
    }

    /// So many in all, the first included.
    ///
    /// # Errors
    ///
    /// The kernel refuses a thread, or what a runtime needs.
    pub(crate) fn grow(&mut self, count: usize) -> io::Result<()> {
        for number in self.others.len() + 1..count {
            self.others.push(Other::start(number, self.runs.clone())?);
        }
        Ok(())
    }

    /// Call what needs a runtime around it, and does not wait.
    pub(crate) fn within<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.first.enter();
        make()
    }

    /// Run `main` on the first thread, beside what it serves. The others serve meanwhile.
    pub(crate) fn run<T>(&self, main: impl Future<Output = T>) -> T {
        self.first.block_on(main)
    }

    pub(crate) fn first(&self) -> &Handle {
        self.first.handle()
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = Handle> {
        self.others.iter().map(|other| other.runtime.clone())
    }

    /// End them, whatever still runs there: what they had to finish was given its time before.
    pub(crate) fn stop(self) {
        drop((self.others, self.runs));
        self.first.shutdown_background();
        // Nothing is ever said; it ends when all who could have.
        let _ = self.ended.recv_timeout(ENDING);
    }
}

impl Other {
    fn start(number: usize, runs: mpsc::Sender<()>) -> io::Result<Other> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (goes_on, ended) = oneshot::channel();
        thread::Builder::new().name(format!("tidegate-{number}")).spawn(move || {
            number_this_thread(number);
            // It is never sent anything.
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
            drop(runs);
        })?;
        Ok(Other { runtime: handle, _goes_on: goes_on })
    }
}

/// A thread of its own has nobody to share work with, and this scheduler knows that.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().thread_name("tidegate-aside").enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runs_what_it_is_given_on_a_thread_of_its_own() {
        let mut threads = Threads::start().unwrap();
        threads.grow(3).unwrap();
        let name = async || thread::current().name().map(str::to_owned);
        let first = thread::current().id();
        let names = threads.run(async {
            assert_eq!(thread::current().id(), first);
            let others: Vec<_> = threads.others().map(|runtime| runtime.spawn(name())).collect();
            futures::future::join_all(others).await
        });
        let names: Vec<_> = names.into_iter().map(|name| name.unwrap().unwrap()).collect();
        assert_eq!(names, ["tidegate-1", "tidegate-2"]);
        threads.stop();
    }

    #[test]
    fn a_panic_ends_the_task_alone() {
        let mut threads = Threads::start().unwrap();
        threads.grow(2).unwrap();
        let other = threads.others().next().unwrap();
        let answer = threads.run(async {
            assert!(other.spawn(async { panic!("as a test") }).await.unwrap_err().is_panic());
            other.spawn(async { 7 }).await.unwrap()
        });
        assert_eq!(answer, 7);
        threads.stop();
    }
}
