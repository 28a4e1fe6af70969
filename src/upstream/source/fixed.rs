//! `ip:port`: the endpoint is what is written.

use super::{Address, Found, Line, Supply};

pub(super) fn supply(line: &Line<'_>) -> Option<Supply> {
    let Address::Ip(address) = line.address else { return None };
    Some(Supply::Fixed(vec![Found::at(address)]))
}
