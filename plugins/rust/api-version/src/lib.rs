//! Headers: which version of an API a request asks for. `Accept: application/vnd.shop.v2+json` becomes
//! `x-api-version: 2`, so that a route can match it, and the upstream gets a plain `application/json`. In a listener's
//! chain the request is routed anew after it.
//!
//! Configuration: `{"vendor": "shop", "default": "1"}`.

use proxy_wasm::{
    hostcalls::log,
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel},
};
use serde::Deserialize;

const VERSION: &str = "x-api-version";

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { settings: Settings::default() }));
}}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Settings {
    vendor: String,
    /// Of requests that ask for none.
    #[serde(default)]
    default: Option<String>,
}

struct Root {
    settings: Settings,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let written = self.get_plugin_configuration().unwrap_or_default();
        match serde_json::from_slice(&written) {
            Ok(settings) => {
                self.settings = settings;
                true
            }
            Err(error) => {
                // The last lines before a refusal are what the operator is shown.
                let why = format!("the configuration is not {{\"vendor\": .., \"default\": ..}}: {error}");
                let _ = log(LogLevel::Error, &why);
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request { settings: self.settings.clone() }))
    }
}

struct Request {
    settings: Settings,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _is_last: bool) -> Action {
        let accept = self.get_http_request_header("accept").unwrap_or_default();
        match asked(&accept, &self.settings.vendor) {
            Some((version, format)) => {
                self.set_http_request_header(VERSION, Some(version));
                self.set_http_request_header("accept", Some(&format!("application/{format}")));
            }
            // Also where the default is none: a client's own field says nothing.
            None => self.set_http_request_header(VERSION, self.settings.default.as_deref()),
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _is_last: bool) -> Action {
        // A cache must not give one version to those who asked for another.
        self.add_http_response_header("vary", "accept");
        Action::Continue
    }
}

/// The version and the format in `application/vnd.VENDOR.vVERSION+FORMAT`, of the first that is one.
fn asked<'a>(accept: &'a str, vendor: &str) -> Option<(&'a str, &'a str)> {
    accept.split(',').find_map(|media| {
        let media = media.split(';').next()?.trim();
        let rest = media.strip_prefix("application/vnd.")?.strip_prefix(vendor)?;
        let (version, format) = rest.strip_prefix(".v")?.split_once('+')?;
        let is_sane = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        (is_sane && !format.is_empty()).then_some((version, format))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_the_first_media_type_of_the_vendor() {
        assert_eq!(asked("application/vnd.shop.v2+json", "shop"), Some(("2", "json")));
        assert_eq!(asked("text/html, application/vnd.shop.v10+xml;q=0.9", "shop"), Some(("10", "xml")));
        for other in [
            "",
            "application/json",
            "application/vnd.shopping.v2+json",
            "application/vnd.shop.v+json",
            "application/vnd.shop.v2b+json",
            "application/vnd.shop.v2",
        ] {
            assert_eq!(asked(other, "shop"), None, "{other}");
        }
    }
}
