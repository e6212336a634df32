//! The certificate authority in a Secret.
//!
//! `weir-ca` has the whole of it. The replica that leads makes it, writes every step of a rotation into it and does so with the
//! version that it read, so that of two that believe to lead one fails; every replica watches it and puts it into force. The
//! user's own root is in `weir-root`, which is only read.

mod place;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::watch_object;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weir_core::names::TrustDomain;
use weir_core::rotation::overlap::PhaseName;

pub use self::place::Place;
use self::place::{Stored, api};
use super::Failure;
use super::bundle::{self, Bundles};
use super::replicas::{LEASE, Mesh, RENEW, Replicas, Report, Reporter};
use crate::ca::document::{Document, Line};
use crate::ca::keep::{CHECK, Course, Force, Look, say};
use crate::ca::{AuthorityError, given};
use crate::publish::proxies::Behind;

/// The Secret of the authority.
pub const SECRET: &str = "weir-ca";
/// The Secret of the user's own root.
pub const GIVEN: &str = "weir-root";
/// On [`SECRET`]: each new value asks for another root.
pub const ASK: &str = "weir.dev/rotate-root";
/// On [`SECRET`], written here: where the rotation stands.
pub const PHASE: &str = "weir.dev/rotation-phase";
/// On [`SECRET`], written here: the last request that was taken up.
pub const TAKEN_UP: &str = "weir.dev/rotate-root-taken-up";
/// How often the other replicas are looked at while a rotation is under way.
const LOOK: Duration = Duration::from_secs(2);
/// How often the user's root is checked again: it may not have been valid yet, or end.
const CHECK_GIVEN: Duration = Duration::from_secs(60);

/// The authority of the cluster. Waits until there is one; the replica that leads makes it.
pub async fn open(place: &Place) -> Document {
    let mut leadership = place.cluster.leadership.clone();
    let mut said = None;
    loop {
        let state = match try_open(place).await {
            Ok(Ok(document)) => return document,
            Ok(Err(waiting)) => waiting.to_owned(),
            Err(error) => format!("{error}; trying again"),
        };
        if said.as_ref() != Some(&state) {
            tracing::warn!("no certificate authority yet, so this replica is not ready: {state}");
            said = Some(state);
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK) => {}
            () = leadership.changed() => {}
        }
    }
}

async fn try_open(place: &Place) -> Result<Result<Document, &'static str>, AuthorityError> {
    if let Some(stored) = place.fetch().await? {
        return Ok(Ok(stored.document));
    }
    if !place.cluster.leadership.is_leader() {
        return Ok(Err("the Secret weir-ca is not there, and the replica that holds the Lease weir-control-plane makes it"));
    }
    let now = SystemTime::now();
    // The user's root may be there from the start; then nobody ever has to change to it.
    let root = place.secret(GIVEN).await?;
    let line = root.and_then(|secret| check(&secret, &place.trust_domain, now).inspect_err(|why| refuse(why)).ok());
    let document = match line {
        Some(line) => Document::of(line, now),
        None => Document::make(&place.trust_domain, now)?,
    };
    match place.create(&document).await {
        Ok(()) => {
            tracing::info!(own_root = document.succession.signs().given, "made the certificate authority: Secret {SECRET}");
            Ok(Ok(document))
        }
        Err(AuthorityError::Api { failure: Failure::Conflict(_), .. }) => Ok(Err("another replica has just made it")),
        Err(error) => Err(error),
    }
}

/// What the user's Secret gives, checked.
fn check(secret: &Secret, trust_domain: &TrustDomain, now: SystemTime) -> Result<Line, String> {
    let entry = |name: &str| secret.data.as_ref().and_then(|data| data.get(name)).map(|it| it.0.as_slice());
    let required = |name: &str| entry(name).ok_or_else(|| format!("it has no entry {name}"));
    let entries = given::Entries { certificate: required("tls.crt")?, key: required("tls.key")?, root: entry("ca.crt") };
    given::line(entries, trust_domain, now)
}

fn refuse(why: &str) {
    tracing::error!("the Secret {GIVEN} is refused, and the authority stays as it is: {why}");
}

/// Keeps the authority of the cluster, for ever: puts into force what is stored, tells what this replica's proxies are ready for,
/// and, while it leads, writes the next step and the bundles.
pub async fn run(place: Place, force: Force, stop: CancellationToken) {
    let bundles = Bundles::default();
    let (stored, stored_seen) = watch::channel(None);
    let (root, root_seen) = watch::channel(None);
    let keeper = Keeper::new(place.clone(), force.clone(), bundles.clone(), stored_seen, root_seen);
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(place.secrets(), SECRET, stored) => {}
        () = follow(place.secrets(), GIVEN, root) => {}
        () = bundle::run(place.cluster.clone(), force, bundles, stop.clone()) => {}
        () = keeper.run() => {}
    }
}

/// What a watch says of a Secret: nothing yet; that there is none; it.
type Seen = Option<Option<Secret>>;

