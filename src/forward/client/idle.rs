//! HTTP/1 connections that nobody uses for the moment, by the pool's name for them. The one that served last serves next, so
//! that those too many grow old; a sweep closes them, and those that their upstreams have closed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures::FutureExt;
use pingora_core::protocols::Stream;
use tokio::{io::AsyncReadExt, task::unconstrained};

use crate::upstream::{IdleLimit, IdleSlot};

/// How long a connection that its upstream has closed, or whose time is over, may still hold its descriptor.
const SWEEP: Duration = Duration::from_secs(1);

pub(super) struct Idle {
    /// All together.
    most: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<u64, Vec<IdleConnection>>,
    count: usize,
    is_swept: bool,
}

struct IdleConnection {
    stream: Stream,
    _place: IdleSlot,
    /// `None` for longer than there is time.
    until: Option<Instant>,
}

impl Idle {
    pub(super) fn new(most: usize) -> Idle {
        Idle { most, kept: Arc::default() }
    }

    /// One that is there and quiet: an upstream that says something unasked is of no use.
    pub(super) fn take(&self, key: u64) -> Option<Stream> {
        loop {
            let mut parked = {
                let mut kept = lock(&self.kept);
                let parked = kept.by_key.get_mut(&key)?.pop()?;
                kept.count -= 1;
                parked
            };
            // Read at last, so that most need no clock: a sweep was here a moment ago.
            if is_quiet(&mut parked.stream) && parked.until.is_none_or(|until| Instant::now() < until) {
                return Some(parked.stream);
            }
        }
    }

    /// IdleLimit a connection for the next who asks for its name.
    pub(super) fn put(&self, key: u64, mut stream: Stream, limit: &IdleLimit) {
        if !is_quiet(&mut stream) {
            return;
        }
        let Some(_place) = limit.take() else { return };
        let until = Instant::now().checked_add(limit.idle_timeout);
        let mut kept = lock(&self.kept);
        if kept.count >= self.most {
            return;
        }
        kept.count += 1;
        kept.by_key.entry(key).or_default().push(IdleConnection { stream, _place, until });
        if !kept.is_swept {
            kept.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.kept)));
        }
    }
}

async fn sweep(kept: Weak<Mutex<Kept>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(kept) = kept.upgrade() else { return };
        let keys: Vec<u64> = lock(&kept).by_key.keys().copied().collect();
        for key in keys {
            // One name at a time: requests wait for the lock. Closing takes system calls, so that is done outside.
            let closed = lock(&kept).leave(key, Instant::now());
            drop(closed);
        }
    }
}

impl Kept {
    /// Take out what is of no more use.
    fn leave(&mut self, key: u64, now: Instant) -> Vec<IdleConnection> {
        let Some(parked) = self.by_key.get_mut(&key) else { return Vec::new() };
        let is_over = |parked: &IdleConnection| parked.until.is_some_and(|until| until <= now);
        let left: Vec<IdleConnection> =
            parked.extract_if(.., |parked| is_over(parked) || !is_quiet(&mut parked.stream)).collect();
        if parked.is_empty() {
            self.by_key.remove(&key);
        }
        self.count -= left.len();
        left
    }
}

/// Neither closed nor anything to read. Costs a system call only where something has happened.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    unconstrained(stream.read(&mut byte)).now_or_never().is_none()
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

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
        let (idle, keep) = (Idle::new(8), keep(2, LONG));
        let (mut servers, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (stream, server) = pair(&listener).await;
            ids.push(stream.id());
            servers.push(server);
            idle.put(1, stream, &keep);
        }
        assert!(idle.take(2).is_none());
        // The third was one too many.
        let taken: Vec<_> = std::iter::from_fn(|| Some(idle.take(1)?.id())).collect();
        assert_eq!(taken, [ids[1], ids[0]]);
        let (stream, _server) = pair(&listener).await;
        idle.put(1, stream, &self::keep(8, Duration::ZERO));
        assert!(idle.take(1).is_none());
    }

    #[tokio::test]
    async fn what_is_closed_says_something_or_is_old_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (idle, keep) = (Idle::new(8), keep(8, LONG));
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
            let mut kept = lock(&idle.kept);
            (kept.leave(key, now).len(), kept.count)
        };
        // Until both have been heard.
        while leave(1, Instant::now()).1 > 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(leave(2, Instant::now() + Duration::from_secs(2)), (1, 1));
        assert_eq!(idle.take(2).map(|stream| stream.id()), Some(id));
    }
}
