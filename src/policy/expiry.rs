//! Who has been silent for too long, and whether that is believed.
//!
//! One instance that stops renewing is gone. Many that stop together are more likely cut off than dead: they are held, so
//! that nobody loses their last endpoints to a broken network. What tells the two apart is a share of those that renewed
//! in the minute before, so that a fleet that shrinks for good does not trip it, and one that was held once does not
//! stay so.
//!
//! An instance counts as silent before it is overdue. Otherwise the first of many, whose heartbeats are spread over a
//! third of their TTL, would each look like the only one.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// What counts as mass silence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hold {
    /// More than this share of all.
    pub overdue: f64,
    /// More than this share of a service's.
    pub of_service: f64,
    /// Fewer are never held.
    pub at_least: usize,
    /// Longest.
    pub limit: Duration,
}

/// When an instance was heard last, and what is expected of it.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    pub ttl: Duration,
    pub last: Instant,
    /// Between its last two renewals.
    pub every: Duration,
    held: Option<Held>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Held {
    since: Instant,
    among: Among,
}

/// Whose silence it was.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Among {
    All,
    Service,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Expire,
    Hold,
}

/// Those that renewed in this time before they fell silent are what shares are of.
const BEFORE: Duration = Duration::from_secs(60);
/// When so many of those concerned renew again, the rest are believed to be dead.
const RECOVERED: f64 = 0.85;

impl Renewal {
    pub fn new(ttl: Duration, now: Instant) -> Renewal {
        Renewal { ttl, last: now, every: ttl / 3, held: None }
    }

    /// Heard: whether it was held until now.
    pub fn renew(&mut self, now: Instant) -> bool {
        self.every = now.saturating_duration_since(self.last);
        self.last = now;
        self.held.take().is_some()
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub fn due(&self) -> Instant {
        self.last + self.ttl
    }

    fn overdue(&self, now: Instant) -> Option<Duration> {
        now.checked_duration_since(self.due()).filter(|overdue| !overdue.is_zero())
    }

    /// It should have been heard of by now. Half a TTL is more than the third at which heartbeats come, and less than
    /// what is left to the first of many that fell silent together when it is overdue. Whoever renews more rarely is
    /// given its own measure.
    fn is_silent(&self, now: Instant) -> bool {
        let patience = (self.ttl / 2).max(self.every.mul_f64(1.5)).min(self.ttl);
        now.saturating_duration_since(self.last) > patience
    }
}

/// What has expired lately, which counts among the silent.
#[derive(Debug)]
pub struct Expiry<S> {
    hold: Option<Hold>,
    lately: VecDeque<(Instant, S)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Not heard of when they should have been; overdue for less than a minute, or expired since.
    silent: usize,
    /// Those that renewed in the minute before.
    before: usize,
    renewing: usize,
    held: usize,
}

impl<S: Clone + Eq + Hash> Expiry<S> {
    /// `None` holds nobody.
    pub fn new(hold: Option<Hold>) -> Expiry<S> {
        Expiry { hold, lately: VecDeque::new() }
    }

    /// To be called once a second with all instances, each with its service: what becomes of those that are overdue. Who is
    /// to be held is from then on, and those that expire are the caller's to forget.
    pub fn look<'a, K>(
        &mut self,
        instances: impl Iterator<Item = (K, S, &'a mut Renewal)>,
        now: Instant,
    ) -> Vec<(K, Verdict)> {
        let instances: Vec<_> = instances.collect();
        while self.lately.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > BEFORE) {
            self.lately.pop_front();
        }
        let (all, services) = self.count(&instances, now);
        let mut verdicts = Vec::new();
        for (key, service, renewal) in instances {
            let Some(overdue) = renewal.overdue(now) else { continue };
            let own = services.get(&service).copied().unwrap_or_default();
            let verdict = match renewal.held {
                Some(held) if !self.is_over(held, overdue, renewal.ttl, &all, &own, now) => continue,
                Some(_) => Verdict::Expire,
                None => match self.among(&all, &own) {
                    Some(among) => {
                        renewal.held = Some(Held { since: now, among });
                        Verdict::Hold
                    }
                    None => Verdict::Expire,
                },
            };
            // One that was held has been counted long since.
            if verdict == Verdict::Expire && renewal.held.is_none() {
                self.lately.push_back((now, service));
            }
            verdicts.push((key, verdict));
        }
        verdicts
    }

    fn count<K>(&self, instances: &[(K, S, &mut Renewal)], now: Instant) -> (Tally, HashMap<S, Tally>) {
        let (mut all, mut services) = (Tally::default(), HashMap::<S, Tally>::new());
        let mut add = |service: &S, one: Tally| {
            all.add(one);
            services.entry(service.clone()).or_default().add(one);
        };
        for (_, service, renewal) in instances {
            add(service, Tally::of(renewal, now));
        }
        for (_, service) in &self.lately {
            add(service, Tally { silent: 1, before: 1, ..Tally::default() });
        }
        (all, services)
    }

