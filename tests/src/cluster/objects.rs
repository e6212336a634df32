//! Objects of the scenarios: the test application in Deployments, Jobs and Pods, Services and routes.

use serde_json::{Value, json};

/// Image of `weir-test-app`.
pub const IMAGE: &str = "weir-test-app:dev";
/// Port on which applications serve HTTP.
pub const HTTP: u16 = 8080;

/// An application to be.
#[derive(Clone, Debug)]
pub struct App {
    name: String,
    version: String,
    replicas: u32,
    account: String,
    metadata: Value,
    spec: Value,
}

impl App {
    /// The test application with these arguments, under an account of its own name.
    #[must_use]
    pub fn running(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            version: "v1".to_owned(),
            replicas: 1,
            account: name.to_owned(),
            metadata: json!({"labels": {}, "annotations": {}}),
            spec: json!({
                "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "app",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "args": arguments,
                    "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                    "securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true},
                }],
            }),
        }
    }

    /// A server of HTTP that is ready when it says so.
    #[must_use]
    pub fn serving(name: &str) -> Self {
        let port = HTTP.to_string();
        Self::running(name, &["serve", "--name", name, "--http", &port]).probe("readinessProbe", &ready())
    }

    /// A program that does nothing until somebody executes something in its pod.
    #[must_use]
    pub fn idle(name: &str) -> Self {
        Self::running(name, &["serve", "--name", name, "--http", "8080"])
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        if let Some(arguments) = self.container()["args"].as_array_mut() {
            arguments.push(argument.into());
        }
        self
    }

    /// Another version of the same application.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self.arg("--version").arg(version)
    }

    /// This many pods.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Another account than that of its name.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.account);
        self
    }

    /// A label of its pods.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.metadata["labels"][name] = value.into();
        self
    }

    /// An annotation of its pods.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.metadata["annotations"][name] = value.into();
        self
    }

    /// `readinessProbe`, `livenessProbe` or `startupProbe`.
    #[must_use]
    pub fn probe(self, kind: &str, probe: &Value) -> Self {
        self.with(|container| container[kind] = probe.clone())
    }

    /// Changes its container.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(self.container());
        self
    }

    /// Changes the specification of its pods.
    #[must_use]
    pub fn pod(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self
    }

    fn container(&mut self) -> &mut Value {
        &mut self.spec["containers"][0]
    }

    /// Name of its Deployment: one for each version.
    #[must_use]
    pub fn deployment_name(&self) -> String {
        if self.version == "v1" { self.name.clone() } else { format!("{}-{}", self.name, self.version) }
    }

    fn account_object(&self) -> Value {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.account}})
    }

    fn template(&self) -> Value {
        let mut template = json!({"metadata": self.metadata, "spec": self.spec});
        template["metadata"]["labels"]["app"] = self.name.as_str().into();
        template["metadata"]["labels"]["version"] = self.version.as_str().into();
        template["spec"]["serviceAccountName"] = self.account.as_str().into();
        template
    }

    /// Its account and a Deployment.
    #[must_use]
    pub fn deployment(&self) -> Vec<Value> {
        let labels = json!({"app": self.name, "version": self.version});
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.deployment_name()},
            "spec": {"replicas": self.replicas, "selector": {"matchLabels": labels}, "template": self.template()},
        });
        vec![self.account_object(), deployment]
    }

    /// Its account and a StatefulSet behind the headless Service of the same name.
    #[must_use]
    pub fn stateful_set(&self) -> Vec<Value> {
        let set = json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "serviceName": self.name,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": self.name}},
                "template": self.template(),
            },
        });
        vec![self.account_object(), set]
    }

    /// Its account and a Job of as many pods as it has replicas, none of which may fail.
    #[must_use]
    pub fn job(&self) -> Vec<Value> {
        let mut template = self.template();
        template["spec"]["restartPolicy"] = "Never".into();
        let job = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": self.name},
            "spec": {"completions": self.replicas, "parallelism": self.replicas, "backoffLimit": 0, "template": template},
        });
        vec![self.account_object(), job]
    }

    /// Its account and a single Pod that is not started again.
    #[must_use]
    pub fn single(&self) -> Vec<Value> {
        let mut pod = self.template();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = self.name.as_str().into();
        pod["spec"]["restartPolicy"] = "Never".into();
        vec![self.account_object(), pod]
    }
}

/// A readiness probe that asks the application itself.
#[must_use]
pub fn ready() -> Value {
    http_probe("/health/ready", HTTP)
}

/// A probe over HTTP that gives up after one failure.
#[must_use]
pub fn http_probe(path: &str, port: u16) -> Value {
    json!({"httpGet": {"path": path, "port": port}, "periodSeconds": 1, "failureThreshold": 1})
}

/// A Service of port 80 before the pods of an application, all versions of it.
#[must_use]
pub fn service(name: &str) -> Value {
    service_for(name, &json!({"app": name}), &json!([{"name": "http", "port": 80, "targetPort": HTTP, "appProtocol": "http"}]))
}

/// A Service of port 80 before one version.
#[must_use]
pub fn version_service(app: &str, version: &str) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": HTTP, "appProtocol": "http"}]);
    service_for(&format!("{app}-{version}"), &json!({"app": app, "version": version}), &ports)
}

/// Any Service with a selector.
#[must_use]
pub fn service_for(name: &str, selector: &Value, ports: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": selector, "ports": ports}})
}

/// An HTTPRoute of a Service that splits by weight.
#[must_use]
pub fn split(name: &str, parent: &str, weights: &[(&str, u32)]) -> Value {
    let backends: Vec<Value> = weights.iter().map(|(name, weight)| json!({"name": name, "port": 80, "weight": weight})).collect();
    route(name, parent, &json!([{"backendRefs": backends}]))
}

/// An HTTPRoute of a Service with these rules.
#[must_use]
pub fn route(name: &str, parent: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": parent, "port": 80}], "rules": rules},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_written_as_kubernetes_wants_it() {
        let app = App::serving("catalog").version("v2").replicas(3).annotation("weir.dev/mtls", "strict");
        let deployment = &app.deployment()[1];
        assert_eq!(deployment["metadata"]["name"], "catalog-v2");
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"], json!({"app": "catalog", "version": "v2"}));
        assert_eq!(template["metadata"]["annotations"]["weir.dev/mtls"], "strict");
        assert_eq!(template["spec"]["serviceAccountName"], "catalog");
        assert_eq!(template["spec"]["containers"][0]["args"][6], "v2");
        assert_eq!(app.job()[1]["spec"]["template"]["spec"]["restartPolicy"], "Never");
    }
}
