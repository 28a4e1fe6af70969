//! `tidegate services --watch`: one line for each change, until it is interrupted. It comes back by itself when the connection
//! breaks, and goes on where it was.

use std::{io, time::Duration};

use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::parameter;
use crate::{
    app::Failure,
    cli::{client::Target, failure, plane::ServerArgs, text::safe},
    policy::backoff::Backoff,
};

/// Between two attempts.
pub(super) const PAUSE: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(30) };
/// A sign of life comes every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// Of one event.
const LARGEST: usize = 64 * 1024 * 1024;

pub(super) fn run(server: &ServerArgs, name: Option<&str>) -> Result<(), Failure> {
    let target = server.target()?;
    crate::cli::asynchronous(async { Ok(follow(&target, name).await) })?
}

async fn follow(target: &Target, name: Option<&str>) -> Result<(), Failure> {
    let mut last: Option<String> = None;
    let mut failures = 0;
    loop {
        match open(target, name, last.as_deref()).await {
            Ok(body) => {
                failures = 0;
                read(body, &mut last).await?;
            }
            // The first time it is more likely the address that is wrong.
            Err(refused) if last.is_none() => return Err(refused),
            Err(refused) => eprintln!("{refused}"),
        }
        failures += 1;
        sleep(PAUSE.delay(failures, &mut fastrand::Rng::new())).await;
    }
}

async fn open(target: &Target, name: Option<&str>, last: Option<&str>) -> Result<Incoming, Failure> {
    let name = parameter("name", name);
    let path = format!("/v1/watch{}", name.replacen('&', "?", 1));
    let mut request = target.request(Method::GET, &path, "")?;
    if let Some(last) = last.and_then(|last| HeaderValue::from_str(last).ok()) {
        request.headers_mut().insert("last-event-id", last);
    }
    let response = target.open(request).await?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    // The same request again, for an answer in words.
    let answer = target.ask(Method::GET, &path, "").await?;
    Err(answer.failure())
}

/// Until the stream ends or falls silent.
async fn read(mut body: Incoming, last: &mut Option<String>) -> Result<(), Failure> {
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout(SILENCE, body.frame()).await {
        let Ok(data) = frame.into_data() else { continue };
        text.extend_from_slice(&data);
        if text.len() > LARGEST {
            return Err(failure("the control plane sends an event that has no end"));
        }
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            show(&String::from_utf8_lossy(&event), last)?;
        }
    }
    Ok(())
}

fn show(event: &str, last: &mut Option<String>) -> io::Result<()> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if let Some(id) = field("id") {
        *last = Some(id.to_owned());
    }
    let (Some(kind), Some(data)) = (field("event"), field("data")) else { return Ok(()) };
    let data: Value = serde_json::from_str(data)?;
    let lines = match data["instances"].as_array() {
        Some(instances) => instances.iter().map(|instance| line("is", instance)).collect(),
        None => line(kind, &data),
    };
    crate::cli::print(&safe(&lines))
}

fn line(kind: &str, instance: &Value) -> String {
    let text = |key: &str| instance[key].as_str().unwrap_or_default();
    format!("{kind:<12} {:<8} {} {} {}\n", text("state"), text("name"), text("id"), text("address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_and_its_id_is_kept() {
        let mut last = None;
        show("event: registered\nid: 7:8\ndata: {\"id\":\"a\",\"state\":\"healthy\"}\n\n", &mut last)
            .unwrap();
        assert_eq!(last.as_deref(), Some("7:8"));
        show(": 7:9\n\n", &mut last).unwrap();
        assert_eq!(last.as_deref(), Some("7:8"));
        assert!(show("event: x\ndata: {\n\n", &mut last).is_err());
    }
}
