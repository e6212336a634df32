//! Whether a pod gets a sidecar.

use std::fmt;

use crate::installation::{Installation, Placement};
use crate::names;
use crate::pod::{Container, Metadata, Namespace, Pod};
use crate::ports::excerpt;
use crate::settings::{INJECT, InvalidSetting, Owner, STATUS, Settings};
use crate::sidecar;

/// What is to be done with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It gets a sidecar with these settings.
    Inject(Box<Settings>),
    /// It stays as it is.
    Skip(SkipReason),
    /// It cannot be admitted as it is: everything that has to be changed first.
    Refuse(Vec<Refusal>),
}

/// Why a pod stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason {
    /// The namespace belongs to the cluster or to the mesh itself, which must start without a mesh.
    #[error("namespace `{0}` is one of those that never get sidecars: the cluster and the mesh itself must start without them")]
    SystemNamespace(String),
    /// A static pod's mirror, which cannot be changed.
    #[error("it mirrors a static pod, which only its node can change")]
    MirrorPod,
    /// It has a sidecar.
    #[error("it has one already")]
    AlreadyInjected,
    /// It shares the node's network, where redirection would catch the node's own traffic.
    #[error("it has hostNetwork, and redirecting its traffic would redirect the node's")]
    HostNetwork,
    /// It is made for another operating system.
    #[error("it is made for `{0}`, and the sidecar runs on Linux")]
    NotLinux(String),
    /// Pod or namespace said no.
    #[error("{INJECT} of {0} is `disabled`")]
    Disabled(Owner),
    /// Nobody asked.
    #[error("neither the pod nor its namespace has {INJECT}: enabled")]
    NotAsked,
}

impl SkipReason {
    /// Whether the pod's author, who asked for a sidecar, should be told that there will be none.
    #[must_use]
    pub fn surprises(&self, pod: &Pod) -> bool {
        let asked = Word::of(&pod.metadata, &Owner::Pod) == Ok(Some(Word::Enabled));
        asked && !matches!(self, Self::AlreadyInjected | Self::MirrorPod)
    }
}

/// One thing that keeps a pod from being admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An annotation or label with a value that means nothing.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The pod uses a name that the sidecar needs.
    #[error("{kind} `{name}` has the name of one that weir adds; rename it")]
    Name {
        /// Container or volume.
        kind: NameKind,
        /// The name.
        name: &'static str,
    },
    /// A container listens on a port that the sidecar needs.
    #[error("container `{container}` uses port {port}, which the sidecar listens on; choose another")]
    Port {
        /// The container.
        container: String,
        /// The port.
        port: u16,
    },
    /// A container runs as the sidecar's user.
    #[error(
        "container `{container}` runs as user {}, which is the sidecar's: its traffic would not be redirected; choose another",
        sidecar::USER
    )]
    User {
        /// The container.
        container: String,
    },
}

/// What a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A container or init container.
    Container,
    /// A volume.
    Volume,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Volume => "volume",
        })
    }
}

/// Decides about a pod that is created in a namespace.
#[must_use]
pub fn decide(pod: &Pod, namespace: &Namespace, installation: &Installation) -> Decision {
    if let Some(reason) = never(pod, namespace, installation) {
        return Decision::Skip(reason);
    }
    match asked(pod, namespace) {
        Err(errors) => return Decision::Refuse(errors.into_iter().map(Refusal::Setting).collect()),
        Ok(None) => return Decision::Skip(SkipReason::NotAsked),
        Ok(Some((Word::Disabled, owner))) => return Decision::Skip(SkipReason::Disabled(owner)),
        Ok(Some((Word::Enabled, _))) => {}
    }
    let conflicts = conflicts(pod);
    match Settings::read(pod, namespace, &installation.sidecars) {
        Ok(settings) if conflicts.is_empty() => Decision::Inject(Box::new(settings)),
        Ok(_) => Decision::Refuse(conflicts),
        Err(errors) => Decision::Refuse(errors.into_iter().map(Refusal::Setting).chain(conflicts).collect()),
    }
}

