use super::*;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::snapshot::Protocol;
use fastrand::Rng;
use proptest::prelude::*;

pub(super) const FAILED: Outcome = Outcome::Failure(FailureCause::ServerError);

fn at(seconds: f64) -> Moment {
    Moment::after_start(Duration::from_secs_f64(seconds))
}

pub(super) fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8080))
}

pub(super) fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        address: address(number),
        identity: None,
        tls: None,
        zone: "".into(),
        protocol: Protocol::Http,
        pod: format!("pod-{number}").into(),
    }
}

fn endpoints(numbers: impl IntoIterator<Item = u8>) -> Vec<Endpoint> {
    numbers.into_iter().map(endpoint).collect()
}

/// A balancer with dice and a clock; handles are the number of the making.
pub(super) struct Bench {
    pub(super) balancer: Balancer<Rc<u32>>,
    rng: Rng,
    pub(super) now: Moment,
    made: u32,
}

impl Bench {
    pub(super) fn new(numbers: impl IntoIterator<Item = u8>) -> Self {
        let balancer = Balancer::new(BalanceConfig::default());
        let mut bench = Self { balancer, rng: Rng::with_seed(5), now: at(1000.0), made: 0 };
        bench.reconcile(numbers);
        bench
    }

    fn with(algorithm: Algorithm, slow_start: u64, numbers: impl IntoIterator<Item = u8>) -> Self {
        let mut bench = Self::new(numbers);
        let slow_start = Duration::from_secs(slow_start);
        bench.balancer.reconfigure(BalanceConfig { algorithm, slow_start, ..BalanceConfig::default() }, bench.now);
        bench
    }

    /// Where a request with this key goes, which ends at once.
    fn by_key(&mut self, key: u64, tried: &[u8]) -> u8 {
        let tried: Vec<SocketAddr> = tried.iter().copied().map(address).collect();
        let ticket = self.balancer.pick(self.now, &mut self.rng, &tried, Preference::Key(key)).unwrap();
        let number = self.number(&ticket);
        self.finish(ticket, Outcome::Success);
        number
    }

    pub(super) fn reconcile(&mut self, numbers: impl IntoIterator<Item = u8>) {
        let made = &mut self.made;
        self.balancer.reconcile(&endpoints(numbers), self.now, |_| {
            *made += 1;
            Rc::new(*made)
        });
    }

    pub(super) fn wait(&mut self, seconds: f64) {
        self.now = self.now + Duration::from_secs_f64(seconds);
    }

    pub(super) fn pick(&mut self, tried: &[u8]) -> Ticket {
        let tried: Vec<SocketAddr> = tried.iter().copied().map(address).collect();
        self.balancer.pick(self.now, &mut self.rng, &tried, Preference::Any).unwrap()
    }

    pub(super) fn number(&self, ticket: &Ticket) -> u8 {
        match self.balancer.endpoint(ticket).unwrap().address {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => unreachable!("all are IPv4"),
        }
    }

    pub(super) fn judge(&mut self) -> Vec<Ejected> {
        self.balancer.judge(self.now, &mut self.rng)
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome) -> Option<Ejected> {
        self.balancer.finish(ticket, outcome, self.now, &mut self.rng)
    }

    /// One request that takes this long and goes to `number`; the others that are picked on the way are given up.
    pub(super) fn request(&mut self, number: u8, seconds: f64, outcome: Outcome) -> Option<Ejected> {
        let others: Vec<u8> = self.numbers().into_iter().filter(|it| *it != number).collect();
        let ticket = self.pick(&others);
        assert_eq!(self.number(&ticket), number);
        self.wait(seconds);
        self.finish(ticket, outcome)
    }

    pub(super) fn numbers(&self) -> Vec<u8> {
        self.balancer
            .view()
            .map(|it| it.endpoint.address.to_string().split(['.', ':']).nth(3).unwrap().parse().unwrap())
            .collect()
    }

    fn eject(&mut self, number: u8) -> Ejected {
        (0..5).find_map(|_| self.request(number, 0.001, FAILED)).unwrap()
    }

    pub(super) fn ejected(&self) -> Vec<SocketAddr> {
        self.balancer.view().filter(|it| it.ejected_for.is_some()).map(|it| it.endpoint.address).collect()
    }

    fn outstanding(&self) -> u32 {
        self.balancer.view().map(|it| it.outstanding).sum()
    }

