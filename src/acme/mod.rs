//! Certificates from a CA, by themselves (ACME, RFC 8555): ordered, proved, kept, renewed.
//!
//! A `Keeper` lives as long as the process. Each snapshot tells it what is wanted; what it has goes to the listeners through
//! `tls::Issued`. It never stands in the way of a start: what was kept is shown, and what cannot be had is told and tried again.
//!
//! The protocol is spoken by code of ours, over the client that asks for key sets, and signed by OpenSSL: the libraries for it bring a second
//! library for cryptography, wait by themselves, and take from a CA whatever URL it names.

mod account;
mod ari;
mod budget;
mod ca;
mod desk;
mod dns;
mod holding;
mod jws;
mod keeper;
mod on_demand;
mod order;
mod proofs;
mod publish;
mod reports;
mod settings;
mod storage;
mod trouble;

pub use self::{
    ca::{CaSettings, Eab},
    dns::{HookKind, HookSettings},
    on_demand::OnDemandSettings,
    settings::{AccountSettings, Certificates, Challenge, KeyKind, Settings, StorageSettings},
};
pub(crate) use self::{
    holding::{Report, State},
    keeper::{Keeper, Renew},
};

/// Of DNS (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// In lower case, and without a star.
pub(crate) fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= LONGEST_NAME && name.split('.').all(is_label)
}

/// One that a CA could know: what is only known in a house has one label.
pub(crate) fn is_public_name(name: &str) -> bool {
    name.contains('.') && is_name(name) && name.parse::<std::net::IpAddr>().is_err()
}

/// The characters of base64url (RFC 4648, section 5): of tokens and nonces.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
