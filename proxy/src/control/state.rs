//! What is kept for the next start: the configuration, the certificate with its key, and the roots.
//!
//! With it a proxy starts and serves while the control plane is gone. In the state directory each pod has a directory of its own
//! (mode 0700) with files that only it can read (mode 0600):
//!
//! - `snapshot`: a line with the format's version, a SHA-256 of the rest, then length-delimited messages: `Hello` (whose it is),
//!   `DiscoveryResponse` (names that do not exist), then each `Resource` as it came over the wire.
//! - `certificate.pem`: the private key and the chain. `roots.pem`: the roots.
//!
//! Files are replaced whole, by renaming. What cannot be read, or is somebody else's, is said in the log and ignored.

mod files;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use prost::Message;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use weir_core::snapshot::{ResourceName, Snapshot};
use weir_proto::v1;
use weir_tls::{Credentials, Roots};

use super::decode;
use super::identity::own_identity;
use super::{Never, valid_now};
use crate::logging::LastSaid;
use crate::settings::{Settings, Workload};

use files::{CERTIFICATE, Damaged, ROOTS, SNAPSHOT};

/// Changes that come close together are written once.
const DEBOUNCE: Duration = Duration::from_millis(250);

/// What was found at the start.
pub(crate) struct Saved {
    /// Keeps what comes from now on.
    pub(super) store: Store,
    /// The configuration.
    pub(super) snapshot: Option<Snapshot>,
    /// The certificate, valid now, and the roots.
    pub(super) identity: Option<(Credentials, Roots)>,
}

impl Saved {
    /// Reads what an earlier process of this workload kept. What is not good is said in the log and left out.
    pub(crate) fn load(settings: &Settings) -> Self {
        let Some(state_dir) = &settings.state_dir else {
            return Self { store: Store::default(), snapshot: None, identity: None };
        };
        let own = format!("{}.{}", settings.workload.namespace, settings.workload.pod);
        let directory = match files::prepare(state_dir, &own) {
            Ok(directory) => directory,
            Err(error) => {
                tracing::warn!(
                    "nothing is kept for the next start: {} cannot be used: {error}; check WEIR_STATE_DIR",
                    state_dir.display()
                );
                return Self { store: Store::default(), snapshot: None, identity: None };
            }
        };
        let mut kept = Kept::default();
        let snapshot = load_snapshot(&directory, settings, &mut kept);
        let identity = load_identity(&directory, settings);
        Self { store: Store { directory: Some(directory), kept: RefCell::new(kept), ..Store::default() }, snapshot, identity }
    }
}

fn load_snapshot(directory: &std::path::Path, settings: &Settings, kept: &mut Kept) -> Option<Snapshot> {
    let path = directory.join(SNAPSHOT);
    let read = files::read(&path)?;
    match read.and_then(|bytes| parse_snapshot(&bytes, settings)) {
        Ok((snapshot, saved)) => {
            tracing::info!(resources = saved.resources.len(), "started with the saved configuration");
            *kept = saved;
            Some(snapshot)
        }
        Err(error) => {
            tracing::warn!("the saved configuration {} is ignored: {error}", path.display());
            None
        }
    }
}

fn parse_snapshot(bytes: &[u8], settings: &Settings) -> Result<(Snapshot, Kept), Damaged> {
    let mut rest = files::checked(bytes)?;
    let whose: v1::Hello = next(&mut rest)?;
    let expected = owner(&settings.workload);
    if owner_key(&whose) != owner_key(&expected) {
        let whose = format!("{}/{} ({})", whose.namespace, whose.pod, whose.service_account);
        return Err(Damaged(format!(
            "it is that of {}",
            whose.chars().take(200).flat_map(char::escape_default).collect::<String>()
        )));
    }
    let mut response: v1::DiscoveryResponse = next(&mut rest)?;
    while !rest.is_empty() {
        response.updated.push(next(&mut rest)?);
    }
    let update = decode::update(&response).map_err(|error| Damaged(error.to_string()))?;
    let snapshot = Snapshot::default().apply(update).map_err(|error| Damaged(error.to_string()))?;
    if let Some(trust) = snapshot.trust()
        && trust.trust_domain != settings.trust_domain
    {
        return Err(Damaged(format!("it is of the trust domain {}", trust.trust_domain)));
    }
    let mut kept = Kept::default();
    kept.note(&response);
    Ok((snapshot, kept))
}

fn next<M: Message + Default>(rest: &mut &[u8]) -> Result<M, Damaged> {
    M::decode_length_delimited(rest).map_err(|error| Damaged(error.to_string()))
}

fn load_identity(directory: &std::path::Path, settings: &Settings) -> Option<(Credentials, Roots)> {
    let path = directory.join(CERTIFICATE);
    let read = files::read(&path)?;
    let roots = files::read(&directory.join(ROOTS)).unwrap_or_else(|| Err(Damaged("roots.pem is missing".into())));
    let parsed = read.and_then(|pem| {
        let pem = String::from_utf8(pem).map_err(|_| Damaged("it is not text".into()))?;
        let credentials = Credentials::from_pem(&pem, &pem).map_err(|error| Damaged(error.to_string()))?;
        let roots = String::from_utf8(roots?).map_err(|_| Damaged("roots.pem is not text".into()))?;
        let roots = Roots::from_pem(settings.trust_domain.clone(), &roots).map_err(|error| Damaged(error.to_string()))?;
        let expected = own_identity(settings);
        if credentials.identity != expected {
            return Err(Damaged(format!("it is that of {}, and this workload is {expected}", credentials.identity)));
        }
        let now = SystemTime::now();
        valid_now(&credentials, now).map_err(Damaged)?;
        roots.verify(&credentials, now).map_err(|error| Damaged(error.to_string()))?;
        Ok((credentials, roots))
    });
    parsed.map_err(|error| tracing::warn!("the saved certificate {} is ignored: {error}", path.display())).ok()
}

