//! The iptables rules of a sidecar, as steps that can be printed or taken. Chains of our own hold all that we say, so that
//! applying twice is the same as applying once and nothing of anybody else's is touched. Pure.

use std::fmt::{self, Write};

use ipnet::IpNet;

const INBOUND: &str = "TIDEGATE_INBOUND";
const OUTBOUND: &str = "TIDEGATE_OUTBOUND";

/// Seconds that a command waits for another one that changes rules.
const WAIT: &str = "5";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub(crate) fn tool(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }

    pub(crate) fn restore(self) -> &'static str {
        match self {
            Family::V4 => "iptables-restore",
            Family::V6 => "ip6tables-restore",
        }
    }
}

/// Connections of one direction, and where they are redirected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capture {
    pub port: u16,
    pub excluded_ports: Vec<u16>,
    /// Whether the port is listened on over IPv4, and over IPv6.
    pub families: [bool; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub inbound: Option<Capture>,
    pub outbound: Option<Capture>,
    /// Whose connections are left alone: the sidecar's own, or they would come back to it for ever.
    pub user: String,
    pub excluded_networks: Vec<IpNet>,
}

/// One command, or several that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Gives chains of our own the content of `input`, all at once.
    Restore { family: Family, input: String },
    /// Has `from` lead to the chain `to`, if it does not.
    Hook { family: Family, from: &'static str, to: &'static str },
    /// Has it no longer lead there.
    Unhook { family: Family, from: &'static str, to: &'static str },
    /// Takes away one of our chains, if it is there.
    Drop { family: Family, chain: &'static str },
}

/// Where the packets of each direction pass, and our chain for them.
const HOOKS: [(&str, &str); 2] = [("PREROUTING", INBOUND), ("OUTPUT", OUTBOUND)];

impl Rules {
    /// What makes the rules what they are to be, whatever they were before.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for family in Family::ALL {
            let captures = |capture: &Option<Capture>| {
                capture.as_ref().filter(|capture| capture.families[family as usize]).is_some()
            };
            let wanted = [captures(&self.inbound), captures(&self.outbound)];
            if wanted.contains(&true) {
                steps.push(Step::Restore { family, input: self.input(family, wanted) });
            }
            for ((from, to), wanted) in HOOKS.into_iter().zip(wanted) {
                match wanted {
                    true => steps.push(Step::Hook { family, from, to }),
                    false => steps.extend(removal(family, from, to)),
                }
            }
        }
        steps
    }

    /// The input of `iptables-restore --noflush`: naming a chain of our own there empties it.
    fn input(&self, family: Family, [inbound, outbound]: [bool; 2]) -> String {
        let mut rules = Vec::new();
        if let Some(capture) = self.inbound.as_ref().filter(|_| inbound) {
            let excluded = ports(&capture.excluded_ports);
            rules.extend(excluded.map(|port| format!("-A {INBOUND} -p tcp --dport {port} -j RETURN")));
            rules.push(redirect(INBOUND, capture.port));
        }
        if let Some(capture) = self.outbound.as_ref().filter(|_| outbound) {
            rules.push(format!("-A {OUTBOUND} -m owner --uid-owner {} -j RETURN", self.user));
            // What stays on this host was never on its way out.
            rules.push(format!("-A {OUTBOUND} -o lo -j RETURN"));
            let is_of_family = |network: &&IpNet| match network {
                IpNet::V4(_) => family == Family::V4,
                IpNet::V6(_) => family == Family::V6,
            };
            let networks = self.excluded_networks.iter().filter(is_of_family);
            rules.extend(networks.map(|network| format!("-A {OUTBOUND} -d {network} -j RETURN")));
            let excluded = ports(&capture.excluded_ports);
            rules.extend(excluded.map(|port| format!("-A {OUTBOUND} -p tcp --dport {port} -j RETURN")));
            rules.push(redirect(OUTBOUND, capture.port));
        }
        let mut input = "*nat\n".to_owned();
        for (chain, _) in [(INBOUND, inbound), (OUTBOUND, outbound)].into_iter().filter(|(_, wanted)| *wanted)
        {
            // Writing to a string cannot fail.
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for rule in rules {
            let _ = writeln!(input, "{rule}");
        }
        input + "COMMIT\n"
    }
}

/// What takes away all that [`Rules::steps`] may have made.
pub(crate) fn removal_of_all(families: &[Family]) -> Vec<Step> {
    let hooks = families.iter().flat_map(|family| HOOKS.map(|(from, to)| removal(*family, from, to)));
    hooks.flatten().collect()
}

fn removal(family: Family, from: &'static str, to: &'static str) -> [Step; 2] {
    [Step::Unhook { family, from, to }, Step::Drop { family, chain: to }]
}

fn redirect(chain: &str, port: u16) -> String {
    format!("-A {chain} -p tcp -j REDIRECT --to-ports {port}")
}

fn ports(ports: &[u16]) -> impl Iterator<Item = u16> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter()
}

/// The rule by which `from` leads to `to`: only what is for this host itself is inbound, on a router too.
pub(crate) fn hook(from: &str, to: &str) -> Vec<String> {
    let local = match from {
        "PREROUTING" => &["-m", "addrtype", "--dst-type", "LOCAL"][..],
        _ => &[],
    };
    let words = [&[from, "-p", "tcp"][..], local, &["-j", to]].concat();
    words.into_iter().map(str::to_owned).collect()
}

