//! `access_log` and `log_format`.

use super::{
    parser::Directive,
    scope::Scope,
    values::{Piece, Purpose, Values, pieces},
    world::World,
};
use crate::convert::draft::Map;

const COMBINED: &str = r#"$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#;

/// `log.access`, as `http` says for all.
pub(super) fn access(http: &Scope<'_>, world: &mut World<'_>) -> Option<Map> {
    http.own().iter().for_each(|block| leave_inside(block, world));
    let logs = http.all("access_log");
    let log = logs.first()?;
    logs[1..].iter().for_each(|other| world.notes.leave(other, "there is one access log for all routes"));
    if let Some(when) = log.texts().find(|text| text.starts_with("if=")) {
        world.notes.leave_in_part(log, format!("`{when}`: all requests are logged: see `log.access.when`"));
    }
    if log.first() == "off" {
        return Some(Map::new().with("to", "off"));
    }
    let path = world.file(log.first());
    let is_there = path.parent().is_some_and(std::path::Path::is_dir) && !path.is_dir();
    let mut access = Map::new();
    match log.first() {
        "/dev/stdout" => access.set("to", "stdout"),
        "/dev/stderr" => access.set("to", "stderr"),
        text if text.starts_with("syslog:") || text.contains('$') => {
            world.notes.leave(log, "write the target under `log.access.to`");
        }
        text if is_there => access.set("to", world.file_text(text)),
        _ => world.notes.leave(
            log,
            format!("the folder of {} is not there, so the log goes to standard output", path.display()),
        ),
    }
    let name = log
        .arguments
        .get(1)
        .map(|word| word.text.as_str())
        .filter(|name| !name.contains('='))
        .unwrap_or("combined");
    let defined = http.own().iter().find(|one| one.name == "log_format" && one.first() == name);
    let text: String = match (defined, name) {
        (Some(format), _) => {
            format.read().texts().skip(1).filter(|text| !text.starts_with("escape=")).collect()
        }
        (None, "combined") => COMBINED.to_owned(),
        (None, _) => String::new(),
    };
    match template(&text) {
        Ok(template) if !template.is_empty() => access.set("template", template),
        Ok(_) => {}
        Err(why) => world.notes.leave(defined.unwrap_or(log), why),
    }
    (!access.is_empty()).then_some(access)
}

fn leave_inside(block: &Directive, world: &mut World<'_>) {
    for directive in block.inside() {
        if directive.name == "access_log" {
            world.notes.leave(directive, "there is one access log for all routes: see `log.access.when`");
        }
        leave_inside(directive, world);
    }
}

/// Fields of the line in place of nginx's variables.
fn template(format: &str) -> Result<String, String> {
    let mut template = String::new();
    for piece in pieces(format) {
        let field = match piece {
            Piece::Text(text) => {
                template.push_str(&text.replace('{', "{{").replace('}', "}}"));
                continue;
            }
            Piece::Variable(name) => match name.as_str() {
                "remote_addr" => "{client}",
                // Nobody's name is in the log.
                "remote_user" => "-",
                "time_local" | "time_iso8601" | "msec" => "{ts}",
                "request" => "{method} {path} {protocol}",
                "request_uri" | "uri" => "{path}",
                "request_method" => "{method}",
                "server_protocol" => "{protocol}",
                "status" => "{status}",
                "body_bytes_sent" | "bytes_sent" => "{bytes_out}",
                "request_length" => "{bytes_in}",
                "request_time" => "{duration_ms}",
                "upstream_response_time" => "{upstream_ms}",
                "upstream_addr" => "{endpoint}",
                "host" | "http_host" | "server_name" => "{host}",
                "http_user_agent" => "{user_agent}",
                "ssl_protocol" => "{tls}",
                other => {
                    template.push_str(&Values::default().filled(&format!("${{{other}}}"), Purpose::Text)?);
                    continue;
                }
            },
        };
        template.push_str(field);
    }
    Ok(template.replace("${", "$${"))
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn a_condition_of_the_log_is_named() {
        let (_, left) = converted(
            "http { access_log /dev/stdout combined if=$loggable; server { listen 80; return 204; } }",
        );
        assert!(left.contains("access_log /dev/stdout combined if=$loggable (`if=$loggable`: "), "{left}");
    }
}
