//! `affinity` of upstreams: cookies that browsers would drop, keys that can be guessed, and what contradicts it.

use std::time::Duration;

use super::Compiler;
use crate::config::{self, CookieAttributes, Path, SameSite};

/// Of a secret: what 32 random characters are, nobody tries.
const SHORTEST_KEY: usize = 32;
const MOST_KEYS: usize = 4;
/// It has to fit into a header beside what endpoints set.
const LONGEST_NAME: usize = 128;

impl Compiler<'_> {
    pub(super) fn affinity(&mut self, upstream: &config::Upstream, at: &Path) {
        let Some(affinity) = &upstream.affinity else { return };
        let at = &at.key("affinity");
        if let config::Balancer::Hash(_) = upstream.balancer {
            let message = "`affinity` and `balancer: {hash: ...}` both say where a client belongs";
            self.refuse_with_hint(at, message, "remove one of the two");
        }
        if upstream.original_destination {
            let message = "`affinity` goes with no `original_destination`";
            self.refuse_with_hint(at, message, "remove one of the two");
        }
        match affinity {
            config::Affinity::Cookie(cookie) => self.affinity_cookie(cookie, &at.key("cookie")),
            config::Affinity::Header(header) => self.affinity_header(header, &at.key("header")),
        }
    }

    fn affinity_cookie(&mut self, cookie: &config::AffinityCookie, at: &Path) {
        // What it is to a client over TLS, unless it says otherwise.
        self.cookie(cookie.attributes(true), at);
        for (index, key) in cookie.keys.iter().enumerate() {
            if key.expose().len() < SHORTEST_KEY {
                let message = format!("a key of {} characters can be guessed", key.expose().len());
                let hint = format!("{SHORTEST_KEY} or more: `openssl rand -base64 32`");
                self.refuse_with_hint(&at.key("keys").index(index), message, hint);
            }
        }
        if cookie.keys.len() > MOST_KEYS {
            let message = format!("{} keys are more than {MOST_KEYS}", cookie.keys.len());
            self.refuse_with_hint(&at.key("keys"), message, "one signs, and one is on its way out");
        }
        if cookie.keys.is_empty()
            && self.config.state_dir.is_none()
            && !self.sources.is_doubtful(&Path::root().key("state_dir"))
        {
            let message = "without `keys` and `state_dir` each restart and each upgrade moves all sessions";
            let hint = "add `state_dir: /var/lib/tidegate` at the top level, or `keys`";
            self.warn("affinity_not_kept", at, message, hint);
        }
    }

    fn affinity_header(&mut self, header: &config::AffinityHeader, at: &Path) {
        match http::HeaderName::try_from(&header.name) {
            Ok(name) if name == http::header::COOKIE || name == http::header::SET_COOKIE => {
                self.refuse_with_hint(at, "cookies are not read here", "write `affinity: {cookie: NAME}`");
            }
            Ok(_) => {}
            Err(_) => self.refuse(at, format!("`{}` is not the name of a header", header.name)),
        }
        self.refuse_zero(&at.key("ttl"), header.ttl);
    }

    /// A cookie that the gateway gives out.
    pub(super) fn cookie(&mut self, attributes: CookieAttributes<'_>, at: &Path) {
        let CookieAttributes { name, path, max_age, same_site, secure } = attributes;
        // It is a token, as the name of a header is (RFC 6265, section 4.1.1).
        if http::HeaderName::try_from(name).is_err() || name.len() > LONGEST_NAME {
            self.refuse(at, format!("`{name}` is not the name of a cookie"));
        }
        if !path.starts_with('/') || path.bytes().any(|byte| byte == b';' || !(b' '..=b'~').contains(&byte)) {
            let message = format!("`{path}` is not a path that a cookie can have");
            self.refuse_with_hint(&at.key("path"), message, "it begins with `/` and has no `;`");
        }
        if max_age.is_some_and(|age| Duration::from(age).as_secs() == 0) {
            let message = "browsers drop a cookie that lasts for less than a second";
            self.refuse_with_hint(&at.key("max_age"), message, "leave it out: as long as the browser runs");
        }
        if same_site == SameSite::None && !secure {
            let message = "browsers drop a cookie with `same_site: none` that is not `secure`";
            self.refuse_with_hint(&at.key("same_site"), message, "add `secure: true`");
        }
        // RFC 6265bis, section 4.1.3.
        let is_host = name.starts_with("__Host-");
        if is_host && path != "/" {
            let message = "browsers drop a cookie that begins with `__Host-` and has another path than `/`";
            self.refuse_with_hint(&at.key("path"), message, "leave it out");
        }
        if (is_host || name.starts_with("__Secure-")) && !secure {
            let message = format!("browsers drop a cookie `{name}` that is not `secure`");
            self.refuse_with_hint(at, message, "add `secure: true`");
        }
    }
}
