//! What a limit asks Redis, and how the answer is understood.

use std::time::Duration;

use redis::{Cmd, Value, cmd, from_redis_value};

use crate::{policy::bucket::Limit, redis::Script};

/// What decides.
pub(super) fn script() -> Script {
    Script::new(include_str!("gcra.lua"))
}

/// For one token of the bucket called `name`. One of a quota does not fill; it is forgotten after `quota_left`.
pub(super) fn question(script: &Script, name: &str, limit: &Limit, quota_left: Option<Duration>) -> Cmd {
    let microseconds = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
    let (interval, depth) = (microseconds(limit.interval()), microseconds(limit.depth()));
    let mut question = cmd("EVALSHA");
    question.arg(script.name()).arg(1).arg(name).arg(interval).arg(depth);
    if let Some(left) = quota_left {
        question.arg(left.as_millis().max(1) as u64);
    }
    question
}

/// What the script answers: whether there was a token, and in how many microseconds the bucket will be full. No bucket takes
/// longer than an empty one: where Redis says so, its clock was set back, and the key is not denied here for as long.
///
/// Numbers are read as Redis has them: the library cuts them off where a type has no room for them.
pub(super) fn understood(answer: Value, limit: &Limit) -> Option<(bool, Duration)> {
    let (allowed, full_in): (i64, i64) = from_redis_value(answer).ok()?;
    let allowed = match allowed {
        0 => false,
        1 => true,
        _ => return None,
    };
    let full_in = Duration::from_micros(u64::try_from(full_in).ok()?);
    Some((allowed, full_in.min(limit.depth())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_whose_clock_was_set_back_holds_nobody_back_for_longer_than_a_bucket_takes_to_fill() {
        let limit = Limit::new(10, Duration::from_secs(1), 20).unwrap();
        let understood = |allowed, full_in| {
            understood(Value::Array(vec![Value::Int(allowed), Value::Int(full_in)]), &limit)
        };
        assert_eq!(understood(1, 1_500_000), Some((true, Duration::from_millis(1500))));
        assert_eq!(understood(0, i64::MAX), Some((false, Duration::from_secs(2))));
        for (allowed, full_in) in [(2, 0), (257, 0), (-1, 0), (1, -1)] {
            assert_eq!(understood(allowed, full_in), None);
        }
    }
}
