//! A request as a plugin sees it. It is taken out of the exchange, lent, and put back: what a plugin does while it has it is
//! done to the very request.

use std::{borrow::Cow, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    forwarded::{TOLD, told},
    property,
};
use crate::{
    filter::{Exchange, Facts},
    plugin::{Change, Map, Side, Status, View},
    route::normalise,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Which turn it is, and so what may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    End,
}

impl Phase {
    pub(super) fn is_of_request(self) -> bool {
        matches!(self, Phase::RequestHeaders | Phase::RequestBody | Phase::RequestTrailers)
    }
}

/// Another value of a pseudo field.
enum Pseudo {
    Authority(HeaderValue),
    Path(Uri),
    Method(Method),
    Status(StatusCode),
    /// There is no such field.
    None,
}

pub(super) struct Lent {
    pub phase: Phase,
    pub request: RequestHeader,
    pub response: Option<ResponseHeader>,
    pub facts: Facts,
    pub part: Bytes,
    pub trailers: HeaderMap,
    /// For those that ask for it after their turn.
    pub trailers_of_response: HeaderMap,
    /// The request's head has not gone on yet.
    pub head_is_here: bool,
    /// When the request came as far as here.
    pub began: Instant,
}

impl Lent {
    /// Of a request that begins.
    pub(super) fn nothing_yet() -> Box<Lent> {
        Box::new(Lent {
            phase: Phase::RequestHeaders,
            request: no_request(),
            response: None,
            facts: Facts::default(),
            part: Bytes::new(),
            trailers: HeaderMap::new(),
            trailers_of_response: HeaderMap::new(),
            head_is_here: false,
            began: Instant::now(),
        })
    }

    pub(super) fn of(exchange: &mut Exchange<'_>, phase: Phase) -> Box<Lent> {
        let mut lent = Lent::nothing_yet();
        lent.take(exchange, phase);
        lent
    }

    /// Takes the request out of the exchange. What stands in its place until it is given back is kept for the next turn.
    pub(super) fn take(&mut self, exchange: &mut Exchange<'_>, phase: Phase) {
        self.phase = phase;
        self.head_is_here = phase == Phase::RequestHeaders;
        std::mem::swap(&mut self.request, exchange.request);
        std::mem::swap(&mut self.facts, exchange.facts);
        if let Some(response) = exchange.response.as_deref_mut() {
            self.response = Some(std::mem::replace(response, no_response()));
        }
    }

    /// The head of a response that is not in the exchange stays here, for later turns.
    pub(super) fn give_back(&mut self, exchange: &mut Exchange<'_>) {
        std::mem::swap(&mut self.request, exchange.request);
        std::mem::swap(&mut self.facts, exchange.facts);
        if let Some(place) = exchange.response.as_deref_mut()
            && let Some(response) = self.response.take()
        {
            *place = response;
        }
    }

    /// What stood in the place of the request may have been written to meanwhile.
    pub(super) fn renew(&mut self) {
        (self.request, self.facts) = (no_request(), Facts::default());
    }

    /// The fields of a head, pseudo fields included: as many as [`View::each`] visits.
    pub(super) fn count(&self, side: Side) -> usize {
        let map = Map::Headers(side);
        let Ok(fields) = self.fields(map) else { return 0 };
        let told = if self.tells(map) { TOLD.len() } else { 0 };
        let written = fields.iter().filter(|(name, _)| !self.leaves_out(map, name)).count();
        pseudo_names(map).len() + written + told
    }

    fn fields(&self, map: Map) -> Result<&HeaderMap, Status> {
        match map {
            Map::Headers(Side::Request) => Ok(&self.request.headers),
            Map::Headers(Side::Response) => Ok(&self.response.as_ref().ok_or(Status::BadArgument)?.headers),
            Map::Trailers(Side::Request) if self.phase == Phase::RequestTrailers => Ok(&self.trailers),
            Map::Trailers(Side::Response) if self.phase == Phase::ResponseTrailers => Ok(&self.trailers),
            // When all is over, what was not there is not found; of anything else SDKs panic.
            Map::Trailers(Side::Request) if self.phase == Phase::End => Ok(&self.trailers),
            Map::Trailers(Side::Response) if self.phase == Phase::End => Ok(&self.trailers_of_response),
            Map::Trailers(_) => Err(Status::BadArgument),
        }
    }

