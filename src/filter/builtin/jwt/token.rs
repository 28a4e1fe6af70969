//! A token as it is sent (RFC 7515, section 7.1), before anything in it is believed.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::filter::builtin::jwt::{algorithm::Algorithm, json, refusal::Refusal};

/// The parts of a token. Its header has been read, and nothing is verified.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// What is signed.
    pub message: &'t [u8],
    payload: &'t str,
    /// In base64url.
    pub signature: &'t str,
}

/// Which `typ` a token may have (RFC 8725, section 3.11).
#[derive(Clone, Debug)]
pub(crate) struct Types {
    /// In lower case, without `application/`.
    allowed: Vec<String>,
    absent: bool,
}

impl Types {
    /// `None` is any that a token for access may have.
    pub(crate) fn new(allowed: Option<&[String]>) -> Types {
        match allowed {
            Some(allowed) => Types { allowed: allowed.iter().map(|typ| plain(typ)).collect(), absent: false },
            None => Types::any_of(&["jwt", "at+jwt"]),
        }
    }

    /// One of these, or none is said.
    pub(crate) fn any_of(allowed: &[&str]) -> Types {
        Types { allowed: allowed.iter().map(|typ| plain(typ)).collect(), absent: true }
    }

    fn allow(&self, header: &Map<String, Value>) -> bool {
        match header.get("typ") {
            None => self.absent,
            Some(Value::String(typ)) => self.allowed.contains(&plain(typ)),
            Some(_) => false,
        }
    }
}

/// RFC 7515, section 4.1.9: a media type, and `application/` may be left out.
fn plain(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ).to_owned()
}

impl<'t> Token<'t> {
    /// # Errors
    ///
    /// It is no token, or one that is not accepted whoever signed it.
    pub(crate) fn parse(text: &'t [u8], types: &Types) -> Result<Token<'t>, Refusal> {
        let text = std::str::from_utf8(text).map_err(|_| Refusal::Malformed)?;
        let (message, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        // A token of five parts is encrypted: its message still has a dot in what would be the payload.
        let (header, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
        let header = decode(header).ok_or(Refusal::Malformed)?;
        let header = json::object(&header).ok_or(Refusal::Malformed)?;
        // Extensions that must be understood: there is none that is (RFC 7515, section 4.1.11).
        if header.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        if !types.allow(&header) {
            return Err(Refusal::Type);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Refusal::Malformed)?;
        // There is no `none` among them.
        let algorithm = Algorithm::from_str(algorithm).map_err(|_| Refusal::Algorithm)?;
        // `jwk`, `jku`, `x5c` and `x5u` would let whoever made the token name the key: they are not looked at.
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Refusal::Malformed),
        };
        if payload.is_empty() || payload.contains('.') || signature.is_empty() {
            return Err(Refusal::Malformed);
        }
        Ok(Token { algorithm, kid, message: message.as_bytes(), payload, signature })
    }

    /// Of a token whose signature is valid.
    ///
    /// # Errors
    ///
    /// The payload is not an object of JSON, or a name stands twice in it.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        let payload = decode(self.payload).ok_or(Refusal::Claims)?;
        json::object(&payload).ok_or(Refusal::Claims)
    }
}

/// Without padding, and without bits that say nothing: one token has one form.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str, rest: &str, types: Option<&[&str]>) -> Result<Algorithm, Refusal> {
        let types: Option<Vec<String>> = types.map(|types| types.iter().map(|&typ| typ.to_owned()).collect());
        let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
        Token::parse(token.as_bytes(), &Types::new(types.as_deref())).map(|token| token.algorithm)
    }

    #[test]
    fn types_are_compared_as_media_types() {
        let ok = Ok(Algorithm::HS256);
        for (header, types, expected) in [
            (r#"{"alg":"HS256"}"#, None, ok),
            (r#"{"alg":"HS256","typ":"jwt"}"#, None, ok),
            (r#"{"alg":"HS256","typ":"application/at+JWT"}"#, None, ok),
            (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, None, Err(Refusal::Type)),
            (r#"{"alg":"HS256","typ":null}"#, None, Err(Refusal::Type)),
            (r#"{"alg":"HS256"}"#, Some(&["at+jwt"][..]), Err(Refusal::Type)),
            (r#"{"alg":"HS256","typ":"JWT"}"#, Some(&["at+jwt"]), Err(Refusal::Type)),
            (r#"{"alg":"HS256","typ":"AT+JWT"}"#, Some(&["application/at+jwt"]), ok),
        ] {
            assert_eq!(parse(header, "e30.AA", types), expected, "{header} {types:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_signed_token() {
        for (header, rest, expected) in [
            (r#"{"alg":"none"}"#, "e30.", Refusal::Algorithm),
            (r#"{"alg":"None"}"#, "e30.AA", Refusal::Algorithm),
            (r#"{"alg":"nOnE"}"#, "e30.AA", Refusal::Algorithm),
            (r#"{"alg":"hs256"}"#, "e30.AA", Refusal::Algorithm),
            (r#"{"alg":"ES256K"}"#, "e30.AA", Refusal::Algorithm),
            (r#"{"alg":["HS256"]}"#, "e30.AA", Refusal::Malformed),
            (r#"{}"#, "e30.AA", Refusal::Malformed),
            (r#"{"alg":"HS256"}"#, "e30.", Refusal::Malformed),
            (r#"{"alg":"HS256"}"#, ".AA", Refusal::Malformed),
            (r#"{"alg":"HS256"}"#, "e30", Refusal::Malformed),
            (r#"{"alg":"HS256","enc":"A128GCM"}"#, "a.b.c.d", Refusal::Malformed),
            (r#"{"alg":"HS256","kid":7}"#, "e30.AA", Refusal::Malformed),
            (r#"{"alg":"HS256","alg":"none"}"#, "e30.AA", Refusal::Malformed),
            (r#"{"alg":"HS256","crit":[]}"#, "e30.AA", Refusal::Critical),
            (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "e30.AA", Refusal::Critical),
            (r#"["HS256"]"#, "e30.AA", Refusal::Malformed),
            ("", "e30.AA", Refusal::Malformed),
        ] {
            assert_eq!(parse(header, rest, None), Err(expected), "{header} {rest}");
        }
        for text in [&b""[..], b".", b"..", b"...", b"a", b"e30=.e30.AA", b"e3 0.e30.AA", b"\xff.e30.AA"] {
            assert_eq!(Token::parse(text, &Types::new(None)).unwrap_err(), Refusal::Malformed);
        }
    }
}
