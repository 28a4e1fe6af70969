//! A body: masks the numbers of payment cards in responses, all but their last four digits. What is masked is as long as it
//! was, so `content-length` stays true. A body is held until all of it is there, as a number may be cut in two; how much may
//! be held is the gateway's to say (`limits.buffer`). Bodies with a `content-encoding` pass as they are: put `compression` in
//! front of this step, so that it sees plain bytes.

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType},
};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Response { is_read: false }))
    }
}

struct Response {
    /// Whether its body can hold a number that we could read.
    is_read: bool,
}

impl Context for Response {}

impl HttpContext for Response {
    fn on_http_response_headers(&mut self, _count: usize, _is_last: bool) -> Action {
        let content_type = self.get_http_response_header("content-type").unwrap_or_default();
        self.is_read = is_text(&content_type) && self.get_http_response_header("content-encoding").is_none();
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, is_last: bool) -> Action {
        if !self.is_read {
            return Action::Continue;
        }
        if !is_last {
            return Action::Pause;
        }
        if let Some(mut body) = self.get_http_response_body(0, size)
            && mask(&mut body) > 0
        {
            self.set_http_response_body(0, size, &body);
        }
        Action::Continue
    }
}

fn is_text(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    media.starts_with("text/") || media.ends_with("json") || media.ends_with("xml")
}

/// Masks each run of 13 to 19 digits, with single spaces or hyphens in between, that is a number by Luhn's check. How many
/// there were.
fn mask(body: &mut [u8]) -> usize {
    let (mut masked, mut at) = (0, 0);
    while at < body.len() {
        if !body[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let digits = run(body, at);
        at = digits.last().map_or(at, |last| last + 1);
        if (13..=19).contains(&digits.len()) && is_card(digits.iter().map(|digit| body[*digit] - b'0')) {
            digits[..digits.len() - 4].iter().for_each(|digit| body[*digit] = b'*');
            masked += 1;
        }
    }
    masked
}

/// Where the digits of a run are that begins at `from`.
fn run(body: &[u8], from: usize) -> Vec<usize> {
    let mut digits = vec![from];
    let mut at = from + 1;
    while let Some(byte) = body.get(at) {
        match byte {
            b'0'..=b'9' => digits.push(at),
            b' ' | b'-' if body.get(at + 1).is_some_and(u8::is_ascii_digit) => {}
            _ => break,
        }
        at += 1;
    }
    digits
}

/// ISO/IEC 7812-1, annex B.
fn is_card(digits: impl DoubleEndedIterator<Item = u8>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(digit)) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => digit * 2 - 9,
            (_, digit) => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> (String, usize) {
        let mut body = text.as_bytes().to_vec();
        let count = mask(&mut body);
        (String::from_utf8(body).unwrap(), count)
    }

    #[test]
    fn masks_numbers_of_cards_and_keeps_the_length() {
        let cases = [
            (r#"{"card":"4111111111111111"}"#, r#"{"card":"************1111"}"#, 1),
            ("5500 0000 0000 0004, 4111-1111-1111-1111", "**** **** **** 0004, ****-****-****-1111", 2),
            ("order 4111111111111112", "order 4111111111111112", 0),
            ("+49 170 1234567", "+49 170 1234567", 0),
            ("", "", 0),
            ("7", "7", 0),
            ("0 - 1", "0 - 1", 0),
        ];
        for (text, expected, count) in cases {
            let (found, times) = masked(text);
            assert_eq!((found.as_str(), times), (expected, count));
            assert_eq!(found.len(), text.len());
        }
    }

    #[test]
    fn only_text_is_looked_at() {
        assert!(is_text("application/json; charset=utf-8") && is_text("text/html"));
        assert!(!is_text("image/png") && !is_text(""));
    }
}
