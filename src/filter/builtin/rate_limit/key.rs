//! Who or what is counted: what of a request makes it one of the same.

use std::{borrow::Cow, fmt};

use http::{HeaderName, HeaderValue};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::filter::{Exchange, Template, builtin::jwt::ClaimPath, shared::template::placeholder::cookies};

/// One part, or several that must all be the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key(Vec<Part>);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// An IPv6 client is its network: whoever has one address of it has all.
    ClientIp,
    Route,
    /// The name that a filter has verified.
    User,
    Header(HeaderName),
    Cookie(String),
    /// Of the token that a `jwt` filter before this one verified.
    Claim(ClaimPath),
    /// What an operator has put together.
    Made(Template),
}

impl Default for Key {
    fn default() -> Key {
        Key(vec![Part::ClientIp])
    }
}

impl Key {
    pub(crate) fn is_one_part(&self) -> bool {
        self.0.len() == 1
    }

    /// Hands over the value of each part. What the request lacks is empty, and so is what it has more than once: only
    /// the upstream knows which of them it will believe, and a client must not get a count of its own for each.
    pub(crate) fn values(&self, exchange: &Exchange<'_>, mut take: impl FnMut(&[u8])) {
        for part in &self.0 {
            match part {
                Part::ClientIp => exchange.facts.ipv6_prefix.key(exchange.facts.client, &mut take),
                Part::Route => take(exchange.facts.route.as_deref().unwrap_or_default().as_bytes()),
                Part::User => take(exchange.facts.user.as_deref().unwrap_or_default().as_bytes()),
                Part::Header(name) => {
                    let values = exchange.request.headers.get_all(name).iter().map(HeaderValue::as_bytes);
                    take(only(values));
                }
                Part::Cookie(name) => {
                    take(only(cookies(&exchange.request.headers, name)));
                }
                Part::Made(template) => take(template.fill_key(exchange).as_bytes()),
                Part::Claim(path) => {
                    let claims = exchange.facts.claims.as_deref();
                    match claims.and_then(|claims| path.find(claims)) {
                        Some(serde_json::Value::String(text)) => take(text.as_bytes()),
                        Some(serde_json::Value::Null) | None => take(b""),
                        Some(other) => take(other.to_string().as_bytes()),
                    }
                }
            }
        }
    }
}

fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> &'a [u8] {
    match (values.next(), values.next()) {
        (Some(value), None) => value,
        _ => b"",
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1, "maxProperties" = 1))]
struct Named {
    /// The value of this request header.
    header: Option<String>,
    /// The value of this cookie.
    cookie: Option<String>,
    /// The value of this claim of the token that a `jwt` filter before this one verified.
    claim: Option<String>,
}

