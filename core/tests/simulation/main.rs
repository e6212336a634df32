//! Balancing, ejection, retries and the retry budget together, in simulated time.
//!
//! Several clients call a service whose endpoints slow down, fail in every way, come back, join and leave. Everything follows from
//! the seed. [`client`] checks after each step what must always hold; the tests here check where it leads to. A seed that fails
//! is printed, and `SIMULATION_SEED=n cargo test -p weir-core --test simulation` runs it alone.

#![expect(clippy::expect_used, reason = "a simulation that loses track of itself has to stop")]

mod client;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use weir_core::balance::{Algorithm, BalanceConfig, EjectionConfig, EwmaConfig};
use weir_core::budget::BudgetConfig;
use weir_core::clock::Moment;

use client::{Client, Next};
use world::{Mood, World};

/// At most this many endpoints are not well at a time, unless a test wants an outage: as many as retries can get past.
const MOST_UNWELL: usize = 3;

enum Event {
    Arrival(usize),
    AttemptEnds(usize, u64),
    AttemptBegins(usize, u64),
    Weather,
    Hears(usize),
}

struct Simulation {
    now: Moment,
    /// In order of time, then of making.
    events: BTreeMap<(Moment, u64), Event>,
    made: u64,
    world: World,
    clients: Vec<Client>,
    /// Mean time between a client's requests.
    pause: Duration,
    rng: Rng,
}

impl Simulation {
    /// A service with these servers' own times, called by clients that are all alike.
    fn new(seed: u64, own_times: &[Duration], clients: Vec<Client>, pause: Duration) -> Self {
        let mut it = Self {
            now: Moment::START,
            events: BTreeMap::new(),
            made: 0,
            world: World::default(),
            clients,
            pause,
            rng: Rng::with_seed(seed),
        };
        own_times.iter().for_each(|own_time| it.world.add(*own_time, Moment::START));
        for client in 0..it.clients.len() {
            it.clients[client].reconcile(&it.world, Moment::START);
            it.schedule(Duration::ZERO, Event::Arrival(client));
        }
        it
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.made += 1;
        self.events.insert((self.now + after, self.made), event);
    }

