//! Endpoints of the caller's own zone first, and those of others where these are too few or too busy.
//!
//! Traffic between zones costs time and money. A zone of its own is no island though: when too few of its endpoints serve, a
//! growing part of the requests goes elsewhere, and when the endpoint that would be taken is busy, an idler one of another
//! zone takes the request.

use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;

use super::Balancer;
use crate::clock::Moment;

/// How much the own zone is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// While at least this share of the zone's endpoints serves, all requests stay in it. Below, the part that stays shrinks in
    /// proportion.
    pub min_serving_percent: u32,
    /// An endpoint with this many requests under way, as of one worker of one proxy, passes the next to another zone if there
    /// is an idler one.
    pub max_outstanding: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self { min_serving_percent: 70, max_outstanding: 16 }
    }
}

impl Locality {
    /// The part of the requests that stays with `serving` of a zone's `total` endpoints, from 0 to 1.
    #[must_use]
    pub fn share(&self, serving: usize, total: usize) -> f64 {
        let enough = total as f64 * f64::from(self.min_serving_percent) / 100.0;
        if serving as f64 >= enough { 1.0 } else { serving as f64 / enough }
    }
}

/// Some of the endpoints that serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    All,
    Near,
    Far,
}

impl<C> Balancer<C> {
    /// Says which zone the caller is in.
    pub fn in_zone(&mut self, zone: Option<Arc<str>>) {
        if self.zone != zone {
            self.zone = zone;
            self.mark_near();
        }
    }

    pub(super) fn mark_near(&mut self) {
        let zone = self.zone.as_deref().filter(|zone| self.config.locality.is_some() && !zone.is_empty());
        let marks: Vec<(usize, bool)> =
            self.set.entries().map(|(slot, entry)| (slot, zone == Some(&*entry.endpoint.zone))).collect();
        for (slot, near) in marks {
            self.set.set_near(slot, near);
        }
    }

    pub(super) fn group(&self, group: Group) -> &[usize] {
        match group {
            Group::All => self.set.serving(),
            Group::Near => self.set.near(),
            Group::Far => self.set.far(),
        }
    }

    /// One of the serving endpoints, of the own zone where that is preferred and can take it.
    pub(super) fn by_zone(&mut self, tried: &[SocketAddr], now: Moment, rng: &mut Rng) -> Option<usize> {
        let Some(locality) = self.config.locality.filter(|_| !self.set.near().is_empty()) else {
            return self.by_algorithm(Group::All, tried, now, rng);
        };
        let share = locality.share(self.set.near().len(), self.set.near_total());
        if share < 1.0 && rng.f64() >= share {
            let far = self.by_algorithm(Group::Far, tried, now, rng);
            return far.or_else(|| self.by_algorithm(Group::Near, tried, now, rng));
        }
        let Some(near) = self.by_algorithm(Group::Near, tried, now, rng) else {
            return self.by_algorithm(Group::Far, tried, now, rng);
        };
        if self.outstanding(near) < locality.max_outstanding {
            return Some(near);
        }
        let far = self.by_algorithm(Group::Far, tried, now, rng);
        far.filter(|far| self.outstanding(*far) < self.outstanding(near)).or(Some(near))
    }

    fn outstanding(&self, slot: usize) -> u32 {
        self.set.in_slot(slot).map_or(0, |it| it.outstanding)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, FAILED, address, endpoint};
    use super::*;
    use crate::balance::{Algorithm, BalanceConfig, EjectionConfig};
    use std::collections::BTreeSet;

    /// Endpoints 1 to 4 are in zone `a`, the others up to 8 in zone `b`.
    fn bench(locality: Locality, algorithm: Algorithm) -> Bench {
        let mut bench = Bench::new([]);
        let ejection = EjectionConfig { consecutive_failures: 1, max_ejected_percent: 100, ..EjectionConfig::default() };
        let config = BalanceConfig { algorithm, locality: Some(locality), ejection, ..BalanceConfig::default() };
        bench.balancer.reconfigure(config, bench.now);
        let endpoints: Vec<_> = (1..=8)
            .map(|number| crate::snapshot::Endpoint {
                zone: if number <= 4 { "a".into() } else { "b".into() },
                ..endpoint(number)
            })
            .collect();
        bench.balancer.reconcile(&endpoints, bench.now, |_| std::rc::Rc::new(0));
        bench.balancer.in_zone(Some("a".into()));
        bench
    }

    fn used(bench: &mut Bench) -> BTreeSet<u8> {
        bench.spread().into_keys().collect()
    }

