//! What it means that a try failed: one table, from the stage it had reached and what went wrong there to all that
//! depends on it (whether it is worth a retry, what the endpoint's breaker and ejection learn, what the client is told).
//!
//! A [`Failure`] is made where the stage is known, and nothing is derived a second time from a reason or a status.

use std::io;

use crate::error::Reason;

/// How far a try had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No connection yet, TLS included: nothing of the request was sent.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the head of the answer.
    Head,
    /// The head was there and is with the client.
    Body,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody there, or the handshake failed.
    Unreachable,
    /// It is not who it should be.
    Distrusted,
    /// The gateway has nothing to show for itself yet.
    Unready,
    TimedOut,
    /// A kept connection that the upstream had closed meanwhile: it says nothing about the upstream.
    Stale,
    /// The upstream says that it did nothing: REFUSED_STREAM, or a GOAWAY below this stream (RFC 9113, sections 6.8 and
    /// 8.7).
    Unprocessed,
    /// The connection or the stream broke.
    Broken,
    /// What it said is no HTTP.
    Malformed,
    /// It has stopped answering: nothing is heard of it, or of its connection.
    Silent,
    /// We lack what a connection takes: descriptors, ports or memory. No endpoint is to blame.
    Shortage,
    /// The time of the request as a whole was over.
    Overdue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub kind: Kind,
    /// The status that a client of gRPC would have made of it, where the upstream has reset the stream.
    pub grpc: Option<u8>,
}

/// How one attempt ended, for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, below 500.
    Success,
    /// No connection could be made.
    ConnectFailed,
    /// The connection broke before the answer was whole.
    Reset,
    Timeout,
    /// It answered with 500 or above.
    ServerError,
}

/// Why another try may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection, or not in time: nothing was sent.
    Connect,
    Stale,
    /// The upstream did nothing.
    Refused,
    /// The connection broke before the answer.
    Reset,
    Timeout,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// `None`: no other try can help.
    pub cause: Option<Cause>,
    /// `None`: it says nothing about the endpoint.
    pub outcome: Option<Outcome>,
    /// What the client is told, where no other try follows.
    pub reason: Reason,
}

impl Failure {
    pub const fn new(stage: Stage, kind: Kind) -> Failure {
        Failure { stage, kind, grpc: None }
    }

    pub const fn meaning(self) -> Meaning {
        use Cause as Retry;
        let (cause, outcome, reason) = match (self.stage, self.kind) {
            (Stage::Connect, Kind::TimedOut) => {
                (Some(Retry::Connect), Some(Outcome::ConnectFailed), Reason::UpstreamTimeout)
            }
            // Another endpoint may be reached by a connection that is kept, or from a port that is free towards it.
            (_, Kind::Shortage) => (Some(Retry::Connect), None, Reason::Overloaded),
            // Nothing is sent to somebody else.
            (_, Kind::Distrusted) => {
                (Some(Retry::Connect), Some(Outcome::ConnectFailed), Reason::UpstreamIdentityMismatch)
            }
            (_, Kind::Unready) => (None, None, Reason::IdentityUnavailable),
            (Stage::Connect, Kind::Overdue) => (None, Some(Outcome::ConnectFailed), Reason::RequestTimeout),
            // Of an answer under way, what was long may as well be the answer, or its reader.
            (Stage::Body, Kind::Overdue) => (None, None, Reason::RequestTimeout),
            (_, Kind::Overdue) => (None, Some(Outcome::Timeout), Reason::RequestTimeout),
            (Stage::Connect, _) => {
                (Some(Retry::Connect), Some(Outcome::ConnectFailed), Reason::ConnectFailed)
            }
            // TLS 1.3: the endpoint refuses our certificate when for us the handshake is over.
            (_, Kind::Unreachable) => {
                (Some(Retry::Connect), Some(Outcome::ConnectFailed), Reason::ConnectFailed)
            }
            (Stage::Send | Stage::Head, Kind::Stale) => (Some(Retry::Stale), None, Reason::UpstreamReset),
            (Stage::Send | Stage::Head, Kind::Unprocessed) => {
                (Some(Retry::Refused), Some(Outcome::Reset), Reason::UpstreamReset)
            }
            (Stage::Send | Stage::Head, Kind::TimedOut) => {
                (Some(Retry::Timeout), Some(Outcome::Timeout), Reason::UpstreamTimeout)
            }
            (Stage::Send | Stage::Head, Kind::Broken) => {
                (Some(Retry::Reset), Some(Outcome::Reset), Reason::UpstreamReset)
            }
            (Stage::Send | Stage::Head, Kind::Silent) => {
                (Some(Retry::Reset), Some(Outcome::Timeout), Reason::UpstreamTimeout)
            }
            // Whoever says what is no HTTP has not answered.
            (Stage::Send | Stage::Head, Kind::Malformed) => {
                (Some(Retry::Reset), Some(Outcome::Reset), Reason::BadUpstreamResponse)
            }
            (Stage::Body, Kind::Malformed) => (None, Some(Outcome::Reset), Reason::BadUpstreamResponse),
            (Stage::Body, Kind::TimedOut | Kind::Silent) => {
                (None, Some(Outcome::Timeout), Reason::UpstreamTimeout)
            }
            (Stage::Body, Kind::Stale | Kind::Unprocessed | Kind::Broken) => {
                (None, Some(Outcome::Reset), Reason::UpstreamReset)
            }
        };
        Meaning { cause, outcome, reason }
    }
}

