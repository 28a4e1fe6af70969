//! `tidegate services [NAME]`: who is registered, in what state, since when and by whom.

use std::{io, time::SystemTime};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::parameter;
use crate::{
    app::Failure,
    cli::{
        client::Target,
        plane::ServerArgs,
        text::{safe, table},
    },
};

pub(super) fn run(server: &ServerArgs, name: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let target = server.target()?;
    let instances = crate::cli::asynchronous(async { Ok(all(&target, name).await) })??;
    let text = match as_json {
        true => serde_json::to_string_pretty(&json!(instances)).map_err(io::Error::other)? + "\n",
        false => safe(&shown(&instances, SystemTime::now())),
    };
    Ok(crate::cli::print(&text)?)
}

/// Page after page.
async fn all(target: &Target, name: Option<&str>) -> Result<Vec<Value>, Failure> {
    let (mut instances, mut after) = (Vec::new(), None::<String>);
    loop {
        let name = parameter("name", name);
        let path = format!("/v1/services?limit=1000{name}{}", parameter("after", after.as_deref()));
        let mut page = target.ask(Method::GET, &path, "").await?.expect(StatusCode::OK)?;
        if let Value::Array(page) = page["instances"].take() {
            instances.extend(page);
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(instances),
        }
    }
}

fn shown(instances: &[Value], now: SystemTime) -> String {
    if instances.is_empty() {
        return "nobody is registered\n".to_owned();
    }
    let rows = instances.iter().map(|instance| {
        let text = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
        [
            text("name"),
            text("id"),
            text("address"),
            text("state"),
            since(&text("since"), now),
            text("owner"),
            more(instance),
        ]
    });
    table(["SERVICE", "ID", "ADDRESS", "STATE", "SINCE", "BY", "TAGS AND METADATA"], rows)
}

fn more(instance: &Value) -> String {
    let tags = instance["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let pairs = instance["metadata"].as_object().into_iter().flatten();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    tags.chain(pairs).collect::<Vec<_>>().join(" ")
}

/// How long ago that was, to the second.
pub(in crate::cli) fn since(time: &str, now: SystemTime) -> String {
    let Ok(since) = humantime::parse_rfc3339(time) else { return String::new() };
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_table_is_as_wide_as_what_is_in_it() {
        let instances = [json!({
            "name": "users", "id": "users-127.0.0.1-3001", "address": "127.0.0.1:3001", "state": "healthy",
            "since": "1970-01-01T00:00:10.500Z", "owner": "anybody", "tags": ["v2"], "metadata": {"region": "eu"},
        })];
        let expected = "SERVICE  ID                    ADDRESS         STATE    SINCE  BY       TAGS AND METADATA\n\
            users    users-127.0.0.1-3001  127.0.0.1:3001  healthy  1m5s   anybody  v2 region=eu\n";
        assert_eq!(shown(&instances, UNIX_EPOCH + Duration::from_secs(76)), expected);
        assert_eq!(shown(&[], UNIX_EPOCH), "nobody is registered\n");
    }
}
