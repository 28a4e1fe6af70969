//! A control plane under 1,000 simulated gateways, 10,000 services and 20,000 instances: how long a change takes to be in force, what
//! it costs, what a restart and mass silence do. One process on one core plays everybody, the plane has another to itself. Then a
//! real gateway with a service of 1,000 endpoints. Ends with 1 where a goal is missed.
//! Run with `cargo bench --bench control`; `-- --seconds 10` is a look. `-- --etcd PATH` has two replicas behind that etcd instead:
//! only changes are measured.

mod gateways;
mod plane;
mod services;

use std::{
    cell::Cell,
    path::PathBuf,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::{LocalSet, spawn_local};

use self::{
    gateways::{Fleet, Gateway},
    plane::{Planes, Ports, Process, cpu_between},
    services::{Beats, Population},
};

/// As generated code asks for it.
pub(crate) mod wire {
    pub(crate) use tonic_prost::ProstCodec as Codec;
}

pub(crate) mod v1 {
    #![allow(clippy::all, clippy::pedantic, unreachable_pub, dead_code)]
    tonic::include_proto!("tidegate.control.v1");
}

const GATEWAYS: usize = 1_000;
const SERVICES: usize = 10_000;
const OF_EACH: usize = 2;
const TTL: Duration = Duration::from_secs(30);
const CHANGES: u64 = 100;
const MIB: f64 = 1024.0;

struct Arguments {
    binary: PathBuf,
    /// Of changes; heartbeats alone are measured for a quarter of it.
    seconds: u64,
    /// Services that each gateway follows.
    follow: usize,
    /// `idle`: nothing after the first sync. `endpoints`: the gateway alone.
    only: Option<String>,
    /// The program that two replicas share.
    etcd: Option<PathBuf>,
}

/// What was promised, and what was seen.
struct Report(Vec<(String, String, String, bool)>);

impl Report {
    fn line(&mut self, what: &str, seen: String, most: &str, holds: bool) {
        println!("{} {what}: {seen} ({most})", if holds { "ok  " } else { "FAIL" });
        self.0.push((what.to_owned(), seen, most.to_owned(), holds));
    }

    fn less(&mut self, what: &str, seen: f64, unit: &str, most: f64) {
        self.line(what, format!("{seen:.1} {unit}"), &format!("< {most} {unit}"), seen < most);
    }

    fn end(&self) -> ExitCode {
        println!("\n| what | seen | goal |\n|---|---|---|");
        self.0.iter().for_each(|(what, seen, most, _)| println!("| {what} | {seen} | {most} |"));
        ExitCode::from(u8::from(!self.0.iter().all(|(.., holds)| *holds)))
    }
}

fn main() -> ExitCode {
    let arguments = arguments();
    plane::move_to_core(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = LocalSet::new().block_on(&runtime, run(&arguments));
    report.end()
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        binary: env!("CARGO_BIN_EXE_tidegate").into(),
        seconds: 60,
        follow: 100,
        only: None,
        etcd: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--binary" => arguments.binary = words.next().expect("a path").into(),
            "--seconds" => arguments.seconds = words.next().and_then(|n| n.parse().ok()).expect("a number"),
            "--follow" => arguments.follow = words.next().and_then(|n| n.parse().ok()).expect("a number"),
            "--only" => arguments.only = words.next(),
            "--etcd" => arguments.etcd = words.next().map(PathBuf::from),
            // Of cargo.
            "--bench" => {}
            _ => {
                panic!(
                    "{word} is not known (--binary PATH, --seconds N, --follow N, --only idle|endpoints, --etcd PATH)"
                )
            }
        }
    }
    arguments
}

