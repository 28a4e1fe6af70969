//! What OpenSSL has and the crates do not, declared once. Each is called from one place, which says why it may.

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};

/// `OSSL_PARAM` of openssl/core.h.
#[repr(C)]
pub(super) struct Parameter {
    pub key: *const c_char,
    pub data_type: c_uint,
    pub data: *const c_void,
    pub data_size: usize,
    pub return_size: usize,
}

/// `OSSL_PARAM_UTF8_STRING`.
pub(super) const UTF8_STRING: c_uint = 4;
/// `SSL_RECEIVED_SHUTDOWN` of openssl/ssl.h.
pub(super) const RECEIVED_SHUTDOWN: c_int = 2;

/// Of SSL_CTX_set_tlsext_ticket_key_evp_cb(3).
pub(super) type TicketCallback =
    unsafe extern "C" fn(*mut c_void, *mut c_uchar, *mut c_uchar, *mut c_void, *mut c_void, c_int) -> c_int;

unsafe extern "C" {
    pub(super) fn SSL_CTX_set_tlsext_ticket_key_evp_cb(
        context: *mut c_void,
        callback: TicketCallback,
    ) -> c_int;
    pub(super) fn SSL_get_options(ssl: *const c_void) -> u64;
    pub(super) fn SSL_get_shutdown(ssl: *const c_void) -> c_int;
    pub(super) fn SSL_clear_options(ssl: *mut c_void, options: u64) -> u64;
    pub(super) fn X509_STORE_add_crl(store: *mut c_void, crl: *mut c_void) -> c_int;
    pub(super) fn EVP_aes_256_cbc() -> *const c_void;
    pub(super) fn EVP_EncryptInit_ex(
        cipher: *mut c_void,
        kind: *const c_void,
        engine: *mut c_void,
        key: *const c_uchar,
        iv: *const c_uchar,
    ) -> c_int;
    pub(super) fn EVP_DecryptInit_ex(
        cipher: *mut c_void,
        kind: *const c_void,
        engine: *mut c_void,
        key: *const c_uchar,
        iv: *const c_uchar,
    ) -> c_int;
    pub(super) fn EVP_MAC_init(
        mac: *mut c_void,
        key: *const c_uchar,
        length: usize,
        parameters: *const Parameter,
    ) -> c_int;
}
