//! The containers and volumes that a pod is given.

use serde_json::{Map, Value, json};

use crate::installation::{Installation, Placement};
use crate::pod::Pod;
use crate::ports::PortSet;
use crate::probes::{self, Probes};
use crate::quantity::Quantity;
use crate::settings::{LogFormat, Resources, Settings};

/// User and group of the sidecar. Redirection tells the sidecar's own traffic by it.
pub const USER: u32 = 15400;
/// Name of the sidecar.
pub const PROXY: &str = "weir-proxy";
/// Name of the container that redirects the pod's traffic.
pub const INIT: &str = "weir-init";
/// Both.
pub const CONTAINERS: [&str; 2] = [INIT, PROXY];
/// Saved configuration and certificate.
const STATE: &str = "weir-state";
/// Token and trust bundle.
const IDENTITY: &str = "weir-identity";
/// Both.
pub const VOLUMES: [&str; 2] = [STATE, IDENTITY];
/// Where the sidecar answers `/ready`, `/live` and `/metrics`.
pub const ADMIN_PORT: u16 = 15420;
/// Where redirection sends what the workload opens, and what others open to it.
const OUTBOUND_PORT: u16 = 15401;
const INBOUND_PORT: u16 = 15406;
/// Outbound, inbound, admin.
pub const PORTS: [u16; 3] = [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT];
/// The setting of [`INIT`] with the ports that do not pass the sidecar.
pub const SKIP_INBOUND_PORTS: &str = "WEIR_SKIP_INBOUND_PORTS";

const STATE_PATH: &str = "/var/run/weir/state";
const IDENTITY_PATH: &str = "/var/run/weir/identity";

/// A token is renewed by the kubelet when four fifths of this are over, and used whenever a certificate is asked for.
const TOKEN_SECONDS: u32 = 3600;
/// The saved configuration of a workload that calls thousands of services stays far below. Memory-backed, since it holds a
/// private key that must not reach a disk.
const STATE_SIZE: &str = "64Mi";

/// Kubernetes' `terminationGracePeriodSeconds` where a pod says nothing.
const GRACE_SECONDS: i64 = 30;
/// What an ordinary container leaves of the grace period: enough to end by itself, and not by SIGKILL.
const GRACE_MARGIN_SECONDS: i64 = 2;
/// An ordinary container is told to end together with the application and does not learn when that has ended. So long it waits
/// for another connection of it.
const QUIET_SECONDS: i64 = 5;
/// And so long it takes connections of others as before: they need a moment to learn that the pod goes, and the application's own
/// preStop hook may be waiting for just that.
const DELAY_SECONDS: i64 = 5;
/// The longest drain that the sidecar takes for meant.
const MAX_DRAIN_SECONDS: i64 = 86_400;

/// The sidecar.
#[must_use]
pub fn proxy(pod: &Pod, settings: &Settings, installation: &Installation, probes: &Probes) -> Value {
    let mut container = base(PROXY, settings, installation);
    container.extend(object(json!({
        "env": environment(pod, settings, installation, probes),
        "ports": [{"name": "weir-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": probe("/ready", &Probe { period_seconds: 1, failures: 300 }),
        "readinessProbe": probe("/ready", &Probe { period_seconds: 2, failures: 3 }),
        "livenessProbe": probe("/live", &Probe { period_seconds: 10, failures: 6 }),
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": STATE, "mountPath": STATE_PATH},
            {"name": IDENTITY, "mountPath": IDENTITY_PATH, "readOnly": true},
        ],
    })));
    if installation.kubernetes.placement() == Placement::NativeSidecar {
        container.insert("restartPolicy".into(), "Always".into());
    }
    Value::Object(container)
}

/// The container that redirects the pod's traffic into the sidecar and ends. It alone needs a capability.
#[must_use]
pub fn init(settings: &Settings, installation: &Installation) -> Value {
    let networks: Vec<String> = settings.skip_outbound_networks.iter().map(ToString::to_string).collect();
    // Probes and scrapes of the sidecar itself go to it directly.
    let skip_inbound = settings.skip_inbound_ports.union(&PortSet::of(&[ADMIN_PORT]));
    let mut container = base(INIT, settings, installation);
    let mut environment = entries(json!([
        // Said although they are the defaults: a Service that is called `weir-outbound` sets WEIR_OUTBOUND_PORT in every pod
        // of its namespace, to an address.
        {"name": "WEIR_OUTBOUND_PORT", "value": OUTBOUND_PORT.to_string()},
        {"name": "WEIR_INBOUND_PORT", "value": INBOUND_PORT.to_string()},
        {"name": "WEIR_ADMIN_PORT", "value": ADMIN_PORT.to_string()},
        {"name": SKIP_INBOUND_PORTS, "value": skip_inbound.to_string()},
        {"name": "WEIR_SKIP_OUTBOUND_PORTS", "value": settings.skip_outbound_ports.to_string()},
        {"name": "WEIR_SKIP_OUTBOUND_CIDRS", "value": networks.join(",")},
        {"name": "WEIR_PROXY_UID", "value": USER.to_string()},
        {"name": "WEIR_LOG_LEVEL", "value": settings.log_level.as_str()},
    ]));
    environment.extend(log_format(installation));
    container.extend(object(json!({
        "args": ["init"],
        "env": environment,
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })));
    Value::Object(container)
}

/// The volumes that the sidecar mounts.
#[must_use]
pub fn volumes(installation: &Installation) -> [Value; 2] {
    let token = json!({"audience": "weir", "expirationSeconds": TOKEN_SECONDS, "path": "token"});
    let bundle = json!({"name": installation.trust_bundle, "items": [{"key": "ca.crt", "path": "ca.crt"}]});
    [
        json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}}),
        json!({"name": IDENTITY, "projected": {"sources": [{"serviceAccountToken": token}, {"configMap": bundle}]}}),
    ]
}

