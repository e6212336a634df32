//! Who is connected, for the operator's eyes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// How many streams are served at once. Each costs some kilobytes; ten thousand proxies are more than one replica should have.
pub const MAX_STREAMS: usize = 10_000;

/// The proxies that have a stream.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    inner: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    proxies: BTreeMap<u64, ProxyStatus>,
}

/// A proxy's stream as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// Namespace of its workload.
    pub namespace: String,
    /// Pod of its workload.
    pub pod: String,
    /// Service account of its workload.
    pub service_account: String,
    /// Version of the proxy.
    pub version: String,
    /// Where it calls from.
    pub address: String,
    /// Since when, RFC 3339.
    pub connected_since: String,
    /// When its certificate ends and it must come back with another, RFC 3339.
    pub certificate_ends: String,
    /// How many names it asked for.
    pub subscriptions: usize,
    /// Number of the last response that it was sent.
    pub sent: u64,
    /// The response that it has not answered.
    pub awaiting: Option<u64>,
    /// What it refused and still has not got.
    pub refused: Option<RefusedResponse>,
    /// Version of the trust bundle that it has acknowledged.
    #[serde(skip)]
    pub trust: Option<Arc<str>>,
    /// The roots, DER, that its certificate leads to.
    #[serde(skip)]
    pub roots: Vec<Arc<[u8]>>,
}

/// Connected proxies that are not ready for the next step of a rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// How many proxies are connected.
    pub connected: usize,
    /// How many are behind.
    pub count: usize,
    /// Some of them, as `namespace/pod`.
    pub names: Vec<String>,
}

/// Names of proxies that a log line has room for.
const NAMED: usize = 5;

/// A response that a proxy refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedResponse {
    /// Its number.
    pub sequence: u64,
    /// The resource at fault, if the proxy named one.
    pub resource: Option<String>,
    /// The proxy's reason.
    pub reason: String,
}

impl Proxies {
    /// Enters a proxy. `None`: there are too many.
    #[must_use]
    pub fn enter(&self, status: ProxyStatus) -> Option<Entry> {
        let mut table = self.table();
        if table.proxies.len() >= MAX_STREAMS {
            return None;
        }
        let number = table.next;
        table.next += 1;
        table.proxies.insert(number, status);
        Some(Entry { number, proxies: self.clone() })
    }

    /// All of them, in the order in which they came.
    #[must_use]
    pub fn list(&self) -> Vec<ProxyStatus> {
        self.table().proxies.values().cloned().collect()
    }

    /// Who has not acknowledged the trust bundle of this version, or has a certificate that does not lead to this root.
    #[must_use]
    pub fn behind(&self, trust_version: &str, root: &[u8]) -> Behind {
        let table = self.table();
        let mut behind = Behind { connected: table.proxies.len(), ..Behind::default() };
        for proxy in table.proxies.values() {
            if proxy.trust.as_deref() != Some(trust_version) || !proxy.roots.iter().any(|it| **it == *root) {
                behind.count += 1;
                if behind.names.len() < NAMED {
                    behind.names.push(format!("{}/{}", proxy.namespace, proxy.pod));
                }
            }
        }
        behind
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().proxies.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy's place in the table, given up when it is dropped.
#[derive(Debug)]
pub struct Entry {
    number: u64,
    proxies: Proxies,
}

impl Entry {
    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut ProxyStatus)) {
        if let Some(status) = self.proxies.table().proxies.get_mut(&self.number) {
            change(status);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.proxies.table().proxies.remove(&self.number);
    }
}
