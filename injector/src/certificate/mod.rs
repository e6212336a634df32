//! The injector's own certificate: what the Secret holds, what is to be done about it, and what API servers are told to trust.
//!
//! An authority of its own (10 years) signs what is served (90 days). Both are in one Secret, with the authority's key, so that
//! every replica serves the same and any of them can renew it; who loses a race for the Secret takes what the winner wrote.
//! [`stored`] reads the Secret, [`plan`] decides, [`make`] makes, [`bundle`] looks after the `caBundle` of the webhook
//! configurations. Nothing here talks to a cluster.
//!
//! A Secret that somebody else keeps (cert-manager, for example) is served as it is and never written.

pub mod bundle;
pub mod make;
pub mod plan;
pub mod stored;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use weir_core::rotation::Validity;

/// Certificates begin this long before they are made: the API server's clock may be behind.
pub const BACKDATED: Duration = Duration::from_secs(300);

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub struct Served {
    /// The chain and its key.
    pub key: Arc<CertifiedKey>,
    /// What API servers have to trust for it. Empty: what they trust anyway.
    pub anchors: Vec<CertificateDer<'static>>,
    /// When it counts.
    pub validity: Validity,
}

impl Served {
    /// Whether both are the same certificate.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

/// What the server shows at the moment, swapped while connections go on.
#[derive(Debug, Default)]
pub struct Shown(ArcSwapOption<Served>);

impl Shown {
    /// Shows another one from the next handshake on.
    pub fn show(&self, served: Served) {
        self.0.store(Some(Arc::new(served)));
    }

    /// What is shown.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Served>> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for Shown {
    /// One certificate, whatever name is asked for: API servers may call by address.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current()?.key))
    }
}

/// When a certificate that is offered is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// It is the one that is shown.
    Same,
    /// At once.
    Now,
    /// Not before the API servers trust it. To be asked again after this long.
    Later(Duration),
}

/// API servers hear of a changed `caBundle` within moments; this is some more.
pub const PROPAGATION: Duration = Duration::from_secs(10);

/// Decides when to show what the Secret offers. `carried` is for how long the webhook configurations have been seen to carry what
/// has to be trusted for it; `None` if they do not.
#[must_use]
pub fn swap(shown: Option<&Served>, offered: &Served, carried: Option<Duration>, now: SystemTime) -> Swap {
    let Some(shown) = shown else { return Swap::Now };
    if shown.is(offered) {
        return Swap::Same;
    }
    if shown.anchors == offered.anchors || now >= shown.validity.not_after {
        return Swap::Now;
    }
    match carried {
        Some(carried) if carried >= PROPAGATION => Swap::Now,
        Some(carried) => Swap::Later(PROPAGATION.saturating_sub(carried)),
        None => Swap::Later(PROPAGATION),
    }
}

#[cfg(test)]
mod tests;
