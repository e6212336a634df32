//! Keeping requests away from endpoints that only fail.
//!
//! An endpoint that fails a number of times in a row is ejected for a while, each time longer as long as it does not recover.
//! When the time is over one request goes to it as a probe: its success brings the endpoint back, its failure ejects it again.
//! Where it is asked for, endpoints are also judged once in each interval, by the share of their successes and by how long
//! they take beside the others ([`Judged`]).
//! [`Health`] is the state of one endpoint; [`balance`](crate::balance) holds one for each and sees to the cap.

use std::time::Duration;

use fastrand::Rng;

use crate::clock::Moment;

/// A probe that has not ended after this long no longer keeps the next one away: it may be a stream that stays open for hours.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// When endpoints are ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionConfig {
    /// Failures in a row that eject; 0 never does.
    pub consecutive_failures: u32,
    /// Length of the first ejection. It doubles with each that follows.
    pub base: Duration,
    /// No ejection is longer.
    pub max: Duration,
    /// At most this share of the endpoints is ejected at a time, and never the last one.
    pub max_ejected_percent: u32,
    /// How endpoints are judged beside that.
    pub judgement: Judgement,
}

/// How endpoints are judged by all that they did in a while, as of one worker of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The while.
    pub interval: Duration,
    /// An endpoint that had fewer requests in an interval is not judged.
    pub min_requests: u32,
    /// One that answered fewer of them than this well is ejected; 0 never does.
    pub min_success_percent: u32,
    /// One whose answers took more than this many times what the median endpoint's took is ejected; 0 never does. It takes
    /// three endpoints to say which of them is slow.
    pub max_latency_factor: u32,
}

impl Default for Judgement {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), min_requests: 20, min_success_percent: 0, max_latency_factor: 0 }
    }
}

impl Judgement {
    /// Whether anything is judged.
    #[must_use]
    pub const fn judges(&self) -> bool {
        self.min_success_percent > 0 || self.max_latency_factor > 0
    }

    /// What is wrong with an endpoint that did this, where the median endpoint took so long to answer.
    #[must_use]
    pub fn verdict(&self, judged: &Judged, median: Option<Duration>) -> Option<FailureCause> {
        if judged.requests() < self.min_requests.max(1) {
            return None;
        }
        if u64::from(judged.succeeded) * 100 < u64::from(judged.requests()) * u64::from(self.min_success_percent) {
            return Some(FailureCause::SuccessRate);
        }
        let (mean, median) = (judged.latency()?, median?);
        (self.max_latency_factor > 0 && mean > median.saturating_mul(self.max_latency_factor)).then_some(FailureCause::Latency)
    }
}

/// What an endpoint did since it was judged last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    succeeded: u32,
    failed: u32,
    answered: u32,
    waited: Duration,
}

impl Judged {
    /// A request has ended.
    pub const fn ended(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.succeeded = self.succeeded.saturating_add(1),
            Outcome::Failure(_) => self.failed = self.failed.saturating_add(1),
            Outcome::Abandoned => {}
        }
    }

    /// An answer has begun, after this time.
    pub const fn answered(&mut self, after: Duration) {
        self.answered = self.answered.saturating_add(1);
        self.waited = self.waited.saturating_add(after);
    }

    /// Requests that ended well or badly.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    /// How many of a thousand ended well.
    #[must_use]
    pub fn success_permille(&self) -> u32 {
        let share = u64::from(self.succeeded) * 1000 / u64::from(self.requests().max(1));
        u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// What an answer took on average. `None`: there was none.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.waited.checked_div(self.answered)
    }
}

impl Default for EjectionConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            max_ejected_percent: 50,
            judgement: Judgement::default(),
        }
    }
}

impl EjectionConfig {
    /// How many of `endpoints` may be ejected at a time.
    #[must_use]
    pub fn most_ejected(&self, endpoints: usize) -> usize {
        let share = endpoints as u128 * u128::from(self.max_ejected_percent) / 100;
        usize::try_from(share).unwrap_or(usize::MAX).min(endpoints.saturating_sub(1))
    }

    /// The length of the ejection that follows `earlier` ones in a row, shortened by up to a quarter by chance: workers that
    /// ejected an endpoint together do not probe it together.
    fn length(&self, earlier: u32, rng: &mut Rng) -> Duration {
        let factor = 1_u32.checked_shl(earlier).unwrap_or(u32::MAX);
        let full = self.base.saturating_mul(factor).min(self.max).max(Duration::from_millis(1));
        full - full.mul_f64(rng.f64() / 4.0)
    }
}

