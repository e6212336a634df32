//! What is watched, and what of it is read. Another kind is another entry here and in `weir_objects`.

use super::prune::Keep;
use crate::objects::Kind;
use crate::objects::backend_tls::CA_KEY;

/// A kind of objects that is watched.
#[derive(Debug)]
pub struct Watched {
    /// The kind.
    pub kind: Kind,
    /// Its API group, empty for the core.
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    /// Its definition may be installed or not; everything else serves without it.
    pub optional: bool,
    /// What of an object is read.
    pub(super) keep: Keep,
}

impl Watched {
    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Where all of its objects are listed.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.root(), self.plural)
    }

    /// Where the objects of a namespace are.
    #[must_use]
    pub fn path_in(&self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.root(), self.plural)
    }

    fn root(&self) -> String {
        if self.group.is_empty() { format!("/api/{}", self.version) } else { format!("/apis/{}/{}", self.group, self.version) }
    }
}

/// How a kind is watched.
#[must_use]
pub fn watched(kind: Kind) -> Option<&'static Watched> {
    WATCHED.iter().find(|it| it.kind == kind)
}

/// All kinds that are watched.
pub static WATCHED: [Watched; 12] = [
    Watched { kind: Kind::Namespace, group: "", version: "v1", plural: "namespaces", optional: false, keep: NAMESPACE },
    Watched { kind: Kind::Pod, group: "", version: "v1", plural: "pods", optional: false, keep: POD },
    Watched { kind: Kind::Service, group: "", version: "v1", plural: "services", optional: false, keep: SERVICE },
    Watched {
        kind: Kind::EndpointSlice,
        group: "discovery.k8s.io",
        version: "v1",
        plural: "endpointslices",
        optional: false,
        keep: SLICE,
    },
    Watched { kind: Kind::HttpRoute, group: GATEWAY, version: "v1", plural: "httproutes", optional: true, keep: ROUTE },
    Watched { kind: Kind::GrpcRoute, group: GATEWAY, version: "v1", plural: "grpcroutes", optional: true, keep: ROUTE },
    Watched { kind: Kind::TlsRoute, group: GATEWAY, version: "v1", plural: "tlsroutes", optional: true, keep: ROUTE },
    Watched { kind: Kind::TcpRoute, group: GATEWAY, version: "v1", plural: "tcproutes", optional: true, keep: ROUTE },
    Watched {
        kind: Kind::TrafficPolicy,
        group: "weir.dev",
        version: "v1alpha1",
        plural: "trafficpolicies",
        optional: true,
        keep: POLICY,
    },
    Watched {
        kind: Kind::BackendTlsPolicy,
        group: GATEWAY,
        version: "v1",
        plural: "backendtlspolicies",
        optional: true,
        keep: POLICY,
    },
    Watched {
        kind: Kind::BackendTrafficPolicy,
        group: "gateway.networking.x-k8s.io",
        version: "v1alpha1",
        plural: "xbackendtrafficpolicies",
        optional: true,
        keep: POLICY,
    },
    Watched { kind: Kind::ConfigMap, group: "", version: "v1", plural: "configmaps", optional: false, keep: CONFIG_MAP },
];

const GATEWAY: &str = "gateway.networking.k8s.io";

/// Without `managedFields`, which are the half of many objects.
const METADATA: Keep = Keep::Only(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("labels", Keep::All),
    ("annotations", Keep::All),
    ("generation", Keep::All),
    ("creationTimestamp", Keep::All),
    ("deletionTimestamp", Keep::All),
    ("resourceVersion", Keep::All),
    ("uid", Keep::All),
]);

const NAMESPACE: Keep = Keep::Only(&[("metadata", METADATA)]);

const POD: Keep = Keep::Only(&[
    ("metadata", METADATA),
    ("spec", Keep::Only(&[("serviceAccountName", Keep::All), ("hostNetwork", Keep::All)])),
    ("status", Keep::Only(&[("podIP", Keep::All), ("podIPs", Keep::All), ("phase", Keep::All)])),
]);

const SERVICE: Keep = Keep::Only(&[("metadata", METADATA), ("spec", Keep::All)]);

const SLICE: Keep =
    Keep::Only(&[("metadata", METADATA), ("addressType", Keep::All), ("endpoints", Keep::All), ("ports", Keep::All)]);

const ROUTE: Keep = Keep::Only(&[("metadata", METADATA), ("spec", Keep::All), ("status", Keep::Only(&[("parents", Keep::All)]))]);

const POLICY: Keep =
    Keep::Only(&[("metadata", METADATA), ("spec", Keep::All), ("status", Keep::Only(&[("ancestors", Keep::All)]))]);

/// CA certificates that BackendTLSPolicies name. Whatever else is in ConfigMaps is passed over while it is read.
const CONFIG_MAP: Keep = Keep::Only(&[("metadata", NAME), ("data", Keep::Only(&[(CA_KEY, Keep::All)]))]);

const NAME: Keep = Keep::Only(&[("name", Keep::All), ("namespace", Keep::All), ("resourceVersion", Keep::All)]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_where_kubernetes_has_them() {
        let path = |kind| watched(kind).map(Watched::path).unwrap_or_default();
        assert_eq!(path(Kind::Pod), "/api/v1/pods");
        assert_eq!(path(Kind::EndpointSlice), "/apis/discovery.k8s.io/v1/endpointslices");
        let traffic = "/apis/gateway.networking.x-k8s.io/v1alpha1/xbackendtrafficpolicies";
        assert_eq!(path(Kind::BackendTrafficPolicy), traffic);
        let route = watched(Kind::GrpcRoute).unwrap();
        assert_eq!(route.path_in("shop"), "/apis/gateway.networking.k8s.io/v1/namespaces/shop/grpcroutes");
        assert_eq!(route.api_version(), "gateway.networking.k8s.io/v1");
    }
}