/// All refusals as one message, one a line when there are several.
#[must_use]
pub fn explain(errors: &[Refusal]) -> String {
    match errors {
        [only] => format!("weir cannot inject its sidecar: {only}"),
        many => {
            let lines: String = many.iter().map(|error| format!("\n- {error}")).collect();
            format!("weir cannot inject its sidecar, for {} reasons:{lines}", many.len())
        }
    }
}

/// What the pod's author may have meant otherwise: names under `weir.dev/` that mean nothing on a pod.
#[must_use]
pub fn warnings(pod: &Pod) -> Vec<String> {
    names::warnings(names::Kind::Pod, &pod.metadata)
}

/// What is to be said of a pod that is to end, in a cluster where the sidecar keeps it from doing so.
#[must_use]
pub fn never_ends(pod: &Pod, installation: &Installation) -> Option<String> {
    let ends = matches!(pod.spec.restart_policy.as_deref(), Some("Never" | "OnFailure"));
    let version = installation.kubernetes;
    (ends && version.placement() == Placement::Container).then(|| {
        format!(
            "weir: the pod is to end, and its sidecar will not: Kubernetes {version} has no native sidecars (1.29 has). Label it \
             {INJECT}: disabled"
        )
    })
}

/// What is wrong with what somebody says about injection, as a label or as an annotation.
///
/// # Errors
///
/// Everything that is.
pub fn check_word(metadata: &Metadata, owner: &Owner) -> Result<(), Vec<InvalidSetting>> {
    Word::of(metadata, owner).map(|_| ())
}

/// Whether pods of this namespace never get sidecars, whatever anybody says.
#[must_use]
pub fn is_system(namespace: &str, mesh: &str) -> bool {
    SYSTEM_NAMESPACES.contains(&namespace) || namespace == mesh
}

/// Namespaces that never get sidecars, beside the mesh's own.
const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "weir-system"];

/// Set by the kubelet on the mirrors of static pods.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Reasons that stand above everybody's wish.
fn never(pod: &Pod, namespace: &Namespace, installation: &Installation) -> Option<SkipReason> {
    let os = &pod.spec.os.name;
    if is_system(&namespace.name, &installation.namespace) {
        Some(SkipReason::SystemNamespace(namespace.name.clone()))
    } else if pod.metadata.annotations.contains_key(MIRROR) {
        Some(SkipReason::MirrorPod)
    } else if is_injected(pod) {
        Some(SkipReason::AlreadyInjected)
    } else if pod.spec.host_network {
        Some(SkipReason::HostNetwork)
    } else if !os.is_empty() && os != "linux" {
        Some(SkipReason::NotLinux(excerpt(os)))
    } else {
        None
    }
}

/// The annotation alone is not enough: it may have been copied with a template from which the sidecar was taken out.
fn is_injected(pod: &Pod) -> bool {
    let annotated = pod.metadata.annotations.contains_key(STATUS);
    annotated && pod.all_containers().any(|container| container.name == sidecar::PROXY)
}

/// What somebody said about injection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Enabled,
    Disabled,
}

impl Word {
    /// What an object says, as a label or as an annotation.
    fn of(metadata: &Metadata, owner: &Owner) -> Result<Option<Self>, Vec<InvalidSetting>> {
        let mut errors = Vec::new();
        let mut parse = |value: &String| match value.as_str() {
            "enabled" => Some(Self::Enabled),
            "disabled" => Some(Self::Disabled),
            _ => {
                errors.push(InvalidSetting::new(INJECT, owner.clone(), value, "this is neither", "enabled or disabled"));
                None
            }
        };
        let label = metadata.labels.get(INJECT).and_then(&mut parse);
        let annotation = metadata.annotations.get(INJECT).and_then(&mut parse);
        if let (Some(label), Some(annotation)) = (label, annotation)
            && label != annotation
        {
            let problem = "the label says one thing and the annotation the other";
            errors.push(InvalidSetting::new(INJECT, owner.clone(), "enabled` and `disabled", problem, "one of them"));
        }
        if errors.is_empty() { Ok(label.or(annotation)) } else { Err(errors) }
    }
}

