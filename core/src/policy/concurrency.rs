//! Adaptive concurrency: how many requests a workload can have under way before its answers get slower for it, found by itself.
//!
//! A workload that is given more than it can serve answers everybody late, and nobody well. The bound that keeps it at its best is
//! found by a gradient (as Netflix's concurrency-limits and Envoy's adaptive concurrency filter do): the time that answers take now,
//! beside what they take in good times. While that is within the tolerance the bound grows by the square root of itself; beyond,
//! it shrinks in proportion. What exceeds it is refused at once, so that a caller can try another Pod, the least important callers
//! first.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::names::{Identity, Label, ObjectName};

/// How the bound of a port is found, and who may use how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AdaptiveConcurrency {
    /// The policy that says so, for messages: `shop/reviews`.
    pub policy: Arc<str>,
    /// The bound is never lower; it begins here or at [`BEGIN`], whichever is more.
    pub min: u32,
    /// The bound is never higher.
    pub max: u32,
    /// Answers may take this much of what they take in good times, in percent; at least 100.
    pub tolerance_percent: u32,
    /// Whose requests count for more, or for less, than the others'. The first that means a caller counts.
    pub priorities: Vec<CallerPriority>,
}

/// Where a bound begins that nothing is known of.
pub const BEGIN: u32 = 50;

/// How important some callers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallerPriority {
    /// The namespace of those that are meant.
    pub namespace: Label,
    /// Their service account; `None`: all of the namespace.
    pub service_account: Option<ObjectName>,
    /// How important they are.
    pub priority: Priority,
}

/// How important a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Refused first.
    Low,
    /// As all are without a word about them.
    #[default]
    Normal,
    /// Refused last.
    High,
}

impl AdaptiveConcurrency {
    /// How important a caller's requests are. Callers without an identity are as all others.
    #[must_use]
    pub fn priority(&self, peer: Option<&Identity>) -> Priority {
        let Some(peer) = peer else { return Priority::Normal };
        let means = |it: &&CallerPriority| {
            it.namespace == peer.namespace && it.service_account.as_ref().is_none_or(|account| *account == peer.service_account)
        };
        self.priorities.iter().find(means).map_or(Priority::Normal, |it| it.priority)
    }

    /// How many requests may be under way in all when one of this priority begins, of a bound of `limit`: all for the most
    /// important, nine tenths for the others, seven tenths for the least. Where no priorities are given all may use all.
    #[must_use]
    pub fn room(&self, limit: u32, priority: Priority) -> u32 {
        let percent = match priority {
            _ if self.priorities.is_empty() => 100,
            Priority::High => 100,
            Priority::Normal => 90,
            Priority::Low => 70,
        };
        u32::try_from(u64::from(limit) * percent / 100).unwrap_or(u32::MAX).max(1)
    }
}

/// An interval is judged when it has this many answers and this length, or, with fewer, after [`PATIENCE`].
const ENOUGH: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(2);

/// What an interval counts for in the baseline when it was faster, and when it was slower: good news is believed soon, bad news
/// late (in minutes), so that an overload does not become what is normal.
const BETTER: f64 = 0.2;
const WORSE: f64 = 0.000_2;

/// What an interval counts for in the bound.
const STEP: f64 = 0.2;

/// No interval more than halves the bound.
const LEAST_GRADIENT: f64 = 0.5;

/// The bound, and what it is found by.
#[derive(Clone, Debug)]
pub struct Gradient {
    limit: f64,
    /// What an answer takes in good times, in seconds.
    baseline: Option<f64>,
    /// Of the present interval: its begin, how many answers, how long they took together, the most that was under way.
    began: Moment,
    answers: u32,
    took: f64,
    peak: u32,
}

impl Gradient {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(config: &AdaptiveConcurrency, now: Moment) -> Self {
        let limit = f64::from(BEGIN.clamp(config.min, config.max.max(config.min)));
        Self { limit, baseline: None, began: now, answers: 0, took: 0.0, peak: 0 }
    }

    /// The bound, at least 1.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between two u32 at all times")]
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// What an answer takes in good times, as far as that is known.
    #[must_use]
    pub fn baseline(&self) -> Option<Duration> {
        self.baseline.map(Duration::from_secs_f64)
    }

    /// An answer began after `took`, when so many requests were under way. Answers with the new bound at the end of an interval.
    pub fn sample(&mut self, took: Duration, in_flight: u32, now: Moment, config: &AdaptiveConcurrency) -> Option<u32> {
        self.answers += 1;
        self.took += took.as_secs_f64();
        self.peak = self.peak.max(in_flight);
        let length = now.since(self.began);
        if length < INTERVAL || (self.answers < ENOUGH && length < PATIENCE) {
            return None;
        }
        let mean = self.took / f64::from(self.answers);
        let peak = std::mem::take(&mut self.peak);
        (self.began, self.answers, self.took) = (now, 0, 0.0);
        self.judge(mean, peak, config);
        Some(self.limit())
    }

