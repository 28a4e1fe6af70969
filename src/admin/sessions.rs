//! Browsers that have logged in. A session is a random number in a cookie; here only its digest is kept, in memory, so a
//! restart ends them all. And whoever guesses tokens is made to wait.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use openssl::{rand::rand_bytes, sha::sha256};

use super::refused::{Reason, Refused};
use crate::{
    config::{AdminRole, AdminSession},
    policy::address_block::Ipv6Prefix,
};

/// Whoever has not been there for longest goes.
const MOST_SESSIONS: usize = 64;
const GUESSES: usize = 10;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Addresses that are remembered. Beyond these, the one that guessed first is forgotten.
const MOST_GUESSERS: usize = 1024;

pub(super) struct Sessions {
    idle: Duration,
    most: Duration,
    by_digest: Mutex<HashMap<[u8; 32], Session>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub name: Arc<str>,
    pub role: AdminRole,
    pub begun: Instant,
    pub used: Instant,
}

impl Sessions {
    pub(super) fn new(settings: &AdminSession) -> Sessions {
        Sessions { idle: settings.idle.into(), most: settings.max.into(), by_digest: Mutex::default() }
    }

    /// What to put into the cookie.
    ///
    /// # Errors
    ///
    /// There is no randomness to be had.
    pub(super) fn begin(&self, name: Arc<str>, role: AdminRole, now: Instant) -> Result<String, Refused> {
        let mut secret = [0; 16];
        rand_bytes(&mut secret)
            .map_err(|_| Reason::Internal.because("no session can be made (the log says why)"))?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.lock();
        sessions.retain(|_, session| self.is_alive(session, now));
        if sessions.len() >= MOST_SESSIONS
            && let Some(idlest) = sessions.iter().min_by_key(|(_, session)| session.used).map(|(at, _)| *at)
        {
            sessions.remove(&idlest);
        }
        sessions.insert(sha256(secret.as_bytes()), Session { name, role, begun: now, used: now });
        Ok(secret)
    }

    /// It is used, and so lasts.
    pub(super) fn find(&self, secret: &str, now: Instant) -> Option<Session> {
        let digest = sha256(secret.as_bytes());
        let mut sessions = self.lock();
        let session = sessions.get_mut(&digest)?;
        if !self.is_alive(session, now) {
            sessions.remove(&digest);
            return None;
        }
        session.used = now;
        Some(session.clone())
    }

    /// Whether it goes on, without using it.
    pub(super) fn is_there(&self, secret: &str, now: Instant) -> bool {
        self.lock().get(&sha256(secret.as_bytes())).is_some_and(|session| self.is_alive(session, now))
    }

    pub(super) fn end(&self, secret: &str) {
        self.lock().remove(&sha256(secret.as_bytes()));
    }

    /// How long it lasts if it is not used, and at all.
    pub(super) fn left(&self, session: &Session, now: Instant) -> (Duration, Duration) {
        let since = |then: Instant| now.saturating_duration_since(then);
        (self.idle.saturating_sub(since(session.used)), self.most.saturating_sub(since(session.begun)))
    }

    pub(super) fn longest(&self) -> Duration {
        self.most
    }

