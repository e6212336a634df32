//! A bound on retries as a share of requests.
//!
//! Retries help against a few failures and do harm in an outage: four attempts for each request bring four times the load to
//! what is already too slow. The budget lets retries be a share of the requests of the last seconds, plus a small rate so that
//! services with little traffic may retry at all.

use std::time::Duration;

use crate::clock::Moment;

/// The window is counted in this many parts: old requests leave the sum a tenth at a time, and the state stays one cache line
/// or two.
const PARTS: usize = 10;

/// How much may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetConfig {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries per second that are allowed on top.
    pub min_per_second: u32,
    /// Retries of one window that are allowed on top of those: what a rate leaves that is not whole in a second.
    pub min_per_window: u32,
    /// How long a request counts. Within one window the retries may come all at once.
    pub window: Duration,
    /// Whether a request that wanted one more retry is answered with 503 (GEP-3388), and not with what its last attempt brought.
    pub answers_unavailable: bool,
}

impl BudgetConfig {
    /// With so many retries in an interval on top, rounded down to whole retries of one window.
    #[must_use]
    pub fn with_minimum(self, count: u32, interval: Duration) -> Self {
        let of_window = u128::from(count) * self.window.as_millis() / interval.as_millis().max(1);
        let second = u128::from(count) * 1000 / interval.as_millis().max(1);
        let min_per_second = u32::try_from(second).unwrap_or(u32::MAX);
        let left = of_window.saturating_sub(u128::from(min_per_second) * self.window.as_millis() / 1000);
        Self { min_per_second, min_per_window: u32::try_from(left).unwrap_or(u32::MAX), ..self }
    }

    /// Retries of one window that need no requests.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        let by_rate = u128::from(self.min_per_second) * self.window.as_millis() / 1000;
        u64::try_from(by_rate).unwrap_or(u64::MAX).saturating_add(self.min_per_window.into())
    }
}

impl Default for BudgetConfig {
    /// The Gateway API's defaults for a retry budget.
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10, min_per_window: 0, window: Duration::from_secs(10), answers_unavailable: false }
    }
}

/// Counts requests and retries of the last window.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    percent: u64,
    /// Retries of one window that need no requests.
    reserve: u64,
    part_length: Duration,
    /// The current part's number, counted from the start of the clock.
    turn: u64,
    parts: [Part; PARTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    requests: u32,
    retries: u32,
}

impl RetryBudget {
    /// An empty budget: only the minimum rate may be retried until requests come.
    #[must_use]
    pub fn new(config: BudgetConfig) -> Self {
        Self {
            percent: config.percent.into(),
            reserve: config.reserve(),
            part_length: (config.window / 10).max(Duration::from_millis(1)),
            turn: 0,
            parts: [Part::default(); PARTS],
        }
    }

    /// A request arrived. Not for its retries: those would pay for each other.
    pub fn deposit(&mut self, now: Moment) {
        let part = self.current(now);
        part.requests = part.requests.saturating_add(1);
    }

    /// Takes one retry out of the budget. `false`: it is spent, and the request ends with what it has.
    #[must_use]
    pub fn withdraw(&mut self, now: Moment) -> bool {
        self.current(now);
        let requests: u64 = self.parts.iter().map(|part| u64::from(part.requests)).sum();
        let retries: u64 = self.parts.iter().map(|part| u64::from(part.retries)).sum();
        let allowed = (requests.saturating_mul(self.percent) / 100).saturating_add(self.reserve);
        let granted = retries < allowed;
        if granted {
            let part = self.current(now);
            part.retries = part.retries.saturating_add(1);
        }
        granted
    }

