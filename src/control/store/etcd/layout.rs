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
    /// Not ours to read.
    Other,
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
        match below.split('/').collect::<Vec<_>>()[..] {
            ["instances", service, id] => Key::Instance { service, id },
            ["replicas", id] => Key::Replica(id),
            ["leader"] => Key::Leader,
            ["epoch"] => Key::Epoch,
            ["gone"] => Key::Gone,
            _ => Key::Other,
        }
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
        for other in [
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
