//! Keys of session tickets that several gateways share (RFC 5077, section 4; RFC 8446, section 4.6.1), so that a client may come back
//! to any of them.
//!
//! Each key is what nginx and HAProxy have too: a name, a key for HMAC-SHA256 and one for AES-256-CBC. OpenSSL asks for them
//! by a callback that the crates do not have.

use std::{
    ffi::{CStr, c_int, c_uchar, c_void},
    path::Path,
    ptr,
    sync::{Arc, LazyLock},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use openssl::{
    error::ErrorStack,
    ex_data::Index,
    rand::rand_bytes,
    sha::sha256,
    ssl::{SslContext, SslContextBuilder, SslRef},
};

use super::{
    certificate::{Part, Unusable, read, unreadable},
    ffi::{
        EVP_DecryptInit_ex, EVP_EncryptInit_ex, EVP_MAC_init, EVP_aes_256_cbc, Parameter,
        SSL_CTX_set_tlsext_ticket_key_evp_cb, UTF8_STRING,
    },
};

const NAME: usize = 16;
const IV: usize = 16;
const SECRET: usize = 32;
const LENGTH: usize = NAME + 2 * SECRET;
/// More than anybody has in use at once.
const MOST_KEYS: usize = 16;

/// The first writes tickets, all read them.
#[derive(Clone)]
pub(crate) struct TicketKeys(Arc<[Key]>);

struct Key {
    name: [u8; NAME],
    hmac: [u8; SECRET],
    aes: [u8; SECRET],
}

impl Key {
    fn of(bytes: &[u8; LENGTH]) -> Key {
        let (mut name, mut hmac, mut aes) = ([0; NAME], [0; SECRET], [0; SECRET]);
        name.copy_from_slice(&bytes[..NAME]);
        hmac.copy_from_slice(&bytes[NAME..NAME + SECRET]);
        aes.copy_from_slice(&bytes[NAME + SECRET..]);
        Key { name, hmac, aes }
    }
}

impl TicketKeys {
    /// # Errors
    ///
    /// The file cannot be read, or a line is no key.
    pub(crate) fn read(file: &Path) -> Result<TicketKeys, Unusable> {
        let text = read(file).map_err(|error| Unusable {
            part: Part::Key,
            message: unreadable(file, &error),
            hint: "it must exist and be readable",
        })?;
        TicketKeys::parse(&text).map_err(|message| Unusable {
            part: Part::Key,
            message: format!("{}: {message}", file.display()),
            hint: "a key is a line of 80 bytes in base64: `openssl rand -base64 80 | tr -d '\\n'`",
        })
    }

    fn parse(text: &[u8]) -> Result<TicketKeys, String> {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate();
        let written = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"));
        let keys: Vec<Key> = written
            .map(|(at, line)| {
                let bytes =
                    BASE64_STANDARD.decode(line).map_err(|_| format!("line {} is no base64", at + 1))?;
                let length = bytes.len();
                let bytes = <&[u8; LENGTH]>::try_from(bytes.as_slice())
                    .map_err(|_| format!("line {} has {length} bytes instead of {LENGTH}", at + 1))?;
                Ok(Key::of(bytes))
            })
            .collect::<Result<_, String>>()?;
        match keys.len() {
            0 => Err("there is no key in it".to_owned()),
            1..=MOST_KEYS => Ok(TicketKeys(keys.into())),
            many => Err(format!("{many} keys are more than {MOST_KEYS}")),
        }
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let all: Vec<u8> =
            self.0.iter().flat_map(|key| [&key.name[..], &key.hmac, &key.aes].concat()).collect();
        sha256(&all)
    }

    /// Tickets of the context are written and read with these.
    pub(crate) fn install(&self, context: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let index = (*INDEX).ok_or_else(ErrorStack::get)?;
        context.set_ex_data(index, self.clone());
        // SAFETY: the context is alive, and the callback keeps to what OpenSSL demands of it.
        let set = unsafe { SSL_CTX_set_tlsext_ticket_key_evp_cb(context.as_ptr().cast(), on_ticket) };
        if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
    }
}

static INDEX: LazyLock<Option<Index<SslContext, TicketKeys>>> =
    LazyLock::new(|| SslContext::new_ex_index().ok());

const DIGEST: &CStr = c"digest";
const SHA256: &CStr = c"SHA256";

/// What the callback answers (openssl, SSL_CTX_set_tlsext_ticket_key_evp_cb(3)).
const FAILED: c_int = -1;
/// No ticket is written; one that was shown is not known, and the whole handshake follows.
const NONE: c_int = 0;
const DONE: c_int = 1;
/// The ticket is good, and another one is to be written.
const RENEW: c_int = 2;

/// # Safety
///
/// As OpenSSL calls it: `name` and `iv` have 16 bytes each, and all is alive.
unsafe extern "C" fn on_ticket(
    ssl: *mut c_void,
    name: *mut c_uchar,
    iv: *mut c_uchar,
    cipher: *mut c_void,
    mac: *mut c_void,
    writes: c_int,
) -> c_int {
    // SAFETY: this is how the crate makes its references, too; OpenSSL's own lives longer than the call.
    let (ssl, name, iv) = unsafe {
        (
            &*ssl.cast::<SslRef>(),
            std::slice::from_raw_parts_mut(name, NAME),
            std::slice::from_raw_parts_mut(iv, IV),
        )
    };
    let Some(keys) = INDEX.and_then(|index| ssl.ssl_context().ex_data(index)) else { return NONE };
    let Some(first) = keys.0.first() else { return NONE };
    let (key, done) = if writes == 1 {
        name.copy_from_slice(&first.name);
        if rand_bytes(iv).is_err() {
            return FAILED;
        }
        (first, DONE)
    } else {
        match keys.0.iter().position(|key| key.name == *name) {
            Some(0) => (first, DONE),
            Some(at) => (&keys.0[at], RENEW),
            None => return NONE,
        }
    };
    let digest = [
        Parameter {
            key: DIGEST.as_ptr(),
            data_type: UTF8_STRING,
            data: SHA256.as_ptr().cast(),
            data_size: SHA256.count_bytes(),
            return_size: 0,
        },
        Parameter { key: ptr::null(), data_type: 0, data: ptr::null(), data_size: 0, return_size: 0 },
    ];
    // SAFETY: both contexts are OpenSSL's, the key has the cipher's length, and all lives longer than the calls.
    let ready = unsafe {
        let begin = if writes == 1 { EVP_EncryptInit_ex } else { EVP_DecryptInit_ex };
        EVP_MAC_init(mac, key.hmac.as_ptr(), SECRET, digest.as_ptr()) == 1
            && begin(cipher, EVP_aes_256_cbc(), ptr::null_mut(), key.aes.as_ptr(), iv.as_ptr()) == 1
    };
    if ready { done } else { FAILED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_key_and_what_is_none_is_named() {
        let line = |byte: u8| BASE64_STANDARD.encode([byte; LENGTH]);
        let keys = TicketKeys::parse(format!("# new\n{}\n\n  {}  \n", line(1), line(2)).as_bytes()).unwrap();
        assert_eq!(keys.0.len(), 2);
        assert_eq!((keys.0[0].name, keys.0[1].aes), ([1; NAME], [2; SECRET]));
        let alone = TicketKeys::parse(line(1).as_bytes()).unwrap();
        assert_ne!(alone.fingerprint(), keys.fingerprint());
        for (text, says) in [
            (String::new(), "there is no key in it"),
            ("# none\n".to_owned(), "there is no key in it"),
            (format!("{}\nnot base64!", line(1)), "line 2 is no base64"),
            (BASE64_STANDARD.encode([1; 48]), "line 1 has 48 bytes instead of 80"),
            (vec![line(1); 17].join("\n"), "17 keys are more than 16"),
        ] {
            assert_eq!(TicketKeys::parse(text.as_bytes()).err().as_deref(), Some(says));
        }
    }
}
