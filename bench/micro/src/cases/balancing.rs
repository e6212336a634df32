//! Picking an endpoint, and learning from how it went.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use weir_core::balance::{Algorithm, BalanceConfig, Balancer, Outcome, Preference};
use weir_core::clock::Moment;
use weir_core::snapshot::{Endpoint, Protocol};

use super::Case;

const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];

/// Between two requests; an answer takes as long.
const STEP: Duration = Duration::from_millis(1);

pub(super) fn cases() -> Vec<Case> {
    let algorithms = [
        ("peak-ewma", Algorithm::PeakEwma),
        ("least-request", Algorithm::LeastRequest),
        ("round-robin", Algorithm::RoundRobin),
        ("ring-hash", Algorithm::RingHash),
    ];
    let every = algorithms.iter().flat_map(|(name, algorithm)| SIZES.map(|size| (name, *algorithm, size)));
    every.map(|(name, algorithm, size)| request(format!("balance/{name}/{size}"), algorithm, size)).collect()
}

/// One request: picked, answered, finished.
fn request(name: String, algorithm: Algorithm, size: u32) -> Case {
    let mut now = Moment::START;
    let mut balancer = Balancer::new(BalanceConfig { algorithm, ..BalanceConfig::default() });
    balancer.reconcile(&(1..=size).map(endpoint).collect::<Vec<_>>(), now, |_| ());
    let mut rng = Rng::with_seed(7);
    Case::new(name, move || {
        let preference = match algorithm {
            Algorithm::RingHash => Preference::Key(rng.u64(..)),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::RoundRobin => Preference::Any,
        };
        now = now + STEP;
        let Ok(mut ticket) = balancer.pick(now, &mut rng, &[], black_box(preference)) else { return };
        now = now + STEP;
        balancer.answered(&mut ticket, now);
        black_box(balancer.finish(ticket, Outcome::Success, now, &mut rng));
    })
}

fn endpoint(number: u32) -> Endpoint {
    Endpoint {
        address: SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + number), 8080)),
        identity: None,
        tls: None,
        zone: "".into(),
        protocol: Protocol::Http,
        pod: "".into(),
    }
}
