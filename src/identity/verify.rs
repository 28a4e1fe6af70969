//! X509-SVID validation: the leaf's own rules, then a chain to the bundle of its own trust domain, at a time that is
//! passed in. A bundle of another trust domain is never asked, whoever may have signed what.

use std::time::{SystemTime, UNIX_EPOCH};

use openssl::{
    stack::Stack,
    x509::{X509, X509Ref, X509StoreContext, X509VerifyResult},
};

use super::{Bundles, SpiffeId, SvidError, TrustDomain, leaf::check_signer, leaf_id};
use crate::trust::has_broken_key;

/// The SPIFFE ID of whoever holds the key of `leaf`, once the bundle of its trust domain vouches for it.
///
/// `intermediates` are what came with it, in any order; they need not all be of use.
///
/// # Errors
///
/// The first rule of X509-SVID (section 5) or of RFC 5280 that it breaks.
pub fn verify(
    leaf: &X509Ref,
    intermediates: &[X509],
    bundles: &Bundles,
    now: SystemTime,
) -> Result<SpiffeId, SvidError> {
    let id = leaf_id(leaf)?;
    let domain = id.trust_domain();
    let bundle = bundles.of(domain).ok_or_else(|| SvidError::UnknownTrustDomain(domain.clone()))?;
    let internal = |_| SvidError::Chain("OpenSSL refused to look at it");
    let store = bundle.store_at(seconds(now)).map_err(internal)?;
    let mut untrusted = Stack::new().map_err(internal)?;
    for intermediate in intermediates {
        untrusted.push(intermediate.clone()).map_err(internal)?;
    }
    let mut context = X509StoreContext::new().map_err(internal)?;
    let outcome = context.init(&store, leaf, &untrusted, |context| {
        if !context.verify_cert()? {
            return Ok(Err(refusal(context.error(), context.error_depth(), domain)));
        }
        let chain = context.chain().map(|chain| chain.iter().map(|link| link.to_owned()).collect());
        Ok(Ok(chain.unwrap_or_else(Vec::new)))
    });
    let chain: Vec<X509> = outcome.map_err(internal)??;
    if chain.iter().any(|link| has_broken_key(link)) {
        return Err(SvidError::BrokenKey);
    }
    // Neither the leaf, nor the one in the bundle, which is trusted as it is.
    let between = chain.get(1..chain.len().saturating_sub(1)).unwrap_or_default();
    between.iter().try_for_each(|signer| check_signer(signer, domain))?;
    Ok(id)
}