    #[test]
    fn requests_stay_in_the_zone_while_enough_of_it_serves() {
        for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin] {
            let mut bench = bench(Locality { min_serving_percent: 50, ..Locality::default() }, algorithm);
            assert_eq!(used(&mut bench), BTreeSet::from([1, 2, 3, 4]), "{algorithm:?}");
            for number in [1, 2] {
                bench.request(number, 0.001, FAILED);
            }
            assert_eq!(used(&mut bench), BTreeSet::from([3, 4]), "{algorithm:?}: half of it serves");
            bench.request(3, 0.001, FAILED);
            let spread = bench.spread();
            let near = spread.get(&4).copied().unwrap_or_default();
            assert!((420..580).contains(&near), "{algorithm:?}: half of the requests stay with a quarter: {spread:?}");
            assert_eq!(spread.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from([4, 5, 6, 7, 8]), "{algorithm:?}");
            bench.request(4, 0.001, FAILED);
            assert_eq!(used(&mut bench), BTreeSet::from([5, 6, 7, 8]), "{algorithm:?}: nobody is left");
        }
    }

    #[test]
    fn a_busy_zone_passes_requests_on() {
        let mut bench = bench(Locality { max_outstanding: 2, ..Locality::default() }, Algorithm::LeastRequest);
        let first = bench.pick(&[]);
        assert!(bench.number(&first) <= 4, "nobody is busy");
        for number in 1..=4 {
            let others: Vec<u8> = (1..=8).filter(|other| *other != number).collect();
            for _ in 0..2 {
                let ticket = bench.pick(&others);
                assert_eq!(bench.number(&ticket), number);
            }
        }
        let next = bench.pick(&[]);
        assert!(bench.number(&next) > 4, "an idler one elsewhere takes it");
    }

    #[test]
    fn a_retry_leaves_the_zone_when_all_of_it_was_tried() {
        let mut bench = bench(Locality::default(), Algorithm::PeakEwma);
        let ticket = bench.pick(&[1, 2, 3]);
        assert_eq!(bench.number(&ticket), 4);
        let ticket = bench.pick(&[1, 2, 3, 4]);
        assert!(bench.number(&ticket) > 4);
    }

    #[test]
    fn a_zone_that_is_unknown_or_has_no_endpoint_is_no_preference() {
        let mut bench = bench(Locality::default(), Algorithm::RoundRobin);
        for zone in [None, Some(""), Some("c")] {
            bench.balancer.in_zone(zone.map(Into::into));
            assert_eq!(used(&mut bench).len(), 8, "{zone:?}");
        }
        bench.balancer.in_zone(Some("b".into()));
        assert_eq!(used(&mut bench), BTreeSet::from([5, 6, 7, 8]));
        bench.reconcile([5, 6]);
        let left: BTreeSet<_> = bench.balancer.view().map(|it| it.endpoint.address).collect();
        assert_eq!(left, BTreeSet::from([address(5), address(6)]));
        assert_eq!(used(&mut bench), BTreeSet::from([5, 6]), "these are of no zone now");
    }

    proptest::proptest! {
        #[test]
        fn the_order_stays_whole_whatever_happens(steps in proptest::collection::vec((0_u8..5, 1_u8..=8), 0..60)) {
            let mut bench = bench(Locality::default(), Algorithm::PeakEwma);
            for (what, number) in steps {
                match what {
                    0 => bench.balancer.in_zone(Some(if number % 2 == 0 { "a".into() } else { "b".into() })),
                    1 => bench.balancer.in_zone(None),
                    2 => bench.reconcile(1..=number),
                    _ if bench.numbers().contains(&number) => { bench.request(number, 0.001, FAILED); }
                    _ => {}
                }
                let set = &bench.balancer.set;
                let all: BTreeSet<usize> = set.near().iter().chain(set.far()).chain(set.ejected()).copied().collect();
                proptest::prop_assert_eq!(all.len(), set.len());
                proptest::prop_assert_eq!(set.near().len() + set.far().len(), set.serving().len());
                let zone = bench.balancer.zone.clone();
                for (slot, entry) in set.entries() {
                    let near = zone.as_deref() == Some(&*entry.endpoint.zone);
                    let serves = entry.health.ejected_until().is_none();
                    proptest::prop_assert_eq!(set.near().contains(&slot), near && serves);
                    proptest::prop_assert_eq!(set.ejected().contains(&slot), !serves);
                }
            }
        }
    }

    #[test]
    fn what_stays_shrinks_with_what_serves() {
        let locality = Locality { min_serving_percent: 50, ..Locality::default() };
        for (serving, total, expected) in [(10, 10, 1.0), (5, 10, 1.0), (4, 10, 0.8), (1, 10, 0.2), (0, 10, 0.0), (0, 0, 1.0)] {
            let share = locality.share(serving, total);
            assert!((share - expected).abs() < 1e-9, "{serving} of {total}: {share}");
        }
        let always = Locality { min_serving_percent: 0, ..locality };
        assert!((always.share(1, 100) - 1.0).abs() < 1e-9);
    }
}
