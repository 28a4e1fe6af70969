//! What any bytes must do to the reader of an answer of gRPC; see `crate::fuzzing`.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Uri, header::HOST};

use super::{
    decision::{Decision, Edit},
    grpc::{Grpc, Names},
};
use crate::filter::{builtin::headers::header_name, shared::proven::ProvenHeader};

/// A `CheckResponse`, as a service that is trusted with all fields says it, and as one that is trusted with one.
pub(crate) fn check_response(bytes: &[u8]) {
    let framed = [&[0][..], &u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes(), bytes].concat();
    let answer = || {
        let answer = http::Response::builder().header("grpc-status", "0").body(Bytes::from(framed.clone()));
        answer.expect("a status and a field")
    };
    let of_all = service(|| Names::All, Names::All).judge(&answer(), None);
    let only = HeaderName::from_static("x-user");
    let proven = ProvenHeader::parse("x-user").expect("a name");
    let of_one =
        service(|| Names::Listed(vec![only.clone()]), Names::Listed(vec![proven])).judge(&answer(), None);
    match (of_all, of_one) {
        (Ok(Decision::Allowed(all)), Ok(Decision::Allowed(one))) => {
            let edits = || all.for_upstream.iter().chain(&all.for_client);
            let is_editable = |edit: &Edit| edit.name != HOST && header_name(edit.name.as_str()).is_ok();
            assert!(edits().all(is_editable), "it edits what belongs to the connection");
            assert!(one.proven.iter().all(|(header, _)| *header.name() == only));
            assert!(one.for_client.iter().all(|edit| edit.name == only));
            assert!(all.for_upstream.len() + all.for_client.len() <= bytes.len());
        }
        (Ok(Decision::Refused(all)), Ok(Decision::Refused(one))) => {
            assert!((200..600).contains(&all.status.as_u16()) && one.status == all.status);
            assert!(all.reason.is_some() && all.body.len() <= bytes.len());
            let own = |name: &HeaderName| *name == only || *name == http::header::CONTENT_TYPE;
            assert!(one.headers.iter().all(|(name, _)| own(name)));
        }
        (Ok(Decision::Forbidden), Ok(Decision::Forbidden)) => {}
        (Err(all), Err(one)) => assert_eq!(all, one),
        _ => panic!("who is trusted with more decides otherwise"),
    }
}

fn service(names: impl Fn() -> Names<HeaderName>, proven: Names<ProvenHeader>) -> Grpc {
    Grpc {
        url: Uri::default(),
        timeout: Duration::from_secs(1),
        context_extensions: BTreeMap::new(),
        body_as_bytes: false,
        request_headers: names(),
        response_headers: proven,
        client_headers: names(),
        client_headers_allowed: names(),
    }
}
