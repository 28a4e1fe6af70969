//! Which requests are logged, as far as their end decides it.

use std::time::Duration;

/// All of it must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct When {
    /// Any of these ranges; none means any status.
    pub statuses: Vec<(u16, u16)>,
    /// Any of these; none means with or without one.
    pub reasons: Vec<String>,
    pub at_least: Duration,
    /// More is asked of the request itself, so what has not become one is left out.
    pub of_requests: bool,
}

impl When {
    pub(in crate::observe) fn holds(&self, end: &End<'_>) -> bool {
        let is_of = |(low, high): &(u16, u16)| (*low..=*high).contains(&end.status);
        (self.statuses.is_empty() || self.statuses.iter().any(is_of))
            && (self.reasons.is_empty()
                || end.reason.is_some_and(|reason| self.reasons.iter().any(|asked| asked == reason)))
            && end.duration >= self.at_least
    }
}

/// How a request, or a connection, has ended.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// 500 for a call of gRPC that a server has failed.
    pub status: u16,
    pub reason: Option<&'a str>,
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_asked_must_hold() {
        let end = |status, reason, millis| End { status, reason, duration: Duration::from_millis(millis) };
        let when = When {
            statuses: vec![(500, 599), (429, 429)],
            reasons: vec!["overloaded".into(), "rate_limited".into()],
            at_least: Duration::from_millis(10),
            of_requests: false,
        };
        assert!(when.holds(&end(503, Some("overloaded"), 10)));
        assert!(when.holds(&end(429, Some("rate_limited"), 11)));
        assert!(!when.holds(&end(404, Some("overloaded"), 10)));
        assert!(!when.holds(&end(503, Some("circuit_open"), 10)));
        assert!(!when.holds(&end(503, None, 10)));
        assert!(!when.holds(&end(503, Some("overloaded"), 9)));
        assert!(When::default().holds(&end(0, None, 0)));
    }
}
