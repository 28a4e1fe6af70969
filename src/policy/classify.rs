//! What is worth a retry, in the operator's words: `on: [connect_error, 5xx, grpc:unavailable]`. The words are parsed
//! once into sets, so that asking costs a bit test.
//!
//! Whether a retry is *safe* is another question: [`Methods`] answers for the method, the caller for the body. After
//! `connect_error` and `refused_stream` the method does not matter, since the upstream did nothing. So another endpoint is tried
//! after these whatever the words are, unless the one word is `none`.

use std::{fmt, str::FromStr};

use super::failure::Cause;
use crate::grpc;

/// One word of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    ConnectError,
    Reset,
    Timeout,
    RefusedStream,
    /// Every status from 500 to 599 that an upstream answers, and as in Envoy `connect_error`, `reset` and `refused_stream`:
    /// a server that cannot answer has not answered any better.
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// 409, as in Envoy: a conflict that another try may not meet. Throttling (429) is left out on purpose; who
    /// wants it names it.
    RetryableClientError,
    /// From 400 to 599.
    Status(u16),
    /// From 1 to 16.
    Grpc(u8),
    /// Stands alone: not even what nothing was sent for is tried elsewhere.
    Nothing,
}

impl Condition {
    /// All there is but the numbers, for suggestions.
    pub const WORDS: [&str; 24] = [
        "connect_error",
        "reset",
        "timeout",
        "refused_stream",
        "5xx",
        "gateway_error",
        "retryable_4xx",
        "none",
        "grpc:cancelled",
        "grpc:unknown",
        "grpc:invalid_argument",
        "grpc:deadline_exceeded",
        "grpc:not_found",
        "grpc:already_exists",
        "grpc:permission_denied",
        "grpc:resource_exhausted",
        "grpc:failed_precondition",
        "grpc:aborted",
        "grpc:out_of_range",
        "grpc:unimplemented",
        "grpc:internal",
        "grpc:unavailable",
        "grpc:data_loss",
        "grpc:unauthenticated",
    ];
}

impl FromStr for Condition {
    type Err = BadCondition;

    fn from_str(text: &str) -> Result<Condition, BadCondition> {
        if let Some(status) = text.strip_prefix("grpc:") {
            let code = status.parse().ok().or_else(|| grpc::code(status));
            return match code {
                Some(code @ 1..=16) => Ok(Condition::Grpc(code)),
                Some(0) => Err(BadCondition::new(text, Wrong::Success)),
                _ => Err(BadCondition::new(text, Wrong::GrpcStatus)),
            };
        }
        Ok(match text {
            "connect_error" => Condition::ConnectError,
            "reset" => Condition::Reset,
            "timeout" => Condition::Timeout,
            "refused_stream" => Condition::RefusedStream,
            "5xx" => Condition::ServerError,
            "gateway_error" => Condition::GatewayError,
            "retryable_4xx" => Condition::RetryableClientError,
            "none" => Condition::Nothing,
            _ => match text.parse() {
                Ok(status @ 400..=599) => Condition::Status(status),
                Ok(_) => return Err(BadCondition::new(text, Wrong::Status)),
                Err(_) => return Err(BadCondition::new(text, Wrong::Word)),
            },
        })
    }
}

impl fmt::Display for Condition {
    /// As `from_str` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::ConnectError => f.write_str("connect_error"),
            Condition::Reset => f.write_str("reset"),
            Condition::Timeout => f.write_str("timeout"),
            Condition::RefusedStream => f.write_str("refused_stream"),
            Condition::ServerError => f.write_str("5xx"),
            Condition::GatewayError => f.write_str("gateway_error"),
            Condition::RetryableClientError => f.write_str("retryable_4xx"),
            Condition::Nothing => f.write_str("none"),
            Condition::Status(status) => write!(f, "{status}"),
            Condition::Grpc(code) => match grpc::name(*code) {
                Some(name) => write!(f, "grpc:{name}"),
                None => write!(f, "grpc:{code}"),
            },
        }
    }
}

/// Why a text is no condition; written for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCondition {
    text: String,
    wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Word,
    Status,
    GrpcStatus,
    Success,
}

impl BadCondition {
    fn new(text: &str, wrong: Wrong) -> BadCondition {
        const LONGEST: usize = 60;
        BadCondition { text: text.chars().take(LONGEST).collect(), wrong }
    }
}

impl fmt::Display for BadCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.wrong {
            Wrong::Word if let Some(meant) = meant(&self.text) => {
                return write!(f, "{:?} is not a retry condition (write `{meant}`)", self.text);
            }
            Wrong::Word => {
                "is not a retry condition (one of connect_error, reset, timeout, refused_stream, 5xx, gateway_error, \
                 retryable_4xx, none, a status such as 502, or a gRPC status such as grpc:unavailable)"
            }
            Wrong::Status => "is not a status that can be retried (from 400 to 599)",
            Wrong::GrpcStatus => {
                "is not a gRPC status (a name such as grpc:unavailable, or grpc:1 to grpc:16)"
            }
            Wrong::Success => "says that the call succeeded (name the gRPC statuses that are failures)",
        };
        write!(f, "{:?} {why}", self.text)
    }
}

