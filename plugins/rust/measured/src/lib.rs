//! What `bench/run --profile wasm` has gateways do in a plugin: nothing, a few fields, a body, or a call. A measure, and nothing to
//! copy from: it leaves requests as good as unchanged.
//!
//! Configuration: `pass`, `fields`, `body` or `call`. A call goes to the upstream `origin`.

use std::time::Duration;

use proxy_wasm::{
    hostcalls::log,
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel},
};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { work: Work::Pass }));
}}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Work {
    Pass,
    /// Six are read and two are set, of the request and of the response.
    Fields,
    /// All of the request's is read.
    Body,
    /// One, for whose answer the request waits.
    Call,
}

impl Work {
    fn named(name: &[u8]) -> Option<Work> {
        Some(match name {
            b"pass" => Work::Pass,
            b"fields" => Work::Fields,
            b"body" => Work::Body,
            b"call" => Work::Call,
            _ => return None,
        })
    }
}

struct Root {
    work: Work,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match Work::named(&self.get_plugin_configuration().unwrap_or_default()) {
            Some(work) => self.work = work,
            None => {
                let _ = log(LogLevel::Error, "the configuration is none of pass, fields, body and call");
                return false;
            }
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Request { work: self.work, read: 0 }))
    }
}

struct Request {
    work: Work,
    /// Bytes of what was asked for, so that nothing of it is left out.
    read: usize,
}

const OF_A_REQUEST: [&str; 6] = [":method", ":path", ":authority", "user-agent", "accept", "x-not-there"];
const OF_A_RESPONSE: [&str; 6] =
    [":status", "content-type", "content-length", "server", "date", "x-not-there"];

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _count: usize, _is_last: bool) -> Action {
        match self.work {
            Work::Fields => {
                let lengths =
                    OF_A_REQUEST.map(|name| self.get_http_request_header(name).map_or(0, |v| v.len()));
                self.read += lengths.iter().sum::<usize>();
                self.set_http_request_header("x-measured", Some("request"));
                self.set_http_request_header("x-measured-read", Some(&self.read.to_string()));
                Action::Continue
            }
            Work::Call => self.ask(),
            Work::Pass | Work::Body => Action::Continue,
        }
    }

    fn on_http_request_body(&mut self, size: usize, is_last: bool) -> Action {
        if self.work != Work::Body {
            return Action::Continue;
        }
        if !is_last {
            return Action::Pause;
        }
        self.read += self.get_http_request_body(0, size).map_or(0, |body| body.len());
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _is_last: bool) -> Action {
        if self.work == Work::Fields {
            let lengths =
                OF_A_RESPONSE.map(|name| self.get_http_response_header(name).map_or(0, |v| v.len()));
            self.read += lengths.iter().sum::<usize>();
            self.set_http_response_header("x-measured", Some("response"));
        }
        // Whoever checks the measure sees what was read.
        if matches!(self.work, Work::Fields | Work::Body | Work::Call) {
            self.set_http_response_header("x-measured-read", Some(&self.read.to_string()));
        }
        Action::Continue
    }
}

impl Request {
    fn ask(&self) -> Action {
        let fields = vec![(":method", "GET"), (":path", "/bytes/105"), (":authority", "origin")];
        match self.dispatch_http_call("origin", fields, None, Vec::new(), Duration::from_secs(5)) {
            Ok(_) => Action::Pause,
            Err(status) => {
                let _ = log(LogLevel::Error, &format!("`origin` cannot be asked: {status:?}"));
                self.send_http_response(503, Vec::new(), None);
                Action::Pause
            }
        }
    }
}

impl Context for Request {
    fn on_http_call_response(&mut self, _token: u32, _headers: usize, body: usize, _trailers: usize) {
        self.read += self.get_http_call_response_body(0, body).map_or(0, |body| body.len());
        self.resume_http_request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_work_has_a_name_and_nothing_else_is_one() {
        for (name, work) in
            [("pass", Work::Pass), ("fields", Work::Fields), ("body", Work::Body), ("call", Work::Call)]
        {
            assert_eq!(Work::named(name.as_bytes()), Some(work));
        }
        for other in ["", "passes", "{\"work\":\"pass\"}"] {
            assert_eq!(Work::named(other.as_bytes()), None, "{other}");
        }
    }
}