    /// What is not told of a request: `host` is `:authority`, and the others are between the client and the gateway. A plugin that
    /// calls an upstream with all fields of a request would hand them on. Who asks for another protocol is told as such. What is
    /// told of the client stands in the place of what is written of it.
    fn leaves_out(&self, map: Map, name: &HeaderName) -> bool {
        let is_upgrade = || self.request.headers.contains_key(header::UPGRADE);
        map == Map::Headers(Side::Request)
            && (*name == header::HOST
                || (*name == header::CONNECTION && !is_upgrade())
                || [header::TRANSFER_ENCODING, KEEP_ALIVE, PROXY_CONNECTION].contains(name)
                || (self.tells(map) && TOLD.contains(name)))
    }

    /// Whether the fields of [`TOLD`] are.
    fn tells(&self, map: Map) -> bool {
        map == Map::Headers(Side::Request) && !self.facts.peer.is_unspecified()
    }

    fn told(&self, map: Map, name: &HeaderName) -> Option<Vec<u8>> {
        if self.tells(map) { told(self, name) } else { None }
    }

    /// `:method` and the like.
    fn pseudo(&self, map: Map, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        Some(match (map, name) {
            (Map::Headers(Side::Request), b":authority" | b"host") => {
                self.facts.authority().as_bytes().into()
            }
            (Map::Headers(Side::Request), b":path") => self.request.raw_path().into(),
            (Map::Headers(Side::Request), b":method") => self.request.method.as_str().as_bytes().into(),
            (Map::Headers(Side::Request), b":scheme") => self.facts.scheme.as_bytes().into(),
            (Map::Headers(Side::Response), b":status") => {
                self.response.as_ref()?.status.as_str().as_bytes().into()
            }
            _ => return None,
        })
    }

    fn may_change(&self, map: Map) -> bool {
        match map {
            Map::Headers(Side::Request) => self.head_is_here,
            Map::Headers(Side::Response) => self.phase == Phase::ResponseHeaders,
            Map::Trailers(Side::Request) => self.phase == Phase::RequestTrailers,
            Map::Trailers(Side::Response) => self.phase == Phase::ResponseTrailers,
        }
    }

    /// What is to become of it, if it can.
    fn read_pseudo(&self, map: Map, name: &[u8], value: &[u8]) -> Result<Pseudo, Status> {
        let text = std::str::from_utf8(value).map_err(|_| Status::BadArgument)?;
        match (map, name) {
            (Map::Headers(Side::Request), b":authority" | b"host") => {
                read_authority(text).map(Pseudo::Authority)
            }
            (Map::Headers(Side::Request), b":path") => read_path(text).map(Pseudo::Path),
            (Map::Headers(Side::Request), b":method") => self.read_method(value).map(Pseudo::Method),
            (Map::Headers(Side::Response), b":status") if self.response.is_some() => {
                let status = text.parse::<u16>().ok().filter(|status| (200..=599).contains(status));
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                status.map(Pseudo::Status).ok_or(Status::BadArgument)
            }
            (Map::Headers(Side::Response), b":status") | (Map::Headers(Side::Request), b":scheme") => {
                Err(Status::BadArgument)
            }
            // There is no such field, and other hosts take it and forget it: SDKs panic of a refusal.
            _ => Ok(Pseudo::None),
        }
    }

    fn read_method(&self, value: &[u8]) -> Result<Method, Status> {
        let method = Method::from_bytes(value).map_err(|_| Status::BadArgument)?;
        // The one would make a tunnel of the request. By the other the client knows whether its answer has a body.
        let is_other_framing = (method == Method::HEAD) != (self.request.method == Method::HEAD);
        match method == Method::CONNECT || is_other_framing {
            true => Err(Status::BadArgument),
            false => Ok(method),
        }
    }

