//! YAML that others read as it is meant. Programs that go by YAML 1.1, such as PyYAML, Ansible and Helm, take `on`, `off`, `yes` and `no` for
//! booleans, as keys and as values; ours writes them without quotes, since they are text in YAML 1.2.

/// `yaml`, as serde_yaml writes it, with those words in quotes.
pub(super) fn for_everybody(yaml: &str) -> String {
    let mut out = String::with_capacity(yaml.len());
    // How far what holds a block of text is indented: lines beyond are text.
    let mut block: Option<usize> = None;
    for line in yaml.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if block.is_some_and(|holder| indent > holder || line.trim().is_empty()) {
            out.push_str(line);
            continue;
        }
        let text = line.trim_end_matches('\n');
        block = text.trim_end_matches(['-', '+']).ends_with(['|', '>']).then_some(indent);
        out.push_str(&quoted(text));
        out.push_str(&line[text.len()..]);
    }
    out
}

/// One line: dashes, a key with its colon, a value.
fn quoted(line: &str) -> String {
    let start = line.len() - line.trim_start_matches([' ', '-']).len();
    let (before, entry) = line.split_at(start);
    match entry.split_once(": ").or_else(|| entry.strip_suffix(':').map(|key| (key, ""))) {
        Some((key, value)) => {
            let space = if value.is_empty() { "" } else { " " };
            format!("{before}{}:{space}{}", word(key), word(value))
        }
        None => format!("{before}{}", word(entry)),
    }
}

fn word(text: &str) -> String {
    const WORDS: [&str; 6] = ["on", "off", "yes", "no", "y", "n"];
    match WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        true => format!("'{text}'"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_booleans_elsewhere_are_quoted() {
        let written = "retry:\n  on:\n  - reset\n  - off\nto: off\nwatch: true\nbody: |-\n  on: off\n  - no\nname: noon\n- on: 1\n";
        let expected = "retry:\n  'on':\n  - reset\n  - 'off'\nto: 'off'\nwatch: true\nbody: |-\n  on: off\n  - no\nname: noon\n- 'on': 1\n";
        assert_eq!(for_everybody(written), expected);
        let read = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).unwrap();
        let plain = "retry:\n  on:\n  - off\nbody: |-\n  on: off\n";
        assert_eq!(read(&for_everybody(plain)), read(plain));
    }
}
