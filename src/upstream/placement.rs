//! Where endpoints stand, and who comes first by it: levels by `priority`, and within each the gateway's own zone before the others. Where
//! all stand alike there is no [`Placement`], and picking asks nothing of it.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use crate::{
    policy::{
        levels::{self, Level},
        zones::own_share,
    },
    upstream::{
        endpoint::Endpoint,
        table::{Row, Table},
    },
};

/// Where one endpoint stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// 0 comes first.
    pub priority: u16,
    /// The next priority gets nothing while any of this one can be used (RFC 2782).
    pub is_strict: bool,
    pub zone: Option<Arc<str>>,
}

/// The share of one group of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupShare {
    pub priority: u16,
    /// Whether it is the gateway's own zone; `None` where zones do not count.
    pub own_zone: Option<bool>,
    pub endpoints: usize,
    /// Of the upstream's requests, 0 to 1.
    pub share: f64,
}

impl GroupShare {
    /// As metrics and the API call it.
    pub fn zone_word(&self) -> Option<&'static str> {
        self.own_zone.map(|is_own| if is_own { "own" } else { "other" })
    }
}

/// The groups of a table, the first to be asked first.
pub(super) struct Placement {
    groups: Box<[Group]>,
    /// Which of them make a level.
    levels: Box<[Grouped]>,
}

struct Group {
    priority: u16,
    own_zone: Option<bool>,
    members: Box<[usize]>,
    /// By the endpoint's index in the table.
    holds: Box<[bool]>,
}

struct Grouped {
    /// One, or the own zone and then the others.
    groups: Range<usize>,
    zones: usize,
    is_strict: bool,
}

impl Placement {
    /// `None` where all of them stand alike.
    pub(crate) fn of(endpoints: &[Arc<Endpoint>], own_zone: Option<&str>) -> Option<Placement> {
        let priorities: BTreeSet<u16> = endpoints.iter().map(|endpoint| endpoint.place.priority).collect();
        let (mut groups, mut levels) = (Vec::new(), Vec::new());
        for priority in priorities {
            let members =
                || (0..endpoints.len()).filter(|index| endpoints[*index].place.priority == priority);
            let group = |own_zone, members: Vec<usize>| {
                let mut holds = vec![false; endpoints.len()];
                members.iter().for_each(|index| holds[*index] = true);
                Group { priority, own_zone, members: members.into(), holds: holds.into() }
            };
            let is_own =
                |index: &usize| own_zone.is_some() && endpoints[*index].place.zone.as_deref() == own_zone;
            let (own, others): (Vec<usize>, Vec<usize>) = members().partition(is_own);
            let first = groups.len();
            match own.is_empty() || others.is_empty() {
                true => groups.push(group(None, members().collect())),
                false => groups.extend([group(Some(true), own), group(Some(false), others)]),
            }
            let zones: BTreeSet<_> = members().map(|index| &endpoints[index].place.zone).collect();
            let is_strict = members().any(|index| endpoints[index].place.is_strict);
            levels.push(Grouped { groups: first..groups.len(), zones: zones.len(), is_strict });
        }
        (groups.len() > 1).then(|| Placement { groups: groups.into(), levels: levels.into() })
    }

    /// What each group would get now.
    pub(crate) fn shares(&self, row: &Row<'_>) -> Vec<GroupShare> {
        let of_levels = levels::shares(self.levels.iter().map(|level| self.level(level, row)));
        let shares = self.levels.iter().zip(of_levels).flat_map(|(level, share)| {
            let own = self.own_share(level, row);
            level.groups.clone().map(move |group| match self.groups[group].own_zone {
                None => share,
                Some(true) => share * own,
                Some(false) => share * (1.0 - own),
            })
        });
        let shown = |(group, share): (&Group, f64)| GroupShare {
            priority: group.priority,
            own_zone: group.own_zone,
            endpoints: group.members.len(),
            share,
        };
        self.groups.iter().zip(shares).map(shown).collect()
    }

