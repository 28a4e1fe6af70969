//! What an operator, or whoever writes for one, has in a configuration.

use serde_json::Value;

use crate::{
    config::{self, Loaded, Origin, Problems},
    convert,
    filter::Live,
    snapshot::compile,
};

/// More lines of problems than this nobody gets.
const MOST_TOLD: usize = config::MOST_PROBLEMS + 2;

pub(super) fn yaml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text, "fuzz.yaml");
    }
}

/// A second reader of JSON, where both can read it, reads the same.
pub(super) fn json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let written = read(text, "fuzz.json");
    // It would mean a variable of this machine in the one, and is refused in the other.
    if text.contains('$') {
        return;
    }
    if let (Some(written), Ok(value)) = (written, serde_json::from_str::<Value>(text)) {
        let other = meant(&config::from_value(value, origin()));
        assert_eq!(Some(written), other, "as YAML, and as JSON");
    }
}

/// Whatever can be converted is accepted, and says of each line that is not in it what it was.
pub(super) fn nginx(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(converted) = convert::nginx::convert_text(&text, "nginx.conf") else { return };
    let written = converted.file.to_string();
    let comments: String = written.lines().map(|line| line.trim_start().trim_start_matches("# ")).collect();
    for left in &converted.left {
        let said: String = left.to_string().lines().collect();
        assert!(comments.contains(&said), "{left:?} is not in:\n{written}");
    }
    let plan = config::parse(&written, "gateway.yaml").and_then(|loaded| compile(loaded, &Live::offline()));
    assert!(
        plan.is_ok(),
        "{}\nis refused:\n{written}",
        plan.err().map(|problems| problems.to_string()).unwrap_or_default()
    );
}

/// What the text means, if it means anything. Problems and the compile of what could be read must come to an end.
fn read(text: &str, name: &str) -> Option<Value> {
    let loaded = config::parse(text, name);
    let written = meant(&loaded);
    match loaded {
        Err(problems) => tell(&problems),
        Ok(loaded) => {
            tell(loaded.problems());
            if let Err(problems) = compile(loaded, &Live::offline()) {
                tell(&problems);
            }
        }
    }
    let written = written?;
    // Written out with all defaults, it means the same. A dollar sign would have to be written twice.
    if !written.to_string().contains('$') {
        let again = config::from_value(written.clone(), origin());
        assert_eq!(meant(&again), Some(written.clone()), "written out: {}", told(&again));
    }
    Some(written)
}

fn meant(loaded: &Result<Loaded, Problems>) -> Option<Value> {
    let config = loaded.as_ref().ok()?.config().ok()?;
    Some(serde_json::to_value(config).expect("a configuration has text keys and finite numbers"))
}

fn told(loaded: &Result<Loaded, Problems>) -> String {
    match loaded {
        Ok(loaded) => loaded.problems().to_string(),
        Err(problems) => problems.to_string(),
    }
}

fn tell(problems: &Problems) {
    assert!(problems.to_string().lines().count() <= MOST_TOLD, "problems without end:\n{problems}");
}

fn origin() -> Origin {
    Origin::Plugin("fuzzing".into())
}
