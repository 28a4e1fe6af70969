//! What a sidecar's listener does with what is not HTTP and goes between two sidecars: outbound it is put into a tunnel, inbound it
//! is taken out of one. Both know the other end by its SPIFFE ID.

use std::net::SocketAddr;

use super::Captured;
use crate::{
    error::Reason,
    identity::{Caller, IdPattern},
    upstream::{Nearness, Upstream},
};

/// Leading to upstreams by name as it is planned, and to live ones as it is used.
#[derive(Clone, Debug)]
pub enum Tunnels<To> {
    Out(Outward<To>),
    In(Inward<To>),
}

/// Which sidecars are known, and what becomes of what is for nobody known.
#[derive(Clone, Debug, PartialEq)]
pub struct Outward<To> {
    /// Their endpoints are behind sidecars, or are such.
    pub known: Vec<To>,
    /// Leads to whichever sidecar is there; `None` where nothing is sent to who is not known.
    pub unknown: Option<To>,
}

/// Who may come in by a tunnel, and how far.
#[derive(Clone, Debug, PartialEq)]
pub struct Inward<To> {
    pub allow: Vec<IdPattern>,
    /// `None`: all.
    pub ports: Option<Vec<u16>>,
    /// Where the application listens; `None` where each connection goes where it was meant to go.
    pub app: Option<SocketAddr>,
    pub to: To,
}

impl<To> Tunnels<To> {
    /// The same, leading to what `to` makes of each upstream; `None` where it leads nowhere.
    pub fn lead<Other>(&self, to: impl Fn(&To) -> Option<Other>) -> Option<Tunnels<Other>> {
        Some(match self {
            Tunnels::Out(out) => Tunnels::Out(Outward {
                known: out.known.iter().filter_map(&to).collect(),
                unknown: out.unknown.as_ref().and_then(&to),
            }),
            Tunnels::In(inward) => Tunnels::In(Inward {
                allow: inward.allow.clone(),
                ports: inward.ports.clone(),
                app: inward.app,
                to: to(&inward.to)?,
            }),
        })
    }
}

impl<To> Outward<To> {
    /// Through which upstream a sidecar is reached that answers for `meant`. One with that very endpoint comes before one with
    /// another port of that host.
    pub fn known<'a>(
        &'a self,
        meant: SocketAddr,
        upstream: impl Fn(&'a To) -> &'a Upstream,
    ) -> Option<&'a To> {
        let mut near = None;
        for to in &self.known {
            match upstream(to).nearness(meant) {
                Some(Nearness::Same) => return Some(to),
                Some(Nearness::SameHost) if near.is_none() => near = Some(to),
                Some(Nearness::SameHost) | None => {}
            }
        }
        near
    }
}

/// How far a caller gets that opens a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    App,
    At(SocketAddr),
}

/// Why a caller gets nowhere; the word says by which setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    pub reason: Reason,
    pub by: &'static str,
}

impl<To> Inward<To> {
    /// Whether `caller` may open a tunnel at all.
    pub fn admits(&self, caller: Option<&Caller>) -> bool {
        let id = caller.and_then(|caller| caller.id.as_ref());
        id.is_some_and(|id| self.allow.iter().any(|pattern| pattern.matches(id)))
    }

    /// Where a tunnel leads that was opened for `port`; 0 is the port that its connection was meant for, which was `original`.
    /// `local` is where it came in.
    ///
    /// # Errors
    ///
    /// Nowhere.
    pub fn leads(
        &self,
        port: u16,
        original: Option<SocketAddr>,
        local: SocketAddr,
        captured: Option<&Captured>,
    ) -> Result<Entry, Turned> {
        let turned = |reason, by| Err(Turned { reason, by });
        let (entry, port) = match (self.app, port) {
            (Some(app), 0) => (Entry::App, original.map_or(app.port(), |meant| meant.port())),
            (Some(app), port) if port == app.port() => (Entry::App, port),
            (Some(_), _) => return turned(Reason::NoRoute, "app"),
            (None, 0) => match original {
                Some(meant) => (Entry::At(meant), meant.port()),
                None => return turned(Reason::LoopDetected, "original_destination"),
            },
            (None, port) => {
                let meant = SocketAddr::new(original.unwrap_or(local).ip().to_canonical(), port);
                let is_ours = |own: &SocketAddr| own.port() == port;
                match captured.is_some_and(|captured| captured.ours.iter().any(is_ours)) {
                    true => return turned(Reason::LoopDetected, "original_destination"),
                    false => (Entry::At(meant), port),
                }
            }
        };
        match self.ports.as_ref().is_none_or(|ports| ports.contains(&port)) {
            true => Ok(entry),
            false => turned(Reason::Forbidden, "tunnel_ports"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn inward(app: Option<&str>, ports: Option<&[u16]>) -> Inward<()> {
        Inward {
            allow: vec![IdPattern::parse("spiffe://mesh.local/shop/*").unwrap()],
            ports: ports.map(<[u16]>::to_vec),
            app: app.map(address),
            to: (),
        }
    }

    fn caller(id: Option<&str>) -> Caller {
        Caller {
            id: id.map(|id| id.parse().unwrap()),
            until: std::time::SystemTime::UNIX_EPOCH,
            subject: "CN=spiffe://mesh.local/shop/orders".into(),
            hash: String::new(),
            uris: Vec::new(),
            dns: Vec::new(),
        }
    }

    #[test]
    fn admits_those_that_allow_names_by_their_spiffe_id_and_nobody_else() {
        let inward = inward(None, None);
        assert!(inward.admits(Some(&caller(Some("spiffe://mesh.local/shop/orders")))));
        assert!(!inward.admits(Some(&caller(Some("spiffe://mesh.local/pets")))));
        assert!(!inward.admits(Some(&caller(None))), "a subject is no SPIFFE ID");
        assert!(!inward.admits(None));
    }

    #[test]
    fn leads_to_the_application_or_where_the_connection_was_meant_to_go() {
        let local = address("10.0.0.2:15006");
        let meant = Some(address("10.0.0.2:3306"));
        let captured = Captured {
            detection_timeout: Duration::ZERO,
            opaque_ports: Arc::new([]),
            unknown: crate::config::Unknown::Forward,
            idle_timeout: Duration::from_secs(1),
            ours: Arc::new([address("0.0.0.0:15006")]),
        };
        let leads = |inward: &Inward<()>, port, original| {
            inward.leads(port, original, local, Some(&captured)).map_err(|turned| turned.by)
        };
        let (app, free) = (inward(Some("127.0.0.1:3306"), None), inward(None, None));
        let some = inward(None, Some(&[3306]));
        for (inward, port, original, expected) in [
            (&app, 0, None, Ok(Entry::App)),
            (&app, 0, Some(address("10.0.0.2:80")), Ok(Entry::App)),
            (&app, 3306, None, Ok(Entry::App)),
            (&app, 6379, None, Err("app")),
            (&free, 0, meant, Ok(Entry::At(address("10.0.0.2:3306")))),
            (&free, 0, None, Err("original_destination")),
            (&free, 6379, meant, Ok(Entry::At(address("10.0.0.2:6379")))),
            (&free, 6379, None, Ok(Entry::At(address("10.0.0.2:6379")))),
            (&free, 15006, meant, Err("original_destination")),
            (&some, 0, meant, Ok(Entry::At(address("10.0.0.2:3306")))),
            (&some, 6379, meant, Err("tunnel_ports")),
        ] {
            assert_eq!(leads(inward, port, original), expected, "{inward:?} {port} {original:?}");
        }
    }
}
