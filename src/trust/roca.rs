//! RSA keys that a flawed library of Infineon's made (ROCA, CVE-2017-15361): their primes are k * M + 65537^a mod M, with M the
//! product of the first primes, so the private key can be found from the public one.
//!
//! That structure shows in the modulus: for each of those primes it is a power of 65537. One that is so by chance is rarer than
//! one in a hundred million.

use openssl::{
    pkey::{HasPublic, PKeyRef},
    x509::{X509Ref, X509StoreContextRef, X509VerifyResult},
};

/// What is wrong with such a key, for the operator.
pub(crate) const ROCA: &str =
    "its RSA key is one of those that can be broken (ROCA, CVE-2017-15361); make a new one";

/// The odd primes in the M of the smallest keys.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const GENERATOR: u32 = 65_537;

/// OpenSSL's callback, for whatever is verified: it is called for what is wrong with a chain, and for each certificate of it
/// once that is fine, those of authorities among them.
pub(crate) fn is_sound(is_fine: bool, context: &mut X509StoreContextRef) -> bool {
    if is_fine && context.current_cert().is_some_and(has_broken_key) {
        context.set_error(rejected());
        return false;
    }
    is_fine
}

/// X509_V_ERR_CERT_REJECTED, for which OpenSSL sends the alert `bad_certificate`.
pub(crate) fn rejected() -> X509VerifyResult {
    // SAFETY: it wraps the number, and this is one of openssl/x509_vfy.h.
    unsafe { X509VerifyResult::from_raw(28) }
}

/// Whether others can have its private key.
pub(crate) fn has_broken_key(certificate: &X509Ref) -> bool {
    certificate.public_key().is_ok_and(|key| is_roca(&key))
}

pub(crate) fn is_roca<T: HasPublic>(key: &PKeyRef<T>) -> bool {
    key.rsa().is_ok_and(|rsa| is_roca_modulus(&rsa.n().to_vec()))
}

/// `modulus` in big-endian bytes.
pub(crate) fn is_roca_modulus(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| ((rest << 8) | u32::from(*byte)) % prime);
        powers(*prime).any(|power| power == rest)
    })
}

/// Of the generator, each once.
fn powers(prime: u32) -> impl Iterator<Item = u32> {
    let next = move |power: &u32| Some(power * (GENERATOR % prime) % prime).filter(|next| *next != 1);
    std::iter::successors(Some(1), next)
}

#[cfg(test)]
mod tests {
    use openssl::{bn::BigNum, bn::BigNumContext, pkey::PKey, rsa::Rsa};

    use super::*;

    /// k * M + 65537^a mod M, of 2048 bits.
    fn flawed(a: u32) -> Vec<u8> {
        let mut context = BigNumContext::new().unwrap();
        let mut product = BigNum::from_u32(2).unwrap();
        PRIMES.iter().for_each(|prime| product.mul_word(*prime).unwrap());
        let (generator, power) = (BigNum::from_u32(GENERATOR).unwrap(), BigNum::from_u32(a).unwrap());
        let mut rest = BigNum::new().unwrap();
        rest.mod_exp(&generator, &power, &product, &mut context).unwrap();
        let (mut factor, mut modulus) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        factor.lshift(BigNum::from_u32(a | 1).unwrap().as_ref(), 1800).unwrap();
        modulus.checked_mul(&factor, &product, &mut context).unwrap();
        modulus.add_word(0).unwrap();
        let mut sum = BigNum::new().unwrap();
        sum.checked_add(&modulus, &rest).unwrap();
        sum.to_vec()
    }

    #[test]
    fn moduli_of_the_flawed_library_are_told_from_others() {
        (1..50).for_each(|a| assert!(is_roca_modulus(&flawed(a)), "{a}"));
        for _ in 0..4 {
            let sound = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
            assert!(!is_roca(&sound));
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let odd: Vec<u8> = (0..256).map(|_| random.u8(..) | 1).collect();
            assert!(!is_roca_modulus(&odd));
        }
    }
}
