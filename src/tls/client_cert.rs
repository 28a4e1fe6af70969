//! `X-Forwarded-Client-Cert`, as Envoy writes it: `By=..;Hash=..;Subject="..";URI=..;DNS=..`.

use http::HeaderValue;
use openssl::x509::{GeneralNameRef, X509Ref};

use crate::identity::Caller;

/// What an upstream is told of `caller`. `own` is the certificate we have shown it.
pub(crate) fn client_cert(caller: &Caller, own: Option<&X509Ref>) -> Option<HeaderValue> {
    let mut text = String::new();
    let names = own.and_then(X509Ref::subject_alt_names);
    if let Some(by) = names.iter().flatten().find_map(GeneralNameRef::uri) {
        add(&mut text, "By", by);
    }
    add(&mut text, "Hash", &caller.hash);
    // As RFC 2253 writes it, quotes and backslashes in it are escaped already.
    text.push_str(";Subject=\"");
    text.push_str(&caller.subject);
    text.push('"');
    caller.uris.iter().for_each(|uri| add(&mut text, "URI", uri));
    caller.dns.iter().for_each(|name| add(&mut text, "DNS", name));
    HeaderValue::try_from(text).ok()
}

/// A value that could be taken for more than one is quoted; one that is no printable ASCII has no place here.
fn add(text: &mut String, key: &str, value: &str) {
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return;
    }
    if !text.is_empty() {
        text.push(';');
    }
    text.push_str(key);
    text.push('=');
    if !value.contains([',', ';', '=', '"', '\\', ' ']) {
        return text.push_str(value);
    }
    text.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_pass_for_another_element() {
        let caller = Caller {
            id: None,
            until: std::time::SystemTime::UNIX_EPOCH,
            subject: r#"CN=a\",O=b"#.into(),
            hash: "00ff".into(),
            uris: vec!["spiffe://mesh.local/a".into(), "x:,By=evil;URI=\"spiffe://mesh.local/b".into()],
            dns: vec!["a.example".into(), "b.example\r\nx: y".into()],
        };
        let header = client_cert(&caller, None).unwrap();
        assert_eq!(
            header.to_str().unwrap(),
            "Hash=00ff;Subject=\"CN=a\\\",O=b\";URI=spiffe://mesh.local/a;\
             URI=\"x:,By=evil;URI=\\\"spiffe://mesh.local/b\";DNS=a.example"
        );
    }
}
