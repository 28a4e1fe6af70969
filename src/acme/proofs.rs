//! Challenges that are under way: what proves to a CA that a name leads here. They are answered only while an order waits for them,
//! and only those who ask for the right one learn anything; everybody else is told what anybody is told who asks for
//! something that is not there.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::is_token;

/// Where CAs look for the answers of http-01 (RFC 8555, section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";
/// CAs take 43 characters.
const LONGEST_TOKEN: usize = 128;

/// Answers of http-01, by token.
#[derive(Default)]
pub(super) struct Proofs {
    answers: RwLock<HashMap<String, Arc<str>>>,
    /// So that requests look no further where nothing is under way.
    pending: AtomicUsize,
}

/// It is answered for as long as this lives.
pub(super) struct Proving {
    proofs: Arc<Proofs>,
    token: String,
}

impl Proofs {
    /// What is to be answered to who has this token.
    pub(super) fn answer(&self, token: &str) -> Option<Arc<str>> {
        if self.pending.load(Relaxed) == 0 {
            return None;
        }
        self.answers.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(token).cloned()
    }

    pub(super) fn prove(self: &Arc<Self>, token: &str, answer: &str) -> Proving {
        let mut answers = self.answers.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        answers.insert(token.to_owned(), answer.into());
        self.pending.store(answers.len(), Relaxed);
        Proving { proofs: self.clone(), token: token.to_owned() }
    }
}

impl Drop for Proving {
    fn drop(&mut self) {
        let mut answers = self.proofs.answers.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        answers.remove(&self.token);
        self.proofs.pending.store(answers.len(), Relaxed);
    }
}

/// The token that a path asks for, if it can be one.
pub(super) fn token_in(path: &str) -> Option<&str> {
    path.strip_prefix(PATH).filter(|token| (1..=LONGEST_TOKEN).contains(&token.len()) && is_token(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_while_it_is_under_way_and_to_nobody_else() {
        let proofs = Arc::new(Proofs::default());
        let answer = |path: &str| proofs.answer(token_in(path)?);
        let path = |token: &str| format!("{PATH}{token}");
        assert_eq!(answer(&path("abc")), None);
        let first = proofs.prove("abc", "abc.print");
        let second = proofs.prove("d_-1", "d_-1.print");
        assert_eq!(answer(&path("abc")).as_deref(), Some("abc.print"));
        for stranger in ["", "ab", "abcd", "abc/", "../abc", "a%62c", &"a".repeat(1000)] {
            assert_eq!(answer(&path(stranger)), None, "{stranger}");
        }
        drop(first);
        assert_eq!(answer(&path("abc")), None);
        assert!(answer(&path("d_-1")).is_some());
        drop(second);
        assert_eq!(proofs.pending.load(Relaxed), 0);
    }
}
