//! Which traces are recorded: consistent probability sampling. Whoever decides by the same threshold decides alike, as the
//! randomness is in the trace's id; and a trace that is sampled at one share is sampled at every larger one.
//! Source: OpenTelemetry, "TraceState: Probability Sampling" and OTEP 235.

/// Below it a trace's randomness is not sampled. 0 samples all, 2^56 none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(u64);

/// Bits of randomness in a trace's id.
const BITS: u32 = 56;

impl Threshold {
    pub const ALL: Threshold = Threshold(0);

    /// That samples this share, 0 to 1.
    pub fn of(share: f64) -> Threshold {
        let most = (1_u64 << BITS) as f64;
        // The cast saturates; NaN is no share, and samples all.
        Threshold((((1.0 - share).clamp(0.0, 1.0)) * most).round() as u64)
    }

    pub const fn keeps(self, randomness: u64) -> bool {
        randomness >= self.0
    }

    /// As a tracestate has it (`th`): hexadecimal digits without the zeros at the end.
    pub fn digits(self) -> String {
        let digits = format!("{:014x}", self.0);
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() { "0".to_owned() } else { significant.to_owned() }
    }
}

/// What is done with a trace that somebody else has decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// As they did.
    Follow,
    /// By our own threshold, whatever they did.
    Decide,
}

/// Who decided that a trace is sampled, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Whoever sent the request.
    Caller,
    /// Our share of them.
    Ratio,
}

/// `caller` is what the caller decided, if it did; one that debugs is followed always.
pub fn decide(
    known: Known,
    threshold: Threshold,
    caller: Option<bool>,
    debug: bool,
    randomness: u64,
) -> (bool, By) {
    match caller {
        Some(sampled) if known == Known::Follow || debug => (sampled, By::Caller),
        _ => (threshold.keeps(randomness), By::Ratio),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_are_written_as_the_specification_s_examples() {
        for (share, digits) in
            [(1.0, "0"), (0.5, "8"), (0.25, "c"), (0.01, "fd70a3d70a3d71"), (1.0 / 3.0, "aaaaaaaaaaaaac")]
        {
            let written = Threshold::of(share).digits();
            // A third is no binary fraction: the last digits are those of the float.
            assert_eq!(written[..written.len().min(12)], digits[..digits.len().min(12)], "{share}");
        }
    }

    #[test]
    fn nothing_is_sampled_at_0_and_all_at_1() {
        for randomness in [0, 1, (1 << 56) - 1] {
            assert!(!Threshold::of(0.0).keeps(randomness));
            assert!(Threshold::of(1.0).keeps(randomness));
        }
    }

    #[test]
    fn shares_hold() {
        let mut rng = fastrand::Rng::with_seed(7);
        for share in [0.001, 0.01, 0.3, 0.9] {
            let (count, threshold) = (100_000, Threshold::of(share));
            let kept = (0..count).filter(|_| threshold.keeps(rng.u64(..1 << 56))).count() as f64;
            let sigma = (share * (1.0 - share) * f64::from(count)).sqrt();
            assert!((kept - share * f64::from(count)).abs() < 4.0 * sigma, "{share}: {kept}");
        }
    }

    #[test]
    fn the_caller_is_followed_unless_we_decide_and_one_that_debugs_always() {
        let (all, none) = (Threshold::of(1.0), Threshold::of(0.0));
        assert_eq!(decide(Known::Follow, all, Some(false), false, 5), (false, By::Caller));
        assert_eq!(decide(Known::Decide, all, Some(false), false, 5), (true, By::Ratio));
        assert_eq!(decide(Known::Decide, none, Some(true), true, 5), (true, By::Caller));
        assert_eq!(decide(Known::Follow, none, None, false, 5), (false, By::Ratio));
    }

    proptest! {
        #[test]
        fn what_is_sampled_at_one_share_is_sampled_at_larger_ones(
            small in 0.0..=1.0_f64, more in 0.0..=1.0_f64, randomness in 0..1_u64 << 56,
        ) {
            let large = small + (1.0 - small) * more;
            prop_assert!(!Threshold::of(small).keeps(randomness) || Threshold::of(large).keeps(randomness));
        }
    }
}
