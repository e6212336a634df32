//! Loopback addresses that no other test uses: every workload stands on one of its own, as a pod does.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Held open on every address that is in use, so that another test process passes it over. Not a port of Weir's.
const RESERVATION_PORT: u16 = 15_499;
/// Addresses that one process starts its search apart from the next: more than a test binary ever needs.
const STRIDE: u32 = 1024;
/// 127.16.0.0 to 127.247.255.255: clear of 127.0.0.x, where other software listens.
const FIRST: u32 = 0x7f10_0000;
const COUNT: u32 = 0x00e8_0000;

/// An address that nobody else has, reserved until the process ends.
///
/// # Panics
///
/// When a thousand addresses in a row are taken.
#[must_use]
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static HELD: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    for _ in 0..1000 {
        let offset = std::process::id().wrapping_mul(STRIDE).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let address = Ipv4Addr::from_bits(FIRST + offset);
        if matches!(address.octets()[3], 0 | 255) {
            continue;
        }
        if let Ok(reservation) = TcpListener::bind(SocketAddrV4::new(address, RESERVATION_PORT)) {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(reservation);
            return address;
        }
    }
    panic!("no loopback address is free: a thousand of 127.0.0.0/8 in a row could not be bound");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_never_handed_out_twice() {
        let mut addresses: Vec<_> = (0..300).map(|_| loopback()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 300);
        assert!(addresses.iter().all(Ipv4Addr::is_loopback));
    }
}
