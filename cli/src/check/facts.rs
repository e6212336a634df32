//! What was seen in the cluster, before anybody says what it means.

use super::objects::{ConfigMap, Crd, Deployment, Diagnostic, Event, Lease, Object, Pod, Proxy, Route, Secret, Webhooks};
use crate::cluster::Failure;

/// What a question led to.
pub(super) type Answer<T> = Result<T, Failure>;

/// What counts before and after installing.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// Namespace of the mesh.
    pub(super) namespace: String,
    /// This machine's clock, as Unix time.
    pub(super) now: i64,
    pub(super) server: Answer<Server>,
    /// Of the Gateway API.
    pub(super) crds: Answer<Vec<Crd>>,
    /// What kubelets write every ten seconds, with their own clocks.
    pub(super) node_leases: Answer<Vec<Lease>>,
}

/// The API server.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) address: String,
    /// `v1.34.4`
    pub(super) version: String,
    /// Its clock, as Unix time.
    pub(super) date: Option<i64>,
}

/// What counts before installing.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) permissions: Answer<Vec<Permission>>,
    /// Objects of an installation that are there already.
    pub(super) existing: Answer<Vec<Existing>>,
}

/// Something that whoever installs must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permission {
    pub(super) verb: &'static str,
    pub(super) group: String,
    pub(super) resource: String,
    /// Empty for the whole cluster.
    pub(super) namespace: String,
    pub(super) is_allowed: bool,
}

/// An object that has a name of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) kind: String,
    pub(super) name: String,
    /// Of the mesh that it belongs to, where it says so.
    pub(super) mesh_namespace: Option<String>,
    /// What it says of its version.
    pub(super) version: String,
}

/// What counts after installing.
#[derive(Clone, Debug)]
pub(super) struct After {
    /// Version of this program.
    pub(super) version: String,
    pub(super) control_plane: Answer<Deployment>,
    pub(super) injector: Answer<Deployment>,
    /// Pods of both.
    pub(super) mesh_pods: Answer<Vec<Pod>>,
    /// What went wrong with them lately, as the cluster's parts say.
    pub(super) events: Answer<Vec<Event>>,
    /// What the service accounts of both may do of what they must.
    pub(super) access: Answer<Vec<Access>>,
    pub(super) mutating: Answer<Webhooks>,
    pub(super) validating: Answer<Webhooks>,
    /// `weir-injector-tls`
    pub(super) injector_secret: Answer<Secret>,
    pub(super) probes: Vec<Probe>,
    /// `weir-ca`
    pub(super) authority: Answer<Secret>,
    /// `weir-trust-bundle` of all namespaces.
    pub(super) bundles: Answer<Vec<ConfigMap>>,
    pub(super) namespaces: Answer<Vec<Object>>,
    /// All of the cluster.
    pub(super) pods: Answer<Vec<Pod>>,
    pub(super) replicas: Vec<Replica>,
    pub(super) routes: Answer<Vec<Route>>,
}

/// Something that a service account must be allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) service_account: String,
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    /// Of the object, if only that one is meant.
    pub(super) name: String,
    /// Empty for the whole cluster.
    pub(super) namespace: String,
    pub(super) is_allowed: bool,
}

/// A pod that was nearly created, to see what the webhook does to it.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) namespace: String,
    /// As it would have been created.
    pub(super) answer: Answer<Pod>,
}

/// What a replica of the control plane says.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) pod: String,
    /// Status and text of `/ready`.
    pub(super) ready: Answer<(u16, String)>,
    /// A proxy awaits only what it has not answered for a while.
    pub(super) proxies: Answer<Vec<Proxy>>,
    pub(super) diagnostics: Answer<Vec<Diagnostic>>,
}