impl std::error::Error for BadCondition {}

/// What other gateways call the same.
fn meant(word: &str) -> Option<&'static str> {
    Some(match word.to_lowercase().replace('_', "-").as_str() {
        "connect-failure" | "conn-failure" | "error" | "connection-error" | "connect" => "connect_error",
        "refused-stream" => "refused_stream",
        "retriable-4xx" | "409" => "retryable_4xx",
        "gateway-error" => "gateway_error",
        "5xx" | "server-error" | "all-retryable-errors" => "5xx",
        "reset-before-request" | "empty-response" | "junk-response" | "response-broken" => "reset",
        "response-timeout" | "0rtt-rejected" => "timeout",
        "http-500" => "500",
        "http-502" => "502",
        "http-503" => "503",
        "http-504" => "504",
        "unavailable" => "grpc:unavailable",
        "cancelled" => "grpc:cancelled",
        "deadline-exceeded" => "grpc:deadline_exceeded",
        "resource-exhausted" => "grpc:resource_exhausted",
        "internal" => "grpc:internal",
        "off" | "false" | "never" => "none",
        _ => return None,
    })
}

/// A set of conditions. The default retries what cannot have done harm or is rare: `connect_error`, `reset` and
/// `refused_stream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// A bit for each `Cause`.
    causes: u8,
    /// A bit for each status from 400 to 599.
    statuses: [u64; 4],
    /// A bit for each code.
    grpc: u32,
}

impl Conditions {
    pub const NONE: Conditions = Conditions { causes: 0, statuses: [0; 4], grpc: 0 };

    pub fn retries(&self, cause: Cause) -> bool {
        self.causes & bit(cause) != 0
    }

    /// A status that an upstream answered, not one that stands for a failure to get an answer.
    pub fn retries_status(&self, status: u16) -> bool {
        status_bit(status).is_some_and(|(word, bit)| self.statuses[word] & bit != 0)
    }

    /// The `grpc-status` of an answer without messages: once one was passed on, there is no way back.
    pub fn retries_grpc(&self, code: u8) -> bool {
        1_u32.checked_shl(code.into()).is_some_and(|bit| self.grpc & bit != 0)
    }

    /// Whether not even what nothing was sent for is tried elsewhere.
    pub fn retries_nothing(&self) -> bool {
        *self == Conditions::NONE
    }

    /// Whether answers have to be looked at; otherwise the first one to come is the one to pass on.
    pub fn cares_for_answers(&self) -> bool {
        self.statuses != [0; 4] || self.grpc != 0
    }

    fn insert(&mut self, condition: Condition) {
        match condition {
            Condition::ConnectError => self.causes |= bit(Cause::Connect),
            Condition::Reset => self.causes |= bit(Cause::Reset),
            Condition::Timeout => self.causes |= bit(Cause::Timeout),
            Condition::RefusedStream => self.causes |= bit(Cause::Refused),
            Condition::ServerError => {
                self.causes |= bit(Cause::Connect) | bit(Cause::Reset) | bit(Cause::Refused);
                (500..=599).for_each(|status| self.insert_status(status));
            }
            Condition::GatewayError => (502..=504).for_each(|status| self.insert_status(status)),
            Condition::RetryableClientError => self.insert_status(409),
            Condition::Nothing => {}
            Condition::Status(status) => self.insert_status(status),
            Condition::Grpc(code) => self.grpc |= 1_u32.checked_shl(code.into()).unwrap_or_default(),
        }
    }

    fn insert_status(&mut self, status: u16) {
        if let Some((word, bit)) = status_bit(status) {
            self.statuses[word] |= bit;
        }
    }
}

impl FromIterator<Condition> for Conditions {
    fn from_iter<I: IntoIterator<Item = Condition>>(conditions: I) -> Conditions {
        let mut set = Conditions::NONE;
        conditions.into_iter().for_each(|condition| set.insert(condition));
        set
    }
}

impl Default for Conditions {
    fn default() -> Conditions {
        [Condition::ConnectError, Condition::Reset, Condition::RefusedStream].into_iter().collect()
    }
}

fn bit(cause: Cause) -> u8 {
    1 << cause as u8
}

fn status_bit(status: u16) -> Option<(usize, u64)> {
    let index = (400..=599).contains(&status).then(|| status - 400)?;
    Some((usize::from(index / 64), 1 << (index % 64)))
}

/// For which methods a request that may have been processed is sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Methods {
    /// Those that do the same done twice: RFC 9110, section 9.2.2.
    #[default]
    Idempotent,
    Listed(Vec<String>),
}

