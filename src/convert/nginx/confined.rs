//! Expressions for fewer paths than they say, where a location lies within another one; and for more, where our engine cannot say them.

use super::patterns;

/// What became of an expression.
pub(super) enum Confined {
    Is(String),
    Never,
    Unknown,
}

/// The same expression for paths alone that begin with the prefix. What an expression finds may begin within the prefix.
pub(super) fn confined(pattern: &str, prefix: &str, is_guarded: bool) -> Confined {
    const LONGEST: usize = 64;
    if prefix.is_empty() || prefix == "/" {
        return Confined::Is(pattern.to_owned());
    }
    let bare = pattern.strip_prefix("(?i)").unwrap_or(pattern);
    let is_caseless = bare.len() < pattern.len();
    if bare.replace("[^", "").contains('^') || bare.contains("\\A") {
        return match patterns::literal_start(bare).filter(|_| !is_caseless) {
            Some(start) if start.starts_with(prefix) => Confined::Is(pattern.to_owned()),
            Some(start) if !prefix.starts_with(&start) => Confined::Never,
            _ => Confined::Unknown,
        };
    }
    let start = patterns::literal_start(&format!("^{bare}")).unwrap_or_default();
    if !is_caseless && prefix.contains(&start) && (start == bare || escaped(&start) == bare) {
        return Confined::Is(format!("^{}", escaped(prefix)));
    }
    // Behind what the prefix has already, anything may stand.
    let behind = bare.strip_prefix(&start).or(bare.strip_prefix(&escaped(&start)));
    if let Some(rest) = behind.and_then(|rest| rest.strip_prefix(".*")).filter(|rest| {
        !is_caseless && !start.is_empty() && prefix.contains(&start) && !rest.starts_with(['?', '+'])
    }) {
        return confined(rest, prefix, is_guarded);
    }
    let may_begin = |at: usize| {
        let rest = &prefix[at..];
        let is_begun = |text: &str, by: &str| match is_caseless {
            true => text.to_ascii_lowercase().starts_with(&by.to_ascii_lowercase()),
            false => text.starts_with(by),
        };
        match start.is_empty() {
            true => is_guarded,
            // It takes paths of others then, which is better than to let clients in.
            false => is_begun(&start, rest) || is_guarded && is_begun(rest, &start),
        }
    };
    let within = prefix.char_indices().map(|(at, _)| at).filter(|at| may_begin(*at)).collect::<Vec<_>>();
    let escaped_prefix = escaped(prefix);
    if within.is_empty() {
        return Confined::Is(format!("^{escaped_prefix}.*(?:{pattern})"));
    }
    if prefix.len() > LONGEST {
        return Confined::Unknown;
    }
    let starts: String = within.iter().map(|at| format!("|{}", escaped(&prefix[..*at]))).collect();
    Confined::Is(format!("^(?:{escaped_prefix}.*{starts})(?:{pattern})"))
}

/// An expression without what our engine does not take, that matches all that it matched and more.
pub(super) fn widened(pattern: &str) -> String {
    const AROUND: [&str; 4] = ["(?=", "(?!", "(?<=", "(?<!"];
    let mut wide = String::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let is_reference =
            rest.strip_prefix('\\').is_some_and(|next| next.starts_with(|c| matches!(c, '1'..='9')));
        let dropped = match AROUND.iter().any(|start| rest.starts_with(start)) {
            true => Some(&rest[piece(rest)..]),
            false if is_reference => {
                wide.push_str(".*");
                Some(rest[1..].trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            false => None,
        };
        if let Some(behind) = dropped {
            // How often it stands there is no matter now, and what stands before it is not meant.
            rest = behind.trim_start_matches(['?', '*', '+']);
            if rest.starts_with('{') {
                return String::new();
            }
        } else if let Some(behind) = rest.strip_prefix("(?>") {
            wide.push_str("(?:");
            rest = behind;
        } else {
            let end = if matches!(c, '\\' | '[') { piece(rest) } else { c.len_utf8() };
            wide.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    wide
}

/// Where what an expression begins with ends: a class, a group, or a character with its backslash.
fn piece(pattern: &str) -> usize {
    let (mut depth, mut is_in_class, mut is_escaped) = (0_usize, false, false);
    for (at, c) in pattern.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => {
                is_escaped = true;
                continue;
            }
            ']' => is_in_class = false,
            _ if is_in_class => continue,
            '[' => is_in_class = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && !is_in_class {
            return at + c.len_utf8();
        }
    }
    pattern.len()
}

/// A path as an expression.
pub(super) fn escaped(path: &str) -> String {
    // Only what has a meaning: escaping more is right as well, and hard to read.
    patterns::encoded(path)
        .chars()
        .map(|c| if "\\.+*?()|[]{}^$".contains(c) { format!("\\{c}") } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_expression_takes_all_that_the_other_took() {
        for (pattern, wide) in [
            (r"/\.(?!well-known)", r"/\."),
            ("^/(?!a|(b)[)])x(?<=y)+z", "^/xz"),
            (r"(a)\1+b", "(a).*b"),
            ("(?>a)[(?!]", "(?:a)[(?!]"),
            (r"\(?!a", r"\(?!a"),
            ("a(?=b){2}", ""),
            ("a(?!b", "a"),
        ] {
            assert_eq!(widened(pattern), wide);
        }
    }
}
