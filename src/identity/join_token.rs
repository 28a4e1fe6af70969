//! What a first SVID is asked for with: a secret that the control plane knows, and by which the control plane is known.
//!
//! `tgj_ID_SECRET_CA`, all in hexadecimal. The id is how operators speak of it. The last part is the SHA-256 of the
//! authority's certificate: whoever has a token and nothing else knows by it whom to give it to.

use openssl::{error::ErrorStack, rand::rand_bytes, sha::sha256};

use super::hexadecimal::{hex, unhex};
use crate::config::Secret;

const PREFIX: &str = "tgj_";

/// Its secret is shown by nothing but [`JoinToken::text`].
#[derive(Clone, Debug, PartialEq)]
pub struct JoinToken {
    pub id: String,
    secret: Secret,
    /// SHA-256 of the authority's certificate in DER.
    pub authority: [u8; 32],
}

impl JoinToken {
    /// One that nobody has seen.
    ///
    /// # Errors
    ///
    /// OpenSSL has no randomness to give.
    pub fn new(authority: [u8; 32]) -> Result<JoinToken, ErrorStack> {
        let (mut id, mut secret) = ([0; 8], [0; 32]);
        rand_bytes(&mut id)?;
        rand_bytes(&mut secret)?;
        Ok(JoinToken { id: hex(&id), secret: Secret::new(hex(&secret)), authority })
    }

    /// # Errors
    ///
    /// Why it is none, without a word of it.
    pub fn parse(text: &str) -> Result<JoinToken, &'static str> {
        const NONE: &str =
            "is no token of `tidegate token create` (it begins with tgj_ and is 150 characters long)";
        let parts = text.strip_prefix(PREFIX).map(|rest| rest.split('_').collect::<Vec<_>>());
        let Some([id, secret, authority]) = parts.as_deref() else { return Err(NONE) };
        match (unhex::<8>(id), unhex::<32>(secret), unhex(authority)) {
            (Some(_), Some(_), Some(authority)) => {
                Ok(JoinToken { id: (*id).to_owned(), secret: Secret::new(*secret), authority })
            }
            _ => Err(NONE),
        }
    }

    /// As it is handed to whoever may use it.
    pub fn text(&self) -> Secret {
        let (id, secret) = (&self.id, self.secret.expose());
        Secret::new(format!("{PREFIX}{id}_{secret}_{}", hex(&self.authority)))
    }

    /// What is kept of it where it is known.
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.secret.expose().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_never_shown() {
        let token = JoinToken::new([7; 32]).unwrap();
        let text = token.text();
        assert_eq!(text.expose().len(), 150);
        assert_eq!(JoinToken::parse(text.expose()), Ok(token.clone()));
        assert_ne!(JoinToken::new([7; 32]).unwrap().hash(), token.hash());
        assert!(!format!("{token:?}").contains(token.secret.expose()));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let good = JoinToken::new([7; 32]).unwrap().text();
        let good = good.expose();
        for bad in ["", "tgj_", "tgj___", &good[..149], &good.to_uppercase(), &format!("{good}0"), &good[4..]]
        {
            assert!(JoinToken::parse(bad).is_err(), "{bad}");
        }
    }
}
