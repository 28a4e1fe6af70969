//! The admin API: where it listens, who may use it, and what of the console is on.

use std::{collections::BTreeSet, time::Duration};

use super::{Compiler, listeners::listen_address};
use crate::{
    config::{self, Path},
    identity::IdPattern,
};

/// Of the history of rates.
const SHORTEST_HISTORY: Duration = Duration::from_secs(60);
const LONGEST_HISTORY: Duration = Duration::from_secs(24 * 3600);
/// Names stand in logs and answers.
const LONGEST_NAME: usize = 64;

impl Compiler<'_> {
    pub(super) fn admin(&mut self) {
        let config::Admin::On(admin) = &self.config.admin else { return };
        let at = Path::root().key("admin");
        let asks_for_certificate = admin.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let is_guarded = admin.token.is_some() || !admin.tokens.is_empty() || asks_for_certificate;
        let guards = ["token", "tokens", "tls"];
        let may_be_guarded = guards.iter().any(|key| self.sources.is_doubtful(&at.key(*key)));
        match listen_address(&admin.address) {
            Err(message) => self.refuse(&at.key("address"), message),
            Ok(address) if !address.ip().is_loopback() && !is_guarded && !may_be_guarded => self
                .refuse_with_hint(
                    &at.key("address"),
                    format!(
                        "{} is not a loopback address, and anyone who reaches it could drain this gateway",
                        admin.address
                    ),
                    "set `admin.token` or `admin.tls.client_ca`, or listen on 127.0.0.1",
                ),
            Ok(_) => {}
        }
        if let Some(tls) = &admin.tls {
            self.admin_tls(tls);
            self.certificate_roles(tls, &at.key("tls"));
        }
        if admin.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            self.refuse(&at.key("token"), "the token is empty");
        }
        self.admin_tokens(admin, &at.key("tokens"));
        self.console(admin, &at);
    }

    fn admin_tokens(&mut self, admin: &config::AdminListener, at: &Path) {
        let mut names: BTreeSet<&str> = admin.token.iter().map(|_| "token").collect();
        let mut known: BTreeSet<&str> = admin.token.iter().map(config::Secret::expose).collect();
        for (index, token) in admin.tokens.iter().enumerate() {
            let at = at.index(index);
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
            if token.name.is_empty() || token.name.len() > LONGEST_NAME || !token.name.bytes().all(is_name) {
                let hint = format!("1 to {LONGEST_NAME} letters of ASCII, digits and `-_.@+`");
                self.refuse_with_hint(&at.key("name"), format!("{:?} is not a name here", token.name), hint);
            } else if !names.insert(&token.name) {
                let message = format!("{:?} is somebody else's name", token.name);
                self.refuse_with_hint(&at.key("name"), message, "names tell those who order apart");
            }
            if token.token.expose().is_empty() {
                self.refuse(&at.key("token"), "the token is empty");
            } else if !known.insert(token.token.expose()) {
                self.refuse_with_hint(&at.key("token"), "is somebody else's token", "give each their own");
            }
        }
    }

    fn certificate_roles(&mut self, tls: &config::AdminTls, at: &Path) {
        let Some(roles) = &tls.roles else { return };
        let at_roles = at.key("roles");
        if tls.client_ca.is_none() && !self.sources.is_doubtful(&at.key("client_ca")) {
            let hint = "add `client_ca`, or remove `roles`";
            self.refuse_with_hint(&at_roles, "nobody shows a certificate without `client_ca`", hint);
        }
        for (key, patterns) in [("operator", &roles.operator), ("viewer", &roles.viewer)] {
            for (index, pattern) in patterns.iter().enumerate() {
                if pattern == "*" {
                    continue;
                }
                if let Err(why) = IdPattern::parse(pattern) {
                    self.refuse(&at_roles.key(key).index(index), why);
                }
            }
        }
    }

    fn console(&mut self, admin: &config::AdminListener, at: &Path) {
        if let Some(console) = admin.console() {
            let history = Duration::from(console.history);
            if !history.is_zero() && !(SHORTEST_HISTORY..=LONGEST_HISTORY).contains(&history) {
                let message = format!("{} is not between 1m and 24h", console.history);
                let hint = "15m is the default, and 0s keeps none";
                self.refuse_with_hint(&at.key("console").key("history"), message, hint);
            }
        }
        let session = at.key("session");
        for (key, time) in [("idle", admin.session.idle), ("max", admin.session.max)] {
            self.refuse_zero(&session.key(key), time);
        }
    }
}
