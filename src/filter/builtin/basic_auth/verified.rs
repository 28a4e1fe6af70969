//! Which attempts were verified a moment ago, right or wrong: a browser sends its password with every request, and
//! hashing it each time would cost more than the requests. Only a keyed digest is kept, and not for long.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use openssl::sha::Sha256;

/// Right ones and wrong ones are kept apart, so that guessing does not push out those who know.
pub(crate) struct Verified {
    /// Of this process: digests mean nothing elsewhere, and nobody can make one that is in here.
    key: [u8; 32],
    right: Mutex<Remembered>,
    wrong: Mutex<Remembered>,
    /// Names that clients have proven to be theirs. Not names alone: guesses at a name that exists would wait less than others,
    /// and tell that it does.
    proven: Mutex<Remembered>,
}

pub(crate) type Digest = [u8; 32];

/// About 1 MB each.
const MOST: usize = 16 * 1024;
/// Long enough for a burst of the same wrong guess, too short to be in the way of a password that was just set.
const WRONG_FOR: Duration = Duration::from_secs(5);
/// Whoever comes back within this need not wait behind strangers.
const PROVEN_FOR: Duration = Duration::from_secs(24 * 3600);

impl Verified {
    /// # Errors
    ///
    /// There is no randomness to make a key of.
    pub(crate) fn new(keep: Duration) -> Result<Verified, openssl::error::ErrorStack> {
        let mut key = [0; 32];
        openssl::rand::rand_bytes(&mut key)?;
        let remembered = |keep| Mutex::new(Remembered { keep, new: HashMap::new(), old: HashMap::new() });
        let (right, wrong) = (remembered(keep), remembered(keep.min(WRONG_FOR)));
        Ok(Verified { key, right, wrong, proven: remembered(PROVEN_FOR) })
    }

    /// Of an attempt. The hash it was compared with is part of it: another password makes all attempts new.
    pub(crate) fn digest(&self, user: &[u8], password: &[u8], hash: &[u8]) -> Digest {
        self.digest_of(&[user, password, hash])
    }

    /// Of a name and whose it is said to be.
    pub(crate) fn pair(&self, client: &[u8], user: &[u8]) -> Digest {
        self.digest_of(&[client, user])
    }

    fn digest_of(&self, parts: &[&[u8]]) -> Digest {
        let mut digest = Sha256::new();
        digest.update(&self.key);
        for part in parts {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finish()
    }

    /// Whether it was right, if that is known.
    pub(crate) fn look(&self, digest: &Digest, now: Instant) -> Option<bool> {
        let knows = |remembered: &Mutex<Remembered>| {
            remembered.lock().unwrap_or_else(PoisonError::into_inner).knows(digest, now)
        };
        if knows(&self.right) { Some(true) } else { knows(&self.wrong).then_some(false) }
    }

    /// Whether this client has proven lately that the name is its own.
    pub(crate) fn has_proven(&self, pair: &Digest, now: Instant) -> bool {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).knows(pair, now)
    }

    pub(crate) fn prove(&self, pair: Digest, now: Instant) {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).add(pair, now);
    }

    pub(crate) fn remember(&self, digest: Digest, is_right: bool, now: Instant) {
        let remembered = if is_right { &self.right } else { &self.wrong };
        remembered.lock().unwrap_or_else(PoisonError::into_inner).add(digest, now);
    }
}

/// Two generations: when the young one is full it becomes the old one, and that is forgotten. So nothing is searched for
/// what to forget, and there are never more than [`MOST`].
struct Remembered {
    keep: Duration,
    /// With the time until which it holds.
    new: HashMap<Digest, Instant>,
    old: HashMap<Digest, Instant>,
}

impl Remembered {
    fn knows(&self, digest: &Digest, now: Instant) -> bool {
        self.new.get(digest).or_else(|| self.old.get(digest)).is_some_and(|until| now < *until)
    }

    fn add(&mut self, digest: Digest, now: Instant) {
        if self.keep.is_zero() {
            return;
        }
        if self.new.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(digest, now + self.keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    #[test]
    fn remembers_for_a_while_what_was_verified() {
        let (verified, now) = (Verified::new(KEEP).unwrap(), Instant::now());
        let of = |user: &str, password: &str, hash: &str| {
            verified.digest(user.as_bytes(), password.as_bytes(), hash.as_bytes())
        };
        verified.remember(of("a", "right", "h"), true, now);
        verified.remember(of("a", "wrong", "h"), false, now);
        assert_eq!(verified.look(&of("a", "right", "h"), now), Some(true));
        assert_eq!(verified.look(&of("a", "wrong", "h"), now), Some(false));
        for other in
            [of("b", "right", "h"), of("a", "rightx", "h"), of("a", "right", "new"), of("ar", "ight", "h")]
        {
            assert_eq!(verified.look(&other, now), None);
        }
        assert_eq!(verified.look(&of("a", "wrong", "h"), now + WRONG_FOR), None);
        assert_eq!(verified.look(&of("a", "right", "h"), now + KEEP - Duration::from_millis(1)), Some(true));
        assert_eq!(verified.look(&of("a", "right", "h"), now + KEEP), None);
    }

    #[test]
    fn a_flood_of_guesses_is_bounded_and_does_not_push_out_the_right_ones() {
        let (verified, now) = (Verified::new(KEEP).unwrap(), Instant::now());
        let right = verified.digest(b"a", b"right", b"h");
        verified.remember(right, true, now);
        for n in 0..3 * MOST as u64 {
            verified.remember(verified.digest(b"a", &n.to_le_bytes(), b"h"), false, now);
        }
        let wrong = verified.wrong.lock().unwrap();
        assert!(wrong.new.len() + wrong.old.len() <= MOST);
        drop(wrong);
        assert_eq!(verified.look(&right, now), Some(true));
    }

    #[test]
    fn a_name_is_proven_for_one_client() {
        let (verified, now) = (Verified::new(Duration::ZERO).unwrap(), Instant::now());
        verified.prove(verified.pair(b"client", b"a"), now);
        assert!(verified.has_proven(&verified.pair(b"client", b"a"), now));
        for (client, name) in [("client", "b"), ("other", "a"), ("clien", "ta")] {
            assert!(!verified.has_proven(&verified.pair(client.as_bytes(), name.as_bytes()), now));
        }
    }

    #[test]
    fn nothing_is_remembered_when_told_so() {
        let (verified, now) = (Verified::new(Duration::ZERO).unwrap(), Instant::now());
        let digest = verified.digest(b"a", b"b", b"c");
        verified.remember(digest, true, now);
        assert_eq!(verified.look(&digest, now), None);
    }
}
