//! What was likely slipped where YAML could not be read. The parser says what it stumbled over; whoever wrote the file wants to
//! know what to write instead, and that is nearly always one of a dozen things: a value that has to be quoted, a quote or bracket
//! that is not closed, a line that is indented by one too many, a colon without its space.
//! Pure: the text, and where and over what the parser stumbled.

use crate::config::document::node::shortened;

/// In the place of the parser's words.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Slip {
    pub message: String,
    pub hint: String,
}

/// The keys under which prose stands.
const TEXTS: [&str; 4] = ["body", "html", "json", "help"];

/// So many lines above are looked at for the one that a line should be aligned with, or for an open bracket.
const MOST_LINES: usize = 200;

/// What was likely slipped at `line` and `column`, which count from 1, as does the parser's `info`.
pub(in crate::config) fn slip(text: &str, line: usize, column: usize, info: &str) -> Option<Slip> {
    if text.lines().any(begins_block) && is_of_nginx(text) {
        return Some(Slip { message: "this is a configuration of nginx's".into(), hint: OF_NGINX.into() });
    }
    let lines = Lines::around(text, line);
    let here = lines.at(line);
    let rest: String = here.chars().skip(column - 1).collect();
    let slip = |message: String, hint: String| Some(Slip { message, hint });
    match info {
        info if info.contains("unknown anchor") => {
            let token = token(&rest);
            if let Some(port) = token.strip_prefix("*:").filter(|port| is_number(port)) {
                let hint = format!("every address is \":{port}\", with its quotes");
                return slip(format!("`{token}` begins with `*`, which names an anchor in YAML"), hint);
            }
            let before: String = here.chars().take(column - 1).collect();
            if let Some(name) = token.strip_prefix('*').filter(|_| before.trim_end().ends_with("<<:")) {
                let hint = format!("write `&{name}` before the map that is to be merged, above this line");
                return slip(format!("there is no anchor `&{name}` above"), hint);
            }
            slip(format!("`{token}` begins with `*`, which names an anchor in YAML"), quote(&token))
        }
        info if info.contains("unknown escape") => {
            let inner = rest.strip_prefix('"').unwrap_or(&rest);
            let inner = &inner[..inner.rfind('"').map_or(inner.len(), |_| closing(inner))];
            let hint = format!(
                "write each backslash twice, or use single quotes: '{}'",
                shortened(&inner.replace('\'', "''"))
            );
            slip("in double quotes a backslash begins an escape, and this is none".into(), hint)
        }
        info if info.contains("indentation in quoted scalar")
            || info.contains("unexpected end of stream") =>
        {
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let hint = match here.matches(quote).count() {
                1 => format!("close it on this line: {}{quote}", shortened(rest.trim_end())),
                _ if quote == '\'' => "inside of single quotes a quote is written twice: ''".to_owned(),
                _ => "inside of double quotes a quote is written \\\"".to_owned(),
            };
            slip(format!("the quote opened at {line}:{column} is not closed"), hint)
        }
        info if info.contains("trailing content after") => {
            let before: String = here.chars().take(column - 1).collect();
            if rest.trim_start().starts_with(';') {
                return slip(
                    "a `;` stands behind the value".into(),
                    "leave it out: the line ends the value".into(),
                );
            }
            let hint = match before.trim_end().ends_with('\'') {
                true => "inside of single quotes a quote is written twice: ''",
                false => {
                    "inside of double quotes a quote is written \\\"; or quote the whole value in single quotes"
                }
            };
            slip("something follows the closing quote".into(), hint.into())
        }
        info if info.contains("unexpected character") => {
            let token = token(&rest);
            let first = token.chars().next()?;
            if first == '`' {
                let inner = token.trim_matches('`');
                return slip(
                    "backticks are no quotes in YAML".into(),
                    format!("write \"{}\"", shortened(inner)),
                );
            }
            slip(format!("no value begins with `{first}` in YAML"), quote(&token))
        }
        info if info.contains("tabs disallowed") || info.contains("tab") && is_indented_by_tab(here) => {
            slip("a tab stands in the indentation".into(), "indent with spaces, not with tabs".into())
        }
        _ => structure(&lines, line, column, info),
    }
}

