//! HTTP/1 connections that nobody uses for the moment, by the pool's name for them. The one that served last serves next, so
//! that those too many grow old; a sweep closes them, and those that their upstreams have closed.
//!
//! Each thread keeps those whose sockets its own runtime watches, and looks there first, so that threads do not wait for each
//! other. One that another thread keeps is [moved](adopt) here where that costs less than a new one: in plain text not while
//! its own thread uses it again and again, as it would only be fetched back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use pingora_core::protocols::Stream;
use tokio::{io::AsyncReadExt, runtime::Handle, task::unconstrained};

use super::adopt::adopt;
use crate::{
    sharded::Sharded,
    upstream::{IdleLimit, IdleSlot},
};

/// How long a connection that its upstream has closed, or whose time is over, may still hold its descriptor.
const SWEEP: Duration = Duration::from_secs(1);
/// A connection that its thread has not wanted for so long may go to another one.
const UNWANTED: Duration = Duration::from_millis(100);

pub(super) struct Idle {
    /// For each thread.
    most: usize,
    shelves: Arc<Shelves>,
    /// Where the sweep runs: not on the thread that happens to be the first to keep something.
    background: Handle,
    is_swept: AtomicBool,
}

type Shelves = Sharded<Shelf>;

/// What one thread keeps.
#[derive(Default)]
struct Shelf {
    by_key: Mutex<HashMap<u64, Vec<IdleConnection>>>,
    /// Changed under the lock; read by the other threads without it.
    count: AtomicUsize,
}

struct IdleConnection {
    stream: Stream,
    place: IdleSlot,
    since: Instant,
    /// `None` for longer than there is time.
    until: Option<Instant>,
}

impl IdleConnection {
    /// Its time is over, or it is held to be dead. Most need no clock.
    fn is_over(&self, now: impl FnOnce() -> Instant) -> bool {
        self.place.is_void() || self.until.is_some_and(|until| until <= now())
    }
}

impl Idle {
    /// To be made within the runtime that runs what nobody waits for.
    pub(super) fn new(most: usize, threads: usize) -> Idle {
        let shelves: Shelves = Sharded::of(threads);
        let most = most.div_ceil(shelves.all().count());
        Idle {
            most,
            shelves: Arc::new(shelves),
            background: Handle::current(),
            is_swept: AtomicBool::new(false),
        }
    }

    /// One that is there and quiet: an upstream that says something unasked is of no use.
    /// `is_secure` says that a new one would have to shake hands.
    pub(super) fn take(&self, key: u64, is_secure: bool, limit: &IdleLimit) -> Option<Stream> {
        let shelf = self.shelves.mine();
        while let Some(mut parked) = shelf.take_newest(key) {
            if !parked.is_over(Instant::now) && is_quiet(&mut parked.stream) {
                return Some(parked.stream);
            }
        }
        self.shelves.others().find_map(|shelf| take_over(shelf, key, is_secure, limit))
    }

    /// Keep a connection for the next who asks for its name.
    pub(super) fn put(&self, key: u64, mut stream: Stream, limit: &IdleLimit) {
        if !is_quiet(&mut stream) {
            return;
        }
        let Some(place) = limit.take() else { return };
        let since = Instant::now();
        let until = since.checked_add(limit.idle_timeout);
        let shelf = self.shelves.mine();
        if shelf.count.load(Relaxed) >= self.most {
            return;
        }
        shelf.put(key, IdleConnection { stream, place, since, until });
        if !self.is_swept.load(Relaxed) && !self.is_swept.swap(true, Relaxed) {
            self.background.spawn(sweep(Arc::downgrade(&self.shelves)));
        }
    }
}

/// One of another thread's. It need not have been left alone where a new one costs much more than fetching it back: a
/// handshake, or one each time, because no more may be kept.
fn take_over(shelf: &Shelf, key: u64, is_secure: bool, limit: &IdleLimit) -> Option<Stream> {
    if shelf.count.load(Relaxed) == 0 {
        return None;
    }
    let any = is_secure || limit.is_reached();
    let unwanted = Instant::now().checked_sub(if any { Duration::ZERO } else { UNWANTED })?;
    loop {
        let mut parked = shelf.take_oldest(key, unwanted)?;
        if !parked.is_over(Instant::now)
            && is_quiet(&mut parked.stream)
            && let Ok(stream) = adopt(parked.stream)
        {
            return Some(stream);
        }
    }
}

async fn sweep(shelves: Weak<Shelves>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(shelves) = shelves.upgrade() else { return };
        for shelf in shelves.all() {
            let keys: Vec<u64> = shelf.lock().keys().copied().collect();
            for key in keys {
                // One name at a time: requests wait for the lock. Closing takes system calls, so that is done outside.
                let closed = shelf.leave(key, Instant::now());
                drop(closed);
            }
        }
    }
}

impl Shelf {
    fn put(&self, key: u64, connection: IdleConnection) {
        let mut by_key = self.lock();
        by_key.entry(key).or_default().push(connection);
        self.count.fetch_add(1, Relaxed);
    }

    fn take_newest(&self, key: u64) -> Option<IdleConnection> {
        let mut by_key = self.lock();
        let parked = by_key.get_mut(&key)?.pop()?;
        self.count.fetch_sub(1, Relaxed);
        Some(parked)
    }

