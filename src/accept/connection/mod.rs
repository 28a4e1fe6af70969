//! What is known about one client connection, and the deadlines it lives under.
//!
//! A timer for each wait of each connection would cost each request several. So each connection carries its current deadline as one atomic number, and one sweeper per listener looks at all of
//! them a few times a second: a request arms and disarms no timer at all.

pub(crate) mod lingering_close;
pub(in crate::accept) mod stream;
pub(crate) mod timer;
pub(crate) mod transport;
pub(crate) mod wire;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use http::HeaderValue;

use crate::{
    accept::{Port, listener::port::Place, tls},
    observe::metrics::ListenerMetrics,
};

/// What the connection waits for; each state has its own deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::accept) enum Phase {
    /// Before TLS is agreed on: `handshake_timeout`.
    Handshake,
    /// Between requests: `idle_timeout`.
    Idle,
    /// Part of a request header has arrived: `header_timeout`.
    Head,
    /// A request is being served; its own timeouts apply.
    Busy,
    /// Its bytes are carried by a [`super::Tunnel`]: `idle_timeout`, and the drain waits.
    Tunnelled,
}

/// How the listener ends a connection that is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing was said for too long.
    Idle,
    /// The gateway stops, and has waited for as long as it may.
    Cut,
}

/// How the sweeper ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::accept) enum Verdict {
    Open,
    /// The deadline passed.
    Expired,
    /// The listener closes and nothing is in flight here, or its grace is over.
    Drained,
}

/// How far the listener is with closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) enum Draining {
    No,
    /// Requests in flight are served, upgraded connections go on.
    Yes,
    /// The time for that is nearly over: upgraded connections are told goodbye.
    Parting,
}

/// Milliseconds since the listener opened, as the deadlines count them; 0 is "no deadline". Read from the system by
/// the sweeper alone: a request takes what was true at its last look, which is as exact as its deadlines are kept.
pub(in crate::accept) struct CoarseClock {
    origin: Instant,
    now: AtomicU64,
}

impl CoarseClock {
    pub(in crate::accept) fn new() -> CoarseClock {
        CoarseClock { origin: Instant::now(), now: AtomicU64::new(1) }
    }

    pub(in crate::accept) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    pub(in crate::accept) fn update(&self) -> u64 {
        let now = 1 + self.origin.elapsed().as_millis() as u64;
        self.now.store(now, Relaxed);
        now
    }

    #[cfg(test)]
    pub(in crate::accept) fn set(&self, now: u64) {
        self.now.store(now, Relaxed);
    }
}

/// Between whom a connection is.
#[derive(Clone, Copy, Debug)]
pub(in crate::accept) struct Ends {
    pub(in crate::accept) peer: SocketAddr,
    pub(in crate::accept) local: SocketAddr,
}

/// Holds its place among those counted for as long as it lives, in whatever hands.
pub(crate) struct Connection {
    pub port: Arc<Port>,
    _place: Place,
    /// Its key among the port's connections.
    pub id: u64,
    /// Those of the listener as it was named when the connection came.
    metrics: Arc<ListenerMetrics>,
    /// What it is counted as among the connections of one address, where it is.
    pub(in crate::accept) counted_as: Option<IpAddr>,
    pub peer: SocketAddr,
    /// Where it has connected to. Unspecified for a Unix socket.
    pub local: SocketAddr,
    /// The peer's address as header text, made once.
    pub peer_text: HeaderValue,
    /// Where the client meant to go before iptables redirected it here.
    original_destination: OnceLock<SocketAddr>,
    /// `None` in plain text.
    tls: OnceLock<Box<tls::Session>>,
    phase: AtomicU8,
    verdict: AtomicU8,
    read_deadline: AtomicU64,
    write_deadline: AtomicU64,
    /// When the last request ended, for the drain: a connection in use is given a moment longer.
    last_used: AtomicU64,
    requests: AtomicU32,
    /// In milliseconds, how long nothing may pass either way; 0 where other deadlines see to that.
    silence: AtomicU64,
    /// HTTP/2 streams in flight.
    streams: AtomicU32,
    upgraded: AtomicBool,
    unread: AtomicBool,
    /// The grace is over: the requests that are under way end, and say so.
    is_cut: AtomicBool,
    refused: AtomicBool,
    waker: AtomicWaker,
}

