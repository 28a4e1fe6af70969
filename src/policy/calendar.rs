//! Seconds, minutes, hours, days and months as the calendar has them, in UTC. A month has no fixed length, so a quota of one cannot be a
//! rate; and whoever sells a thousand a day means the day of the calendar.
//!
//! It holds no clock: callers pass seconds since 1970, without leap seconds, as POSIX counts them.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
}

const DAY: u64 = 86_400;

impl Unit {
    /// From the first second of that which `now` is in to the first of the next.
    pub fn period(self, now: u64) -> Range<u64> {
        let length = match self {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
            Unit::Day => DAY,
            Unit::Month => return month(now),
        };
        let begins = now - now % length;
        begins..begins.saturating_add(length)
    }
}

fn month(now: u64) -> Range<u64> {
    let (mut begins, mut year, mut month) = (0, 1970, 0);
    // Whole cycles of the Gregorian calendar first, so that no year takes long.
    const CYCLE: u64 = 146_097 * DAY;
    let cycles = now / CYCLE;
    begins += cycles * CYCLE;
    year += cycles * 400;
    while now - begins >= days_in(year) * DAY {
        begins += days_in(year) * DAY;
        year += 1;
    }
    while now - begins >= days_of(year, month) * DAY {
        begins += days_of(year, month) * DAY;
        month += 1;
    }
    begins..begins.saturating_add(days_of(year, month) * DAY)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_in(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// `month` from 0 to 11.
fn days_of(year: u64, month: usize) -> u64 {
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    DAYS[month % 12] + u64::from(month == 1 && is_leap(year))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        // By `date -u -d DAY +%s`.
        for (now, begins, ends) in [
            (0, 0, 2_678_400),
            // February 2024 and 2026.
            (1_708_000_000, 1_706_745_600, 1_709_251_200),
            (1_771_000_000, 1_769_904_000, 1_772_323_200),
            // The last second of 2026, and the first of 2027.
            (1_798_761_599, 1_796_083_200, 1_798_761_600),
            (1_798_761_600, 1_798_761_600, 1_801_440_000),
            // February 2100 has 28 days.
            (4_105_000_000, 4_105_123_200 - 31 * DAY, 4_105_123_200),
            (4_105_123_200, 4_105_123_200, 4_105_123_200 + 28 * DAY),
        ] {
            assert_eq!(Unit::Month.period(now), begins..ends, "{now}");
        }
    }

    #[test]
    fn a_day_begins_at_midnight() {
        assert_eq!(Unit::Day.period(1_708_000_000), 1_707_955_200..1_708_041_600);
    }

    proptest! {
        #[test]
        fn periods_hold_their_moment_and_follow_each_other(now in 0u64..300_000_000_000) {
            for unit in [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Month] {
                let period = unit.period(now);
                prop_assert!(period.contains(&now));
                prop_assert_eq!(unit.period(period.start), period.clone());
                prop_assert_eq!(unit.period(period.end - 1), period.clone());
                prop_assert_eq!(unit.period(period.end).start, period.end);
            }
        }
    }
}
