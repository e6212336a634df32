//! Which addresses a demo lives on: one block `127.N.0.0/16`, so that several demos can run beside each other.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

/// The block that the manifests are written for.
const WRITTEN_FOR: u8 = 10;
/// Blocks that are tried: more demos at once than one machine has use for.
const TRIED: std::ops::RangeInclusive<u8> = WRITTEN_FOR..=29;
/// A listener here says that a demo lives in the block, before its processes have bound anything.
const CLAIM_PORT: u16 = 15400;

/// A block that this process holds until it drops the value.
#[derive(Debug)]
pub(crate) struct Block {
    number: u8,
    _claim: TcpListener,
}

/// An address that a process of the demo will listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// As written in the manifests.
    pub(crate) address: SocketAddrV4,
    /// Who listens there.
    pub(crate) user: String,
}

/// An address that cannot be had.
#[derive(Debug)]
pub(crate) struct Taken {
    need: Need,
    error: io::Error,
}

/// No block is free.
#[derive(Debug, thiserror::Error)]
#[error("no addresses are free for the demo ({tried}): {}\nEnd what listens there, or name another block with --block.", list(.taken))]
pub(crate) struct NoBlock {
    tried: String,
    taken: Vec<Taken>,
}

impl Block {
    /// Takes `wanted`, or the first block in which every address is free.
    ///
    /// # Errors
    /// Nothing is free; the error names what is taken in the first block that was tried.
    pub(crate) fn claim(wanted: Option<u8>, needs: &[Need]) -> Result<Self, NoBlock> {
        let candidates = wanted.map_or(TRIED, |number| number..=number);
        let tried = if candidates.start() == candidates.end() {
            format!("127.{}.0.0/16 was tried", candidates.start())
        } else {
            format!("127.{}.0.0/16 to 127.{}.0.0/16 were tried", candidates.start(), candidates.end())
        };
        let mut first = None;
        for number in candidates {
            match Self::try_claim(number, needs) {
                Ok(block) => return Ok(block),
                Err(taken) => {
                    first.get_or_insert(taken);
                }
            }
        }
        Err(NoBlock { tried, taken: first.unwrap_or_default() })
    }

    fn try_claim(number: u8, needs: &[Need]) -> Result<Self, Vec<Taken>> {
        let claim = Need {
            address: SocketAddrV4::new(Ipv4Addr::new(127, WRITTEN_FOR, 0, 1), CLAIM_PORT),
            user: "held by another demo".to_owned(),
        };
        let bind = |need: &Need| {
            let here = Need { address: moved(need.address, number), user: need.user.clone() };
            TcpListener::bind(SocketAddr::V4(here.address)).map_err(|error| Taken { need: here, error })
        };
        let claim = bind(&claim).map_err(|taken| vec![taken])?;
        let taken: Vec<_> = needs.iter().filter_map(|need| bind(need).err()).collect();
        if taken.is_empty() { Ok(Self { number, _claim: claim }) } else { Err(taken) }
    }

    /// `127.N.0.0/16`.
    pub(crate) fn network(&self) -> String {
        format!("127.{}.0.0/16", self.number)
    }

    /// Where something written for another block lives in this one.
    pub(crate) fn address(&self, written: SocketAddrV4) -> SocketAddrV4 {
        moved(written, self.number)
    }

    /// A manifest with its addresses moved into this block.
    pub(crate) fn rewrite(&self, manifest: &str) -> String {
        rewrite(manifest, self.number)
    }
}

fn moved(address: SocketAddrV4, number: u8) -> SocketAddrV4 {
    let [first, second, third, fourth] = address.ip().octets();
    let second = if first == 127 && second == WRITTEN_FOR { number } else { second };
    SocketAddrV4::new(Ipv4Addr::new(first, second, third, fourth), address.port())
}

/// Replaces `127.10.` by `127.N.` where an address begins.
fn rewrite(manifest: &str, number: u8) -> String {
    let written = format!("127.{WRITTEN_FOR}.");
    let mut text = String::with_capacity(manifest.len());
    let mut rest = manifest;
    while let Some((before, after)) = rest.split_once(&written) {
        let begins = !before.ends_with(|c: char| c.is_ascii_digit() || c == '.');
        text.push_str(before);
        if begins {
            text.push_str(&format!("127.{number}."));
        } else {
            text.push_str(&written);
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

fn list(taken: &[Taken]) -> String {
    taken.iter().map(|taken| format!("\n  {taken}")).collect()
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Need { address, user } = &self.need;
        if self.error.kind() == io::ErrorKind::AddrInUse {
            write!(f, "{address} ({user}): something listens there already, or on 0.0.0.0:{}", address.port())
        } else {
            write!(f, "{address} ({user}): {}", self.error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(ip: [u8; 4], port: u16) -> Need {
        Need { address: SocketAddrV4::new(ip.into(), port), user: "catalog's app".to_owned() }
    }

    #[test]
    fn addresses_move_and_lookalikes_stay() {
        let text = "podIP: 127.10.1.2\naddresses: [\"127.10.3.4\"] # not 1127.10.1.1, not 10.127.10.1\n";
        let expected = "podIP: 127.23.1.2\naddresses: [\"127.23.3.4\"] # not 1127.10.1.1, not 10.127.10.1\n";
        assert_eq!(rewrite(text, 23), expected);
        assert_eq!(moved(need([10, 10, 0, 1], 80).address, 23), need([10, 10, 0, 1], 80).address);
        assert_eq!(moved(need([127, 10, 0, 1], 80).address, 23), need([127, 23, 0, 1], 80).address);
    }

    #[test]
    fn a_second_demo_takes_the_next_block_and_a_wanted_one_that_is_taken_is_named() {
        let first = Block::claim(None, &[]).unwrap();
        let second = Block::claim(None, &[]).unwrap();
        assert_ne!(first.network(), second.network());
        let refused = Block::claim(Some(first.number), &[]).unwrap_err().to_string();
        assert!(refused.contains(&format!("127.{}.0.1:15400 (held by another demo)", first.number)), "{refused}");
    }

    #[test]
    fn a_taken_address_is_named_with_its_user() {
        let holder = TcpListener::bind("127.87.0.9:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let refused = Block::claim(Some(87), &[need([127, 10, 0, 9], port)]).unwrap_err().to_string();
        assert!(refused.contains(&format!("127.87.0.9:{port} (catalog's app): something listens there already")), "{refused}");
    }
}
