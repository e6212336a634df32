//! Lists of ports and of networks, as settings write them.

use std::net::IpAddr;

use ipnet::IpNet;

/// The most entries of one list. Longer ones are a mistake: every new connection walks the rules made of them.
pub(super) const MAX_ENTRIES: usize = 256;

/// Ports from the first to the last, both included. The first is at least 1 and never after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl PortRange {
    /// One port.
    pub(super) const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

/// A port.
///
/// # Errors
///
/// What was written instead.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| format!("`{}` is not a port", excerpt(text)))
}

/// Ports and ranges of ports, separated by commas: `3306,9000-9100`.
///
/// # Errors
///
/// The first entry that is none.
pub(super) fn port_ranges(text: &str) -> Result<Vec<PortRange>, String> {
    let range = |entry: &str| {
        let wrong = |_| format!("`{}` is not a port or a range of ports", excerpt(entry));
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        let range = PortRange { first: port(first.trim()).map_err(wrong)?, last: port(last.trim()).map_err(wrong)? };
        if range.first > range.last { Err(format!("the range `{}` ends before it starts", excerpt(entry))) } else { Ok(range) }
    };
    Ok(merged(entries(text)?.into_iter().map(range).collect::<Result<_, _>>()?))
}

/// The same ports in as few ranges as possible, sorted.
pub(super) fn merged(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(previous) if range.first <= previous.last.saturating_add(1) => previous.last = previous.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

/// Networks in CIDR notation, separated by commas; an address alone is a network of one. Overlapping ones are merged.
///
/// # Errors
///
/// The first entry that is none.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let network = |entry: &str| {
        let address = || entry.parse::<IpAddr>().ok().map(IpNet::from);
        let network = entry.parse::<IpNet>().ok().or_else(address);
        network.map(|it| it.trunc()).ok_or_else(|| format!("`{}` is not a network", excerpt(entry)))
    };
    let networks = entries(text)?.into_iter().map(network).collect::<Result<Vec<_>, _>>()?;
    Ok(IpNet::aggregate(&networks))
}

fn entries(text: &str) -> Result<Vec<&str>, String> {
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    match entries.len() {
        0..=MAX_ENTRIES => Ok(entries),
        count => Err(format!("{count} entries are more than {MAX_ENTRIES}")),
    }
}

/// Short enough for a message, whatever was written.
fn excerpt(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(text: &str) -> Vec<(u16, u16)> {
        port_ranges(text).unwrap().iter().map(|range| (range.first, range.last)).collect()
    }

    #[test]
    fn ports_are_sorted_and_merged() {
        assert_eq!(ranges("9000-9100, 22,9050-9200,23,,65535"), [(22, 23), (9000, 9200), (65535, 65535)]);
        assert_eq!(ranges("1-65535"), [(1, 65535)]);
        assert_eq!(ranges(" , "), []);
    }

    #[test]
    fn what_is_no_port_is_named() {
        for wrong in ["0", "65536", "+1", "-1", "1-", "http", "80;81", "1-2-3"] {
            let said = port_ranges(&format!("443,{wrong}")).unwrap_err();
            assert!(said.contains(&format!("`{wrong}` is not a port")), "{said}");
        }
        assert_eq!(port_ranges("10-9").unwrap_err(), "the range `10-9` ends before it starts");
    }

    #[test]
    fn networks_are_those_that_their_host_bits_are_in() {
        let written = networks("10.1.2.3/8, fd00::1, 192.0.2.7,10.9.0.0/16").unwrap();
        let written: Vec<String> = written.iter().map(ToString::to_string).collect();
        assert_eq!(written, ["10.0.0.0/8", "192.0.2.7/32", "fd00::1/128"]);
        assert_eq!(networks("10.0.0.0/33").unwrap_err(), "`10.0.0.0/33` is not a network");
    }

    #[test]
    fn endless_lists_are_refused() {
        let ports: Vec<String> = (1..=257).map(|port| (2 * port).to_string()).collect();
        assert_eq!(port_ranges(&ports.join(",")).unwrap_err(), "257 entries are more than 256");
        assert_eq!(port_ranges(&ports[1..].join(",")).unwrap().len(), 256);
    }

    proptest! {
        #[test]
        fn merging_loses_and_adds_no_port(pairs in proptest::collection::vec((1..300u16, 0..40u16), 0..20), asked in 1..400u16) {
            let all: Vec<_> = pairs.iter().map(|(first, more)| PortRange { first: *first, last: first + more }).collect();
            let has = |ranges: &[PortRange]| ranges.iter().any(|range| (range.first..=range.last).contains(&asked));
            let fewer = merged(all.clone());
            prop_assert_eq!(has(&all), has(&fewer));
            prop_assert!(fewer.windows(2).all(|pair| pair[0].last + 1 < pair[1].first));
        }

        #[test]
        fn no_text_panics(text in "[0-9,. /:a-f-]{0,60}") {
            let _ = (port_ranges(&text), networks(&text), port(&text));
        }
    }
}