impl Methods {
    /// Methods are case-sensitive: RFC 9110, section 9.1.
    pub fn allows(&self, method: &str) -> bool {
        match self {
            Methods::Idempotent => {
                matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
            }
            Methods::Listed(methods) => methods.iter().any(|listed| listed == method),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSES: [Cause; 4] = [Cause::Connect, Cause::Reset, Cause::Timeout, Cause::Refused];

    fn on(words: &[&str]) -> Conditions {
        words.iter().map(|word| word.parse::<Condition>().unwrap()).collect()
    }

    fn causes(conditions: &Conditions) -> Vec<Cause> {
        CAUSES.into_iter().filter(|failure| conditions.retries(*failure)).collect()
    }

    fn statuses(conditions: &Conditions) -> Vec<u16> {
        (0..=u16::MAX).filter(|status| conditions.retries_status(*status)).collect()
    }

    fn codes(conditions: &Conditions) -> Vec<u8> {
        (0..=u8::MAX).filter(|code| conditions.retries_grpc(*code)).collect()
    }

    #[test]
    fn each_word_stands_for_what_it_says_and_nothing_else() {
        let all: Vec<u16> = (500..=599).collect();
        type Case<'a> = (&'a str, &'a [Cause], &'a [u16], &'a [u8]);
        let cases: [Case; 12] = [
            ("connect_error", &[Cause::Connect], &[], &[]),
            ("reset", &[Cause::Reset], &[], &[]),
            ("timeout", &[Cause::Timeout], &[], &[]),
            ("refused_stream", &[Cause::Refused], &[], &[]),
            ("5xx", &[Cause::Connect, Cause::Reset, Cause::Refused], &all, &[]),
            ("none", &[], &[], &[]),
            ("gateway_error", &[], &[502, 503, 504], &[]),
            ("retryable_4xx", &[], &[409], &[]),
            ("429", &[], &[429], &[]),
            ("599", &[], &[599], &[]),
            ("grpc:unavailable", &[], &[], &[14]),
            ("grpc:4", &[], &[], &[4]),
        ];
        for (word, expected_failures, expected_statuses, expected_codes) in cases {
            let conditions = on(&[word]);
            assert_eq!(causes(&conditions), expected_failures, "{word}");
            assert_eq!(statuses(&conditions), expected_statuses, "{word}");
            assert_eq!(codes(&conditions), expected_codes, "{word}");
            let cares = !(expected_statuses.is_empty() && expected_codes.is_empty());
            assert_eq!(conditions.cares_for_answers(), cares, "{word}");
            assert_eq!(conditions.retries_nothing(), word == "none", "{word}");
        }
    }

    #[test]
    fn words_add_up() {
        let conditions = on(&["reset", "400", "gateway_error", "502", "grpc:aborted", "grpc:16"]);
        assert_eq!(causes(&conditions), [Cause::Reset]);
        assert_eq!(statuses(&conditions), [400, 502, 503, 504]);
        assert_eq!(codes(&conditions), [10, 16]);
    }

    #[test]
    fn the_default_is_safe_and_does_not_look_at_answers() {
        let conditions = Conditions::default();
        assert_eq!(causes(&conditions), [Cause::Connect, Cause::Reset, Cause::Refused]);
        assert!(!conditions.cares_for_answers());
    }

    #[test]
    fn an_empty_list_retries_nothing() {
        let conditions = on(&[]);
        assert!(causes(&conditions).is_empty() && statuses(&conditions).is_empty());
        assert!(!conditions.cares_for_answers());
    }

    #[test]
    fn every_word_can_be_read_and_written() {
        for word in Condition::WORDS {
            assert_eq!(word.parse::<Condition>().unwrap().to_string(), word);
        }
        let named = (1..=16).map(|code| (format!("grpc:{}", grpc::name(code).unwrap()), code));
        for (word, code) in named {
            assert!(Condition::WORDS.contains(&word.as_str()), "{word}");
            assert_eq!(word.parse(), Ok(Condition::Grpc(code)));
        }
        assert_eq!("grpc:UNAVAILABLE".parse(), Ok(Condition::Grpc(14)));
        assert_eq!("503".parse::<Condition>().unwrap().to_string(), "503");
    }

    #[test]
    fn refuses_what_is_no_condition_and_says_what_is() {
        for (word, says) in [
            ("5XX", "is not a retry condition (write `5xx`)"),
            ("many", "is not a retry condition (one of connect_error"),
            ("connect-failure", "(write `connect_error`)"),
            ("http_503", "(write `503`)"),
            ("4xx", "is not a retry condition"),
            ("", "is not a retry condition"),
            ("500-504", "is not a retry condition"),
            ("200", "from 400 to 599"),
            ("600", "from 400 to 599"),
            ("grpc:", "is not a gRPC status"),
            ("grpc:17", "is not a gRPC status"),
            ("grpc:300", "is not a gRPC status"),
            ("grpc:unavailible", "is not a gRPC status (a name such as grpc:unavailable"),
            ("grpc:ok", "says that the call succeeded"),
            ("grpc:0", "says that the call succeeded"),
        ] {
            let problem = word.parse::<Condition>().unwrap_err().to_string();
            assert!(problem.starts_with(&format!("{word:?} ")) && problem.contains(says), "{problem}");
        }
        assert!("x".repeat(10_000).parse::<Condition>().unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn methods_are_idempotent_or_listed() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(Methods::default().allows(method), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "get", "QUERY", ""] {
            assert!(!Methods::default().allows(method), "{method}");
        }
        let listed = Methods::Listed(vec!["POST".into()]);
        assert!(listed.allows("POST") && !listed.allows("GET") && !listed.allows("post"));
    }
}
