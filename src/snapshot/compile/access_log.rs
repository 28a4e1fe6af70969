//! `log.access`: what its lines say, and of which requests they are.

use std::{path::PathBuf, sync::Arc};

use super::Compiler;
use crate::{
    config::{self, Path, RouteMatch, suggest},
    error::Reason,
    filter::{self, Piece as Written, Pieces, REDACTED, Template},
    observe::access::{Field, Layout, Piece},
    snapshot::OwnLines,
};

/// Far more than anybody reads.
const MOST_ADDED: usize = 32;

impl Compiler<'_> {
    /// `None` where a line says what it always does, of whatever request.
    pub(super) fn access_log(&mut self) -> Option<Arc<OwnLines>> {
        let config = self.config;
        let config::AccessLog { to, format, fields, template, when, .. } = &config.log.access;
        let at = Path::root().key("log").key("access");
        for (index, target) in to.0.iter().enumerate() {
            if let config::LogTarget::Syslog(syslog) = target {
                self.syslog(syslog, &place(to, index).key("syslog"));
            }
        }
        if template.is_some() && (format.is_some() || *fields != config::LogFields::default()) {
            let hint = "put into it what the line is to say, or leave it out";
            self.refuse_with_hint(
                &at.key("template"),
                "says all of a line, so `format` and `fields` do nothing",
                hint,
            );
        }
        for (index, name) in fields.drop.iter().enumerate() {
            if !Field::named(name).is_some_and(Field::is_optional) {
                let at = at.key("fields").key("drop").index(index);
                self.refuse_with_hint(
                    &at,
                    format!("`{name}` is no field that can be left out"),
                    near_field(name),
                );
            }
        }
        let (mut layout, mut values) = (Layout::default(), Vec::new());
        self.added(fields, &at.key("fields").key("add"), &mut layout, &mut values);
        if let Some(text) = template {
            layout.template = self.template(text, &at.key("template"), &mut values);
        }
        let rule = when.as_ref().and_then(|when| self.when(when, &at.key("when")));
        let says_as_always = layout == Layout::default() && rule.is_none();
        (!says_as_always).then(|| Arc::new(OwnLines { layout: Arc::new(layout), values, rule }))
    }

    fn syslog(&mut self, syslog: &config::Syslog, at: &Path) {
        let fits = |text: &str, most| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let hostname = syslog.hostname.as_deref().unwrap_or("localhost");
        for (key, text, most) in [("app_name", &*syslog.app_name, 48), ("hostname", hostname, 255)] {
            if !fits(text, most) {
                self.refuse(
                    &at.key(key),
                    format!("`{key}` is not 1 to {most} printable characters of ASCII, without spaces"),
                );
            }
        }
        let is_tls = matches!(syslog.address, config::SyslogAddress::Tls(..));
        match &syslog.tls {
            Some(tls) if is_tls => self.syslog_tls(tls, &at.key("tls")),
            Some(_) => self.refuse_with_hint(
                &at.key("tls"),
                "is for servers that speak TLS",
                "write the address as `tls://HOST:PORT`, or leave it out",
            ),
            None => {}
        }
    }

    /// The files are read anew for each connection; here only to find out whether they can be used.
    fn syslog_tls(&mut self, tls: &config::SyslogTls, at: &Path) {
        let config::SyslogTls { ca, cert, key, name } = tls;
        if cert.is_some() != key.is_some() {
            self.refuse(at, "`cert` and `key` go together");
        }
        let is_name = |name: &str| {
            let is_allowed =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
            !name.is_empty() && name.bytes().all(is_allowed)
        };
        if name.as_deref().is_some_and(|name| !is_name(name)) {
            self.refuse_with_hint(&at.key("name"), "is no host's name", "such as logs.example.com");
        }
        let mut file = |key: &str, path: &Option<PathBuf>| {
            let at = at.key(key);
            let path = self.sources.full_path(&at, path.as_ref()?);
            self.read_pem(&path, &at)
        };
        let (ca, cert, key) = (file("ca", ca), file("cert", cert), file("key", key));
        self.check_tls(ca.as_deref(), cert.zip(key).as_ref(), at);
    }

    fn added(
        &mut self,
        fields: &config::LogFields,
        at: &Path,
        layout: &mut Layout,
        values: &mut Vec<Template>,
    ) {
        if fields.add.len() > MOST_ADDED {
            self.refuse(at, format!("at most {MOST_ADDED} fields can be added"));
        }
        for (name, text) in &fields.add {
            let at = at.key(name);
            let is_name = !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
            let stands_there = matches!(name.as_str(), "ts" | "level" | "msg")
                || Field::named(name).is_some() && !fields.drop.contains(name);
            if !is_name {
                self.refuse_with_hint(&at, "is not a field's name", "letters, digits, `_`, `-` and `.`");
            } else if stands_there {
                self.refuse_with_hint(
                    &at,
                    "stands in each line already",
                    "choose another name, or `drop` it",
                );
            }
            match Template::parse(text) {
                Ok(template) => {
                    layout.added.push(name.clone());
                    values.push(self.without_secrets(&template, &at));
                }
                Err(why) => self.refuse(&at, why),
            }
        }
    }

    /// What stands in braces is a field of the line, or any placeholder.
    fn template(&mut self, text: &str, at: &Path, values: &mut Vec<Template>) -> Option<Vec<Piece>> {
        if text.chars().any(char::is_control) {
            self.refuse(at, "holds a character that ends the line or steers a terminal");
        }
        let mut pieces = Vec::new();
        for piece in Pieces(text) {
            match piece {
                Ok(Written::Text(text)) => pieces.push(Piece::Text(text.to_owned())),
                Ok(Written::Braces(name)) => match self.piece(name, at, values) {
                    Ok(piece) => pieces.push(piece),
                    Err(why) => self.refuse(at, why),
                },
                Err(why) => self.refuse(at, why),
            }
        }
        Some(pieces)
    }

    fn piece(&mut self, name: &str, at: &Path, values: &mut Vec<Template>) -> Result<Piece, String> {
        if let Some(field) = Field::named(name) {
            // A secret may be a field of the line, such as `user_agent`.
            let is_secret =
                field.is_optional() && self.config.log.redact.iter().any(|secret| is_field(secret, name));
            if is_secret {
                self.warn_of_secret(at);
                return Ok(Piece::Text(REDACTED.to_owned()));
            }
            return Ok(Piece::Field(field));
        }
        let template =
            Template::parse(&format!("{{{name}}}")).map_err(|why| match suggest(name, Field::names()) {
                Some(near) => format!("unknown placeholder `{{{name}}}` (did you mean `{{{near}}}`?)"),
                None => why,
            })?;
        if let Some(text) = template.literal() {
            return Ok(Piece::Text(text.to_owned()));
        }
        values.push(self.without_secrets(&template, at));
        Ok(Piece::Value(values.len() - 1))
    }

    pub(super) fn without_secrets(&mut self, template: &Template, at: &Path) -> Template {
        let (template, any) = template.redacted(&self.config.log.redact);
        if any {
            self.warn_of_secret(at);
        }
        template
    }

    fn warn_of_secret(&mut self, at: &Path) {
        self.warn("secret_redacted", at, "names a secret, which is written as `[redacted]`", "leave it out");
    }

    fn when(&mut self, when: &config::LogWhen, at: &Path) -> Option<crate::route::Rule> {
        if *when == config::LogWhen::default() && !self.sources.is_doubtful(at) {
            self.refuse_with_hint(
                at,
                "an empty condition matches every request",
                "say what is to be logged, or leave it out",
            );
        }
        for (index, reason) in when.reason.iter().enumerate() {
            if Reason::from_code(reason).is_none() {
                let codes = Reason::ALL.into_iter().map(Reason::code);
                let hint = match suggest(reason, codes) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "docs/operations.md lists them".to_owned(),
                };
                let at = at.key("reason").index(index);
                self.refuse_with_hint(&at, format!("`{reason}` is no reason of the gateway's"), hint);
            }
        }
        let matching = when.matching();
        if matching == RouteMatch::default() {
            return None;
        }
        filter::rule(0, &matching, at, self.sources, &mut self.problems)
    }
}

/// Where that one of the access log's places stands.
pub(super) fn place(to: &config::LogTargets, index: usize) -> Path {
    let at = Path::root().key("log").key("access").key("to");
    if to.0.len() == 1 { at } else { at.index(index) }
}

/// Whether what `log.redact` names is that field of a line: headers have dashes where lines have underscores.
fn is_field(secret: &str, name: &str) -> bool {
    secret.to_ascii_lowercase().replace('-', "_") == name
}

fn near_field(name: &str) -> String {
    match suggest(name, Field::names()) {
        Some(near) if near != name => format!("did you mean `{near}`?"),
        _ => format!("fields: {}", Field::names().skip(1).collect::<Vec<_>>().join(", ")),
    }
}
