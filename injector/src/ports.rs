//! Sets of ports and of addresses as annotations write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Ports and ranges of ports: `3306,9000-9100`. Sorted, without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

/// The most entries of one annotation. Redirection rules of this size are still quick to load and to walk.
const MAX_ENTRIES: usize = 256;

/// Why a list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    /// One entry is no port and no range.
    #[error("`{0}` is not a port or a range of ports")]
    Port(String),
    /// A range whose end lies before its start.
    #[error("the range {0}-{1} ends before it starts")]
    Backwards(u16, u16),
    /// One entry is no network.
    #[error("`{0}` is not a network")]
    Network(String),
    /// Longer than the bound.
    #[error("the list has more than {MAX_ENTRIES} entries")]
    TooLong,
}

impl PortSet {
    /// A set of these ports.
    #[must_use]
    pub fn of(ports: &[u16]) -> Self {
        Self::merged(ports.iter().map(|port| (*port, *port)).collect())
    }

    /// Whether a port is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether no port is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    fn merged(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl FromStr for PortSet {
    type Err = InvalidList;

    fn from_str(text: &str) -> Result<Self, InvalidList> {
        let ranges = entries(text)?.into_iter().map(parse_range).collect::<Result<_, _>>()?;
        Ok(Self::merged(ranges))
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// Networks in CIDR notation; an address alone is a network of one.
///
/// # Errors
///
/// [`InvalidList`] names the first entry that is none.
pub fn parse_networks(text: &str) -> Result<Vec<IpNet>, InvalidList> {
    let network = |entry: &str| {
        let address = || entry.parse::<IpAddr>().ok().map(IpNet::from);
        let parsed = entry.parse::<IpNet>().ok().or_else(address);
        parsed.map(|network| network.trunc()).ok_or_else(|| InvalidList::Network(excerpt(entry)))
    };
    let mut networks = entries(text)?.into_iter().map(network).collect::<Result<Vec<_>, _>>()?;
    networks.sort_unstable();
    networks.dedup();
    Ok(networks)
}

/// An empty annotation is an empty list: it takes back what the namespace says.
fn entries(text: &str) -> Result<Vec<&str>, InvalidList> {
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).take(MAX_ENTRIES + 1).collect();
    if entries.len() > MAX_ENTRIES { Err(InvalidList::TooLong) } else { Ok(entries) }
}

fn parse_range(entry: &str) -> Result<(u16, u16), InvalidList> {
    let wrong = || InvalidList::Port(excerpt(entry));
    let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
    let (first, last) = (parse_port(first.trim()).ok_or_else(wrong)?, parse_port(last.trim()).ok_or_else(wrong)?);
    if first > last { Err(InvalidList::Backwards(first, last)) } else { Ok((first, last)) }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Shortens what somebody else wrote so that it fits into a message.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_sorted_and_merged() {
        let set: PortSet = " 9000 - 9100, 3306,9050-9200,9201 ,,3306,".parse().unwrap();
        assert_eq!(set.to_string(), "3306,9000-9201");
        assert!(set.contains(9201) && set.contains(3306) && !set.contains(8999));
        assert!("".parse::<PortSet>().unwrap().is_empty());
        assert_eq!(PortSet::of(&[2, 1]).union(&PortSet::of(&[7])).to_string(), "1-2,7");
    }

    #[test]
    fn what_is_no_port_is_named() {
        for bad in ["0", "65536", "-1", "1-", "-", "a", "+80", "1-2-3", "80 81"] {
            assert!(matches!(bad.parse::<PortSet>(), Err(InvalidList::Port(_))), "{bad}");
        }
        assert_eq!("9-3".parse::<PortSet>(), Err(InvalidList::Backwards(9, 3)));
        assert_eq!(vec!["1"; 257].join(",").parse::<PortSet>(), Err(InvalidList::TooLong));
    }

    #[test]
    fn networks_lose_their_host_bits() {
        let networks = parse_networks("10.1.2.3/8, fd00::1, 10.0.0.0/8").unwrap();
        let text: Vec<String> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.0/8", "fd00::1/128"]);
        for bad in ["10.0.0.0/33", "10.0.0", "example.com", "1.2.3.4/"] {
            assert!(parse_networks(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_set_survives_being_written_and_read(ports in proptest::collection::vec(1..=u16::MAX, 0..40)) {
            let set = PortSet::of(&ports);
            prop_assert_eq!(set.to_string().parse::<PortSet>(), Ok(set.clone()));
            prop_assert!(ports.iter().all(|port| set.contains(*port)));
        }

        #[test]
        fn no_text_panics(text in "[0-9,. /:a-f-]{0,60}") {
            let _ = text.parse::<PortSet>();
            let _ = parse_networks(&text);
        }
    }
}
