//! Rate limits: the generic cell rate algorithm (ITU-T I.371), a token bucket in one number.
//!
//! A [`Bucket`] keeps the time at which it would be full again. A request moves it on by the time that it stands for; one that
//! would move it further than the burst allows is refused, and moves nothing. One atomic number means that all workers can share
//! a bucket without waiting for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Moment;

/// So many requests in such a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The policy that says so, for messages: `shop/reviews`.
    pub policy: Arc<str>,
    /// How many requests.
    pub requests: u32,
    /// In what time.
    pub per: Duration,
    /// How many may come at once after a quiet time; at least 1.
    pub burst: u32,
    /// Who shares the limit.
    pub key: RateKey,
}

/// Who shares a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// Everybody who calls the port.
    All,
    /// Each caller has its own, by the identity that mutual TLS has proved. Callers without one share one.
    #[default]
    Caller,
}

impl RateLimit {
    /// The time that one request stands for.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.per / self.requests.max(1)).max(Duration::from_nanos(1))
    }
}

/// How far a limit is used up.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When it is full again, in nanoseconds since the clock's start.
    full_at: AtomicU64,
}

impl Bucket {
    /// Whether nothing of it is used, so that a new one would be the same.
    #[must_use]
    pub fn is_full(&self, now: Moment) -> bool {
        u128::from(self.full_at.load(Ordering::Relaxed)) <= now.since_start().as_nanos()
    }

    /// Lets a request through, or says in what time one will be.
    ///
    /// # Errors
    ///
    /// The limit is used up.
    pub fn take(&self, limit: &RateLimit, now: Moment) -> Result<(), Duration> {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (now, interval) = (nanoseconds(now.since_start()), nanoseconds(limit.interval()));
        let reach = interval.saturating_mul(limit.burst.max(1).into());
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(interval);
            let over = next.saturating_sub(now).saturating_sub(reach);
            if over > 0 {
                return Err(Duration::from_nanos(over));
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(moved) => full_at = moved,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(requests: u32, per_ms: u64, burst: u32) -> RateLimit {
        RateLimit { policy: "a/b".into(), requests, per: Duration::from_millis(per_ms), burst, key: RateKey::All }
    }

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (bucket, limit) = (Bucket::default(), limit(10, 1000, 3));
        assert_eq!([0, 0, 0].map(|ms| bucket.take(&limit, at(ms))), [Ok(()); 3]);
        assert_eq!(bucket.take(&limit, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(&limit, at(40)), Err(Duration::from_millis(60)));
        assert_eq!([bucket.take(&limit, at(100)), bucket.take(&limit, at(100))], [Ok(()), Err(Duration::from_millis(100))]);
        // A long quiet saves up no more than the burst.
        assert_eq!([5000; 4].map(|ms| bucket.take(&limit, at(ms)).is_ok()), [true, true, true, false]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            requests in 1_u32..50, per_ms in 1_u64..5000, burst in 1_u32..20, gaps in proptest::collection::vec(0_u64..200, 1..300),
        ) {
            let (bucket, limit) = (Bucket::default(), limit(requests, per_ms, burst));
            let (mut now, mut passed) = (0, 0_u64);
            for gap in gaps {
                now += gap;
                match bucket.take(&limit, at(now)) {
                    Ok(()) => passed += 1,
                    // What it says about the wait is true.
                    Err(wait) => {
                        let copy = Bucket { full_at: AtomicU64::new(bucket.full_at.load(Ordering::Relaxed)) };
                        prop_assert!(copy.take(&limit, at(now) + wait).is_ok());
                    }
                }
                let earned = Duration::from_millis(now).as_nanos() / limit.interval().as_nanos();
                prop_assert!(u128::from(passed) <= earned + u128::from(burst) + 1);
            }
        }
    }
}
