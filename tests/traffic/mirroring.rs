//! Mirrors: copies for a shadow upstream, whose answers nobody waits for.

use super::{Client, Origin, yaml};
use crate::support::{Gateway, RawConnection, ScriptedUpstream, Step, Yaml, metric, wait_for_metric};

async fn mirrored(mirror: &str, main: &Origin, shadow: &Origin) -> Gateway {
    let route = format!("upstream: u, mirror: {{upstream: shadow, {mirror}}}");
    Gateway::start(&yaml(&route, &[("u", &[main], ""), ("shadow", &[shadow], "")])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_gets_what_the_upstream_gets_and_its_answers_go_nowhere() {
    let (main, shadow) = (Origin::start().await, Origin::failing().await);
    let gateway = mirrored("ratio: 100%", &main, &shadow).await;
    let mut client = Client::new(&gateway);
    client.send("GET", "/get?q=1", &[("x-client", "kept")], "").await.assert_status(200);
    client.send("POST", "/post", &[], "hello").await.assert_status(200);
    shadow.wait_for_requests(2).await;
    wait_for_metric(&gateway, "tidegate_mirrored_total", &["outcome=\"answered\""], 2.0).await;
    let mut seen = shadow.seen();
    seen.sort_by(|one, other| one.path.cmp(&other.path));
    assert_eq!((&*seen[0].path, seen[0].header("x-client")), ("/get", Some("kept")));
    assert_eq!((&*seen[1].path, &*seen[1].body), ("/post", b"hello".as_slice()));
    assert_eq!(seen[1].header("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_hangs_delays_nobody_and_is_sent_no_more_than_it_may() {
    let (main, shadow) = (Origin::start().await, Origin::start().await);
    shadow.hold();
    let gateway = mirrored("max_requests: 2", &main, &shadow).await;
    let mut client = Client::new(&gateway);
    for _ in 0..5 {
        client.get("/").await.assert_status(200);
    }
    shadow.wait_for_requests(2).await;
    assert_eq!(shadow.requests(), 2);
    assert_eq!(metric(&gateway, "tidegate_mirrored_total", &["outcome=\"overloaded\""]).await, 3.0);
    shadow.release();
    wait_for_metric(&gateway, "tidegate_mirrored_total", &["outcome=\"answered\""], 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_not_copied_and_reaches_the_upstream_whole() {
    let (main, shadow) = (Origin::start().await, Origin::start().await);
    let gateway = mirrored("ratio: 100%", &main, &shadow).await;
    let body = "x".repeat(100_000);
    Client::new(&gateway).send("POST", "/", &[], body.clone()).await.assert_status(200);
    assert_eq!(main.seen()[0].body.len(), body.len());
    wait_for_metric(&gateway, "tidegate_mirrored_total", &["outcome=\"too_large\""], 1.0).await;
    assert_eq!(shadow.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_not_copied_and_counted() {
    let early = ScriptedUpstream::start(vec![Step::ReadHead, Step::respond("early"), Step::Stall]).await;
    let shadow = Origin::start().await;
    let yaml = Yaml::to(early.address()).route("mirror: {upstream: shadow}");
    let gateway = yaml.with_upstream("shadow", [shadow.address], "").start().await;
    let mut client = RawConnection::open(gateway.address("main"));
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf");
    assert_eq!(client.read_head().status, 200);
    drop(client);
    wait_for_metric(&gateway, "tidegate_mirrored_total", &["outcome=\"incomplete\""], 1.0).await;
    assert_eq!(shadow.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_is_gone_is_counted_and_nothing_else() {
    let (main, shadow) = (Origin::start().await, Origin::start().await);
    let gateway = mirrored("ratio: 100%", &main, &shadow).await;
    drop(shadow);
    Client::new(&gateway).get("/").await.assert_status(200).assert_no_reason();
    wait_for_metric(&gateway, "tidegate_mirrored_total", &["outcome=\"failed\""], 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_requests_is_copied() {
    let (main, shadow) = (Origin::start().await, Origin::start().await);
    let gateway = mirrored("ratio: 20%, max_requests: 1000", &main, &shadow).await;
    let mut client = Client::new(&gateway);
    for _ in 0..500 {
        client.get("/").await.assert_status(200);
    }
    let copied = shadow.requests();
    // Six standard deviations to either side.
    assert!((46..=154).contains(&copied), "{copied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_mirrors_gets_its_own_copies() {
    let (main, one, two) = (Origin::start().await, Origin::start().await, Origin::start().await);
    let route = "upstream: u, mirror: [{upstream: one}, {upstream: two, max_requests: 1}]";
    let gateway =
        Gateway::start(&yaml(route, &[("u", &[&main], ""), ("one", &[&one], ""), ("two", &[&two], "")]))
            .await;
    two.hold();
    let mut client = Client::new(&gateway);
    for _ in 0..3 {
        client.send("POST", "/post", &[], "hello").await.assert_status(200);
    }
    one.wait_for_requests(3).await;
    two.wait_for_requests(1).await;
    // A mirror that is full takes nothing from the other.
    wait_for_metric(&gateway, "tidegate_mirrored_total", &["outcome=\"answered\""], 3.0).await;
    assert_eq!(metric(&gateway, "tidegate_mirrored_total", &["outcome=\"overloaded\""]).await, 2.0);
    assert!(one.seen().iter().all(|seen| seen.body == b"hello".as_slice()));
    assert_eq!((&*two.seen()[0].body, main.requests()), (b"hello".as_slice(), 3));
    two.release();
}
