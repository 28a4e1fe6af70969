//! Which lines keep somebody out. None of these may be passed over in silence: what nginx had closed would be open.

use super::parser::Directive;

/// Our filters have no equal of these: a route that one of them guards is closed.
pub(super) const FOREIGN: [&str; 14] = [
    "access_by_lua",
    "access_by_lua_block",
    "access_by_lua_file",
    "auth_digest",
    "auth_gss",
    "auth_jwt",
    "auth_jwt_require",
    "auth_ldap",
    "auth_oidc",
    "auth_pam",
    "js_access",
    "secure_link",
    "secure_link_secret",
    "auth_require",
];

const NAMES: [&str; 13] = [
    "allow",
    "deny",
    "satisfy",
    "auth_basic",
    "auth_request",
    "limit_except",
    "limit_req",
    "limit_conn",
    "ssl_verify_client",
    "internal",
    "valid_referers",
    "ssl_crl",
    "secure_link_md5",
];

pub(super) fn is_guard(name: &str) -> bool {
    NAMES.contains(&name) || FOREIGN.contains(&name) || name.starts_with("auth_jwt")
}

/// `return 403`, and what else turns clients away.
pub(super) fn refuses(directive: &Directive) -> bool {
    directive.name == "return" && directive.first().parse::<u16>().is_ok_and(|status| status >= 400)
}

/// The first line by which a block of its own keeps somebody out, those under its `if` included.
pub(super) fn first_of(block: &[Directive]) -> Option<&Directive> {
    block.iter().find(|one| {
        is_guard(&one.name) && one.first() != "off"
            || refuses(one)
            || one.name == "if" && one.inside().iter().any(refuses)
    })
}

/// The same for a server, with its locations.
pub(super) fn is_within(block: &[Directive]) -> bool {
    let mut locations = block.iter().filter(|one| one.name == "location");
    first_of(block).is_some() || locations.any(|one| is_within(one.inside()))
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn a_guard_that_nobody_has_read_is_left() {
        let (_, left) =
            converted("server { listen 80; deny 10.0.0.1; ssl_verify_client on; return 301 /x; }");
        assert!(left.contains("deny 10.0.0.1 (") && left.contains("ssl_verify_client on ("), "{left}");
    }
}