impl Connection {
    pub(in crate::accept) fn new(
        place: Place,
        id: u64,
        ends: Ends,
        counted_as: Option<IpAddr>,
    ) -> Connection {
        let port = place.port().clone();
        let metrics = port.settings().metrics.clone();
        metrics.connection_opened();
        let Ends { peer, local } = ends;
        // Its task may have to wait for its first turn: until then it has not been idle for ever.
        let now = port.clock.now();
        Connection {
            id,
            metrics,
            counted_as,
            port,
            _place: place,
            peer,
            local,
            peer_text: text(peer),
            original_destination: OnceLock::new(),
            tls: OnceLock::new(),
            phase: AtomicU8::new(Phase::Idle as u8),
            verdict: AtomicU8::new(Verdict::Open as u8),
            read_deadline: AtomicU64::new(0),
            write_deadline: AtomicU64::new(0),
            last_used: AtomicU64::new(now),
            requests: AtomicU32::new(0),
            silence: AtomicU64::new(0),
            streams: AtomicU32::new(0),
            upgraded: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// From now on, what is said here is secret.
    pub(in crate::accept) fn secure(&self, session: tls::Session) {
        // There is one handshake: renegotiation is off.
        let _ = self.tls.set(Box::new(session));
    }

    /// Where the client meant to go before iptables redirected it here; `None` where nobody did, or where that leads
    /// back here.
    pub(crate) fn original_destination(&self) -> Option<SocketAddr> {
        self.original_destination.get().copied()
    }

    pub(in crate::accept) fn was_meant_for(&self, to: SocketAddr) {
        // Told once, when it has come in.
        let _ = self.original_destination.set(to);
    }

    /// What its handshake has settled; `None` in plain text.
    pub(crate) fn tls(&self) -> Option<&tls::Session> {
        self.tls.get().map(Box::as_ref)
    }

    /// True when no further request may follow on this connection: the listener is closing, or the connection has
    /// served its share. Counts the request that asks.
    pub(crate) fn is_last_request(&self, requests_per_connection: u32) -> bool {
        let served = self.requests.fetch_add(1, Relaxed) + 1;
        self.port.is_draining() || self.is_refused() || served >= requests_per_connection
    }

    /// It came when there was no room: its request is only told so.
    pub(in crate::accept) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Since when it waits for a request, where it may end for others.
    pub(in crate::accept) fn idle_since(&self, now: u64) -> Option<u64> {
        let is_idle = self.phase.load(Relaxed) == Phase::Idle as u8 && self.verdict() == Verdict::Open;
        (is_idle && self.may_leave(now)).then(|| self.last_used.load(Relaxed))
    }

    /// What it asked for waits for it.
    pub(in crate::accept) fn does_not_read(&self) -> bool {
        self.write_deadline.load(Relaxed) != 0 && self.verdict() == Verdict::Open
    }

    /// It ends, so that others can be served.
    pub(in crate::accept) fn give_way(&self) {
        self.end(Verdict::Expired);
    }

    pub(in crate::accept) fn set_streams(&self, streams: usize) {
        self.streams.store(u32::try_from(streams).unwrap_or(u32::MAX), Relaxed);
    }

    /// How many requests share what the connection can carry.
    pub(crate) fn sharing(&self) -> u32 {
        self.streams.load(Relaxed).max(1)
    }

    /// The response ends before the request was read to its end: close gently, or the reset that follows unread
    /// bytes could destroy the response on its way (RFC 9112, section 9.6).
    pub(crate) fn leaves_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    pub(in crate::accept) fn has_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// For the rest of the present exchange, the connection ends when nothing has passed either way for this long.
    pub(crate) fn expect_traffic(&self, within: Duration) {
        self.silence.store(within.as_millis().max(1) as u64, Relaxed);
        self.traffic();
    }

    /// It has become another protocol's, and is not used for another request.
    pub(crate) fn upgrade(&self, idle_timeout: Duration) {
        self.upgraded.store(true, Relaxed);
        self.expect_traffic(idle_timeout);
    }

    pub(in crate::accept) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed)
    }

