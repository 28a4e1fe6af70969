//! Fields that a filter takes off, in every spelling in which an upstream would read them as the same.

use http::HeaderName;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::http::spellings;

pub(crate) fn take_off(request: &mut RequestHeader, name: &HeaderName) {
    spellings(&request.headers, name).iter().for_each(|spelled| drop(request.remove_header(spelled)));
}

/// All but `name` itself: what a filter has verified is then what the upstream reads.
pub(crate) fn take_off_others(request: &mut RequestHeader, name: &HeaderName) {
    let others = spellings(&request.headers, name).into_iter().filter(|spelled| spelled != name);
    others.for_each(|spelled| drop(request.remove_header(&spelled)));
}

pub(crate) fn take_off_response(response: &mut ResponseHeader, name: &HeaderName) {
    spellings(&response.headers, name).iter().for_each(|spelled| drop(response.remove_header(spelled)));
}
