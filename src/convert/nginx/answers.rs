//! `return`: answers that need no upstream.

use super::{parser::Directive, rewrites::Block, values::Purpose, world::filter};
use crate::convert::draft::Map;
use crate::convert::fields;

/// How a route ends that answers by itself.
#[derive(Clone)]
pub(super) enum End {
    Respond(Map),
    Redirect(Map),
    /// To the same place over TLS, and nowhere over TLS.
    Secure(Map),
}

impl End {
    pub(super) fn filter(self) -> Map {
        match self {
            End::Respond(options) => filter("respond", options),
            End::Redirect(options) => filter("redirect", options),
            End::Secure(options) => filter("https_redirect", options),
        }
    }
}

/// `return 301 https://$host$request_uri`
pub(super) fn is_to_same_place(directive: &Directive) -> bool {
    directive.name == "return"
        && matches!(directive.argument(1), "https://$host$request_uri" | "https://$http_host$request_uri")
}

/// What a `return` says; or why it cannot, and what is answered instead.
pub(super) fn read(directive: &Directive, block: &Block<'_, '_>) -> Result<End, (String, End)> {
    let status = |code: i64| End::Respond(Map::new().with("status", code));
    let (code, text) = match directive.first().parse::<i64>() {
        Ok(code) => (code, directive.argument(1)),
        Err(_) => (302, directive.first()),
    };
    match code {
        301 | 302 | 303 | 307 | 308 if !text.is_empty() => {
            if is_to_same_place(directive) && block.is_tls != Some(true) {
                return Ok(End::Secure(Map::new().with("status", code)));
            }
            let to = block.values.filled(text, Purpose::Url).and_then(|to| redirect(to, code));
            to.map_err(|why| (why, status(404)))
        }
        // nginx's own: it closes the connection.
        code if code != 444 && (200..=599).contains(&code) => {
            let mut respond = Map::new().with("status", code);
            if text.is_empty() {
                return Ok(End::Respond(respond));
            }
            match block.values.constant(text) {
                Some(body) => {
                    respond.set("body", fields::literal(&body));
                    respond.set("headers", Map::new().with("content-type", content_type(block)));
                    Ok(End::Respond(respond))
                }
                None => {
                    Err(("a body has no placeholders here: it is empty".to_owned(), End::Respond(respond)))
                }
            }
        }
        _ => Err(("a connection is not closed without an answer here: it is 400".to_owned(), status(400))),
    }
}

/// # Errors
///
/// It is relative to where the client is.
pub(super) fn redirect(to: String, status: i64) -> Result<End, String> {
    match to.starts_with(['/', '{']) || to.contains("://") {
        true => Ok(End::Redirect(Map::new().with("to", to).with("status", status))),
        false => Err("a redirect is to a URL or a path from the root here".to_owned()),
    }
}

/// By the name in an exact path, as `types` say.
fn content_type(block: &Block<'_, '_>) -> String {
    let extension =
        block.path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension);
    let default = || block.scope.one("default_type").map_or("text/plain", Directive::first);
    let of_extension = match (extension, block.scope.one("types")) {
        (None, _) => None,
        (Some(extension), Some(types)) => {
            let has = |one: &&Directive| one.texts().any(|text| text.eq_ignore_ascii_case(extension));
            types.inside().iter().find(has).map(|found| found.name.as_str())
        }
        // nginx's own.
        (Some("html"), None) => Some("text/html"),
        (Some("gif"), None) => Some("image/gif"),
        (Some("jpg"), None) => Some("image/jpeg"),
        (Some(_), None) => None,
    };
    let found = of_extension.unwrap_or_else(default);
    let is_writable = !found.is_empty() && found.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_writable { found } else { "text/plain" }.to_owned()
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn a_connection_closed_without_an_answer_is_400_and_named() {
        for inside in
            ["return 444;", "location / { return 444; }", "location / { if ($http_x = a) { return 444; } }"]
        {
            let (file, left) = converted(&format!("server {{ listen 80; {inside} }}"));
            assert!(file.contains("status: 400") && !file.contains("status: 444"), "{file}");
            assert!(left.contains("a.conf:1: not carried over: return 444 ("), "{left}");
        }
    }
}
