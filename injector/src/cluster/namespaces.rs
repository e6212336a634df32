//! Labels and annotations of namespaces: a review names the pod's namespace and says nothing more about it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace as Object;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Error as WatchError};
use kube::runtime::{WatchStreamExt, reflector, watcher as watch};
use kube::{Api, Client, ResourceExt};

use super::{ClusterError, call, chain};
use crate::pod::{Metadata, Namespace};

/// A review that waits longer for its namespace would hold up the API server, whose own patience ends at ten seconds.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Labels and annotations that are kept.
const OWN: &str = "weir.dev/";

/// All namespaces of the cluster, as far as they speak to Weir.
#[derive(Clone, Debug)]
pub struct Namespaces {
    known: Store<PartialObjectMeta<Object>>,
    api: Api<Object>,
}

impl Namespaces {
    /// The namespaces, and the task that keeps them up to date; it never ends.
    pub fn watched(client: &Client) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (known, writer) = store();
        let all: Api<PartialObjectMeta<Object>> = Api::all(client.clone());
        let changes = watch(all, watcher::Config::default()).default_backoff().modify(forget_the_rest);
        let follow = async move {
            let changes = reflector(writer, changes);
            let mut changes = std::pin::pin!(changes);
            while let Some(change) = changes.next().await {
                match change {
                    Err(error) if is_routine(&error) => tracing::debug!(reason = %why(&error), "reading namespaces again"),
                    Err(error) => {
                        tracing::warn!(reason = %why(&error), "cannot watch namespaces; decisions go by what is known, and by asking");
                    }
                    Ok(_) => {}
                }
            }
        };
        (Self { known, api: Api::all(client.clone()) }, follow)
    }

    /// Waits until all namespaces have been read once.
    pub async fn complete(&self) {
        // It fails when the task that reads them is gone, and then the process ends.
        let _ = self.known.wait_until_ready().await;
    }

    /// A namespace as the watch knows it, or else as the API server does: one that was created a moment ago is not in the watch.
    ///
    /// # Errors
    ///
    /// When the API server does not know it either, or does not answer.
    pub async fn find(&self, name: &str) -> Result<Namespace, ClusterError> {
        match self.known.get(&ObjectRef::new(name)) {
            Some(known) => Ok(read(name, &known)),
            None => self.ask(name).await,
        }
    }

    /// A namespace as the API server knows it at this moment.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub async fn ask(&self, name: &str) -> Result<Namespace, ClusterError> {
        let what = format!("cannot read namespace `{}`", crate::ports::excerpt(name));
        let found = call(&what, LOOKUP_TIMEOUT, self.api.get_metadata(name)).await?;
        Ok(read(name, &Arc::new(found)))
    }
}

fn read(name: &str, object: &PartialObjectMeta<Object>) -> Namespace {
    let metadata = Metadata { labels: object.labels().clone(), annotations: object.annotations().clone() };
    Namespace { name: name.to_owned(), metadata }
}

/// A cluster may have thousands of namespaces with long annotations of others.
fn forget_the_rest(object: &mut PartialObjectMeta<Object>) {
    object.managed_fields_mut().clear();
    object.labels_mut().retain(|name, _| name.starts_with(OWN));
    object.annotations_mut().retain(|name, _| name.starts_with(OWN));
}

/// Whether a watch merely has to start anew: an API server remembers changes for a few minutes, and none after its start.
pub(super) fn is_routine(error: &WatchError) -> bool {
    matches!(error, WatchError::WatchError(status) if status.code == 410)
}

/// A watch's error in words.
pub(super) fn why(error: &WatchError) -> String {
    match error {
        WatchError::InitialListFailed(error) | WatchError::WatchStartFailed(error) | WatchError::WatchFailed(error) => {
            super::explain(error)
        }
        WatchError::WatchError(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        WatchError::NoResourceVersion => chain(error),
    }
}
