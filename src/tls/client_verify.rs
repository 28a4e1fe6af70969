//! Whether a client's SVID is good, asked by OpenSSL in the middle of a handshake.
//!
//! OpenSSL cannot choose the bundle by what a certificate says of its trust domain, so it is given no authority at all.
//! Every chain then ends for it in "no issuer", and there, once, [`identity::verify`] has its say. Whatever else OpenSSL
//! finds wrong stays wrong.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use openssl::{
    error::ErrorStack,
    ex_data::Index,
    ssl::{Ssl, SslRef},
    x509::{X509, X509StoreContext, X509StoreContextRef, X509VerifyResult},
};

use crate::{
    identity::{self, Identity, SpiffeId, SvidError},
    trust,
};

#[derive(Clone)]
pub(crate) struct Judgement {
    identity: Option<Arc<Identity>>,
}

/// What was found out about the client of one handshake.
#[derive(Default)]
struct Verdict(OnceLock<Result<SpiffeId, SvidError>>);

/// Where a connection of OpenSSL's keeps its verdict.
fn place() -> Result<Index<Ssl, Verdict>, ErrorStack> {
    static PLACE: OnceLock<Index<Ssl, Verdict>> = OnceLock::new();
    match PLACE.get() {
        Some(place) => Ok(*place),
        None => {
            let place = Ssl::new_ex_index()?;
            Ok(*PLACE.get_or_init(|| place))
        }
    }
}

/// Make room for a verdict in a connection that is about to begin.
pub(crate) fn prepare(ssl: &mut SslRef) -> Result<(), ErrorStack> {
    ssl.set_ex_data(place()?, Verdict::default());
    Ok(())
}

/// What was said of the client; `None` where nothing was, as it has shown no certificate.
pub(crate) fn verdict(ssl: &SslRef) -> Option<&Result<SpiffeId, SvidError>> {
    ssl.ex_data(place().ok()?)?.0.get()
}

impl Judgement {
    /// Without an identity nobody is trusted.
    pub(crate) fn by(identity: Option<Arc<Identity>>) -> Judgement {
        Judgement { identity }
    }

    /// OpenSSL's callback: it is called for each error, and for each certificate once that is fine.
    pub(crate) fn of(&self, is_fine: bool, context: &mut X509StoreContextRef) -> bool {
        if is_fine {
            return trust::is_sound(is_fine, context);
        }
        // X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, ..DEPTH_ZERO_SELF_SIGNED_CERT, ..SELF_SIGNED_CERT_IN_CHAIN,
        // ..UNABLE_TO_GET_ISSUER_CERT_LOCALLY, ..UNABLE_TO_VERIFY_LEAF_SIGNATURE (openssl/x509_vfy.h)
        let is_about_trust = matches!(context.error().as_raw(), 2 | 18..=21);
        let is_about_time = matches!(context.error().as_raw(), 9 | 10);
        let Some(verdict) = verdict_of(context) else { return false };
        let verdict = verdict.0.get_or_init(|| self.verify(context));
        match verdict {
            Ok(_) if is_about_trust => {
                context.set_error(X509VerifyResult::OK);
                true
            }
            // OpenSSL comes to it by itself, and then has the right alert for it.
            Err(SvidError::Expired | SvidError::NotYetValid) => is_about_trust && !is_about_time,
            Err(SvidError::NotTrusted(_) | SvidError::UnknownTrustDomain(_)) => false,
            Err(_) if is_about_trust => {
                context.set_error(trust::rejected());
                false
            }
            _ => false,
        }
    }

    fn verify(&self, context: &X509StoreContextRef) -> Result<SpiffeId, SvidError> {
        let chain: Vec<X509> =
            context.chain().iter().flat_map(|chain| chain.iter().map(|c| c.to_owned())).collect();
        let (Some(identity), Some((leaf, intermediates))) = (&self.identity, chain.split_first()) else {
            return Err(SvidError::Chain("there is nobody to ask"));
        };
        identity::verify(leaf, intermediates, &identity.current().bundles, SystemTime::now())
    }
}

fn verdict_of(context: &X509StoreContextRef) -> Option<&Verdict> {
    context.ex_data(X509StoreContext::ssl_idx().ok()?)?.ex_data(place().ok()?)
}