async fn follow(secrets: Api<Secret>, name: &str, tell: watch::Sender<Seen>) {
    let mut complained = None;
    loop {
        let mut stream = std::pin::pin!(watch_object(secrets.clone(), name).default_backoff());
        while let Some(next) = stream.next().await {
            match next {
                Ok(secret) => {
                    complained = None;
                    tell.send_replace(Some(secret));
                }
                Err(error) => {
                    let failure = watch_failure(&error);
                    if complained != Some(failure.reason()) {
                        tracing::warn!(
                            "the Secret {name} cannot be watched: {failure}; trying again, and what is in force stays"
                        );
                        complained = Some(failure.reason());
                    }
                }
            }
        }
        // It does not end by itself; if it ever did, it must not spin.
        tokio::time::sleep(CHECK).await;
    }
}

/// Why a watch does not work.
pub(super) fn watch_failure(error: &watcher::Error) -> Failure {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Failure::of(error),
        watcher::Error::WatchError(status) => Failure::of_status(status),
        other @ watcher::Error::NoResourceVersion => Failure::Server(super::failure::plain_words(other)),
    }
}

/// A complaint without what differs each time, to tell whether it is news: while the API server is away, everything that is asked
/// of it fails in turn.
fn key(error: &AuthorityError) -> String {
    match error {
        AuthorityError::Api { failure, .. } => failure.reason().to_owned(),
        other => other.to_string(),
    }
}

/// One replica's part.
struct Keeper {
    place: Place,
    force: Force,
    bundles: Bundles,
    secret: watch::Receiver<Seen>,
    root: watch::Receiver<Seen>,
    stored: Option<Stored>,
    given: Given,
    reporter: Reporter,
    replicas: Replicas,
    course: Course,
    /// When this replica put the document in force into force.
    taken: SystemTime,
    reported: Option<(Report, Instant)>,
    confirmed: Option<Instant>,
    looked: Option<Instant>,
    complained: Option<String>,
}

/// How a Secret was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It was so at some time.
    Watch,
    /// It is so.
    Fetched,
}

/// The user's root, and what was found out about it.
#[derive(Default)]
struct Given {
    line: Option<Line>,
    refused: Option<String>,
    /// What was checked.
    data: Option<BTreeMap<String, ByteString>>,
    checked: Option<Instant>,
}

impl Keeper {
    fn new(place: Place, force: Force, bundles: Bundles, secret: watch::Receiver<Seen>, root: watch::Receiver<Seen>) -> Self {
        let reporter = Reporter::new(&place.cluster, &place.pod_name);
        let replicas = Replicas::new(&place.cluster, reporter.name());
        Self {
            place,
            force,
            bundles,
            secret,
            root,
            stored: None,
            given: Given::default(),
            reporter,
            replicas,
            course: Course::default(),
            taken: SystemTime::now(),
            reported: None,
            confirmed: None,
            looked: None,
            complained: None,
        }
    }

    async fn run(mut self) {
        if let Ok(Some(last)) = self.reporter.last().await
            && last.generation == self.force.authority.generation()
        {
            self.taken = last.taken();
        }
        let mut leadership = self.place.cluster.leadership.clone();
        loop {
            let complaint = self.look().await.err();
            let key = complaint.as_ref().map(key);
            if key != self.complained {
                match complaint {
                    Some(why) => {
                        tracing::warn!("the certificate authority cannot be kept up to date, and signs on as it is: {why}")
                    }
                    None => tracing::info!("the certificate authority is kept up to date again"),
                }
                self.complained = key;
            }
            tokio::select! {
                () = tokio::time::sleep(CHECK) => {}
                _ = self.secret.changed() => {}
                _ = self.root.changed() => {}
                () = leadership.changed() => self.looked = None,
            }
        }
    }

    async fn look(&mut self) -> Result<(), AuthorityError> {
        self.force.look_at_own(SystemTime::now());
        let seen = self.secret.borrow_and_update().clone();
        let gone = matches!(seen, Some(None));
        let read = seen.flatten().map(|secret| self.place.read(&secret)).transpose();
        self.put_in_force(read?, Source::Watch)?;
        self.check_given();
        // A failure to report must not keep from leading, nor the reverse.
        let reported = self.report().await;
        if self.place.cluster.leadership.is_leader() {
            if gone {
                self.restore().await?;
            }
            self.lead().await?;
        }
        reported
    }

    /// Puts what is stored into force.
    fn put_in_force(&mut self, read: Option<Stored>, source: Source) -> Result<(), AuthorityError> {
        let Some(read) = read else { return Ok(()) };
        let in_force = self.force.authority.generation();
        if read.document.generation < in_force {
            match source {
                // It may be behind what this replica has written or fetched itself.
                Source::Watch => return Ok(()),
                Source::Fetched => tracing::warn!(
                    stored = read.document.generation,
                    in_force,
                    "the Secret {SECRET} is older than what was in force: was it restored from a backup? It counts"
                ),
            }
        }
        let now = SystemTime::now();
        if self.force.take(&read.document, now)? {
            self.taken = now;
        }
        self.stored = Some(read);
        Ok(())
    }

