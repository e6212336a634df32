//! The control thread: certificate, configuration, saved state and the admin page.
//!
//! It has a runtime of its own, so that neither a push of configuration nor a scrape stalls a request. [`identity`] gets the
//! certificate and renews it; [`discovery`] follows the control plane; [`connect`] is how both reach it; [`state`] keeps
//! everything for the next start; [`decode`] reads the wire.

mod connect;
pub mod decode;
mod discovery;
mod identity;
mod redirection;
mod state;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use weir_core::rotation::State;
use weir_core::snapshot::{ResourceName, Snapshot, TrustBundle};
use weir_tls::{ClientAuth, Credentials, Roots, TlsError, Utc, alpn, server_config};

use crate::admin;
use crate::shared::{MeshTls, Shared};

pub(crate) use state::Saved;
use state::Store;

/// What the parts of the control thread share.
struct Control {
    shared: Arc<Shared>,
    store: Store,
    /// The generation of the certificate and roots in force.
    tls_changed: watch::Sender<u64>,
    /// The certificate has to be renewed now, whatever its age.
    renew_now: Notify,
    /// Which bundle the roots in force are, as the control plane counts them; 0: it does not say.
    roots_generation: Cell<u64>,
}

/// Puts what an earlier process saved into force, as far as it is still good.
pub(crate) fn restore(shared: &Shared, saved: Saved) -> Store {
    let Saved { store, snapshot, identity } = saved;
    if let Some(snapshot) = snapshot {
        // What was held before is followed again: without a subscription it would never be updated.
        for name in snapshot.versions().into_keys() {
            if matches!(name, ResourceName::Service(_) | ResourceName::Address(_)) {
                shared.demand.ask(&name);
            }
        }
        publish(shared, snapshot);
    }
    if let Some((credentials, roots)) = identity {
        let until = Utc(credentials.validity.not_after);
        let identity = credentials.identity.clone();
        match adopt(shared, credentials, roots) {
            Ok(_) => tracing::info!(%identity, %until, "started with the saved certificate"),
            Err(error) => tracing::warn!("the saved certificate is not used: {error}"),
        }
    }
    store
}

/// Starts the thread. `admin` are the listeners of the admin page.
///
/// # Errors
///
/// When the operating system gives no thread or no runtime.
pub(crate) fn start(shared: Arc<Shared>, store: Store, admin: Vec<TcpListener>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let control =
        Control { shared, store, tls_changed: watch::Sender::new(0), renew_now: Notify::new(), roots_generation: Cell::new(0) };
    control.restore_generation();
    std::thread::Builder::new().name("weir-control".into()).spawn(move || {
        runtime.block_on(async {
            let admin = admin::serve(Arc::clone(&control.shared), admin);
            let workload = &control.shared.settings.workload;
            let redirection = redirection::watch(&control.shared);
            let parts = async {
                tokio::join!(identity::run(&control), discovery::run(&control), control.store.run(workload), redirection)
            };
            let mut ending = control.shared.lifecycle.ending();
            tokio::select! {
                _ = ending.wait_for(|ending| *ending) => {}
                _ = parts => {}
                Err(error) = admin => tracing::error!("the admin page cannot go on: {error}"),
            }
        });
    })
}

impl Control {
    /// Puts a certificate and roots into force and has them saved. Connections that are open stay as they are.
    fn adopt(&self, credentials: Credentials, roots: Roots, roots_generation: u64) -> Result<(), TlsError> {
        // A replica of the control plane that lags behind takes no root away that a younger bundle brought.
        let newer = self.shared.tls.load_full().filter(|tls| {
            roots_generation < self.roots_generation.get() && tls.roots.verify(&credentials, SystemTime::now()).is_ok()
        });
        let (roots, roots_generation) = match newer {
            Some(tls) => (tls.roots.clone(), self.roots_generation.get()),
            None => (roots, roots_generation),
        };
        let generation = adopt(&self.shared, credentials, roots)?;
        self.roots_generation.set(roots_generation);
        self.tls_changed.send_replace(generation);
        if let Some(tls) = self.shared.tls.load().as_deref() {
            self.store.save_identity(&tls.credentials, &tls.roots);
        }
        Ok(())
    }