    fn judge(&mut self, mean: f64, peak: u32, config: &AdaptiveConcurrency) {
        let baseline = match self.baseline {
            None => mean,
            Some(known) => known + (mean - known) * if mean < known { BETTER } else { WORSE },
        };
        self.baseline = Some(baseline);
        let tolerated = baseline * f64::from(config.tolerance_percent.max(100)) / 100.0;
        let gradient = if mean <= tolerated { 1.0 } else { (tolerated / mean).max(LEAST_GRADIENT) };
        // Nobody tried to use more: whether more would do is not known.
        if gradient >= 1.0 && f64::from(peak) < self.limit / 2.0 {
            return;
        }
        let aim = self.limit * gradient + self.limit.sqrt();
        let next = self.limit * (1.0 - STEP) + aim * STEP;
        self.limit = next.clamp(f64::from(config.min.max(1)), f64::from(config.max.max(config.min).max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> AdaptiveConcurrency {
        AdaptiveConcurrency { policy: "a/b".into(), min: 5, max: 1000, tolerance_percent: 200, priorities: Vec::new() }
    }

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    /// A server of so many workers, each of which serves a request in 10 ms: with more under way each waits for its turn.
    /// Keeps as many requests under way as there are callers and the bound admits, for so many seconds; answers with the bounds.
    fn serve(
        gradient: &mut Gradient,
        config: &AdaptiveConcurrency,
        workers: u32,
        callers: u32,
        start: u64,
        seconds: u64,
    ) -> Vec<u32> {
        let mut bounds = Vec::new();
        for ms in (start..start + seconds * 1000).step_by(10) {
            let in_flight = callers.min(gradient.limit());
            let took = Duration::from_millis(10).mul_f64((f64::from(in_flight) / f64::from(workers)).max(1.0));
            for _ in 0..workers.min(in_flight) {
                bounds.extend(gradient.sample(took, in_flight, at(ms), config));
            }
        }
        bounds
    }

    #[test]
    fn the_bound_stays_near_what_the_server_can_do() {
        let config = config();
        let mut gradient = Gradient::new(&config, at(0));
        // A quiet time says what answers take.
        serve(&mut gradient, &config, 20, 5, 0, 10);
        assert_eq!(gradient.limit(), BEGIN, "nobody tried to use more");
        assert_eq!(gradient.baseline(), Some(Duration::from_millis(10)));
        // Then there are many more callers than it can serve: twice the time is tolerated, so twice as many are under way.
        let bounds = serve(&mut gradient, &config, 20, 500, 10_000, 20);
        let last = &bounds[bounds.len() - 20..];
        assert!(last.iter().all(|bound| (38..80).contains(bound)), "{last:?}");
        // The server is ten times as large now, and the bound grows with what it can do.
        let bounds = serve(&mut gradient, &config, 200, 500, 30_000, 60);
        assert!(bounds.last().is_some_and(|bound| *bound > 300), "{:?}", bounds.last());
        // It becomes small again.
        let bounds = serve(&mut gradient, &config, 20, 500, 90_000, 20);
        assert!(bounds.last().is_some_and(|bound| *bound < 120), "{:?}", bounds.last());
    }

    #[test]
    fn an_overload_does_not_soon_become_what_is_normal() {
        let config = AdaptiveConcurrency { min: 100, ..config() };
        let mut gradient = Gradient::new(&config, at(0));
        serve(&mut gradient, &config, 20, 10, 0, 10);
        serve(&mut gradient, &config, 20, 500, 10_000, 30);
        assert_eq!(gradient.limit(), 100, "no lower than it may be");
        assert!(gradient.baseline().is_some_and(|it| it < Duration::from_millis(35)), "{:?}", gradient.baseline());
        serve(&mut gradient, &config, 20, 10, 40_000, 10);
        assert!(gradient.baseline().is_some_and(|it| it < Duration::from_millis(11)), "{:?}", gradient.baseline());
    }

    #[test]
    fn callers_have_the_priority_that_names_them_first() {
        let identity = |namespace: &str, account: &str| Identity {
            trust_domain: "cluster.local".parse().unwrap(),
            namespace: namespace.parse().unwrap(),
            service_account: account.parse().unwrap(),
        };
        let of = |namespace: &str, account: Option<&str>, priority| CallerPriority {
            namespace: namespace.parse().unwrap(),
            service_account: account.map(|it| it.parse().unwrap()),
            priority,
        };
        let priorities = vec![of("shop", Some("checkout"), Priority::High), of("shop", None, Priority::Low)];
        let config = AdaptiveConcurrency { priorities, ..config() };
        assert_eq!(config.priority(Some(&identity("shop", "checkout"))), Priority::High);
        assert_eq!(config.priority(Some(&identity("shop", "web"))), Priority::Low);
        assert_eq!(config.priority(Some(&identity("other", "checkout"))), Priority::Normal);
        assert_eq!(config.priority(None), Priority::Normal);
        let room = [Priority::High, Priority::Normal, Priority::Low].map(|it| config.room(50, it));
        assert_eq!(room, [50, 45, 35]);
        assert_eq!(config.room(1, Priority::Low), 1, "one at a time is for everybody");
        let alike = AdaptiveConcurrency { priorities: Vec::new(), ..config };
        assert_eq!(alike.room(50, Priority::Normal), 50);
    }

    proptest! {
        #[test]
        fn the_bound_keeps_its_own_bounds(
            min in 0_u32..200, more in 0_u32..2000, tolerance_percent in any::<u32>(),
            samples in proptest::collection::vec((any::<u32>(), any::<u32>(), 0_u64..3000), 0..300),
        ) {
            let config = AdaptiveConcurrency { min, max: min + more, tolerance_percent, ..config() };
            let mut gradient = Gradient::new(&config, at(0));
            let mut now = 0;
            for (took, in_flight, wait) in samples {
                now += wait;
                gradient.sample(Duration::from_micros(took.into()), in_flight, at(now), &config);
                prop_assert!(gradient.limit() >= min.max(1) || gradient.limit() == config.max.max(1), "{}", gradient.limit());
                prop_assert!(gradient.limit() <= config.max.max(BEGIN.min(config.max)).max(1));
            }
        }
    }
}
