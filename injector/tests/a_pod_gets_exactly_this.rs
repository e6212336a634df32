//! The pods that come out, kept as files: a change of what is injected is seen in review.
#![expect(clippy::expect_used, reason = "a test's helpers")]

mod support;

use serde_json::{Value, json};
use support::{answered, apply, shop};
use weir_injector::installation::{Installation, KubernetesVersion};

fn injected(pod: &Value, annotations: &Value, kubernetes: KubernetesVersion) -> Value {
    let installation = Installation {
        version: "1.2.3".into(),
        image: "registry.example/weir-proxy:1.2.3".into(),
        kubernetes,
        ..Installation::default()
    };
    let (review, patch) = answered(pod, &shop(annotations), &installation).expect("an answer");
    assert_eq!(review.pointer("/response/allowed"), Some(&json!(true)), "{review}");
    apply(pod.clone(), &patch.expect("a patch")).expect("the patch fits")
}

const NATIVE: KubernetesVersion = KubernetesVersion { major: 1, minor: 29 };
const OLDER: KubernetesVersion = KubernetesVersion { major: 1, minor: 28 };

#[test]
fn the_smallest_pod() {
    let pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app", "image": "web:1"}]}});
    insta::assert_yaml_snapshot!(injected(&pod, &Value::Null, NATIVE));
}

#[test]
fn a_pod_with_init_containers_volumes_and_annotations() {
    let pod = json!({
        "metadata": {"name": "shop-0", "annotations": {"weir.dev/skip-outbound-ports": "3306", "team": "shop"}},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "migrate:1"}, {"name": "warm", "image": "warm:1"}],
            "containers": [{"name": "app", "image": "shop:1", "ports": [{"containerPort": 8080}]}, {"name": "log", "image": "log:1"}],
            "securityContext": {"runAsNonRoot": true, "fsGroup": 2000},
            "volumes": [{"name": "data", "emptyDir": {}}],
            "serviceAccountName": "shop",
        },
    });
    let namespace = json!({
        "weir.dev/skip-inbound-ports": "9090,9000-9010",
        "weir.dev/skip-outbound-ports": "25",
        "weir.dev/skip-outbound-cidrs": "169.254.169.254,fd00::/8",
        "weir.dev/proxy-cpu-limit": "2",
        "weir.dev/proxy-memory-request": "512Mi",
        "weir.dev/proxy-log-level": "debug",
    });
    insta::assert_yaml_snapshot!(injected(&pod, &namespace, NATIVE));
}

#[test]
fn a_pod_of_a_cluster_without_native_sidecars() {
    let pod = json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"initContainers": [{"name": "migrate"}], "containers": [{"name": "app"}]},
    });
    insta::assert_yaml_snapshot!(injected(&pod, &Value::Null, OLDER));
}

#[test]
fn a_pod_with_probes_and_hooks() {
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {
            "containers": [{
                "name": "app",
                "ports": [{"name": "web", "containerPort": 8080}],
                "startupProbe": {"exec": {"command": ["test", "-e", "/ready"]}},
                "readinessProbe": {"httpGet": {"port": "web", "path": "/healthz", "scheme": "HTTPS"}, "timeoutSeconds": 3},
                "livenessProbe": {"grpc": {"port": 9090}, "periodSeconds": 5},
                "lifecycle": {"preStop": {"httpGet": {"port": 8080, "path": "/bye"}}},
            }],
        },
    });
    insta::assert_yaml_snapshot!(injected(&pod, &Value::Null, NATIVE));
}

#[test]
fn a_refused_pod() {
    let pod = json!({
        "metadata": {"annotations": {"weir.dev/mtls": "yes", "weir.dev/proxy-memory-limit": "64MB"}},
        "spec": {"containers": [{"name": "app", "ports": [{"containerPort": 15420}]}]},
    });
    let (review, patch) = answered(&pod, &shop(&Value::Null), &Installation::default()).expect("an answer");
    assert_eq!(patch, None);
    insta::assert_yaml_snapshot!(review);
}

#[test]
fn a_pod_that_asks_in_vain_is_told_why() {
    let pod = json!({"metadata": {"labels": {"weir.dev/inject": "enabled"}}, "spec": {"hostNetwork": true, "containers": []}});
    let (review, patch) = answered(&pod, &shop(&Value::Null), &Installation::default()).expect("an answer");
    assert_eq!(patch, None);
    insta::assert_yaml_snapshot!(review);
}
