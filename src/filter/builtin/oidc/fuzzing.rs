//! What any cookies and any answers must do; see `crate::fuzzing`.

use http::HeaderValue;
use pingora_http::RequestHeader;

use super::{
    cookies::{Cookies, Presented},
    login::{field, local},
    session::Session,
};

/// The first line stands in `Cookie`, the second is a query, the rest a session.
pub(crate) fn oidc(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let [cookie, query, session] = [(); 3].map(|()| parts.next().unwrap_or_default());
    if let Ok(value) = HeaderValue::from_bytes(cookie) {
        read(value);
    }
    if let Ok(query) = std::str::from_utf8(query) {
        for name in ["code", "state", "logout_token"] {
            let found = field(query, name).ok().flatten();
            assert!(found.is_none_or(|found| found.len() <= query.len()));
        }
        let local = local(query);
        assert!(local.starts_with('/') && !local[1..].starts_with(['/', '\\']), "{local:?}");
        assert!(local == "/" || local == query);
    }
    if let Some(read) = Session::decode(session) {
        assert_eq!(read.encode(), session, "a session has one form");
        let _ = read.claims();
    }
}

fn read(value: HeaderValue) {
    let cookies = Cookies::new("session").expect("a name");
    let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
    let length = value.len();
    request.append_header("cookie", value).expect("a field");
    if let Presented::Whole(sealed) = cookies.find_session(&request, false) {
        assert!(sealed.len() <= length);
        let fields = cookies.set_session(&sealed, &request, false, 60);
        assert!(
            fields.is_none_or(|fields| fields.len() <= 5 && fields.iter().all(|field| field.len() <= 4_096))
        );
    }
    let login = cookies.find_login(&request, true);
    assert!(login.is_none_or(|login| login.len() <= length));
    cookies.take_off(&mut request);
    assert_eq!(cookies.find_session(&request, false), Presented::Nothing, "the upstream sees none of it");
    assert_eq!(cookies.find_session(&request, true), Presented::Nothing);
    assert_eq!(cookies.find_login(&request, false), None);
}