    /// Something was read, or is about to be sent.
    pub(crate) fn traffic(&self) {
        let silence = self.silence.load(Relaxed);
        if silence != 0 {
            self.read_deadline.store(self.port.clock.now() + silence, Relaxed);
        }
    }

    pub(in crate::accept) fn enter(&self, phase: Phase, timeout: Option<Duration>) {
        let now = self.port.clock.now();
        if phase != Phase::Busy && phase != Phase::Head {
            self.last_used.store(now, Relaxed);
        }
        self.silence.store(0, Relaxed);
        self.read_deadline.store(timeout.map_or(0, |t| now + t.as_millis() as u64), Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    /// The client does not read: the stall may last `write_timeout`, counted from its first sign.
    pub(in crate::accept) fn write_stalls(&self) {
        if self.write_deadline.load(Relaxed) == 0 {
            let timeout = self.port.settings().limits.write_timeout;
            self.write_deadline.store(self.port.clock.now() + timeout.as_millis() as u64, Relaxed);
        }
    }

    pub(in crate::accept) fn write_goes_on(&self) {
        if self.write_deadline.load(Relaxed) != 0 {
            self.write_deadline.store(0, Relaxed);
        }
    }

    /// It is carried, and is over when nothing was said for `idle`, counted from now: to be told again whenever
    /// something was.
    pub(crate) fn carries(&self, idle: Duration) {
        self.enter(Phase::Tunnelled, Some(idle));
    }

    /// Ready when a connection that is carried has to end.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ended> {
        match self.wake_on_verdict(cx) {
            Verdict::Open => Poll::Pending,
            Verdict::Expired => Poll::Ready(Ended::Idle),
            Verdict::Drained => Poll::Ready(Ended::Cut),
        }
    }

    /// The grace is over. Requests that are under way end, and those who sent them are told; without one, it ends here.
    pub(in crate::accept) fn cut(&self) {
        if self.phase.load(Relaxed) != Phase::Busy as u8 {
            return self.end(Verdict::Drained);
        }
        self.is_cut.store(true, Relaxed);
        self.waker.wake();
    }

    pub(in crate::accept) fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// Ready when its requests have to end. For the task of the connection, which alone is woken.
    pub(in crate::accept) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_cut() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Have `cx` woken when the verdict changes. To be asked before a wait; the verdict it answers is the newest.
    pub(in crate::accept) fn wake_on_verdict(&self, cx: &Context<'_>) -> Verdict {
        self.waker.register(cx.waker());
        self.verdict()
    }

    pub(in crate::accept) fn verdict(&self) -> Verdict {
        match self.verdict.load(Relaxed) {
            v if v == Verdict::Expired as u8 => Verdict::Expired,
            v if v == Verdict::Drained as u8 => Verdict::Drained,
            _ => Verdict::Open,
        }
    }

    /// One look by the sweeper.
    pub(in crate::accept) fn sweep(&self, now: u64, draining: Draining) {
        let passed = |deadline: &AtomicU64| matches!(deadline.load(Relaxed), at if at != 0 && at <= now);
        let phase = self.phase.load(Relaxed);
        let idle = phase == Phase::Idle as u8 || phase == Phase::Handshake as u8;
        if passed(&self.read_deadline) || passed(&self.write_deadline) {
            self.end(Verdict::Expired);
        } else if draining != Draining::No && idle && self.may_leave(now)
            || draining == Draining::Parting && self.is_upgraded()
        {
            self.end(Verdict::Drained);
        }
    }

    /// A connection that was used within the last second probably has its next request under way. Closing now
    /// would cross it on the wire, so it may send one more, which is answered with `Connection: close`.
    fn may_leave(&self, now: u64) -> bool {
        const IN_USE_MS: u64 = 1000;
        let last_used = self.last_used.load(Relaxed);
        let never_used = self.requests.load(Relaxed) == 0;
        now.saturating_sub(last_used) >= IN_USE_MS
            || (never_used && now.saturating_sub(last_used) >= IN_USE_MS / 2)
    }

    fn end(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Relaxed);
        self.waker.wake();
    }
}

