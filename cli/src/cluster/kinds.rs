//! Where objects of a kind stand in the API.

use serde_json::Value;

/// A kind of object that an installation consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    name: &'static str,
    /// API group, empty for the core.
    pub(crate) group: &'static str,
    version: &'static str,
    /// As it stands in paths and roles.
    pub(crate) resource: &'static str,
    /// Whether it stands in a namespace.
    pub(crate) is_namespaced: bool,
}

const fn kind(name: &'static str, group: &'static str, resource: &'static str, is_namespaced: bool) -> Kind {
    Kind { name, group, version: "v1", resource, is_namespaced }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

const KINDS: [Kind; 17] = [
    kind("Namespace", "", "namespaces", false),
    kind("NetworkPolicy", "networking.k8s.io", "networkpolicies", true),
    kind("PodDisruptionBudget", "policy", "poddisruptionbudgets", true),
    kind("ServiceAccount", "", "serviceaccounts", true),
    kind("CustomResourceDefinition", "apiextensions.k8s.io", "customresourcedefinitions", false),
    kind("ClusterRole", RBAC, "clusterroles", false),
    kind("ClusterRoleBinding", RBAC, "clusterrolebindings", false),
    kind("Role", RBAC, "roles", true),
    kind("RoleBinding", RBAC, "rolebindings", true),
    kind("Service", "", "services", true),
    kind("Deployment", "apps", "deployments", true),
    kind("MutatingWebhookConfiguration", ADMISSION, "mutatingwebhookconfigurations", false),
    kind("ValidatingWebhookConfiguration", ADMISSION, "validatingwebhookconfigurations", false),
    kind("PodMonitor", "monitoring.coreos.com", "podmonitors", true),
    kind("Secret", "", "secrets", true),
    kind("ConfigMap", "", "configmaps", true),
    kind("Lease", "coordination.k8s.io", "leases", true),
];

impl Kind {
    /// The kind of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name == name)
    }

    /// The kind of an object.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        Self::named(object.get("kind")?.as_str()?)
    }

    /// `apps/v1`, `v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Path of an object of this kind.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let inside = if self.is_namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        format!("{root}/{}{inside}/{}/{name}", self.api_version(), self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let path = |kind: &str| Kind::named(kind).unwrap().path("n", "x");
        assert_eq!(path("Namespace"), "/api/v1/namespaces/x");
        assert_eq!(path("Secret"), "/api/v1/namespaces/n/secrets/x");
        assert_eq!(path("Deployment"), "/apis/apps/v1/namespaces/n/deployments/x");
        assert_eq!(path("ClusterRole"), "/apis/rbac.authorization.k8s.io/v1/clusterroles/x");
    }

    #[test]
    fn every_object_of_an_installation_is_of_a_known_kind() {
        for object in crate::install::chart::defaults("weir-system").unwrap() {
            let kind = Kind::of(&object.value).unwrap_or_else(|| panic!("{}", object.value));
            assert_eq!(kind.api_version(), object.at("/apiVersion"));
            assert_eq!(kind.is_namespaced, !object.at("/metadata/namespace").is_empty(), "{}", object.value);
        }
    }
}
