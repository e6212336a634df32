//! What an endpoint costs: peak-EWMA.
//!
//! The estimate of an endpoint's round trip follows slow answers at once and fast ones gradually: it jumps up to a peak and
//! decays from it by `exp(-dt / decay)`. Weighing by time and not by count lets a busy and a quiet endpoint forget equally fast.
//! The cost of one more request is the estimate times the requests that would then be outstanding.

use std::time::Duration;

use crate::clock::Moment;

/// A round trip counts as this at most. A request that took an hour says that the endpoint was slow, not that it has to be left
/// alone for minutes until the estimate has decayed.
const MAX_SAMPLE: Duration = Duration::from_secs(10);

/// How estimates are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EwmaConfig {
    /// In this time the weight of what is known falls to 1/e.
    pub decay: Duration,
    /// The estimate for an endpoint that has a request under way and has never answered one. High, so that a new endpoint gets one
    /// request at a time until it has shown what it can do.
    pub default_rtt: Duration,
}

impl Default for EwmaConfig {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10), default_rtt: Duration::from_secs(1) }
    }
}

/// The estimate of one endpoint's round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeakEwma {
    /// In seconds, as of the latest sample.
    estimate: f64,
    sampled: Option<Moment>,
    picked: Option<Moment>,
}

impl PeakEwma {
    /// For an endpoint of which nothing is known.
    pub(super) fn new(config: &EwmaConfig) -> Self {
        Self { estimate: config.default_rtt.as_secs_f64(), sampled: None, picked: None }
    }

    /// The estimate as of the latest answer, if there has been one.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.sampled.map(|_| Duration::from_secs_f64(self.estimate))
    }

    /// What one more request costs, in seconds.
    ///
    /// The estimate decays while nothing happens, so that an endpoint that once was slow gets a chance to show that it no longer
    /// is. With the pick the estimate counts whole again until the answer comes: the chance is one request, not all that arrive
    /// meanwhile.
    ///
    /// An endpoint that has never answered costs nothing and is tried at once, with one request at a time. If that one brought no
    /// answer, because it failed or its caller went away, the next comes after `default_rtt`: too late to draw all traffic to an
    /// endpoint that fails fast, and soon enough for one that had bad luck.
    pub(super) fn cost(&self, outstanding: u32, now: Moment, config: &EwmaConfig) -> f64 {
        let waited = self.picked.is_none_or(|picked| now.since(picked) >= config.default_rtt);
        match self.sampled.max(self.picked) {
            Some(latest) if self.sampled.is_some() || outstanding > 0 || !waited => {
                self.estimate * weight(latest, now, config) * (f64::from(outstanding) + 1.0)
            }
            _ => 0.0,
        }
    }

    /// A request was sent.
    pub(super) const fn pick(&mut self, now: Moment) {
        self.picked = Some(now);
    }

    /// An answer came after `rtt`.
    pub(super) fn answer(&mut self, rtt: Duration, now: Moment, config: &EwmaConfig) {
        let rtt = rtt.min(MAX_SAMPLE).as_secs_f64();
        self.estimate = match self.sampled {
            None => rtt,
            Some(sampled) => {
                let weight = weight(sampled, now, config);
                rtt.max(self.estimate * weight + rtt * (1.0 - weight))
            }
        };
        self.sampled = Some(now);
    }

    /// No answer came, and `elapsed` is gone. The round trip would have been at least that; it was no proof of speed, however
    /// soon it ended: an endpoint that fails fast must not look like the best one. Of an endpoint that has never answered this
    /// says nothing: a caller that goes away is no measurement.
    pub(super) fn failure(&mut self, elapsed: Duration, now: Moment) {
        let elapsed = elapsed.min(MAX_SAMPLE).as_secs_f64();
        if self.sampled.is_some() && elapsed > self.estimate {
            self.estimate = elapsed;
            self.sampled = Some(now);
        }
    }
}