/// An address as headers have it; one that came over a Unix socket has none (RFC 7239, section 6.2).
fn text(peer: SocketAddr) -> HeaderValue {
    const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");
    match peer.ip() {
        ip if ip.is_unspecified() => UNKNOWN,
        ip => HeaderValue::try_from(ip.to_canonical().to_string()).unwrap_or(UNKNOWN),
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connection_closed();
        self.port.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::listener::workers::Seat;

    fn connection() -> Arc<Connection> {
        let ends = "127.0.0.1:1".parse().unwrap();
        Port::for_test().admit(Seat::for_test()).unwrap().open(Ends { peer: ends, local: ends }).unwrap()
    }

    #[test]
    fn a_deadline_that_passes_ends_the_connection() {
        let connection = connection();
        connection.enter(Phase::Head, Some(Duration::from_millis(500)));
        connection.sweep(400, Draining::No);
        assert_eq!(connection.verdict(), Verdict::Open);
        connection.sweep(60_000, Draining::No);
        assert_eq!(connection.verdict(), Verdict::Expired);
    }

    #[test]
    fn a_busy_connection_survives_the_drain_and_an_idle_one_does_not() {
        let busy = connection();
        busy.enter(Phase::Busy, None);
        busy.sweep(u64::MAX, Draining::Yes);
        assert_eq!(busy.verdict(), Verdict::Open);
        let idle = connection();
        idle.enter(Phase::Idle, None);
        idle.sweep(u64::MAX, Draining::Yes);
        assert_eq!(idle.verdict(), Verdict::Drained);
    }

    #[test]
    fn an_upgraded_connection_lives_while_something_passes_and_until_the_drain_is_nearly_over() {
        let connection = connection();
        connection.enter(Phase::Busy, None);
        connection.upgrade(Duration::from_secs(10));
        connection.sweep(5000, Draining::Yes);
        assert_eq!(connection.verdict(), Verdict::Open);
        connection.sweep(5000, Draining::Parting);
        assert_eq!(connection.verdict(), Verdict::Drained);
        connection.sweep(20_000, Draining::No);
        assert_eq!(connection.verdict(), Verdict::Expired);
    }

    #[test]
    fn silence_is_allowed_again_with_the_next_request() {
        let connection = connection();
        connection.expect_traffic(Duration::from_secs(10));
        connection.enter(Phase::Busy, None);
        connection.traffic();
        connection.sweep(20_000, Draining::No);
        assert_eq!(connection.verdict(), Verdict::Open);
    }

    #[test]
    fn one_that_is_carried_is_cut_when_the_drain_is_over_and_not_before() {
        let connection = connection();
        connection.carries(Duration::from_secs(3600));
        connection.sweep(60_000, Draining::Parting);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(connection.poll_ended(&cx), Poll::Pending);
        connection.cut();
        assert_eq!(connection.poll_ended(&cx), Poll::Ready(Ended::Cut));
    }

    #[test]
    fn a_request_that_is_cut_can_still_be_answered() {
        let connection = connection();
        connection.enter(Phase::Busy, None);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(connection.poll_cut(&cx), Poll::Pending);
        connection.cut();
        assert_eq!(connection.poll_cut(&cx), Poll::Ready(()));
        assert_eq!(connection.verdict(), Verdict::Open);
    }

    #[test]
    fn one_that_is_carried_ends_when_nothing_was_said_for_too_long() {
        let connection = connection();
        connection.carries(Duration::from_secs(60));
        connection.sweep(60_000, Draining::No);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(connection.poll_ended(&cx), Poll::Pending);
        connection.sweep(60_001, Draining::No);
        assert_eq!(connection.poll_ended(&cx), Poll::Ready(Ended::Idle));
    }

    #[test]
    fn a_write_stall_is_counted_from_its_first_sign() {
        let connection = connection();
        connection.enter(Phase::Busy, None);
        connection.write_stalls();
        let first = connection.write_deadline.load(Relaxed);
        connection.write_stalls();
        assert_eq!(connection.write_deadline.load(Relaxed), first);
        connection.write_goes_on();
        connection.sweep(u64::MAX, Draining::No);
        assert_eq!(connection.verdict(), Verdict::Open);
    }
}
