//! Encoded resources, shared by every proxy that sees them alike.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use prost::Message;
use weir_core::names::{BackendRef, Label};
use weir_core::snapshot::{Resource, ResourceName};
use weir_proto::v1;

use super::encode;
use crate::index::Dirty;

/// A resource ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Equal exactly when the body is equal, on every replica and after every restart.
    pub version: Arc<str>,
    /// A whole `weir.v1.Resource`.
    pub bytes: Bytes,
    /// The service ports whose endpoints whoever has it needs as well.
    pub refers: Arc<[BackendRef]>,
}

impl Encoded {
    /// Encodes a resource.
    #[must_use]
    pub fn new(resource: &Resource, refers: impl IntoIterator<Item = BackendRef>) -> Self {
        let mut message = v1::Resource { name: None, version: String::new(), body: Some(encode::body(resource)) };
        let version = version(&message.encode_to_vec());
        message.name = Some(encode::name(&resource.name()));
        message.version.clone_from(&version);
        Self { version: version.into(), bytes: message.encode_to_vec().into(), refers: refers.into_iter().collect() }
    }
}

/// 128 bits of SHA-256 as hexadecimal digits: nobody who can write routes can make two bodies with one version.
fn version(body: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, body);
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// What has been encoded and is still right.
///
/// It holds only what exists, so names that proxies make up cost nothing, and it is never larger than the mesh times the
/// namespaces that have routes of their own to other namespaces' Services.
#[derive(Debug, Default)]
pub struct Resources {
    by_name: HashMap<ResourceName, Vec<View>>,
}

/// A resource as clients in one namespace see it, or as all others do.
#[derive(Debug)]
struct View {
    namespace: Option<Label>,
    encoded: Arc<Encoded>,
}

impl Resources {
    /// The resource as a view sees it, made by `make` where it is not at hand. `None`: it does not exist.
    pub fn find(
        &mut self,
        name: &ResourceName,
        view: Option<&Label>,
        make: impl FnOnce() -> Option<Encoded>,
    ) -> Option<Arc<Encoded>> {
        let mut views = self.by_name.get(name).into_iter().flatten();
        if let Some(found) = views.find(|it| it.namespace.as_ref() == view) {
            return Some(Arc::clone(&found.encoded));
        }
        let made = Arc::new(make()?);
        self.by_name.entry(name.clone()).or_default().push(View { namespace: view.cloned(), encoded: Arc::clone(&made) });
        Some(made)
    }

    /// Drops what may be wrong now.
    pub fn forget(&mut self, dirty: &Dirty) {
        for service in &dirty.services {
            self.by_name.remove(&ResourceName::Service(service.clone()));
        }
        for ip in &dirty.addresses {
            self.by_name.remove(&ResourceName::Address(*ip));
        }
        if dirty.trust {
            self.by_name.remove(&ResourceName::Trust);
        }
        if !dirty.endpoints.is_empty() {
            self.by_name.retain(|name, _| match name {
                ResourceName::Endpoints(backend) => !dirty.endpoints.contains(&backend.service),
                ResourceName::Service(_) | ResourceName::Address(_) | ResourceName::Inbound | ResourceName::Trust => true,
            });
        }
    }

    /// How many are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.values().map(Vec::len).sum::<usize>()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}
