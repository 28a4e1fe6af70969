//! Zones: what of a gateway's requests its own zone bears. The rest goes to the other zones, so that a small zone, or one that has
//! lost endpoints, is not given more than the others.
//!
//! How many gateways there are elsewhere nobody says. So each zone in which there are endpoints is taken to send as much as this one:
//! with n zones, each sends one n-th of all requests, and bears of all requests what it has of all endpoints. Envoy's rule of
//! zone-aware routing, for gateways that are spread evenly.

/// The part, 0 to 1, that stays in the own zone. Weights of endpoints that can be used there (`own`) and in all zones (`all`), and
/// how many `zones` there are, the own one included.
pub fn own_share(own: u64, all: u64, zones: usize) -> f64 {
    match all {
        0 => 0.0,
        _ => (own as f64 * zones as f64 / all as f64).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_zone_bears_what_it_has_and_spills_the_rest() {
        for (own, all, zones, expected) in [
            (3, 9, 3, 1.0),
            // One of three is out.
            (2, 8, 3, 0.75),
            (1, 10, 2, 0.2),
            (9, 10, 2, 1.0),
            (0, 6, 3, 0.0),
            (0, 0, 3, 0.0),
            // The others are out.
            (2, 2, 3, 1.0),
        ] {
            assert_eq!(own_share(own, all, zones), expected, "{own} of {all} in {zones}");
        }
    }

    proptest! {
        /// Each zone's gateways send the same; what a zone spills is spread over the others by what they have left.
        #[test]
        fn no_zone_is_given_more_than_its_part_by_its_own_gateways(
            zones in prop::collection::vec(0_u64..10_000, 2..8),
        ) {
            let all: u64 = zones.iter().sum();
            for own in &zones {
                let share = own_share(*own, all, zones.len());
                prop_assert!((0.0..=1.0).contains(&share));
                let kept = share / zones.len() as f64;
                prop_assert!(all == 0 || kept <= *own as f64 / all as f64 + 1e-9);
                prop_assert!(*own > 0 || share == 0.0);
            }
            // Not all of them spill.
            prop_assert!(all == 0 || zones.iter().any(|own| own_share(*own, all, zones.len()) == 1.0));
        }
    }
}