pub(in crate::config) const OF_NGINX: &str = "`tidegate convert nginx FILE` makes one of ours of it";

/// Whether a text that is no map is a file of nginx's.
pub(in crate::config) fn is_of_nginx(text: &str) -> bool {
    let heads = text.split_inclusive('{').filter_map(|part| part.rsplit([';', '}']).next());
    text.contains(';') && heads.map(str::trim_start).any(begins_block)
}

fn begins_block(text: &str) -> bool {
    ["http {", "server {", "events {", "stream {"].iter().any(|block| text.starts_with(block))
        || ["location ", "upstream "].iter().any(|block| text.starts_with(block)) && text.ends_with('{')
}

/// The lines do not fit each other.
fn structure(lines: &Lines<'_>, line: usize, column: usize, info: &str) -> Option<Slip> {
    if is_indented_by_tab(lines.at(line)) {
        let hint = "indent with spaces, not with tabs".to_owned();
        return Some(Slip { message: "a tab stands in the indentation".into(), hint });
    }
    let may_be_in_brackets = info == "invalid indentation"
        || ["flow", "did not find expected node content", "stream"].iter().any(|part| info.contains(part));
    if may_be_in_brackets && let Some(slip) = in_brackets(lines, line, column) {
        return Some(slip);
    }
    if let Some(slip) = value_in_brackets(lines.at(line), line) {
        return Some(slip);
    }
    // The parser only notices on a line after.
    let above = lines.content_above(line);
    let candidates = [Some(line), above].into_iter().flatten();
    if let Some((key, value)) = candidates.filter_map(|at| glued(lines.at(at))).next() {
        let hint = format!("write `{key}: {}`", shortened(value));
        return Some(Slip { message: format!("after `{key}:` the space is missing"), hint });
    }
    if let Some(slip) = two_colons(lines.at(line), column, info) {
        return Some(slip);
    }
    indentation(lines, line)
}

/// Within `{ }` or `[ ]`.
fn in_brackets(lines: &Lines<'_>, line: usize, column: usize) -> Option<Slip> {
    for at in (line.saturating_sub(1)..=line).rev() {
        let here = lines.at(at);
        if here.contains("${") && here.contains(['{', '[']) && has_plain_variable(here) {
            let hint = "quote it: between { } or [ ], a value with ${...} must be quoted".to_owned();
            return Some(Slip { message: "a `{` stands in a value without quotes".into(), hint });
        }
    }
    if let Some(slip) = value_in_brackets(lines.at(line), line) {
        return Some(slip);
    }
    let (bracket, opened, at) = lines.open_bracket(line, column)?;
    let closing = if bracket == '{' { '}' } else { ']' };
    let message = format!("the `{bracket}` opened at {opened}:{at} is not closed");
    Some(Slip { message, hint: format!("close it with `{closing}` where its last entry ends") })
}

fn has_plain_variable(here: &str) -> bool {
    here.match_indices("${").any(|(at, _)| {
        let before = &here[..at];
        before.matches('"').count().is_multiple_of(2) && before.matches('\'').count().is_multiple_of(2)
    })
}

