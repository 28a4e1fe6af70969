use pingora_http::RequestHeader;

use super::*;
use crate::{
    config::Path,
    filter::{Facts, Invalid, Live, Options},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn build(more: &str) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
    let options =
        format!("{{issuer: 'https://id.test', client_id: shop, session: {{secret: {SECRET}}}, {more}}}");
    serde_yaml::from_str::<Oidc>(&options).unwrap().build(&Path::root(), &Live::offline())
}

#[test]
fn options_that_make_no_sense_are_refused_where_they_stand() {
    for (more, path, message) in [
        ("client_secret: a, timeout: 0s", "timeout", "makes no sense"),
        ("clock_skew: 6m", "clock_skew", "set the clocks"),
        ("max_requests: 0", "max_requests", "at least one"),
        ("redirect_path: /", "redirect_path", "not a path"),
        ("redirect_path: '/a?b'", "redirect_path", "not a path"),
        ("logout_path: back", "logout_path", "not a path"),
        ("logout_path: /bye, after_logout: /bye", "after_logout", "another one"),
        ("backchannel_logout_path: /oidc/callback", "backchannel_logout_path", "this path already"),
        ("after_logout: 'https://evil.test'", "after_logout", "never sent to another host"),
        ("external_url: 'https://app.test/a'", "external_url", "not a scheme and a host"),
        ("external_url: 'https://u@app.test'", "external_url", "not a scheme and a host"),
        ("forward_claims: {sub: x-a, email: X-A}", "forward_claims.sub", "another claim"),
        ("forward_token: true, forward_claims: {sub: authorization}", "forward_claims.sub", "access token"),
        ("ca: /nonexistent.pem", "ca", "cannot be read"),
    ] {
        let invalid = build(more).err().unwrap();
        let [only] = invalid.as_slice() else { panic!("{more}: {invalid:?}") };
        assert_eq!(only.path.to_string(), path, "{more}");
        assert!(only.message.contains(message), "{more}: {}", only.message);
    }
    assert!(build("client_secret: a").is_ok());
}

#[test]
fn no_client_says_of_itself_what_only_the_provider_may() {
    let filter = build("forward_claims: {sub: x-user}, forward_token: true").unwrap();
    let mut request = RequestHeader::build("GET", b"/", None).unwrap();
    for (name, value) in [("x-user", "a"), ("x_user", "b"), ("authorization", "Bearer c"), ("x-other", "d")] {
        request.append_header(name, value).unwrap();
    }
    let mut facts = Facts::default();
    let answered = filter.on_request_at_once(&mut Exchange::new(&mut request, &mut facts));
    let Ok(Some(Flow::Reply(response))) = answered else { panic!("{answered:?}") };
    assert_eq!(response.reason, Some(Reason::Unauthenticated));
    assert_eq!(request.headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-other"]);
}