    /// The groups to be asked for one request, in their order.
    fn order(
        &self,
        row: &Row<'_>,
        (draw, draw_of_zone): (f64, f64),
    ) -> impl Iterator<Item = &Group> + Clone + use<'_> {
        let levels = self.levels.iter().map(|level| self.level(level, row));
        let first = levels::choose(levels, draw).map_or(0, |level| {
            let level = &self.levels[level];
            let spills = level.groups.len() > 1 && draw_of_zone >= self.own_share(level, row);
            level.groups.start + usize::from(spills)
        });
        let others = self.groups.iter().enumerate().filter(move |(index, _)| *index != first);
        std::iter::once(&self.groups[first]).chain(others.map(|(_, group)| group))
    }

    /// As the choice between levels sees it: of a strict one any endpoint that can be used counts for all.
    fn level(&self, level: &Grouped, row: &Row<'_>) -> Level {
        let sum = self.weights(level, row);
        match level.is_strict && sum.usable > 0 {
            true => Level { usable: sum.all, ..sum },
            false => sum,
        }
    }

    fn own_share(&self, level: &Grouped, row: &Row<'_>) -> f64 {
        let own = self.groups[level.groups.start].weights(row).usable;
        own_share(own, self.weights(level, row).usable, level.zones)
    }

    fn weights(&self, level: &Grouped, row: &Row<'_>) -> Level {
        let weights = self.groups[level.groups.clone()].iter().map(|group| group.weights(row));
        weights.fold(Level::default(), |sum, one| Level {
            usable: sum.usable + one.usable,
            all: sum.all + one.all,
        })
    }
}

impl Group {
    fn weights(&self, row: &Row<'_>) -> Level {
        let mut weights = Level::default();
        for index in &self.members {
            let weight = u64::from(row.endpoints[*index].weight);
            weights.all += weight;
            weights.usable += if row.can_serve(*index) { weight } else { 0 };
        }
        weights
    }
}

impl Table {
    /// The first that may be picked of the group that is due, or else of those that follow.
    pub(super) fn pick_placed(
        &self,
        placement: &Placement,
        key: Option<&[u8]>,
        row: &Row<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        // A key has its group as it has its endpoint.
        let draws = key.map_or_else(|| (rng.f64(), rng.f64()), drawn_from);
        let order = placement.order(row, draws);
        for spares in [true, false] {
            for group in order.clone() {
                let found = self.select(key, &row.of(&group.holds, spares), rng);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    /// What each group of endpoints gets, where not all stand alike.
    pub(super) fn group_shares(&self, now: Instant) -> Vec<GroupShare> {
        let row = self.row(&[], now);
        self.placement.as_ref().map(|placement| placement.shares(&row)).unwrap_or_default()
    }
}

fn drawn_from(key: &[u8]) -> (f64, f64) {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    let part = |bits: u64| (bits & u64::from(u32::MAX)) as f64 / (f64::from(u32::MAX) + 1.0);
    (part(hash >> 32), part(hash))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        config::Balancer,
        names::SystemResolver,
        upstream::{Live, NoEndpoint, Upstream, endpoint::Settings},
    };

    const FAR: &str = "endpoints: [{address: '10.0.0.1:80', zone: a}, {address: '10.0.0.2:80', zone: b, weight: 2}, \
                       {address: '10.0.0.3:80', zone: b}, {address: '10.0.0.4:80', priority: 7}]";

    /// For a gateway in zone `a`.
    fn upstream(yaml: &str, previous: Option<&Upstream>) -> Arc<Upstream> {
        let config = serde_yaml::from_str(&format!("{{{yaml}}}")).unwrap();
        let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(())).in_zone(Some("a"));
        Upstream::new("u", &config, &live, previous).unwrap()
    }

    fn shares(upstream: &Upstream) -> Vec<(u16, Option<&'static str>, f64)> {
        let groups = upstream.group_shares(Instant::now()).into_iter();
        groups.map(|group| (group.priority, group.zone_word(), group.share)).collect()
    }

    /// How often each is picked of a thousand times.
    fn picked(upstream: &Upstream, tried: &[u64]) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts: BTreeMap<u64, usize> =
            upstream.endpoints().iter().map(|endpoint| (endpoint.id(), 0)).collect();
        for _ in 0..1000 {
            let endpoint = upstream.pick(None, tried, Instant::now(), &mut rng).unwrap();
            *counts.get_mut(&endpoint.id()).unwrap() += 1;
        }
        counts.into_values().collect()
    }

    #[test]
    fn endpoints_that_stand_alike_are_in_no_group() {
        for endpoints in [
            "endpoints: ['10.0.0.1:80', '10.0.0.2:80']",
            "endpoints: [{address: '10.0.0.1:80', zone: a, priority: 3}, {address: '10.0.0.2:80', zone: a, priority: 3}]",
            "endpoints: [{address: '10.0.0.1:80', zone: b}, {address: '10.0.0.2:80', zone: c}]",
            "zone_aware: false, endpoints: [{address: '10.0.0.1:80', zone: a}, {address: '10.0.0.2:80', zone: b}]",
        ] {
            let upstream = upstream(endpoints, None);
            assert_eq!(shares(&upstream), [], "{endpoints}");
            assert!(picked(&upstream, &[]).iter().all(|count| *count == 500), "{endpoints}");
        }
    }

