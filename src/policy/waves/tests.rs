use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings {
        waves: vec![Size::Gateways(1), Size::Share(0.1), Size::Share(1.0)],
        hold: 30 * SECOND,
        ack_timeout: 30 * SECOND,
    }
}

/// A rollout with gateways that do what they are told.
struct World {
    rollout: Rollout,
    fleet: Fleet,
    order: Vec<Name>,
    now: Instant,
}

impl World {
    fn of(gateways: usize) -> World {
        let now = Instant::now();
        let mut world =
            World { rollout: Rollout::new(settings(), now), fleet: Fleet::new(), order: Vec::new(), now };
        (0..gateways).for_each(|_| world.join());
        world
    }

    fn join(&mut self) {
        let name: Name = format!("g{}", self.order.len()).into();
        self.order.push(name.clone());
        self.fleet.insert(name, Seen { connected: true, started: 1, ..Seen::default() });
    }

    fn look(&mut self) {
        self.rollout.look(&self.fleet, &self.order, self.now);
    }

    /// Each gets what it is to have.
    fn obey(&mut self) {
        for (name, seen) in &mut self.fleet {
            if seen.connected {
                seen.in_force = self.rollout.wants(name);
            }
        }
    }

    fn after(&mut self, seconds: u32) -> &mut Self {
        self.now += seconds * SECOND;
        self.look();
        self
    }

    fn seen(&mut self, gateway: &str) -> &mut Seen {
        self.fleet.get_mut(gateway).unwrap()
    }

    fn have(&self) -> Vec<&str> {
        self.fleet.keys().filter(|name| self.rollout.wants(name)).map(|name| &**name).collect()
    }

    /// The first wave holds.
    fn begun(gateways: usize) -> World {
        let mut world = World::of(gateways);
        world.look();
        world.obey();
        world.look();
        assert_eq!((world.rollout.phase(), world.have()), (Phase::Holding, vec!["g0"]));
        world
    }
}

#[test]
fn what_another_process_decides_is_followed_and_what_is_known_of_gateways_stays() {
    let mut world = World::of(20);
    world.look();
    world.obey();
    world.look();
    assert_eq!(world.rollout.phase(), Phase::Holding);
    // One that follows has the same gateways in the same wave, whenever it begins to.
    let mut other = Rollout::new(settings(), world.now);
    other.follow(world.rollout.kept(), world.now);
    assert_eq!(other.kept(), world.rollout.kept());
    // Somebody pauses it there, and the one that drives it goes on from that.
    other.pause("by somebody");
    world.rollout.follow(other.kept(), world.now);
    world.after(3600);
    assert_eq!((world.rollout.phase(), world.rollout.why()), (Phase::Paused, Some("by somebody")));
    other.resume(&world.fleet, world.now);
    world.rollout.follow(other.kept(), world.now);
    world.after(1);
    assert_eq!(world.rollout.phase(), Phase::Holding, "all of the wave have it");
    world.after(30);
    assert_eq!(
        (world.rollout.phase(), world.rollout.wave(), world.rollout.members().len()),
        (Phase::Rolling, 2, 2)
    );
    // A restart since is still seen.
    let first = world.order[0].clone();
    let kept = world.rollout.kept();
    world.rollout.follow(kept, world.now);
    world.seen(&first).started = 2;
    world.after(1);
    assert_eq!(world.rollout.phase(), Phase::Aborted);
}

#[test]
fn one_then_a_tenth_then_all() {
    let mut world = World::begun(30);
    assert_eq!(world.after(29).have().len(), 1);
    assert_eq!(world.after(1).have().len(), 3);
    assert_eq!((world.rollout.wave(), world.rollout.phase()), (2, Phase::Rolling));
    world.obey();
    assert_eq!(world.after(0).rollout.phase(), Phase::Holding);
    assert_eq!(world.after(30).have().len(), 30);
    world.obey();
    world.look();
    assert_eq!(world.after(29).rollout.phase(), Phase::Holding);
    assert_eq!(world.after(1).rollout.phase(), Phase::Done);
}

