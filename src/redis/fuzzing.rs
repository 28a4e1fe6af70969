//! What any answer of a cluster's node must do; see `crate::fuzzing`.

use redis::Value;

use super::{servers::Address, slots, topology};

/// Slots are slots, and each has somebody who can be connected to.
pub(crate) fn topology(answer: Value) {
    let asked = Address::Tcp("a".to_owned(), 1);
    let Some(ranges) = topology::read(answer, &asked) else { return };
    for range in &ranges {
        assert!(range.first <= range.last && range.last < slots::COUNT, "{range:?}");
        let Address::Tcp(host, port) = &range.master else { panic!("{range:?}") };
        assert!(!host.is_empty() && *port > 0, "{range:?}");
    }
    assert!(ranges.is_sorted_by_key(|range| range.first));
}