    /// How many of 1000 requests that end at once and well go to each endpoint.
    pub(super) fn spread(&mut self) -> BTreeMap<u8, u32> {
        let mut spread = BTreeMap::new();
        for _ in 0..1000 {
            let ticket = self.pick(&[]);
            *spread.entry(self.number(&ticket)).or_default() += 1;
            self.finish(ticket, Outcome::Abandoned);
        }
        spread
    }
}

#[test]
fn without_endpoints_there_is_no_ticket() {
    let mut balancer = Balancer::<()>::new(BalanceConfig::default());
    assert!(balancer.is_empty());
    assert_eq!(balancer.pick(at(1.0), &mut Rng::with_seed(1), &[], Preference::Any).map(|_| ()), Err(NoEndpoint::None));
}

#[test]
fn a_retry_goes_to_another_endpoint_as_long_as_there_is_one() {
    let mut bench = Bench::new(1..=3);
    for _ in 0..50 {
        let ticket = bench.pick(&[1, 3]);
        assert_eq!(bench.number(&ticket), 2);
        bench.finish(ticket, Outcome::Abandoned);
    }
    let ticket = bench.pick(&[1, 2, 3]);
    assert!((1..=3).contains(&bench.number(&ticket)), "all have been tried, and the request is not lost for that");
}

#[test]
fn an_ejected_endpoint_gets_nothing_until_it_is_probed() {
    let mut bench = Bench::new(1..=4);
    let ejected = bench.eject(2);
    assert_eq!((ejected.address, ejected.cause), (address(2), FailureCause::ServerError));
    assert_eq!(ejected.until, bench.now + ejected.length);
    assert!(!bench.spread().contains_key(&2));
    bench.now = ejected.until;
    let probe = bench.pick(&[]);
    assert_eq!(bench.number(&probe), 2);
    assert!(!bench.spread().contains_key(&2), "one probe at a time");
    bench.wait(0.002);
    assert_eq!(bench.finish(probe, Outcome::Success), None);
    assert!(bench.ejected().is_empty());
    assert!(bench.spread().contains_key(&2));
}

#[test]
fn a_failed_probe_ejects_for_longer() {
    let mut bench = Bench::new(1..=4);
    let first = bench.eject(2);
    bench.now = first.until;
    let probe = bench.pick(&[]);
    let second = bench.finish(probe, FAILED).unwrap();
    assert_eq!(second.address, address(2));
    assert!(second.length > first.length.mul_f64(1.4), "{first:?} {second:?}");
    assert_eq!(bench.ejected(), [address(2)]);
}

#[test]
fn an_endpoint_that_is_back_is_measured_anew() {
    let mut bench = Bench::new(1..=4);
    bench.request(2, 0.005, Outcome::Success);
    let timed_out = Outcome::Failure(FailureCause::Timeout);
    let ejected = (0..5).find_map(|_| bench.request(2, 8.0, timed_out)).unwrap();
    bench.now = ejected.until;
    let probe = bench.pick(&[]);
    assert_eq!(bench.number(&probe), 2);
    bench.wait(0.002);
    bench.finish(probe, Outcome::Success);
    // With the eight seconds of its sick time it would get nothing for more than a minute.
    let rtt = bench.balancer.view().find(|it| it.endpoint.address == address(2)).unwrap().rtt;
    assert_eq!(rtt, Some(Duration::from_millis(2)));
}

#[test]
fn a_request_that_has_failed_before_is_no_probe() {
    let mut bench = Bench::new(1..=4);
    bench.now = bench.eject(2).until;
    for _ in 0..50 {
        let ticket = bench.pick(&[1]);
        assert_ne!(bench.number(&ticket), 2);
        bench.finish(ticket, Outcome::Abandoned);
    }
}

#[test]
fn an_ejected_endpoint_is_better_than_the_one_that_has_just_failed() {
    let mut bench = Bench::new(1..=2);
    bench.eject(2);
    let ticket = bench.pick(&[1]);
    assert_eq!(bench.number(&ticket), 2);
    bench.finish(ticket, Outcome::Success);
    // That ticket began when the ejection did; one that begins later brings it back.
    bench.wait(0.1);
    let ticket = bench.pick(&[1]);
    bench.finish(ticket, Outcome::Success);
    assert!(bench.ejected().is_empty());
}