fn weight(from: Moment, now: Moment, config: &EwmaConfig) -> f64 {
    let decay = config.decay.max(Duration::from_nanos(1));
    (-now.since(from).div_duration_f64(decay)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: EwmaConfig = EwmaConfig { decay: Duration::from_secs(10), default_rtt: Duration::from_secs(1) };

    fn at(seconds: f64) -> Moment {
        Moment::after_start(Duration::from_secs_f64(seconds))
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn assert_near(value: f64, expected: f64) {
        assert!((value - expected).abs() <= expected * 1e-6, "{value}, expected {expected}");
    }

    #[test]
    fn a_new_endpoint_is_tried_at_once_and_one_request_at_a_time() {
        let mut rtt = PeakEwma::new(&CONFIG);
        assert_near(rtt.cost(0, at(1.0), &CONFIG), 0.0);
        rtt.pick(at(1.0));
        assert_near(rtt.cost(1, at(1.0), &CONFIG), 2.0);
        rtt.answer(ms(5), at(1.005), &CONFIG);
        assert_near(rtt.cost(0, at(1.005), &CONFIG), 0.005);
        assert_eq!(rtt.rtt(), Some(ms(5)));
    }

    #[test]
    fn estimates_jump_to_peaks_and_decay_from_them() {
        let mut rtt = PeakEwma::new(&CONFIG);
        rtt.answer(ms(10), at(0.0), &CONFIG);
        rtt.answer(ms(500), at(1.0), &CONFIG);
        assert_near(rtt.cost(0, at(1.0), &CONFIG), 0.5);
        assert_near(rtt.cost(0, at(11.0), &CONFIG), 0.5 / std::f64::consts::E);
        rtt.answer(ms(10), at(11.0), &CONFIG);
        let weight = 1.0 / std::f64::consts::E;
        assert_near(rtt.cost(0, at(11.0), &CONFIG), 0.5 * weight + 0.01 * (1.0 - weight));
        assert_near(rtt.cost(3, at(11.0), &CONFIG), 4.0 * (0.5 * weight + 0.01 * (1.0 - weight)));
    }

    #[test]
    fn an_old_estimate_earns_one_request_and_not_a_flood() {
        let mut rtt = PeakEwma::new(&CONFIG);
        rtt.answer(ms(2000), at(0.0), &CONFIG);
        assert!(rtt.cost(0, at(100.0), &CONFIG) < 0.001);
        rtt.pick(at(100.0));
        assert_near(rtt.cost(1, at(100.0), &CONFIG), 4.0);
        // A stream that has been open since does not keep everybody away for ever.
        assert!(rtt.cost(1, at(300.0), &CONFIG) < 0.001);
    }

    #[test]
    fn failing_fast_is_not_being_fast() {
        let mut rtt = PeakEwma::new(&CONFIG);
        rtt.answer(ms(10), at(0.0), &CONFIG);
        rtt.failure(ms(1), at(0.0));
        assert_near(rtt.cost(0, at(0.0), &CONFIG), 0.01);
        rtt.failure(ms(800), at(0.0));
        assert_near(rtt.cost(0, at(0.0), &CONFIG), 0.8);
    }

    #[test]
    fn bad_luck_with_the_first_request_is_not_held_against_an_endpoint() {
        let mut rtt = PeakEwma::new(&CONFIG);
        rtt.pick(at(1.0));
        rtt.failure(ms(3), at(1.003));
        assert_eq!(rtt.rtt(), None, "nothing has been measured");
        assert!(rtt.cost(0, at(1.003), &CONFIG) > 0.9, "it does not draw all traffic");
        assert_near(rtt.cost(0, at(2.0), &CONFIG), 0.0);
        rtt.pick(at(2.0));
        rtt.answer(ms(5), at(2.005), &CONFIG);
        assert_near(rtt.cost(0, at(2.005), &CONFIG), 0.005);
    }

    #[test]
    fn an_hour_counts_as_seconds() {
        let mut rtt = PeakEwma::new(&CONFIG);
        rtt.answer(Duration::from_secs(3600), at(3600.0), &CONFIG);
        assert_eq!(rtt.rtt(), Some(MAX_SAMPLE));
    }

    proptest! {
        #[test]
        fn costs_are_finite_and_grow_with_what_is_outstanding(
            decay in any::<u64>(), default_rtt in any::<u64>(), steps in proptest::collection::vec((any::<u32>(), any::<u64>(), 0..3), 0..20),
        ) {
            let config = EwmaConfig { decay: Duration::from_nanos(decay), default_rtt: Duration::from_nanos(default_rtt) };
            let mut rtt = PeakEwma::new(&config);
            let mut now = Moment::START;
            for (wait, elapsed, what) in steps {
                now = now + Duration::from_micros(wait.into());
                match what {
                    0 => rtt.pick(now),
                    1 => rtt.answer(Duration::from_nanos(elapsed), now, &config),
                    _ => rtt.failure(Duration::from_nanos(elapsed), now),
                }
                let (one, two) = (rtt.cost(0, now, &config), rtt.cost(1, now, &config));
                prop_assert!(one.is_finite() && one >= 0.0 && two >= one, "{one} {two}");
            }
        }
    }
}
