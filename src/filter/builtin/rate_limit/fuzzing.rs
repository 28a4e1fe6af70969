//! What any answer of a Redis must do; see `crate::fuzzing`.

use std::time::Duration;

use super::script::understood;
use crate::{policy::bucket::Limit, redis::fuzzing::topology};

/// Whatever Redis says, nobody is held back for longer than an empty bucket takes to fill.
pub(crate) fn redis_reply(bytes: &[u8]) {
    let Ok(answer) = redis::parse_redis_value(bytes) else { return };
    topology(answer.clone());
    for (count, period, burst) in [(1, 3600, 1), (10, 1, 20), (1_000_000, 1, 1_000_000)] {
        let limit = Limit::new(count, Duration::from_secs(period), burst).expect("a limit");
        let Some((allowed, full_in)) = understood(answer.clone(), &limit) else { return };
        let decision = limit.decision(allowed, full_in, 1);
        assert_eq!(decision.allowed, allowed);
        assert!(decision.reset_after <= limit.depth(), "{answer:?}: {decision:?}");
        assert!(decision.retry_after <= limit.interval(), "{answer:?}: {decision:?}");
        assert!(decision.remaining <= burst);
    }
}
