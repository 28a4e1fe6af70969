//! What a session is made of, as the browser keeps it for us: all of the login's state is in its cookies, so that any gateway with the
//! same secret goes on with it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::{filter::builtin::jwt::json, identity::Claims};

/// The form of what is sealed; another one does not open.
const VERSION: u8 = 2;

/// Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Session {
    /// When the user logged in.
    pub began: u64,
    /// The same by the provider's clock, by which it says what it ends.
    pub issued: u64,
    /// When the provider's tokens expire; 0 where it has not said.
    pub due: u64,
    /// From when on they are exchanged for others.
    pub renew_from: u64,
    pub id_token: IdToken,
    /// What the provider says of the user beside, an object of JSON; empty where it was not asked.
    pub userinfo: Vec<u8>,
    pub refresh_token: String,
    /// Kept only where the upstream is to get it.
    pub access_token: String,
}

/// The parts of an ID token that was verified, decoded. Its claims are in the payload, so they are kept once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IdToken([Vec<u8>; 3]);

impl IdToken {
    /// `None` for what is no token.
    pub(super) fn parse(token: &str) -> Option<IdToken> {
        let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let parts = [parts.next()??, parts.next()??, parts.next()??];
        Some(IdToken(parts))
    }

    /// As the provider wrote it: there is one way to write bytes in base64url without padding.
    pub(super) fn text(&self) -> String {
        self.0.each_ref().map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
    }
}

impl Session {
    /// Those of the ID token, and beside them what the provider says more.
    pub(super) fn claims(&self) -> Claims {
        let [_, payload, _] = &self.id_token.0;
        let mut claims = json::object(payload).unwrap_or_default();
        for (name, value) in json::object(&self.userinfo).unwrap_or_default() {
            claims.entry(name).or_insert(value);
        }
        claims
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = vec![VERSION];
        text.extend(self.began.to_be_bytes());
        text.extend(self.issued.to_be_bytes());
        text.extend(self.due.to_be_bytes());
        text.extend(self.renew_from.to_be_bytes());
        let [header, payload, signature] = &self.id_token.0;
        let tokens = [self.refresh_token.as_bytes(), self.access_token.as_bytes()];
        for part in [header, payload, signature, &self.userinfo].map(Vec::as_slice).into_iter().chain(tokens)
        {
            // All of it together has to fit into cookies.
            text.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            text.extend(part);
        }
        text
    }

    /// `None` for what `encode` has not written, or in another version.
    pub(super) fn decode(text: &[u8]) -> Option<Session> {
        let (version, mut rest) = text.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (began, issued) = (number(&mut rest)?, number(&mut rest)?);
        let (due, renew_from) = (number(&mut rest)?, number(&mut rest)?);
        let id_token = IdToken([part(&mut rest)?, part(&mut rest)?, part(&mut rest)?]);
        let userinfo = part(&mut rest)?;
        let mut text = || String::from_utf8(part(&mut rest)?).ok();
        let (refresh_token, access_token) = (text()?, text()?);
        rest.is_empty().then_some(Session {
            began,
            issued,
            due,
            renew_from,
            id_token,
            userinfo,
            refresh_token,
            access_token,
        })
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (number, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u64::from_be_bytes(*number))
}

fn part(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, behind) = rest.split_first_chunk()?;
    let (part, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = behind;
    Some(part.to_vec())
}

/// A claim that is text.
pub(super) fn text<'c>(claims: &'c Claims, name: &str) -> Option<&'c str> {
    claims.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let token = ["{}", r#"{"sub":"alice","groups":["a"]}"#, "sig"]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        Session {
            began: 7,
            issued: 6,
            due: 9,
            renew_from: 8,
            id_token: IdToken::parse(&token).unwrap(),
            userinfo: br#"{"sub":"mallory","email":"a@b.c"}"#.to_vec(),
            refresh_token: "r".to_owned(),
            access_token: String::new(),
        }
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_that_is_shorter_or_longer() {
        let text = session().encode();
        assert_eq!(Session::decode(&text), Some(session()));
        assert_eq!((0..text.len()).find_map(|length| Session::decode(&text[..length])), None);
        assert_eq!(Session::decode(&[&text[..], b"x"].concat()), None);
        assert_eq!(Session::decode(&[&[VERSION + 1], &text[1..]].concat()), None);
    }

    #[test]
    fn what_the_id_token_says_counts_before_anything_else() {
        let claims = session().claims();
        assert_eq!((text(&claims, "sub"), text(&claims, "email")), (Some("alice"), Some("a@b.c")));
        assert_eq!(claims["groups"][0], "a");
    }

    #[test]
    fn an_id_token_is_given_back_as_it_came() {
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1In0.AAEC_-8";
        assert_eq!(IdToken::parse(token).unwrap().text(), token);
        for wrong in ["", "a", "a.b", "e30.e30", "e30=.e30.e30"] {
            assert_eq!(IdToken::parse(wrong), None, "{wrong}");
        }
    }
}
