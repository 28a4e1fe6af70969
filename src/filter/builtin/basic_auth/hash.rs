//! Password hashes: bcrypt, and Argon2 in the form of its PHC string. Both are slow on purpose, and both say how slow;
//! what would take a verification hostage is refused. Hashes that a stolen file gives away in an afternoon are, too.

use argon2::{Argon2, Params, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};

/// Verifying takes a moment: see [`Hash::effort`].
#[derive(Debug)]
pub(crate) struct Hash {
    kind: Kind,
    text: Box<str>,
}

#[derive(Debug)]
enum Kind {
    /// Two to the power of this many rounds.
    Bcrypt(u32),
    Argon2 {
        kib: u32,
        passes: u32,
    },
}

/// 2^15 rounds take two seconds.
const MOST_BCRYPT: u32 = 15;
/// 256 MiB for each verification under way.
const MOST_KIB: u32 = 256 * 1024;
const MOST_PASSES: u32 = 32;
const MOST_LANES: u32 = 16;

/// bcrypt looks no further.
const LONGEST_BCRYPT: usize = 72;

const HINT: &str = "make one with `tidegate hash-password`, or with `htpasswd -nB NAME`";

/// A function that passwords are hashed by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HashKind {
    Argon2id,
    Bcrypt { cost: u32 },
}

/// What stands in a configuration in the place of `password`: with a salt of its own each time.
///
/// # Errors
///
/// The function cannot take all of the password. It is not repeated.
pub(crate) fn hash_password(password: &str, kind: HashKind) -> Result<String, String> {
    let mut salt = [0; 16];
    openssl::rand::rand_bytes(&mut salt).map_err(|error| format!("no random salt: {error}"))?;
    match kind {
        HashKind::Argon2id => {
            let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
            hashed.map(|hash| hash.to_string()).map_err(|error| error.to_string())
        }
        HashKind::Bcrypt { .. } if password.len() > LONGEST_BCRYPT => Err(format!(
            "bcrypt looks at {LONGEST_BCRYPT} bytes of a password, and this one has {} (use argon2id)",
            password.len()
        )),
        HashKind::Bcrypt { .. } if password.contains('\0') => {
            Err("bcrypt ends at a zero byte, and this password has one (use argon2id)".to_owned())
        }
        HashKind::Bcrypt { cost } => {
            let hashed = bcrypt::hash_with_salt(password, cost, salt);
            hashed.map(|hash| hash.to_string()).map_err(|error| error.to_string())
        }
    }
}

