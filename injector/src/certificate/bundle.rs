//! What the webhook configurations tell API servers to trust.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::stored::from_pem;

/// One webhook of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Its `caBundle`, decoded.
    pub bundle: Vec<u8>,
}

/// The strategic merge patch that makes every webhook's bundle `wanted`, or `None` when all are. Nothing but the bundles of those
/// that differ is in it, so that what others write at the same time stays.
#[must_use]
pub fn repair(hooks: &[Hook], wanted: &[u8]) -> Option<Value> {
    // Somebody else's certificate without an authority: API servers trust it anyway, or the bundle is somebody else's as well.
    if wanted.is_empty() {
        return None;
    }
    let differing = hooks.iter().filter(|hook| hook.bundle != wanted);
    let encoded = STANDARD.encode(wanted);
    let patches: Vec<Value> = differing.map(|hook| json!({"name": hook.name, "clientConfig": {"caBundle": encoded}})).collect();
    (!patches.is_empty()).then(|| json!({"webhooks": patches}))
}

/// The first webhook that does not tell API servers to trust all of `anchors`.
#[must_use]
pub fn lacking<'a>(hooks: &'a [Hook], anchors: &[CertificateDer<'static>]) -> Option<&'a str> {
    let carries = |hook: &&Hook| {
        let trusted = from_pem(&hook.bundle).unwrap_or_default();
        anchors.iter().all(|anchor| trusted.contains(anchor))
    };
    hooks.iter().find(|hook| !carries(hook)).map(|hook| hook.name.as_str())
}