/// `[::1]:8000`, `{a}/b` and `/u/{id}` within braces: what has brackets of its own.
fn value_in_brackets(here: &str, _line: usize) -> Option<Slip> {
    let message =
        |value: &str| format!("`{value}` has brackets of its own, which YAML takes for a list or a map");
    let chars: Vec<char> = here.chars().collect();
    // An IPv6 address and its port.
    if let Some(start) = here.find("[::").or_else(|| here.find("[fe80")).or_else(|| here.find("[2001"))
        && let Some(end) = here[start..].find("]:").map(|end| start + end + 2)
    {
        let digits = here[end..].chars().take_while(char::is_ascii_digit).count();
        let value = &here[start..end + digits];
        if !is_quoted(here, start) {
            return Some(Slip { message: message(value), hint: quote(value) });
        }
    }
    // A template within a flow map: `{template: /u/{id}}`.
    let slash = chars.iter().enumerate().position(|(at, c)| {
        *c == '/'
            && chars[at..].iter().take_while(|c| !matches!(c, ',' | ' ' | '"' | '\'')).any(|c| *c == '{')
    })?;
    let start = chars[..slash].iter().rposition(|c| *c == ' ').map_or(0, |space| space + 1);
    let mut depth = 0_i32;
    let value: String = chars[start..]
        .iter()
        .take_while(|c| {
            depth += i32::from(**c == '{') - i32::from(**c == '}');
            depth >= 0 && !matches!(c, ',' | ' ')
        })
        .collect();
    let at: usize = chars[..start].iter().map(|c| c.len_utf8()).sum();
    let is_worth_it = value.contains('{') && !value.starts_with(['"', '\'', '{']) && !is_quoted(here, at);
    is_worth_it.then(|| Slip { message: message(&value), hint: quote(&value) })
}

/// `name: a: b`.
fn two_colons(here: &str, column: usize, info: &str) -> Option<Slip> {
    if !info.contains("mapping values are not allowed") {
        return None;
    }
    let (key, value) = here.trim_start_matches([' ', '-']).split_once(": ")?;
    let before: String = here.chars().take(column).collect();
    let has_another = before.matches(": ").count() + usize::from(before.ends_with(':')) > 1;
    if !has_another || key.contains(' ') {
        return None;
    }
    let value = value.trim();
    match value.split_once(": ").or_else(|| value.strip_suffix(':').map(|inner| (inner, ""))) {
        // Prose, where a map is never meant.
        Some(_) if TEXTS.contains(&key) => {
            Some(Slip { message: "a value with `: ` in it is read as a key".into(), hint: quote(value) })
        }
        Some((inner, rest)) if is_name(inner) && !rest.is_empty() => {
            let hint = format!("write `{key}: {{{}}}`, or the second on a line of its own", shortened(value));
            Some(Slip { message: "two keys stand on one line".into(), hint })
        }
        Some((inner, "")) if is_name(inner) => {
            let hint = format!("put `{inner}:` on a line of its own, indented deeper than `{key}:`");
            Some(Slip { message: "two keys stand on one line".into(), hint })
        }
        _ => Some(Slip { message: "a value with `: ` in it is read as a key".into(), hint: quote(value) }),
    }
}

/// A line whose keys do not begin where those of its map or list do.
fn indentation(lines: &Lines<'_>, line: usize) -> Option<Slip> {
    let here = lines.at(line);
    let own = indent(here);
    let is_item = here.trim_start().starts_with("- ") || here.trim() == "-";
    // What it may be aligned with, from the nearest line up; each only once.
    let mut levels: Vec<(usize, usize)> = Vec::new();
    let mut least = usize::MAX;
    let mut at = line;
    while let Some(above) = lines.content_above(at) {
        at = above;
        let text = lines.at(above);
        let column = indent(text);
        if column >= least {
            continue;
        }
        let item = text.trim_start_matches(' ').starts_with("- ");
        if item && !is_item {
            let key = column + 2 + indent(&text[column + 1..]).saturating_sub(1);
            levels.push((key.min(column + 8), above));
        }
        if item == is_item || !item && !is_item {
            levels.push((column, above));
        }
        least = column;
        if column == 0 {
            break;
        }
    }
    if levels.iter().any(|(column, _)| *column == own) {
        return None;
    }
    let (column, above) = levels.into_iter().min_by_key(|(column, _)| column.abs_diff(own))?;
    let what = if is_item { "its list" } else { "its map" };
    let message = format!("this line is indented by {own}, {what} at line {above} by {column}");
    Some(Slip { message, hint: format!("indent it by {column}") })
}

/// The lines that are looked at, the last of which is the one that the parser stopped at.
struct Lines<'t> {
    first: usize,
    lines: Vec<&'t str>,
}

