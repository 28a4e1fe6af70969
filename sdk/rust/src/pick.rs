//! Which instance is next: at random, each as often as its weight says.

use std::sync::Arc;

use crate::instance::Instance;

/// `at` chooses a number below the one that it is given. `None` where nobody takes requests.
pub(crate) fn pick(instances: &[Arc<Instance>], at: impl FnOnce(u64) -> u64) -> Option<Arc<Instance>> {
    let weights =
        || instances.iter().filter(|one| one.takes_requests()).map(|one| (one, u64::from(one.weight)));
    let total: u64 = weights().map(|(_, weight)| weight).sum();
    if total == 0 {
        return None;
    }
    let mut left = at(total);
    for (instance, weight) in weights() {
        if left < weight {
            return Some(instance.clone());
        }
        left -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{State, tests::instance};

    #[test]
    fn each_gets_its_weight_and_who_is_not_well_gets_nothing() {
        let of = |port, weight, state| Arc::new(Instance { weight, state, ..instance(port) });
        let instances = [
            of(1, 1, State::Healthy),
            of(2, 3, State::Healthy),
            of(3, 9, State::Critical),
            of(4, 9, State::Draining),
            of(5, 0, State::Healthy),
            of(6, 2, State::Held),
        ];
        let picked = (0..6).map(|number| {
            pick(&instances, |total| {
                assert_eq!(total, 6);
                number
            })
            .unwrap()
            .port
        });
        assert_eq!(picked.collect::<Vec<_>>(), [1, 2, 2, 2, 6, 6]);
        assert!(
            pick(&instances[2..5], |_| unreachable!()).is_none() && pick(&[], |_| unreachable!()).is_none()
        );
    }
}