const FORMS: &str = "`client_ip`, `route`, `user`, `{header: NAME}`, `{cookie: NAME}`, `{claim: NAME}`, text with placeholders such as `\"{query.tenant}\"`";

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    fn visit_str<E: Error>(self, part: &str) -> Result<Part, E> {
        match part {
            "client_ip" => Ok(Part::ClientIp),
            "route" => Ok(Part::Route),
            "user" => Ok(Part::User),
            _ if part.contains(['{', '}']) => Template::parse(part).map(Part::Made).map_err(E::custom),
            "ip" | "remote_addr" | "source" | "src" | "$binary_remote_addr" | "$remote_addr" | "client" => {
                Err(E::custom(format!("`{part}` is no key (write `client_ip`)")))
            }
            _ => Err(E::custom(format!("`{part}` is no key (expected one of {FORMS})"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part, A::Error> {
        // A cookie's name is a token like a header's, but for its case.
        let token = |name: &str| {
            HeaderName::try_from(name).map_err(|_| A::Error::custom(format!("`{name}` is not a name")))
        };
        match Named::deserialize(MapAccessDeserializer::new(map))? {
            Named { header: Some(name), cookie: None, claim: None } => token(&name).map(Part::Header),
            Named { header: None, cookie: Some(name), claim: None } => {
                token(&name).map(|_| Part::Cookie(name))
            }
            Named { header: None, cookie: None, claim: Some(path) } => {
                ClaimPath::new(&path).map(Part::Claim).ok_or_else(|| A::Error::custom("a claim has a name"))
            }
            _ => Err(A::Error::custom("expected exactly one of `header`, `cookie` and `claim`")),
        }
    }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Part, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORMS} or a list of them")
    }

    fn visit_str<E: Error>(self, part: &str) -> Result<Key, E> {
        PartVisitor.visit_str(part).map(|part| Key(vec![part]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
        PartVisitor.visit_map(map).map(|part| Key(vec![part]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Key, A::Error> {
        let mut key = Vec::new();
        while let Some(part) = parts.next_element()? {
            key.push(part);
        }
        if key.is_empty() {
            return Err(A::Error::custom("an empty list is no key (one count for everybody is `route`)"));
        }
        Ok(Key(key))
    }
}

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "RateLimitKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let named = generator.subschema_for::<Named>();
        let part =
            json_schema!({"anyOf": [{"type": "string", "pattern": "^(client_ip|route|user)$|[{]"}, named]});
        let description = "One of them, or a list: all of them together.";
        json_schema!({"description": description, "anyOf": [part, {"type": "array", "minItems": 1, "items": part}]})
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::Facts;

    fn key(yaml: &str) -> Result<Key, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    fn values(yaml: &str, facts: &Facts, headers: &[(&'static str, &'static str)]) -> Vec<Vec<u8>> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        let mut facts = Facts { client: facts.client, route: facts.route.clone(), ..Facts::default() };
        let exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let mut values = Vec::new();
        key(yaml).unwrap().values(&exchange, |value| values.push(value.to_owned()));
        values
    }

    fn one(yaml: &str, headers: &[(&'static str, &'static str)]) -> String {
        String::from_utf8(values(yaml, &Facts::default(), headers).remove(0)).unwrap()
    }

    #[test]
    fn a_claim_is_its_value_and_without_a_token_it_is_empty() {
        let claims = serde_json::json!({"sub": "u-7", "n": 7, "org": {"id": "o"}, "null": null});
        let facts =
            Facts { claims: claims.as_object().cloned().map(std::sync::Arc::new), ..Facts::default() };
        let one = |claim: &str, facts: &Facts| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            let mut facts = Facts { claims: facts.claims.clone(), ..Facts::default() };
            let exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
            let mut found = Vec::new();
            key(&format!("{{claim: {claim}}}")).unwrap().values(&exchange, |value| found.extend(value));
            String::from_utf8(found).unwrap()
        };
        for (claim, expected) in [("sub", "u-7"), ("n", "7"), ("org.id", "o"), ("none", ""), ("'null'", "")] {
            assert_eq!(one(claim, &facts), expected, "{claim}");
        }
        assert_eq!(one("sub", &Facts::default()), "");
    }

    #[test]
    fn an_ipv6_client_is_its_64_and_a_mapped_one_its_ipv4_address() {
        let client =
            |ip: &str| values("client_ip", &Facts { client: ip.parse().unwrap(), ..Facts::default() }, &[]);
        assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::2"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        let made = |ip: &str| {
            values("'{client_ip} {method}'", &Facts { client: ip.parse().unwrap(), ..Facts::default() }, &[])
        };
        assert_eq!(made("2001:db8:0:1::1"), made("2001:db8:0:1:ffff::2"));
        assert_ne!(made("2001:db8:0:1::1"), made("2001:db8:0:2::1"));
    }

    #[test]
    fn a_missing_or_repeated_header_is_empty() {
        let header = "{header: x-api-key}";
        assert_eq!(one(header, &[("x-api-key", "abc")]), "abc");
        assert_eq!(one(header, &[]), "");
        assert_eq!(one(header, &[("x-api-key", "abc"), ("x-api-key", "def")]), "");
    }

    #[test]
    fn finds_a_cookie_among_others() {
        let cookie = "{cookie: Session}";
        assert_eq!(one(cookie, &[("cookie", "a=b; Session = x=1 ; c=d")]), "x=1");
        assert_eq!(one(cookie, &[("cookie", "a=b"), ("cookie", "Session=2")]), "2");
        assert_eq!(one(cookie, &[("cookie", "session=2; xSession=3; Session")]), "");
        assert_eq!(one(cookie, &[("cookie", "Session=2; Session=3")]), "");
    }

    #[test]
    fn a_user_is_who_a_filter_has_verified() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts { user: Some("shop".into()), ..Facts::default() };
        let exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        key("user").unwrap().values(&exchange, |value| assert_eq!(value, b"shop"));
        assert_eq!(one("user", &[]), "");
    }

    #[test]
    fn a_list_is_all_of_them_in_order() {
        let facts = Facts { route: Some("users".into()), ..Facts::default() };
        let found = values("[route, {header: x}, client_ip]", &facts, &[("x", "1")]);
        assert_eq!(found, [b"users".to_vec(), b"1".to_vec(), vec![0; 4]]);
    }

    #[test]
    fn a_template_is_what_it_says_and_nobody_becomes_many_by_repeating_a_part() {
        let facts = Facts { route: Some("users".into()), ..Facts::default() };
        let one = |headers: &[(&'static str, &'static str)]| {
            let found = values("'{route}/{header.x}/{cookie.s}'", &facts, headers);
            String::from_utf8(found.concat()).unwrap()
        };
        assert_eq!(one(&[("x", "1"), ("cookie", "s=2")]), "users/1/2");
        assert_eq!(one(&[("x", "1"), ("x", "2"), ("cookie", "s=3; s=4")]), "users//");
    }

    #[test]
    fn says_what_it_expected() {
        for (yaml, expected) in [
            ("'{rout}'", "did you mean `{route}`?"),
            ("client", "`client` is no key"),
            ("{header: a, cookie: b}", "exactly one of"),
            ("{header: 'a b'}", "`a b` is not a name"),
            ("{query: a}", "unknown field `query`"),
            ("[]", "an empty list is no key"),
            ("7", "or a list of them"),
        ] {
            let error = key(yaml).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
