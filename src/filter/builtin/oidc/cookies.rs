//! The cookies of a login: the session, in as many as it takes, and the secret that binds logins under way to this browser.
//!
//! Over TLS their names begin with `__Host-`, so no other host and no plain connection can set them (RFC 6265bis, section
//! 4.1.3.2). The upstream sees none of them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, header::COOKIE};
use pingora_http::RequestHeader;

/// So much of a value stands in one cookie: browsers take 4,096 bytes with its name and attributes.
const CHUNK: usize = 3_800;
/// A session takes so many cookies at most.
pub(super) const MOST_CHUNKS: usize = 5;
const PREFIX: &str = "__Host-";

/// What the session's cookies are called, but for the prefix.
#[derive(Clone, Debug)]
pub(super) struct Cookies {
    name: String,
}

/// What a request has of a session.
#[derive(Debug, PartialEq)]
pub(super) enum Presented {
    Nothing,
    /// A part is missing, or it is not written as we write it.
    Cut,
    Whole(Vec<u8>),
}

impl Cookies {
    /// # Errors
    ///
    /// It cannot be a cookie's name.
    pub(super) fn new(name: &str) -> Result<Cookies, &'static str> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_token) {
            return Err("a cookie's name is letters, digits, `-` and `_`, 64 at most");
        }
        if name.starts_with("__") {
            return Err("the prefix `__Host-` is put in front by itself, over TLS (leave it out)");
        }
        Ok(Cookies { name: name.to_owned() })
    }

    /// Of the cookie that holds the session's first part.
    pub(super) fn session(&self, secure: bool) -> String {
        format!("{}{}", if secure { PREFIX } else { "" }, self.name)
    }

    fn part(&self, secure: bool, index: usize) -> String {
        match index {
            0 => self.session(secure),
            _ => format!("{}.{index}", self.session(secure)),
        }
    }

    fn login(&self, secure: bool) -> String {
        format!("{}-login", self.session(secure))
    }

    pub(super) fn find_session(&self, request: &RequestHeader, secure: bool) -> Presented {
        let Some(first) = value(request, &self.session(secure)) else { return Presented::Nothing };
        // How many there are stands in the first.
        let Some((count, first)) = first.split_once('.') else { return Presented::Cut };
        let Some(count) = count.parse().ok().filter(|count| (1..=MOST_CHUNKS).contains(count)) else {
            return Presented::Cut;
        };
        let mut text = first.to_owned();
        for index in 1..count {
            match value(request, &self.part(secure, index)) {
                Some(part) => text.push_str(part),
                None => return Presented::Cut,
            }
        }
        URL_SAFE_NO_PAD.decode(text).map_or(Presented::Cut, Presented::Whole)
    }

    pub(super) fn find_login(&self, request: &RequestHeader, secure: bool) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(value(request, &self.login(secure))?).ok()
    }

    /// Fields that set the session, and take off what an earlier, longer one has left in `request`. `None` where it is too large.
    pub(super) fn set_session(
        &self,
        sealed: &[u8],
        request: &RequestHeader,
        secure: bool,
        lifetime: u64,
    ) -> Option<Vec<HeaderValue>> {
        let text = URL_SAFE_NO_PAD.encode(sealed);
        let parts: Vec<&str> =
            (0..text.len()).step_by(CHUNK).map(|at| &text[at..text.len().min(at + CHUNK)]).collect();
        if parts.len() > MOST_CHUNKS {
            return None;
        }
        let mut fields = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let count = if index == 0 { format!("{}.", parts.len()) } else { String::new() };
            let name = self.part(secure, index);
            fields.extend(set_cookie(&name, &format!("{count}{part}"), secure, Some(lifetime)));
        }
        fields.extend(self.clear(request, secure, parts.len()));
        Some(fields)
    }

    /// Fields that take off what `request` has of a session.
    pub(super) fn clear_session(&self, request: &RequestHeader, secure: bool) -> Vec<HeaderValue> {
        self.clear(request, secure, 0)
    }

    fn clear(&self, request: &RequestHeader, secure: bool, from: usize) -> Vec<HeaderValue> {
        let names = (from..MOST_CHUNKS).map(|index| self.part(secure, index));
        let there = names.filter(|name| value(request, name).is_some());
        there.filter_map(|name| set_cookie(&name, "", secure, Some(0))).collect()
    }

    pub(super) fn set_login(&self, secret: &[u8], secure: bool, lifetime: u64) -> Option<HeaderValue> {
        set_cookie(&self.login(secure), &URL_SAFE_NO_PAD.encode(secret), secure, Some(lifetime))
    }

    /// The upstream has no use for them, and what it does not see it cannot lose.
    pub(super) fn take_off(&self, request: &mut RequestHeader) {
        if !request.headers.contains_key(COOKIE) {
            return;
        }
        let fields: Vec<HeaderValue> = request.headers.get_all(COOKIE).iter().cloned().collect();
        if !fields.iter().any(|field| pairs(field).any(|cookie| self.is_ours(cookie))) {
            return;
        }
        request.remove_header(&COOKIE);
        for field in fields {
            let kept: Vec<&[u8]> = pairs(&field).filter(|cookie| !self.is_ours(cookie)).collect();
            let kept = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|kept| !kept.is_empty());
            if let Some(kept) = kept {
                // There were as many before.
                let _ = request.append_header(COOKIE, kept);
            }
        }
    }

    fn is_ours(&self, cookie: &[u8]) -> bool {
        let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        let name = name.strip_prefix(PREFIX.as_bytes()).unwrap_or(name);
        match name.strip_prefix(self.name.as_bytes()) {
            Some(b"" | b"-login") => true,
            Some([b'.', index @ ..]) => !index.is_empty() && index.iter().all(u8::is_ascii_digit),
            _ => false,
        }
    }
}