    /// An exponentially distributed time with this mean.
    fn about(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.rng.f64()).ln())
    }

    /// Lets this much time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            self.now = entry.key().0;
            match entry.remove() {
                Event::Arrival(client) => {
                    let pause = self.about(self.pause);
                    self.schedule(pause, Event::Arrival(client));
                    let id = self.made;
                    let next = self.clients[client].arrive(id, &mut self.world, self.now);
                    self.follow(client, id, &next);
                }
                Event::AttemptBegins(client, id) => {
                    let next = self.clients[client].attempt(id, &mut self.world, self.now);
                    self.follow(client, id, &next);
                }
                Event::AttemptEnds(client, id) => {
                    let next = self.clients[client].end(id, &mut self.world, self.now);
                    self.follow(client, id, &next);
                }
                Event::Hears(client) => self.clients[client].reconcile(&self.world, self.now),
                Event::Weather => {
                    self.weather();
                    let pause = self.about(ms(400));
                    self.schedule(pause, Event::Weather);
                }
            }
        }
        self.now = end;
    }

    /// No request arrives any more, and those under way end.
    fn drain(&mut self) {
        self.events.retain(|_, event| !matches!(event, Event::Arrival(_) | Event::Weather));
        self.run(Duration::from_secs(60));
        assert!(self.events.is_empty());
        assert!(self.clients.iter().all(Client::idle), "something is outstanding that nobody waits for");
    }

    fn follow(&mut self, client: usize, id: u64, next: &Next) {
        match next {
            Next::End(after) => self.schedule(*after, Event::AttemptEnds(client, id)),
            Next::Retry(after) => self.schedule(*after, Event::AttemptBegins(client, id)),
            Next::Over => {}
        }
    }

    /// One server's mood changes, or the set of endpoints does. At least one endpoint stays well.
    fn weather(&mut self) {
        let listed = self.world.listed();
        let (well, unwell): (Vec<usize>, Vec<usize>) = listed.iter().copied().partition(|it| self.world.is_well(*it));
        match self.rng.u8(..10) {
            0..5 if well.len() > 1 && unwell.len() < MOST_UNWELL => {
                let moods = [Mood::Slow(20.0), Mood::Erring, Mood::Breaking, Mood::Silent, Mood::Dead];
                let mood = moods[self.rng.usize(..moods.len())];
                self.world.set_mood(well[self.rng.usize(..well.len())], mood, self.now);
            }
            5 if listed.len() < 12 => {
                self.world.add(ms(self.rng.u64(2..20)), self.now);
                self.tell();
            }
            6 | 7 if well.len() > 2 => {
                // Also one that is slow or silent, with requests under way; a new one may take its place at once.
                let leaving = listed[self.rng.usize(..listed.len())];
                self.world.unlist(leaving);
                if self.rng.bool() {
                    self.world.set_mood(leaving, Mood::Dead, self.now);
                }
                if listed.len() < 5 || self.rng.bool() {
                    self.world.add(ms(self.rng.u64(2..20)), self.now);
                }
                self.tell();
            }
            _ if !unwell.is_empty() => {
                self.world.set_mood(unwell[self.rng.usize(..unwell.len())], Mood::Well, self.now);
            }
            _ => {}
        }
    }

    /// Each client hears of the new set at its own time.
    fn tell(&mut self) {
        for client in 0..self.clients.len() {
            let after = Duration::from_millis(self.rng.u64(..1000));
            self.schedule(after, Event::Hears(client));
        }
    }

    /// Everything is well from now on.
    fn calm(&mut self) {
        self.events.retain(|_, event| !matches!(event, Event::Weather));
        for server in self.world.listed() {
            self.world.set_mood(server, Mood::Well, self.now);
        }
        self.tell();
    }

    /// Each server's share of all attempts of `time`, over the share that would be fair.
    fn shares(&mut self, time: Duration) -> Vec<f64> {
        self.clients.iter_mut().for_each(|client| client.tally.attempts.clear());
        self.run(time);
        let listed = self.world.listed();
        let attempts = |server: &usize| -> u64 {
            self.clients.iter().map(|client| client.tally.attempts.get(server).copied().unwrap_or_default()).sum()
        };
        let all: u64 = listed.iter().map(attempts).sum();
        listed.iter().map(|server| attempts(server) as f64 * listed.len() as f64 / all as f64).collect()
    }
}

/// Runs a scenario for each seed on all cores, and says which seed failed.
fn for_each_seed(seeds: Range<u64>, scenario: impl Fn(u64) + Sync) {
    struct SayIfPanicking(u64);
    impl Drop for SayIfPanicking {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with SIMULATION_SEED={}", self.0);
            }
        }
    }
    if let Some(seed) = std::env::var("SIMULATION_SEED").ok().and_then(|it| it.parse().ok()) {
        return scenario(seed);
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (seeds, scenario) = (&seeds, &scenario);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in seeds.clone().skip(thread).step_by(threads) {
                    let said = SayIfPanicking(seed);
                    scenario(seed);
                    drop(said);
                }
            });
        }
    });
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Clients with the defaults that the proxy has.
fn default_clients(count: u64, seed: u64) -> Vec<Client> {
    let client = |it| Client::new(BalanceConfig::default(), BudgetConfig::default(), false, seconds(10), seed * 100 + it);
    (0..count).map(client).collect()
}