async fn run(arguments: &Arguments) -> Report {
    let mut report = Report(Vec::new());
    if arguments.only.as_deref() == Some("endpoints") {
        endpoints(arguments, &mut report).await;
        return report;
    }
    let directory = tempfile::tempdir().unwrap();
    let planes = match &arguments.etcd {
        Some(etcd) => Planes::over_etcd(&arguments.binary, etcd, directory.path()).await,
        None => Planes::alone(Process::plane(&arguments.binary, directory.path()).await),
    };
    let ports = planes.ports();
    let population = Rc::new(Population::new(SERVICES, OF_EACH));
    let began = Instant::now();
    population.register(&ports, TTL).await;
    println!("{} instances registered in {:.1} s", population.count(), began.elapsed().as_secs_f64());
    let beats = Beats::start(population.clone(), &ports);

    let before = planes.resident();
    let fleet = Rc::new(Fleet::default());
    for number in 0..GATEWAYS {
        let first = number * SERVICES / GATEWAYS;
        let names = (0..arguments.follow).map(|n| population.name((first + n) % SERVICES)).collect();
        spawn_local(Gateway::new(number, names, fleet.clone()).run(ports.of(number)));
    }
    let took = in_sync(&fleet, Instant::now()).await;
    let follow = arguments.follow;
    println!("{GATEWAYS} gateways follow {follow} services each, in sync after {:.1} s", took.as_secs_f64());
    tokio::time::sleep(Duration::from_secs(2)).await;
    if arguments.etcd.is_none() {
        let each = (planes.resident() - before) / GATEWAYS as f64;
        report.less(&format!("an idle stream that follows {follow} services"), each, "KiB", 64.0);
    }
    if arguments.only.as_deref() == Some("idle") {
        return report;
    }

    if arguments.etcd.is_some() {
        changes(arguments, &planes, &population, &fleet, &mut report).await;
        return report;
    }
    heartbeats(arguments, &planes[0], &beats, &mut report).await;
    changes(arguments, &planes, &population, &fleet, &mut report).await;
    let mut plane = planes.only();
    restart(arguments, &mut plane, directory.path(), &fleet, &mut report).await;
    silence(&plane, &population, &beats, &fleet, &mut report).await;
    report.less("the plane's memory, at most", plane.most_resident() / MIB, "MB", 400.0);
    drop(plane);
    endpoints(arguments, &mut report).await;
    report
}

