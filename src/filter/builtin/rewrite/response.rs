//! What an upstream says of its own place becomes what clients can use: where a redirect leads, and for which domain and path a cookie is.
//! The first entry that fits is taken.

use http::{
    HeaderName, HeaderValue,
    header::{LOCATION, REFRESH, SET_COOKIE},
};
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use super::swap::{self, Reach, Swap, SwapOptions};
use crate::{
    config::Path,
    filter::{Exchange, Invalid, Reason, Template},
};

/// The `Domain` and `Path` of the cookies that an upstream sets.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CookieOptions {
    /// `from` is the whole domain. An empty `to` takes `Domain` off: then the cookie is for the host that was asked.
    domain: Vec<SwapOptions>,
    /// `from` is the beginning of the path.
    path: Vec<SwapOptions>,
}

#[derive(Default)]
pub(super) struct Rewritten {
    location: Vec<Swap>,
    domain: Vec<Swap>,
    path: Vec<Swap>,
}

impl Rewritten {
    pub(super) fn build(
        location: Vec<SwapOptions>,
        cookies: Option<CookieOptions>,
        at: &Path,
        invalid: &mut Vec<Invalid>,
    ) -> Rewritten {
        let CookieOptions { domain, path } = match cookies {
            Some(cookies) if cookies.domain.is_empty() && cookies.path.is_empty() => {
                invalid.push(Invalid::new(at.key("cookies"), "nothing to rewrite: give domain or path"));
                return Rewritten::default();
            }
            cookies => cookies.unwrap_or_default(),
        };
        let of_cookies = at.key("cookies");
        Rewritten {
            location: swap::build(location, &at.key("location"), invalid),
            domain: swap::build(domain, &of_cookies.key("domain"), invalid),
            path: swap::build(path, &of_cookies.key("path"), invalid),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.location.is_empty() && self.domain.is_empty() && self.path.is_empty()
    }

    /// # Errors
    ///
    /// What was filled in of the request cannot stand there.
    pub(super) fn edit(&self, response: &mut ResponseHeader, exchange: &Exchange<'_>) -> Result<(), Reason> {
        if !self.location.is_empty() {
            self.edit_field(response, &LOCATION, |value| self.location(value, exchange))?;
            self.edit_field(response, &REFRESH, |value| self.refresh(value, exchange))?;
        }
        if !self.domain.is_empty() || !self.path.is_empty() {
            self.edit_field(response, &SET_COOKIE, |value| self.cookie(value, exchange))?;
        }
        Ok(())
    }

    /// Each value of the field that `edit` has another for.
    fn edit_field(
        &self,
        response: &mut ResponseHeader,
        name: &HeaderName,
        edit: impl Fn(&str) -> Result<Option<String>, Reason>,
    ) -> Result<(), Reason> {
        let mut edited = Vec::new();
        for value in response.headers.get_all(name) {
            // What is no text is nobody's place.
            let made = std::str::from_utf8(value.as_bytes()).ok().map(&edit).transpose()?.flatten();
            edited.push(made.map(HeaderValue::try_from).transpose().map_err(|_| Reason::UnwritableField)?);
        }
        if edited.iter().all(Option::is_none) {
            return Ok(());
        }
        let values: Vec<HeaderValue> = response.headers.get_all(name).iter().cloned().collect();
        response.remove_header(name);
        for (value, made) in values.into_iter().zip(edited) {
            response.append_header(name.clone(), made.unwrap_or(value)).map_err(|_| Reason::Internal)?;
        }
        Ok(())
    }

    fn location(&self, value: &str, exchange: &Exchange<'_>) -> Result<Option<String>, Reason> {
        first(&self.location, value, Reach::Beginning, exchange, Template::fill_url)
    }

    /// `5; url=http://app:8080/next`
    fn refresh(&self, value: &str, exchange: &Exchange<'_>) -> Result<Option<String>, Reason> {
        let Some(at) = value.to_ascii_lowercase().find("url=") else { return Ok(None) };
        let (before, url) = value.split_at(at + "url=".len());
        Ok(self.location(url, exchange)?.map(|made| format!("{before}{made}")))
    }

    fn cookie(&self, value: &str, exchange: &Exchange<'_>) -> Result<Option<String>, Reason> {
        let mut parts = value.split(';');
        let mut made = parts.next().unwrap_or_default().to_owned();
        let mut is_edited = false;
        for part in parts {
            let (name, attribute) = part.split_once('=').unwrap_or((part, ""));
            let attribute = attribute.trim();
            let edited = match name.trim() {
                name if name.eq_ignore_ascii_case("domain") => {
                    first(&self.domain, attribute, Reach::Whole, exchange, as_attribute)?
                }
                name if name.eq_ignore_ascii_case("path") => {
                    first(&self.path, attribute, Reach::Beginning, exchange, as_attribute)?
                }
                _ => None,
            };
            match edited {
                None => {
                    made.push(';');
                    made.push_str(part);
                }
                Some(edited) => {
                    is_edited = true;
                    if !edited.is_empty() {
                        made.push_str(&format!(";{name}={edited}"));
                    }
                }
            }
        }
        Ok(is_edited.then_some(made))
    }
}

/// What the first of them makes of it that is for it.
fn first(
    swaps: &[Swap],
    value: &str,
    reach: Reach,
    exchange: &Exchange<'_>,
    fill: impl Fn(&Template, &Exchange<'_>) -> Result<String, Reason> + Copy,
) -> Result<Option<String>, Reason> {
    for swap in swaps {
        if let Some(made) = swap.apply(value, reach, exchange, fill)? {
            return Ok(Some(made));
        }
    }
    Ok(None)
}

/// Nothing that is filled in ends an attribute.
fn as_attribute(template: &Template, exchange: &Exchange<'_>) -> Result<String, Reason> {
    let filled = template.fill(exchange);
    match filled.contains([';', ',', ' ']) {
        true => Err(Reason::UnwritableField),
        false => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn build(location: &str, cookies: &str) -> Result<Rewritten, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let location = serde_yaml::from_str(location).unwrap();
        let cookies = Some(serde_yaml::from_str(cookies).unwrap()).filter(|_| !cookies.is_empty());
        let rewritten = Rewritten::build(location, cookies, &Path::root(), &mut invalid);
        if invalid.is_empty() { Ok(rewritten) } else { Err(invalid) }
    }

    /// The values of a field, once `rewritten` has seen them.
    fn edited(
        rewritten: &Rewritten,
        name: &'static str,
        values: &[&str],
        host: &str,
    ) -> Result<Vec<String>, Reason> {
        let mut request = RequestHeader::build("GET", b"/app/x", None).unwrap();
        let mut facts = Facts {
            scheme: "https",
            authority: Some(host.parse().unwrap()),
            target: "/app/x".parse().unwrap(),
            ..Facts::default()
        };
        let mut response = ResponseHeader::build(302, None).unwrap();
        for value in values {
            response.append_header(name, *value).unwrap();
        }
        rewritten.edit(&mut response, &Exchange::new(&mut request, &mut facts))?;
        let texts = response.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
        Ok(texts.collect())
    }

    #[test]
    fn a_redirect_leads_where_clients_can_follow() {
        let swaps = r#"[{from: "http://app:8080/", to: "{scheme}://{host}/app/"}, {from: /, to: /app/},
            {pattern: "^http://([a-z]+)\\.internal(?::\\d+)?(/.*)$", to: "https://$1.example.com$2"}]"#;
        let rewritten = build(swaps, "").unwrap();
        for (value, expected) in [
            ("http://app:8080/login?a=b", "https://a.example/app/login?a=b"),
            ("/login", "/app/login"),
            ("http://shop.internal:81/x", "https://shop.example.com/x"),
            ("https://elsewhere.example/", "https://elsewhere.example/"),
            ("login", "login"),
        ] {
            assert_eq!(edited(&rewritten, "location", &[value], "a.example").unwrap(), [expected], "{value}");
        }
        let refresh = edited(&rewritten, "refresh", &["5; URL=/next"], "a.example").unwrap();
        assert_eq!(refresh, ["5; URL=/app/next"]);
        assert_eq!(edited(&rewritten, "refresh", &["5"], "a.example").unwrap(), ["5"]);
    }

    #[test]
    fn a_group_is_what_the_upstream_said_and_never_what_a_client_sent() {
        let rewritten = build(r#"[{pattern: "^http://app(/.*)$", to: "{path}$1$$"}]"#, "").unwrap();
        assert_eq!(edited(&rewritten, "location", &["http://app/$1"], "a").unwrap(), ["/app/x/$1$"]);
    }

    #[test]
    fn cookies_are_for_the_domain_and_path_that_clients_know() {
        let cookies = r#"{domain: [{from: app.internal, to: "{host}"}, {pattern: "^(.+)\\.internal$", to: "$1.example.com"}, {from: gone.example, to: ""}],
            path: [{from: /, to: /app/}]}"#;
        let rewritten = build("[]", cookies).unwrap();
        for (value, expected) in [
            ("a=b; Domain=.app.internal; Path=/; Secure", "a=b; Domain=a.example; Path=/app/; Secure"),
            ("a=b;domain=APP.INTERNAL", "a=b;domain=a.example"),
            ("a=b; Domain=shop.internal", "a=b; Domain=shop.example.com"),
            ("a=b; Domain=gone.example; HttpOnly", "a=b; HttpOnly"),
            ("a=b; path=/x; Domain=other.example", "a=b; path=/app/x; Domain=other.example"),
            ("domain=app.internal", "domain=app.internal"),
            ("a=b; Max-Age=5", "a=b; Max-Age=5"),
        ] {
            assert_eq!(
                edited(&rewritten, "set-cookie", &[value], "a.example").unwrap(),
                [expected],
                "{value}"
            );
        }
        let both = edited(&rewritten, "set-cookie", &["a=b; Max-Age=5", "c=d; Path=/"], "a.example").unwrap();
        assert_eq!(both, ["a=b; Max-Age=5", "c=d; Path=/app/"]);
    }

    #[test]
    fn what_a_client_sends_ends_no_attribute() {
        let rewritten = build("[]", r#"{domain: [{from: app, to: "{host}"}]}"#).unwrap();
        let refused = edited(&rewritten, "set-cookie", &["a=b; Domain=app"], "a;Path=/x");
        assert_eq!(refused, Err(Reason::UnwritableField));
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for (location, cookies, at) in [
            ("[{to: x}]", "", "location[0]"),
            ("[{from: a, pattern: b, to: x}]", "", "location[0]"),
            ("[{from: '', to: x}]", "", "location[0].from"),
            ("[{pattern: '(', to: x}]", "", "location[0].pattern"),
            ("[{pattern: 'a', to: $1}]", "", "location[0].to"),
            ("[{pattern: 'a', to: 'a$'}]", "", "location[0].to"),
            ("[{from: a, to: '{nonsense}'}]", "", "location[0].to"),
            ("[]", "{}", "cookies"),
            ("[]", "{path: [{from: a, pattern: b, to: x}]}", "cookies.path[0]"),
        ] {
            let invalid = build(location, cookies).err().unwrap();
            let found: Vec<_> = invalid.iter().map(|invalid| invalid.path.to_string()).collect();
            assert_eq!(found, [at], "{location} {cookies}");
        }
    }
}