/// The workload as the protocol names it; in a stream's Hello, and in the saved snapshot to say whose it is.
pub(super) fn owner(workload: &Workload) -> v1::Hello {
    v1::Hello {
        namespace: workload.namespace.to_string(),
        pod: workload.pod.to_string(),
        service_account: workload.service_account.to_string(),
        pod_ips: workload.pod_ips.iter().map(ToString::to_string).collect(),
        proxy_version: env!("CARGO_PKG_VERSION").into(),
        capabilities: Vec::new(),
        held: Vec::new(),
    }
}

/// A pod that moved to other addresses, or was upgraded, is the same.
fn owner_key(hello: &v1::Hello) -> (&str, &str, &str) {
    (&hello.namespace, &hello.pod, &hello.service_account)
}

/// Keeps what is in force for the next start.
#[derive(Default)]
pub(crate) struct Store {
    /// `None`: nothing is kept.
    directory: Option<PathBuf>,
    kept: RefCell<Kept>,
    changed: Notify,
    said: LastSaid,
}

/// What is to be written.
#[derive(Default)]
struct Kept {
    /// Encoded: a third of the memory of the messages.
    resources: BTreeMap<ResourceName, Vec<u8>>,
    absent: BTreeSet<ResourceName>,
    snapshot_is_new: bool,
    /// Text of `certificate.pem` and `roots.pem`.
    identity: Option<(String, String)>,
}

impl Kept {
    /// Takes over a response that was applied. Names that cannot be read were refused before.
    fn note(&mut self, response: &v1::DiscoveryResponse) {
        for resource in &response.updated {
            let name = resource.name.as_ref().map(decode::resource_name);
            if let Some(Ok(name)) = name {
                self.absent.remove(&name);
                self.resources.insert(name, resource.encode_length_delimited_to_vec());
            }
        }
        for name in response.removed.iter().flat_map(decode::resource_name) {
            self.resources.remove(&name);
            self.absent.insert(name);
        }
        for name in response.forgotten.iter().flat_map(decode::resource_name) {
            self.resources.remove(&name);
            self.absent.remove(&name);
        }
    }

    fn encode(&self, owner: &v1::Hello) -> Vec<u8> {
        let absent = v1::DiscoveryResponse {
            removed: self.absent.iter().map(decode::wire_name).collect(),
            ..v1::DiscoveryResponse::default()
        };
        let mut body = owner.encode_length_delimited_to_vec();
        body.extend(absent.encode_length_delimited_to_vec());
        for resource in self.resources.values() {
            body.extend(resource);
        }
        files::with_checksum(&body)
    }
}

impl Store {
    /// Takes over a response that was applied.
    pub(super) fn note(&self, response: &v1::DiscoveryResponse) {
        if self.directory.is_some() {
            let mut kept = self.kept.borrow_mut();
            kept.note(response);
            kept.snapshot_is_new = true;
            self.changed.notify_one();
        }
    }

    /// Takes over a certificate and roots that are in force.
    pub(super) fn save_identity(&self, credentials: &Credentials, roots: &Roots) {
        if self.directory.is_some() {
            let certificate = credentials.key_pem() + &credentials.chain_pem();
            self.kept.borrow_mut().identity = Some((certificate, roots.pem()));
            self.changed.notify_one();
        }
    }

    /// Writes what changed, for ever.
    pub(super) async fn run(&self, workload: &Workload) -> Never {
        let own = owner(workload);
        let Some(directory) = self.directory.clone() else { return std::future::pending().await };
        loop {
            self.changed.notified().await;
            sleep(DEBOUNCE).await;
            let files = self.take(&own);
            let into = directory.clone();
            // A disk that hangs must not stop the admin page.
            let written = spawn_blocking(move || files::write_all(&into, &files)).await;
            match written.map_err(std::io::Error::other).flatten() {
                Ok(()) => {
                    self.said.is_over();
                }
                Err(error) if self.said.is_news(&error.to_string()) => {
                    tracing::warn!("nothing is kept for the next start: {}: {error}", directory.display());
                }
                Err(_) => {}
            }
        }
    }

    fn take(&self, owner: &v1::Hello) -> Vec<(&'static str, Vec<u8>)> {
        let mut kept = self.kept.borrow_mut();
        let mut files = Vec::new();
        if let Some((certificate, roots)) = kept.identity.take() {
            // Roots first: a certificate never stands beside roots that are older than it.
            files.push((ROOTS, roots.into_bytes()));
            files.push((CERTIFICATE, certificate.into_bytes()));
        }
        if std::mem::take(&mut kept.snapshot_is_new) {
            files.push((SNAPSHOT, kept.encode(owner)));
        }
        files
    }
}