    #[test]
    fn the_own_zone_comes_first_as_far_as_it_goes_and_those_in_reserve_last() {
        for balancer in ["round_robin", "least_requests", "random", "p2c_ewma"] {
            let upstream = upstream(&format!("{FAR}, balancer: {balancer}"), None);
            let expected = [(0, Some("own"), 0.5), (0, Some("other"), 0.5), (7, None, 0.0)];
            assert_eq!(shares(&upstream), expected);
            let counts = picked(&upstream, &[]);
            for (count, expected) in counts.iter().zip([500_usize, 333, 167, 0]) {
                assert!(count.abs_diff(expected) < 60, "{balancer}: {counts:?}");
            }
            // Half of what there is in the first level is gone: it bears 70 %, all of which is in the own zone and half of the other.
            upstream.endpoints()[1].probed(false, 1);
            let shares: Vec<u32> =
                shares(&upstream).iter().map(|(.., share)| (share * 100.0).round() as u32).collect();
            assert_eq!(shares, [70, 0, 30], "two zones, and the own has half of what is left");
            let counts = picked(&upstream, &[]);
            assert!(counts[0].abs_diff(700) < 60 && counts[3].abs_diff(300) < 60, "{balancer}: {counts:?}");
            assert_eq!((counts[1], counts[2]), (0, 0), "{balancer}");
        }
    }

    #[test]
    fn of_a_strict_level_the_own_zone_bears_what_it_has_of_those_that_can_be_used() {
        let zones = "endpoints: [{address: '10.0.0.1:80', zone: a}, {address: '10.0.0.2:80', zone: b}, \
                     {address: '10.0.0.3:80', zone: b}]";
        let upstream = upstream(zones, None);
        // As records of SRV are.
        let strict = upstream.endpoints().into_iter().map(|endpoint| {
            let place = Place { is_strict: true, ..endpoint.place.clone() };
            let (weight, origin) = (endpoint.weight, endpoint.origin.clone());
            let (metadata, owners) = (endpoint.metadata.clone(), endpoint.owners.clone());
            Arc::new(endpoint.with_settings(Settings { weight, origin, metadata, owners, place }))
        });
        let table = Table::new(strict.collect(), &Balancer::RoundRobin, 0.0, Some("a"));
        let own = || table.group_shares(Instant::now())[0].share;
        assert_eq!(own(), 2.0 / 3.0);
        upstream.endpoints()[1].probed(false, 1);
        assert_eq!(own(), 1.0, "half of what is left is here");
    }

    #[test]
    fn whoever_has_been_tried_is_followed_by_the_same_level_and_then_by_any() {
        let upstream = upstream(FAR, None);
        let ids: Vec<u64> = upstream.endpoints().iter().map(|endpoint| endpoint.id()).collect();
        let counts = picked(&upstream, &ids[..1]);
        assert_eq!((counts[0], counts[3]), (0, 0), "{counts:?}");
        assert_eq!(picked(&upstream, &ids[..3]), [0, 0, 0, 1000]);
        let counts = picked(&upstream, &ids);
        assert_eq!(counts[3], 0, "where all have been tried it is as if none had: {counts:?}");
    }

    #[test]
    fn a_key_has_one_endpoint_whichever_group_that_is_in() {
        let upstream = upstream(&format!("{FAR}, balancer: !hash client_ip"), None);
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(7));
        let mut pick = |key: u32| upstream.pick(Some(&key.to_be_bytes()), &[], now, &mut rng).unwrap().id();
        let before: Vec<u64> = (0..1000).map(&mut pick).collect();
        let again: Vec<u64> = (0..1000).map(&mut pick).collect();
        assert_eq!(before, again);
        let first = upstream.endpoints()[0].id();
        let own = before.iter().filter(|id| **id == first).count();
        assert!(own.abs_diff(500) < 60, "{own}");
    }

    #[test]
    fn nobody_left_is_nobody_and_another_place_costs_no_state() {
        let old = upstream(FAR, None);
        old.endpoints().iter().for_each(|endpoint| {
            let _ = endpoint.probed(false, 1);
        });
        assert!(shares(&old).iter().all(|(.., share)| *share == 0.0));
        let mut rng = fastrand::Rng::with_seed(7);
        let pick = old.pick(None, &[], Instant::now(), &mut rng);
        assert_eq!(pick.err(), Some(NoEndpoint::Unhealthy));
        let new = upstream(&FAR.replace("zone: b", "zone: c"), Some(&old));
        let ids = |of: &Upstream| of.endpoints().iter().map(|endpoint| endpoint.id()).collect::<Vec<_>>();
        assert_eq!(ids(&new), ids(&old));
        assert_eq!(new.endpoints()[1].place.zone.as_deref(), Some("c"));
    }
}
