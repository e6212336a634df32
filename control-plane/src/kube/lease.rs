//! Elects the replica that writes.
//!
//! All replicas serve proxies; what is written to the cluster (statuses, the trust bundle, the authority) is written by one.
//! It holds a Lease and renews it every few seconds. Another takes over when it has seen no renewal for [`LEASE`], by its own
//! clock: what a clock elsewhere says is never believed, so clocks may differ as they like. The holder stops writing after
//! [`RENEW_WITHIN`] without a renewal, well before anybody else begins. Every write carries a `resourceVersion` besides, so
//! that one that was on its way at that moment changes nothing that it has not seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{FIELD_MANAGER, Failure};

/// The Lease's name.
pub const LEASE_NAME: &str = "weir-control-plane";
/// Without a renewal for this long, another replica takes over.
pub const LEASE: Duration = Duration::from_secs(15);
/// Without a renewal for this long, the holder stops writing.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often the Lease is looked at, and renewed by its holder.
const ROUND: Duration = Duration::from_secs(2);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the Lease may take to be given back at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// A holder that says it renews more rarely than this says nonsense.
const LONGEST_LEASE: Duration = Duration::from_secs(120);

/// Whether this replica is the one that writes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership {
    held: watch::Receiver<bool>,
    term: Arc<Term>,
}

/// How long leadership lasts without another renewal. It is asked at every write, not only by a timer: a process that was
/// stopped for a minute must not write on when it goes on.
#[derive(Debug)]
struct Term {
    start: Instant,
    /// Milliseconds after `start`; 0: not at all.
    until: AtomicU64,
}

impl Term {
    fn set(&self, until: Option<Instant>) {
        let millis = until.map_or(0, |at| u64::try_from(at.duration_since(self.start).as_millis()).unwrap_or(u64::MAX));
        self.until.store(millis, Ordering::Release);
    }

    fn lasts(&self, now: Instant) -> bool {
        now.duration_since(self.start).as_millis() < u128::from(self.until.load(Ordering::Acquire))
    }
}

impl Leadership {
    /// Of a replica that is the only one.
    #[must_use]
    pub fn always() -> Self {
        let term = Term { start: Instant::now(), until: AtomicU64::new(u64::MAX) };
        Self { held: watch::channel(true).1, term: Arc::new(term) }
    }

    /// Whether this replica may write now. Ask right before every write.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        *self.held.borrow() && self.term.lasts(Instant::now())
    }

    /// Waits until it may be otherwise than it was at the last call. Never returns where it cannot change any more.
    pub async fn changed(&mut self) {
        if self.held.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Stands for election.
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
    held: watch::Sender<bool>,
    term: Arc<Term>,
    seen: Option<Seen>,
    /// What was logged last, so that it is not logged every other second.
    complained: Option<String>,
}

/// A Lease as it was seen, and since when it has not changed.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    record: Record,
    since: Instant,
}

/// What matters of a Lease.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    /// Empty if it was given back.
    holder: String,
    /// How long it lasts without a renewal.
    duration: Duration,
    /// Changes with every renewal.
    version: String,
    transitions: i32,
    acquired: Option<MicroTime>,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is ours.
    Renew,
    /// Nobody has it any more.
    Take,
    /// Somebody else has it.
    Wait,
}