/// How a request to an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered, and the answer is not its failure. A 404 is a success.
    Success,
    /// The endpoint failed.
    Failure(FailureCause),
    /// It was given up for a reason that is not the endpoint's, such as a caller that went away.
    Abandoned,
}

/// What an endpoint did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// No connection, or no handshake.
    Connect,
    /// The connection or the stream broke.
    Reset,
    /// No answer in time.
    Timeout,
    /// It answered 5xx.
    ServerError,
    /// Too few of its requests ended well.
    SuccessRate,
    /// It took much longer than the others.
    Latency,
}

impl FailureCause {
    /// The cause as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::ServerError => "server-error",
            Self::SuccessRate => "success-rate",
            Self::Latency => "latency",
        }
    }
}

/// What one endpoint's requests have said about it.
///
/// A request speaks of the state that the endpoint was in when it started. What it says after the next change of state is stale
/// and ignored: neither does a success that was on its way before an ejection end it, nor do the timeouts of a sick time that is
/// over begin another.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    state: State,
    /// When the state changed last.
    changed: Option<Moment>,
    /// Ejections without a long enough recovery between them.
    ejections: u32,
    /// Length of the latest of them.
    length: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Serving {
        /// In a row.
        failures: u32,
    },
    Ejected {
        until: Moment,
        /// When the probe that is under way started.
        probe: Option<Moment>,
    },
}

/// A change of an endpoint's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No more requests until the time is over; also when it was ejected already and failed its probe.
    Ejected {
        /// For how long.
        length: Duration,
        /// What the last failure was.
        cause: FailureCause,
    },
    /// It serves again.
    Readmitted,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: State::Serving { failures: 0 }, changed: None, ejections: 0, length: Duration::ZERO }
    }
}

impl Health {
    /// When the ejection ends, if there is one.
    #[must_use]
    pub const fn ejected_until(&self) -> Option<Moment> {
        match self.state {
            State::Serving { .. } => None,
            State::Ejected { until, .. } => Some(until),
        }
    }

    /// The whole length of the ejection, if there is one.
    #[must_use]
    pub const fn ejected_for(&self) -> Option<Duration> {
        match self.state {
            State::Serving { .. } => None,
            State::Ejected { .. } => Some(self.length),
        }
    }

    /// Whether its time is over and it waits for a probe.
    #[must_use]
    pub fn is_due(&self, now: Moment) -> bool {
        match self.state {
            State::Serving { .. } => false,
            State::Ejected { until, probe } => now >= until && probe.is_none_or(|started| now.since(started) >= PROBE_PATIENCE),
        }
    }

    /// Whether a request that began at `started` says nothing about the present state.
    #[must_use]
    pub fn is_stale(&self, started: Moment) -> bool {
        self.changed.is_some_and(|changed| started <= changed)
    }

    /// A request goes to the endpoint. If it waits for a probe, this one is it.
    pub fn begin(&mut self, now: Moment) {
        let due = self.is_due(now);
        if let State::Ejected { probe, .. } = &mut self.state
            && due
        {
            *probe = Some(now);
        }
    }

    /// A request that began at `started` has ended. `room`: whether the cap allows one more ejection.
    pub fn end(
        &mut self,
        started: Moment,
        outcome: Outcome,
        now: Moment,
        room: bool,
        config: &EjectionConfig,
        rng: &mut Rng,
    ) -> Option<Change> {
        if self.is_stale(started) {
            return None;
        }
        match (&mut self.state, outcome) {
            (State::Serving { failures }, Outcome::Success) => *failures = 0,
            (State::Serving { failures }, Outcome::Failure(cause)) => {
                *failures = failures.saturating_add(1);
                if room && config.consecutive_failures > 0 && *failures >= config.consecutive_failures {
                    return Some(self.eject(cause, now, config, rng));
                }
            }
            (State::Ejected { .. }, Outcome::Success) => {
                self.readmit(now);
                return Some(Change::Readmitted);
            }
            // Before its time is over another failure is no news.
            (State::Ejected { until, .. }, Outcome::Failure(cause)) if started >= *until => {
                return Some(self.eject(cause, now, config, rng));
            }
            (State::Ejected { probe, .. }, Outcome::Abandoned) if *probe == Some(started) => *probe = None,
            (State::Ejected { .. }, Outcome::Failure(_)) | (_, Outcome::Abandoned) => {}
        }
        None
    }

