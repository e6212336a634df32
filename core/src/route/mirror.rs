//! Which requests are mirrored: sent a second time to another backend, whose answer nobody waits for (Gateway API,
//! `HTTPRequestMirrorFilter`; shares are GEP-3171's).

use std::fmt;
use std::num::NonZeroU32;

use fastrand::Rng;

use super::model::{HttpRule, WeightedBackend};
use crate::names::BackendRef;

/// A backend that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The service port.
    pub backend: BackendRef,
    /// How many of the requests are copied.
    pub share: Share,
}

/// A part of all requests, from none to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    numerator: u32,
    denominator: NonZeroU32,
}

impl Share {
    /// Every request.
    pub const ALL: Self = Self { numerator: 1, denominator: NonZeroU32::MIN };

    /// `numerator` of `denominator` requests.
    ///
    /// # Errors
    ///
    /// A denominator of 0, or more than all.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self, InvalidShare> {
        match NonZeroU32::new(denominator) {
            Some(denominator) if numerator <= denominator.get() => Ok(Self { numerator, denominator }),
            _ => Err(InvalidShare { numerator, denominator }),
        }
    }

    /// As it was given.
    #[must_use]
    pub const fn numerator(self) -> u32 {
        self.numerator
    }

    /// As it was given; never 0.
    #[must_use]
    pub const fn denominator(self) -> u32 {
        self.denominator.get()
    }

    /// Throws the dice for one request.
    #[must_use]
    pub fn takes(self, rng: &mut Rng) -> bool {
        self.numerator == self.denominator.get() || (self.numerator > 0 && rng.u32(0..self.denominator.get()) < self.numerator)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

/// No part of all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{numerator}/{denominator} is not a share: the denominator must be at least 1, and the numerator not more than it")]
pub struct InvalidShare {
    /// As it was given.
    pub numerator: u32,
    /// As it was given.
    pub denominator: u32,
}

/// Who gets a copy of one request that `backend` of `rule` gets. Each mirror throws dice of its own.
pub fn chosen<'t>(rule: &'t HttpRule, backend: &'t WeightedBackend, rng: &mut Rng) -> impl Iterator<Item = &'t BackendRef> {
    let all = rule.mirrors.iter().chain(&backend.mirrors);
    all.filter(|mirror| mirror.share.takes(rng)).map(|mirror| &mirror.backend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, proptest};

    #[test]
    fn none_is_none_and_all_is_all() {
        let mut rng = Rng::with_seed(1);
        for (share, expected) in [
            (Share::ALL, 1_000),
            (Share::new(0, 100).unwrap(), 0),
            (Share::new(0, u32::MAX).unwrap(), 0),
            (Share::new(u32::MAX, u32::MAX).unwrap(), 1_000),
        ] {
            assert_eq!((0..1_000).filter(|_| share.takes(&mut rng)).count(), expected, "{share}");
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        assert!(Share::new(0, 0).is_err() && Share::new(101, 100).is_err());
        assert!(Share::new(100, 100).is_ok() && Share::new(0, 1).is_ok());
    }

    proptest! {
        #[test]
        fn of_many_requests_the_share_is_taken(denominator in 1..2_000_u32, part in 0.0..=1.0_f64, seed: u64) {
            const DRAWS: u32 = 20_000;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the denominator")]
            let numerator = (f64::from(denominator) * part) as u32;
            let share = Share::new(numerator, denominator).unwrap();
            let mut rng = Rng::with_seed(seed);
            let taken = (0..DRAWS).filter(|_| share.takes(&mut rng)).count();
            let wanted = f64::from(numerator) / f64::from(denominator);
            // Six standard deviations of a binomial: out of reach by chance, far below any real mistake.
            let deviation = (f64::from(DRAWS) * wanted * (1.0 - wanted)).sqrt();
            let off = (f64::from(u32::try_from(taken).unwrap()) - f64::from(DRAWS) * wanted).abs();
            prop_assert!(off <= 6.0 * deviation + 3.0, "{} of {} for {}", taken, DRAWS, share);
        }
    }
}
