//! Which endpoint gets a request.
//!
//! One [`Balancer`] is one worker's view of one backend port. [`Balancer::pick`] takes the cheaper of two random endpoints
//! ([`p2c`], [`ewma`]) that are neither ejected nor tried before by the same request, or what another [`Algorithm`] says;
//! [`Balancer::finish`] learns from how it went, and ejects ([`outlier`](crate::outlier)). Neither allocates (but for a
//! request that an endpoint in its slow start passes on), and neither grows with the number of endpoints.

mod ewma;
mod judge;
mod locality;
mod p2c;
mod ring;
mod set;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::clock::Moment;
use crate::outlier::{Change, Judged};
pub use crate::outlier::{EjectionConfig, FailureCause, Judgement, Outcome};
use crate::snapshot::Endpoint;
pub use ewma::EwmaConfig;
use ewma::PeakEwma;
use locality::Group;
pub use locality::Locality;
use ring::Ring;
use set::{EndpointSet, Key};

/// How a balancer behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalanceConfig {
    /// How one of them is chosen.
    pub algorithm: Algorithm,
    /// An endpoint that joins others gets its whole share of requests after this time, and a growing part of it before. Zero: at
    /// once.
    pub slow_start: Duration,
    /// How endpoints are compared.
    pub ewma: EwmaConfig,
    /// When they are left out.
    pub ejection: EjectionConfig,
    /// Whether endpoints of the caller's own zone are preferred. `None`: all are alike.
    pub locality: Option<Locality>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Of two random ones the one with the smaller product of latency and requests under way.
    #[default]
    PeakEwma,
    /// Of two random ones the one with fewer requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Requests with one key go to one endpoint; when endpoints come or go, as few keys as possible move. Requests without a key
    /// go as with [`PeakEwma`](Self::PeakEwma).
    RingHash,
}

/// Which endpoint a request would like to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// Any.
    #[default]
    Any,
    /// The one that the ring names for this key, if there is a ring.
    Key(u64),
    /// The one with this number ([`endpoint_number`](crate::session::endpoint_number)), if it is there and serves.
    Endpoint(u64),
}

/// The part of its share that an endpoint gets in its first moments of a slow start.
const LEAST_SHARE: f64 = 0.1;

/// No endpoint can take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// There are none.
    #[error("the service has no ready endpoints on this port; are its pods running and ready?")]
    None,
}

/// A request that is under way at an endpoint. It is given back to [`Balancer::finish`], whatever happens: a ticket that is
/// dropped counts as outstanding for as long as the endpoint lives.
#[derive(Debug)]
#[must_use = "the endpoint counts the request as outstanding until the ticket is finished"]
pub struct Ticket {
    key: Key,
    started: Moment,
    /// Its round trip has been observed.
    answered: bool,
}

impl Ticket {
    /// When the endpoint was picked.
    #[must_use]
    pub const fn started(&self) -> Moment {
        self.started
    }
}

/// An endpoint was ejected just now, or failed the probe that would have brought it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// Which one.
    pub address: SocketAddr,
    /// When it is probed.
    pub until: Moment,
    /// The same, as the time from now.
    pub length: Duration,
    /// The last of its failures.
    pub cause: FailureCause,
}

/// What a balancer knows of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EndpointView<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// Requests under way.
    pub outstanding: u32,
    /// The estimate of its round trip as of the latest answer; `None` before the first.
    pub rtt: Option<Duration>,
    /// The length of its ejection, from beginning to end; `None` while it serves.
    pub ejected_for: Option<Duration>,
}

/// Balances one worker's requests over the endpoints of one backend port. `C` is the caller's handle of an endpoint, such as its
/// connection pool.
#[derive(Debug)]
pub struct Balancer<C> {
    config: BalanceConfig,
    set: EndpointSet<C>,
    /// Empty unless it is asked for.
    ring: Ring,
    /// Whose turn it is.
    turn: usize,
    /// Which of the ejected endpoints is looked at next.
    probe_cursor: usize,
    /// The zone that the caller is in, if it is known.
    zone: Option<Arc<str>>,
    /// When the endpoints were judged last.
    judged: Moment,
}

