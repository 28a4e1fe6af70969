//! The control plane's API as gRPC: services as tonic generates them, called by our own accept loop, on the port of the REST API.

mod authority;
mod configs;
mod health;
mod peers;
mod pieces;
mod registry;
mod service;

use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

pub(crate) use self::{
    authority::authority,
    configs::configs,
    health::health,
    peers::peers,
    registry::registry,
    service::{Entry, Grpc},
};
use super::{
    access::Caller,
    refused::{Reason, Refused},
};

type Answer<T> = Result<Response<T>, Status>;

/// Who calls, and what for. `Grpc` has put the caller there.
fn open<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| Status::internal("nobody was asked who calls"))?;
    Ok((caller, request.into_inner()))
}

/// Why a call is refused, as gRPC says it. The word for it stands in the trailers.
pub(crate) fn status(refused: &Refused) -> Status {
    let code = match refused.reason {
        Reason::BadRequest | Reason::TooLarge => Code::InvalidArgument,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::NotYours => Code::PermissionDenied,
        Reason::NotRegistered | Reason::NotFound => Code::NotFound,
        Reason::Conflict => Code::AlreadyExists,
        Reason::Stale => Code::Aborted,
        Reason::ConfigRejected => Code::FailedPrecondition,
        Reason::Limit => Code::ResourceExhausted,
        Reason::StoreUnavailable | Reason::Warming => Code::Unavailable,
    };
    let mut status = Status::new(code, words(refused));
    status.metadata_mut().insert("x-tidegate-reason", MetadataValue::from_static(refused.reason.code()));
    status
}

/// What is wrong, as far as trailers hold it.
fn words(refused: &Refused) -> String {
    const MOST: usize = 4096;
    let mut words = refused.why.clone();
    for problem in &refused.problems {
        if words.len() + problem.message.len() > MOST {
            words.push_str("\nand more");
            break;
        }
        words.push('\n');
        words.push_str(&problem.message);
    }
    words
}
