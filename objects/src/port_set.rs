//! A set of ports as annotations write it: `25,3306,8000-8010`.

use std::ops::RangeInclusive;
use std::str::FromStr;

use super::field::excerpt;

/// Ports and ranges of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Whether it has `port`.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// All its ports, in the order they are written.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().cloned().flatten()
    }
}

impl FromStr for PortSet {
    type Err = String;

    /// An empty text is the empty set: a Pod says so to override its Namespace.
    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(range).collect::<Result<_, _>>().map(Self)
    }
}

fn range(item: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("`{}` is not a port or a range of ports: write 3306 or 8000-8010, joined by commas", excerpt(item));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong);
    match item.split_once('-') {
        Some((first, last)) => {
            let range = port(first)?..=port(last)?;
            if range.is_empty() { Err(wrong()) } else { Ok(range) }
        }
        None => port(item).map(|port| port..=port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read() {
        let set: PortSet = "25, 3306,8000-8002,".parse().unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [25, 3306, 8000, 8001, 8002]);
        assert!(set.contains(8001) && !set.contains(8003));
        assert_eq!("".parse::<PortSet>(), Ok(PortSet::default()));
        for bad in ["x", "0", "70000", "9-8", "-1", "1-", "1-2-3"] {
            assert!(bad.parse::<PortSet>().is_err(), "{bad}");
        }
    }
}