fn seconds(now: SystemTime) -> i64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// `openssl/x509_vfy.h`, whose names the binding does not have.
fn refusal(result: X509VerifyResult, depth: u32, domain: &TrustDomain) -> SvidError {
    match (result.as_raw(), depth) {
        (9, 0) => SvidError::NotYetValid,
        (10, 0) => SvidError::Expired,
        (9, _) => SvidError::SignerNotYetValid,
        (10, _) => SvidError::SignerExpired,
        // No issuer, none locally, self-signed, self-signed in the chain, leaf only, none that matches.
        (2 | 18 | 19 | 20 | 21 | 29 | 30 | 31, _) => SvidError::NotTrusted(domain.clone()),
        (7, _) => SvidError::BadSignature,
        (22 | 25, _) => SvidError::PathTooLong,
        (24 | 79, _) => SvidError::SignerIsNoCa,
        (32, _) => SvidError::SignerMayNotSign,
        _ => SvidError::Chain(result.error_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        Bundle, IdError, Svid,
        certificates::{HOUR, Issued, Order, authority, breakable_key, self_signed, signer, svid},
        parse_trust_domain,
    };

    const ID: &str = "spiffe://mesh.local/payments";

    fn bundle(trust_domain: &str, authorities: &[&Issued]) -> Bundle {
        let authorities = authorities.iter().map(|issued| issued.certificate.clone()).collect();
        Bundle::new(parse_trust_domain(trust_domain).unwrap(), authorities).unwrap()
    }

    fn check(leaf: &Issued, between: &[&Issued], bundles: &Bundles) -> Result<String, SvidError> {
        let between: Vec<X509> = between.iter().map(|issued| issued.certificate.clone()).collect();
        verify(&leaf.certificate, &between, bundles, SystemTime::now()).map(|id| id.to_string())
    }

    fn mesh() -> (Issued, Bundles) {
        let root = authority("mesh.local");
        let bundles = Bundles::from_iter([bundle("mesh.local", &[&root])]);
        (root, bundles)
    }

    fn domain() -> TrustDomain {
        parse_trust_domain("mesh.local").unwrap()
    }

    #[test]
    fn an_svid_is_who_its_bundle_says() {
        let (root, bundles) = mesh();
        assert_eq!(check(&root.issue(&svid(ID)), &[], &bundles), Ok(ID.into()));
        let dns = Order { dns: vec!["payments.internal".into()], ..svid(ID) };
        assert_eq!(check(&root.issue(&dns), &[], &bundles), Ok(ID.into()));
        let plain = Order { extended_key_usage: None, ..svid(ID) };
        assert_eq!(check(&root.issue(&plain), &[], &bundles), Ok(ID.into()));
        let rsa = Order { key_usage: Some(vec!["digitalSignature", "keyEncipherment"]), ..svid(ID) };
        assert_eq!(check(&root.issue(&rsa), &[], &bundles), Ok(ID.into()));
    }

    #[test]
    fn a_chain_may_pass_through_signers_of_its_trust_domain() {
        let (root, bundles) = mesh();
        let one = root.issue(&Order { subject: "one".into(), ..signer("mesh.local") });
        let two = one.issue(&Order { subject: "two".into(), uris: Vec::new(), ..signer("mesh.local") });
        let leaf = two.issue(&svid(ID));
        assert_eq!(check(&leaf, &[&two, &one], &bundles), Ok(ID.into()));
        assert_eq!(check(&leaf, &[&one, &two, &root], &bundles), Ok(ID.into()), "in any order, and more");
        assert_eq!(check(&leaf, &[&two], &bundles), Err(SvidError::NotTrusted(domain())));
        // What stands in a bundle is trusted, self-signed or not.
        let partial = Bundles::from_iter([bundle("mesh.local", &[&one])]);
        assert_eq!(check(&leaf, &[&two], &partial), Ok(ID.into()));
    }

    #[test]
    fn a_key_that_can_be_broken_is_refused_wherever_in_a_chain_it_is() {
        let broken = |order: Order| Order { key: Some(breakable_key()), ..order };
        let (root, bundles) = mesh();
        assert_eq!(check(&root.issue(&broken(svid(ID))), &[], &bundles), Err(SvidError::BrokenKey));
        let between = root.issue(&broken(signer("mesh.local")));
        assert_eq!(check(&between.issue(&svid(ID)), &[&between], &bundles), Err(SvidError::BrokenKey));
        let root = self_signed(&broken(signer("mesh.local")));
        let bundles = Bundles::from_iter([bundle("mesh.local", &[&root])]);
        assert_eq!(check(&root.issue(&svid(ID)), &[], &bundles), Err(SvidError::BrokenKey));
        let ours = self_signed(&broken(svid(ID)));
        assert_eq!(Svid::new(vec![ours.certificate], ours.key).unwrap_err(), SvidError::BrokenKey);
    }

    #[test]
    fn a_leaf_that_breaks_a_rule_is_refused_with_the_rule() {
        let (root, bundles) = mesh();
        let with = |change: &dyn Fn(&mut Order)| {
            let mut order = svid(ID);
            change(&mut order);
            root.issue(&order)
        };
        let uris = |uris: &[&str]| {
            let uris: Vec<String> = uris.iter().map(|uri| (*uri).to_owned()).collect();
            with(&move |order| order.uris = uris.clone())
        };
        let usage = |usage: &[&'static str]| with(&|order| order.key_usage = Some(usage.to_vec()));
        let extended =
            |usage: &[&'static str]| with(&|order| order.extended_key_usage = Some(usage.to_vec()));
        for (leaf, expected) in [
            (uris(&[]), SvidError::NoId),
            (uris(&[ID, "spiffe://mesh.local/orders"]), SvidError::SeveralUris(2)),
            (uris(&[ID, ID]), SvidError::SeveralUris(2)),
            (uris(&[ID, "https://example.com/"]), SvidError::SeveralUris(2)),
            (uris(&["spiffe://mesh.local"]), SvidError::NoPath),
            (uris(&["SPIFFE://mesh.local/payments"]), SvidError::BadId(IdError::UpperCase)),
            (usage(&["digitalSignature", "keyCertSign"]), SvidError::LeafSigns("keyCertSign")),
            (usage(&["digitalSignature", "cRLSign"]), SvidError::LeafSigns("cRLSign")),
            (usage(&["keyEncipherment"]), SvidError::NoDigitalSignature),
            (with(&|order| order.key_usage = None), SvidError::NoKeyUsage),
            (with(&|order| order.ca = Some(None)), SvidError::LeafIsCa),
            (extended(&["serverAuth"]), SvidError::ExtendedKeyUsage),
            (extended(&["clientAuth"]), SvidError::ExtendedKeyUsage),
            (extended(&["codeSigning"]), SvidError::ExtendedKeyUsage),
        ] {
            assert_eq!(check(&leaf, &[], &bundles), Err(expected));
        }
        for uri in [
            "https://mesh.local/payments",
            "spiffe://mesh.local/payments/",
            "spiffe://mesh.local/a/../payments",
            "spiffe://mesh.local/payments?admin",
            "spiffe://mesh.local:443/payments",
            "spiffe://x@mesh.local/payments",
            "spiffe://mesh.local/p%61yments",
        ] {
            let refused = check(&uris(&[uri]), &[], &bundles);
            assert!(matches!(refused, Err(SvidError::BadId(_))), "{uri}: {refused:?}");
        }
    }

    #[test]
    fn only_the_bundle_of_its_own_trust_domain_is_asked() {
        let (ours, theirs) = (authority("mesh.local"), authority("other.org"));
        let both = Bundles::from_iter([bundle("mesh.local", &[&ours]), bundle("other.org", &[&theirs])]);
        let forged = theirs.issue(&svid(ID));
        assert_eq!(check(&forged, &[], &both), Err(SvidError::NotTrusted(domain())));
        assert_eq!(check(&forged, &[&theirs], &both), Err(SvidError::NotTrusted(domain())));
        let foreign = theirs.issue(&svid("spiffe://other.org/x"));
        assert_eq!(check(&foreign, &[], &both), Ok("spiffe://other.org/x".into()));
        let alone = Bundles::from_iter([bundle("mesh.local", &[&ours])]);
        let other = parse_trust_domain("other.org").unwrap();
        assert_eq!(check(&foreign, &[], &alone), Err(SvidError::UnknownTrustDomain(other)));
        // Signed by an authority of ours, but for a member of another trust domain.
        let forged = ours.issue(&svid("spiffe://other.org/x"));
        assert!(check(&forged, &[], &both).is_err());
    }

    #[test]
    fn nobody_vouches_for_oneself() {
        let (_, bundles) = mesh();
        assert_eq!(check(&self_signed(&svid(ID)), &[], &bundles), Err(SvidError::NotTrusted(domain())));
        // The same name as the real one, and another key.
        let lookalike = authority("mesh.local");
        let refused = check(&lookalike.issue(&svid(ID)), &[&lookalike], &bundles);
        assert_eq!(refused, Err(SvidError::NotTrusted(domain())));
    }

    #[test]
    fn signers_have_rules_too() {
        let (root, bundles) = mesh();
        let through = |order: Order| {
            let between = root.issue(&Order { subject: "between".into(), ..order });
            check(&between.issue(&svid(ID)), &[&between], &bundles).unwrap_err()
        };
        assert_eq!(through(svid("spiffe://mesh.local/a")), SvidError::SignerIsNoCa);
        let uri = |uri: &str| Order { uris: vec![uri.into()], ..signer("mesh.local") };
        assert_eq!(through(uri("spiffe://mesh.local/ca")), SvidError::SignerHasPath);
        assert_eq!(through(uri("spiffe://other.org")), SvidError::ForeignSigner);
        let usage = Some(vec!["cRLSign"]);
        // OpenSSL calls nothing a CA that may not sign certificates.
        assert_eq!(through(Order { key_usage: usage, ..signer("mesh.local") }), SvidError::SignerIsNoCa);
        let refused = through(Order { key_usage: None, ..signer("mesh.local") });
        assert_eq!(refused, SvidError::SignerMayNotSign);
    }

    #[test]
    fn a_path_length_holds() {
        let root = self_signed(&Order { ca: Some(Some(0)), ..signer("mesh.local") });
        let bundles = Bundles::from_iter([bundle("mesh.local", &[&root])]);
        assert!(check(&root.issue(&svid(ID)), &[], &bundles).is_ok());
        let between = root.issue(&Order { subject: "between".into(), ..signer("mesh.local") });
        let leaf = between.issue(&svid(ID));
        assert_eq!(check(&leaf, &[&between], &bundles), Err(SvidError::PathTooLong));
    }

    #[test]
    fn validity_is_judged_at_the_time_passed_in() {
        let now = SystemTime::now();
        let root = self_signed(&Order { not_before: now - 9 * HOUR, ..signer("mesh.local") });
        let bundles = Bundles::from_iter([bundle("mesh.local", &[&root])]);
        let leaf = root.issue(&Order { not_after: now + HOUR / 2, ..svid(ID) });
        let at = |now| verify(&leaf.certificate, &[], &bundles, now).map(|_| ());
        assert_eq!(at(now), Ok(()));
        assert_eq!(at(now + HOUR * 3 / 4), Err(SvidError::Expired));
        assert_eq!(at(now - HOUR * 2), Err(SvidError::NotYetValid));
        assert_eq!(at(UNIX_EPOCH - HOUR), Err(SvidError::SignerNotYetValid));
        let long = root.issue(&Order { not_after: now + 9 * HOUR, ..svid(ID) });
        let outlived = verify(&long.certificate, &[], &bundles, now + 5 * HOUR);
        assert_eq!(outlived, Err(SvidError::SignerExpired));
    }

    #[test]
    fn a_signature_is_its_issuers() {
        let (root, bundles) = mesh();
        let der = root.issue(&svid(ID)).certificate.to_der().unwrap();
        let mut broken = der.clone();
        *broken.last_mut().unwrap() ^= 1;
        let broken = X509::from_der(&broken).unwrap();
        let refused = verify(&broken, &[], &bundles, SystemTime::now());
        assert!(matches!(refused, Err(SvidError::BadSignature | SvidError::Chain(_))), "{refused:?}");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let (root, bundles) = mesh();
        let der = root.issue(&svid(ID)).certificate.to_der().unwrap();
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..5_000 {
            let mut broken = der.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..broken.len());
                broken[at] = rng.u8(..);
            }
            // One that can be read and differs is never who it says.
            if broken != der
                && let Ok(certificate) = X509::from_der(&broken)
            {
                assert!(verify(&certificate, &[], &bundles, SystemTime::now()).is_err());
            }
        }
    }
}