#[test]
fn waves_that_would_have_nobody_new_are_left_out() {
    let mut world = World::begun(1);
    assert_eq!(world.after(30).rollout.phase(), Phase::Done);
    assert_eq!(world.rollout.wave(), 3);
}

#[test]
fn a_refusal_takes_it_back_from_all_that_have_it() {
    let mut world = World::begun(30);
    world.after(30);
    world.obey();
    world.look();
    world.seen("g1").refused = Some("edge@2:1:1: no".into());
    world.look();
    assert_eq!((world.rollout.phase(), world.have().len()), (Phase::Aborted, 0));
    assert_eq!(world.rollout.why(), Some("g1 refuses it: edge@2:1:1: no"));
    world.seen("g1").refused = None;
    assert_eq!(world.after(100).have().len(), 0, "for good");
}

#[test]
fn a_restart_ends_it() {
    let mut world = World::begun(3);
    world.seen("g2").started = 2;
    assert_eq!(world.after(1).rollout.phase(), Phase::Holding, "it does not have it");
    world.seen("g0").started = 2;
    assert_eq!(world.after(1).rollout.why(), Some("g0 has restarted with it"));
    assert_eq!(world.rollout.phase(), Phase::Aborted);
}

#[test]
fn errors_of_its_own_end_it() {
    let mut world = World::of(3);
    let counted = |requests, own_errors| {
        Some(Counted { now: Counts { requests, own_errors }, minute_ago: Counts::default() })
    };
    world.look();
    world.seen("g0").counted = counted(1000, 10);
    world.obey();
    world.look();
    world.seen("g0").counted = counted(2000, 25);
    assert_eq!(world.after(1).rollout.phase(), Phase::Holding);
    world.seen("g0").counted = counted(2000, 60);
    assert_eq!(world.after(1).rollout.phase(), Phase::Aborted);
    assert!(world.rollout.why().unwrap().starts_with("g0 answers 5.0% of 1000 requests"));
}

#[test]
fn one_that_is_away_is_waited_for_and_then_it_pauses() {
    let mut world = World::begun(3);
    world.seen("g0").connected = false;
    assert_eq!(world.after(29).rollout.phase(), Phase::Holding);
    world.seen("g0").connected = true;
    world.after(1);
    assert_eq!((world.rollout.phase(), world.rollout.wave()), (Phase::Rolling, 3), "it came back in time");
    world.obey();
    world.look();
    world.seen("g1").connected = false;
    world.look();
    assert_eq!(world.after(30).rollout.phase(), Phase::Paused);
    assert!(world.rollout.why().unwrap().starts_with("g1 is away"));
    assert_eq!(world.have().len(), 3, "nobody is sent anything else");
    world.rollout.resume(&world.fleet.clone(), world.now);
    assert_eq!(world.have(), ["g0", "g2"]);
    world.look();
    assert_eq!(world.after(30).rollout.phase(), Phase::Done);
    assert_eq!(world.have().len(), 3);
}

#[test]
fn one_that_says_nothing_pauses_it_as_well() {
    let mut world = World::of(1);
    world.look();
    assert_eq!(world.after(30).rollout.phase(), Phase::Paused);
    assert!(world.rollout.why().unwrap().contains("does not say whether"));
    world.seen("g0").refused = Some("no".into());
    assert_eq!(world.after(0).rollout.phase(), Phase::Aborted);
}

#[test]
fn without_a_gateway_it_waits_for_the_first() {
    let mut world = World::of(0);
    world.look();
    assert_eq!(world.after(1000).rollout.phase(), Phase::Rolling);
    world.join();
    world.join();
    world.look();
    assert_eq!(world.have(), ["g0"]);
}

#[test]
fn one_that_joins_gets_the_version_of_its_wave() {
    let mut world = World::begun(2);
    world.join();
    assert_eq!(world.after(1).have(), ["g0"]);
    assert_eq!(world.after(29).have().len(), 3);
    world.obey();
    world.look();
    world.after(20).join();
    world.look();
    assert!(world.rollout.wants("g3"));
    assert_eq!(world.after(10).rollout.phase(), Phase::Holding, "it does not have it yet");
    world.obey();
    assert_eq!(world.after(0).rollout.phase(), Phase::Done);
}

