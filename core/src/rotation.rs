//! When certificates are renewed.
//!
//! Early enough that hours of failure do no harm, spread so that thousands of proxies that started together do not ask together,
//! and an issuer so early that nothing it signs has to be cut short. [`overlap`] replaces a root.

pub mod overlap;

use std::time::{Duration, SystemTime};

use fastrand::Rng;

/// When a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Validity {
    /// Not before this.
    pub not_before: SystemTime,
    /// Not after this.
    pub not_after: SystemTime,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A workload's own.
    Leaf,
    /// It signs others: an issuer leaves, an anchor issuers.
    Authority {
        /// The longest life of what it signs.
        signs_for: Duration,
    },
}

/// Where a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not valid yet: the clock here is behind the one of who signed it.
    NotYet {
        /// For how long.
        starts_in: Duration,
    },
    /// Valid, nothing to do.
    Fresh,
    /// Valid, and due for renewal.
    Renew,
    /// No longer valid.
    Expired,
}

impl Validity {
    /// From beginning to end; zero if they are the wrong way round.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// Time until the end, zero when it has passed.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// The part of it in which `issuer` is valid as well: no certificate outlives the one that signed it. `None`: there is no
    /// such part, and the issuer cannot sign.
    #[must_use]
    pub fn clamp(self, issuer: Self) -> Option<Self> {
        let not_before = self.not_before.max(issuer.not_before);
        let not_after = self.not_after.min(issuer.not_after);
        (not_before < not_after).then_some(Self { not_before, not_after })
    }

    /// Where a certificate stands that is renewed at `renew_at` (see [`renew_at`](Self::renew_at)).
    #[must_use]
    pub fn state_with(&self, renew_at: SystemTime, now: SystemTime) -> State {
        match self.not_before.duration_since(now) {
            Ok(starts_in) if !starts_in.is_zero() => State::NotYet { starts_in },
            _ if now >= self.not_after => State::Expired,
            _ if now >= renew_at => State::Renew,
            _ => State::Fresh,
        }
    }

    /// Where it stands when nothing more is known: renewal is due after two thirds of its life.
    #[must_use]
    pub fn state(&self, now: SystemTime) -> State {
        self.state_with(after(self.not_before, self.lifetime().mul_f64(2.0 / 3.0), self.not_after), now)
    }

    /// When to renew it. `obtained` is when it was issued, which is later than `not_before` because that is set back against
    /// clocks that differ: a certificate that lives for a minute and was set back by five would else be due at once, for ever.
    ///
    /// A leaf is due between 7/12 and 8/12 of its life, at random. An authority is due at two thirds as well, or earlier where two
    /// lives of what it signs would not fit into the rest: one to replace it in, and one to see the last of them out. It stays
    /// for a third of its own life at least.
    #[must_use]
    pub fn renew_at(&self, purpose: Purpose, obtained: SystemTime, rng: &mut Rng) -> SystemTime {
        let obtained = obtained.clamp(self.not_before, self.not_after.max(self.not_before));
        let life = self.remaining(obtained);
        let wait = match purpose {
            Purpose::Leaf => life.mul_f64((7.0 + rng.f64()) / 12.0),
            Purpose::Authority { signs_for } => {
                (life * 2 / 3).min(life.saturating_sub(signs_for.saturating_mul(2))).max(life / 3)
            }
        };
        after(obtained, wait, self.not_after)
    }

    /// How long to wait after the `failures`-th failed renewal in a row (from 1): from a second on, doubling, at most five minutes
    /// or a tenth of the time that is left, never less than a second, and jittered by half.
    #[must_use]
    pub fn retry_in(&self, now: SystemTime, failures: u32, rng: &mut Rng) -> Duration {
        const LEAST: Duration = Duration::from_secs(1);
        const MOST: Duration = Duration::from_secs(300);
        let doubled = LEAST.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let wait = doubled.min(MOST).min(self.remaining(now) / 10).max(LEAST);
        wait + wait.mul_f64(rng.f64() / 2.0)
    }
}

