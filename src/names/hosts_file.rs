//! The hosts file: lines of an address and its names (hosts(5)). What cannot be read as such is passed over, as the
//! system's own resolver does.

use std::{collections::HashMap, net::IpAddr};

#[derive(Debug, Default, PartialEq)]
pub(super) struct HostsFile(HashMap<String, Vec<IpAddr>>);

impl HostsFile {
    pub(super) fn parse(text: &str) -> HostsFile {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse) else { continue };
            for name in words {
                let addresses = names.entry(key(name)).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        HostsFile(names)
    }

    /// All addresses of both families, in the order of the file; none where it does not know the name.
    pub(super) fn addresses(&self, host: &str) -> &[IpAddr] {
        self.0.get(&key(host)).map_or(&[], Vec::as_slice)
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_addresses_of_all_their_lines() {
        let file = HostsFile::parse(
            "\u{feff}127.0.0.1 localhost # this one\n\n# 10.0.0.9 web\n10.0.0.1\tApp_Web_1 web web.\nfd00::1 web\r\n\
             300.0.0.1 bad\nfe80::1%lo0 scoped\n10.0.0.2",
        );
        let addresses = |host| file.addresses(host).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(addresses("app_web_1"), ["10.0.0.1"]);
        assert_eq!(addresses("WEB."), ["10.0.0.1", "fd00::1"]);
        assert_eq!(addresses("localhost"), ["127.0.0.1"]);
        assert!(["bad", "scoped", "this", "other", ""].iter().all(|host| addresses(host).is_empty()));
    }
}
