//! A template filled in as a URL, or as its path and query. Whatever the client chose is percent-encoded where it would be
//! more than text, but for what is in that form: a path in a path, the query in a query. So it cannot lead anywhere that
//! the operator's words do not lead.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::{
    Part, Template,
    placeholder::{Placeholder, Repeated},
};
use crate::{error::Reason, filter::Exchange};

/// What is more than text in a path (RFC 3986, section 3.3), parameters included.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Where nothing stands before it, a colon would make a scheme.
const AT_START: &AsciiSet = &IN_PATH.add(b':');

/// In a value of a query as forms write it.
pub(crate) const IN_QUERY: &AsciiSet = &IN_PATH.remove(b'/').add(b'&').add(b'=').add(b'+');

/// The same of what is percent-encoded already.
const IN_QUERY_ENCODED: &AsciiSet = &IN_QUERY.remove(b'%');

/// Part of a path, as a value in a query.
pub(in crate::filter) fn in_query(of_path: &str) -> PercentEncode<'_> {
    utf8_percent_encode(of_path, IN_QUERY_ENCODED)
}

/// Which part of the URL the next words stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Authority,
    Path,
    /// Or the fragment.
    Query,
}

impl At {
    /// Where one is behind the operator's own `text`.
    fn behind(self, text: &str) -> At {
        let after = |at: At, text: &str| match (at, text.find(['/', '?', '#'])) {
            (at, None) => at,
            (_, Some(found)) if text[found..].contains(['?', '#']) => At::Query,
            _ => At::Path,
        };
        match self {
            At::Start => match text.split_once("//") {
                Some((before, behind)) if before.is_empty() || before.ends_with(':') => {
                    after(At::Authority, behind)
                }
                _ if text.is_empty() => At::Start,
                _ => after(At::Path, text),
            },
            at @ (At::Authority | At::Path) => after(at, text),
            At::Query => At::Query,
        }
    }
}

impl Template {
    /// As an absolute URL or a path. A `?` or `&` before the client's query, at the end, stands only where there is a query.
    ///
    /// # Errors
    ///
    /// What would stand in the name of a host cannot.
    pub fn fill_url(&self, exchange: &Exchange<'_>) -> Result<String, Reason> {
        let (mut url, mut at) = (String::new(), At::Start);
        for part in &self.0 {
            let placeholder = match part {
                Part::Text(text) => {
                    url.push_str(text);
                    at = at.behind(text);
                    continue;
                }
                Part::Placeholder(placeholder) => placeholder,
            };
            let value = placeholder.value(exchange, Repeated::Joined);
            match (at, placeholder) {
                (_, Placeholder::Scheme) if at == At::Start => url.push_str(&value),
                (At::Start | At::Authority, Placeholder::Path) => {
                    url.push_str(&value);
                    at = At::Path;
                }
                (At::Start | At::Authority | At::Path, Placeholder::Uri | Placeholder::UriWithout(_)) => {
                    url.push_str(&value);
                    at = if value.contains('?') { At::Query } else { At::Path };
                }
                (At::Authority, Placeholder::Host | Placeholder::Authority) => url.push_str(&value),
                (At::Authority, _) => url.push_str(in_host(&value)?),
                (At::Path, Placeholder::Path | Placeholder::Param(_)) => url.push_str(&value),
                (At::Start, _) => {
                    url.extend(utf8_percent_encode(&value, AT_START));
                    at = if value.is_empty() { At::Start } else { At::Path };
                }
                (At::Path, _) => url.extend(utf8_percent_encode(&value, IN_PATH)),
                (At::Query, Placeholder::Query | Placeholder::QueryWithout(_)) => url.push_str(&value),
                (At::Query, Placeholder::Path | Placeholder::Param(_)) => url.extend(in_query(&value)),
                (At::Query, _) => url.extend(utf8_percent_encode(&value, IN_QUERY)),
            }
        }
        let ends_with_query = matches!(
            self.0.last(),
            Some(Part::Placeholder(Placeholder::Query | Placeholder::QueryWithout(_)))
        );
        if ends_with_query && at == At::Query && url.ends_with(['?', '&']) {
            url.pop();
        }
        Ok(url)
    }

    /// The same of one that begins with a slash: the path, and what stands behind a `?` of the operator's own.
    ///
    /// # Errors
    ///
    /// As [`Template::fill_url`].
    pub fn fill_target(&self, exchange: &Exchange<'_>) -> Result<(String, Option<String>), Reason> {
        let url = self.fill_url(exchange)?;
        Ok(match url.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (url, None),
        })
    }
}

/// A label of a host's name, or several.
fn in_host(value: &str) -> Result<&str, Reason> {
    let fits = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if fits { Ok(value) } else { Err(Reason::BadRequest) }
}