/// How the nat table is spoken of.
pub(crate) const TABLE: [&str; 4] = ["--wait", WAIT, "-t", "nat"];

/// How a whole set of rules is put in place without touching what others have.
pub(crate) const RESTORE: [&str; 3] = ["--noflush", "--wait", WAIT];

/// As a shell would run it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = TABLE.join(" ");
        match self {
            Step::Restore { family, input } => {
                write!(f, "{} {} <<'END'\n{input}END", family.restore(), RESTORE.join(" "))
            }
            Step::Hook { family, from, to } => {
                let (tool, rule) = (family.tool(), hook(from, to).join(" "));
                write!(f, "{tool} {table} -C {rule} 2>/dev/null || {tool} {table} -A {rule}")
            }
            Step::Unhook { family, from, to } => {
                let (tool, rule) = (family.tool(), hook(from, to).join(" "));
                write!(f, "while {tool} {table} -D {rule} 2>/dev/null; do :; done")
            }
            Step::Drop { family, chain } => {
                let tool = family.tool();
                write!(f, "{tool} {table} -F {chain} 2>/dev/null && {tool} {table} -X {chain} || true")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(port: u16, excluded: &[u16], families: [bool; 2]) -> Capture {
        Capture { port, excluded_ports: excluded.to_vec(), families }
    }

    fn script(steps: &[Step]) -> String {
        steps.iter().map(|step| format!("{step}\n")).collect()
    }

    #[test]
    fn both_directions_on_ipv4() {
        let rules = Rules {
            inbound: Some(capture(15006, &[9901, 22, 22], [true, false])),
            outbound: Some(capture(15001, &[5432], [true, false])),
            user: "tidegate".into(),
            excluded_networks: vec!["169.254.169.254/32".parse().unwrap(), "fd00::/8".parse().unwrap()],
        };
        let removed = script(&removal_of_all(&[Family::V6]));
        let expected = "\
iptables-restore --noflush --wait 5 <<'END'
*nat
:TIDEGATE_INBOUND - [0:0]
:TIDEGATE_OUTBOUND - [0:0]
-A TIDEGATE_INBOUND -p tcp --dport 22 -j RETURN
-A TIDEGATE_INBOUND -p tcp --dport 9901 -j RETURN
-A TIDEGATE_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A TIDEGATE_OUTBOUND -m owner --uid-owner tidegate -j RETURN
-A TIDEGATE_OUTBOUND -o lo -j RETURN
-A TIDEGATE_OUTBOUND -d 169.254.169.254/32 -j RETURN
-A TIDEGATE_OUTBOUND -p tcp --dport 5432 -j RETURN
-A TIDEGATE_OUTBOUND -p tcp -j REDIRECT --to-ports 15001
COMMIT
END
iptables --wait 5 -t nat -C PREROUTING -p tcp -m addrtype --dst-type LOCAL -j TIDEGATE_INBOUND 2>/dev/null || \
iptables --wait 5 -t nat -A PREROUTING -p tcp -m addrtype --dst-type LOCAL -j TIDEGATE_INBOUND
iptables --wait 5 -t nat -C OUTPUT -p tcp -j TIDEGATE_OUTBOUND 2>/dev/null || \
iptables --wait 5 -t nat -A OUTPUT -p tcp -j TIDEGATE_OUTBOUND
";
        assert_eq!(script(&rules.steps()), format!("{expected}{removed}"));
    }

    #[test]
    fn one_direction_takes_away_what_the_other_had() {
        let rules = Rules {
            inbound: None,
            outbound: Some(capture(15001, &[], [false, true])),
            user: "1337".into(),
            excluded_networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        };
        let expected = "\
while iptables --wait 5 -t nat -D PREROUTING -p tcp -m addrtype --dst-type LOCAL -j TIDEGATE_INBOUND 2>/dev/null; do :; done
iptables --wait 5 -t nat -F TIDEGATE_INBOUND 2>/dev/null && iptables --wait 5 -t nat -X TIDEGATE_INBOUND || true
while iptables --wait 5 -t nat -D OUTPUT -p tcp -j TIDEGATE_OUTBOUND 2>/dev/null; do :; done
iptables --wait 5 -t nat -F TIDEGATE_OUTBOUND 2>/dev/null && iptables --wait 5 -t nat -X TIDEGATE_OUTBOUND || true
ip6tables-restore --noflush --wait 5 <<'END'
*nat
:TIDEGATE_OUTBOUND - [0:0]
-A TIDEGATE_OUTBOUND -m owner --uid-owner 1337 -j RETURN
-A TIDEGATE_OUTBOUND -o lo -j RETURN
-A TIDEGATE_OUTBOUND -d fd00::/8 -j RETURN
-A TIDEGATE_OUTBOUND -p tcp -j REDIRECT --to-ports 15001
COMMIT
END
while ip6tables --wait 5 -t nat -D PREROUTING -p tcp -m addrtype --dst-type LOCAL -j TIDEGATE_INBOUND 2>/dev/null; do :; done
ip6tables --wait 5 -t nat -F TIDEGATE_INBOUND 2>/dev/null && ip6tables --wait 5 -t nat -X TIDEGATE_INBOUND || true
ip6tables --wait 5 -t nat -C OUTPUT -p tcp -j TIDEGATE_OUTBOUND 2>/dev/null || ip6tables --wait 5 -t nat -A OUTPUT -p tcp -j TIDEGATE_OUTBOUND
";
        assert_eq!(script(&rules.steps()), expected);
    }
}
