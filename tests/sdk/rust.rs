//! `tidegate-sdk`.

use std::env;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tidegate_sdk::{Client, Discovery, Error, Health, Registration, Service, Status};

use super::{
    CONTROL, TOKEN, Way, eventually, guarded_plane, happened, heartbeats, mute, record, register, remove,
    url, wait_until_it_hears,
};
use crate::control::Plane;
use crate::support::{Process, wait_for_metric, within_deadline};

const ID: &str = "users-127.0.0.1-1";
/// The variable that has the control plane's address for the process below.
const PLANE: &str = "TIDEGATE_TEST_PLANE";

fn client(plane: &Plane) -> Client {
    Client::new([url(plane.address())]).unwrap()
}

/// Renewed once a second, and without a drain.
fn users() -> Service {
    Service::new("users", "127.0.0.1:1").ttl(Duration::from_secs(3)).drain(Duration::ZERO)
}

fn ports(users: &Discovery) -> Vec<u16> {
    users.instances().iter().map(|instance| instance.port).collect()
}

async fn see(users: &mut Discovery, wanted: &[u16]) {
    let seen = async {
        while ports(users) != wanted {
            users.changed().await.expect("the client is there");
        }
    };
    within_deadline(&format!("users at {wanted:?}"), seen).await;
}

