//! When a certificate is renewed: after two thirds of its life, a little earlier for some, so that those which were ordered
//! together are not renewed together. A CA that knows better says when (RFC 9773), and is believed as long as what it says makes
//! sense.
//!
//! Each certificate draws one number, once. So the moment does not move with each look.

use std::time::{Duration, SystemTime};

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub from: SystemTime,
    pub until: SystemTime,
}

/// When a CA would have it renewed (RFC 9773, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub from: SystemTime,
    pub until: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Renewal {
    /// Of its life, 0 to 1.
    pub after: f64,
}

/// Of the whole life: so much earlier is the earliest.
const JITTER: f64 = 0.05;
/// No later than this, whatever a CA suggests: what is left is for the orders that fail.
const LATEST: f64 = 0.95;

impl Renewal {
    /// `draw` is from 0 to 1, and the same for as long as the certificate is held.
    pub fn due(&self, life: Life, suggested: Option<Window>, draw: f64) -> SystemTime {
        let length = life.until.duration_since(life.from).unwrap_or_default();
        let at = |share: f64| life.from + length.mul_f64(share.clamp(0.0, 1.0));
        let own = at(self.after.min(LATEST) - draw.clamp(0.0, 1.0) * JITTER);
        match suggested.filter(|window| makes_sense(window, life)) {
            Some(window) => {
                let width = window.until.duration_since(window.from).unwrap_or_default();
                (window.from + width.mul_f64(draw.clamp(0.0, 1.0))).min(at(LATEST))
            }
            None => own,
        }
    }
}

/// One that has no end, or ends when the certificate has, is no help. One that is over is: the certificate will be revoked.
fn makes_sense(window: &Window, life: Life) -> bool {
    const WIDEST: Duration = Duration::from_secs(366 * 86_400);
    let width = window.until.duration_since(window.from);
    width.is_ok_and(|width| !width.is_zero() && width <= WIDEST) && window.from < life.until
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const RENEWAL: Renewal = Renewal { after: 2.0 / 3.0 };
    const DAY: Duration = Duration::from_secs(86_400);

    fn day(day: u32) -> SystemTime {
        UNIX_EPOCH + DAY * (20_000 + day)
    }

    /// Shares of a life are no whole nanoseconds.
    fn assert_close(found: SystemTime, expected: SystemTime) {
        let apart = found.duration_since(expected).unwrap_or_else(|earlier| earlier.duration());
        assert!(apart < Duration::from_millis(1), "{found:?} and not {expected:?}");
    }

    fn life() -> Life {
        Life { from: day(0), until: day(90) }
    }

    #[test]
    fn two_thirds_of_its_life_and_not_all_at_once() {
        assert_close(RENEWAL.due(life(), None, 0.0), day(60));
        assert_close(RENEWAL.due(life(), None, 1.0), day(60) - DAY.mul_f64(4.5));
    }

    #[test]
    fn a_ca_may_say_earlier_or_later_but_not_too_late() {
        let window = |from, until| Some(Window { from: day(from), until: day(until) });
        assert_close(RENEWAL.due(life(), window(10, 20), 0.5), day(15));
        assert_close(RENEWAL.due(life(), window(70, 80), 0.0), day(70));
        assert_close(RENEWAL.due(life(), window(80, 100), 1.0), day(0) + DAY.mul_f64(85.5));
        for nonsense in [window(20, 10), window(20, 20), window(95, 99)] {
            assert_close(RENEWAL.due(life(), nonsense, 0.0), day(60));
        }
        // It will be revoked soon: at once.
        let past = Some(Window { from: day(0) - DAY * 2, until: day(0) - DAY });
        assert!(RENEWAL.due(life(), past, 0.5) < day(0));
    }

    proptest! {
        #[test]
        fn a_certificate_is_renewed_before_it_ends(
            length in 1_u64..10_000_000, after in 0.0..1.0_f64, draw in 0.0..1.0_f64,
            window in proptest::option::of((0_u64..20_000_000, 0_u64..20_000_000)),
        ) {
            let from = day(0);
            let life = Life { from, until: from + Duration::from_secs(length) };
            let window = window.map(|(from_s, width)| Window {
                from: from - DAY * 30 + Duration::from_secs(from_s),
                until: from - DAY * 30 + Duration::from_secs(from_s + width),
            });
            let due = Renewal { after }.due(life, window, draw);
            prop_assert!(due < life.until);
            prop_assert_eq!(due, Renewal { after }.due(life, window, draw), "it does not move");
        }
    }
}
