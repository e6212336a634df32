//! Faults that somebody wants: to find out what callers do when a service is slow or fails.

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, StatusCode};

use crate::route::matching::header_matches;
use crate::route::{HeaderMatch, Share};

/// One kind of fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// How many of the requests that match.
    pub share: Share,
    /// All of these must match; none: every request does.
    pub headers: Vec<HeaderMatch>,
    /// The request waits for this long before it goes on. Its route's time runs.
    pub delay: Duration,
    /// Then it is answered with this and sees no backend.
    pub abort: Option<StatusCode>,
}

impl Injection {
    /// Whether it takes every request that matches.
    #[must_use]
    pub const fn takes_all(&self) -> bool {
        self.share.numerator() == self.share.denominator()
    }

    /// Whether a request with these headers is one that it may take.
    #[must_use]
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|wanted| header_matches(wanted, headers))
    }
}

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// The wait.
    pub delay: Duration,
    /// The answer.
    pub abort: Option<StatusCode>,
}

/// Throws the dice for a request: of the injections that match and whose share takes it the first counts.
pub fn disturb(injections: &[Injection], headers: &HeaderMap, rng: &mut Rng) -> Option<Disturbance> {
    let taken = injections.iter().find(|it| it.matches(headers) && it.share.takes(rng))?;
    Some(Disturbance { delay: taken.delay, abort: taken.abort })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::route::ValueMatch;

    fn injection(numerator: u32, header: Option<&str>, delay: u64, abort: Option<u16>) -> Injection {
        Injection {
            share: Share::new(numerator, 100).unwrap(),
            headers: header
                .map(|value| HeaderMatch { name: "x-test".parse().unwrap(), value: ValueMatch::Exact(value.into()) })
                .into_iter()
                .collect(),
            delay: Duration::from_millis(delay),
            abort: abort.map(|status| StatusCode::from_u16(status).unwrap()),
        }
    }

    fn shares(injections: &[Injection], header: Option<&'static str>) -> [u32; 3] {
        let mut rng = Rng::with_seed(5);
        let headers: HeaderMap =
            header.map(|value| ("x-test".parse::<HeaderName>().unwrap(), value.parse().unwrap())).into_iter().collect();
        let mut seen = [0; 3];
        for _ in 0..10_000 {
            match disturb(injections, &headers, &mut rng) {
                None => seen[0] += 1,
                Some(Disturbance { abort: None, .. }) => seen[1] += 1,
                Some(Disturbance { abort: Some(_), .. }) => seen[2] += 1,
            }
        }
        seen
    }

    #[test]
    fn the_first_that_matches_and_takes_the_request_counts() {
        assert_eq!(shares(&[], None), [10_000, 0, 0]);
        assert_eq!(shares(&[injection(100, None, 10, None), injection(100, None, 0, Some(503))], None), [0, 10_000, 0]);
        assert_eq!(shares(&[injection(0, None, 10, None)], None), [10_000, 0, 0]);
        let by_header = [injection(100, Some("slow"), 10, None), injection(100, Some("fail"), 0, Some(503))];
        assert_eq!(shares(&by_header, Some("slow")), [0, 10_000, 0]);
        assert_eq!(shares(&by_header, Some("fail")), [0, 0, 10_000]);
        assert_eq!(shares(&by_header, Some("other")), [10_000, 0, 0]);
        assert_eq!(shares(&by_header, None), [10_000, 0, 0]);
    }

    #[test]
    fn shares_are_what_they_say() {
        let [none, slow, failed] = shares(&[injection(20, None, 10, None), injection(50, None, 0, Some(500))], None);
        assert!((1_800..2_200).contains(&slow), "{slow}");
        assert!((3_700..4_300).contains(&failed), "half of the other four fifths: {failed}");
        assert_eq!(none + slow + failed, 10_000);
    }
}