async fn wait_for_status(registration: &Registration, is_wanted: impl Fn(&Status) -> bool) {
    eventually("a status", async || is_wanted(&registration.status())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_is_renewed_and_found_until_it_is_dropped() {
    let plane = Plane::start().await;
    let client = client(&plane);
    let mut users = client.discover("users").await.unwrap();
    assert!(users.pick().is_none());
    let service = self::users().tag("v2").metadata("zone", "a").weight(3);
    let registration = client.register(service).await.unwrap();
    assert!(matches!(registration.status(), Status::Registered { id, .. } if id == ID));
    see(&mut users, &[1]).await;
    let user = users.pick().unwrap();
    assert_eq!((user.address.as_str(), user.weight), ("127.0.0.1:1", 3));
    assert!(user.tags.contains("v2") && user.metadata["zone"] == "a");
    // More than its ttl.
    eventually("heartbeats", async || heartbeats(&plane).await >= 4.0).await;
    plane.wait_for(ID, Some("healthy")).await;
    assert_eq!(happened(&plane, "registered").await, 1.0);
    drop(registration);
    plane.wait_for(ID, None).await;
    see(&mut users, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_until_nothing_new_comes() {
    let plane = Plane::start().await;
    let client = client(&plane);
    let mut users = client.discover("users").await.unwrap();
    let registration = client.register(self::users().drain(Duration::from_secs(1))).await.unwrap();
    see(&mut users, &[1]).await;
    registration.close().await.unwrap();
    // Shown as draining, and then gone.
    assert_eq!(happened(&plane, "updated").await, 1.0);
    eventually("that it gets nothing new", async || users.pick().is_none()).await;
    plane.wait_for(ID, None).await;
    see(&mut users, &[]).await;
    assert_eq!(happened(&plane, "deregistered").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_weight_are_told_at_once_and_again_where_they_are_forgotten() {
    let plane = Plane::start().await;
    let client = client(&plane);
    // Too long for a heartbeat that comes by itself.
    let service = self::users().ttl(Duration::from_secs(3600)).health(Health::Critical);
    let registration = client.register(service).await.unwrap();
    plane.wait_for(ID, Some("critical")).await;
    registration.set_health(Health::Healthy);
    plane.wait_for(ID, Some("healthy")).await;
    registration.set_weight(7);
    eventually("the weight", async || record(&plane, ID).await.unwrap()["weight"] == 7).await;
    remove(&plane, ID).await;
    registration.set_weight(8);
    eventually("another registration", async || {
        record(&plane, ID).await.is_some_and(|record| record["weight"] == 8 && record["state"] == "healthy")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_forgotten_registers_again() {
    let plane = Plane::start().await;
    let registration = client(&plane).register(users()).await.unwrap();
    remove(&plane, ID).await;
    plane.wait_for(ID, Some("healthy")).await;
    wait_for_metric(
        &plane.gateway,
        "tidegate_registry_heartbeats_total",
        &["result=\"not_registered\""],
        1.0,
    )
    .await;
    drop(registration);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_without_a_control_plane_finds_it_later() {
    let way = Way::to(None).await;
    let client = Client::new([url(way.address)]).unwrap();
    let registration = client.register(users()).await.unwrap();
    let mut users = client.discover("users").await.unwrap();
    assert!(matches!(registration.status(), Status::Failing(Error::Unreachable(_))));
    assert!(users.error().is_some() && users.pick().is_none());
    let plane = Plane::start().await;
    way.lead(Some(&plane));
    see(&mut users, &[1]).await;
    wait_for_status(&registration, |status| matches!(status, Status::Registered { .. })).await;
    // A connection of before may end once more.
    eventually("that nothing is wrong any more", async || users.error().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_away_or_has_forgotten_everything_takes_nobody() {
    let first = Plane::start().await;
    let way = Way::to(Some(&first)).await;
    let client = Client::new([url(way.address)]).unwrap();
    register(&first, 2, "30s").await;
    let registration = client.register(self::users()).await.unwrap();
    let mut users = client.discover("users").await.unwrap();
    see(&mut users, &[1, 2]).await;

    way.lead(None);
    wait_for_status(&registration, |status| matches!(status, Status::Failing(_))).await;
    eventually("that it is away", async || users.error().is_some()).await;
    assert_eq!(ports(&users), [1, 2]);

    let second = Plane::start().await;
    way.lead(Some(&second));
    second.wait_for(ID, Some("healthy")).await;
    eventually("that it is back", async || users.error().is_none()).await;
    // The second control plane has never heard of the other one.
    assert_eq!(ports(&users), [1, 2]);
    register(&second, 3, "30s").await;
    see(&mut users, &[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let plane = Plane::start().await;
    let way = Way::to(Some(&plane)).await;
    let mut users = Client::new([url(way.address)]).unwrap().discover("users").await.unwrap();
    register(&plane, 1, "30s").await;
    see(&mut users, &[1]).await;
    way.lead(None);
    register(&plane, 2, "30s").await;
    remove(&plane, ID).await;
    way.lead(Some(&plane));
    see(&mut users, &[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_leaves_the_last_one() {
    let plane = Plane::start().await;
    let mut users = client(&plane).discover("users").await.unwrap();
    register(&plane, 1, "1s").await;
    see(&mut users, &[1]).await;
    eventually("its expiry", async || happened(&plane, "expired").await == 1.0).await;
    assert_eq!(ports(&users), [1]);
    register(&plane, 2, "30s").await;
    see(&mut users, &[2]).await;
    remove(&plane, "users-127.0.0.1-2").await;
    // Whoever says goodbye is gone, and does not bring back whom silence took.
    see(&mut users, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_passed_over() {
    let plane = Plane::start().await;
    let (nowhere, mute) = (Way::to(None).await.address, mute().await);
    let servers = [url(nowhere), url(mute), url(plane.address())];
    let client = Client::builder(servers).timeout(Duration::from_millis(300)).build().unwrap();
    let registration = client.register(users()).await.unwrap();
    // The first answer may itself be too slow on a machine that is busy.
    wait_for_status(&registration, |status| matches!(status, Status::Registered { .. })).await;
    let mut users = client.discover("users").await.unwrap();
    see(&mut users, &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_told_at_once() {
    let plane = Plane::start().await;
    let client = client(&plane);
    for name in ["Users", "../users"] {
        let refused = client.register(Service::new(name, "127.0.0.1:1")).await.err().unwrap();
        assert!(
            matches!(&refused, Error::Refused { status: 400, reason, .. } if reason == "bad_request"),
            "{refused}"
        );
        let refused = client.discover(name).await.err().unwrap();
        assert!(refused.is_permanent() && refused.to_string().contains("name of a service"), "{refused}");
    }
    let refused = client.register(Service::new("users", "127.0.0.1")).await.err().unwrap();
    assert!(refused.to_string().contains("address"), "{refused}");
    assert_eq!(happened(&plane, "registered").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_both_sides_prove_who_they_are() {
    let plane = guarded_plane().await;
    let server = format!("https://{}", plane.address());
    let file = |name: &str| std::fs::read(plane.gateway.directory().join(name)).unwrap();
    let ca = file("bundle.pem");
    let builder = || Client::builder([server.as_str()]).ca(ca.clone());

    let client = builder().server_id(CONTROL).token(TOKEN).build().unwrap();
    assert!(!format!("{client:?} {:?}", builder().token(TOKEN)).contains(TOKEN));
    let registration = client.register(users()).await.unwrap();
    let mut found = client.discover("users").await.unwrap();
    see(&mut found, &[1]).await;
    let refused = client.register(Service::new("payments", "127.0.0.1:1")).await.err().unwrap();
    assert!(matches!(&refused, Error::Refused { reason, .. } if reason == "not_yours"), "{refused}");
    drop(registration);
    see(&mut found, &[]).await;

    let client = builder().server_id(CONTROL).identity(file("users.crt"), file("users.key")).build().unwrap();
    let registration = client.register(users()).await.unwrap();
    see(&mut found, &[1]).await;
    drop(registration);

    for strange in
        [builder().server_id(CONTROL).token("a-guess-of-somebody-else"), builder().server_id(CONTROL)]
    {
        let refused = strange.build().unwrap().discover("users").await.err().unwrap();
        assert!(
            matches!(&refused, Error::Refused { reason, .. } if reason == "unauthenticated"),
            "{refused}"
        );
    }
    // Another's ID, a host that the certificate does not name, and an authority that nobody trusts.
    let others = [
        builder().server_id("spiffe://mesh.local/other"),
        builder(),
        Client::builder([server.as_str()]).server_id(CONTROL),
    ];
    for other in others {
        let found = other.token(TOKEN).build().unwrap().discover("users").await.unwrap();
        let error = found.error().unwrap();
        assert!(matches!(&error, Error::Unreachable(why) if why.contains("certificate")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_end_leaves_in_order() {
    let plane = Plane::start().await;
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["sdk::rust::a_process_of_its_own", "--exact", "--ignored", "--nocapture"]);
    command.env(PLANE, url(plane.address()));
    let process = Process::spawn(command);
    plane.wait_for(ID, Some("healthy")).await;
    wait_until_it_hears(&process, Signal::SIGTERM).await;
    process.signal(Signal::SIGTERM);
    assert!(process.wait_exit().await.success());
    assert!(process.output().contains("left"));
    assert_eq!(happened(&plane, "updated").await, 1.0, "it was shown as draining");
    plane.wait_for(ID, None).await;
    assert_eq!(happened(&plane, "deregistered").await, 1.0);
}

#[tokio::test]
#[ignore = "the process of the test above"]
async fn a_process_of_its_own() {
    let Ok(plane) = env::var(PLANE) else { return };
    let client = Client::new([plane]).unwrap();
    let registration = client.register(users().drain(Duration::from_secs(1))).await.unwrap();
    registration.close_on_signal().await.unwrap();
    println!("left");
}