/// How long it took since `began` until everybody has heard of everything.
async fn in_sync(fleet: &Fleet, began: Instant) -> Duration {
    while fleet.in_sync.get() < GATEWAYS {
        assert!(began.elapsed() < Duration::from_secs(120), "{} of {GATEWAYS} in sync", fleet.in_sync.get());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

async fn heartbeats(arguments: &Arguments, plane: &Process, beats: &Beats, report: &mut Report) {
    let seconds = Duration::from_secs((arguments.seconds / 4).max(5));
    for (over, most) in [(services::Over::Rest, 30.0), (services::Over::Batches, 5.0)] {
        beats.turn_to(over);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (cpu, sent) = (plane.cpu(), beats.sent.get());
        tokio::time::sleep(seconds).await;
        let share = cpu_between(cpu, plane.cpu()).as_secs_f64() / seconds.as_secs_f64() * 100.0;
        let rate = (beats.sent.get() - sent) / seconds.as_secs();
        report.less(&format!("{rate} heartbeats/s {over}"), share, "% of a core", most);
    }
}

async fn changes(
    arguments: &Arguments,
    planes: &Planes,
    population: &Rc<Population>,
    fleet: &Rc<Fleet>,
    report: &mut Report,
) {
    let (cpu, began) = (planes.cpu(), Instant::now());
    let total = CHANGES * arguments.seconds;
    let clients = planes.ports().clients().await;
    let mut pace = tokio::time::interval(Duration::from_micros(1_000_000 / CHANGES));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let failed = Rc::new(Cell::new(0));
    for number in 0..total {
        pace.tick().await;
        let instance = population.any();
        let id = population.id(instance);
        let weight = u16::try_from(2 + number % 65_000).unwrap();
        fleet.changed.borrow_mut().insert((id.clone(), weight), Instant::now());
        let (mut client, failed) = (clients[instance % clients.len()].clone(), failed.clone());
        spawn_local(async move {
            let beat = v1::Beat { id, weight: Some(weight.into()), ..v1::Beat::default() };
            if client.heartbeat(v1::HeartbeatRequest { beats: vec![beat] }).await.is_err() {
                failed.set(failed.get() + 1);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let share = cpu_between(cpu, planes.cpu()).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let mut took = fleet.took.take();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("{total} changes, heard {} times, {share:.0} % of a core", took.len());
    report.line("changes refused", failed.get().to_string(), "0", failed.get() == 0);
    report.less("change to applied, median", at(0.5), "ms", 300.0);
    report.less("change to applied, p99", at(0.99), "ms", 1000.0);
    report.less("change to applied, longest", at(1.0), "ms", 2000.0);
}

async fn restart(
    arguments: &Arguments,
    plane: &mut Process,
    directory: &std::path::Path,
    fleet: &Rc<Fleet>,
    report: &mut Report,
) {
    fleet.removed.set(0);
    let port = plane.port;
    let ending = Instant::now();
    plane.end().await;
    let began = Instant::now();
    *plane = Process::plane_at(&arguments.binary, directory, port).await;
    let (ended, listened) = (began - ending, began.elapsed());
    let took = in_sync(fleet, began).await;
    println!(
        "the plane ended in {:.1} s and listened {:.1} s after",
        ended.as_secs_f64(),
        listened.as_secs_f64()
    );
    report.less("a plane that was restarted: all gateways in sync", took.as_secs_f64(), "s", 10.0);
    // The end of its warming is the other moment in which something could go.
    tokio::time::sleep(TTL + Duration::from_secs(5)).await;
    report.line("removals after the restart", fleet.removed.get().to_string(), "0", fleet.removed.get() == 0);
}

async fn silence(
    plane: &Process,
    population: &Population,
    beats: &Beats,
    fleet: &Rc<Fleet>,
    report: &mut Report,
) {
    let silent = population.count() * 2 / 5;
    let dead = population.count() / 20;
    fleet.removed.set(0);
    beats.skip.set(silent);
    tokio::time::sleep(TTL + Duration::from_secs(15)).await;
    let held = plane.metric("tidegate_registry_held").await;
    let is_held = held as usize >= silent * 9 / 10;
    report.line("40 % of all fell silent: held", held.to_string(), &format!("about {silent}"), is_held);
    report.line("removals meanwhile", fleet.removed.get().to_string(), "0", fleet.removed.get() == 0);
    // All but one in twenty come back; those are dead.
    beats.skip.set(dead);
    let began = Instant::now();
    let (mut ended, most) = (false, Duration::from_secs(150));
    while !ended && began.elapsed() < most {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ended = plane.metric("tidegate_registry_held").await == 0.0
            && plane.metric("tidegate_registry_instances{state=\"healthy\"}").await as usize
                == population.count() - dead;
    }
    report.line(
        "most came back: the state ends, and only the dead are gone",
        format!("after {:.0} s", began.elapsed().as_secs_f64()),
        "within 150 s",
        ended,
    );
}

/// A service of 1,000 endpoints, each update of which changes one.
async fn endpoints(arguments: &Arguments, report: &mut Report) {
    const UPDATES: u32 = 40;
    let directory = tempfile::tempdir().unwrap();
    let plane = Process::plane(&arguments.binary, directory.path()).await;
    let ports = Ports::of_one(plane.port);
    let population = Population::new(1, 1_000);
    population.register(&ports, Duration::from_secs(3600)).await;
    let gateway = Process::gateway(&arguments.binary, directory.path(), &plane, &population.name(0)).await;
    let mut client = ports.clients().await.remove(0);
    let pause = Duration::from_millis(700);
    let mut cost = [Duration::ZERO; 2];
    for (does_change, cost) in [false, true].into_iter().zip(&mut cost) {
        let before = gateway.cpu();
        for number in 0..UPDATES {
            if does_change {
                let beat = v1::Beat {
                    id: population.id(population.any()),
                    weight: Some(2 + number),
                    ..v1::Beat::default()
                };
                client.heartbeat(v1::HeartbeatRequest { beats: vec![beat] }).await.unwrap();
            }
            tokio::time::sleep(pause).await;
        }
        *cost = cpu_between(before, gateway.cpu());
    }
    let each = cost[1].saturating_sub(cost[0]).as_secs_f64() * 1000.0 / f64::from(UPDATES);
    report.less("an update of a service with 1,000 endpoints, on a gateway", each, "ms", 5.0);
}
