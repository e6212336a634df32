//! The rules as data, and as the text that `nft` reads and prints.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::lists::{PortRange, merged};
use super::settings::Settings;

/// Family and name of the table, as nft writes them.
pub(super) const TABLE: &str = "inet weir";

/// A port of 127.0.0.1 at which nobody listens: the rules send connections to it to the admin page, by which the sidecar sees that
/// they are in place.
pub(crate) const CHECK_PORT: u16 = 15421;

/// Everything in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: [Chain; 2],
}

/// Rules that a connection walks when it begins, until one of them decides. If none does, it goes where it was going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// For connections from others.
    Prerouting,
    /// For connections that processes here open.
    Output,
}

/// What happens to which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matched: Match,
    pub(super) verdict: Verdict,
}

/// Which connection a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Opened by a process of this user.
    User(u32),
    /// It comes in over the loopback interface.
    FromLoopback,
    /// It goes out over the loopback interface.
    ToLoopback,
    /// Its destination lies in this network.
    Destination(IpNet),
    /// TCP to one of these ports.
    Ports(PortRange),
    /// TCP to this port of 127.0.0.1.
    Loopback(u16),
    /// TCP.
    Tcp,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes where it was going.
    Leave,
    /// It goes to this port of this machine.
    Redirect(u16),
}

impl Ruleset {
    /// What the settings ask for.
    pub(super) fn new(settings: &Settings) -> Self {
        Self { chains: [outbound(settings), inbound(settings)] }
    }

    /// One line for the log.
    pub(super) fn summary(&self) -> String {
        let ports = self.chains.iter().flat_map(|chain| {
            chain.rules.iter().filter_map(|rule| match rule.verdict {
                Verdict::Leave => None,
                Verdict::Redirect(_) if rule.matched != Match::Tcp => None,
                Verdict::Redirect(port) => Some(format!("{} TCP goes to {port}", chain.hook.name())),
            })
        });
        let rules: usize = self.chains.iter().map(|chain| chain.rules.len()).sum();
        format!("{}: table {TABLE} is in place with {rules} rules", ports.collect::<Vec<_>>().join(", "))
    }
}

fn outbound(settings: &Settings) -> Chain {
    let own = [
        // Its own connections would come back to it for ever.
        Match::User(settings.proxy_uid),
        // The pod talking to itself, by its own address as well: there is nobody to be routed to.
        Match::ToLoopback,
        // Before routing has its say these are loopback already, also where a policy route sends them elsewhere.
        Match::Destination(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))),
        Match::Destination(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128))),
    ];
    let networks = settings.skip_outbound_cidrs.iter().copied().map(Match::Destination);
    let ports = settings.skip_outbound_ports.iter().copied().map(Match::Ports);
    let mut chain = Chain::of(Hook::Output, own.into_iter().chain(networks).chain(ports), settings.outbound_port);
    // Before all others: it is the sidecar that asks, over loopback.
    chain.rules.insert(0, Rule { matched: Match::Loopback(CHECK_PORT), verdict: Verdict::Redirect(settings.admin_port) });
    chain
}

fn inbound(settings: &Settings) -> Chain {
    let own = [settings.outbound_port, settings.inbound_port, settings.admin_port].map(PortRange::one);
    let ports = merged(own.into_iter().chain(settings.skip_inbound_ports.iter().copied()).collect());
    let left = std::iter::once(Match::FromLoopback).chain(ports.into_iter().map(Match::Ports));
    Chain::of(Hook::Prerouting, left, settings.inbound_port)
}

impl Chain {
    /// Leaves these connections alone and redirects the rest of TCP.
    fn of(hook: Hook, left: impl Iterator<Item = Match>, port: u16) -> Self {
        let left = left.map(|matched| Rule { matched, verdict: Verdict::Leave });
        let rules = left.chain([Rule { matched: Match::Tcp, verdict: Verdict::Redirect(port) }]).collect();
        Self { hook, rules }
    }
}

