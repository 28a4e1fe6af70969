//! Certificates from a CA, by themselves (ACME, RFC 8555): ordered, proved, kept, renewed.
//!
//! A `Keeper` lives as long as the process. Each snapshot tells it what is wanted; what it has goes to the listeners through
//! `tls::Issued`. It never stands in the way of a start: what was kept is shown, and what cannot be had is told and tried again.
//!
//! The protocol is spoken by code of ours, over the client that asks for key sets, and signed by OpenSSL: the libraries for it bring a second
//! library for cryptography, wait by themselves, and take from a CA whatever URL it names.

mod account;
mod ari;
mod ca;
mod desk;
mod dns;
mod holding;
mod jws;
mod keeper;
mod order;
mod proofs;
mod publish;
mod settings;
mod storage;
mod trouble;

pub use self::{
    ca::{CaSettings, Eab},
    dns::{HookKind, HookSettings},
    settings::{AccountSettings, Challenge, KeyKind, Settings, Sharing, StorageSettings},
};
pub(crate) use self::{
    holding::{Report, State},
    keeper::{Keeper, Renew},
};

/// The characters of base64url (RFC 4648, section 5): of tokens and nonces.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
