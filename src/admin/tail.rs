//! `GET /v1/access`: the access log live, filtered here. Lines are gathered for a moment before they are sent, so that a busy
//! gateway does not wake a viewer for each.

use std::{fmt::Write, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    State,
    events::place,
    refused::{Reason, Refused},
    router::Asked,
    stream::{self, Ended, Out},
};
use crate::{
    api::{Connection, reply::Reply},
    observe::{
        Recorder,
        events::written,
        tail::{RATE, Viewer, Wanted, when},
    },
};

/// A viewer is not woken more often than this.
const GATHER: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A viewer, until it is dropped.
struct Following {
    recorder: Arc<Recorder>,
    viewer: Arc<Viewer>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.recorder.tail().leave(&self.viewer);
    }
}

pub(super) fn stream(state: &State, connection: &Connection, asked: &Asked) -> Result<Reply, Refused> {
    if !state.console.as_ref().is_some_and(|console| console.tail) {
        let why = "the access log is not shown live here (`admin.console.tail: false` in the configuration)";
        return Err(Reason::Unavailable.because(why));
    }
    // Lines are not kept, so there is nothing to go on from.
    place(asked)?;
    let wanted = wanted(asked)?;
    let hello = json!({"boot": state.journal.events.boot(), "rate": RATE}).to_string();
    let recorder = state.recorder.clone();
    stream::open(state, connection, move |mut out| async move {
        let following = Following { viewer: recorder.tail().follow(wanted), recorder };
        let ended = match out.send(written("hello", None, &hello)).await {
            Ok(()) => follow(&mut out, &following.viewer).await,
            Err(ended) => ended,
        };
        (out, ended)
    })
}

async fn follow(out: &mut Out, viewer: &Viewer) -> Ended {
    let mut due = Instant::now();
    loop {
        due = Instant::now().max(due + GATHER);
        if let Err(ended) = out.next(sleep_until(due)).await {
            return ended;
        }
        let (lines, lost) = viewer.take();
        let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 20).sum());
        for line in &lines {
            // Writing to a string cannot fail. A line is JSON, which is text.
            let _ = write!(text, "event: line\ndata: {}\n\n", String::from_utf8_lossy(line));
        }
        if lost > 0 {
            text.push_str(&written("lost", None, &json!({ "lines": lost }).to_string()));
        }
        if text.is_empty() {
            continue;
        }
        if let Err(ended) = out.send(text).await {
            return ended;
        }
    }
}

fn wanted(asked: &Asked) -> Result<Wanted, Refused> {
    let query = &asked.query;
    let text = |key: &str| query.text(key).filter(|text| !text.is_empty()).map(str::to_owned);
    let list = |key: &str| -> Vec<String> {
        let given = query.text(key).unwrap_or_default().split(',').map(str::trim);
        given.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let statuses = list("status").iter().map(|word| status(word)).collect::<Result<Vec<_>, _>>()?;
    let least = query.duration("min", LONGEST)?.unwrap_or_default();
    Ok(Wanted {
        route: text("route"),
        upstream: text("upstream"),
        method: text("method"),
        path: text("path"),
        client: text("client").map(|client| network(&client)).transpose()?,
        when: when(statuses, list("reason"), least),
    })
}

/// `404`, `5xx` or `400-499`.
fn status(word: &str) -> Result<(u16, u16), Refused> {
    // 0: nothing was answered.
    let is_status = |status: &u16| *status == 0 || (100..=999).contains(status);
    let number = |text: &str| text.parse().ok().filter(is_status);
    let class = |text: &str| text.strip_suffix("xx").or(text.strip_suffix("XX"))?.parse::<u16>().ok();
    let found = match (class(word), word.split_once('-')) {
        (Some(class), _) if (1..=9).contains(&class) => Some((class * 100, class * 100 + 99)),
        (None, Some((low, high))) => number(low).zip(number(high)).filter(|(low, high)| low <= high),
        (None, None) => number(word).map(|status| (status, status)),
        (Some(_), _) => None,
    };
    found.ok_or_else(|| {
        Reason::BadRequest.because(format!("status: {word:?} is not a status (try 404, 5xx or 400-499)"))
    })
}

fn network(text: &str) -> Result<IpNet, Refused> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| {
        Reason::BadRequest.because(format!("client: {text:?} is no address or network (try 192.0.2.0/24)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_a_class_or_a_range() {
        for (word, range) in [
            ("404", Some((404, 404))),
            ("0", Some((0, 0))),
            ("5xx", Some((500, 599))),
            ("400-499", Some((400, 499))),
            ("499-400", None),
            ("xx", None),
            ("55xx", None),
            ("6", None),
            ("0xx", None),
            ("-1", None),
            ("99999", None),
            ("4x4", None),
        ] {
            assert_eq!(status(word).ok(), range, "{word}");
        }
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        assert_eq!(network("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(network("2001:db8::/32").unwrap().to_string(), "2001:db8::/32");
        assert!(network("example.com").is_err());
    }
}