fn step(own: &str, seen: Option<&Seen>, now: Instant) -> Step {
    match seen {
        None => Step::Create,
        Some(seen) if seen.record.holder == own => Step::Renew,
        Some(seen) if seen.record.holder.is_empty() => Step::Take,
        Some(seen) if now.duration_since(seen.since) >= seen.record.duration => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// The record of a Lease, and since when it has been as it is, going by what was seen before.
fn see(before: Option<&Seen>, record: Record, now: Instant) -> Seen {
    match before {
        Some(before) if before.record == record => before.clone(),
        _ => Seen { record, since: now },
    }
}

impl Candidate {
    /// Stands for the Lease of `namespace`. Two processes of one Pod name are still two candidates.
    #[must_use]
    pub fn new(client: Client, namespace: &str, pod_name: &str) -> (Self, Leadership) {
        let (held, receiver) = watch::channel(false);
        let term = Arc::new(Term { start: Instant::now(), until: AtomicU64::new(0) });
        let leadership = Leadership { held: receiver, term: Arc::clone(&term) };
        let identity = format!("{pod_name}_{:016x}", fastrand::u64(..));
        let leases = Api::namespaced(client, namespace);
        (Self { leases, identity, held, term, seen: None, complained: None }, leadership)
    }

    /// Stands until `stop`, then gives the Lease back if it has it.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.round() => {}
            }
            // Never in step with the others.
            let wait = ROUND.mul_f64(0.9 + fastrand::f64() / 5.0);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.release().await;
    }

    async fn round(&mut self) {
        let asked = Instant::now();
        let done = tokio::time::timeout(REQUEST_TIMEOUT, self.attempt(asked)).await;
        let failure = match done {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some(format!("no answer in {REQUEST_TIMEOUT:?}")),
        };
        if *self.held.borrow() && !self.term.lasts(Instant::now()) {
            self.lose("it could not be renewed in time");
        }
        if failure != self.complained {
            if let Some(why) = &failure {
                tracing::warn!(
                    lease = LEASE_NAME,
                    "cannot look at the Lease that elects the writing replica: {why}; proxies are served on"
                );
            }
            self.complained = failure;
        }
    }

    async fn attempt(&mut self, asked: Instant) -> Result<(), Failure> {
        let found = self.leases.get_opt(LEASE_NAME).await.map_err(|error| Failure::of(&error))?;
        self.seen = found.as_ref().map(|lease| see(self.seen.as_ref(), record(lease), Instant::now()));
        let step = step(&self.identity, self.seen.as_ref(), Instant::now());
        if step == Step::Wait {
            if *self.held.borrow() {
                self.lose("another replica has it");
            }
            return Ok(());
        }
        let lease = self.mine(found, step);
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match step {
            Step::Create => self.leases.create(&parameters, &lease).await,
            Step::Renew | Step::Take | Step::Wait => self.leases.replace(LEASE_NAME, &parameters, &lease).await,
        };
        match written.map_err(|error| Failure::of(&error)) {
            Ok(lease) => {
                self.seen = Some(see(self.seen.as_ref(), record(&lease), Instant::now()));
                // Counted from before the question: whoever watches saw the renewal later than that.
                self.hold(asked + RENEW_WITHIN);
                Ok(())
            }
            // Another was faster; the next round shows who.
            Err(Failure::Conflict(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The Lease with this replica as its holder. The version that was read goes back with it, so that only one of two
    /// replicas that take it at the same moment gets it.
    fn mine(&self, found: Option<Lease>, step: Step) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = self.seen.as_ref().map(|seen| &seen.record);
        let taken = i32::from(step == Step::Take);
        let acquired = before.filter(|_| step == Step::Renew).and_then(|record| record.acquired.clone());
        let spec = LeaseSpec {
            acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            lease_transitions: Some(before.map_or(0, |record| record.transitions).saturating_add(taken)),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let name = Some(LEASE_NAME.to_owned());
        let metadata = found.map_or_else(|| ObjectMeta { name, ..ObjectMeta::default() }, |lease| lease.metadata);
        Lease { metadata, spec: Some(spec) }
    }

    fn hold(&self, until: Instant) {
        self.term.set(Some(until));
        if self.held.send_if_modified(|held| !std::mem::replace(held, true)) {
            tracing::info!(lease = LEASE_NAME, identity = self.identity, "this replica is the one that writes to the cluster");
        }
    }

    fn lose(&self, why: &str) {
        self.term.set(None);
        self.held.send_if_modified(|held| std::mem::replace(held, false));
        tracing::warn!(lease = LEASE_NAME, "this replica is not the one that writes any more: {why}; proxies are served on");
    }

    async fn release(&self) {
        if !*self.held.borrow() {
            return;
        }
        // First nobody here writes any more, then others may.
        self.term.set(None);
        self.held.send_if_modified(|held| std::mem::replace(held, false));
        match tokio::time::timeout(RELEASE_TIMEOUT, self.give_back()).await {
            Ok(Ok(())) => tracing::info!(lease = LEASE_NAME, "gave the Lease back"),
            Ok(Err(failure)) => tracing::warn!("cannot give the Lease back: {failure}; another replica takes over in {LEASE:?}"),
            Err(_) => tracing::warn!("cannot give the Lease back in time; another replica takes over in {LEASE:?}"),
        }
    }

    async fn give_back(&self) -> Result<(), Failure> {
        let mut lease = self.leases.get(LEASE_NAME).await.map_err(|error| Failure::of(&error))?;
        match lease.spec.as_mut() {
            Some(spec) if spec.holder_identity.as_deref() == Some(&self.identity) => {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(Timestamp::now()));
            }
            _ => return Ok(()),
        }
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.leases.replace(LEASE_NAME, &parameters, &lease).await.map(|_| ()).map_err(|error| Failure::of(&error))
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let said = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        // One that says nothing, or nothing sensible, lasts as long as ours.
        duration: said.filter(|it| !it.is_zero() && *it <= LONGEST_LEASE).unwrap_or(LEASE),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
        acquired: spec.acquire_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Record {
        Record { holder: holder.to_owned(), duration: LEASE, version: version.to_owned(), transitions: 0, acquired: None }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_renews_it() {
        let start = Instant::now();
        let seen = |holder: &str| Seen { record: lease(holder, "1"), since: start };
        let (soon, late) = (start + LEASE / 2, start + LEASE);
        for (seen, now, expected) in [
            (None, soon, Step::Create),
            (Some(seen("me")), soon, Step::Renew),
            (Some(seen("me")), late, Step::Renew),
            (Some(seen("")), soon, Step::Take),
            (Some(seen("other")), soon, Step::Wait),
            (Some(seen("other")), late, Step::Take),
        ] {
            assert_eq!(step("me", seen.as_ref(), now), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_renewal_starts_the_wait_anew() {
        let start = Instant::now();
        let first = see(None, lease("other", "1"), start);
        let same = see(Some(&first), lease("other", "1"), start + LEASE / 2);
        assert_eq!(same.since, start);
        let renewed = see(Some(&same), lease("other", "2"), start + LEASE / 2);
        assert_eq!(renewed.since, start + LEASE / 2);
        assert_eq!(step("me", Some(&renewed), start + LEASE), Step::Wait);
    }

    #[test]
    fn a_nonsensical_duration_counts_as_ours() {
        for (said, expected) in
            [(None, LEASE), (Some(0), LEASE), (Some(-5), LEASE), (Some(i32::MAX), LEASE), (Some(40), LEASE / 3 * 8)]
        {
            let spec = LeaseSpec { lease_duration_seconds: said, ..LeaseSpec::default() };
            let record = record(&Lease { spec: Some(spec), ..Lease::default() });
            assert_eq!(record.duration, expected, "{said:?}");
        }
    }

    #[test]
    fn leadership_ends_by_itself() {
        let now = Instant::now();
        let term = Term { start: now, until: AtomicU64::new(0) };
        assert!(!term.lasts(now));
        term.set(Some(now + RENEW_WITHIN));
        assert!(term.lasts(now) && term.lasts(now + RENEW_WITHIN - Duration::from_millis(2)));
        assert!(!term.lasts(now + RENEW_WITHIN));
        assert!(Leadership::always().is_leader());
    }
}