fn pairs(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    field.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|cookie| !cookie.is_empty())
}

/// The first of that name.
fn value<'r>(request: &'r RequestHeader, name: &str) -> Option<&'r str> {
    let fields = request.headers.get_all(COOKIE).iter();
    let mut named = fields.flat_map(pairs).filter_map(|cookie| {
        let at = memchr::memchr(b'=', cookie)?;
        (cookie[..at].trim_ascii() == name.as_bytes()).then(|| cookie[at + 1..].trim_ascii())
    });
    std::str::from_utf8(named.next()?).ok()
}

/// `None` never comes: all parts are ASCII.
fn set_cookie(name: &str, value: &str, secure: bool, max_age: Option<u64>) -> Option<HeaderValue> {
    let age = max_age.map(|age| format!("; Max-Age={age}")).unwrap_or_default();
    let secure = if secure { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{name}={value}; Path=/{age}; HttpOnly; SameSite=Lax{secure}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookies: &[&str]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for cookie in cookies {
            request.append_header("cookie", *cookie).unwrap();
        }
        request
    }

    /// As a browser sends back what was set.
    fn sent_back(fields: &[HeaderValue]) -> Vec<String> {
        let pair = |field: &HeaderValue| field.to_str().unwrap().split(';').next().unwrap().to_owned();
        fields.iter().map(pair).collect()
    }

    #[test]
    fn a_session_comes_back_from_as_many_cookies_as_it_takes() {
        let cookies = Cookies::new("session").unwrap();
        for (length, count) in [(0, 0), (10, 1), (2_850, 1), (2_851, 2), (14_000, 5)] {
            let sealed = vec![7; length];
            let fields = cookies.set_session(&sealed, &request(&[]), true, 60).unwrap();
            assert_eq!(fields.len(), count, "{length} bytes");
            let largest = fields.iter().map(|field| field.len()).max().unwrap_or_default();
            assert!(largest <= 4_096, "{largest}");
            let sent = sent_back(&fields);
            let back = request(&[&sent.join("; ")]);
            let expected = if count == 0 { Presented::Nothing } else { Presented::Whole(sealed.clone()) };
            assert_eq!(cookies.find_session(&back, true), expected);
            assert_eq!(cookies.find_session(&back, false), Presented::Nothing, "names differ over TLS");
            for missing in 1..count {
                let parts: Vec<&str> = sent
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| *index != missing)
                    .map(|(_, part)| part.as_str())
                    .collect();
                assert_eq!(cookies.find_session(&request(&parts), true), Presented::Cut);
            }
        }
        assert!(cookies.set_session(&vec![7; 14_300], &request(&[]), true, 60).is_none(), "it has a bound");
    }

    #[test]
    fn cookies_are_of_this_host_alone_and_no_scripts() {
        let cookies = Cookies::new("session").unwrap();
        let set = |secure| cookies.set_session(b"x", &request(&[]), secure, 60).unwrap().remove(0);
        assert_eq!(set(true), "__Host-session=1.eA; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(set(false), "session=1.eA; Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn a_shorter_session_takes_off_what_the_longer_has_left() {
        let cookies = Cookies::new("session").unwrap();
        let before = request(&["session=3.a; session.1=b; session.2=c"]);
        let fields = sent_back(&cookies.set_session(b"x", &before, false, 60).unwrap());
        assert_eq!(fields, ["session=1.eA", "session.1=", "session.2="]);
        assert_eq!(
            sent_back(&cookies.clear_session(&before, false)),
            ["session=", "session.1=", "session.2="]
        );
    }

    #[test]
    fn what_is_not_written_as_we_write_it_is_no_session() {
        let cookies = Cookies::new("session").unwrap();
        for cookie in [
            "session=",
            "session=eA",
            "session=0.eA",
            "session=6.eA",
            "session=-1.eA",
            "session=1.e A",
            "session=1.é",
            "session=99999999999999999999.e",
        ] {
            let found = cookies.find_session(&request(&[cookie]), false);
            assert_eq!(found, Presented::Cut, "{cookie}");
        }
    }

    #[test]
    fn the_upstream_sees_the_others_only() {
        let cookies = Cookies::new("session").unwrap();
        let mut ours = request(&[
            "a=1; session=2.x;session.1=y; sessions=2; session-login=z",
            "__Host-session=1.x",
            "session.x=3; b",
        ]);
        cookies.take_off(&mut ours);
        let left: Vec<_> =
            ours.headers.get_all("cookie").iter().map(|field| field.to_str().unwrap()).collect();
        assert_eq!(left, ["a=1; sessions=2", "session.x=3; b"]);
    }
}