/// What the annotation `weir.dev/status` says: enough to take everything out again.
#[must_use]
pub fn status(installation: &Installation) -> String {
    json!({
        "version": installation.version,
        "placement": installation.kubernetes.placement().as_str(),
        "containers": CONTAINERS,
        "volumes": VOLUMES,
    })
    .to_string()
}

/// What both containers have in common. The last words of a container that fails are its log, so that `kubectl describe`
/// shows them.
fn base(name: &str, settings: &Settings, installation: &Installation) -> Map<String, Value> {
    let mut container = object(json!({
        "name": name,
        "image": installation.image,
        "resources": resources(&settings.resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }));
    if !installation.image_pull_policy.is_empty() {
        container.insert("imagePullPolicy".into(), installation.image_pull_policy.as_str().into());
    }
    container
}

fn environment(pod: &Pod, settings: &Settings, installation: &Installation, probes: &Probes) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut environment = vec![
        field("WEIR_POD_NAME", "metadata.name"),
        field("WEIR_POD_NAMESPACE", "metadata.namespace"),
        field("WEIR_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("WEIR_POD_IP", "status.podIPs"),
        value("WEIR_CONTROL_PLANE", &installation.control_plane),
        value("WEIR_TRUST_DOMAIN", &installation.trust_domain),
        value("WEIR_CLUSTER_DOMAIN", &installation.cluster_domain),
        value("WEIR_TRUST_BUNDLE", &format!("{IDENTITY_PATH}/ca.crt")),
        value("WEIR_TOKEN", &format!("{IDENTITY_PATH}/token")),
        value("WEIR_STATE_DIR", STATE_PATH),
        value("WEIR_EXPECT_REDIRECTION", "true"),
        value("WEIR_LOG_LEVEL", settings.log_level.as_str()),
    ];
    environment.extend(log_format(installation));
    if installation.kubernetes.placement() == Placement::Container {
        let grace = pod.spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS);
        let drain = grace.saturating_sub(GRACE_MARGIN_SECONDS).clamp(1, MAX_DRAIN_SECONDS);
        environment.push(value("WEIR_DRAIN_TIMEOUT", &format!("{drain}s")));
        environment.push(value("WEIR_DRAIN_DELAY", &format!("{}s", DELAY_SECONDS.min(drain / 2))));
        environment.push(value("WEIR_DRAIN_QUIET", &format!("{QUIET_SECONDS}s")));
    }
    if !probes.is_empty() {
        environment.push(value(probes::VARIABLE, &probes.to_text()));
    }
    environment.into()
}

/// How log lines look, where that is not the default.
fn log_format(installation: &Installation) -> Option<Value> {
    let format = installation.sidecars.log_format;
    (format != LogFormat::default()).then(|| json!({"name": "WEIR_LOG_FORMAT", "value": format.as_str()}))
}

/// How often a probe asks, and after how many failures it gives up.
struct Probe {
    period_seconds: u32,
    failures: u32,
}

fn probe(path: &str, probe: &Probe) -> Value {
    json!({
        "httpGet": {"path": path, "port": ADMIN_PORT},
        "periodSeconds": probe.period_seconds,
        "failureThreshold": probe.failures,
        "timeoutSeconds": 2,
    })
}

fn resources(resources: &Resources) -> Value {
    json!({
        "requests": amounts(resources.cpu_request.as_ref(), resources.memory_request.as_ref()),
        "limits": amounts(resources.cpu_limit.as_ref(), resources.memory_limit.as_ref()),
    })
}

fn amounts(cpu: Option<&Quantity>, memory: Option<&Quantity>) -> Value {
    let set = [("cpu", cpu), ("memory", memory)].into_iter();
    set.filter_map(|(name, amount)| Some((name, amount?.to_string()))).collect()
}

/// The items of an array written as a literal.
fn entries(literal: Value) -> Vec<Value> {
    if let Value::Array(items) = literal { items } else { Vec::new() }
}

/// The members of an object written as a literal.
fn object(literal: Value) -> Map<String, Value> {
    if let Value::Object(members) = literal { members } else { Map::new() }
}
