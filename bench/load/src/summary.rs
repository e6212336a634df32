//! What came of the requests.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

/// Answers and errors, of one connection or of all.
#[derive(Default)]
pub(crate) struct Tally {
    /// Microseconds, in the order in which the answers came. A run has some ten thousands; all of them are kept, so that a
    /// percentile is one of them and not the edge of a bucket.
    latencies: Vec<u64>,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    pub(crate) fn answer(&mut self, latency: Duration, bytes: u64) {
        self.latencies.push(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.bytes += bytes;
    }

    pub(crate) fn error(&mut self, error: &io::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    pub(crate) fn summary(mut self, scheduled: u64, took: Duration) -> Value {
        self.latencies.sort_unstable();
        let at = |per_mille| percentile(&self.latencies, per_mille);
        json!({
            "scheduled": scheduled,
            "requests": self.latencies.len(),
            "errors": self.errors,
            "first_error": self.first_error,
            "bytes": self.bytes,
            "seconds": took.as_secs_f64(),
            "p50": at(500),
            "p90": at(900),
            "p99": at(990),
            "p99.9": at(999),
            "max": self.latencies.last(),
        })
    }
}

/// The smallest latency that at least `per_mille` of a thousand do not exceed; nothing if there are none.
fn percentile(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let rank = (sorted.len() * per_mille).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_latencies_that_were_seen() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!([500, 900, 990, 999, 1000].map(|at| percentile(&sorted, at)), [500, 900, 990, 999, 1000].map(Some));
        assert_eq!(percentile(&[7], 500), Some(7));
        assert_eq!(percentile(&[], 500), None);
    }

    #[test]
    fn connections_are_added_up() {
        let (mut all, mut one) = (Tally::default(), Tally::default());
        one.answer(Duration::from_micros(3), 10);
        one.error(&io::Error::other("broken"));
        all.add(one);
        let summary = all.summary(2, Duration::from_secs(1));
        assert_eq!((&summary["requests"], &summary["errors"], &summary["bytes"]), (&1.into(), &1.into(), &10.into()));
        assert_eq!((&summary["first_error"], &summary["p99.9"]), (&"broken".into(), &3.into()));
    }
}
