//! Texts with nginx's variables, as texts with our placeholders.

use std::collections::BTreeMap;

use super::parser::Directive;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Variable(String),
}

/// As nginx reads it: `$name` or `${name}`; a dollar before anything else stands for itself.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, after)) if !name.is_empty() && name.chars().all(is_of_name) => (name, after),
            _ => rest.split_at(rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())),
        };
        if name.is_empty() {
            plain.push('$');
            continue;
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        // `$1` is one digit, whatever follows.
        let (name, after) = if name.starts_with(|c: char| c.is_ascii_digit()) && !rest.starts_with('{') {
            rest.split_at(1)
        } else {
            (name, after)
        };
        pieces.push(Piece::Variable(name.to_owned()));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    pieces
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Where a text with placeholders will stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Purpose {
    /// A header, or a line of the log.
    Text,
    /// The target of a redirect, or a path with its query.
    Url,
}

/// What the variables stand for in one block.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    /// The server's first name.
    pub(super) server_name: String,
    /// The only host that gets here, if there is only one.
    pub(super) host: Option<String>,
    /// The only port that leads here, if there is only one.
    pub(super) port: Option<u16>,
    /// `set` once, for all requests.
    pub(super) sets: BTreeMap<String, String>,
    /// What the groups of the location's expression are, by number or name.
    pub(super) groups: BTreeMap<String, String>,
}

impl Values {
    /// Take in what a block sets once and for all requests. What is set twice, or under a condition, is no constant.
    pub(super) fn read_sets(&mut self, block: &[Directive]) {
        let of_name = |name: &str| {
            let nested = block.iter().flat_map(|one| one.inside().iter().map(|inner| (inner, true)));
            let all = block.iter().map(|one| (one, false)).chain(nested);
            all.filter(|(one, _)| one.name == "set" && one.first() == name).collect::<Vec<_>>()
        };
        for set in block.iter().filter(|one| one.name == "set") {
            match of_name(set.first()).as_slice() {
                [(only, false)] => {
                    let value = self.expanded(set.argument(1));
                    self.sets.insert(only.read().first().trim_start_matches('$').to_owned(), value);
                }
                _ => drop(self.sets.remove(set.first().trim_start_matches('$'))),
            }
        }
    }

    /// The text with what was `set` in place of its variables.
    pub(super) fn expanded(&self, text: &str) -> String {
        const LONGEST: usize = 4096;
        let expand = |piece| match piece {
            Piece::Text(text) => text,
            Piece::Variable(name) => self.sets.get(&name).cloned().unwrap_or_else(|| format!("${{{name}}}")),
        };
        let expanded: String = pieces(text).into_iter().map(expand).collect();
        if expanded.len() > LONGEST { text.to_owned() } else { expanded }
    }

    /// Without any variable that is no constant.
    pub(super) fn constant(&self, text: &str) -> Option<String> {
        let expanded = self.expanded(text);
        match pieces(&expanded).as_slice() {
            [] => Some(String::new()),
            [Piece::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    /// The same with placeholders.
    ///
    /// # Errors
    ///
    /// Why a variable has no equal.
    pub(super) fn filled(&self, text: &str, purpose: Purpose) -> Result<String, String> {
        let mut filled = String::new();
        for piece in pieces(&self.expanded(text)) {
            match piece {
                Piece::Text(text) => filled.push_str(&text.replace('{', "{{").replace('}', "}}")),
                Piece::Variable(name) => filled.push_str(&self.placeholder(&name, purpose)?),
            }
        }
        Ok(filled.replace("${", "$${"))
    }

    fn placeholder(&self, name: &str, purpose: Purpose) -> Result<String, String> {
        if let Some(group) = self.groups.get(name) {
            return Ok(group.clone());
        }
        let plain = match name {
            "host" => return Ok(self.host.clone().unwrap_or_else(|| "{host}".to_owned())),
            "http_host" => "{authority}",
            "server_name" => return Ok(self.server_name.clone()),
            "server_port" => return self.port.map(|port| port.to_string()).ok_or_else(|| unknown(name)),
            "uri" | "document_uri" => "{path}",
            "request_uri" if purpose == Purpose::Url => "{path}?{query}",
            "args" | "query_string" => "{query}",
            "is_args" if purpose == Purpose::Url => "?",
            "remote_addr" => "{client_ip}",
            "scheme" => "{scheme}",
            "request_method" => "{method}",
            "request_id" => "{request_id}",
            "ssl_protocol" => "{tls.version}",
            "ssl_server_name" => "{tls.sni}",
            "content_type" => "{header.content-type}",
            "content_length" => "{header.content-length}",
            _ => return self.of_request(name),
        };
        Ok(plain.to_owned())
    }

    fn of_request(&self, name: &str) -> Result<String, String> {
        let (kind, of) =
            name.split_once('_').filter(|(_, of)| !of.is_empty()).ok_or_else(|| unknown(name))?;
        match kind {
            "http" => Ok(format!("{{header.{}}}", of.replace('_', "-"))),
            "arg" => Ok(format!("{{query.{of}}}")),
            "cookie" => Ok(format!("{{cookie.{of}}}")),
            _ => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> String {
    format!("`${name}` has no equal: see docs/placeholders.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_end_where_nginx_ends_them() {
        let shown = |text: &str| {
            pieces(text)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text,
                    Piece::Variable(name) => format!("<{name}>"),
                })
                .collect::<String>()
        };
        assert_eq!(shown("a$b-${c}d$1x$"), "a<b>-<c>d<1>x$");
        assert_eq!(shown("${a"), "${a");
        assert_eq!(shown("$10"), "<1>0");
    }

    #[test]
    fn texts_get_placeholders_or_the_reason_why_not() {
        let values = Values { host: Some("a.example".to_owned()), ..Values::default() };
        let filled = |text| values.filled(text, Purpose::Url);
        assert_eq!(filled("https://$host$request_uri").unwrap(), "https://a.example{path}?{query}");
        assert_eq!(filled("$http_x_a {$cookie_b}").unwrap(), "{header.x-a} {{{cookie.b}}}");
        assert_eq!(
            filled("$upstream_addr").unwrap_err(),
            "`$upstream_addr` has no equal: see docs/placeholders.md"
        );
    }
}
