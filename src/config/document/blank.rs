//! Takes a key out of a text without moving anything: problems with the rest stay where its author looks for them.

use saphyr_parser::{Event, Parser};

/// `text` with spaces in the place of the top-level `key` and its value; `None` where it has no such key, or cannot be read up to
/// there. What is wrong further on is left to whoever reads the rest.
pub(in crate::config) fn blank(text: &str, key: &str) -> Option<String> {
    let (start, mut end) = span(text, key)?;
    let characters: Vec<char> = text.chars().collect();
    // In `{a: 1, b: 2}` the comma goes with it; a block has none.
    let is_flow = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).starts_with('{');
    let next = (end..characters.len()).find(|at| !characters[*at].is_whitespace());
    end = next.filter(|at| is_flow && characters[*at] == ',').map_or(end, |comma| comma + 1);
    let blanked = characters.into_iter().enumerate().map(|(at, c)| match c {
        '\n' | '\r' => c,
        _ if (start..end).contains(&at) => ' ',
        _ => c,
    });
    Some(blanked.collect())
}

/// From the key up to the end of its value, in characters.
fn span(text: &str, key: &str) -> Option<(usize, usize)> {
    let (mut depth, mut is_key, mut start) = (0_usize, true, None);
    for event in Parser::new_from_str(text) {
        let (event, at) = event.ok()?;
        let ends = match event {
            Event::Scalar(name, ..) if depth == 1 && is_key => {
                start = (name == key).then(|| at.start.index());
                is_key = false;
                continue;
            }
            Event::Scalar(..) | Event::Alias(_) => depth == 1,
            Event::SequenceStart(..) if depth == 0 => return None,
            Event::MappingStart(..) | Event::SequenceStart(..) => {
                depth += 1;
                false
            }
            Event::MappingEnd | Event::SequenceEnd => {
                depth = depth.checked_sub(1)?;
                depth == 1
            }
            _ => continue,
        };
        if ends {
            if let Some(start) = start {
                return Some((start, at.end.index().max(start)));
            }
            is_key = true;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_and_the_rest_stays_where_it_is() {
        for (text, expected) in [
            ("rollout: {hold: 1s}\nroutes: []\n", "                   \nroutes: []\n"),
            ("a: 1\nrollout:\n  waves:\n  - 1\nb: 2", "a: 1\n        \n        \n     \nb: 2"),
            (r#"{"rollout": {"hold": "1s"}, "b": [1]}"#, r#"{                           "b": [1]}"#),
            (r#"{"b": {"rollout": 1}, "rollout": 5}"#, r#"{"b": {"rollout": 1},             }"#),
            ("\u{e4}: \u{f6}\nrollout: x\nb: 1", "\u{e4}: \u{f6}\n          \nb: 1"),
        ] {
            assert_eq!(blank(text, "rollout").as_deref(), Some(expected), "{text}");
        }
        for none in ["", "a: {rollout: 1}", "[rollout, 1]", "rollout", "a: rollout"] {
            assert_eq!(blank(none, "rollout"), None, "{none}");
        }
    }
}
