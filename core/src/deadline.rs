//! How much time a request has left.

use std::time::Duration;

use crate::clock::Moment;
use crate::route::Timeouts;

/// Which of a route's timeouts ends an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// `request`: the whole is over, nothing may be tried again.
    Request,
    /// `backendRequest`: this attempt is over.
    BackendRequest,
}

/// A request's timeouts, counted from its arrival. Retries and the waits between them are inside.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    ends: Option<Moment>,
    attempt: Option<Duration>,
}

impl Deadline {
    /// For a request that arrived at `start`. A timeout of zero is none: the Gateway API says `0s` to disable one.
    #[must_use]
    pub fn new(start: Moment, timeouts: Timeouts) -> Self {
        let given = |timeout: Option<Duration>| timeout.filter(|it| !it.is_zero());
        Self { ends: given(timeouts.request).map(|it| start + it), attempt: given(timeouts.backend_request) }
    }

    /// Time left for the request, zero when it is over. `None`: there is no limit.
    #[must_use]
    pub fn remaining(&self, now: Moment) -> Option<Duration> {
        self.ends.map(|ends| ends.since(now))
    }

    /// How long an attempt that begins now may take, and which timeout ends it. `None`: there is no limit.
    #[must_use]
    pub fn attempt(&self, now: Moment) -> Option<(Duration, Expiry)> {
        match (self.remaining(now), self.attempt) {
            (Some(whole), Some(one)) if one < whole => Some((one, Expiry::BackendRequest)),
            (Some(whole), _) => Some((whole, Expiry::Request)),
            (None, Some(one)) => Some((one, Expiry::BackendRequest)),
            (None, None) => None,
        }
    }

    /// Whether anything is left of the request after a wait of `delay`: a retry that could not even begin is not worth it.
    #[must_use]
    pub fn allows(&self, now: Moment, delay: Duration) -> bool {
        self.remaining(now).is_none_or(|left| left > delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn deadline(request: Option<u64>, backend_request: Option<u64>) -> Deadline {
        let timeouts = Timeouts { request: request.map(ms), backend_request: backend_request.map(ms) };
        Deadline::new(Moment::START + ms(1000), timeouts)
    }

    #[test]
    fn the_shorter_timeout_ends_an_attempt() {
        use Expiry::{BackendRequest, Request};
        let table = [
            // request, backendRequest, elapsed -> attempt
            (None, None, 500, None),
            (Some(100), None, 0, Some((100, Request))),
            (Some(100), None, 60, Some((40, Request))),
            (Some(100), None, 100, Some((0, Request))),
            (Some(100), None, 500, Some((0, Request))),
            (None, Some(30), 5000, Some((30, BackendRequest))),
            (Some(100), Some(30), 0, Some((30, BackendRequest))),
            (Some(100), Some(30), 69, Some((30, BackendRequest))),
            (Some(100), Some(30), 70, Some((30, Request))),
            (Some(100), Some(30), 90, Some((10, Request))),
            (Some(100), Some(100), 0, Some((100, Request))),
            (Some(0), Some(30), 90, Some((30, BackendRequest))),
            (Some(100), Some(0), 90, Some((10, Request))),
            (Some(0), Some(0), 90, None),
        ];
        for (request, backend_request, elapsed, expected) in table {
            let now = Moment::START + ms(1000 + elapsed);
            let attempt = deadline(request, backend_request).attempt(now);
            let expected = expected.map(|(left, expiry)| (ms(left), expiry));
            assert_eq!(attempt, expected, "{request:?} {backend_request:?} after {elapsed}");
        }
    }

    #[test]
    fn a_wait_must_leave_time_for_the_attempt() {
        let now = Moment::START + ms(1040);
        assert!(deadline(Some(100), None).allows(now, ms(59)));
        assert!(!deadline(Some(100), None).allows(now, ms(60)));
        assert!(!deadline(Some(40), None).allows(now, ms(0)));
        assert!(deadline(None, Some(1)).allows(now, ms(60_000)));
    }
}