/// Whether this is a shortage of our own, so that nobody at the other end is to blame.
pub fn is_shortage(error: &io::Error) -> bool {
    let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| ours.contains(&code))
}

impl Cause {
    /// As a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Connect => "connect_error",
            Cause::Stale => "stale_connection",
            Cause::Refused => "refused_stream",
            Cause::Reset => "reset",
            Cause::Timeout => "timeout",
        }
    }
}

impl Outcome {
    pub const LABELS: [&str; 5] = ["success", "connect_failed", "reset", "timeout", "5xx"];

    pub fn label(self) -> &'static str {
        Outcome::LABELS[self as usize]
    }

    /// What an answer says about the endpoint that gave it. A gRPC server tells its failures in a status of its own.
    pub fn of_answer(status: u16, grpc: Option<u8>) -> Outcome {
        let failed = status >= 500 || grpc.is_some_and(crate::grpc::is_fault);
        if failed { Outcome::ServerError } else { Outcome::Success }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 4] = [Stage::Connect, Stage::Send, Stage::Head, Stage::Body];
    const KINDS: [Kind; 11] = [
        Kind::Unreachable,
        Kind::Distrusted,
        Kind::Unready,
        Kind::TimedOut,
        Kind::Stale,
        Kind::Unprocessed,
        Kind::Broken,
        Kind::Malformed,
        Kind::Silent,
        Kind::Shortage,
        Kind::Overdue,
    ];

    #[test]
    fn whatever_fails_before_a_connection_is_there_is_a_connect_error() {
        let ours = [Kind::Unready, Kind::Shortage];
        for kind in KINDS.into_iter().filter(|kind| !ours.contains(kind)) {
            let meaning = Failure::new(Stage::Connect, kind).meaning();
            assert_eq!(meaning.outcome, Some(Outcome::ConnectFailed), "{kind:?}");
            let expected = (kind != Kind::Overdue).then_some(Cause::Connect);
            assert_eq!(meaning.cause, expected, "{kind:?}");
        }
    }

    #[test]
    fn nothing_is_tried_again_once_the_answer_has_begun() {
        let before = [Kind::Distrusted, Kind::Unreachable, Kind::Shortage];
        for kind in KINDS.into_iter().filter(|kind| !before.contains(kind)) {
            assert_eq!(Failure::new(Stage::Body, kind).meaning().cause, None, "{kind:?}");
        }
    }

    #[test]
    fn timeouts_are_504_and_what_is_broken_is_502() {
        for (stage, kind) in STAGES.into_iter().flat_map(|stage| KINDS.map(|kind| (stage, kind))) {
            let status = Failure::new(stage, kind).meaning().reason.status().as_u16();
            let expected = match kind {
                Kind::TimedOut | Kind::Overdue => 504,
                Kind::Silent if stage != Stage::Connect => 504,
                Kind::Unready | Kind::Shortage => 503,
                _ => 502,
            };
            assert_eq!(status, expected, "{stage:?} {kind:?}");
        }
    }

    #[test]
    fn a_stale_connection_says_nothing_about_its_endpoint() {
        assert_eq!(Failure::new(Stage::Head, Kind::Stale).meaning().outcome, None);
    }

    #[test]
    fn what_we_lack_is_no_fault_of_an_endpoint() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL, libc::ENOMEM] {
            assert!(is_shortage(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::ECONNREFUSED, libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ECONNRESET] {
            assert!(!is_shortage(&io::Error::from_raw_os_error(code)), "{code}");
        }
        let meaning = Failure::new(Stage::Connect, Kind::Shortage).meaning();
        assert_eq!((meaning.outcome, meaning.reason), (None, Reason::Overloaded));
    }

    #[test]
    fn what_is_no_http_is_tried_again_like_a_reset() {
        for stage in [Stage::Send, Stage::Head] {
            assert_eq!(Failure::new(stage, Kind::Malformed).meaning().cause, Some(Cause::Reset));
        }
    }
}
