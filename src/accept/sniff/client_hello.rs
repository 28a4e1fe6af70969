//! The first message of a TLS connection, as far as it says where the client wants to go: a ClientHello's server name and
//! application protocols. Nothing is decrypted, nothing is answered, and not one byte of it is changed.
//!
//! Pure and defensive. What two readers could understand differently (a second server name, say) is refused: a connection
//! must not be sent to one server by what another one would read. "Section" below is one of RFC 8446, where no other is named.

use std::fmt;

use crate::accept::sniff::{
    detect::{METHODS, PREFACE},
    ja4::ja4,
};

/// Everything up to the end of the ClientHello, record headers included. OpenSSL's own take some 300 bytes, browsers' with
/// post-quantum keys 2 KiB.
pub(in crate::accept) const LONGEST: usize = 64 * 1024;
/// A record's content (section 5.1).
const LONGEST_RECORD: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
pub(super) const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;

/// What a client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// In lower case, without a final dot; `None` where the client names none, as with an address instead of a name.
    pub server_name: Option<String>,
    /// In its order of preference (RFC 7301); none where it does not say.
    pub protocols: Vec<Vec<u8>>,
}

/// Why there is no ClientHello to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) enum Flaw {
    /// A request of HTTP/1 or the preface of HTTP/2.
    PlainHttp,
    /// No TLS record.
    NotTls,
    /// TLS, but something else than a ClientHello.
    Unexpected,
    TooLong,
    /// A part that says of itself something untrue.
    Malformed(&'static str),
}

impl Flaw {
    /// The alert for one who speaks TLS (section 6.2); `None` for the others.
    pub(in crate::accept) fn alert(self) -> Option<Alert> {
        match self {
            Flaw::PlainHttp | Flaw::NotTls => None,
            Flaw::Unexpected => Some(Alert::UnexpectedMessage),
            Flaw::TooLong => Some(Alert::IllegalParameter),
            Flaw::Malformed(_) => Some(Alert::DecodeError),
        }
    }

    /// For metrics and logs.
    pub(in crate::accept) fn word(self) -> &'static str {
        match self {
            Flaw::PlainHttp => "plain_http",
            Flaw::NotTls => "not_tls",
            Flaw::Unexpected | Flaw::Malformed(_) => "malformed_hello",
            Flaw::TooLong => "hello_too_long",
        }
    }
}

/// What a client that is turned away may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::accept) enum Alert {
    UnexpectedMessage = 10,
    IllegalParameter = 47,
    DecodeError = 50,
    /// RFC 6066, section 3.
    UnrecognizedName = 112,
    /// RFC 7301, section 3.2.
    NoApplicationProtocol = 120,
}

impl Alert {
    /// The record in which it is sent: fatal, in the version that every client reads.
    pub(in crate::accept) const fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 1, 0, 2, FATAL, self as u8]
    }
}

/// Puts a ClientHello together from the records it is spread over. It looks at each byte once, however small the parts are
/// in which they come.
#[derive(Debug, Default)]
pub(in crate::accept) struct Assembly {
    /// Where the first record begins that is not in `message` yet.
    at: usize,
    message: Vec<u8>,
}

impl Assembly {
    /// `bytes` is all that has come since the connection was opened. `None` when more is needed.
    ///
    /// # Errors
    ///
    /// It is no ClientHello, whatever follows.
    pub(in crate::accept) fn read(&mut self, bytes: &[u8]) -> Result<Option<Hello>, Flaw> {
        while let Some(record) = self.record(bytes)? {
            self.message.extend_from_slice(record);
            self.at += RECORD_HEADER + record.len();
            if let Some(hello) = message(&self.message)? {
                return parse(hello).map(Some);
            }
        }
        if bytes.len() >= LONGEST { Err(Flaw::TooLong) } else { Ok(None) }
    }

    /// How the client begins TLS, once all of it was read.
    pub(in crate::accept) fn fingerprint(&self) -> Option<String> {
        ja4(message(&self.message).ok()??).ok()
    }

    /// The content of the next record, when all of it is there.
    fn record<'a>(&self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Flaw> {
        let rest = bytes.get(self.at..).unwrap_or_default();
        let is_first = self.at == 0;
        match rest.first() {
            None | Some(&HANDSHAKE) => {}
            Some(_) if is_first && is_http(rest) => return Err(Flaw::PlainHttp),
            Some(_) if is_first && may_be_http(rest) => return Ok(None),
            // Alerts and what else TLS has. The next byte tells.
            Some(20..=24) => match rest.get(1) {
                None => return Ok(None),
                Some(3) => return Err(Flaw::Unexpected),
                Some(_) => return Err(Flaw::NotTls),
            },
            Some(_) => return Err(Flaw::NotTls),
        }
        // Every version of TLS begins with a 3 (section 5.1), and SSL 3.0 as well.
        if rest.get(1).is_some_and(|major| *major != 3) {
            return Err(if is_first { Flaw::NotTls } else { Flaw::Malformed("record version") });
        }
        let Some((header, content)) = rest.split_first_chunk::<RECORD_HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        // Empty ones could come for ever (section 5.1).
        if length == 0 || length > LONGEST_RECORD {
            return Err(Flaw::Malformed("record length"));
        }
        Ok(content.get(..length))
    }
}

fn is_http(bytes: &[u8]) -> bool {
    let word = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    word.len() < bytes.len() && (METHODS.contains(&word) || word == b"PRI")
}

fn may_be_http(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| method.starts_with(bytes)) || PREFACE.starts_with(bytes)
}