    /// Puts other roots into force, with the certificate that there is. Without one the roots come with it.
    fn adopt_roots(&self, roots: &Roots, roots_generation: u64) -> Result<(), TlsError> {
        let Some(tls) = self.shared.tls.load_full() else { return Ok(()) };
        if tls.roots == *roots {
            self.roots_generation.set(roots_generation.max(self.roots_generation.get()));
            return Ok(());
        }
        tracing::info!(roots = roots.ders().len(), "the mesh's roots changed");
        if let Err(error) = roots.verify(&tls.credentials, SystemTime::now()) {
            tracing::warn!("the certificate does not fit the new roots and is renewed now: {error}");
            self.renew_now.notify_one();
        }
        self.adopt(tls.credentials.clone(), roots.clone(), roots_generation)
    }

    /// What was saved says of its bundle which one it was; the control plane does not send it again.
    fn restore_generation(&self) {
        let announced = announced_roots(&self.shared.snapshot.load()).ok().flatten();
        let in_force = self.shared.tls.load_full();
        if let Some((_, generation)) = announced.filter(|(roots, _)| in_force.is_some_and(|tls| tls.roots == *roots)) {
            self.roots_generation.set(generation);
        }
    }

    /// Whether certificates are signed under another root now than the one that `credentials` lead to. The one that they lead to
    /// will be retired as soon as nobody needs it.
    fn is_outdated(&self, credentials: &Credentials) -> bool {
        let Some(tls) = self.shared.tls.load_full() else { return false };
        let (true, [signs, _, ..]) = (self.roots_generation.get() > 0, tls.roots.ders()) else { return false };
        let signs = Roots::from_der(tls.roots.trust_domain().clone(), [signs]);
        signs.is_ok_and(|signs| signs.verify(credentials, SystemTime::now()).is_err())
    }
}

/// Replaces the shared TLS settings whole; the new generation.
fn adopt(shared: &Shared, credentials: Credentials, roots: Roots) -> Result<u64, TlsError> {
    let inbound = server_config(&credentials, &roots, ClientAuth::Required, &[alpn::HTTP2, alpn::TCP])?;
    let generation = shared.tls.load().as_ref().map_or(1, |old| old.generation + 1);
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a double for longer than the sun shines")]
    shared.metrics.certificate_expiry.set(Utc(credentials.validity.not_after).unix_seconds() as f64);
    shared.tls.store(Some(Arc::new(MeshTls { generation, credentials, roots, inbound })));
    Ok(generation)
}

/// The roots of a snapshot's trust bundle, and its generation.
fn announced_roots(snapshot: &Snapshot) -> Result<Option<(Roots, u64)>, TlsError> {
    let roots = |bundle: &TrustBundle| Roots::from_der(bundle.trust_domain.clone(), &bundle.roots);
    snapshot.trust().map(|bundle| roots(bundle).map(|roots| (roots, bundle.generation))).transpose()
}

/// Makes a snapshot the one in force and tells those who wait.
fn publish(shared: &Shared, snapshot: Snapshot) {
    let generation = snapshot.generation();
    shared.snapshot.store(Arc::new(snapshot));
    shared.metrics.config_version.set(i64::try_from(generation).unwrap_or(i64::MAX));
    shared.changed.send_replace(generation);
}

/// Refuses a certificate that is not valid at this moment, in words that name the clocks.
fn valid_now(credentials: &Credentials, now: SystemTime) -> Result<(), String> {
    let validity = credentials.validity;
    match validity.state(now) {
        State::Fresh | State::Renew => Ok(()),
        State::NotYet { .. } => {
            Err(format!("it is valid from {} and it is {} here; one of the clocks is wrong", Utc(validity.not_before), Utc(now)))
        }
        State::Expired => Err(format!("it expired at {} and it is {} here", Utc(validity.not_after), Utc(now))),
    }
}

/// For futures that never end.
type Never = Infallible;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
