//! Judging all endpoints at once, by what they did since the last time.

use std::cmp::Reverse;
use std::time::Duration;

use fastrand::Rng;

use super::{Balancer, Ejected, FailureCause, PeakEwma};
use crate::clock::Moment;
use crate::outlier::Change;

/// Fewer endpoints cannot say which of them is slow.
const MEDIAN_OF: usize = 3;

impl<C> Balancer<C> {
    /// Ejects the endpoints that did badly in the interval that is over; nobody while it is not. Those that did worst go first,
    /// for as long as the cap has room.
    pub fn judge(&mut self, now: Moment, rng: &mut Rng) -> Vec<Ejected> {
        let config = self.config.ejection;
        if !config.judgement.judges() || now.since(self.judged) < config.judgement.interval {
            return Vec::new();
        }
        self.judged = now;
        let median = self.median_latency();
        let mut unfit = Vec::new();
        for slot in self.set.serving() {
            let Some(entry) = self.set.in_slot(*slot) else { continue };
            if let Some(cause) = config.judgement.verdict(&entry.judged, median) {
                let worst_first = (entry.judged.success_permille(), Reverse(entry.judged.latency()), *slot);
                unfit.push((worst_first, cause));
            }
        }
        unfit.sort_unstable_by_key(|(worst_first, _)| *worst_first);
        self.set.forget_judged();
        let room = config.most_ejected(self.set.len()).saturating_sub(self.set.ejected().len());
        unfit.into_iter().take(room).filter_map(|((_, _, slot), cause)| self.condemn(slot, cause, now, rng)).collect()
    }

    fn condemn(&mut self, slot: usize, cause: FailureCause, now: Moment, rng: &mut Rng) -> Option<Ejected> {
        let entry = self.set.in_slot_mut(slot)?;
        let Change::Ejected { length, cause } = entry.health.condemn(cause, now, &self.config.ejection, rng)? else {
            return None;
        };
        entry.rtt = PeakEwma::new(&self.config.ewma);
        let address = entry.endpoint.address;
        self.set.eject(slot);
        Some(Ejected { address, until: now + length, length, cause })
    }

    /// What the median of the endpoints that had enough requests took to answer.
    fn median_latency(&self) -> Option<Duration> {
        let judgement = self.config.ejection.judgement;
        if judgement.max_latency_factor == 0 {
            return None;
        }
        let judged = self.set.serving().iter().filter_map(|slot| self.set.in_slot(*slot)).map(|entry| &entry.judged);
        let mut latencies: Vec<Duration> =
            judged.filter(|it| it.requests() >= judgement.min_requests).filter_map(super::Judged::latency).collect();
        if latencies.len() < MEDIAN_OF {
            return None;
        }
        // Of an even number the smaller of the two in the middle: with it the slower half cannot hide behind itself.
        let middle = (latencies.len() - 1) / 2;
        Some(*latencies.select_nth_unstable(middle).1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, FAILED};
    use super::*;
    use crate::balance::{BalanceConfig, EjectionConfig, Judgement, Outcome};

    fn bench(numbers: std::ops::RangeInclusive<u8>, judgement: Judgement) -> Bench {
        let mut bench = Bench::new(numbers);
        let ejection = EjectionConfig { consecutive_failures: 0, judgement, ..EjectionConfig::default() };
        bench.balancer.reconfigure(BalanceConfig { ejection, ..BalanceConfig::default() }, bench.now);
        bench.judge();
        bench
    }

    /// So many requests to an endpoint, of which these fail.
    fn requests(bench: &mut Bench, number: u8, count: u32, failures: u32, seconds: f64) {
        for index in 0..count {
            let outcome = if index < failures { FAILED } else { Outcome::Success };
            assert_eq!(bench.request(number, seconds, outcome), None);
        }
    }

    #[test]
    fn endpoints_that_fail_now_and_then_are_found_out() {
        let judgement = Judgement { min_success_percent: 80, min_requests: 10, ..Judgement::default() };
        let mut bench = bench(1..=4, judgement);
        for (number, failures) in [(1, 0), (2, 2), (3, 3), (4, 9)] {
            requests(&mut bench, number, 10, failures, 0.001);
        }
        assert_eq!(bench.judge(), [], "the interval is not over");
        bench.wait(10.0);
        let ejected = bench.judge();
        let found: Vec<_> = ejected.iter().map(|it| (it.address.to_string(), it.cause)).collect();
        let cause = FailureCause::SuccessRate;
        // The worst one first; two of four are all that may be ejected.
        assert_eq!(found, [("10.0.0.4:8080".to_owned(), cause), ("10.0.0.3:8080".to_owned(), cause)]);
        assert!(bench.spread().keys().all(|number| [1, 2].contains(number)));
        bench.wait(10.0);
        assert_eq!(bench.judge(), [], "a new interval knows nothing of the old one");
    }

    #[test]
    fn a_slow_endpoint_is_found_out_beside_the_others() {
        let judgement = Judgement { max_latency_factor: 3, min_requests: 5, ..Judgement::default() };
        let mut bench = bench(1..=5, judgement);
        for (number, seconds) in [(1, 0.010), (2, 0.012), (3, 0.011), (4, 0.050)] {
            requests(&mut bench, number, 5, 0, seconds);
        }
        // Too few requests to say anything.
        requests(&mut bench, 5, 4, 0, 1.0);
        bench.wait(10.0);
        let ejected = bench.judge();
        assert_eq!(ejected.iter().map(|it| it.cause).collect::<Vec<_>>(), [FailureCause::Latency]);
        assert_eq!(bench.ejected(), [super::super::tests::address(4)]);
    }

    #[test]
    fn two_endpoints_cannot_say_which_is_slow() {
        let judgement = Judgement { max_latency_factor: 2, min_requests: 1, ..Judgement::default() };
        let mut bench = bench(1..=2, judgement);
        requests(&mut bench, 1, 5, 0, 0.001);
        requests(&mut bench, 2, 5, 0, 5.0);
        bench.wait(10.0);
        assert_eq!(bench.judge(), []);
    }
}