impl Hash {
    /// # Errors
    ///
    /// What kind of hash it is instead. It is not repeated: it may be a password.
    pub(crate) fn parse(text: &str) -> Result<Hash, String> {
        let kind = match text {
            _ if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) => bcrypt(text)?,
            _ if text.starts_with("$argon2") => argon2(text)?,
            _ => return Err(format!("{}; only bcrypt and Argon2 are taken ({HINT})", weak(text))),
        };
        Ok(Hash { kind, text: text.into() })
    }

    /// Takes as long as the hash says, whatever the password: not for a thread that serves requests.
    pub(crate) fn verifies(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Bcrypt(_) => bcrypt::verify(password, &self.text).unwrap_or(false),
            Kind::Argon2 { .. } => Argon2::default().verify_password(password, &*self.text).is_ok(),
        }
    }

    /// About how many microseconds a verification takes.
    pub(crate) fn effort(&self) -> u64 {
        match self.kind {
            Kind::Bcrypt(cost) => 60 << cost,
            Kind::Argon2 { kib, passes } => u64::from(kib) * u64::from(passes),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn bcrypt(text: &str) -> Result<Kind, String> {
    let parts = (text.len() == 60).then(|| text.parse::<bcrypt::HashParts>().ok()).flatten();
    let parts = parts.ok_or_else(|| format!("it looks like bcrypt, but is cut off or damaged ({HINT})"))?;
    match parts.get_cost() {
        cost @ 4..=MOST_BCRYPT => Ok(Kind::Bcrypt(cost)),
        cost => Err(format!(
            "its bcrypt cost is {cost}: from 4 to {MOST_BCRYPT} are taken, 10 to 12 are usual ({HINT})"
        )),
    }
}

fn argon2(text: &str) -> Result<Kind, String> {
    let damaged = || format!("it looks like Argon2, but is cut off or damaged ({HINT})");
    let hash = PasswordHash::new(text).map_err(|_| damaged())?;
    let known = ["argon2id", "argon2i", "argon2d"].contains(&hash.algorithm.as_str());
    if !known || hash.salt.is_none() || hash.hash.is_none() {
        return Err(damaged());
    }
    let params = Params::try_from(&hash).map_err(|_| damaged())?;
    if params.m_cost() > MOST_KIB || params.t_cost() > MOST_PASSES || params.p_cost() > MOST_LANES {
        return Err(format!(
            "it asks for more than {MOST_KIB} KiB, {MOST_PASSES} passes or {MOST_LANES} lanes (m=19456,t=2,p=1 is usual)"
        ));
    }
    Ok(Kind::Argon2 { kib: params.m_cost(), passes: params.t_cost() })
}

fn weak(text: &str) -> &'static str {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
    match () {
        () if begins(&["$apr1$", "$1$"]) => "it is an MD5 hash",
        () if begins(&["{SHA}", "{SSHA}"]) => "it is a SHA-1 hash",
        () if begins(&["$5$", "$6$", "$y$", "$7$", "$2x$", "$2$"]) => "it is a hash of crypt's",
        () => "it is no password hash, or a DES one",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of `open sesame`.
    pub(crate) fn argon2id() -> String {
        use argon2::{Algorithm, PasswordHasher, Version};
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        hasher.hash_password_with_salt(b"open sesame", b"0123456789abcdef").unwrap().to_string()
    }

    pub(crate) fn bcrypt_of(password: &str) -> String {
        bcrypt::hash_with_salt(password, 4, *b"0123456789abcdef").unwrap().to_string()
    }

    #[test]
    fn knows_the_right_password_from_others() {
        for text in [bcrypt_of("open sesame"), bcrypt_of("open sesame").replace("$2b$", "$2y$"), argon2id()] {
            let hash = Hash::parse(&text).unwrap();
            for (password, right) in
                [("open sesame", true), ("open sesam", false), ("", false), ("open sesame\0", false)]
            {
                assert_eq!(hash.verifies(password.as_bytes()), right, "{text} {password:?}");
            }
        }
    }

    #[test]
    fn refuses_weak_damaged_and_boundless_hashes_without_repeating_them() {
        let bcrypt = bcrypt_of("x");
        for (text, message) in [
            ("$apr1$abcdefgh$0123456789abcdefghijk/".to_owned(), "MD5"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), "SHA-1"),
            ("$6$salt$hash".to_owned(), "crypt"),
            ("hunter2".to_owned(), "no password hash"),
            (String::new(), "no password hash"),
            (bcrypt[..59].to_owned(), "cut off"),
            (format!("{bcrypt}x"), "cut off"),
            (bcrypt.replace("$04$", "$31$"), "its bcrypt cost is 31"),
            (bcrypt.replace("$04$", "$03$"), "its bcrypt cost is 3"),
            ("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ".to_owned(), "cut off"),
            (argon2id().replace("m=64", "m=4194304"), "it asks for more"),
            (argon2id().replace("t=1", "t=1000"), "it asks for more"),
            (argon2id().replace("argon2id", "argon2x"), "cut off"),
        ] {
            let why = Hash::parse(&text).unwrap_err();
            assert!(why.contains(message), "{text}: {why}");
            assert!(text.is_empty() || !why.contains(&text), "{why}");
        }
    }

    #[test]
    fn what_is_made_is_taken_and_no_two_are_alike() {
        for kind in [HashKind::Argon2id, HashKind::Bcrypt { cost: 4 }] {
            let [first, second] = [(), ()].map(|()| hash_password("open sesame", kind).unwrap());
            assert_ne!(first, second);
            let hash = Hash::parse(&first).unwrap();
            assert!(hash.verifies(b"open sesame") && !hash.verifies(b"open sesam"));
        }
        let long = "x".repeat(LONGEST_BCRYPT + 1);
        for password in [long.as_str(), "a\0b"] {
            let why = hash_password(password, HashKind::Bcrypt { cost: 4 }).unwrap_err();
            assert!(why.contains("argon2id") && !why.contains(password), "{why}");
        }
        assert!(
            Hash::parse(&hash_password(&long, HashKind::Argon2id).unwrap())
                .unwrap()
                .verifies(long.as_bytes())
        );
    }
}
