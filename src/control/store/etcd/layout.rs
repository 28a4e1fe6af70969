//! Where things stand in etcd, below the prefix.

/// Keys by what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key<'k> {
    Instance {
        service: &'k str,
        id: &'k str,
    },
    Replica(&'k str),
    /// The replica that expires what belongs to none.
    Leader,
    Epoch,
    /// Why those that are deleted at the same revision are.
    Gone,
    Config {
        name: &'k str,
        of: Of<'k>,
    },
    /// For a first SVID.
    Token(&'k str),
    /// A gateway that takes a configuration.
    Gateway {
        config: &'k str,
        node: &'k str,
    },
    /// Not ours to read.
    Other,
}

/// What of a configuration stands at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of<'k> {
    /// How far the newest version has spread.
    Current,
    /// What a version's texts are known by.
    Version(u64),
    /// A piece of the texts that are known by `sum`.
    Piece { version: u64, sum: &'k str, index: usize },
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Layout {
        Layout { prefix: prefix.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn instance(&self, service: &str, id: &str) -> String {
        format!("{}instances/{service}/{id}", self.prefix)
    }

    /// Where the first instance may stand, and the key after all of them.
    pub(super) fn instances(&self) -> (Vec<u8>, Vec<u8>) {
        (format!("{}instances/", self.prefix).into(), format!("{}instances0", self.prefix).into())
    }

    /// Where the first key of all configurations may stand, and the key after all of them.
    fn configs(&self) -> (Vec<u8>, Vec<u8>) {
        (format!("{}configs/", self.prefix).into(), format!("{}configs0", self.prefix).into())
    }

    /// Below which all keys of one stand.
    pub(super) fn config(&self, name: &str) -> String {
        format!("{}configs/{name}/", self.prefix)
    }

    pub(super) fn current(&self, name: &str) -> String {
        format!("{}configs/{name}/current", self.prefix)
    }

    pub(super) fn version(&self, name: &str, version: u64) -> String {
        format!("{}configs/{name}/{version}", self.prefix)
    }

    /// Below which the texts of a version stand.
    pub(super) fn pieces(&self, name: &str, version: u64) -> String {
        format!("{}configs/{name}/{version}/", self.prefix)
    }

    pub(super) fn piece(&self, name: &str, version: u64, sum: &str, index: usize) -> String {
        format!("{}configs/{name}/{version}/{sum}/{index}", self.prefix)
    }

    fn gateways(&self) -> (Vec<u8>, Vec<u8>) {
        (format!("{}gateways/", self.prefix).into(), format!("{}gateways0", self.prefix).into())
    }

    /// Where configurations, gateways and tokens stand, and what is taken for them.
    pub(super) fn mirrored(&self) -> [(Vec<u8>, Vec<u8>); 3] {
        [self.configs(), self.gateways(), self.tokens()]
    }

    pub(super) fn is_mirrored(&self, key: &[u8]) -> bool {
        self.mirrored().iter().any(|(from, end)| (from.as_slice()..end.as_slice()).contains(&key))
    }

    fn tokens(&self) -> (Vec<u8>, Vec<u8>) {
        (format!("{}tokens/", self.prefix).into(), format!("{}tokens0", self.prefix).into())
    }

    pub(super) fn token(&self, id: &str) -> String {
        format!("{}tokens/{id}", self.prefix)
    }

    pub(super) fn gateway(&self, config: &str, node: &str) -> String {
        format!("{}gateways/{config}/{node}", self.prefix)
    }

    pub(super) fn replica(&self, id: &str) -> String {
        format!("{}replicas/{id}", self.prefix)
    }

    pub(super) fn leader(&self) -> String {
        format!("{}leader", self.prefix)
    }

    pub(super) fn epoch(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    pub(super) fn gone(&self) -> String {
        format!("{}gone", self.prefix)
    }

    pub(super) fn read<'k>(&self, key: &'k [u8]) -> Key<'k> {
        let below = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.prefix));
        let Some(below) = below else { return Key::Other };
        // Names of nodes may have slashes.
        if let Some((config, node)) =
            below.strip_prefix("gateways/").and_then(|gateway| gateway.split_once('/'))
        {
            return Key::Gateway { config, node };
        }
        match below.split('/').collect::<Vec<_>>()[..] {
            ["instances", service, id] => Key::Instance { service, id },
            ["replicas", id] => Key::Replica(id),
            ["leader"] => Key::Leader,
            ["epoch"] => Key::Epoch,
            ["gone"] => Key::Gone,
            ["tokens", id] => Key::Token(id),
            ["configs", name, ref of @ ..] => read_of(of).map_or(Key::Other, |of| Key::Config { name, of }),
            _ => Key::Other,
        }
    }
}

fn read_of<'k>(of: &[&'k str]) -> Option<Of<'k>> {
    // As it is written: `07` is no key of ours.
    let version =
        |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0 && number.to_string() == text);
    match *of {
        ["current"] => Some(Of::Current),
        [number] => version(number).map(Of::Version),
        [number, sum, index] => {
            Some(Of::Piece { version: version(number)?, sum, index: index.parse().ok()? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let layout = Layout::new("/tidegate/v1/");
        let read = |key: &str| match layout.read(key.as_bytes()) {
            Key::Instance { service, id } => format!("{service} {id}"),
            Key::Replica(id) => id.to_owned(),
            key => format!("{key:?}"),
        };
        assert_eq!(read(&layout.instance("cart.shop", "cart.shop-[::1]-80")), "cart.shop cart.shop-[::1]-80");
        assert_eq!(read(&layout.replica("r1")), "r1");
        let (from, end) = layout.instances();
        let inside = layout.instance("zz", "zz").into_bytes();
        assert!(from < inside && inside < end && layout.leader().into_bytes() > end);
        let fixed = [layout.leader(), layout.epoch(), layout.gone()].map(|key| read(&key));
        assert_eq!(fixed, ["Leader", "Epoch", "Gone"]);
        assert_eq!(
            layout.read(layout.piece("edge", 7, "abc", 1).as_bytes()),
            Key::Config { name: "edge", of: Of::Piece { version: 7, sum: "abc", index: 1 } }
        );
        for (key, of) in [(layout.current("edge"), Of::Current), (layout.version("edge", 7), Of::Version(7))]
        {
            assert_eq!(layout.read(key.as_bytes()), Key::Config { name: "edge", of });
            assert!(key.starts_with(&layout.config("edge")));
        }
        assert_eq!(
            layout.read(layout.gateway("edge", "rack/7").as_bytes()),
            Key::Gateway { config: "edge", node: "rack/7" }
        );
        for other in [
            "/tidegate/v1/configs/edge/0",
            "/tidegate/v1/configs/edge/07",
            "/tidegate/v1/configs/edge/7/abc",
            "/tidegate/v1/gateways/edge",
            "/tidegate/v1/instances/a/b/c",
            "/tidegate/v1/instances/a",
            "/tidegate/v1/configs/a",
            "/x/leader",
            "",
        ] {
            assert_eq!(read(other), "Other", "{other}");
        }
        assert_eq!(layout.read(b"/tidegate/v1/replicas/\xff"), Key::Other);
    }
}
