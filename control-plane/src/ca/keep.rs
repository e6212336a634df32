//! The authority in force, and everything that hangs on it: the control plane's own certificate, what proxies are told to trust,
//! the metrics. [`run`] keeps it from ending and carries rotations out, where the authority is kept in a directory; in a cluster
//! [`kube::authority`](crate::kube::authority) does that with the same parts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use fastrand::Rng;
use rustls::ServerConfig;
use tokio::sync::watch;
use weir_core::rotation::overlap::{Evidence, Observed, PhaseName};
use weir_core::rotation::{Purpose, Validity};
use weir_tls::{ClientAuth, Credentials, Utc, server_config};

use super::document::{Document, Line};
use super::files::Held;
use super::plan::{self, Action, Situation};
use super::{Authority, AuthorityError};
use crate::publish::Hub;

/// How often certificates are looked at. Leaves of a test live for seconds.
pub const CHECK: Duration = Duration::from_secs(1);
/// A root that ends this soon, and that nobody replaces by itself, is warned of.
const ROOT_WARNING: Duration = Duration::from_secs(90 * 86_400);

/// The authority and whatever follows from it in this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Force {
    /// The authority.
    pub authority: Arc<Authority>,
    /// Where proxies are told what to trust.
    pub hub: Hub,
    tls: Arc<ArcSwap<ServerConfig>>,
    own: Arc<Mutex<Own>>,
    /// The generation of what is in force.
    changes: watch::Sender<u64>,
}

/// The control plane's own certificate.
#[derive(Debug)]
struct Own {
    validity: Validity,
    due: SystemTime,
    failures: u32,
    next_try: SystemTime,
    rng: Rng,
    /// The end of a root that was warned of.
    warned: Option<SystemTime>,
}

impl Force {
    /// Puts an authority into force.
    ///
    /// # Errors
    ///
    /// When it cannot give the control plane itself a certificate.
    pub fn new(authority: Authority, hub: Hub) -> Result<Self, AuthorityError> {
        let now = SystemTime::now();
        let credentials = authority.own_credentials(now)?;
        let tls = Arc::new(ArcSwap::new(tls_config(&credentials, &authority)?));
        let mut rng = Rng::new();
        let (validity, next_try) = (credentials.validity, SystemTime::UNIX_EPOCH);
        let due = validity.renew_at(Purpose::Leaf, now, &mut rng);
        let own = Own { validity, due, failures: 0, next_try, rng, warned: None };
        hub.set_trust(authority.bundle());
        let changes = watch::Sender::new(authority.generation());
        let force = Self { authority: Arc::new(authority), hub, tls, own: Arc::new(Mutex::new(own)), changes };
        force.show();
        Ok(force)
    }

    /// Changes whenever something else is put into force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What connections are served with.
    #[must_use]
    pub fn tls(&self) -> Arc<ArcSwap<ServerConfig>> {
        Arc::clone(&self.tls)
    }

    /// Puts what was written down into force, whole: what it signs, what it trusts, what proxies are told.
    ///
    /// # Errors
    ///
    /// When it cannot be used; then everything stays as it is.
    pub fn take(&self, document: &Document, now: SystemTime) -> Result<bool, AuthorityError> {
        let before = self.authority.bundle();
        if !self.authority.take(document)? {
            return Ok(false);
        }
        self.renew_own(now)?;
        let bundle = self.authority.bundle();
        if before != bundle {
            let (phase, roots) = (self.authority.phase().as_str(), bundle.roots.len());
            tracing::info!(phase, roots, generation = document.generation, "another trust bundle is in force; proxies are told");
            self.hub.set_trust(bundle);
        }
        self.show();
        self.changes.send_replace(document.generation);
        Ok(true)
    }

    /// Renews the control plane's own certificate if it is due. A failure is logged and tried again, ever more slowly.
    pub fn look_at_own(&self, now: SystemTime) {
        {
            let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            if now < own.due || now < own.next_try {
                return;
            }
        }
        match self.renew_own(now) {
            Ok(ends) => tracing::info!(ends = %Utc(ends), "renewed the control plane's own certificate"),
            Err(error) => {
                let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                own.failures = own.failures.saturating_add(1);
                let Own { validity, failures, .. } = *own;
                let wait = validity.retry_in(now, failures, &mut own.rng);
                own.next_try = now + wait;
                tracing::error!(%error, ?wait, "cannot renew the control plane's own certificate; trying again");
            }
        }
    }

    fn renew_own(&self, now: SystemTime) -> Result<SystemTime, AuthorityError> {
        let credentials = self.authority.own_credentials(now)?;
        self.tls.store(tls_config(&credentials, &self.authority)?);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.validity = credentials.validity;
        own.due = credentials.validity.renew_at(Purpose::Leaf, now, &mut own.rng);
        own.failures = 0;
        Ok(credentials.validity.not_after)
    }

    /// Shows in metrics how long it lasts; warns of a root that is the user's to replace.
    fn show(&self) {
        let metrics = self.hub.metrics();
        let (root, issuer, phase) = (self.authority.root_ends(), self.authority.issuer_ends(), self.authority.phase());
        metrics.issuer_expiry.set(Utc(issuer).unix_seconds() as f64);
        metrics.ca_expiry.with_label_values(&["issuer"]).set(Utc(issuer).unix_seconds() as f64);
        metrics.ca_expiry.with_label_values(&["root"]).set(Utc(root).unix_seconds() as f64);
        for each in PhaseName::ALL {
            metrics.rotation_phase.with_label_values(&[each.as_str()]).set(i64::from(each == phase));
        }
        let soon = root < SystemTime::now() + ROOT_WARNING;
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if soon && own.warned != Some(root) && self.authority.document().succession.signs().given {
            own.warned = Some(root);
            tracing::warn!(
                ends = %Utc(root),
                "the root that you gave ends soon, and everything that it signed ends with it: put its successor into weir-root"
            );
        }
    }
}