#[test]
fn another_process_goes_on_with_the_wave() {
    let mut world = World::begun(30);
    world.after(30);
    let kept = world.rollout.kept();
    assert_eq!((kept.wave, kept.members.len()), (1, 3));
    let back = world.now + 10 * SECOND;
    world.rollout = Rollout::restore(settings(), kept, back);
    world.fleet.values_mut().for_each(|seen| seen.connected = false);
    assert_eq!(world.after(39).rollout.phase(), Phase::Rolling, "they have the time to come back");
    for seen in world.fleet.values_mut() {
        (seen.connected, seen.started) = (true, 7);
    }
    world.obey();
    assert_eq!(world.after(0).rollout.phase(), Phase::Holding);
    assert_eq!(world.after(30).have().len(), 30);
}

#[test]
fn at_once_is_for_everybody() {
    let world = Rollout::at_once(settings(), Instant::now());
    assert!(world.wants("anybody") && world.phase() == Phase::Done && world.wave() == 3);
}

/// What may happen to gateways.
#[derive(Clone, Debug)]
enum Step {
    Wait(u32),
    Obey,
    Join,
    Leave(usize),
    Return(usize),
    Refuse(usize),
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u32..40).prop_map(Step::Wait),
        4 => Just(Step::Obey),
        1 => Just(Step::Join),
        1 => (0_usize..40).prop_map(Step::Leave),
        1 => (0_usize..40).prop_map(Step::Return),
        1 => (0_usize..40).prop_map(Step::Refuse),
        1 => Just(Step::Resume),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// It goes no further than the wave in which one refuses it, no wave has more than it may, and none ends before its time.
    #[test]
    fn it_never_goes_too_far_or_too_fast(gateways in 0_usize..40, steps in steps()) {
        let mut world = World::of(gateways);
        world.look();
        let (mut wave, mut grew, mut before) = (1, world.now, 0);
        for step in steps {
            let at = |index: usize, world: &World| world.order.get(index).cloned();
            match step {
                Step::Wait(seconds) => world.now += seconds * SECOND,
                Step::Obey => world.obey(),
                Step::Join => world.join(),
                Step::Leave(index) => if let Some(name) = at(index, &world) { world.seen(&name).connected = false },
                Step::Return(index) => if let Some(name) = at(index, &world) { world.seen(&name).connected = true },
                Step::Refuse(index) => if let Some(name) = at(index, &world)
                    && world.rollout.wants(&name) { world.seen(&name).refused = Some("no".into()) },
                Step::Resume => world.rollout.resume(&world.fleet.clone(), world.now),
            }
            let refused = world.rollout.members().any(|name| world.fleet[name].refused.is_some());
            let was_over = world.rollout.is_over();
            world.look();
            if refused && !was_over {
                prop_assert_eq!(world.rollout.phase(), Phase::Aborted);
            }
            let there = world.order.iter().filter(|name| world.fleet[*name].connected).count();
            let members = world.rollout.members().len();
            if members > before && !world.rollout.is_over() {
                let all = members + there;
                prop_assert!(members <= settings().waves[world.rollout.wave() - 1].of(all));
            }
            before = members;
            if world.rollout.wave() > wave {
                prop_assert!(world.now - grew >= 30 * SECOND, "wave {} after {:?}", wave, world.now - grew);
                (wave, grew) = (world.rollout.wave(), world.now);
            }
        }
    }

    /// Where everybody does as told, everybody has it in the end.
    #[test]
    fn it_ends(gateways in 1_usize..200) {
        let mut world = World::of(gateways);
        for _ in 0..200 {
            world.after(1).obey();
        }
        prop_assert_eq!(world.rollout.phase(), Phase::Done);
        prop_assert!(world.fleet.values().all(|seen| seen.in_force));
    }
}