impl<'t> Lines<'t> {
    fn around(text: &'t str, line: usize) -> Lines<'t> {
        let first = line.saturating_sub(MOST_LINES).max(1);
        Lines { first, lines: text.lines().skip(first - 1).take(line + 1 - first).collect() }
    }

    fn at(&self, line: usize) -> &'t str {
        line.checked_sub(self.first).and_then(|index| self.lines.get(index)).copied().unwrap_or_default()
    }

    /// The nearest line above with anything but a comment.
    fn content_above(&self, line: usize) -> Option<usize> {
        (self.first..line).rev().find(|at| {
            let text = self.at(*at).trim_start();
            !text.is_empty() && !text.starts_with('#')
        })
    }

    /// The innermost bracket that is open before the place, with its own.
    fn open_bracket(&self, line: usize, column: usize) -> Option<(char, usize, usize)> {
        let mut open = Vec::new();
        let mut quote = None;
        for at in self.first..=line {
            let text = self.at(at);
            let most = if at == line { column - 1 } else { usize::MAX };
            let mut before = ' ';
            for (index, c) in text.chars().enumerate().take(most) {
                match (quote, c) {
                    (Some(open), _) if open == c && before != '\\' => quote = None,
                    (Some(_), _) => {}
                    (None, '"' | '\'') if matches!(before, ' ' | '[' | '{' | ',') => quote = Some(c),
                    (None, '#') if before == ' ' => break,
                    // In a plain value of a block they mean nothing.
                    (None, '{' | '[') if !open.is_empty() || matches!(before, ' ') => {
                        open.push((c, at, index + 1))
                    }
                    (None, '}' | ']')
                        if open.last().is_some_and(|(open, ..)| (*open == '{') != (c == '}')) =>
                    {
                        return open.pop();
                    }
                    (None, '}' | ']') => drop(open.pop()),
                    _ => {}
                }
                before = c;
            }
        }
        open.pop()
    }
}

/// `address:8000`, as it would have been meant: a key and its value.
pub(in crate::config) fn glued(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.trim().trim_start_matches("- ").split_once(':')?;
    let value = value.trim_end();
    let is_meant = is_name(key) && !value.is_empty() && !value.starts_with([' ', ':', '/']);
    is_meant.then_some((key, value))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_indented_by_tab(text: &str) -> bool {
    text.trim_start_matches([' ', '-']).starts_with('\t')
}

fn is_quoted(here: &str, at: usize) -> bool {
    here[..at].ends_with(['"', '\''])
}

fn indent(text: &str) -> usize {
    text.bytes().take_while(|b| *b == b' ').count()
}

/// A plain value from its beginning.
fn token(rest: &str) -> String {
    let end = rest.find([',', ']', '}', ' ']).unwrap_or(rest.len());
    rest[..end].trim_end().to_owned()
}

/// Where the double quote is closed that was opened before `inner`.
fn closing(inner: &str) -> usize {
    let mut before = ' ';
    for (at, c) in inner.char_indices() {
        if c == '"' && before != '\\' {
            return at;
        }
        before = c;
    }
    inner.len()
}

fn quote(value: &str) -> String {
    let value = shortened(value.trim_end());
    match value.contains(['"', '\\']) {
        true => format!("quote it: '{}'", value.replace('\'', "''")),
        false => format!("quote it: \"{value}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_nginx_is_told_from_prose_about_one() {
        for text in [
            "http { server { listen 80; } }",
            "user nginx;\nevents {\n}\n",
            "server {\n  listen 80;\n  location / {\n    proxy_pass http://a;\n  }\n}\n",
            "upstream a {\n  server 127.0.0.1:1;\n}\n",
        ] {
            assert!(is_of_nginx(text), "{text}");
        }
        for text in
            ["example.com {\n  reverse_proxy localhost:3000\n}\n", "the server {name} is down;", "routes; x"]
        {
            assert!(!is_of_nginx(text), "{text}");
        }
    }

    #[test]
    fn a_file_of_nginx_is_converted() {
        let text = "server {\n  listen 80;\n  add_header x: y: z;\n}\n";
        let slip = slip(text, 3, 18, "mapping values are not allowed in this context").unwrap();
        assert_eq!(slip.hint, OF_NGINX);
    }
}
