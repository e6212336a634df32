//! A mesh in which everything happens in any order: replicas lag, die and come back, the lead changes hands and is held by two at
//! once, proxies come, go, restart with old roots and answer late; and roots are replaced all the while.

use std::collections::BTreeSet;

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

type Root = u32;

const LEAF: Duration = Duration::from_secs(1000);
const LEASE: Duration = Duration::from_secs(40);
const SECOND: Duration = Duration::from_secs(1);

/// A bundle as a proxy holds it.
#[derive(Clone, Debug, Default)]
struct Bundle {
    epoch: u64,
    signs: Root,
    trusted: BTreeSet<Root>,
}

#[derive(Clone, Debug)]
struct Report {
    version: u64,
    taken_at: SystemTime,
    behind: usize,
    until: SystemTime,
}

#[derive(Clone, Debug)]
struct Replica {
    up: bool,
    /// Hears of nothing, and does everything else.
    stuck: bool,
    taken: Succession<Root>,
    version: u64,
    taken_at: SystemTime,
    report: Option<Report>,
    /// What it read when it last led, and what it remembers; a leader that lost the lead without noticing still has both.
    leads: Option<(Succession<Root>, u64, Observed)>,
}

#[derive(Clone, Debug)]
struct Proxy {
    at: Option<usize>,
    /// Since it connected.
    acknowledged: bool,
    /// Does not read its stream.
    slow: bool,
    bundle: Bundle,
    leaf: Root,
    ends: SystemTime,
}

struct World {
    now: SystemTime,
    stored: Succession<Root>,
    version: u64,
    replicas: Vec<Replica>,
    proxies: Vec<Proxy>,
    next_root: Root,
    pace: Option<Pace>,
    rng: Rng,
    steps: usize,
}

fn bundle(succession: &Succession<Root>) -> Bundle {
    Bundle { epoch: succession.epoch, signs: *succession.signs(), trusted: succession.trusted().copied().collect() }
}