#[test]
fn half_of_the_endpoints_may_be_ejected_and_never_the_last() {
    let mut bench = Bench::new(1..=2);
    bench.eject(1);
    assert!((0..20).all(|_| bench.request(2, 0.001, FAILED).is_none()));
    assert_eq!(bench.ejected(), [address(1)]);

    let mut bench = Bench::new([1]);
    assert!((0..20).all(|_| bench.request(1, 0.001, FAILED).is_none()));
}

#[test]
fn a_set_that_shrinks_takes_ejected_endpoints_back() {
    let mut bench = Bench::new(1..=4);
    bench.eject(1);
    bench.wait(1.0);
    bench.eject(2);
    bench.reconcile(1..=2);
    assert_eq!(bench.ejected(), [address(2)], "the one that was ejected first is back");
    bench.reconcile([2]);
    assert!(bench.ejected().is_empty());
    assert_eq!(bench.spread().keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn what_is_equal_keeps_its_handle_and_its_history() {
    let mut bench = Bench::new(1..=3);
    bench.request(1, 0.25, Outcome::Success);
    let ticket = bench.pick(&[1, 3]);
    let handle = Rc::clone(bench.balancer.client(&ticket).unwrap());
    bench.reconcile([2, 1, 9, 9]);
    assert_eq!(bench.balancer.len(), 3, "an address counts once");
    assert!(Rc::ptr_eq(bench.balancer.client(&ticket).unwrap(), &handle));
    assert_eq!(bench.made, 4);
    assert_eq!(bench.outstanding(), 1);
    let rtt = |number| bench.balancer.view().find(|it| it.endpoint.address == address(number)).unwrap().rtt;
    assert_eq!((rtt(1), rtt(2), rtt(9)), (Some(Duration::from_millis(250)), None, None));
    bench.finish(ticket, Outcome::Success);
    assert_eq!(bench.outstanding(), 0);
}

#[test]
fn a_ticket_of_an_endpoint_that_has_gone_does_nothing() {
    let mut bench = Bench::new([1]);
    let mut old = bench.pick(&[]);
    bench.reconcile([]);
    assert_eq!(bench.balancer.endpoint(&old), None);
    // The slot has a new owner, even one with the same address.
    let mut changed = endpoint(1);
    changed.pod = "pod-2".into();
    bench.balancer.reconcile(&[changed], bench.now, |_| Rc::new(0));
    let new = bench.pick(&[]);
    assert_eq!(bench.balancer.endpoint(&old), None);
    assert_eq!(bench.balancer.client(&old), None);
    bench.balancer.answered(&mut old, bench.now);
    assert_eq!(bench.outstanding(), 1);
    assert_eq!(bench.finish(old, FAILED), None);
    assert_eq!(bench.outstanding(), 1);
    assert_eq!(bench.balancer.view().next().unwrap().rtt, None);
    bench.finish(new, Outcome::Success);
}

#[test]
fn an_answer_that_has_begun_is_the_round_trip_and_not_the_end_of_the_stream() {
    let mut bench = Bench::new([1]);
    let mut ticket = bench.pick(&[]);
    bench.wait(0.020);
    bench.balancer.answered(&mut ticket, bench.now);
    bench.wait(3600.0);
    assert_eq!(bench.outstanding(), 1);
    bench.finish(ticket, Outcome::Success);
    assert_eq!(bench.balancer.view().next().unwrap().rtt, Some(Duration::from_millis(20)));
    assert_eq!(bench.outstanding(), 0);
}

#[test]
fn the_slow_endpoint_gets_less_and_the_new_one_is_tried_but_not_flooded() {
    let mut bench = Bench::new(1..=2);
    bench.request(1, 0.100, Outcome::Success);
    bench.request(2, 0.001, Outcome::Success);
    let spread = bench.spread();
    assert_eq!(spread.get(&1), None, "of two the faster one wins while little is outstanding");
    bench.reconcile(1..=3);
    let held: Vec<Ticket> = (0..20).map(|_| bench.pick(&[])).collect();
    let to_new = held.iter().filter(|ticket| bench.number(ticket) == 3).count();
    assert_eq!(to_new, 1);
    held.into_iter().for_each(|ticket| {
        bench.finish(ticket, Outcome::Abandoned);
    });
}

/// One thing that happens to a balancer.
#[derive(Clone, Debug)]
enum Step {
    Reconcile(Vec<u8>),
    Pick(Vec<u8>),
    Finish(prop::sample::Index, Outcome),
    Wait(u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![Just(Outcome::Success), Just(Outcome::Abandoned), Just(FAILED), Just(FAILED), Just(FAILED)];
    prop_oneof![
        1 => prop::collection::vec(0_u8..8, 0..8).prop_map(Step::Reconcile),
        8 => prop::collection::vec(0_u8..8, 0..3).prop_map(Step::Pick),
        8 => (any::<prop::sample::Index>(), outcome).prop_map(|(index, outcome)| Step::Finish(index, outcome)),
        2 => (0_u32..10_000).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: picks are in the set and not tried before if there is a choice, the cap holds, and
    /// what is outstanding is exactly what has a ticket.
    #[test]
    fn any_course_of_events_keeps_the_books(steps in prop::collection::vec(any_step(), 1..200), seed: u64) {
        let mut bench = Bench::new([]);
        bench.rng = Rng::with_seed(seed);
        let mut held: Vec<Ticket> = Vec::new();
        for step in steps {
            match step {
                Step::Reconcile(numbers) => bench.reconcile(numbers),
                Step::Pick(tried) if bench.balancer.is_empty() => {
                    prop_assert!(bench.balancer.pick(bench.now, &mut bench.rng, &[], Preference::Any).is_err(), "{tried:?}");
                }
                Step::Pick(tried) => {
                    let ticket = bench.pick(&tried);
                    let number = bench.number(&ticket);
                    let numbers = bench.numbers();
                    prop_assert!(numbers.contains(&number));
                    prop_assert!(!tried.contains(&number) || numbers.iter().all(|it| tried.contains(it)));
                    held.push(ticket);
                }
                Step::Finish(index, outcome) if !held.is_empty() => {
                    let ticket = held.swap_remove(index.index(held.len()));
                    let before = bench.ejected().len();
                    let ejected = bench.finish(ticket, outcome);
                    prop_assert!(ejected.is_some() || bench.ejected().len() <= before);
                }
                Step::Finish(..) => {}
                Step::Wait(milliseconds) => bench.wait(f64::from(milliseconds) / 1000.0),
            }
            let living = held.iter().filter(|ticket| bench.balancer.endpoint(ticket).is_some()).count();
            prop_assert_eq!(bench.outstanding() as usize, living);
            prop_assert_eq!(bench.balancer.set.ejected().len(), bench.ejected().len());
            prop_assert_eq!(bench.balancer.set.ejected().len() + bench.balancer.set.serving().len(), bench.balancer.len());
            prop_assert!(bench.ejected().len() <= bench.balancer.len() / 2);
            prop_assert_eq!(bench.numbers().len(), bench.balancer.len());
        }
    }
}

#[test]
fn round_robin_takes_one_after_the_other() {
    let mut bench = Bench::with(Algorithm::RoundRobin, 0, 1..=4);
    assert_eq!(bench.spread().into_values().collect::<Vec<_>>(), [250; 4]);
    // However slow one of them is.
    bench.request(1, 5.0, Outcome::Success);
    assert_eq!(bench.spread().into_values().collect::<Vec<_>>(), [250; 4]);
    let ticket = bench.pick(&[1, 2, 3]);
    assert_eq!(bench.number(&ticket), 4);
    bench.finish(ticket, Outcome::Abandoned);
}

#[test]
fn least_request_looks_at_what_is_under_way_and_at_nothing_else() {
    let mut bench = Bench::with(Algorithm::LeastRequest, 0, 1..=2);
    bench.request(1, 5.0, Outcome::Success);
    let even = bench.spread();
    assert!(even.values().all(|count| (400..=600).contains(count)), "a slow answer is not held against it: {even:?}");
    let held: Vec<Ticket> = (0..10).map(|_| bench.pick(&[])).collect();
    let of_first = held.iter().filter(|ticket| bench.number(ticket) == 1).count();
    assert_eq!(of_first, 5);
    for ticket in held {
        bench.finish(ticket, Outcome::Abandoned);
    }
}

#[test]
fn a_key_stays_with_its_endpoint_and_few_move_when_one_goes() {
    let mut bench = Bench::with(Algorithm::RingHash, 0, 1..=10);
    let keys = || (0..2000_u64).map(crate::policy::hash::mix);
    let before: Vec<u8> = keys().map(|key| bench.by_key(key, &[])).collect();
    assert_eq!(keys().map(|key| bench.by_key(key, &[])).collect::<Vec<_>>(), before);
    let mut shares = BTreeMap::new();
    before.iter().for_each(|number| *shares.entry(*number).or_insert(0) += 1);
    assert!(shares.len() == 10 && shares.values().all(|count| (100..=320).contains(count)), "{shares:?}");

    bench.reconcile((1..=10).filter(|number| *number != 4));
    for (key, was) in keys().zip(&before) {
        let now = bench.by_key(key, &[]);
        assert!(if *was == 4 { now != 4 } else { now == *was }, "key {key} moved from {was} to {now}");
    }
    bench.reconcile(1..=10);
    assert_eq!(keys().map(|key| bench.by_key(key, &[])).collect::<Vec<_>>(), before, "back again");
    // Another worker, which heard of the endpoints in another order.
    let mut other = Bench::with(Algorithm::RingHash, 0, (1..=10).rev());
    assert_eq!(keys().map(|key| other.by_key(key, &[])).collect::<Vec<_>>(), before);
}

#[test]
fn a_key_whose_endpoint_is_ejected_or_was_tried_goes_to_the_next_and_comes_back() {
    let mut bench = Bench::with(Algorithm::RingHash, 0, 1..=5);
    let key = 42;
    let own = bench.by_key(key, &[]);
    let next = bench.by_key(key, &[own]);
    assert_ne!(own, next);
    for _ in 0..5 {
        bench.request(own, 0.01, FAILED);
    }
    assert_eq!(bench.by_key(key, &[]), next, "ejected");
    bench.wait(6.0);
    assert_eq!(bench.by_key(key, &[]), own, "its own key is the probe");
    assert_eq!(bench.by_key(key, &[]), own);
}

#[test]
fn without_a_key_a_ring_balances_as_if_it_were_none() {
    let mut bench = Bench::with(Algorithm::RingHash, 0, 1..=3);
    assert_eq!(bench.spread().len(), 3);
}

#[test]
fn one_that_joins_gets_its_share_slowly() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin] {
        let mut bench = Bench::with(algorithm, 30, 1..=3);
        bench.reconcile(1..=4);
        let mut shares = Vec::new();
        for _ in 0..4 {
            // All as fast as each other.
            let mut of_new = 0;
            for _ in 0..4000 {
                let ticket = bench.pick(&[]);
                of_new += u32::from(bench.number(&ticket) == 4);
                bench.wait(0.0001);
                bench.finish(ticket, Outcome::Success);
            }
            shares.push(of_new);
            bench.wait(10.0);
        }
        assert!(shares[0] < 250 && shares[0] > 20, "{algorithm:?}: {shares:?}");
        assert!(shares.is_sorted() && (850..1150).contains(&shares[3]), "{algorithm:?}: {shares:?}");
    }
    // Those that were there from the start are not new.
    let mut bench = Bench::with(Algorithm::RoundRobin, 30, 1..=4);
    assert_eq!(bench.spread().into_values().collect::<Vec<_>>(), [250; 4]);
}

#[test]
fn a_request_gets_the_endpoint_that_it_names_while_that_serves() {
    let mut bench = Bench::new(1..=3);
    let pinned = |bench: &mut Bench, tried: &[SocketAddr]| {
        let number = crate::session::endpoint_number(address(2));
        let ticket = bench.balancer.pick(bench.now, &mut bench.rng, tried, Preference::Endpoint(number)).unwrap();
        let number = bench.number(&ticket);
        bench.finish(ticket, Outcome::Success);
        number
    };
    assert!((0..20).all(|_| pinned(&mut bench, &[]) == 2));
    assert!((0..20).all(|_| pinned(&mut bench, &[address(2)]) != 2), "it was tried");
    for _ in 0..5 {
        bench.request(2, 0.01, FAILED);
    }
    assert!((0..20).all(|_| pinned(&mut bench, &[]) != 2), "it is ejected");
    bench.wait(6.0);
    assert!((0..20).all(|_| pinned(&mut bench, &[]) == 2), "and back");
    bench.reconcile([1, 3]);
    assert!((0..20).all(|_| pinned(&mut bench, &[]) != 2), "gone");
    bench.reconcile([1, 2, 3]);
    assert!((0..20).all(|_| pinned(&mut bench, &[]) == 2));
}
