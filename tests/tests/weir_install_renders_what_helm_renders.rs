//! `weir install` prints the objects that the real Helm makes of the chart, in its order, and refuses what Helm refuses.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use weir_tests::binaries::{weir, workspace};

/// Values beyond the defaults that each touch other branches of the templates.
const VALUES: [&[&str]; 6] = [
    &[],
    &["--set", "podMonitor.enabled=true,podMonitor.interval=15s,podMonitor.labels.release=prometheus"],
    &["--set", "networkPolicy.enabled=false,podDisruptionBudget.enabled=false,injector.validation.enabled=false"],
    &["--set", "injector.annotations.enabled=false,injector.failurePolicy=Ignore,namespace.create=false"],
    &[
        "--set-string",
        "image.tag=20260101",
        "--set",
        "image.registry=registry.example:5000/weir,image.pullSecrets={one,two},logFormat=json",
    ],
    &["--values", "VALUES"],
];

/// Values as people write them into a file.
const FILE: &str = "
# Three zones.
controlPlane:
  replicas: 3
  priorityClassName: system-cluster-critical
  resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}
  nodeSelector:
    kubernetes.io/os: linux
  tolerations:
    - key: mesh
      operator: Exists
    - {key: \"node-role.kubernetes.io/control-plane\", effect: NoSchedule}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: topology.kubernetes.io/zone
          labelSelector: {matchLabels: {app.kubernetes.io/name: weir-control-plane}}
  podAnnotations:
    prometheus.io/port: \"15411\"
    note: 'a: b # c'
  podLabels: {team: mesh}
injector:
  podAnnotations: {yes: \"true\", multi: \"one\\ntwo\"}
trustDomain: prod.example.org
networkPolicy:
  metricsFrom: []
proxy:
  resources:
    requests: {cpu: 0.5, memory: 1Gi}
    limits: {cpu: 2, memory: \"\"}
";

/// What both must refuse.
/// Helm makes 1.073741824e+09 of the last one.
const REFUSED: [&str; 9] = [
    "injector.replica=3",
    "trustDomain=A_b",
    "logFormat=xml",
    "image.registry=null",
    "controlPlane.replicas=0",
    "controlPlane.replicas=two",
    "networkPolicy.enabled=yes",
    "injector.nodeSelector.a=1",
    "proxy.resources.requests.memory=1073741824",
];

#[test]
fn the_objects_and_their_order_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.yaml");
    std::fs::write(&file, FILE).unwrap();
    for values in VALUES {
        let values: Vec<&str> =
            values.iter().map(|value| if *value == "VALUES" { file.to_str().unwrap() } else { value }).collect();
        let ours = objects(&install(&values));
        let helms = objects(&template(&values));
        let names = |objects: &[Value]| -> Vec<String> { objects.iter().map(name).collect() };
        assert_eq!(kinds(&ours), kinds(&helms), "{values:?}");
        for object in &ours {
            let helm = helms.iter().find(|helm| name(helm) == name(object));
            assert_eq!(Some(object), helm, "{values:?}: {}", name(object));
        }
        let (mut ours, mut helms) = (names(&ours), names(&helms));
        ours.sort();
        helms.sort();
        assert_eq!(ours, helms, "{values:?}");
    }
}

#[test]
fn what_helm_refuses_is_refused() {
    for set in REFUSED {
        let helm = template(&["--set", set]);
        assert!(!helm.status.success(), "{set}: Helm takes it");
        let ours = install(&["--set", set]);
        assert_eq!(ours.status.code(), Some(2), "{set}");
        assert!(ours.stdout.is_empty(), "{set}");
    }
}

#[test]
fn the_chart_passes_helms_own_check() {
    let lint = Command::new(helm()).arg("lint").arg("--strict").arg(chart()).output().unwrap();
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
}

fn install(values: &[&str]) -> Output {
    Command::new(weir()).args(["install", "--namespace", "mesh"]).args(values).env_clear().output().unwrap()
}

fn template(values: &[&str]) -> Output {
    let mut command = Command::new(helm());
    // A Helm that is built without its release's settings takes Kubernetes for an old one.
    command.args(["template", "weir", "--namespace", "mesh", "--kube-version", "1.34", "--set", "namespace.create=true"]);
    command.arg(chart()).args(values).output().unwrap()
}

fn chart() -> PathBuf {
    workspace().join("charts/weir")
}

/// Helm, built from its module with the other programs of the test cluster.
fn helm() -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let built = DIRECTORY.get_or_init(|| {
        let output = Command::new(workspace().join("tests/cluster/build")).output().unwrap();
        assert!(output.status.success(), "tests/cluster/build: {}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    });
    built.join("helm")
}

fn objects(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let documents = text.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    let objects: Vec<Value> = documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect();
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
}

fn name(object: &Value) -> String {
    format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}