impl<C> Balancer<C> {
    /// Without endpoints.
    #[must_use]
    pub fn new(config: BalanceConfig) -> Self {
        Self { config, set: EndpointSet::new(), ring: Ring::new(), turn: 0, probe_cursor: 0, zone: None, judged: Moment::START }
    }

    /// Takes over another configuration; what is known of the endpoints stays.
    pub fn reconfigure(&mut self, config: BalanceConfig, now: Moment) {
        if self.config != config {
            self.config = config;
            self.build_ring();
            self.mark_near();
            self.keep_cap(now);
        }
    }

    /// Takes over a new set of endpoints. Those that are equal to what is there keep their handle and all that is known of them;
    /// `make` is asked for the handles of the others. Of two endpoints with one address the first counts.
    pub fn reconcile(&mut self, endpoints: &[Endpoint], now: Moment, mut make: impl FnMut(&Endpoint) -> C) {
        let mut wanted: HashMap<SocketAddr, &Endpoint> = HashMap::with_capacity(endpoints.len());
        for endpoint in endpoints {
            wanted.entry(endpoint.address).or_insert(endpoint);
        }
        let gone: Vec<usize> = self
            .set
            .entries()
            // What stays needs nothing more: it leaves `wanted` here.
            .filter(|(_, entry)| match wanted.get(&entry.endpoint.address) {
                Some(endpoint) if **endpoint == entry.endpoint => wanted.remove(&entry.endpoint.address).is_none(),
                _ => true,
            })
            .map(|(slot, _)| slot)
            .collect();
        // Where there was nobody, nobody is new.
        let joined = if self.set.len() == 0 { None } else { Some(now) };
        let changed = !gone.is_empty() || !wanted.is_empty();
        gone.into_iter().for_each(|slot| self.set.remove(slot));
        for endpoint in endpoints {
            if wanted.remove(&endpoint.address).is_some() {
                self.set.insert(endpoint.clone(), make(endpoint), PeakEwma::new(&self.config.ewma), joined);
            }
        }
        if changed {
            self.build_ring();
            self.mark_near();
        }
        self.keep_cap(now);
    }

    /// Picks an endpoint for an attempt that starts now. `tried` are the addresses that the same request has been to.
    ///
    /// # Errors
    ///
    /// [`NoEndpoint::None`] when the set is empty.
    pub fn pick(
        &mut self,
        now: Moment,
        rng: &mut Rng,
        tried: &[SocketAddr],
        preference: Preference,
    ) -> Result<Ticket, NoEndpoint> {
        let slot = self
            .preferred(preference, tried, now)
            .or_else(|| self.due_probe(now, tried))
            .or_else(|| self.serving(tried, now, rng))
            // An endpoint that this request has not been to, even an ejected one, before one where it has just failed.
            .or_else(|| self.cheaper_of_two(self.set.ejected(), tried, now, rng))
            .or_else(|| self.cheaper_of_two(self.set.serving(), &[], now, rng))
            .or_else(|| self.cheaper_of_two(self.set.ejected(), &[], now, rng))
            .ok_or(NoEndpoint::None)?;
        let key = self.set.key(slot).ok_or(NoEndpoint::None)?;
        let entry = self.set.in_slot_mut(slot).ok_or(NoEndpoint::None)?;
        entry.outstanding = entry.outstanding.saturating_add(1);
        entry.rtt.pick(now);
        entry.health.begin(now);
        Ok(Ticket { key, started: now, answered: false })
    }

    /// The endpoint that was picked; `None` when it has left the set since.
    #[must_use]
    pub fn endpoint(&self, ticket: &Ticket) -> Option<&Endpoint> {
        self.set.get(ticket.key).map(|entry| &entry.endpoint)
    }

