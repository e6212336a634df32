//! How long to wait before another attempt.

use std::time::Duration;

use fastrand::Rng;

/// Exponential waits with full jitter above a floor.
///
/// The n-th retry waits between `base` and `base * 2^n`, at most `max`, each length equally likely: clients that failed together
/// do not come back together. The floor is what the Gateway API promises of `backoff`: no retry comes sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// No wait is shorter.
    pub base: Duration,
    /// No wait is longer, unless `base` itself is.
    pub max: Duration,
}

impl Default for Backoff {
    /// For retries that no route asked for. A request that some endpoint did not take goes to another one soon; the bound keeps
    /// three of them well below what a caller notices as a stall.
    fn default() -> Self {
        Self { base: Duration::from_millis(10), max: Duration::from_millis(250) }
    }
}

impl Backoff {
    /// The wait before the `attempt`-th retry; the first is 1.
    #[must_use]
    pub fn delay(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX).max(1);
        let ceiling = self.base.saturating_mul(factor).min(self.max);
        let jitter = u64::try_from(ceiling.saturating_sub(self.base).as_nanos()).unwrap_or(u64::MAX);
        self.base + Duration::from_nanos(rng.u64(0..=jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    #[test]
    fn the_range_doubles_until_the_bound() {
        let backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(100) };
        let mut rng = Rng::with_seed(1);
        for (attempt, ceiling) in [(1, 20), (2, 40), (3, 80), (4, 100), (5, 100), (31, 100), (32, 100), (u32::MAX, 100)] {
            let longest = (0..1000).map(|_| backoff.delay(attempt, &mut rng)).max().unwrap();
            let ceiling = Duration::from_millis(ceiling);
            assert!(longest <= ceiling && longest > ceiling.mul_f64(0.9), "retry {attempt}: {longest:?}");
        }
    }

    #[test]
    fn a_floor_above_the_bound_wins() {
        let backoff = Backoff { base: Duration::from_secs(2), max: Duration::from_secs(1) };
        assert_eq!(backoff.delay(3, &mut Rng::with_seed(1)), Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_bounds(base in any::<u64>(), max in any::<u64>(), attempt: u32, seed: u64) {
            let backoff = Backoff { base: Duration::from_nanos(base), max: Duration::from_nanos(max) };
            let delay = backoff.delay(attempt, &mut Rng::with_seed(seed));
            prop_assert!(delay >= backoff.base);
            prop_assert!(delay <= backoff.base.max(backoff.max));
        }
    }
}
