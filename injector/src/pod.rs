//! What is read of a pod and of its namespace: the few fields that the decision needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Labels and annotations of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    /// Its labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// What it says.
    pub metadata: Metadata,
}

impl Namespace {
    /// Reads a Namespace object.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when a field that is needed has another type than Kubernetes gives it.
    pub fn read(object: &Value) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            name: String,
            #[serde(flatten)]
            metadata: Metadata,
        }
        let named = Named::deserialize(object.get("metadata").unwrap_or(&Value::Null)).map_err(|e| Unreadable(e.to_string()))?;
        Ok(Self { name: named.name, metadata: named.metadata })
    }
}

/// A pod, as far as the injector looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// Labels and annotations.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub metadata: Metadata,
    /// The specification.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub spec: PodSpec,
}

/// The fields of a pod's `spec` that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Whether it shares the node's network.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub host_network: bool,
    /// `Always` where absent; pods that are to end have another.
    pub restart_policy: Option<String>,
    /// Time that its containers are given to end.
    pub termination_grace_period_seconds: Option<i64>,
    /// The operating system it is made for.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub os: Os,
    /// What the containers run as unless they say otherwise.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub security_context: SecurityContext,
    /// Containers that run before the others, in order.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub init_containers: Vec<Container>,
    /// The containers.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub containers: Vec<Container>,
    /// The volumes.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub volumes: Vec<Volume>,
}

/// `spec.os`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Os {
    /// `linux`, `windows`, or empty.
    #[serde(default)]
    pub name: String,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Ports that it says it listens on.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ports: Vec<ContainerPort>,
    /// What it runs as.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub security_context: SecurityContext,
}

/// One port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// The number.
    #[serde(default)]
    pub container_port: i64,
}

/// Who a container runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// The user id, if one is set.
    pub run_as_user: Option<i64>,
}

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Volume {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// An object that is not what it says it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl Pod {
    /// Reads a pod, or the template of a workload, which has the same shape.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] when a field that is needed has another type than Kubernetes gives it.
    pub fn read(object: &Value) -> Result<Self, Unreadable> {
        // The derived readers would take an array for an object, field by field.
        let fits = |part: Option<&Value>| part.is_none_or(|it| it.is_object() || it.is_null());
        if !object.is_object() || !fits(object.get("metadata")) || !fits(object.get("spec")) {
            return Err(Unreadable("it, its metadata or its spec is not a JSON object".into()));
        }
        Self::deserialize(object).map_err(|error| Unreadable(error.to_string()))
    }

    /// Init containers and containers.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }
}

/// The API server writes absent lists and maps as `null` at times.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_is_as_good_as_absent() {
        let pod = json!({"metadata": {"labels": null}, "spec": {"containers": [{"name": "a", "ports": null}], "volumes": null}});
        let pod = Pod::read(&pod).unwrap();
        assert_eq!(pod.spec.containers.len(), 1);
        assert!(pod.metadata.labels.is_empty());
        assert_eq!(Pod::read(&json!({"metadata": null, "spec": null})), Ok(Pod::default()));
    }

    #[test]
    fn what_is_no_pod_is_said_to_be_none() {
        assert!(Pod::read(&json!([1])).is_err());
        assert!(Pod::read(&json!({"spec": [true]})).is_err());
        assert!(Pod::read(&json!({"spec": {"containers": "many"}})).is_err());
    }

    #[test]
    fn a_namespace_is_read_with_its_labels() {
        let object = json!({"metadata": {"name": "shop", "labels": {"weir.dev/inject": "enabled"}}});
        let namespace = Namespace::read(&object).unwrap();
        assert_eq!(namespace.name, "shop");
        assert_eq!(namespace.metadata.labels.len(), 1);
        assert!(Namespace::read(&json!({"metadata": {"labels": 7}})).is_err());
    }
}
