//! Affinity on a request's way: which endpoint its client belongs to, and what is said of that when one has answered. A session
//! moves only if its endpoint cannot be used: where another try or a hedge was faster, it stays where it is.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header::SET_COOKIE};
use pingora_http::ResponseHeader;

use super::{Attempts, cookie};
use crate::{
    config::{self, CookieAttributes, WhenLost},
    error::Reason,
    observe::metrics::AffinityResult,
    snapshot::{Destination, Route},
    upstream::{Affinity, Endpoint, Opened},
};

/// What a request says of where its client belongs.
pub(crate) struct Session {
    /// Of which it is.
    upstream: Arc<str>,
    came: Came,
    /// What the header names it.
    name: Option<HeaderValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    New,
    /// Of this endpoint, by its digest. Some are given a new cookie though they stay.
    At {
        home: u64,
        renews: bool,
    },
    /// There is a cookie, and it is none of ours.
    Invalid,
    Expired,
    /// There is a session, and nothing is known of it here.
    Unknown,
}

/// Of the cookies of one name, so many are looked at: strangers may send a thousand.
const MOST_COOKIES: usize = 4;

impl Session {
    /// `None` where the upstream keeps nobody.
    pub(super) fn of(destination: &Destination, headers: &HeaderMap) -> Option<Box<Session>> {
        let affinity = destination.upstream.affinity()?;
        let upstream = destination.upstream.shared_name();
        Some(Box::new(match affinity.settings() {
            config::Affinity::Cookie(settings) => Session {
                upstream,
                came: by_cookie(affinity, settings, headers, seconds(SystemTime::now())),
                name: None,
            },
            config::Affinity::Header(settings) => {
                let name = headers.get(&settings.name).cloned();
                let came = match &name {
                    None => Came::New,
                    Some(name) => match affinity.find(name.as_bytes(), Instant::now()) {
                        Some(home) => Came::At { home, renews: false },
                        None => Came::Unknown,
                    },
                };
                Session { upstream, came, name }
            }
        }))
    }

    /// The endpoint that it belongs to, as far as that is known, and is one of this upstream.
    pub(super) fn home(&self, destination: &Destination) -> Option<u64> {
        match self.came {
            Came::At { home, .. } if self.is_of(destination) => Some(home),
            _ => None,
        }
    }

    fn is_of(&self, destination: &Destination) -> bool {
        *self.upstream == *destination.upstream.name()
    }
}

fn by_cookie(affinity: &Affinity, settings: &config::AffinityCookie, headers: &HeaderMap, now: u64) -> Came {
    let mut came = cookie::all(headers, affinity.cookie_name()).take(MOST_COOKIES).peekable();
    if came.peek().is_none() {
        return Came::New;
    }
    match came.find_map(|value| affinity.open(value, now)) {
        Some(opened) => of_age(opened, settings.max_age.map(Into::into)),
        None => Came::Invalid,
    }
}

/// Browsers drop it when its time is over; others may not. Who comes often enough never gets there.
fn of_age(Opened { home, age, is_outdated }: Opened, max_age: Option<Duration>) -> Came {
    match max_age.map(|max_age| max_age.as_secs()) {
        Some(max_age) if age > max_age => Came::Expired,
        max_age => Came::At { home, renews: is_outdated || max_age.is_some_and(|max_age| age > max_age / 2) },
    }
}

/// Whether a session that cannot be at its endpoint may be at another.
pub(super) fn may_move(affinity: Option<&Affinity>) -> bool {
    match affinity.map(Affinity::settings) {
        Some(config::Affinity::Header(header)) => header.when_lost == WhenLost::Move,
        _ => true,
    }
}

/// Whether a request whose session is at `home` may be at no other endpoint of its upstream.
pub(super) fn is_bound(destination: &Destination, home: Option<u64>) -> bool {
    home.is_some() && !may_move(destination.upstream.affinity())
}

/// The gateway's own cookies are not for endpoints, unless the operator wants that; nor are those for other variants of the route.
pub(crate) fn hide(headers: &mut HeaderMap, route: Option<&Arc<Route>>) {
    let destinations = route.map(|route| route.target.destinations()).unwrap_or_default();
    destinations.iter().for_each(|to| hide_from(headers, to));
}

