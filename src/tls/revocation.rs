//! Which client certificates were revoked, as their authorities' lists say (CRLs, RFC 5280, section 5).
//!
//! OpenSSL does the looking up, for each certificate of a chain. It refuses everyone under an authority of which it has no
//! valid list, so that what would shut all clients out is refused when the file is read.

use std::{
    collections::BTreeMap,
    ffi::{c_int, c_void},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use openssl::{
    asn1::Asn1Time,
    error::ErrorStack,
    x509::{
        X509, X509Crl, X509CrlRef, X509StoreContextRef, X509VerifyResult,
        store::{X509StoreBuilder, X509StoreBuilderRef},
        verify::X509VerifyFlags,
    },
};

use super::{
    Lists, Revocation, Stale,
    caller::subject,
    certificate::{Part, Unusable, authorities as authorities_in, has_ended, read, unreadable},
    ffi::X509_STORE_add_crl,
    terminator::time,
};

const BEGIN: &str = "-----BEGIN X509 CRL-----";

/// The lists in a PEM file.
///
/// # Errors
///
/// The file cannot be read, a list in it is none or has run out, or one of `authorities` has none that it has signed.
fn lists(file: &Path, authorities: &[X509]) -> Result<Vec<X509Crl>, Unusable> {
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

/// Whom to refuse.
#[derive(Clone, Default)]
pub(crate) struct Revoked {
    pub lists: Arc<[X509Crl]>,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rule {
    /// There are no lists, and there need not be any.
    #[default]
    Nobody,
    /// Everyone who is on one of the lists, or of whose authority there is no valid one.
    Listed,
    /// Everyone who is on one of the lists, also on one that has run out.
    ListedAtAll,
}

/// X509_V_ERR_UNABLE_TO_GET_CRL and X509_V_ERR_CRL_HAS_EXPIRED of openssl/x509_vfy.h.
const NO_LIST: c_int = 3;
const LIST_HAS_ENDED: c_int = 12;

impl Revoked {
    /// # Errors
    ///
    /// Of a file of the operator's, all that would shut clients out. One that was fetched is taken as it is.
    pub(crate) fn read(crl: &Revocation, authorities: &[X509]) -> Result<Revoked, Unusable> {
        let (lists, rule) = match crl.kind {
            Lists::Written => (lists(&crl.file, authorities)?, Rule::Listed),
            Lists::Fetched(stale) => {
                let rule = if stale == Stale::Allow { Rule::ListedAtAll } else { Rule::Listed };
                let mut lists = read(&crl.file).map(|pem| legible(&pem)).unwrap_or_default();
                // Whose authority is gone from the file of those that we trust says nothing any more.
                lists.retain(|list| authorities.iter().any(|authority| is_by(list, authority)));
                (lists, rule)
            }
        };
        Ok(Revoked { lists: lists.into(), rule })
    }

    pub(crate) fn are_missing(&self) -> bool {
        self.rule != Rule::Nobody && self.lists.is_empty()
    }

    pub(crate) fn enforce(&self, store: &mut X509StoreBuilder) -> Result<(), ErrorStack> {
        if self.rule == Rule::Nobody {
            return Ok(());
        }
        store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
        self.lists.iter().try_for_each(|list| add(store, list))
    }

    /// What OpenSSL has found of one certificate, by our rule.
    pub(crate) fn judge(&self, is_fine: bool, context: &mut X509StoreContextRef) -> bool {
        if is_fine || self.rule != Rule::ListedAtAll {
            return is_fine;
        }
        let is_stale = matches!(context.error().as_raw(), NO_LIST | LIST_HAS_ENDED);
        if is_stale {
            // Else the error would be that of the whole handshake.
            context.set_error(X509VerifyResult::OK);
        }
        is_stale
    }
}

/// Lists that were fetched: the newest of each authority.
pub(crate) struct RevocationLists {
    authorities: Vec<X509>,
    /// By the place of their authority.
    newest: BTreeMap<usize, X509Crl>,
}

impl RevocationLists {
    /// None yet, of the authorities in this file.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(crate) fn of(authorities: &Path) -> Result<RevocationLists, String> {
        let authorities = authorities_in(authorities).map_err(|unusable| unusable.message)?;
        Ok(RevocationLists { authorities, newest: BTreeMap::new() })
    }

    /// All in `text`, which is PEM, or one in DER.
    ///
    /// # Errors
    ///
    /// One of them is no good; then none is taken.
    pub(crate) fn take(&mut self, text: &[u8]) -> Result<(), String> {
        let lists = from_pem(text).or_else(|| Some(vec![X509Crl::from_der(text).ok()?]));
        let lists = lists.ok_or_else(|| {
            let _ = ErrorStack::get();
            "this is no revocation list, neither in PEM nor in DER"
        })?;
        let mut placed = Vec::new();
        for list in lists {
            placed.push((self.place(&list)?, list));
        }
        self.newest.extend(placed);
        Ok(())
    }

    /// Of what was kept, in PEM, all that is still good: one of an authority that has gone takes none of the others along.
    pub(crate) fn take_again(&mut self, kept: &[u8]) {
        for list in legible(kept) {
            if let Ok(whose) = self.place(&list) {
                self.newest.insert(whose, list);
            }
        }
    }

    /// The place of its authority.
    fn place(&self, list: &X509Crl) -> Result<usize, String> {
        let whose = self.authorities.iter().position(|authority| is_by(list, authority));
        let whose = whose.ok_or_else(|| {
            format!("the list of {} is not signed by one of our authorities", subject(list.issuer_name()))
        })?;
        let is_older = |before: &X509Crl| list.last_update() < before.last_update();
        match self.newest.get(&whose).is_some_and(is_older) {
            true => Err(format!("the list of {} is older than the one we have", subject(list.issuer_name()))),
            false => Ok(whose),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.newest.len()
    }

    pub(crate) fn to_pem(&self) -> Vec<u8> {
        self.newest.values().flat_map(|list| list.to_pem().unwrap_or_default()).collect()
    }

    pub(crate) fn first_end(&self) -> Option<SystemTime> {
        self.newest.values().filter_map(|list| list.next_update().map(time)).min()
    }
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

/// `None` where there is none, or one that cannot be read.
fn from_pem(pem: &[u8]) -> Option<Vec<X509Crl>> {
    let lists: Option<Vec<X509Crl>> = in_pem(pem).collect();
    lists.filter(|lists| !lists.is_empty())
}

/// Those that can be read.
fn legible(pem: &[u8]) -> Vec<X509Crl> {
    in_pem(pem).flatten().collect()
}

/// One after the other; `None` for one that cannot be read.
fn in_pem(pem: &[u8]) -> impl Iterator<Item = Option<X509Crl>> {
    let mut rest = std::str::from_utf8(pem).unwrap_or_default();
    std::iter::from_fn(move || {
        let block = &rest[rest.find(BEGIN)?..];
        // One that is cut off ends where the next one begins.
        let next = block[BEGIN.len()..].find(BEGIN).map_or(block.len(), |next| next + BEGIN.len());
        let (block, behind) = block.split_at(next);
        rest = behind;
        Some(X509Crl::from_pem(block.as_bytes()).ok())
    })
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

    #[test]
    fn of_fetched_lists_the_newest_of_each_authority_is_kept() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("ca.pem");
        let (one, two, stranger) = (authority("one"), authority("two"), authority("one"));
        std::fs::write(&file, [one.pem(), two.pem()].concat()).unwrap();
        let leaf = one.issue(&svid("spiffe://one/a"));
        let mut lists = RevocationLists::of(&file).unwrap();
        lists.take(&[one.crl(&[], HOUR), two.crl(&[], HOUR * 2)].concat()).unwrap();
        lists.take(&X509Crl::from_pem(&one.crl(&[&leaf], HOUR)).unwrap().to_der().unwrap()).unwrap();
        assert_eq!(lists.len(), 2);
        let kept = from_pem(&lists.to_pem()).unwrap();
        assert_eq!(kept[0].get_revoked().map_or(0, |revoked| revoked.len()), 1, "the later of equals");
        let before = lists.to_pem();
        for (text, why) in [
            (stranger.crl(&[], HOUR), "not signed by one of our authorities"),
            ([two.crl(&[], HOUR), stranger.crl(&[], HOUR)].concat(), "not signed by one of our authorities"),
            (one.crl_of_yesterday(), "is older than the one we have"),
            (b"<html>".to_vec(), "no revocation list"),
            (Vec::new(), "no revocation list"),
        ] {
            let refused = lists.take(&text).unwrap_err();
            assert!(refused.contains(why), "{why}: {refused}");
        }
        assert_eq!(lists.to_pem(), before, "nothing has changed");
        let left = lists.first_end().unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left <= HOUR && left > HOUR / 2, "the first to end counts: {left:?}");
    }

    #[test]
    fn of_what_was_kept_an_authority_that_has_gone_takes_no_list_of_another_along() {
        let directory = tempfile::TempDir::new().unwrap();
        let (ca, crl) = (directory.path().join("ca.pem"), directory.path().join("crl.pem"));
        let (one, two, three) = (authority("one"), authority("two"), authority("three"));
        let [first, second, third] = [&one, &two, &three].map(|authority| authority.crl(&[], HOUR));
        let kept = [&second[..], &first, b"-----BEGIN X509 CRL-----\nMII", &third].concat();
        std::fs::write(&ca, [one.pem(), two.pem()].concat()).unwrap();
        std::fs::write(&crl, &kept).unwrap();
        let mut lists = RevocationLists::of(&ca).unwrap();
        lists.take_again(&kept);
        assert_eq!(lists.len(), 2);
        let fetched = Revocation { file: crl, kind: Lists::Fetched(Stale::Refuse) };
        let authorities = [one.certificate.clone(), two.certificate.clone()];
        assert_eq!(Revoked::read(&fetched, &authorities).unwrap().lists.len(), 2);
        assert!(Revoked::read(&fetched, &[authority("four").certificate]).unwrap().are_missing());
    }
}