/// The pod's own word, or else the namespace's.
fn asked(pod: &Pod, namespace: &Namespace) -> Result<Option<(Word, Owner)>, Vec<InvalidSetting>> {
    if let Some(word) = Word::of(&pod.metadata, &Owner::Pod)? {
        return Ok(Some((word, Owner::Pod)));
    }
    let owner = Owner::Namespace(namespace.name.clone());
    Ok(Word::of(&namespace.metadata, &owner)?.map(|word| (word, owner)))
}

/// What of the pod stands in the sidecar's way. Caught here, since later it would be a pod that does not start.
fn conflicts(pod: &Pod) -> Vec<Refusal> {
    let container = |name: &'static str| {
        let taken = pod.all_containers().any(|container| container.name == name);
        taken.then_some(Refusal::Name { kind: NameKind::Container, name })
    };
    let volume = |name: &'static str| {
        let taken = pod.spec.volumes.iter().any(|volume| volume.name == name);
        taken.then_some(Refusal::Name { kind: NameKind::Volume, name })
    };
    let names = sidecar::CONTAINERS.into_iter().filter_map(container).chain(sidecar::VOLUMES.into_iter().filter_map(volume));
    names.chain(pod.all_containers().flat_map(|container| container_conflicts(pod, container))).collect()
}