#[test]
fn any_weather_keeps_the_promises_and_is_forgotten_when_it_is_over() {
    for_each_seed(0..300, |seed| {
        let mut rng = Rng::with_seed(seed);
        // Short times, so that a few simulated seconds show what takes minutes otherwise.
        let balance = BalanceConfig {
            ewma: EwmaConfig { decay: ms(rng.u64(500..1500)), ..EwmaConfig::default() },
            algorithm: [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::RingHash][rng.usize(..4)],
            slow_start: ms(rng.u64(0..2000)),
            ejection: EjectionConfig { base: ms(500), max: seconds(3), ..EjectionConfig::default() },
            locality: None,
        };
        let budget = BudgetConfig { min_per_second: rng.u32(..3), window: seconds(5), ..BudgetConfig::default() };
        let (policy, request) = (rng.bool(), seconds(rng.u64(2..10)));
        let client = |it| Client::new(balance, budget, policy, request, seed * 100 + it);
        let clients: Vec<Client> = (0..rng.u64(1..4)).map(client).collect();
        let own_times: Vec<Duration> = (0..rng.usize(4..10)).map(|_| ms(rng.u64(2..20))).collect();
        let mut simulation = Simulation::new(seed, &own_times, clients, ms(45));
        simulation.schedule(ms(500), Event::Weather);
        simulation.run(seconds(12));
        simulation.calm();
        // Longer than the longest ejection and a probe, and than the estimate of a second (a timeout) takes to decay to that of the
        // fastest endpoint: 1.5 s * ln(1000 / 2) is 9.3 s.
        simulation.run(seconds(12));
        let ejected: usize = simulation.clients.iter().map(Client::ejected).sum();
        assert_eq!(ejected, 0, "still ejected long after all are well");
        let shares = simulation.shares(seconds(6));
        assert!(shares.iter().all(|share| *share > 0.0), "somebody is left out for good: {shares:?}");
        simulation.drain();
    });
}

#[test]
fn equal_endpoints_get_equal_shares() {
    for_each_seed(0..20, |seed| {
        let mut simulation = Simulation::new(seed, &[ms(10); 8], default_clients(2, seed), ms(4));
        simulation.run(seconds(2));
        let shares = simulation.shares(seconds(20));
        assert!(shares.iter().all(|share| (0.6..1.5).contains(share)), "{shares:?}");
        simulation.drain();
    });
}

#[test]
fn a_slow_endpoint_gets_a_small_share() {
    for_each_seed(0..20, |seed| {
        let own_times = [ms(5), ms(5), ms(5), ms(5), ms(100)];
        let mut simulation = Simulation::new(seed, &own_times, default_clients(2, seed), ms(4));
        simulation.run(seconds(2));
        let shares = simulation.shares(seconds(20));
        assert!(shares[4] < 0.1, "{shares:?}");
        assert!(shares[..4].iter().all(|share| *share > 0.6), "{shares:?}");
        simulation.drain();
    });
}

#[test]
fn a_dead_endpoint_costs_no_request_and_has_its_share_again_after_it_is_back() {
    for_each_seed(0..20, |seed| {
        let mut simulation = Simulation::new(seed, &[ms(5); 4], default_clients(2, seed), ms(10));
        simulation.run(seconds(5));
        simulation.world.set_mood(1, Mood::Breaking, simulation.now);
        simulation.run(seconds(1));
        simulation.world.set_mood(1, Mood::Dead, simulation.now);
        let shares = simulation.shares(seconds(30));
        assert!(shares[1] < 0.05, "{shares:?}");
        simulation.world.set_mood(1, Mood::Well, simulation.now);
        // Ejections last 5, 10, 20, 40 s, each up to a quarter less. The third may so end after 26 s, with the server still
        // dead; the fourth then begins within the outage of 31 s and has ended 40 s after it.
        simulation.run(seconds(41));
        let shares = simulation.shares(seconds(20));
        assert!((0.6..1.5).contains(&shares[1]), "{shares:?}");
        simulation.drain();
    });
}

#[test]
fn an_outage_is_not_made_worse_by_retries() {
    for_each_seed(0..20, |seed| {
        let mut simulation = Simulation::new(seed, &[ms(5); 4], default_clients(2, seed), ms(4));
        simulation.run(seconds(10));
        for server in 0..4 {
            simulation.world.set_mood(server, Mood::Dead, simulation.now);
        }
        simulation.run(seconds(20));
        for client in &simulation.clients {
            let tally = &client.tally;
            assert!(tally.over_budget > tally.retries, "the budget was never spent");
        }
        simulation.drain();
    });
}
