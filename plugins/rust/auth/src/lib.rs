//! A call out: asks an upstream whether a request may pass, and waits for the answer. 200 lets it pass, with the answer's
//! `x-user` in the request; 401 and 403 are passed on to the client; anything else, or none in time, is 503: what cannot be
//! checked does not get in.
//!
//! Configuration: `{"upstream": "auth", "path": "/check", "timeout_ms": 500}`. The gateway lets it call only what the
//! operator wrote under `upstreams`.

use std::time::Duration;

use proxy_wasm::{
    hostcalls::log,
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel},
};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { settings: None }));
}}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    upstream: String,
    path: String,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn timeout_ms() -> u64 {
    500
}

struct Root {
    settings: Option<Settings>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let written = self.get_plugin_configuration().unwrap_or_default();
        match serde_json::from_slice(&written) {
            Ok(settings) => self.settings = Some(settings),
            Err(error) => {
                let why = format!("the configuration is not {{\"upstream\": .., \"path\": ..}}: {error}");
                let _ = log(LogLevel::Error, &why);
            }
        }
        self.settings.is_some()
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request { settings: self.settings.clone()? }))
    }
}

struct Request {
    settings: Settings,
}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _is_last: bool) -> Action {
        // Whose it is says the service, and nobody else.
        self.set_http_request_header("x-user", None);
        let Some(credentials) = self.get_http_request_header("authorization") else {
            self.refuse(Verdict::Refuse(401));
            return Action::Pause;
        };
        let Settings { upstream, path, timeout_ms } = &self.settings;
        let asked = self.dispatch_http_call(
            upstream,
            vec![
                (":method", "GET"),
                (":path", path),
                (":authority", upstream),
                ("authorization", &credentials),
            ],
            None,
            Vec::new(),
            Duration::from_millis(*timeout_ms),
        );
        if let Err(status) = asked {
            let _ = log(LogLevel::Error, &format!("`{upstream}` cannot be asked: {status:?}"));
            self.refuse(Verdict::Unknown);
        }
        Action::Pause
    }
}

impl Context for Request {
    fn on_http_call_response(&mut self, _token: u32, _headers: usize, _body: usize, _trailers: usize) {
        let answer = self.get_http_call_response_headers();
        let field =
            |wanted: &str| answer.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        match Verdict::of(field(":status")) {
            Verdict::Pass => {
                self.set_http_request_header("x-user", field("x-user"));
                self.resume_http_request();
            }
            verdict => self.refuse(verdict),
        }
    }
}

impl Request {
    fn refuse(&self, verdict: Verdict) {
        match verdict {
            Verdict::Refuse(401) => {
                let challenge = vec![("www-authenticate", "Bearer")];
                self.send_http_response(401, challenge, Some(b"valid credentials are needed\n"));
            }
            Verdict::Refuse(status) => {
                self.send_http_response(status, Vec::new(), Some(b"this request is not allowed here\n"));
            }
            Verdict::Pass | Verdict::Unknown => self.send_http_response(
                503,
                vec![("retry-after", "1")],
                Some(b"the credentials cannot be checked just now\n"),
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Pass,
    /// With this status.
    Refuse(u32),
    Unknown,
}

impl Verdict {
    /// `status` is none where there was no answer.
    fn of(status: Option<&str>) -> Verdict {
        match status {
            Some("200") => Verdict::Pass,
            Some("401") => Verdict::Refuse(401),
            Some("403") => Verdict::Refuse(403),
            _ => Verdict::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_passes_and_no_answer_is_no_permission() {
        assert_eq!(Verdict::of(Some("200")), Verdict::Pass);
        assert_eq!(Verdict::of(Some("403")), Verdict::Refuse(403));
        for other in [None, Some("204"), Some("302"), Some("500"), Some("")] {
            assert_eq!(Verdict::of(other), Verdict::Unknown, "{other:?}");
        }
    }
}
