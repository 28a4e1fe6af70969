//! Upstreams as they are drafted.

use std::collections::BTreeMap;

use super::draft::{List, Map, Node};

/// The largest weight of ours.
const HEAVIEST: i64 = 65_535;

/// In the order in which they are first used.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    all: Vec<(String, Map)>,
    by_name: BTreeMap<String, usize>,
}

impl Upstreams {
    /// The name of one that says this: `name` or, where another is called so, that with a number behind it.
    pub(crate) fn keep(&mut self, base: &str, upstream: Map) -> String {
        for number in 1.. {
            let name = if number == 1 { base.to_owned() } else { format!("{base}#{number}") };
            match self.by_name.get(&name) {
                Some(index) if self.all[*index].1 == upstream => return name,
                Some(_) => {}
                None => {
                    self.by_name.insert(name.clone(), self.all.len());
                    self.all.push((name.clone(), upstream));
                    return name;
                }
            }
        }
        unreachable!("numbers do not end")
    }

    /// What the one of this name says.
    pub(crate) fn find(&self, name: &str) -> Option<&Map> {
        self.by_name.get(name).map(|index| &self.all[*index].1)
    }

    pub(crate) fn written(self) -> Map {
        let mut written = Map::new();
        for (name, upstream) in self.all {
            written.set(&name, upstream);
        }
        written
    }
}

/// One as it is, several as a list.
pub(crate) fn one_or_several(mut maps: Vec<Map>) -> Option<Node> {
    if maps.len() < 2 {
        return maps.pop().map(Node::Map);
    }
    let mut list = List::new();
    maps.into_iter().for_each(|map| list.push(map));
    Some(list.into())
}

/// Makes weights fit that are heavier than ours may be; none becomes 0.
pub(crate) fn scale(weights: impl Iterator<Item = i64>) -> impl Fn(i64) -> i64 {
    let heaviest = weights.max().unwrap_or(1);
    let divisor = (heaviest + HEAVIEST - 1) / HEAVIEST;
    move |weight| if weight == 0 { 0 } else { (weight / divisor.max(1)).max(1) }
}