impl World {
    fn new(seed: u64, pace: Option<Pace>) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let stored = Succession::new(1, now);
        let replica =
            Replica { up: true, stuck: false, taken: stored.clone(), version: 1, taken_at: now, report: None, leads: None };
        let proxy = Proxy { at: None, acknowledged: false, slow: false, bundle: bundle(&stored), leaf: 1, ends: now + LEAF };
        let (replicas, proxies) = (vec![replica; 3], vec![proxy; 6]);
        let mut world =
            Self { now, stored, version: 1, replicas, proxies, next_root: 2, pace, rng: Rng::with_seed(seed), steps: 0 };
        for replica in 0..3 {
            world.report(replica);
        }
        world
    }

    /// Replicas whose report has not ended: the others cannot reach the API server, so they neither sign nor take anything.
    fn lives(&self, replica: usize) -> bool {
        let it = &self.replicas[replica];
        it.up && it.report.as_ref().is_some_and(|report| report.until > self.now)
    }

    fn happen(&mut self) {
        let (replica, proxy) = (self.rng.usize(..self.replicas.len()), self.rng.usize(..self.proxies.len()));
        match self.rng.u8(..20) {
            0..=2 => self.now += SECOND * self.rng.u32(..8),
            3 if self.rng.u8(..40) == 0 => self.now += SECOND * self.rng.u32(..400),
            4 if self.rng.u8(..if self.replicas[replica].stuck { 20 } else { 60 }) == 0 => self.replicas[replica].stuck ^= true,
            16 if self.rng.u8(..10) == 0 => self.proxies[proxy].slow ^= true,
            4 | 5 => self.take(replica),
            6 | 7 => self.report(replica),
            8 | 9 => self.lead(replica),
            10 => self.read_lead(replica),
            11 if self.rng.u8(..4) == 0 => self.crash_or_start(replica),
            12 if self.rng.u8(..24) == 0 => self.replace_root(),
            13 => self.connect(proxy, replica),
            14 if self.rng.u8(..3) == 0 => self.proxies[proxy].at = None,
            15 | 16 => self.deliver(proxy),
            17 => self.renew_if_due(proxy, replica),
            _ => self.renew_if_due(proxy, self.proxies[proxy].at.unwrap_or(replica)),
        }
        for proxy in 0..self.proxies.len() {
            if self.proxies[proxy].ends <= self.now {
                self.proxies[proxy].at = None;
            }
        }
    }

    fn take(&mut self, replica: usize) {
        let (stored, version, now) = (self.stored.clone(), self.version, self.now);
        let it = &mut self.replicas[replica];
        if it.up && !it.stuck && it.version != version {
            (it.taken, it.version, it.taken_at) = (stored, version, now);
        }
    }

    fn report(&mut self, replica: usize) {
        if !self.replicas[replica].up {
            return;
        }
        if !self.lives(replica) {
            // Others went on without it. It reads what is stored before it counts again, and so do its proxies.
            self.take(replica);
            if self.replicas[replica].version != self.version {
                return;
            }
            for proxy in self.proxies.iter_mut().filter(|proxy| proxy.at == Some(replica)) {
                proxy.acknowledged = false;
            }
        }
        let behind = self.proxies.iter().filter(|proxy| proxy.at == Some(replica) && !self.ready(proxy)).count();
        let until = self.now + LEASE;
        let it = &mut self.replicas[replica];
        it.report = Some(Report { version: it.version, taken_at: it.taken_at, behind, until });
    }

    /// Has acknowledged its replica's bundle, and holds a certificate of the root that signs.
    fn ready(&self, proxy: &Proxy) -> bool {
        proxy.at.is_some_and(|replica| {
            let taken = &self.replicas[replica].taken;
            proxy.bundle.epoch >= taken.epoch && proxy.leaf == *taken.signs()
        })
    }

    fn read_lead(&mut self, replica: usize) {
        if self.lives(replica) {
            self.replicas[replica].leads = Some((self.stored.clone(), self.version, Observed::default()));
        }
    }

    /// One look of a leader, perhaps of one that no longer is, at the reports; and a write, if what it read is still what is stored.
    fn lead(&mut self, replica: usize) {
        if !self.lives(replica) {
            return;
        }
        let Some((read, version, mut observed)) = self.replicas[replica].leads.clone() else { return };
        let mut evidence = Evidence::default();
        let mut taken_at = read.since;
        for report in self.replicas.iter().filter_map(|it| it.report.as_ref()) {
            match (report.version < version, report.until > self.now) {
                (true, true) => evidence.replicas_behind += 1,
                (true, false) => taken_at = taken_at.max(report.until),
                (false, true) => {
                    evidence.proxies_behind += report.behind;
                    taken_at = taken_at.max(report.taken_at);
                }
                (false, false) => {}
            }
        }
        observed.note(evidence, taken_at, self.now);
        let verdict = read.verdict(&observed, Waits::new(LEAF), self.now);
        self.replicas[replica].leads = Some((read.clone(), version, observed));
        if matches!(verdict, Verdict::Advance { .. }) && version == self.version {
            self.stored = read.advanced(self.now);
            self.version += 1;
            self.steps += 1;
            self.replicas[replica].leads = Some((self.stored.clone(), self.version, Observed::default()));
        }
    }

    fn crash_or_start(&mut self, replica: usize) {
        let (stored, version, now) = (self.stored.clone(), self.version, self.now);
        let it = &mut self.replicas[replica];
        it.up = !it.up;
        it.leads = None;
        if it.up {
            // In its last life it may have signed as before until it died, unless its report says otherwise.
            let known = it.report.as_ref().filter(|report| report.version == version).map(|report| report.taken_at);
            (it.taken, it.version, it.taken_at) = (stored, version, known.unwrap_or(now));
            self.report(replica);
        } else {
            for proxy in self.proxies.iter_mut().filter(|proxy| proxy.at == Some(replica)) {
                proxy.at = None;
            }
        }
    }

    fn replace_root(&mut self) {
        let pace = self.pace.unwrap_or(if self.rng.bool() { Pace::Prompt } else { Pace::Careful });
        if self.stored.name() == PhaseName::Published && self.rng.u8(..10) > 0 {
            return;
        }
        if self.stored.publish(self.next_root, pace, self.now).is_ok() {
            self.version += 1;
            self.next_root += 1;
        }
    }

    fn connect(&mut self, proxy: usize, replica: usize) {
        let (lives, trusted) = (self.lives(replica), bundle(&self.replicas[replica].taken).trusted);
        let it = &mut self.proxies[proxy];
        if lives && it.ends > self.now && trusted.contains(&it.leaf) {
            (it.at, it.acknowledged) = (Some(replica), false);
        }
    }

    fn deliver(&mut self, proxy: usize) {
        let it = &mut self.proxies[proxy];
        if let Some(replica) = it.at.filter(|_| !it.slow || !it.acknowledged) {
            let announced = bundle(&self.replicas[replica].taken);
            // A replica that lags behind takes nothing back.
            if announced.epoch >= it.bundle.epoch {
                it.bundle = announced;
            }
            it.acknowledged = true;
        }
    }

    /// With a token, by whichever replica answers. The roots come along, and the younger ones count.
    fn renew_if_due(&mut self, proxy: usize, replica: usize) {
        if !self.lives(replica) {
            return;
        }
        let taken = self.replicas[replica].taken.clone();
        let it = &mut self.proxies[proxy];
        if it.leaf == it.bundle.signs && it.ends > self.now + LEAF / 3 {
            return;
        }
        it.leaf = *taken.signs();
        it.ends = self.now + LEAF;
        if taken.epoch > it.bundle.epoch || !it.bundle.trusted.contains(&it.leaf) {
            it.bundle = bundle(&taken);
        }
    }

    /// A pair of which the first is not understood by the second.
    fn broken(&self, one: impl Fn(&Proxy) -> bool, other: impl Fn(&Proxy) -> bool) -> Option<(&Proxy, &Proxy)> {
        let valid: Vec<&Proxy> = self.proxies.iter().filter(|it| it.ends > self.now).collect();
        let pairs = valid.iter().flat_map(|one| valid.iter().map(move |other| (*one, *other)));
        pairs.filter(|pair| one(pair.0) && other(pair.1)).find(|(one, other)| !other.bundle.trusted.contains(&one.leaf))
    }

    fn assert_nobody_is_refused(&self) {
        let connected = |proxy: &Proxy| proxy.acknowledged && proxy.at.is_some_and(|replica| self.lives(replica));
        let broken = self.broken(|proxy| self.ready(proxy) && connected(proxy), connected);
        assert_eq!(broken.map(|pair| format!("{pair:?} in {:?}", self.stored)), None);
        if self.pace == Some(Pace::Careful) {
            // Cut off from every control plane or not: whoever has a valid certificate is understood by everybody.
            assert_eq!(self.broken(|_| true, |_| true).map(|pair| format!("{pair:?} in {:?}", self.stored)), None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn two_proxies_that_follow_their_control_plane_always_understand_each_other(
        seed: u64, pace in prop_oneof![Just(None), Just(Some(Pace::Prompt)), Just(Some(Pace::Careful))],
    ) {
        let mut world = World::new(seed, pace);
        for _ in 0..6000 {
            world.happen();
            world.assert_nobody_is_refused();
        }
    }
}

/// The test above says nothing if nothing ever happens.
#[test]
fn roots_are_replaced_in_that_world() {
    for pace in [Pace::Prompt, Pace::Careful] {
        let mut world = World::new(7, Some(pace));
        for _ in 0..150_000 {
            world.happen();
        }
        assert!(world.steps >= 6, "{pace:?}: {} steps", world.steps);
    }
}
