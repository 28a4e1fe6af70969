//! Traefik tries routers in the order of their priority; ours takes the most specific route. Where the two would choose differently, what both
//! routes match becomes a route of its own, which is as specific as either and leads where Traefik leads.

use super::matching::{Common, Matching};

/// Routes that are added at most; each costs a comparison with all others.
const MOST_ADDED: usize = 1000;
/// So many routes are compared with each other.
const MOST_COMPARED: usize = 1000;

#[derive(Clone, Debug)]
pub(crate) struct Ranked {
    pub matching: Matching,
    /// Which router it is of: the lower one goes first.
    pub rank: usize,
    /// Set where it is what that router and a later one have in common.
    pub beside: Option<usize>,
    /// Set where it takes more than its router did, and so may answer nothing but 503.
    pub is_wider: bool,
    /// Whether its router refuses some requests, so that an open one must not get them.
    pub guards: bool,
}

/// What has to be said of two routers: the first goes before the second in Traefik.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// The second is never reached, with all or part of it.
    Covered { by: usize, rank: usize },
    /// Which of them takes what both match could not be made the same.
    Unclear { first: usize, second: usize },
    /// The same where the first is guarded and the second is not, which therefore refuses everything.
    Closed { first: usize, second: usize },
    /// There are too many to be compared.
    TooMany,
}

/// The routes in the order of the file. `routes` are in Traefik's.
pub(crate) fn arrange(routes: Vec<Ranked>) -> (Vec<Ranked>, Vec<Difference>) {
    let mut differences = Vec::new();
    if routes.len() > MOST_COMPARED {
        return (routes, vec![Difference::TooMany]);
    }
    let mut placed: Vec<Ranked> = Vec::new();
    let mut added = 0;
    let mut waiting: Vec<Ranked> = routes.into_iter().rev().collect();
    'next: while let Some(route) = waiting.pop() {
        let mut further = Vec::new();
        for first in placed.iter().filter(|first| first.rank < route.rank) {
            let common = first.matching.common(&route.matching);
            if common == Common::Nothing {
                continue;
            }
            // Which clients may come is no part of a match of ours: others are refused there.
            let with_clients =
                |both: Matching, clients: &[String]| Matching { clients: clients.to_vec(), ..both };
            let decides = first.matching.clients.is_empty();
            match common {
                Common::Both(both)
                    if decides
                        && with_clients((*both).clone(), &route.matching.clients) == route.matching =>
                {
                    if route.beside.is_none() {
                        differences.push(Difference::Covered { by: first.rank, rank: route.rank });
                    }
                    continue 'next;
                }
                _ if !route.matching.outranks(&first.matching) => {}
                Common::Both(both) => {
                    let matching = with_clients(*both, &first.matching.clients);
                    further.push(Ranked { matching, beside: Some(route.rank), ..first.clone() });
                }
                _ => {
                    let (rank, beside) = (first.rank, Some(route.rank));
                    if let Some(within) = first.matching.within(&route.matching) {
                        further.push(Ranked { matching: within, beside, ..first.clone() });
                    } else if first.guards && !route.guards {
                        differences.push(Difference::Closed { first: rank, second: route.rank });
                        let matching = with_clients(route.matching.clone(), &[]);
                        further.push(Ranked { matching, beside, is_wider: true, ..first.clone() });
                    } else {
                        differences.push(Difference::Unclear { first: rank, second: route.rank });
                    }
                }
            }
        }
        let is_new =
            |new: &Ranked| !placed.iter().any(|old| old.rank == new.rank && old.matching == new.matching);
        further.retain(is_new);
        added += further.len();
        if added > MOST_ADDED {
            differences.push(Difference::TooMany);
            further.clear();
        }
        placed.push(route);
        waiting.extend(further.into_iter().rev());
    }
    placed.sort_by_key(|route| route.rank);
    differences.sort();
    differences.dedup();
    (placed, differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::PathMatch, convert::traefik::rule::parse};

    /// Each as its rank, host and path.
    fn arranged(rules: &[&str]) -> (Vec<String>, Vec<Difference>) {
        let route = |(rank, rule): (usize, &&str)| {
            let matching = Matching::of(&parse(rule).unwrap()[0]).unwrap().unwrap();
            Ranked { matching, rank, beside: None, is_wider: false, guards: false }
        };
        let (routes, differences) = arrange(rules.iter().enumerate().map(route).collect());
        let shown = |route: &Ranked| {
            let (PathMatch::Exact(path)
            | PathMatch::Prefix(path)
            | PathMatch::Regex(path)
            | PathMatch::Template(path)) = &route.matching.path;
            format!("{} {}{path}", route.rank, route.matching.host.as_deref().unwrap_or("*"))
        };
        (routes.iter().map(shown).collect(), differences)
    }

    #[test]
    fn routes_that_agree_with_ours_stay_alone() {
        let (routes, differences) =
            arranged(&["Host(`a`) && PathPrefix(`/x`)", "Host(`b`)", "Host(`a`)", "PathPrefix(`/`)"]);
        assert_eq!(routes, ["0 a/x", "1 b/", "2 a/", "3 */"]);
        assert_eq!(differences, []);
    }

    #[test]
    fn what_goes_first_there_goes_first_here() {
        let (routes, differences) = arranged(&[
            "PathPrefix(`/acme`)",
            "Host(`a`)",
            "Host(`b`) && PathPrefix(`/acme/deep`)",
            "Host(`a`) && Path(`/x`)",
        ]);
        assert_eq!(routes, ["0 */acme", "0 a/acme", "1 a/"]);
        assert_eq!(
            differences,
            [Difference::Covered { by: 0, rank: 2 }, Difference::Covered { by: 1, rank: 3 }]
        );
    }

    #[test]
    fn what_no_match_says_is_named() {
        let (_, differences) = arranged(&["PathPrefix(`/a`)", "Host(`a`) && PathRegexp(`x`)"]);
        assert_eq!(differences, [Difference::Unclear { first: 0, second: 1 }]);
    }

    #[test]
    fn an_expression_that_goes_first_goes_first_on_the_other_host_too() {
        let (routes, differences) = arranged(&["PathRegexp(`x`)", "Host(`a`) && PathPrefix(`/a`)"]);
        assert_eq!(routes, ["0 *x", "0 ax", "1 a/a"]);
        assert_eq!(differences, []);
    }
}