    fn set_pseudo(&mut self, pseudo: Pseudo) -> Result<(), Status> {
        match pseudo {
            Pseudo::Authority(value) => {
                self.facts.authority = Some(value.clone());
                return self.request.insert_header(header::HOST, value).map_err(|_| Status::BadArgument);
            }
            Pseudo::Path(target) => {
                self.request.set_uri(target.clone());
                self.facts.target = target;
            }
            Pseudo::Method(method) => self.request.set_method(method),
            Pseudo::Status(status) => {
                let response = self.response.as_mut().ok_or(Status::BadArgument)?;
                return response.set_status(status).map_err(|_| Status::BadArgument);
            }
            Pseudo::None => {}
        }
        Ok(())
    }

    fn set(&mut self, map: Map, name: HeaderName, value: HeaderValue, adds: bool) -> Result<(), Status> {
        let full = |_| Status::BadArgument;
        match (map, adds) {
            (Map::Headers(Side::Request), false) => self.request.insert_header(name, value).map_err(full),
            (Map::Headers(Side::Request), true) => {
                self.request.append_header(name, value).map(drop).map_err(full)
            }
            (Map::Headers(Side::Response), adds) => {
                let response = self.response.as_mut().ok_or(Status::BadArgument)?;
                match adds {
                    false => response.insert_header(name, value).map_err(full),
                    true => response.append_header(name, value).map(drop).map_err(full),
                }
            }
            (Map::Trailers(_), false) => {
                self.trailers.try_insert(name, value).map(drop).map_err(|_| Status::BadArgument)
            }
            (Map::Trailers(_), true) => {
                self.trailers.try_append(name, value).map(drop).map_err(|_| Status::BadArgument)
            }
        }
    }

    fn remove(&mut self, map: Map, name: &HeaderName) {
        match map {
            Map::Headers(Side::Request) => drop(self.request.remove_header(name)),
            Map::Headers(Side::Response) => {
                if let Some(response) = &mut self.response {
                    response.remove_header(name);
                }
            }
            Map::Trailers(_) => drop(self.trailers.remove(name)),
        }
    }

    fn replace_all(&mut self, map: Map, pairs: &[(&[u8], &[u8])]) -> Result<(), Status> {
        // All is looked at before anything is changed.
        let (mut fields, mut told) = (Vec::with_capacity(pairs.len()), Vec::new());
        for (name, value) in pairs.iter().filter(|(name, _)| !is_pseudo(map, name)) {
            let name = field_name(name)?;
            // What is said again as it was read is told anyway.
            if self.told(map, &name).is_some_and(|is| is == *value) {
                told.push(name);
            } else if !is_framing(&name) {
                fields.push((name, field_value(value)?));
            }
        }
        let mut pseudo = Vec::new();
        for (name, value) in pairs.iter().filter(|(name, _)| is_pseudo(map, name)) {
            // What is there already is said again by whoever reads all and writes all.
            if self.pseudo(map, name).is_none_or(|is| *is != **value) {
                pseudo.push(self.read_pseudo(map, name, value)?);
            }
        }
        let before: Vec<HeaderName> = self.fields(map)?.keys().cloned().collect();
        pseudo.into_iter().try_for_each(|pseudo| self.set_pseudo(pseudo))?;
        // A length that is left out is taken back, as by itself.
        let has_length = pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
        let keeps = |name: &HeaderName| {
            (is_framing(name) && (has_length || *name != header::CONTENT_LENGTH))
                || (*name == header::HOST && map == Map::Headers(Side::Request))
                || told.contains(name)
        };
        before.iter().filter(|name| !keeps(name)).for_each(|name| self.remove(map, name));
        fields.into_iter().try_for_each(|(name, value)| self.set(map, name, value, true))
    }
}