    /// Ejects an endpoint that serves and was judged unfit. `None`: it does not serve.
    pub fn condemn(&mut self, cause: FailureCause, now: Moment, config: &EjectionConfig, rng: &mut Rng) -> Option<Change> {
        match self.state {
            State::Serving { .. } => Some(self.eject(cause, now, config, rng)),
            State::Ejected { .. } => None,
        }
    }

    /// Ends the ejection, whatever the endpoint's state.
    pub fn readmit(&mut self, now: Moment) {
        self.state = State::Serving { failures: 0 };
        self.changed = Some(now);
    }

    fn eject(&mut self, cause: FailureCause, now: Moment, config: &EjectionConfig, rng: &mut Rng) -> Change {
        // Having served for longer than it was away, it starts from the beginning.
        let recovered = matches!(self.state, State::Serving { .. })
            && self.changed.is_none_or(|readmitted| now.since(readmitted) > self.length);
        self.ejections = if recovered { 0 } else { self.ejections.saturating_add(1) };
        self.length = config.length(self.ejections, rng);
        self.state = State::Ejected { until: now + self.length, probe: None };
        self.changed = Some(now);
        Change::Ejected { length: self.length, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const FAILED: Outcome = Outcome::Failure(FailureCause::Reset);

    fn at(seconds: f64) -> Moment {
        Moment::after_start(Duration::from_secs_f64(seconds))
    }

    /// One endpoint with its config and dice, so that the tests say only what happens.
    struct Patient {
        health: Health,
        config: EjectionConfig,
        rng: Rng,
    }

    impl Patient {
        fn new() -> Self {
            Self { health: Health::default(), config: EjectionConfig::default(), rng: Rng::with_seed(7) }
        }

        fn end(&mut self, started: f64, outcome: Outcome, now: f64) -> Option<Change> {
            self.health.end(at(started), outcome, at(now), true, &self.config, &mut self.rng)
        }

        /// Fails until it is ejected at `now`; returns for how long.
        fn eject(&mut self, now: f64) -> f64 {
            for _ in 0..self.config.consecutive_failures {
                if let Some(Change::Ejected { length, .. }) = self.end(now, FAILED, now) {
                    return length.as_secs_f64();
                }
            }
            panic!("not ejected")
        }

        fn until(&self) -> f64 {
            self.health.ejected_until().unwrap().since_start().as_secs_f64()
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_begins_a_new_row() {
        let mut patient = Patient::new();
        for outcome in [FAILED, FAILED, FAILED, FAILED, Outcome::Success, FAILED, FAILED, Outcome::Abandoned, FAILED, FAILED] {
            assert_eq!(patient.end(1.0, outcome, 1.0), None);
        }
        let change = patient.end(1.0, Outcome::Failure(FailureCause::Connect), 1.0);
        assert!(matches!(change, Some(Change::Ejected { cause: FailureCause::Connect, .. })), "{change:?}");
    }

    #[test]
    fn an_endpoint_is_judged_by_its_successes_and_beside_the_others() {
        let judgement = Judgement { min_requests: 10, min_success_percent: 90, max_latency_factor: 3, ..Judgement::default() };
        let ms = Duration::from_millis;
        let did = |succeeded: u32, failed: u32, latency: Duration| {
            let mut judged = Judged::default();
            (0..succeeded).for_each(|_| judged.ended(Outcome::Success));
            (0..failed).for_each(|_| judged.ended(FAILED));
            (0..succeeded).for_each(|_| judged.answered(latency));
            judged.ended(Outcome::Abandoned);
            judged
        };
        for (judged, median, expected) in [
            (did(90, 10, ms(10)), Some(ms(10)), None),
            (did(89, 11, ms(10)), Some(ms(10)), Some(FailureCause::SuccessRate)),
            (did(0, 9, ms(10)), None, None),
            (did(0, 10, ms(10)), None, Some(FailureCause::SuccessRate)),
            (did(100, 0, ms(30)), Some(ms(10)), None),
            (did(100, 0, ms(31)), Some(ms(10)), Some(FailureCause::Latency)),
            (did(100, 0, ms(31)), None, None),
            (did(9, 0, ms(31)), Some(ms(10)), None),
        ] {
            assert_eq!(judgement.verdict(&judged, median), expected, "{judged:?}, median {median:?}");
        }
        let nobody = Judgement::default();
        assert!(!nobody.judges() && nobody.verdict(&did(0, 100, ms(1)), Some(ms(0))).is_none());
    }

    #[test]
    fn without_room_failures_eject_as_soon_as_there_is_some() {
        let mut patient = Patient::new();
        for _ in 0..20 {
            let change = patient.health.end(at(1.0), FAILED, at(1.0), false, &patient.config, &mut patient.rng);
            assert_eq!(change, None);
        }
        assert!(patient.end(1.0, FAILED, 1.0).is_some());
    }

    #[test]
    fn a_threshold_of_zero_never_ejects() {
        let mut patient = Patient::new();
        patient.config.consecutive_failures = 0;
        assert!((0..100).all(|_| patient.end(1.0, FAILED, 1.0).is_none()));
    }

    #[test]
    fn one_probe_at_a_time_when_the_time_is_over() {
        let mut patient = Patient::new();
        patient.eject(10.0);
        let due = patient.until();
        assert!(!patient.health.is_due(at(due - 0.001)));
        assert!(patient.health.is_due(at(due)));
        patient.health.begin(at(due));
        assert!(!patient.health.is_due(at(due + 1.0)), "a probe is under way");
        assert!(patient.health.is_due(at(due + 6.0)), "and does not answer");
        assert_eq!(patient.end(due, Outcome::Abandoned, due + 1.0), None);
        assert!(patient.health.is_due(at(due + 1.0)), "the probe said nothing, so another one may");
        patient.health.begin(at(due + 1.0));
        assert_eq!(patient.end(due + 1.0, Outcome::Success, due + 1.1), Some(Change::Readmitted));
        assert_eq!(patient.health.ejected_until(), None);
    }

    #[test]
    fn ejections_grow_until_the_endpoint_has_recovered() {
        let mut patient = Patient::new();
        let within = |length: f64, full: f64| assert!(length <= full && length >= full * 0.75, "{length} of {full}");
        let mut now = 10.0;
        within(patient.eject(now), 5.0);
        for full in [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0] {
            now = patient.until();
            patient.health.begin(at(now));
            let Some(Change::Ejected { length, .. }) = patient.end(now, FAILED, now + 0.1) else { panic!("probe at {now}") };
            within(length.as_secs_f64(), full);
        }
        // It comes back, and falls soon: that was no recovery.
        now = patient.until();
        assert_eq!(patient.end(now, Outcome::Success, now), Some(Change::Readmitted));
        within(patient.eject(now + 100.0), 300.0);
        // It comes back and stays.
        now = patient.until();
        assert_eq!(patient.end(now, Outcome::Success, now), Some(Change::Readmitted));
        within(patient.eject(now + 301.0), 5.0);
    }

    #[test]
    fn what_was_under_way_at_a_change_says_nothing_of_what_came_after() {
        let mut patient = Patient::new();
        patient.eject(10.0);
        assert_eq!(patient.end(9.0, Outcome::Success, 11.0), None, "started before the ejection");
        assert_eq!(patient.end(9.0, FAILED, 11.0), None);
        assert_eq!(patient.end(10.5, FAILED, 11.0), None, "not yet due: a failure is no news");
        assert_eq!(patient.end(10.5, Outcome::Success, 11.0), Some(Change::Readmitted), "but a success is");
        for _ in 0..10 {
            assert_eq!(patient.end(10.6, FAILED, 12.0), None, "sent while it was ejected");
        }
    }

    #[test]
    fn the_cap_leaves_somebody() {
        let most = |percent, endpoints| {
            EjectionConfig { max_ejected_percent: percent, ..EjectionConfig::default() }.most_ejected(endpoints)
        };
        let halves: Vec<usize> = (0..=6).map(|endpoints| most(50, endpoints)).collect();
        assert_eq!(halves, [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!((most(100, 3), most(1000, 3), most(100, 1), most(0, 10)), (2, 2, 0, 0));
        assert_eq!(most(u32::MAX, usize::MAX), usize::MAX - 1);
    }

    proptest! {
        #[test]
        fn an_ejection_stays_within_its_bounds(earlier: u32, seed: u64, base in any::<u32>(), max in any::<u32>()) {
            let (base, max) = (Duration::from_millis(base.into()), Duration::from_millis(max.into()));
            let config = EjectionConfig { base, max, ..EjectionConfig::default() };
            let length = config.length(earlier, &mut Rng::with_seed(seed));
            prop_assert!(length <= max.max(Duration::from_millis(1)));
            prop_assert!(length >= base.min(max).mul_f64(0.7499));
            prop_assert!(!length.is_zero());
        }
    }
}