impl Hook {
    /// The name of the chain that hangs there.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "inbound",
            Self::Output => "outbound",
        }
    }
}

/// As `nft list table` prints it, with the table's braces.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.chains;
        writeln!(f, "table {TABLE} {{\n{first}\n{second}}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = match self.hook {
            Hook::Prerouting => "prerouting priority dstnat",
            Hook::Output => "output priority -100",
        };
        writeln!(f, "\tchain {} {{\n\t\ttype nat hook {hook}; policy accept;", self.hook.name())?;
        for Rule { matched, verdict } in &self.rules {
            writeln!(f, "\t\t{matched} {verdict}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "meta skuid {uid}"),
            Self::FromLoopback => f.write_str("iifname \"lo\""),
            Self::ToLoopback => f.write_str("oifname \"lo\""),
            Self::Destination(network) => destination(f, network),
            Self::Ports(PortRange { first, last }) if first == last => write!(f, "tcp dport {first}"),
            Self::Ports(PortRange { first, last }) => write!(f, "tcp dport {first}-{last}"),
            Self::Loopback(port) => write!(f, "ip daddr 127.0.0.1 tcp dport {port}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
        }
    }
}

fn destination(f: &mut fmt::Formatter<'_>, network: &IpNet) -> fmt::Result {
    let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
    if network.prefix_len() == network.max_prefix_len() {
        write!(f, "{family} daddr {}", network.addr())
    } else {
        write!(f, "{family} daddr {network}")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave => f.write_str("return"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Change;
    use super::super::settings::tests::read;
    use super::*;

    #[test]
    fn the_script_of_a_plain_pod() {
        let script = Change::Replace(Ruleset::new(&read(&[]).unwrap())).script();
        let expected = "\
add table inet weir
delete table inet weir
table inet weir {
	chain outbound {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.1 tcp dport 15421 redirect to :15420
		meta skuid 15400 return
		oifname \"lo\" return
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		meta l4proto tcp redirect to :15401
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		iifname \"lo\" return
		tcp dport 15401 return
		tcp dport 15406 return
		tcp dport 15420 return
		meta l4proto tcp redirect to :15406
	}
}
";
        assert_eq!(script, expected);
        assert_eq!(Change::Remove.script(), "add table inet weir\ndelete table inet weir\n");
    }

    #[test]
    fn what_is_to_be_skipped_comes_before_the_redirection() {
        let flags = [
            "--proxy-uid=1337",
            "--outbound-port=1401",
            "--inbound-port=1406",
            "--admin-port=1420",
            "--skip-inbound-ports=1407-1410,22",
            "--skip-outbound-ports=25,5000-5100",
            "--skip-outbound-cidrs=fd00::/8,10.0.0.0/12,192.0.2.7",
        ];
        let ruleset = Ruleset::new(&read(&flags).unwrap()).to_string();
        let expected = "\
table inet weir {
	chain outbound {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.1 tcp dport 15421 redirect to :1420
		meta skuid 1337 return
		oifname \"lo\" return
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		ip daddr 10.0.0.0/12 return
		ip daddr 192.0.2.7 return
		ip6 daddr fd00::/8 return
		tcp dport 25 return
		tcp dport 5000-5100 return
		meta l4proto tcp redirect to :1401
	}

	chain inbound {
		type nat hook prerouting priority dstnat; policy accept;
		iifname \"lo\" return
		tcp dport 22 return
		tcp dport 1401 return
		tcp dport 1406-1410 return
		tcp dport 1420 return
		meta l4proto tcp redirect to :1406
	}
}
";
        assert_eq!(ruleset, expected);
    }

    #[test]
    fn the_log_says_what_was_done() {
        let summary = Ruleset::new(&read(&[]).unwrap()).summary();
        assert_eq!(summary, "outbound TCP goes to 15401, inbound TCP goes to 15406: table inet weir is in place with 11 rules");
    }
}