fn container_conflicts(pod: &Pod, container: &Container) -> Vec<Refusal> {
    let name = || excerpt(&container.name);
    let declared = |port: &u16| container.ports.iter().any(|p| p.container_port == i64::from(*port));
    let ports = sidecar::PORTS.into_iter().filter(declared).map(|port| Refusal::Port { container: name(), port });
    let user = container.security_context.run_as_user.or(pod.spec.security_context.run_as_user);
    let user = (user == Some(i64::from(sidecar::USER))).then(|| Refusal::User { container: name() });
    ports.chain(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shop(word: Option<&str>) -> Namespace {
        let labels = word.map(|word| (INJECT.to_owned(), word.to_owned())).into_iter().collect();
        Namespace { name: "shop".into(), metadata: Metadata { labels, ..Metadata::default() } }
    }

    fn decided(pod: &Value, namespace: &Namespace) -> Decision {
        decide(&Pod::read(pod).unwrap(), namespace, &Installation::default())
    }

    fn app() -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}})
    }

    fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
        pod
    }

    fn refusals(decision: Decision) -> Vec<String> {
        match decision {
            Decision::Refuse(errors) => errors.iter().map(ToString::to_string).collect(),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn the_pods_own_word_wins() {
        let label = |word: &str| with(app(), "/metadata/labels", json!({INJECT: word}));
        let annotation = |word: &str| with(app(), "/metadata/annotations", json!({INJECT: word}));
        assert!(matches!(decided(&app(), &shop(Some("enabled"))), Decision::Inject(_)));
        assert_eq!(decided(&app(), &shop(None)), Decision::Skip(SkipReason::NotAsked));
        let by_namespace = SkipReason::Disabled(Owner::Namespace("shop".into()));
        assert_eq!(decided(&app(), &shop(Some("disabled"))), Decision::Skip(by_namespace));
        for pod in [label("enabled"), annotation("enabled")] {
            assert!(matches!(decided(&pod, &shop(Some("disabled"))), Decision::Inject(_)));
            assert!(matches!(decided(&pod, &shop(Some("nonsense"))), Decision::Inject(_)));
        }
        for pod in [label("disabled"), annotation("disabled")] {
            assert_eq!(decided(&pod, &shop(Some("enabled"))), Decision::Skip(SkipReason::Disabled(Owner::Pod)));
        }
    }

    #[test]
    fn some_pods_are_never_touched_whatever_they_ask() {
        let asking = with(app(), "/metadata/labels", json!({INJECT: "enabled"}));
        for name in ["kube-system", "kube-public", "kube-node-lease", "weir-system"] {
            let namespace = Namespace { name: name.into(), ..shop(Some("enabled")) };
            assert_eq!(decided(&asking, &namespace), Decision::Skip(SkipReason::SystemNamespace(name.into())));
        }
        let elsewhere = Installation { namespace: "mesh".into(), ..Installation::default() };
        let mesh = Namespace { name: "mesh".into(), ..shop(Some("enabled")) };
        let decision = decide(&Pod::read(&asking).unwrap(), &mesh, &elsewhere);
        assert_eq!(decision, Decision::Skip(SkipReason::SystemNamespace("mesh".into())));

        let host = with(asking.clone(), "/spec/hostNetwork", json!(true));
        assert_eq!(decided(&host, &shop(None)), Decision::Skip(SkipReason::HostNetwork));
        let windows = with(asking.clone(), "/spec/os", json!({"name": "windows"}));
        assert_eq!(decided(&windows, &shop(None)), Decision::Skip(SkipReason::NotLinux("windows".into())));
        let mirror = with(asking, "/metadata/annotations", json!({MIRROR: "abc"}));
        assert_eq!(decided(&mirror, &shop(None)), Decision::Skip(SkipReason::MirrorPod));
    }

    #[test]
    fn an_injected_pod_is_known_by_annotation_and_container() {
        let namespace = shop(Some("enabled"));
        let annotated = with(app(), "/metadata/annotations", json!({STATUS: "{}"}));
        assert!(matches!(decided(&annotated, &namespace), Decision::Inject(_)), "a copied annotation is not a sidecar");
        let both = with(annotated, "/spec/initContainers", json!([{"name": "weir-proxy"}]));
        assert_eq!(decided(&both, &namespace), Decision::Skip(SkipReason::AlreadyInjected));
    }

    #[test]
    fn what_stands_in_the_way_is_named_all_at_once() {
        let pod = json!({
            "metadata": {"annotations": {"weir.dev/skip-inbound-ports": "0"}},
            "spec": {
                "initContainers": [{"name": "weir-init"}],
                "containers": [
                    {"name": "weir-proxy"},
                    {"name": "app", "ports": [{"containerPort": 8080}, {"containerPort": 15401}], "securityContext": {"runAsUser": 15400}},
                ],
                "volumes": [{"name": "weir-state"}],
            },
        });
        assert_eq!(
            refusals(decided(&pod, &shop(Some("enabled")))),
            [
                "weir.dev/skip-inbound-ports of the pod is `0`: `0` is not a port or a range of ports; allowed: ports from 1 to \
                 65535 and ranges of them, separated by commas, such as `3306,9000-9100`",
                "container `weir-init` has the name of one that weir adds; rename it",
                "container `weir-proxy` has the name of one that weir adds; rename it",
                "volume `weir-state` has the name of one that weir adds; rename it",
                "container `app` uses port 15401, which the sidecar listens on; choose another",
                "container `app` runs as user 15400, which is the sidecar's: its traffic would not be redirected; choose another",
            ]
        );
    }

    #[test]
    fn a_word_that_is_neither_is_refused_where_it_counts() {
        let namespace = refusals(decided(&app(), &shop(Some("true"))));
        assert_eq!(namespace, ["weir.dev/inject of namespace `shop` is `true`: this is neither; allowed: enabled or disabled"]);
        let torn = json!({"metadata": {"labels": {INJECT: "enabled"}, "annotations": {INJECT: "disabled"}}});
        assert_eq!(
            refusals(decided(&torn, &shop(None))),
            ["weir.dev/inject of the pod is `enabled` and `disabled`: the label says one thing and the annotation the other; \
              allowed: one of them"]
        );
    }

    #[test]
    fn a_misspelt_annotation_is_warned_of() {
        let pod = with(app(), "/metadata/annotations", json!({"weir.dev/skip-inbound-port": "80", "weir.dev/mtls": "strict"}));
        let warnings = warnings(&Pod::read(&pod).unwrap());
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("`weir.dev/skip-inbound-port`"), "{warnings:?}");
    }

    #[test]
    fn what_is_to_end_is_warned_of_where_sidecars_do_not() {
        let older = Installation { kubernetes: "1.28".parse().unwrap(), ..Installation::default() };
        for (policy, installation, warned) in [
            (Some("Never"), &older, true),
            (Some("OnFailure"), &older, true),
            (Some("Always"), &older, false),
            (None, &older, false),
            (Some("Never"), &Installation::default(), false),
        ] {
            let pod = policy.map_or_else(app, |policy| with(app(), "/spec/restartPolicy", json!(policy)));
            assert_eq!(never_ends(&Pod::read(&pod).unwrap(), installation).is_some(), warned, "{policy:?}");
        }
    }
}
