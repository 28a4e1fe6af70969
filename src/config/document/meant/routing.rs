//! Rules of Traefik and answers of nginx in our words: whoever brings one along finds it translated where the message stands.

use super::flow;

/// `match: {...}` for ``Host(`a`) && PathPrefix(`/b`)``; `None` for what cannot be said in one `match`.
pub(super) fn rule(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['\'', '"']);
    if text.contains("||") || text.contains('!') {
        return None;
    }
    let mut parts = Vec::new();
    for part in text.split("&&") {
        let (name, arguments) = part.trim().strip_suffix(')')?.split_once('(')?;
        let arguments =
            arguments.split(',').map(|argument| argument.trim().trim_matches(['`', '"', '\'', '\\']));
        let arguments: Vec<&str> = arguments.collect();
        let first = *arguments.first()?;
        let list = arguments.iter().map(|argument| flow(argument)).collect::<Vec<_>>().join(", ");
        parts.push(match name {
            "Host" => format!("hosts: [{list}]"),
            "PathPrefix" => format!("path: {}", flow(first)),
            "Path" => format!("path: {{exact: {}}}", flow(first)),
            "PathRegexp" => format!("path: {{regex: '{}'}}", first.replace('\'', "''")),
            "Method" | "Methods" => format!("methods: [{list}]"),
            "Header" | "Headers" => format!("headers: {{{}: {}}}", flow(first), flow(arguments.get(1)?)),
            "Query" => format!("query: {{{}: {}}}", flow(first), flow(arguments.get(1)?)),
            _ => return None,
        });
    }
    Some(format!("write `match: {{{}}}`", parts.join(", ")))
}

/// What `return` of nginx is: a redirect or an answer.
pub(super) fn answer(value: &str) -> String {
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let value = bare.replace("\\\"", "\"");
    let (status, rest) = value.split_once(' ').unwrap_or((&value, ""));
    match status.parse::<u16>() {
        Ok(301 | 302 | 303 | 307 | 308) if !rest.is_empty() => {
            format!(
                "write `redirect: {{to: \"{}\", status: {status}}}`",
                placeholders(rest.trim_end_matches(';'))
            )
        }
        Ok(status) if rest.is_empty() => format!("write `respond: {{status: {status}}}`"),
        Ok(status) => format!(
            "write `respond: {{status: {status}, body: {}}}`",
            flow(rest.trim_matches(['"', '\'', ';']))
        ),
        Err(_) => {
            "write `respond: {status: 200, body: ok}` or `redirect: \"https://example.com{uri}\"`".to_owned()
        }
    }
}

/// Variables of nginx by the placeholder that is filled in with the same.
pub const VARIABLES: [(&str, &str); 14] = [
    ("$request_uri", "{uri}"),
    ("$uri", "{path}"),
    ("$query_string", "{query}"),
    ("$args", "{query}"),
    ("$http_host", "{authority}"),
    ("$host", "{host}"),
    ("$server_name", "{host}"),
    ("$scheme", "{scheme}"),
    ("$remote_addr", "{client_ip}"),
    ("$proxy_add_x_forwarded_for", "{client_ip}"),
    ("$request_method", "{method}"),
    ("$request_id", "{request_id}"),
    ("$ssl_protocol", "{tls.version}"),
    ("$ssl_server_name", "{tls.sni}"),
];

/// Those without a name in them.
const PLACEHOLDERS: [&str; 14] = [
    "method",
    "path",
    "query",
    "uri",
    "host",
    "authority",
    "scheme",
    "route",
    "upstream",
    "listener",
    "client_ip",
    "peer",
    "request_id",
    "trace_id",
];

/// The placeholder that `${word}` may have been meant for: one of ours, or a variable of nginx's.
pub(in crate::config) fn placeholder(word: &str) -> Option<String> {
    let ours = PLACEHOLDERS.contains(&word).then(|| format!("{{{word}}}"));
    let of_nginx = VARIABLES.iter().find(|(variable, _)| variable.strip_prefix('$') == Some(word));
    ours.or_else(|| of_nginx.map(|(_, placeholder)| (*placeholder).to_owned()))
}

fn placeholders(text: &str) -> String {
    VARIABLES
        .iter()
        .fold(text.to_owned(), |text, (variable, placeholder)| text.replace(variable, placeholder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_matches_and_answers_targets() {
        for (written, expected) in [
            ("Host(`a.example`) && PathPrefix(`/api`)", "write `match: {hosts: [a.example], path: /api}`"),
            ("Path(`/x`) && Method(`GET`, `PUT`)", "write `match: {path: {exact: /x}, methods: [GET, PUT]}`"),
            ("Headers(`X-A`, `b c`)", "write `match: {headers: {X-A: \"b c\"}}`"),
        ] {
            assert_eq!(rule(written).as_deref(), Some(expected));
        }
        for none in ["Host(`a`) || Host(`b`)", "HostSNI(`a`)", "/api", "Headers(`X`)", ""] {
            assert_eq!(rule(none), None, "{none}");
        }
        for (written, expected) in [
            ("301 https://$host$request_uri", "write `redirect: {to: \"https://{host}{uri}\", status: 301}`"),
            ("204", "write `respond: {status: 204}`"),
            ("200 \"it works\"", "write `respond: {status: 200, body: \"it works\"}`"),
        ] {
            assert_eq!(answer(written), expected);
        }
    }
}
