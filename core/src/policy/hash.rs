//! The hash of rings and keys. All sidecars of a mesh, whatever their version, must come to the same number: that of the standard
//! library may change with each release of the compiler.

use std::fmt;

/// FNV-1a over the bytes, and then the finalizer of `MurmurHash3`, without which short keys that differ in their last byte would
/// stand close together on a ring.
#[must_use]
pub fn bytes(bytes: &[u8]) -> u64 {
    mix(fnv(START, bytes))
}

/// The same of something as it is displayed, without making a text of it.
#[must_use]
pub fn displayed(it: &impl fmt::Display) -> u64 {
    struct Hashed(u64);

    impl fmt::Write for Hashed {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = fnv(self.0, text.as_bytes());
            Ok(())
        }
    }

    let mut hashed = Hashed(START);
    // Nothing in it fails.
    let _ = fmt::Write::write_fmt(&mut hashed, format_args!("{it}"));
    mix(hashed.0)
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads the bits of a number over all of it.
#[must_use]
pub const fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_displayed_is_hashed_as_its_text() {
        let backend: crate::names::BackendRef = "shop/reviews-v1:8080".parse().unwrap();
        assert_eq!(displayed(&backend), bytes(b"shop/reviews-v1:8080"));
        assert_eq!(displayed(&""), bytes(b""));
    }

    /// Kept for ever: sidecars of two versions share a ring.
    #[test]
    fn numbers_stay_as_they_are() {
        assert_eq!(
            [bytes(b""), bytes(b"a"), bytes(b"reviews")],
            [0xefd0_1f60_ba99_2926, 0x82a2_a958_a9be_ce5b, 0x807f_f609_c6a6_5661]
        );
    }
}
