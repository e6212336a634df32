//! What the load saw: every answer counted, the latest ones kept for shares and percentiles.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weir_core::clock::Moment;

/// How long single answers are kept; longer than any question reaches back.
const KEPT: Duration = Duration::from_secs(15);
/// Failures that are kept with their reasons. The first ones tell the story; the rest repeat it.
const MAX_TOLD_FAILURES: usize = 5;

/// One request's end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// When it was due.
    pub(crate) sent: Moment,
    /// When it was over.
    pub(crate) ended: Moment,
    /// Who answered, or what went wrong.
    pub(crate) end: Result<Answered, String>,
}

/// Who answered a request in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The catalog's version.
    pub(crate) version: String,
    /// The catalog's Pod.
    pub(crate) pod: String,
}

/// All that is known about the load's requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Requests that ended, well or not.
    pub(crate) requests: u64,
    /// Of these, the ones that did not end with 200.
    pub(crate) failures: u64,
    /// The first failures, with the time.
    pub(crate) first_failures: Vec<(Moment, String)>,
    recent: VecDeque<Sample>,
}

/// A stretch of time in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    /// Requests that ended, per second.
    pub(crate) per_second: f64,
    /// Percent of them that ended well; 100 if there was none.
    pub(crate) success: f64,
    /// By version.
    pub(crate) versions: BTreeMap<String, VersionWindow>,
}

/// One version's part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct VersionWindow {
    /// Percent of all answers.
    pub(crate) share: f64,
    /// Half of its answers took no longer.
    pub(crate) p50: Duration,
    /// All but one in a hundred took no longer.
    pub(crate) p99: Duration,
}

/// Answers by version, among requests sent since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// From the version asked about.
    pub(crate) of: usize,
    /// From all.
    pub(crate) total: usize,
}

impl Share {
    /// In percent; 0 if there is nothing to share.
    pub(crate) fn percent(self) -> f64 {
        percent(self.of as u64, self.total as u64)
    }
}

impl Tally {
    /// Counts a request that ended.
    pub(crate) fn record(&mut self, sample: Sample) {
        self.requests += 1;
        if let Err(reason) = &sample.end {
            self.failures += 1;
            if self.first_failures.len() < MAX_TOLD_FAILURES {
                self.first_failures.push((sample.ended, reason.clone()));
            }
        }
        let oldest = sample.ended - KEPT;
        while self.recent.front().is_some_and(|first| first.ended < oldest) {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// The last `span` before `now`.
    pub(crate) fn window(&self, now: Moment, span: Duration) -> Window {
        let span = span.min(now.since_start()).max(Duration::from_millis(1));
        let ended: Vec<_> = self.recent.iter().filter(|sample| sample.ended > now - span && sample.ended <= now).collect();
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for sample in &ended {
            if let Ok(answered) = &sample.end {
                times.entry(&answered.version).or_default().push(sample.ended.since(sample.sent));
            }
        }
        let answers: usize = times.values().map(Vec::len).sum();
        let versions = times.into_iter().map(|(version, mut times)| {
            times.sort_unstable();
            let share = percent(times.len() as u64, answers as u64);
            (version.to_owned(), VersionWindow { share, p50: percentile(&times, 50), p99: percentile(&times, 99) })
        });
        Window {
            versions: versions.collect(),
            per_second: ended.len() as f64 / span.as_secs_f64(),
            success: if ended.is_empty() { 100.0 } else { percent(answers as u64, ended.len() as u64) },
        }
    }

    /// How much of what was sent since `mark` a version answered.
    pub(crate) fn share_since(&self, mark: Moment, version: &str) -> Share {
        let mut share = Share::default();
        for answered in self.answered_since(mark) {
            share.total += 1;
            share.of += usize::from(answered.version == version);
        }
        share
    }

    /// How much of what was sent since `mark` a Pod answered.
    pub(crate) fn pod_share_since(&self, mark: Moment, pod: &str) -> Share {
        let mut share = Share::default();
        for answered in self.answered_since(mark) {
            share.total += 1;
            share.of += usize::from(answered.pod == pod);
        }
        share
    }

    /// When the first request after `mark` was sent that a version answered.
    pub(crate) fn first_sent(&self, version: &str, mark: Moment) -> Option<Moment> {
        self.sent_to(version, mark).min()
    }

    /// When the last one was.
    pub(crate) fn last_sent(&self, version: &str, mark: Moment) -> Option<Moment> {
        self.sent_to(version, mark).max()
    }

    fn sent_to(&self, version: &str, mark: Moment) -> impl Iterator<Item = Moment> {
        let answered = move |sample: &&Sample| sample.end.as_ref().is_ok_and(|answered| answered.version == version);
        self.recent.iter().filter(answered).map(|sample| sample.sent).filter(move |sent| *sent >= mark)
    }

    fn answered_since(&self, mark: Moment) -> impl Iterator<Item = &Answered> {
        self.recent.iter().filter(move |sample| sample.sent >= mark).filter_map(|sample| sample.end.as_ref().ok())
    }
}

/// `part` of `whole` in percent; 0 of nothing is 0.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// The smallest value that at least `percent` of a hundred values do not exceed (nearest rank). Zero of nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn answer(sent: u64, took: u64, version: &str) -> Sample {
        let answered = Answered { version: version.to_owned(), pod: format!("catalog-{version}-a") };
        Sample { sent: at(sent), ended: at(sent + took), end: Ok(answered) }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let ms = |values: &[u64]| values.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(percentile(&[], 99), Duration::ZERO);
        assert_eq!(percentile(&ms(&[7]), 50), Duration::from_millis(7));
        let hundred = ms(&(1..=100).collect::<Vec<_>>());
        assert_eq!(percentile(&hundred, 50), Duration::from_millis(50));
        assert_eq!(percentile(&hundred, 99), Duration::from_millis(99));
        assert_eq!(percentile(&hundred, 100), Duration::from_millis(100));
    }

