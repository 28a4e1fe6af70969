//! One body of an error page: text with placeholders, taken apart when the configuration is read. Whatever is filled in is written so that
//! it stays text: in HTML it is no markup, in JSON it ends no string.
//!
//! Pages have braces of their own, in styles and in scripts. So only what looks like the name of a placeholder is one, and
//! everything else between braces stands for itself.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    config::suggest,
    filter::{Exchange, shared::template::Template},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Html,
    Json,
}

/// What is said of an error, whoever made it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub status: u16,
    pub title: &'a str,
    pub reason: &'a str,
    pub detail: &'a str,
    /// Seconds; 0 where there are none.
    pub retry_after: u64,
}

#[derive(Debug)]
pub(super) struct Body {
    form: Form,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(Bytes),
    Own(Own),
    Request(Template),
}

#[derive(Clone, Copy, Debug)]
enum Own {
    Status,
    Title,
    Reason,
    Detail,
    RetryAfter,
}

const OWN: [(&str, Own); 5] = [
    ("status", Own::Status),
    ("title", Own::Title),
    ("reason", Own::Reason),
    ("detail", Own::Detail),
    ("retry_after", Own::RetryAfter),
];

impl Form {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Form::Html => "text/html; charset=utf-8",
            Form::Json => "application/json",
        }
    }

    fn escape(self, text: &str) -> Cow<'_, str> {
        match self {
            Form::Html => escape_html(text),
            Form::Json => {
                let quoted = serde_json::Value::from(text).to_string();
                Cow::Owned(quoted[1..quoted.len() - 1].to_owned())
            }
        }
    }
}

impl Body {
    /// `{{name}}` is the text `{name}`.
    ///
    /// # Errors
    ///
    /// A name that is nearly one of a placeholder, or JSON that is none once it is filled in.
    pub(super) fn parse(text: &str, form: Form) -> Result<Body, String> {
        let mut parts = Vec::new();
        let (mut literal, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('{') {
            let (before, braces) = rest.split_at(at);
            literal.push_str(before);
            if let Some((name, after)) = braces.strip_prefix("{{").and_then(named)
                && let Some(after) = after.strip_prefix('}')
            {
                literal.push_str(&format!("{{{name}}}"));
                rest = after;
            } else if let Some((name, after)) = braces.strip_prefix('{').and_then(named) {
                let part = match OWN.iter().find(|(own, _)| *own == name) {
                    Some((_, own)) => Part::Own(*own),
                    None => Part::Request(
                        Template::parse(&format!("{{{name}}}")).map_err(|why| unknown(name, why))?,
                    ),
                };
                match part {
                    Part::Request(template) if template.literal().is_some() => {
                        literal.push_str(&form.escape(template.literal().unwrap_or_default()));
                    }
                    part => {
                        push(&mut parts, &mut literal);
                        parts.push(part);
                    }
                }
                rest = after;
            } else {
                literal.push('{');
                rest = &braces[1..];
            }
        }
        literal.push_str(rest);
        push(&mut parts, &mut literal);
        let body = Body { form, parts };
        match form == Form::Json && serde_json::from_slice::<serde::de::IgnoredAny>(&body.sample()).is_err() {
            true => Err(
                "is no JSON once it is filled in (try `{\"error\": \"{reason}\", \"status\": {status}}`; \
                         all but `{status}` and `{retry_after}` stand between quotes)"
                    .to_owned(),
            ),
            false => Ok(body),
        }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn fill(&self, told: &Told<'_>, exchange: &Exchange<'_>) -> Bytes {
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [Part::Text(text)] => text.clone(),
            _ => self.filled(told, &|template| template.fill(exchange)),
        }
    }

    fn filled(&self, told: &Told<'_>, of_request: &dyn Fn(&Template) -> String) -> Bytes {
        let mut filled = Vec::new();
        for part in &self.parts {
            let text: Cow<'_, str> = match part {
                Part::Text(text) => {
                    filled.extend_from_slice(text);
                    continue;
                }
                Part::Own(Own::Status) => told.status.to_string().into(),
                Part::Own(Own::RetryAfter) => told.retry_after.to_string().into(),
                Part::Own(Own::Title) => told.title.into(),
                Part::Own(Own::Reason) => told.reason.into(),
                Part::Own(Own::Detail) => told.detail.into(),
                Part::Request(template) => of_request(template).into(),
            };
            filled.extend_from_slice(self.form.escape(&text).as_bytes());
        }
        filled.into()
    }