impl View for Lent {
    fn each(&self, map: Map, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Status> {
        let fields = self.fields(map)?;
        for name in pseudo_names(map) {
            if let Some(value) = self.pseudo(map, name) {
                visit(name, &value);
            }
        }
        for (name, value) in fields {
            if !self.leaves_out(map, name) {
                visit(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        for name in &TOLD {
            if let Some(value) = self.told(map, name) {
                visit(name.as_str().as_bytes(), &value);
            }
        }
        Ok(())
    }

    fn first(&self, map: Map, name: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Status> {
        let fields = self.fields(map)?;
        if is_pseudo(map, name)
            && let Some(value) = self.pseudo(map, &name.to_ascii_lowercase())
        {
            return Ok(Some(value));
        }
        let Ok(name) = HeaderName::from_bytes(name) else { return Ok(None) };
        if let Some(value) = self.told(map, &name) {
            return Ok(Some(value.into()));
        }
        if self.leaves_out(map, &name) {
            return Ok(None);
        }
        Ok(fields.get(name).map(|value| value.as_bytes().into()))
    }

    fn change(&mut self, map: Map, change: Change<'_>) -> Result<(), Status> {
        if !self.may_change(map) {
            return Err(Status::BadArgument);
        }
        match change {
            Change::All(pairs) => self.replace_all(map, pairs),
            Change::Set(name, value) | Change::Add(name, value) if is_pseudo(map, name) => {
                let pseudo = self.read_pseudo(map, &name.to_ascii_lowercase(), value)?;
                self.set_pseudo(pseudo)
            }
            Change::Set(name, value) => {
                let (name, value) = (field_name(name)?, field_value(value)?);
                if is_framing(&name) { Ok(()) } else { self.set(map, name, value, false) }
            }
            Change::Add(name, value) => {
                let (name, value) = (field_name(name)?, field_value(value)?);
                if is_framing(&name) { Ok(()) } else { self.set(map, name, value, true) }
            }
            Change::Remove(name) if is_pseudo(map, name) => {
                if self.pseudo(map, &name.to_ascii_lowercase()).is_some() {
                    Err(Status::BadArgument)
                } else {
                    Ok(())
                }
            }
            Change::Remove(name) => {
                let name = field_name(name)?;
                // A length may be taken back, but none may be told that the gateway has not counted.
                if name == header::CONTENT_LENGTH || !is_framing(&name) {
                    self.remove(map, &name);
                }
                Ok(())
            }
        }
    }

    fn body(&mut self, side: Side) -> Option<&mut Bytes> {
        match (side, self.phase) {
            (Side::Request, Phase::RequestBody) | (Side::Response, Phase::ResponseBody) => {
                Some(&mut self.part)
            }
            _ => None,
        }
    }

    fn property(&self, path: &[&[u8]]) -> Option<Vec<u8>> {
        property::find(self, path)
    }

    fn set_property(&mut self, path: Vec<u8>, value: Vec<u8>) -> Result<(), Status> {
        if self.facts.properties.set(path, value) { Ok(()) } else { Err(Status::InternalFailure) }
    }

    fn request_id(&self) -> Option<&str> {
        self.facts.request_id.as_deref()
    }
}

fn read_authority(text: &str) -> Result<HeaderValue, Status> {
    if text.parse::<http::uri::Authority>().map_or(true, |authority| authority.as_str().contains('@')) {
        return Err(Status::BadArgument);
    }
    HeaderValue::from_str(text).map_err(|_| Status::BadArgument)
}

/// In the form in which all paths are matched and forwarded.
fn read_path(text: &str) -> Result<Uri, Status> {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    if !path.starts_with('/') {
        return Err(Status::BadArgument);
    }
    let path = normalise(path).map_err(|_| Status::BadArgument)?;
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    target.parse().map_err(|_| Status::BadArgument)
}

/// Those that a map has, in their order.
fn pseudo_names(map: Map) -> &'static [&'static [u8]] {
    match map {
        Map::Headers(Side::Request) => &[b":authority", b":path", b":method", b":scheme"],
        Map::Headers(Side::Response) => &[b":status"],
        Map::Trailers(_) => &[],
    }
}

/// The fields of a request that say so, and `host`, which means `:authority`.
fn is_pseudo(map: Map, name: &[u8]) -> bool {
    name.starts_with(b":") || (map == Map::Headers(Side::Request) && name.eq_ignore_ascii_case(b"host"))
}

/// What is said of a message's framing and its connection is the gateway's to say.
fn is_framing(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::UPGRADE,
        header::TRAILER,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ]
    .contains(name)
}

fn field_name(name: &[u8]) -> Result<HeaderName, Status> {
    HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)
}

fn field_value(value: &[u8]) -> Result<HeaderValue, Status> {
    HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)
}

fn no_request() -> RequestHeader {
    http::Request::new(()).into_parts().0.into()
}

fn no_response() -> ResponseHeader {
    http::Response::new(()).into_parts().0.into()
}