fn tls_config(own: &Credentials, authority: &Authority) -> Result<Arc<ServerConfig>, AuthorityError> {
    Ok(server_config(own, &authority.roots()?, ClientAuth::Optional, &[b"h2"])?)
}

/// Carries rotations out: asks [`plan`] what to do, and remembers what was seen.
#[derive(Debug, Default)]
pub struct Course {
    observed: Observed,
    generation: u64,
}

/// What a look was about.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// What is written down.
    pub document: &'a Document,
    /// The user's own, checked.
    pub given: Option<&'a Line>,
    /// What was asked for last.
    pub asked: Option<&'a str>,
    /// What is seen of the mesh.
    pub evidence: Evidence,
    /// See [`Observed::note`].
    pub taken_at: SystemTime,
}

impl Course {
    /// What is to be written down instead, if anything, and what to say when it is.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn next(
        &mut self,
        look: Look<'_>,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<Option<(Document, Action)>, AuthorityError> {
        let Look { document, given, asked, evidence, taken_at } = look;
        if document.generation != self.generation {
            self.observed.forget();
            self.generation = document.generation;
        }
        self.observed.note(evidence, taken_at, now);
        let situation = Situation { given, asked, observed: &self.observed, leaf_lifetime: authority.leaf_lifetime(), now };
        let Some(action) = plan::decide(document, situation)? else { return Ok(None) };
        let next = plan::carry_out(document, &action, asked, authority.trust_domain(), now)?;
        Ok((next != *document).then_some((next, action)))
    }
}

/// Says in plain words what was done.
pub fn say(action: &Action, document: &Document, behind: &[String]) {
    let (phase, who) = (document.succession.name().as_str(), behind.join(", "));
    match action {
        Action::NewIssuer => tracing::info!("renewed the issuer; the root is the same, so nobody has to be told"),
        Action::Exchange(_) => tracing::info!("signing with the certificate that is in weir-root now; the root is the same"),
        Action::Publish { why, .. } => tracing::info!(
            phase,
            "rotation of the root, 1 of 3: a new root is published, because {why}; the old one signs until every connected proxy \
             has acknowledged it"
        ),
        Action::Hurry => {
            tracing::info!(phase, "rotation of the root: somebody asked for it, so it goes on as soon as all are ready")
        }
        Action::CannotRotate => tracing::warn!(
            "somebody asked for another root, and this one is yours: change the Secret weir-root, or delete it and ask again"
        ),
        Action::Advance { left_behind } => {
            let step = match document.succession.name() {
                PhaseName::Signing => "2 of 3: the new root signs, both are trusted; proxies renew their certificates now",
                PhaseName::Published | PhaseName::Stable => "3 of 3: the old root is retired, the new one is the only one",
            };
            tracing::info!(phase, "rotation of the root, {step}");
            if *left_behind != Evidence::default() {
                let Evidence { proxies_behind, bundles_behind, .. } = left_behind;
                tracing::warn!(
                    proxies_behind,
                    bundles_behind,
                    who,
                    "not everybody was ready after the life of a certificate; whoever is left behind has no valid certificate any \
                     more, and gets one with the new root when it asks"
                );
            }
        }
    }
}

/// Keeps an authority in a directory, for ever.
pub async fn run(dir: PathBuf, force: Force) {
    let mut course = Course::default();
    let mut complained = None;
    loop {
        tokio::time::sleep(CHECK).await;
        force.look_at_own(SystemTime::now());
        let (dir, its) = (dir.clone(), force.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let result = look(&dir, &its, &mut course);
            (course, result)
        });
        // A look that panicked begins anew.
        let (kept, result) = looked
            .await
            .unwrap_or_else(|error| (Course::default(), Err(AuthorityError::Document(format!("the look at it ended: {error}")))));
        course = kept;
        let complaint = result.err().map(|error| error.to_string());
        if complaint != complained {
            if let Some(error) = &complaint {
                tracing::error!(error, "cannot keep the certificate authority up to date; it signs on as it is");
            }
            complained = complaint;
        }
    }
}

fn look(dir: &Path, force: &Force, course: &mut Course) -> Result<(), AuthorityError> {
    let now = SystemTime::now();
    let held = Held::hold(dir)?;
    let trust_domain = force.authority.trust_domain();
    let Some(document) = held.read(trust_domain)? else {
        return Err(AuthorityError::Unusable { path: dir.to_owned(), reason: "its authority.json is gone".to_owned() });
    };
    force.take(&document, now)?;
    let behind = force.hub.behind();
    let asked = held.asked();
    let evidence = Evidence { proxies_behind: behind.count, ..Evidence::default() };
    let look = Look { document: &document, given: None, asked: asked.as_deref(), evidence, taken_at: document.succession.since };
    if let Some((next, action)) = course.next(look, &force.authority, now)? {
        held.write(&next, trust_domain)?;
        say(&action, &next, &behind.names);
        force.take(&next, now)?;
    }
    Ok(())
}
