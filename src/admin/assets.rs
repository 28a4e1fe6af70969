//! The console's files, which are in this binary.

use http::HeaderMap;

use crate::api::reply::Reply;

/// What stands at `path` below `/ui/`; `None` where nothing does.
pub(super) fn answer(_path: &str, _headers: &HeaderMap) -> Option<Reply> {
    None
}
