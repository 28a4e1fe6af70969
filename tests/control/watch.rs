//! Changes as server-sent events.

use std::{collections::HashMap, net::SocketAddr};

use serde_json::Value;

use super::{Plane, assert_refused};
use crate::support::{RawConnection, metric, wait_for_metric};

/// One that reads.
struct Watch(RawConnection, String);

#[derive(Debug)]
struct Event {
    kind: String,
    id: Option<String>,
    data: Value,
}

impl Watch {
    fn open(address: SocketAddr, query: &str, last: Option<&str>) -> Watch {
        let mut raw = RawConnection::open(address);
        let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
        // HTTP/1.0 has no chunks to be read around.
        raw.write(format!("GET /v1/watch{query} HTTP/1.0\r\nhost: localhost\r\n{last}\r\n"));
        let head = raw.read_head();
        assert_eq!(head.status, 200, "{}", head.text());
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        Watch(raw, String::new())
    }

    /// The next one that is no comment.
    fn next(&mut self) -> Event {
        loop {
            while !self.1.ends_with("\n\n") {
                let byte = self.0.read_exactly(1);
                self.1.push(char::from(byte[0]));
            }
            let text = std::mem::take(&mut self.1);
            let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(": ")).collect();
            if let Some(kind) = fields.get("event") {
                return Event {
                    kind: (*kind).to_owned(),
                    id: fields.get("id").map(|id| (*id).to_owned()),
                    data: serde_json::from_str(fields["data"]).unwrap(),
                };
            }
        }
    }

    #[track_caller]
    fn expect(&mut self, kind: &str, id: &str) -> Event {
        let event = self.next();
        assert_eq!((event.kind.as_str(), event.data["id"].as_str()), (kind, Some(id)), "{event:?}");
        event
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn begins_with_all_goes_on_with_changes_and_resumes() {
    let plane = Plane::start().await;
    plane.register("users", 1).await;
    plane.register("carts", 1).await;
    let mut watch = Watch::open(plane.address(), "?name=users", None);
    let sync = watch.next();
    assert_eq!((sync.kind.as_str(), &sync.data["end"]), ("sync", &Value::Bool(true)));
    assert_eq!(sync.data["instances"].as_array().unwrap().len(), 1);

    plane.register("carts", 2).await;
    plane.register("users", 2).await;
    let registered = watch.expect("registered", "users-127.0.0.1-2");
    let beat = "/v1/services/users-127.0.0.1-2/heartbeat";
    plane.ask("PUT", beat, "{\"health\": \"critical\"}").await.assert_status(200);
    assert_eq!(watch.expect("updated", "users-127.0.0.1-2").data["state"], "critical");
    plane.ask("DELETE", "/v1/services/users-127.0.0.1-1", "").await.assert_status(204);
    watch.expect("deregistered", "users-127.0.0.1-1");
    drop(watch);

    // Whoever comes back is told what it missed, and nothing twice.
    let mut again = Watch::open(plane.address(), "?name=users", registered.id.as_deref());
    again.expect("updated", "users-127.0.0.1-2");
    again.expect("deregistered", "users-127.0.0.1-1");
    let mut all = Watch::open(plane.address(), "", registered.id.as_deref());
    all.expect("updated", "users-127.0.0.1-2");
    // Of another epoch, nothing is known.
    let mut anew = Watch::open(plane.address(), "?name=users", Some("1:3"));
    assert_eq!(anew.next().kind, "sync");
    drop((again, all, anew));
    wait_for_metric(&plane.gateway, "tidegate_control_streams", &["sse"], 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_nothing_costs_others_nothing() {
    let plane = Plane::start().await;
    let mut stalled = RawConnection::open(plane.address());
    stalled.write("GET /v1/watch HTTP/1.1\r\nhost: localhost\r\n\r\n");
    wait_for_metric(&plane.gateway, "tidegate_control_streams", &["sse"], 1.0).await;
    let mut reading = Watch::open(plane.address(), "", None);
    assert_eq!(reading.next().kind, "sync");
    for port in 1..=50 {
        plane.register("users", port).await;
        reading.expect("registered", &format!("users-127.0.0.1-{port}"));
    }
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_with_the_process() {
    let plane = Plane::start().await;
    let mut watch = Watch::open(plane.address(), "", None);
    assert_eq!(watch.next().kind, "sync");
    plane.gateway.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(plane.gateway.wait_exit().await.success());
    assert_eq!(watch.0.read_to_end(), b"");
}

#[tokio::test]
async fn a_poll_of_a_name_that_nobody_may_have_is_refused() {
    let plane = Plane::start().await;
    assert_refused(
        &plane.ask("GET", "/v1/watch?name=a%00b", "").await,
        400,
        "bad_request",
        "is not the name",
    );
    assert_eq!(metric(&plane.gateway, "tidegate_control_streams", &["sse"]).await, 0.0);
}
