//! The servers of the simulation: each has a mood, and the weather changes it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use weir_core::clock::Moment;
use weir_core::snapshot::{Endpoint, Protocol};

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    /// Answers in its own time.
    Well,
    /// Answers in this many times its own time.
    Slow(f64),
    /// Answers 503 to most, and fast.
    Erring,
    /// Takes requests and breaks the connection.
    Breaking,
    /// Takes requests and says nothing.
    Silent,
    /// Refuses connections; what was under way broke.
    Dead,
}

/// What comes back from a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reply {
    Answer(u16),
    Refused,
    Broke,
    Nothing,
}

pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    own_time: Duration,
    mood: Mood,
    /// When it last became well; `None` while it is not.
    well_since: Option<Moment>,
    /// When it was last not well.
    last_unwell: Option<Moment>,
    died: Option<Moment>,
    load: u32,
}

/// All servers that there have ever been; those that are listed are the service's endpoints.
#[derive(Default)]
pub(crate) struct World {
    servers: Vec<Server>,
    listed: BTreeSet<usize>,
}

/// A server with this many requests under way takes twice as long.
const CAPACITY: f64 = 20.0;

/// A server's number is in its port.
const FIRST_PORT: u16 = 1000;

/// Which server has this address.
pub(crate) fn number(address: SocketAddr) -> usize {
    usize::from(address.port() - FIRST_PORT)
}

impl World {
    pub(crate) fn add(&mut self, own_time: Duration, now: Moment) {
        let number = self.servers.len();
        let port = FIRST_PORT + u16::try_from(number).expect("fewer servers than ports");
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let pod = format!("pod-{number}").into();
        self.servers.push(Server {
            endpoint: Endpoint { address, identity: None, tls: None, zone: "".into(), protocol: Protocol::Http, pod },
            own_time,
            mood: Mood::Well,
            well_since: Some(now),
            last_unwell: None,
            died: None,
            load: 0,
        });
        self.listed.insert(number);
    }

    /// The server leaves the service; callers hear of it later.
    pub(crate) fn unlist(&mut self, number: usize) {
        self.listed.remove(&number);
    }

    pub(crate) fn listed(&self) -> Vec<usize> {
        self.listed.iter().copied().collect()
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.listed.iter().map(|number| self.servers[*number].endpoint.clone()).collect()
    }

    pub(crate) fn set_mood(&mut self, number: usize, mood: Mood, now: Moment) {
        let server = &mut self.servers[number];
        if server.mood != Mood::Well || mood != Mood::Well {
            server.last_unwell = Some(now);
        }
        server.well_since = (mood == Mood::Well).then_some(now);
        if mood == Mood::Dead {
            server.died = Some(now);
        }
        server.mood = mood;
    }

    pub(crate) fn is_well(&self, number: usize) -> bool {
        self.servers[number].mood == Mood::Well
    }

    /// Whether the server has been well all the time from `since` until now.
    pub(crate) fn well_throughout(&self, number: usize, since: Moment) -> bool {
        self.servers[number].well_since.is_some_and(|from| from < since) || self.never_unwell(number)
    }

    /// Whether the server has not been well at some time from `since` until now.
    pub(crate) fn unwell_since(&self, number: usize, since: Moment) -> bool {
        !self.is_well(number) || self.servers[number].last_unwell.is_some_and(|last| last >= since)
    }

    fn never_unwell(&self, number: usize) -> bool {
        self.is_well(number) && self.servers[number].last_unwell.is_none()
    }

    /// A request arrives at the server: when something comes back, and what.
    pub(crate) fn serve(&mut self, number: usize, rng: &mut Rng) -> (Duration, Reply) {
        let server = &mut self.servers[number];
        server.load += 1;
        let crowd = 1.0 + f64::from(server.load) / CAPACITY;
        let wobble = 0.7 + 0.6 * rng.f64();
        let in_its_time = |factor: f64| server.own_time.mul_f64(factor * crowd * wobble);
        match server.mood {
            Mood::Well => (in_its_time(1.0), Reply::Answer(200)),
            Mood::Slow(factor) => (in_its_time(factor), Reply::Answer(200)),
            Mood::Erring => (in_its_time(0.2), Reply::Answer(if rng.u8(..10) < 8 { 503 } else { 200 })),
            Mood::Breaking => (in_its_time(0.5), Reply::Broke),
            Mood::Silent => (Duration::from_secs(3600), Reply::Nothing),
            Mood::Dead => (Duration::from_millis(1), Reply::Refused),
        }
    }

    /// The exchange that began at `started` is over, one way or the other. Returns what really came back.
    pub(crate) fn leave(&mut self, number: usize, started: Moment, reply: Reply) -> Reply {
        let server = &mut self.servers[number];
        server.load -= 1;
        match reply {
            Reply::Answer(_) if server.died.is_some_and(|died| died > started) => Reply::Broke,
            other => other,
        }
    }
}