    #[test]
    fn a_window_looks_at_its_own_time_only() {
        let mut tally = Tally::default();
        tally.record(answer(0, 500, "v2"));
        for n in 0..9 {
            tally.record(answer(2_000 + n * 100, 10 + n, "v1"));
        }
        tally.record(Sample { sent: at(2_900), ended: at(2_950), end: Err("503".to_owned()) });
        let window = tally.window(at(3_000), Duration::from_secs(1));
        assert_eq!(window.per_second, 10.0);
        assert_eq!(window.success, 90.0);
        let v1 = VersionWindow { share: 100.0, p50: Duration::from_millis(14), p99: Duration::from_millis(18) };
        assert_eq!(window.versions, BTreeMap::from([("v1".to_owned(), v1)]));
        assert_eq!((tally.requests, tally.failures), (11, 1));
    }

    #[test]
    fn shares_count_by_when_a_request_was_sent() {
        let mut tally = Tally::default();
        tally.record(answer(900, 200, "v1"));
        tally.record(answer(1_000, 10, "v2"));
        tally.record(answer(1_001, 10, "v1"));
        assert_eq!(tally.share_since(at(1_000), "v2"), Share { of: 1, total: 2 });
        assert_eq!(tally.pod_share_since(at(0), "catalog-v1-a"), Share { of: 2, total: 3 });
        assert_eq!(tally.share_since(at(5_000), "v2").percent(), 0.0);
        assert_eq!(tally.first_sent("v1", at(901)), Some(at(1_001)));
        assert_eq!(tally.last_sent("v1", at(0)), Some(at(1_001)));
        assert_eq!(tally.last_sent("v2", at(1_001)), None);
    }

    #[test]
    fn memory_stays_bounded() {
        let mut tally = Tally::default();
        for n in 0..100_000 {
            let end = Err(format!("failure {n}"));
            tally.record(Sample { sent: at(n * 10), ended: at(n * 10), end });
        }
        assert_eq!(tally.failures, 100_000);
        assert_eq!(tally.first_failures.len(), MAX_TOLD_FAILURES);
        assert!(tally.recent.len() < 2_000);
    }
}