    /// Whose silence is held against, if it is.
    fn among(&self, all: &Tally, own: &Tally) -> Option<Among> {
        let hold = self.hold.as_ref()?;
        let is_mass = |tally: &Tally, share: f64| {
            tally.silent >= hold.at_least && tally.silent as f64 > share * tally.before as f64
        };
        match (is_mass(all, hold.overdue), is_mass(own, hold.of_service)) {
            (true, _) => Some(Among::All),
            (false, true) => Some(Among::Service),
            (false, false) => None,
        }
    }

    fn is_over(
        &self,
        held: Held,
        overdue: Duration,
        ttl: Duration,
        all: &Tally,
        own: &Tally,
        now: Instant,
    ) -> bool {
        let Some(hold) = &self.hold else { return true };
        let tally = if held.among == Among::All { all } else { own };
        let recovered = tally.renewing as f64 >= RECOVERED * (tally.renewing + tally.held) as f64;
        now.saturating_duration_since(held.since) >= hold.limit || (recovered && overdue >= ttl * 2)
    }
}

impl Tally {
    fn of(renewal: &Renewal, now: Instant) -> Tally {
        let overdue = renewal.overdue(now);
        let is_silent = renewal.is_silent(now);
        // It renewed in the minute before it was missed.
        let is_recent = overdue.is_none_or(|overdue| overdue <= BEFORE);
        Tally {
            silent: usize::from(is_silent && is_recent),
            before: usize::from(is_recent),
            renewing: usize::from(!is_silent),
            held: usize::from(renewal.is_held()),
        }
    }

    fn add(&mut self, other: Tally) {
        self.silent += other.silent;
        self.before += other.before;
        self.renewing += other.renewing;
        self.held += other.held;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const HOLD: Hold = Hold { overdue: 0.15, of_service: 0.5, at_least: 5, limit: Duration::from_secs(600) };

    /// Instances that renew every third of their TTL while they live, and a registry that looks once a second.
    struct Fleet {
        start: Instant,
        second: u64,
        expiry: Expiry<usize>,
        members: Vec<Member>,
        held_once: bool,
    }

    struct Member {
        service: usize,
        phase: u64,
        lives: bool,
        renewal: Option<Renewal>,
    }

    impl Fleet {
        /// `services` of `size` instances each.
        fn new(hold: Option<Hold>, services: usize, size: usize) -> Fleet {
            let start = Instant::now();
            let members = (0..services * size).map(|n| Member {
                service: n / size,
                phase: n as u64 * 7 % 10,
                lives: true,
                renewal: Some(Renewal::new(TTL, start)),
            });
            let members = members.collect();
            Fleet { start, second: 0, expiry: Expiry::new(hold), members, held_once: false }
        }

        fn pass(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.second += 1;
                let now = self.start + Duration::from_secs(self.second);
                for member in self.members.iter_mut().filter(|member| member.lives) {
                    if self.second % 10 == member.phase {
                        // One that has expired registers again.
                        match &mut member.renewal {
                            Some(renewal) => _ = renewal.renew(now),
                            None => member.renewal = Some(Renewal::new(TTL, now)),
                        }
                    }
                }
                let seen = self.members.iter_mut().enumerate().filter_map(|(n, member)| {
                    member.renewal.as_mut().map(|renewal| (n, member.service, renewal))
                });
                for (n, verdict) in self.expiry.look(seen, now) {
                    match verdict {
                        Verdict::Expire => self.members[n].renewal = None,
                        Verdict::Hold => self.held_once = true,
                    }
                }
            }
        }

        fn kill(&mut self, which: impl Fn(usize) -> bool) {
            self.members.iter_mut().enumerate().filter(|(n, _)| which(*n)).for_each(|(_, m)| m.lives = false);
        }

        fn revive(&mut self, which: impl Fn(usize) -> bool) {
            self.members.iter_mut().enumerate().filter(|(n, _)| which(*n)).for_each(|(_, m)| m.lives = true);
        }

        fn left(&self) -> usize {
            self.members.iter().filter(|member| member.renewal.is_some()).count()
        }

        fn held(&self) -> usize {
            self.members.iter().filter_map(|member| member.renewal.as_ref()).filter(|r| r.is_held()).count()
        }
    }