    /// If it has been here since `unwanted`, or longer.
    fn take_oldest(&self, key: u64, unwanted: Instant) -> Option<IdleConnection> {
        let mut by_key = self.lock();
        let parked = by_key.get_mut(&key)?;
        if parked.first()?.since > unwanted {
            return None;
        }
        self.count.fetch_sub(1, Relaxed);
        Some(parked.remove(0))
    }

    /// Take out what is of no more use.
    fn leave(&self, key: u64, now: Instant) -> Vec<IdleConnection> {
        let mut by_key = self.lock();
        let Some(parked) = by_key.get_mut(&key) else { return Vec::new() };
        let is_over = |parked: &IdleConnection| parked.is_over(|| now);
        let left: Vec<IdleConnection> =
            parked.extract_if(.., |parked| is_over(parked) || !is_quiet(&mut parked.stream)).collect();
        if parked.is_empty() {
            by_key.remove(&key);
        }
        self.count.fetch_sub(left.len(), Relaxed);
        left
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<IdleConnection>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neither closed nor anything to read. Costs a system call only where something has happened.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    unconstrained(stream.read(&mut byte)).now_or_never().is_none()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::sharded::number_this_thread;

    async fn pair(listener: &TcpListener) -> (Stream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stream = pingora_core::protocols::l4::stream::Stream::from(client.unwrap());
        (Box::new(stream), server.unwrap().0)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn keep(most: usize, idle_timeout: Duration) -> IdleLimit {
        IdleLimit::new(&Arc::default(), most, idle_timeout)
    }

    #[tokio::test]
    async fn the_last_one_serves_next_and_none_without_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (idle, keep) = (Idle::new(8, 1), keep(2, LONG));
        let (mut servers, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (stream, server) = pair(&listener).await;
            ids.push(stream.id());
            servers.push(server);
            idle.put(1, stream, &keep);
        }
        assert!(idle.take(2, false, &keep).is_none());
        // The third was one too many.
        let taken: Vec<_> = std::iter::from_fn(|| Some(idle.take(1, false, &keep)?.id())).collect();
        assert_eq!(taken, [ids[1], ids[0]]);
        let (stream, _server) = pair(&listener).await;
        idle.put(1, stream, &self::keep(8, Duration::ZERO));
        assert!(idle.take(1, false, &keep).is_none());
    }

    #[tokio::test]
    async fn what_is_closed_says_something_or_is_old_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (idle, keep) = (Idle::new(8, 1), keep(8, LONG));
        let (stream, gone) = pair(&listener).await;
        idle.put(1, stream, &keep);
        drop(gone);
        let (stream, talking) = pair(&listener).await;
        idle.put(1, stream, &keep);
        talking.writable().await.unwrap();
        talking.try_write(b"408").unwrap();
        let (stream, _old) = pair(&listener).await;
        idle.put(2, stream, &self::keep(8, Duration::from_secs(1)));
        let (stream, _quiet) = pair(&listener).await;
        let id = stream.id();
        idle.put(2, stream, &keep);
        let leave = |key, now| {
            let shelf = idle.shelves.mine();
            (shelf.leave(key, now).len(), shelf.count.load(Relaxed))
        };
        // Until both have been heard.
        while leave(1, Instant::now()).1 > 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(leave(2, Instant::now() + Duration::from_secs(2)), (1, 1));
        assert_eq!(idle.take(2, false, &keep).map(|stream| stream.id()), Some(id));
    }

    /// Another thread that serves, for as long as `task` takes.
    async fn elsewhere<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, done) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            number_this_thread(1);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            assert!(sender.send(runtime.block_on(task)).is_ok());
        });
        done.await.unwrap()
    }

    #[tokio::test]
    async fn a_thread_takes_of_another_only_what_that_one_does_not_want_and_it_works_there() {
        number_this_thread(0);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (idle, connections) = (Arc::new(Idle::new(8, 2)), Arc::default());
        let [keep, full] = [2, 1].map(|most| IdleLimit::new(&connections, most, LONG));
        let (stream, mut server) = pair(&listener).await;
        let opened = stream.get_timing_digest()[0].as_ref().unwrap().established_ts;
        idle.put(1, stream, &keep);
        let take = |limit: &IdleLimit| {
            let (idle, limit) = (idle.clone(), limit.clone());
            elsewhere(async move {
                let mut stream = idle.take(1, false, &limit)?;
                stream.write_all(b"here").await.unwrap();
                stream.flush().await.unwrap();
                let mut answer = [0; 4];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"well");
                Some(stream.get_timing_digest()[0].as_ref().unwrap().established_ts)
            })
        };
        assert!(take(&keep).await.is_none(), "its own thread has just used it");
        // One more than may be kept would not be kept for long.
        let answering = async {
            let mut asked = [0; 4];
            server.read_exact(&mut asked).await.unwrap();
            server.write_all(b"well").await.unwrap();
        };
        let (taken, ()) = tokio::join!(take(&full), answering);
        assert_eq!(taken, Some(opened), "the same connection");
        assert!(idle.take(1, false, &keep).is_none());
    }
}
