//! One thing that a client does, and what must come of it.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// `GATEWAY:PORT`.
    #[serde(default = "same_namespace")]
    pub to: String,
    #[serde(default = "get")]
    pub method: String,
    #[serde(default = "root")]
    pub path: String,
    #[serde(default)]
    pub host: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Over TLS, asking for this name.
    #[serde(default)]
    pub tls: Option<String>,
    /// The authority by which the client shows a certificate.
    #[serde(default)]
    pub shows: Option<String>,
    /// Over HTTP/2 by prior knowledge.
    #[serde(default)]
    pub h2c: bool,
    /// A call of gRPC: its path, as over HTTP.
    #[serde(default)]
    pub call: Option<String>,
    /// Frames of text and of bytes come back.
    #[serde(default)]
    pub websocket: bool,
    /// A line without HTTP.
    #[serde(default)]
    pub tcp: bool,
    /// The same again, so many times in all.
    #[serde(default = "once")]
    pub times: usize,

    /// There is no connection, or no answer on it.
    #[serde(default)]
    pub fails: bool,
    /// One of these; without it 200, or anything where it is a call.
    #[serde(default)]
    pub status: Vec<u16>,
    /// Of a call.
    #[serde(default)]
    pub code: Option<u16>,
    /// The Service that answers.
    #[serde(default)]
    pub backend: Option<String>,
    /// What it sees of the request.
    #[serde(default)]
    pub sees: Sees,
    /// The field in which the Service that answers sees its own name.
    #[serde(default)]
    pub own_name_in: Option<String>,
    /// Fields of the answer: one of these values, or none of the name for an empty list.
    #[serde(default)]
    pub answer: BTreeMap<String, Vec<String>>,
    /// Parts of the answer's `Location`.
    #[serde(default)]
    pub location: Option<Location>,
    /// One of the names in the certificate that the gateway shows.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Services that get a copy.
    #[serde(default)]
    pub copies: Vec<String>,
    /// Of 500 requests the share that each Service answers; within 5 %.
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
    /// Of 500 requests the share that each Service gets a copy of; within five standard deviations, as each is drawn.
    #[serde(default)]
    pub copied_shares: BTreeMap<String, f64>,
    /// The answer gives out a cookie, with whom further requests come to the same pod; whether it outlives the browser.
    #[serde(default)]
    pub cookie: Option<Lasting>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sees {
    pub path: Option<String>,
    pub host: Option<String>,
    pub version: Option<String>,
    /// `null` is none of the name; several of one name are joined.
    pub headers: BTreeMap<String, Option<String>>,
    pub tls: Option<bool>,
    pub sni: Option<String>,
    /// Whether the gateway showed a certificate.
    pub certificate: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Location {
    pub scheme: Option<String>,
    pub host: Option<String>,
    /// 0 is none, or that of the scheme.
    pub port: Option<u16>,
    pub path: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Lasting {
    Session,
    Permanent,
}

fn same_namespace() -> String {
    "same-namespace:80".into()
}

fn get() -> String {
    "GET".into()
}

fn root() -> String {
    "/".into()
}

fn once() -> usize {
    1
}