fn hide_from(headers: &mut HeaderMap, to: &Destination) {
    if let Some(config::Affinity::Cookie(settings)) = to.upstream.affinity().map(Affinity::settings)
        && !settings.forward
    {
        cookie::hide(headers, &settings.name);
    }
}

impl Attempts {
    /// An endpoint's answer goes to the client: the session is there from now on, or stays where it was.
    ///
    /// # Errors
    ///
    /// The answer has too many header fields to take another.
    pub(crate) fn settle_session(
        &mut self,
        response: &mut ResponseHeader,
        is_https: bool,
    ) -> Result<(), Reason> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let (Some(destination), Some(endpoint)) = (self.destination.clone(), self.answering().cloned())
        else {
            return Ok(());
        };
        let affinity = destination.upstream.affinity().filter(|_| session.is_of(&destination));
        let Some(affinity) = affinity else { return Ok(()) };
        let now = Instant::now();
        let (result, moved) = compare(&session.came, &destination, &endpoint, now);
        destination.upstream_metrics.affinity(result);
        let is_new_place = !matches!(result, AffinityResult::Kept | AffinityResult::Elsewhere);
        self.moved = moved;
        match affinity.settings() {
            config::Affinity::Cookie(settings) => {
                cookie::unset(response, &settings.name)?;
                let renews = matches!(session.came, Came::At { renews: true, .. });
                if !(is_new_place || renews && result == AffinityResult::Kept) {
                    return Ok(());
                }
                let value = affinity.seal(&endpoint, seconds(SystemTime::now()));
                let attributes =
                    CookieAttributes { name: affinity.cookie_name(), ..settings.attributes(is_https) };
                let field = value.and_then(|value| cookie::write(attributes, &value));
                if let Some(field) = field {
                    response.append_header(SET_COOKIE, field).map_err(|_| Reason::Internal)?;
                }
            }
            config::Affinity::Header(settings) => {
                let told = response.headers.get(&settings.name);
                let goes_on = session.name.as_ref().filter(|_| result == AffinityResult::Moved);
                // That a session is still where it was has been noted already.
                let told = told.filter(|told| is_new_place || session.name.as_ref() != Some(*told));
                for name in told.into_iter().chain(goes_on) {
                    if let Some(remembered) = affinity.remember(name.as_bytes(), &endpoint, now) {
                        destination.upstream_metrics.sessions(remembered.sessions, remembered.evicted);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What became of a session that `endpoint` has answered, and what the log says of a move.
fn compare(
    came: &Came,
    destination: &Destination,
    endpoint: &Endpoint,
    now: Instant,
) -> (AffinityResult, Option<String>) {
    let home = match came {
        Came::New => return (AffinityResult::New, None),
        Came::Invalid => return (AffinityResult::Invalid, None),
        Came::Expired => return (AffinityResult::Expired, None),
        Came::Unknown => return (AffinityResult::Unknown, None),
        Came::At { home, .. } => *home,
    };
    match destination.upstream.whereabouts(home, now) {
        (Some(home), _) if home.id() == endpoint.id() => (AffinityResult::Kept, None),
        (_, None) => (AffinityResult::Elsewhere, None),
        (Some(home), Some(away)) => {
            let text = format!("the session has moved here: {} {}", home.name, away.words());
            (AffinityResult::Moved, Some(text))
        }
        (None, Some(away)) => {
            let text = format!("the session has moved here: its endpoint {}", away.words());
            (AffinityResult::Moved, Some(text))
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_time_and_given_out_anew_after_half_of_it_or_under_a_new_key() {
        let hour = Some(Duration::from_secs(3600));
        let at = |renews| Came::At { home: 7, renews };
        for (age, is_outdated, max_age, came) in [
            (1_000_000, false, None, at(false)),
            (0, true, None, at(true)),
            (0, false, hour, at(false)),
            (1800, false, hour, at(false)),
            (1801, false, hour, at(true)),
            (3600, false, hour, at(true)),
            (3601, false, hour, Came::Expired),
            (3601, true, hour, Came::Expired),
        ] {
            assert_eq!(of_age(Opened { home: 7, age, is_outdated }, max_age), came, "{age}");
        }
    }
}