/// The body of the ClientHello with which `bytes`, the content of handshake records, begin; `None` while it is not whole.
fn message(bytes: &[u8]) -> Result<Option<&[u8]>, Flaw> {
    if bytes.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Flaw::Unexpected);
    }
    let Some((&[_, high, middle, low], body)) = bytes.split_first_chunk::<MESSAGE_HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > LONGEST - RECORD_HEADER - MESSAGE_HEADER {
        return Err(Flaw::TooLong);
    }
    Ok(body.get(..length))
}

/// What a ClientHello is made of (section 4.1.2).
pub(super) struct Parts<'a> {
    /// That of TLS 1.2 and before.
    pub version: u16,
    pub suites: &'a [u8],
    pub extensions: Extensions<'a>,
}

pub(super) struct Extensions<'a>(Fields<'a>);

impl<'a> Parts<'a> {
    pub(super) fn of(body: &'a [u8]) -> Result<Parts<'a>, Flaw> {
        const RANDOM: usize = 32;
        let mut body = Fields(body);
        let version = body.number16("version")?;
        body.take(RANDOM, "random")?;
        body.vector8("session id")?;
        let suites = body.vector16("cipher suites")?.0;
        if suites.is_empty() || suites.len() % 2 != 0 {
            return Err(Flaw::Malformed("cipher suites"));
        }
        if body.vector8("compression methods")?.0.is_empty() {
            return Err(Flaw::Malformed("compression methods"));
        }
        // Clients that know no extensions send no list of them.
        let extensions = if body.0.is_empty() { Fields(&[]) } else { body.vector16("extensions")? };
        if !body.0.is_empty() {
            return Err(Flaw::Malformed("what follows the extensions"));
        }
        Ok(Parts { version, suites, extensions: Extensions(extensions) })
    }
}

impl<'a> Extensions<'a> {
    pub(super) fn next(&mut self) -> Result<Option<(u16, Fields<'a>)>, Flaw> {
        if self.0.0.is_empty() {
            return Ok(None);
        }
        let kind = self.0.number16("extension")?;
        Ok(Some((kind, self.0.vector16("extension")?)))
    }
}

fn parse(body: &[u8]) -> Result<Hello, Flaw> {
    let mut extensions = Parts::of(body)?.extensions;
    let mut hello = Hello::default();
    let (mut has_name, mut has_protocols) = (false, false);
    while let Some((kind, content)) = extensions.next()? {
        // Unknown ones are skipped: clients make some up so that nobody chokes on them (RFC 8701).
        match kind {
            SERVER_NAME if std::mem::replace(&mut has_name, true) => {
                return Err(Flaw::Malformed("second server name"));
            }
            SERVER_NAME => hello.server_name = Some(server_name(content)?),
            APPLICATION_PROTOCOLS if std::mem::replace(&mut has_protocols, true) => {
                return Err(Flaw::Malformed("second list of protocols"));
            }
            APPLICATION_PROTOCOLS => hello.protocols = protocols(content)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066, section 3: a list, of which one entry is a host name. There have never been entries of another kind.
fn server_name(mut content: Fields<'_>) -> Result<String, Flaw> {
    const FLAW: &str = "server name";
    const HOST_NAME: u8 = 0;
    const LONGEST_NAME: usize = 255;
    let mut list = content.vector16(FLAW)?;
    let kind = list.take(1, FLAW)?[0];
    let name = list.vector16(FLAW)?.0;
    if kind != HOST_NAME || !list.0.is_empty() || !content.0.is_empty() || name.len() > LONGEST_NAME {
        return Err(Flaw::Malformed(FLAW));
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    // Printable ASCII: the name is looked up and logged. Whether it is a proper host name is told by whether it is known.
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(name.to_ascii_lowercase())
        }
        _ => Err(Flaw::Malformed(FLAW)),
    }
}

/// RFC 7301, section 3.1.
pub(super) fn protocols(mut content: Fields<'_>) -> Result<Vec<Vec<u8>>, Flaw> {
    const FLAW: &str = "list of protocols";
    let mut list = content.vector16(FLAW)?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8(FLAW)?.0;
        if protocol.is_empty() {
            return Err(Flaw::Malformed(FLAW));
        }
        protocols.push(protocol.to_vec());
    }
    match protocols.is_empty() || !content.0.is_empty() {
        true => Err(Flaw::Malformed(FLAW)),
        false => Ok(protocols),
    }
}

/// What is left to read; each step names what it reads, in case it is not there.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Flaw::Malformed(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number16(&mut self, what: &'static str) -> Result<u16, Flaw> {
        let bytes = self.take(2, what)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes behind their length, which takes one.
    fn vector8(&mut self, what: &'static str) -> Result<Fields<'a>, Flaw> {
        let length = self.take(1, what)?[0];
        self.take(usize::from(length), what).map(Fields)
    }

    /// Bytes behind their length, which takes two.
    fn vector16(&mut self, what: &'static str) -> Result<Fields<'a>, Flaw> {
        let length = self.number16(what)?;
        self.take(usize::from(length), what).map(Fields)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::PlainHttp => f.write_str("it speaks HTTP, not TLS"),
            Flaw::NotTls => f.write_str("it does not speak TLS"),
            Flaw::Unexpected => f.write_str("it does not begin with a ClientHello"),
            Flaw::TooLong => f.write_str("its ClientHello is too long"),
            Flaw::Malformed(what) => write!(f, "its ClientHello is malformed: {what}"),
        }
    }
}

#[cfg(test)]
mod tests;