    /// Turns the ring to `now`, emptying the parts that are a window old, and returns the part of this moment.
    fn current(&mut self, now: Moment) -> &mut Part {
        let turn = now.since_start().as_nanos() / self.part_length.as_nanos();
        let turn = u64::try_from(turn).unwrap_or(u64::MAX);
        // A clock that steps back counts into the newest part.
        let stale = turn.saturating_sub(self.turn).min(PARTS as u64);
        for age in 0..stale {
            self.parts[ring_index(turn - age)] = Part::default();
        }
        self.turn = self.turn.max(turn);
        &mut self.parts[ring_index(self.turn)]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder below PARTS")]
const fn ring_index(turn: u64) -> usize {
    (turn % PARTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE_FOR_FREE: BudgetConfig = BudgetConfig {
        percent: 20,
        min_per_second: 0,
        min_per_window: 0,
        window: Duration::from_secs(10),
        answers_unavailable: false,
    };

    fn at(seconds: f64) -> Moment {
        Moment::after_start(Duration::from_secs_f64(seconds))
    }

    fn withdrawals(budget: &mut RetryBudget, now: Moment) -> usize {
        (0..1000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_share_of_requests() {
        let mut budget = RetryBudget::new(NONE_FOR_FREE);
        assert!(!budget.withdraw(at(0.0)), "nothing deposited");
        (0..100).for_each(|_| budget.deposit(at(0.1)));
        assert_eq!(withdrawals(&mut budget, at(0.2)), 20);
        (0..5).for_each(|_| budget.deposit(at(0.3)));
        assert_eq!(withdrawals(&mut budget, at(0.4)), 1);
    }

    #[test]
    fn a_little_traffic_may_be_retried_without_a_share() {
        let mut budget = RetryBudget::new(BudgetConfig::default());
        assert_eq!(withdrawals(&mut budget, at(0.0)), 100);
        assert_eq!(withdrawals(&mut budget, at(9.9)), 0, "the window has them still");
        assert_eq!(withdrawals(&mut budget, at(10.0)), 100);
    }

    #[test]
    fn a_minimum_rate_holds_for_a_window() {
        let minute = Duration::from_secs(60);
        for (count, interval, window, expected) in [
            (10, 1_000, 10_000, 100),
            (10, 500, 10_000, 200),
            (30, 60_000, 10_000, 5),
            (1, 3_600_000, 10_000, 0),
            (3, 2_000, 1_000, 1),
            (25, 10_000, 3_000, 7),
            (1_000_000, 1, 3_600_000, 3_600_000_000_000),
            (0, 1_000, 10_000, 0),
            (5, 0, 1_000, 5_000),
        ] {
            let (interval, window) = (Duration::from_millis(interval), Duration::from_millis(window));
            let config = BudgetConfig { window, ..BudgetConfig::default() }.with_minimum(count, interval);
            assert_eq!(config.reserve(), expected, "{count} in {interval:?}, {window:?}");
        }
        let thirty = BudgetConfig::default().with_minimum(30, minute);
        assert_eq!(withdrawals(&mut RetryBudget::new(thirty), at(0.0)), 5);
    }

    #[test]
    fn requests_expire() {
        let mut budget = RetryBudget::new(NONE_FOR_FREE);
        (0..100).for_each(|_| budget.deposit(at(0.5)));
        assert!(budget.clone().withdraw(at(9.9)));
        assert!(!budget.clone().withdraw(at(10.0)));
        assert!(!budget.clone().withdraw(at(1e9)));
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let mut budget = RetryBudget::new(NONE_FOR_FREE);
        (0..10).for_each(|_| budget.deposit(at(100.0)));
        assert!(budget.withdraw(at(50.0)));
        assert!(budget.withdraw(at(100.0)));
        assert!(!budget.withdraw(at(50.0)));
    }

    proptest! {
        /// Over any course of events retries stay below their share of all requests and the reserve of each window begun.
        #[test]
        fn retries_never_exceed_the_share_and_the_reserve(
            percent in 0_u32..100,
            min_per_second in 0_u32..5,
            steps in proptest::collection::vec((0_u64..3000, 0_u32..20, 0_u32..20), 1..200),
        ) {
            let config = BudgetConfig { percent, min_per_second, window: Duration::from_secs(5), ..BudgetConfig::default() };
            let mut budget = RetryBudget::new(config);
            let (mut now, mut requests, mut retries) = (Moment::START, 0_u64, 0_u64);
            for (wait, deposits, wanted) in steps {
                now = now + Duration::from_millis(wait);
                (0..deposits).for_each(|_| budget.deposit(now));
                requests += u64::from(deposits);
                retries += (0..wanted).filter(|_| budget.withdraw(now)).count() as u64;
                let windows = now.since_start().as_secs() / 5 + 1;
                let bound = requests * u64::from(percent) / 100 + u64::from(min_per_second) * 5 * windows;
                prop_assert!(retries <= bound, "{retries} retries of {requests} requests in {windows} windows");
            }
        }
    }
}