/// `wait` after `start`, not later than `end`.
fn after(start: SystemTime, wait: Duration, end: SystemTime) -> SystemTime {
    start.checked_add(wait).map_or(end, |it| it.min(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn lasting(life: Duration) -> Validity {
        Validity { not_before: at(1_000_000), not_after: at(1_000_000) + life }
    }

    fn due(validity: Validity, purpose: Purpose, obtained: SystemTime) -> impl Iterator<Item = SystemTime> {
        (0..1000).map(move |seed| validity.renew_at(purpose, obtained, &mut Rng::with_seed(seed)))
    }

    #[test]
    fn a_certificate_goes_through_its_states() {
        let day = lasting(DAY);
        let renew_at = day.not_before + 15 * HOUR;
        let table = [
            (day.not_before - HOUR, State::NotYet { starts_in: HOUR }),
            (day.not_before, State::Fresh),
            (renew_at - Duration::from_nanos(1), State::Fresh),
            (renew_at, State::Renew),
            (day.not_after - Duration::from_nanos(1), State::Renew),
            (day.not_after, State::Expired),
            (day.not_after + DAY, State::Expired),
        ];
        for (now, state) in table {
            assert_eq!(day.state_with(renew_at, now), state, "{now:?}");
        }
        assert_eq!(day.state(day.not_before + 15 * HOUR), State::Fresh);
        assert_eq!(day.state(day.not_before + 16 * HOUR + Duration::from_secs(1)), State::Renew);
    }

    #[test]
    fn leaves_that_were_made_together_are_renewed_over_hours() {
        let day = lasting(DAY);
        let (first, last) = (due(day, Purpose::Leaf, day.not_before).min(), due(day, Purpose::Leaf, day.not_before).max());
        let (first, last) = (first.unwrap(), last.unwrap());
        assert!(first >= day.not_before + 14 * HOUR, "{first:?}");
        assert!(last <= day.not_before + 16 * HOUR, "{last:?}");
        assert!(last.duration_since(first).unwrap() > HOUR + HOUR / 2);
    }

    #[test]
    fn a_beginning_that_was_set_back_does_not_make_renewal_due_at_once() {
        // Lives for a minute, set back by five.
        let leaf = lasting(Duration::from_secs(360));
        let obtained = leaf.not_before + Duration::from_secs(300);
        for renew_at in due(leaf, Purpose::Leaf, obtained) {
            assert!(renew_at >= obtained + Duration::from_secs(35), "{renew_at:?}");
            assert!(renew_at <= obtained + Duration::from_secs(40), "{renew_at:?}");
        }
    }

    #[test]
    fn an_authority_leaves_time_for_what_it_signs() {
        let signs_for = |time| Purpose::Authority { signs_for: time };
        let renewed_after = |life, purpose| {
            let authority = lasting(life);
            let at = due(authority, purpose, authority.not_before).next().unwrap();
            at.duration_since(authority.not_before).unwrap()
        };
        assert_eq!(renewed_after(90 * DAY, signs_for(DAY)), 60 * DAY, "two thirds");
        assert_eq!(renewed_after(90 * DAY, signs_for(20 * DAY)), 50 * DAY, "two lives before the end");
        assert_eq!(renewed_after(90 * DAY, signs_for(90 * DAY)), 30 * DAY, "not at once, or it would never stop");
    }

    #[test]
    fn a_leaf_is_cut_to_its_issuer() {
        let issuer = lasting(DAY);
        let leaf = Validity { not_before: issuer.not_before - HOUR, not_after: issuer.not_before + HOUR };
        assert_eq!(leaf.clamp(issuer), Some(Validity { not_before: issuer.not_before, not_after: leaf.not_after }));
        let leaf = Validity { not_before: issuer.not_after - HOUR, not_after: issuer.not_after + HOUR };
        assert_eq!(leaf.clamp(issuer), Some(Validity { not_before: leaf.not_before, not_after: issuer.not_after }));
        let leaf = Validity { not_before: issuer.not_after, not_after: issuer.not_after + HOUR };
        assert_eq!(leaf.clamp(issuer), None, "the issuer is over");
    }

    #[test]
    fn failed_renewals_are_tried_again_ever_more_slowly_but_in_time() {
        let day = lasting(DAY);
        let mut rng = Rng::with_seed(3);
        for (left, failures, least, most) in [
            (8 * HOUR, 1, 1.0, 1.5),
            (8 * HOUR, 4, 8.0, 12.0),
            (8 * HOUR, 40, 300.0, 450.0),
            (Duration::from_secs(600), 40, 60.0, 90.0),
            (Duration::from_secs(1), 40, 1.0, 1.5),
            (Duration::ZERO, 0, 1.0, 1.5),
        ] {
            let wait = day.retry_in(day.not_after - left, failures, &mut rng).as_secs_f64();
            assert!(wait >= least && wait <= most, "{left:?} left, {failures} failures: {wait}");
        }
    }

    proptest! {
        #[test]
        fn renewal_is_due_within_the_life_that_is_left(
            begin in 0_u64..1 << 40, life in 0_u64..1 << 32, obtained in 0_u64..1 << 41, signs_for in any::<u64>(), leaf: bool, seed: u64,
        ) {
            let validity = Validity { not_before: at(begin), not_after: at(begin + life) };
            let purpose = if leaf { Purpose::Leaf } else { Purpose::Authority { signs_for: Duration::from_secs(signs_for) } };
            let renew_at = validity.renew_at(purpose, at(obtained), &mut Rng::with_seed(seed));
            prop_assert!(renew_at >= validity.not_before && renew_at <= validity.not_after);
            let from = at(obtained).clamp(validity.not_before, validity.not_after);
            let left = validity.not_after.duration_since(from).unwrap();
            prop_assert!(renew_at >= from + left / 3);
            prop_assert!(renew_at <= from + left * 2 / 3 + Duration::from_nanos(2000));
        }

        #[test]
        fn what_is_cut_lies_in_both(a in any::<(u32, u32)>(), b in any::<(u32, u32)>()) {
            let validity = |(from, to): (u32, u32)| Validity { not_before: at(from.into()), not_after: at(to.into()) };
            let (leaf, issuer) = (validity(a), validity(b));
            if let Some(cut) = leaf.clamp(issuer) {
                prop_assert!(cut.not_before < cut.not_after);
                prop_assert!(cut.not_before >= issuer.not_before && cut.not_after <= issuer.not_after);
                prop_assert!(cut.not_before >= leaf.not_before && cut.not_after <= leaf.not_after);
            }
        }
    }
}
