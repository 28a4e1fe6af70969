//! Live state that outlives a reload, beside the settings it was made from.
//!
//! A reload keeps state whose settings are equal and makes it anew where they differ. Settings are compared whole, and only
//! here: a comparison that lists fields forgets the next field, and a reload then silently ignores it. Where some of what
//! the operator writes must not cost the state (a timeout, say), the part that does is a struct of its own, and the state
//! is made from that part alone.

use std::{convert::Infallible, fmt, ops::Deref, sync::Arc};

/// State of type `T`, and the settings it was made from. Clones share both.
pub struct Kept<S, T> {
    settings: Arc<S>,
    state: Arc<T>,
}

impl<S: PartialEq, T> Kept<S, T> {
    /// Keeps `before` if its settings are equal to `settings`. Otherwise makes the state from these.
    pub fn keep_or(before: Option<&Kept<S, T>>, settings: S, make: impl FnOnce(&S) -> T) -> Kept<S, T> {
        match Kept::try_keep_or(before, settings, |settings| Ok::<_, Infallible>(make(settings))) {
            Ok(kept) => kept,
            Err(never) => match never {},
        }
    }

    /// The same for state that cannot be made from all settings.
    ///
    /// # Errors
    ///
    /// What `make` answers.
    pub fn try_keep_or<E>(
        before: Option<&Kept<S, T>>,
        settings: S,
        make: impl FnOnce(&S) -> Result<T, E>,
    ) -> Result<Kept<S, T>, E> {
        match before.filter(|before| *before.settings == settings) {
            Some(same) => Ok(same.clone()),
            None => Ok(Kept { state: Arc::new(make(&settings)?), settings: Arc::new(settings) }),
        }
    }
}

impl<S, T> Kept<S, T> {
    pub fn settings(&self) -> &S {
        &self.settings
    }

    /// The state alone, for those who hold it without its settings.
    pub fn shared(&self) -> &Arc<T> {
        &self.state
    }
}

impl<S, T> Clone for Kept<S, T> {
    fn clone(&self) -> Self {
        Kept { settings: self.settings.clone(), state: self.state.clone() }
    }
}

impl<S, T> Deref for Kept<S, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

/// Something live that is itself a setting of something else: equal only to itself.
pub struct Same<T>(pub Arc<T>);

impl<T> Clone for Same<T> {
    fn clone(&self) -> Self {
        Same(self.0.clone())
    }
}

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> fmt::Debug for Same<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Same({:p})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_settings_keep_the_state_and_others_make_it_anew() {
        let first = Kept::keep_or(None, (1, "a"), |settings| settings.0 * 10);
        let same = Kept::keep_or(Some(&first), (1, "a"), |_| 0);
        assert!(Arc::ptr_eq(first.shared(), same.shared()));
        for settings in [(2, "a"), (1, "b")] {
            let other = Kept::keep_or(Some(&first), settings, |settings| settings.0 * 100);
            assert_eq!((*other, other.settings()), (settings.0 * 100, &settings));
        }
    }

    #[test]
    fn state_that_is_kept_is_not_made_and_cannot_fail() {
        let first = Kept::try_keep_or(None, 1, |_| Ok::<_, &str>(10)).ok();
        let kept = Kept::try_keep_or(first.as_ref(), 1, |_| Err("made"));
        assert_eq!(kept.map(|kept| *kept), Ok(10));
        assert_eq!(Kept::try_keep_or(first.as_ref(), 2, |_| Err("made")).err(), Some("made"));
    }

    #[test]
    fn what_is_live_is_equal_only_to_itself() {
        let one = Arc::new(1);
        assert_eq!(Same(one.clone()), Same(one));
        assert_ne!(Same(Arc::new(1)), Same(Arc::new(1)));
    }
}
