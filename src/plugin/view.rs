//! What a plugin may see and change of a request. Who has the request implements it, and lends it to an instance for as long
//! as a callback runs, or for as long as the request is paused.

use std::{any::Any, borrow::Cow};

use bytes::Bytes;

/// One request, lent.
pub(crate) trait View: Any + Send {
    /// All fields of a map, pseudo fields first.
    ///
    /// # Errors
    ///
    /// There is no such map now.
    fn each(&self, map: Map, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Status>;

    /// The first value of a field.
    ///
    /// # Errors
    ///
    /// There is no such map now.
    fn first(&self, map: Map, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Status>;

    /// # Errors
    ///
    /// The map cannot be changed now, or not so.
    fn change(&mut self, map: Map, change: Change<'_>) -> Result<(), Status>;

    /// The part of a body that is being looked at; `None` where it is not the turn of that body.
    fn body(&mut self, side: Side) -> Option<&mut Bytes>;

    /// A property whose path has these segments.
    fn property(&self, path: &[&[u8]]) -> Option<Vec<u8>>;

    /// # Errors
    ///
    /// There are too many.
    fn set_property(&mut self, path: Vec<u8>, value: Vec<u8>) -> Result<(), Status>;

    /// For the lines that the plugin writes.
    fn request_id(&self) -> Option<&str>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

/// The maps of a request; those of calls are no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Headers(Side),
    Trailers(Side),
}

pub(crate) enum Change<'a> {
    /// The field has this value and no other.
    Set(&'a [u8], &'a [u8]),
    Add(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
    /// The map has these and no others.
    All(&'a [(&'a [u8], &'a [u8])]),
}

/// What a hostcall answers. The numbers are those of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
}
