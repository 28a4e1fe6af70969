//! What a service has decided of a request, in whichever protocol it was asked.

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::filter::{
    Reason, Response,
    shared::{
        proven::ProvenHeader,
        spelling::{take_off, take_off_others, take_off_response},
    },
};

pub(super) enum Decision {
    Allowed(Allowed),
    /// With this answer.
    Refused(Response),
    /// In the gateway's own words.
    Forbidden,
}

/// Why nothing is decided.
#[derive(Debug, PartialEq)]
pub(super) enum Undecided {
    /// The service is away: what `fail` is for.
    Away(String),
    /// It has answered, and that says neither yes nor no. What a client sends can bring that about, so nobody is let in by it.
    Unclear(String),
}

impl From<&str> for Undecided {
    fn from(why: &str) -> Undecided {
        Undecided::Unclear(why.to_owned())
    }
}

impl From<String> for Undecided {
    fn from(why: String) -> Undecided {
        Undecided::Unclear(why)
    }
}

/// What a status of HTTP says that is no decision: that the server, or a proxy before it, cannot do its work, or something else.
pub(super) fn undecided(status: http::StatusCode) -> Undecided {
    let why = format!("it answered {}", status.as_u16());
    match status.as_u16() {
        500 | 502..=504 => Undecided::Away(why),
        _ => Undecided::Unclear(why),
    }
}

#[derive(Default)]
pub(super) struct Allowed {
    /// What listed fields say of the client. Those that are not here say nothing.
    pub proven: Vec<(ProvenHeader, HeaderValue)>,
    /// What becomes of other fields of the request, where the service may edit them.
    pub for_upstream: Vec<Edit>,
    /// What becomes of the response's fields.
    pub for_client: Vec<Edit>,
}

/// What becomes of the field of this name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Edit {
    pub name: HeaderName,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// It is another one beside those that are there.
    Add(HeaderValue),
    SetIfAbsent(HeaderValue),
    Set(HeaderValue),
    SetIfPresent(HeaderValue),
    Remove,
}

impl Decision {
    /// Whether it may be that of another request: what a client is to keep, such as a session's cookie, is of one client, and a
    /// redirect to a login leads back to one page.
    pub(super) fn is_for_all(&self) -> bool {
        match self {
            Decision::Allowed(allowed) => {
                allowed.for_client.iter().all(|edit| edit.name != http::header::SET_COOKIE)
            }
            Decision::Refused(response) => {
                !response.status.is_redirection()
                    && response.headers.iter().all(|(name, _)| name != http::header::SET_COOKIE)
            }
            Decision::Forbidden => true,
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed(_))
    }
}

impl Edit {
    /// It may be done again: on its way a request can lose fields that the client had its `Connection` field nominate.
    ///
    /// # Errors
    ///
    /// The request has too many fields.
    pub(super) fn edit_request(&self, request: &mut RequestHeader) -> Result<(), Reason> {
        let Some(write) = self.write(&request.headers) else {
            if self.change == Change::Remove {
                take_off(request, &self.name);
            }
            return Ok(());
        };
        let written = match write {
            Write::Beside(value) => request.append_header(self.name.clone(), value).map(drop),
            Write::Alone(value) => {
                take_off_others(request, &self.name);
                request.insert_header(self.name.clone(), value)
            }
        };
        written.map_err(|_| Reason::HeaderTooLarge)
    }

    /// # Errors
    ///
    /// The response has too many fields.
    pub(super) fn edit_response(&self, response: &mut ResponseHeader) -> Result<(), Reason> {
        let Some(write) = self.write(&response.headers) else {
            if self.change == Change::Remove {
                take_off_response(response, &self.name);
            }
            return Ok(());
        };
        let written = match write {
            Write::Beside(value) => response.append_header(self.name.clone(), value).map(drop),
            Write::Alone(value) => {
                take_off_response(response, &self.name);
                response.insert_header(self.name.clone(), value)
            }
        };
        written.map_err(|_| Reason::Internal)
    }

    fn write(&self, headers: &HeaderMap) -> Option<Write> {
        let is_there = headers.contains_key(&self.name);
        match &self.change {
            Change::Add(value) => {
                let again = headers.get_all(&self.name).iter().any(|other| other == value);
                (!again).then(|| Write::Beside(value.clone()))
            }
            Change::SetIfAbsent(value) => (!is_there).then(|| Write::Alone(value.clone())),
            Change::Set(value) => Some(Write::Alone(value.clone())),
            Change::SetIfPresent(value) => is_there.then(|| Write::Alone(value.clone())),
            Change::Remove => None,
        }
    }
}

enum Write {
    Beside(HeaderValue),
    Alone(HeaderValue),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(value: &'static str) -> HeaderValue {
        HeaderValue::from_static(value)
    }

    #[test]
    fn edits_mean_the_same_when_they_are_done_again() {
        use Change::*;
        for (change, expected) in [
            (Add(value("b")), &["a", "b"][..]),
            (Add(value("a")), &["a"]),
            (Set(value("b")), &["b"]),
            (SetIfAbsent(value("b")), &["a"]),
            (SetIfPresent(value("b")), &["b"]),
            (Remove, &[]),
        ] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            let mut response = ResponseHeader::build(200, None).unwrap();
            request.insert_header("x-a", "a").unwrap();
            response.insert_header("x-a", "a").unwrap();
            let edit = Edit { name: HeaderName::from_static("x-a"), change };
            for _ in 0..2 {
                edit.edit_request(&mut request).unwrap();
                edit.edit_response(&mut response).unwrap();
                for headers in [&request.headers, &response.headers] {
                    let found: Vec<_> = headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
                    assert_eq!(
                        found,
                        expected.iter().map(|text| text.as_bytes()).collect::<Vec<_>>(),
                        "{edit:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_other_spelling_of_a_field_stays_beside_what_the_service_says() {
        for (change, left) in [(Change::Set(value("alice")), 1), (Change::Remove, 0)] {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("x_user", "root").unwrap();
            request.insert_header("X-User", "root").unwrap();
            Edit { name: HeaderName::from_static("x-user"), change }.edit_request(&mut request).unwrap();
            assert_eq!(request.headers.len(), left);
        }
    }

    #[test]
    fn what_is_meant_for_one_client_is_not_for_all() {
        let cookie = || Edit { name: http::header::SET_COOKIE, change: Change::Add(value("a=1")) };
        assert!(Decision::Allowed(Allowed::default()).is_for_all());
        assert!(
            !Decision::Allowed(Allowed { for_client: vec![cookie()], ..Allowed::default() }).is_for_all()
        );
        for (status, cookie, expected) in [(403, false, true), (401, true, false), (302, false, false)] {
            let mut response = Response::new(http::StatusCode::from_u16(status).unwrap());
            response.headers.extend(cookie.then(|| (http::header::SET_COOKIE, value("a=1"))));
            assert_eq!(Decision::Refused(response).is_for_all(), expected, "{status}");
        }
    }
}