    fn check_given(&mut self) {
        let secret = self.root.borrow_and_update().clone().flatten();
        let due = self.given.checked.is_none_or(|at| at.elapsed() >= CHECK_GIVEN);
        let data = secret.as_ref().and_then(|secret| secret.data.clone());
        if data == self.given.data && !due {
            return;
        }
        let checked = secret.map(|secret| check(&secret, &self.place.trust_domain, SystemTime::now())).transpose();
        let (line, refused) = match checked {
            Ok(line) => (line, None),
            Err(why) => (None, Some(why)),
        };
        if refused != self.given.refused
            && let Some(why) = &refused
        {
            refuse(why);
        }
        self.force.hub.metrics().given_refused.set(i64::from(refused.is_some()));
        self.given = Given { line, refused, data, checked: Some(Instant::now()) };
    }

    /// Tells what this replica's proxies are ready for, when that has changed during a rotation, and in any case now and then.
    async fn report(&mut self) -> Result<(), AuthorityError> {
        let due = self.reported.as_ref().is_none_or(|(_, at)| at.elapsed() >= RENEW);
        if due {
            // The watch may be stuck; a replica that lives must not be behind for longer than this.
            let fetched = self.place.fetch().await;
            let counted = self.confirmed.is_some_and(|at| at.elapsed() < LEASE);
            match fetched {
                Ok(fetched) => {
                    self.confirmed = Some(Instant::now());
                    self.put_in_force(fetched, Source::Fetched)?;
                }
                // Others may have gone on without it. Before it counts again it must know how far.
                Err(error) if !counted => return Err(error),
                Err(_) => {}
            }
        }
        // First which document it is, then who is ready for it: the other way round would take the readiness for one for that for
        // the next.
        let generation = self.force.authority.generation();
        let behind: Behind = self.force.hub.behind();
        self.force.hub.metrics().rotation_behind.set(i64::try_from(behind.count).unwrap_or(i64::MAX));
        let report = Report::of(generation, self.taken, behind);
        let news = self.reported.as_ref().is_none_or(|(last, _)| {
            last.generation != report.generation
                || (self.force.authority.phase() != PhaseName::Stable && last.behind != report.behind)
        });
        if due || news {
            let said = self.reporter.say(&report).await;
            said.map_err(|failure| api(format!("cannot write the Lease {}", self.reporter.name()), failure))?;
            self.reported = Some((report, Instant::now()));
        }
        Ok(())
    }

    /// Somebody deleted the Secret. What is in force is not lost with it.
    async fn restore(&mut self) -> Result<(), AuthorityError> {
        if self.place.fetch().await?.is_some() {
            return Ok(());
        }
        tracing::error!(
            "the Secret {SECRET} was deleted; it is made again of what is in force. To rotate the root, annotate it: {ASK}"
        );
        let document = self.force.authority.document();
        self.place.create(&document).await
    }

    /// Takes the next step, if it is time.
    async fn lead(&mut self) -> Result<(), AuthorityError> {
        let Some(stored) = self.stored.clone() else { return Ok(()) };
        let under_way = stored.document.succession.name() != PhaseName::Stable;
        let mut mesh = Mesh::default();
        if under_way {
            if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
                return Ok(());
            }
            self.looked = Some(Instant::now());
            let seen = self.replicas.look(stored.document.generation).await;
            mesh = seen.map_err(|failure| api("cannot list the Leases of the replicas".to_owned(), failure))?;
            mesh.evidence.bundles_behind = self.bundles.behind(&stored.document.bundle_pem());
        }
        let asked = stored.secret.annotations().get(ASK).cloned();
        let since = stored.document.succession.since;
        let look = Look {
            document: &stored.document,
            given: self.given.line.as_ref(),
            asked: asked.as_deref(),
            evidence: mesh.evidence,
            taken_at: mesh.taken.map_or(since, |taken| taken.max(since)),
        };
        let now = SystemTime::now();
        let Some((next, action)) = self.course.next(look, &self.force.authority, now)? else { return Ok(()) };
        if !self.place.cluster.leadership.is_leader() {
            return Ok(());
        }
        match self.place.replace(&stored, &next).await {
            Ok(written) => {
                say(&action, &written.document, &mesh.names);
                self.looked = None;
                self.put_in_force(Some(written), Source::Fetched)
            }
            // Somebody annotated it, or another replica leads: the watch brings what it is now.
            Err(AuthorityError::Api { failure: Failure::Conflict(_), .. }) => {
                tracing::debug!("the Secret {SECRET} was changed meanwhile; looking again");
                let fetched = self.place.fetch().await?;
                self.put_in_force(fetched, Source::Fetched)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