    /// The handle of the endpoint that was picked; `None` when it has left the set since.
    #[must_use]
    pub fn client(&self, ticket: &Ticket) -> Option<&C> {
        self.set.get(ticket.key).map(|entry| &entry.client)
    }

    /// An answer has begun. This is the round trip that counts; without this call it is the time until [`finish`](Self::finish),
    /// which for a stream is its length.
    pub fn answered(&mut self, ticket: &mut Ticket, now: Moment) {
        if let Some(entry) = self.set.get_mut(ticket.key)
            && !ticket.answered
            && !entry.health.is_stale(ticket.started)
        {
            entry.rtt.answer(now.since(ticket.started), now, &self.config.ewma);
            entry.judged.answered(now.since(ticket.started));
        }
        ticket.answered = true;
    }

    /// The attempt is over. Returns the ejection that this brought about. If the endpoint has left the set nothing happens.
    pub fn finish(&mut self, ticket: Ticket, outcome: Outcome, now: Moment, rng: &mut Rng) -> Option<Ejected> {
        let Ticket { key, started, answered } = ticket;
        let room = self.set.ejected().len() < self.config.ejection.most_ejected(self.set.len());
        let entry = self.set.get_mut(key)?;
        entry.outstanding = entry.outstanding.saturating_sub(1);
        let stale = entry.health.is_stale(started);
        if !stale {
            entry.judged.ended(outcome);
        }
        if !answered && !stale {
            match outcome {
                Outcome::Success => {
                    entry.rtt.answer(now.since(started), now, &self.config.ewma);
                    entry.judged.answered(now.since(started));
                }
                Outcome::Failure(_) | Outcome::Abandoned => entry.rtt.failure(now.since(started), now),
            }
        }
        match entry.health.end(started, outcome, now, room, &self.config.ejection, rng)? {
            Change::Readmitted => {
                self.set.readmit(key.slot);
                None
            }
            Change::Ejected { length, cause } => {
                // What it was like when it fell sick says nothing of what it will be like when it is back.
                entry.rtt = PeakEwma::new(&self.config.ewma);
                entry.judged = Judged::default();
                let address = entry.endpoint.address;
                self.set.eject(key.slot);
                Some(Ejected { address, until: now + length, length, cause })
            }
        }
    }

    /// How many endpoints there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The handles of all endpoints.
    pub fn clients(&self) -> impl Iterator<Item = &C> {
        self.set.entries().map(|(_, entry)| &entry.client)
    }

