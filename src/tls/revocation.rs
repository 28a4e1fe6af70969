//! Which client certificates were revoked, as their authorities' lists say (CRLs, RFC 5280, section 5).
//!
//! OpenSSL does the looking up, for each certificate of a chain. It refuses everyone under an authority of which it has no
//! valid list, so that what would shut all clients out is refused when the file is read.

use std::{
    ffi::{c_int, c_void},
    path::Path,
};

use openssl::{
    asn1::Asn1Time,
    error::ErrorStack,
    x509::{
        X509, X509Crl, X509CrlRef,
        store::{X509StoreBuilder, X509StoreBuilderRef},
        verify::X509VerifyFlags,
    },
};

use super::{
    caller::subject,
    certificate::{Part, Unusable, has_ended, read, unreadable},
};

const BEGIN: &str = "-----BEGIN X509 CRL-----";
const END: &str = "-----END X509 CRL-----";

unsafe extern "C" {
    /// Of openssl/x509_vfy.h; the crates do not have it.
    fn X509_STORE_add_crl(store: *mut c_void, crl: *mut c_void) -> c_int;
}

/// The lists in a PEM file.
///
/// # Errors
///
/// The file cannot be read, a list in it is none or has run out, or one of `authorities` has none that it has signed.
pub(crate) fn lists(file: &Path, authorities: &[X509]) -> Result<Vec<X509Crl>, Unusable> {
    let refuse = |message, hint| Unusable { part: Part::Cert, message, hint };
    let pem =
        read(file).map_err(|error| refuse(unreadable(file, &error), "it must exist and be readable"))?;
    let lists = from_pem(&pem).ok_or_else(|| {
        let message = format!("{} holds no revocation list that can be read", file.display());
        refuse(message, "PEM is expected: -----BEGIN X509 CRL-----")
    })?;
    let now = Asn1Time::days_from_now(0).map_err(|error| refuse(error.to_string(), "is there memory?"))?;
    for list in &lists {
        if let Some(end) = list.next_update().filter(|end| *end < now) {
            let whose = subject(list.issuer_name());
            let message = format!("in {}, the list of {whose} has run out on {end}", file.display());
            return Err(refuse(message, "all its clients would be refused: have it issued again"));
        }
    }
    let is_missing =
        |authority: &&X509| !has_ended(authority) && !lists.iter().any(|list| is_by(list, authority));
    match authorities.iter().find(is_missing) {
        Some(authority) => {
            let whose = subject(authority.subject_name());
            let message = format!("{} has no list that is signed by {whose}", file.display());
            Err(refuse(message, "all its clients would be refused: add its list, an empty one if need be"))
        }
        None => Ok(lists),
    }
}

/// Have everyone refused who is on one of the `lists`, or of whose authority there is none.
pub(crate) fn enforce(store: &mut X509StoreBuilder, lists: &[X509Crl]) -> Result<(), ErrorStack> {
    if lists.is_empty() {
        return Ok(());
    }
    store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
    lists.iter().try_for_each(|list| add(store, list))
}

fn add(store: &mut X509StoreBuilderRef, list: &X509CrlRef) -> Result<(), ErrorStack> {
    // SAFETY: the references are what an `X509_STORE` and an `X509_CRL` point to. The store is borrowed alone, and takes a
    // share of its own in the list, which it does not write to but for the count of those.
    let added = unsafe {
        let store = std::ptr::from_mut(store).cast::<c_void>();
        X509_STORE_add_crl(store, std::ptr::from_ref(list).cast_mut().cast::<c_void>())
    };
    if added == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}

fn from_pem(pem: &[u8]) -> Option<Vec<X509Crl>> {
    let mut rest = std::str::from_utf8(pem).ok()?;
    let mut lists = Vec::new();
    while let Some(begin) = rest.find(BEGIN) {
        let length = rest[begin..].find(END)? + END.len();
        let (block, behind) = rest[begin..].split_at(length);
        lists.push(X509Crl::from_pem(block.as_bytes()).ok()?);
        rest = behind;
    }
    Some(lists).filter(|lists| !lists.is_empty())
}

fn is_by(list: &X509CrlRef, authority: &X509) -> bool {
    let is_namesake = list.issuer_name().try_cmp(authority.subject_name()).is_ok_and(|order| order.is_eq());
    is_namesake
        && authority.public_key().and_then(|key| list.verify(&key)).unwrap_or_else(|_| {
            // It has said why in OpenSSL's queue, where the next to fail would find it.
            let _ = ErrorStack::get();
            false
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::certificates::{HOUR, authority, svid};

    #[test]
    fn each_authority_needs_a_list_of_its_own_that_has_not_run_out() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("crl.pem");
        let (one, two, stranger) = (authority("one"), authority("two"), authority("one"));
        let leaf = one.issue(&svid("spiffe://one/a"));
        let good = |issuer: &crate::identity::certificates::Issued| issuer.crl(&[], HOUR);
        let authorities = [one.certificate.clone(), two.certificate.clone()];
        let cases = [
            ([one.crl(&[&leaf], HOUR), good(&two)].concat(), Ok(2)),
            ([b"# ours\n".to_vec(), good(&two), b"\n".to_vec(), good(&one), good(&stranger)].concat(), Ok(3)),
            (good(&one), Err("no list that is signed by CN=two root")),
            ([good(&stranger), good(&two)].concat(), Err("no list that is signed by CN=one root")),
            (
                [good(&one), two.crl_that_has_run_out()].concat(),
                Err("the list of CN=two root has run out on"),
            ),
            (one.pem(), Err("holds no revocation list")),
            (good(&one)[..120].to_vec(), Err("holds no revocation list")),
            (b"\xff\xfe".to_vec(), Err("holds no revocation list")),
        ];
        for (pem, expected) in cases {
            std::fs::write(&file, pem).unwrap();
            match (lists(&file, &authorities), expected) {
                (Ok(lists), Ok(count)) => assert_eq!(lists.len(), count),
                (Err(unusable), Err(why)) => assert!(unusable.message.contains(why), "{why}: {unusable}"),
                (found, _) => panic!("{expected:?}: {:?}", found.map(|lists| lists.len())),
            }
        }
        std::fs::remove_file(&file).unwrap();
        assert!(lists(&file, &authorities).err().unwrap().message.contains("cannot read"));
    }
}