    fn is_alive(&self, session: &Session, now: Instant) -> bool {
        let (idle, most) = self.left(session, now);
        !idle.is_zero() && !most.is_zero()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cookies are shared by all ports of a host, and several gateways may be looked at through one.
pub(super) fn cookie_name(is_secure: bool, port: Option<u16>) -> String {
    let prefix = if is_secure { "__Host-" } else { "" };
    match port {
        Some(port) => format!("{prefix}tidegate-{port}"),
        None => format!("{prefix}tidegate"),
    }
}

/// The cookie of that name.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(known, value)| (known == name).then_some(value))
}

/// `None` is no header's value, which cannot be.
pub(super) fn set_cookie(name: &str, value: &str, lasts: Duration, is_secure: bool) -> Option<HeaderValue> {
    let secure = if is_secure { "; Secure" } else { "" };
    let seconds = lasts.as_secs();
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Who gives wrong tokens. Different ones count: a scraper that has an old one tries it again and again, and must not keep
/// operators at the same address out.
#[derive(Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, Guesser>>);

struct Guesser {
    since: Instant,
    /// Of the wrong tokens. A digest of a guess is worth nothing.
    tried: HashSet<[u8; 32]>,
}

impl Guesses {
    /// # Errors
    ///
    /// It has guessed enough for now: not even a right token is looked at.
    pub(super) fn check(&self, from: IpAddr, now: Instant) -> Result<(), Refused> {
        let guessers = self.lock();
        let Some(guesser) = guessers.get(&block(from)) else { return Ok(()) };
        let left = FORGOTTEN_AFTER.saturating_sub(now.saturating_duration_since(guesser.since));
        if guesser.tried.len() < GUESSES || left.is_zero() {
            return Ok(());
        }
        let seconds = left.as_secs() + 1;
        let why =
            format!("{GUESSES} wrong tokens have come from this address within a minute (wait {seconds} s)");
        Err(Refused { retry_after: Some(seconds), ..Reason::Guessing.because(why) })
    }

    /// It was a wrong one. True where that was one too many, for the first time.
    pub(super) fn wrong(&self, from: IpAddr, token: &[u8], now: Instant) -> bool {
        let mut guessers = self.lock();
        guessers.retain(|_, guesser| now.saturating_duration_since(guesser.since) < FORGOTTEN_AFTER);
        if guessers.len() >= MOST_GUESSERS
            && let Some(first) = guessers.iter().min_by_key(|(_, guesser)| guesser.since).map(|(at, _)| *at)
        {
            guessers.remove(&first);
        }
        let new = || Guesser { since: now, tried: HashSet::new() };
        let guesser = guessers.entry(block(from)).or_insert_with(new);
        guesser.tried.insert(sha256(token)) && guesser.tried.len() == GUESSES
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Guesser>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn block(address: IpAddr) -> IpAddr {
    Ipv6Prefix::default().block(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn begin(sessions: &Sessions, name: &str, now: Instant) -> String {
        sessions.begin(name.into(), AdminRole::Viewer, now).unwrap()
    }

    #[test]
    fn a_session_lasts_while_it_is_used_and_no_longer_than_it_may() {
        let (sessions, now) = (Sessions::new(&AdminSession::default()), Instant::now());
        let secret = begin(&sessions, "alice", now);
        assert_eq!(secret.len(), 32);
        let mut at = now;
        for _ in 0..12 {
            at += HOUR - Duration::from_secs(1);
            assert!(sessions.find(&secret, at).is_some(), "{:?}", at - now);
        }
        assert!(sessions.find(&secret, now + 12 * HOUR).is_none(), "12 h are the most");
        let idle = begin(&sessions, "bob", now);
        assert!(!sessions.is_there(&idle, now + HOUR));
        assert!(sessions.find(&idle, now + HOUR).is_none() && sessions.find("", now).is_none());
    }

    #[test]
    fn a_session_that_was_ended_is_none() {
        let (sessions, now) = (Sessions::new(&AdminSession::default()), Instant::now());
        let secret = begin(&sessions, "alice", now);
        sessions.end(&secret);
        assert!(sessions.find(&secret, now).is_none());
    }

    #[test]
    fn there_are_at_most_sixty_four_and_the_idlest_goes() {
        let (sessions, now) = (Sessions::new(&AdminSession::default()), Instant::now());
        let at = |n: usize| now + Duration::from_secs(n as u64);
        let secrets: Vec<_> = (0..MOST_SESSIONS).map(|n| begin(&sessions, "a", at(n))).collect();
        assert!(sessions.find(&secrets[0], at(100)).is_some());
        begin(&sessions, "b", at(101));
        assert!(sessions.is_there(&secrets[0], at(102)) && !sessions.is_there(&secrets[1], at(102)));
        assert_eq!(sessions.lock().len(), MOST_SESSIONS);
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let headers = HeaderMap::from_iter([
            (COOKIE, HeaderValue::from_static("a=1; xtidegate-1=no; tidegate-1=yes")),
            (COOKIE, HeaderValue::from_static("tidegate-2=two")),
        ]);
        assert_eq!(cookie(&headers, &cookie_name(false, Some(1))), Some("yes"));
        assert_eq!(cookie(&headers, &cookie_name(false, Some(2))), Some("two"));
        assert_eq!(cookie(&headers, &cookie_name(true, Some(1))), None);
    }

    #[test]
    fn different_wrong_tokens_are_guesses_and_the_same_one_is_a_mistake() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..100 {
            guesses.wrong(here, b"old", now);
        }
        assert!(guesses.check(here, now).is_ok());
        let told = (0..20).filter(|n| guesses.wrong(here, format!("{n}").as_bytes(), now)).count();
        assert_eq!(told, 1);
        let refused = guesses.check(here, now).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after), (Reason::Guessing, Some(61)));
        assert!(guesses.check(there, now).is_ok());
        assert!(guesses.check(here, now + FORGOTTEN_AFTER).is_ok());
    }

    #[test]
    fn one_network_of_ipv6_is_one_address_and_no_number_of_them_grows_without_end() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for n in 0..10_u8 {
            guesses.wrong(format!("2001:db8::{n:x}").parse().unwrap(), &[n], now);
        }
        assert!(guesses.check("2001:db8::ffff".parse().unwrap(), now).is_err());
        for n in 0..5000_u32 {
            guesses.wrong(IpAddr::from(n.to_be_bytes()), b"x", now);
        }
        assert!(guesses.lock().len() <= MOST_GUESSERS);
    }
}