    #[test]
    fn one_that_is_silent_expires_after_its_ttl_also_the_last_of_a_service() {
        let mut fleet = Fleet::new(Some(HOLD), 20, 1);
        fleet.pass(60);
        fleet.kill(|n| n == 3);
        fleet.pass(20);
        assert_eq!(fleet.left(), 20, "it renewed less than a TTL ago");
        fleet.pass(11);
        assert_eq!((fleet.left(), fleet.held()), (19, 0));
    }

    #[test]
    fn four_of_four_are_too_few_to_be_held() {
        let mut fleet = Fleet::new(Some(HOLD), 1, 4);
        fleet.pass(60);
        fleet.kill(|_| true);
        fleet.pass(31);
        assert_eq!(fleet.left(), 0);
    }

    #[test]
    fn forty_percent_at_once_are_held_and_go_after_the_limit() {
        let mut fleet = Fleet::new(Some(HOLD), 50, 4);
        fleet.pass(120);
        fleet.kill(|n| n % 5 < 2);
        fleet.pass(31);
        assert_eq!((fleet.left(), fleet.held()), (200, 80));
        fleet.pass(500);
        assert_eq!((fleet.left(), fleet.held()), (200, 80));
        fleet.pass(101);
        assert_eq!((fleet.left(), fleet.held()), (120, 0));
    }

    #[test]
    fn when_most_are_back_the_rest_are_dead() {
        let mut fleet = Fleet::new(Some(HOLD), 50, 4);
        fleet.pass(120);
        fleet.kill(|n| n % 5 < 2);
        fleet.pass(45);
        fleet.revive(|n| n % 5 == 0 || n % 50 == 1);
        fleet.pass(10);
        // 36 of 200 are still silent: 82 % renew.
        assert_eq!((fleet.left(), fleet.held()), (200, 36));
        fleet.revive(|n| n % 10 == 1);
        fleet.pass(10);
        assert_eq!((fleet.left(), fleet.held()), (200, 20), "they have not been overdue for two TTLs");
        fleet.pass(60);
        assert_eq!((fleet.left(), fleet.held()), (180, 0));
    }

    #[test]
    fn most_of_a_large_service_are_held_where_they_are_few_among_all() {
        let mut fleet = Fleet::new(Some(HOLD), 20, 10);
        fleet.pass(60);
        fleet.kill(|n| n < 8);
        fleet.kill(|n| n == 100);
        fleet.pass(31);
        assert_eq!((fleet.left(), fleet.held()), (199, 8), "the one of another service is not believed in");
    }

    #[test]
    fn a_fleet_that_shrinks_slowly_is_not_held() {
        let mut fleet = Fleet::new(Some(HOLD), 1, 100);
        fleet.pass(60);
        for n in 0..90 {
            fleet.kill(|m| m == n);
            fleet.pass(61);
        }
        fleet.pass(60);
        assert_eq!(fleet.left(), 10);
        assert!(!fleet.held_once);
    }

    #[test]
    fn without_a_hold_silence_is_believed() {
        let mut fleet = Fleet::new(None, 10, 10);
        fleet.pass(60);
        fleet.kill(|n| n % 2 == 0);
        fleet.pass(31);
        assert_eq!((fleet.left(), fleet.held()), (50, 0));
    }

    #[test]
    fn who_renews_rarely_is_not_taken_for_silent() {
        let start = Instant::now();
        let mut renewal = Renewal::new(TTL, start);
        renewal.renew(start + TTL.mul_f64(0.9));
        let later = |part: f64| start + TTL.mul_f64(0.9 + part);
        assert!(!renewal.is_silent(later(0.95)) && renewal.is_silent(later(1.01)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Nobody is taken by mass silence, whoever it strikes; whoever comes back is as before; and it ends.
        #[test]
        fn mass_silence_takes_nobody_and_always_ends(
            services in 1usize..12,
            size in 1usize..12,
            share in 0.3f64..1.0,
            back in 0.0f64..1.0,
            away in 1u64..500,
            seed in any::<u64>(),
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut fleet = Fleet::new(Some(HOLD), services, size);
            let all = services * size;
            fleet.pass(60);
            let struck: Vec<bool> = (0..all).map(|_| rng.f64() < share).collect();
            let silent = struck.iter().filter(|struck| **struck).count();
            prop_assume!(silent >= HOLD.at_least && silent as f64 > HOLD.overdue * all as f64);
            fleet.kill(|n| struck[n]);
            fleet.pass(31 + away);
            prop_assert_eq!(fleet.left(), all);
            prop_assert_eq!(fleet.held(), silent);
            let back: Vec<bool> = struck.iter().map(|struck| *struck && rng.f64() < back).collect();
            fleet.revive(|n| back[n]);
            fleet.pass(700);
            let dead = (0..all).filter(|n| struck[*n] && !back[*n]).count();
            prop_assert_eq!((fleet.left(), fleet.held()), (all - dead, 0));
        }
    }
}