    /// As it may look.
    fn sample(&self) -> Bytes {
        let told = Told { status: 503, title: "x", reason: "x", detail: "x", retry_after: 1 };
        self.filled(&told, &|_| "x".to_owned())
    }
}

fn push(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Text(std::mem::take(literal).into()));
    }
}

/// What looks like the name of a placeholder up to the closing brace, and what is behind that: `{color:red}` does not.
fn named(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.split_once('}')?;
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    is_name.then_some((name, after))
}

fn unknown(name: &str, why: String) -> String {
    let escape = format!("write `{{{{{name}}}}}` for the text itself");
    match suggest(name, OWN.iter().map(|(own, _)| *own)) {
        Some(near) => format!("unknown placeholder `{{{name}}}` (did you mean `{{{near}}}`? {escape})"),
        None => format!("{why}; {escape}"),
    }
}

/// Also between the quotes of an attribute.
fn escape_html(text: &str) -> Cow<'_, str> {
    const MARKUP: [char; 5] = ['&', '<', '>', '"', '\''];
    if !text.contains(MARKUP) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    const TOLD: Told<'_> = Told {
        status: 503,
        title: "Service Unavailable",
        reason: "overloaded",
        detail: "<b>\"no\" & 'none'\n",
        retry_after: 5,
    };

    fn filled(text: &str, form: Form) -> String {
        let mut request = RequestHeader::build("GET", b"/a%22?q=%3Cscript%3E", None).unwrap();
        request.insert_header("x-html", "<img src=x onerror=\"a\">").unwrap();
        let mut facts = Facts { target: "/a%22?q=%3Cscript%3E".parse().unwrap(), ..Facts::default() };
        let exchange = Exchange::new(&mut request, &mut facts);
        let body = Body::parse(text, form).unwrap_or_else(|why| panic!("{text}: {why}"));
        String::from_utf8(body.fill(&TOLD, &exchange).to_vec()).unwrap()
    }

    #[test]
    fn what_is_filled_in_stays_text() {
        for (text, expected) in [
            ("<p>{status} {title}</p>", "<p>503 Service Unavailable</p>"),
            ("<p title=\"{detail}\">", "<p title=\"&lt;b&gt;&quot;no&quot; &amp; &#39;none&#39;\n\">"),
            ("{header.x-html}", "&lt;img src=x onerror=&quot;a&quot;&gt;"),
            ("{query.q}", "&lt;script&gt;"),
            ("{retry_after}", "5"),
        ] {
            assert_eq!(filled(text, Form::Html), expected, "{text}");
        }
        let json = filled(
            r#"{"e": "{detail}", "h": "{header.x-html}", "s": {status}, "r": {retry_after}}"#,
            Form::Json,
        );
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["e"], TOLD.detail);
        assert_eq!(json["h"], "<img src=x onerror=\"a\">");
        assert_eq!((json["s"].as_u64(), json["r"].as_u64()), (Some(503), Some(5)));
    }

    #[test]
    fn braces_of_the_page_itself_stay() {
        for text in [
            "<style>body{color:red}@media print{a{b:c}}</style>",
            "<script>const a = {}; if (a) { b() }</script>",
            "{{ title }}",
            "{",
            "}{",
            "{status",
            "{1}",
            "",
        ] {
            assert_eq!(filled(text, Form::Html), text);
        }
        assert_eq!(filled("{{status}} {status}", Form::Html), "{status} 503");
    }

    #[test]
    fn what_was_hardly_meant_is_refused() {
        for (text, form, why) in [
            ("{statu}", Form::Html, "did you mean `{status}`?"),
            ("{nonsense}", Form::Html, "unknown placeholder `{nonsense}`"),
            ("{header.}", Form::Html, "lacks a name"),
            (r#"{"a": {title}}"#, Form::Json, "is no JSON"),
            ("<p>", Form::Json, "is no JSON"),
            ("", Form::Json, "is no JSON"),
        ] {
            let refused = Body::parse(text, form).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
