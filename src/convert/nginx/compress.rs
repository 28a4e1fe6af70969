//! `gzip`.

use super::{
    scope::Scope,
    units,
    world::{World, filter},
};
use crate::convert::draft::{List, Map};

/// What `*` stands for.
const EVERY_TYPE: [&str; 6] = ["text/*", "application/*", "image/*", "font/*", "audio/*", "video/*"];

/// The name of the chain that compresses.
pub(super) fn chain(scope: &Scope<'_>, world: &mut World<'_>) -> Option<String> {
    if !scope.is_on("gzip") {
        return None;
    }
    let mut types = vec!["text/html".to_owned()];
    if let Some(directive) = scope.one("gzip_types") {
        for text in directive.texts() {
            match text {
                "*" => types = EVERY_TYPE.map(str::to_owned).to_vec(),
                text if is_type(text) && !types.iter().any(|known| known == text) => {
                    types.push(text.to_owned())
                }
                text if is_type(text) => {}
                _ => world.notes.leave(directive, format!("{text:?} is no media type")),
            }
        }
    }
    let least =
        scope.one("gzip_min_length").and_then(|directive| units::bytes(directive.first())).unwrap_or(20);
    let level = scope
        .one("gzip_comp_level")
        .and_then(|directive| directive.first().parse::<i64>().ok())
        .filter(|level| (1..=9).contains(level))
        .unwrap_or(1);
    let options =
        Map::new().with("algorithms", List::from_iter(["gzip"])).with("types", List::from_iter(types));
    let compression =
        filter("compression", options.with("min_size", units::size(least)).with("level", level));
    Some(world.chain("gzip", [compression]))
}

fn is_type(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    text.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub))
}