    /// Everything that is known, for people to look at.
    pub fn view(&self) -> impl Iterator<Item = EndpointView<'_>> {
        self.set.entries().map(|(_, entry)| EndpointView {
            endpoint: &entry.endpoint,
            outstanding: entry.outstanding,
            rtt: entry.rtt.rtt(),
            ejected_for: entry.health.ejected_for(),
        })
    }

    /// An ejected endpoint that waits for a probe. Each call looks at one of them in turn. Only a request's first attempt is a
    /// probe: one that has failed before has been unlucky enough.
    fn due_probe(&mut self, now: Moment, tried: &[SocketAddr]) -> Option<usize> {
        let ejected = self.set.ejected();
        if ejected.is_empty() || !tried.is_empty() {
            return None;
        }
        self.probe_cursor = (self.probe_cursor + 1) % ejected.len();
        let slot = *ejected.get(self.probe_cursor)?;
        self.set.in_slot(slot).filter(|entry| entry.health.is_due(now)).map(|_| slot)
    }

    /// The endpoint with the number, or the one that the ring names for the key: the first from there on that serves and has not
    /// been tried. One that is ejected and waits for a probe gets it from those that want it.
    fn preferred(&self, preference: Preference, tried: &[SocketAddr], now: Moment) -> Option<usize> {
        let takes = |slot: usize| {
            self.set.in_slot(slot).is_some_and(|it| {
                let probe = tried.is_empty() && it.health.is_due(now);
                (it.health.ejected_until().is_none() || probe) && !tried.contains(&it.endpoint.address)
            })
        };
        match preference {
            Preference::Any => None,
            Preference::Key(key) => self.ring.from(key).find(|slot| takes(*slot)),
            Preference::Endpoint(number) => self.set.numbered(number).filter(|slot| takes(*slot)),
        }
    }

    /// One of the serving endpoints. One that has joined not long ago passes some of its requests on to others.
    fn serving(&mut self, tried: &[SocketAddr], now: Moment, rng: &mut Rng) -> Option<usize> {
        let chosen = self.by_zone(tried, now, rng)?;
        if self.share(chosen, now) >= 1.0 || rng.f64() < self.share(chosen, now) {
            return Some(chosen);
        }
        let address = self.set.in_slot(chosen)?.endpoint.address;
        let others: Vec<SocketAddr> = tried.iter().copied().chain([address]).collect();
        self.by_zone(&others, now, rng).or(Some(chosen))
    }

    /// The part of its share that an endpoint gets.
    fn share(&self, slot: usize, now: Moment) -> f64 {
        let joined = self.set.in_slot(slot).and_then(|it| it.joined);
        match joined.map(|joined| now.since(joined)) {
            Some(age) if age < self.config.slow_start => age.div_duration_f64(self.config.slow_start).max(LEAST_SHARE),
            _ => 1.0,
        }
    }

    /// One of these, by the algorithm.
    fn by_algorithm(&mut self, group: Group, tried: &[SocketAddr], now: Moment, rng: &mut Rng) -> Option<usize> {
        match self.config.algorithm {
            Algorithm::RoundRobin => self.next_in_turn(group, tried),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::RingHash => {
                self.cheaper_of_two(self.group(group), tried, now, rng)
            }
        }
    }

    fn next_in_turn(&mut self, group: Group, tried: &[SocketAddr]) -> Option<usize> {
        let slots = self.group(group);
        // Those that are barred are at most as many as were tried, so this looks at few, however many there are.
        for step in 1..=slots.len().min(tried.len() + 1) {
            let turn = self.turn.wrapping_add(step) % slots.len();
            let slot = *slots.get(turn)?;
            if self.set.in_slot(slot).is_some_and(|it| !tried.contains(&it.endpoint.address)) {
                self.turn = turn;
                return Some(slot);
            }
        }
        None
    }

    fn build_ring(&mut self) {
        let wanted = self.config.algorithm == Algorithm::RingHash;
        let members = self.set.entries().filter(|_| wanted).map(|(slot, entry)| (slot, entry.endpoint.address));
        self.ring = Ring::of(members.collect());
    }

    fn cheaper_of_two(&self, slots: &[usize], tried: &[SocketAddr], now: Moment, rng: &mut Rng) -> Option<usize> {
        let entry = |index: usize| self.set.in_slot(*slots.get(index)?);
        let barred = |index| entry(index).is_none_or(|it| tried.contains(&it.endpoint.address));
        let cost = |index| {
            entry(index).map_or(f64::INFINITY, |it| match self.config.algorithm {
                Algorithm::LeastRequest => it.outstanding.into(),
                Algorithm::PeakEwma | Algorithm::RoundRobin | Algorithm::RingHash => {
                    it.rtt.cost(it.outstanding, now, &self.config.ewma)
                }
            })
        };
        let index = p2c::choose(slots.len(), tried.len(), barred, cost, rng)?;
        slots.get(index).copied()
    }

    /// A set that has shrunk may have more ejected endpoints than the cap allows. Those that were nearest to their end come back.
    fn keep_cap(&mut self, now: Moment) {
        while self.set.ejected().len() > self.config.ejection.most_ejected(self.set.len()) {
            let until = |slot: &usize| self.set.in_slot(*slot).and_then(|entry| entry.health.ejected_until());
            let Some(slot) = self.set.ejected().iter().copied().min_by_key(until) else { return };
            if let Some(entry) = self.set.in_slot_mut(slot) {
                entry.health.readmit(now);
            }
            self.set.readmit(slot);
        }
    }
}

#[cfg(test)]
mod tests;
