//! Probes of every kind pass where plaintext is refused, and tell of the application and not of its sidecar.

use serde_json::{Value, json};
use weir_tests::cluster::objects::IMAGE;
use weir_tests::cluster::{App, Scenario, until};
use weir_tests::wait::ensure;

/// Containers by the kind of their readiness probe, with the word that makes it fail.
const KINDS: [(&str, &str); 5] =
    [("http", "fail-ready"), ("https", "fail-ready"), ("grpc", "fail-live"), ("tcp", "deaf"), ("exec", "fail-ready")];

/// Port of a container's application; that of its control page is ten thousand higher.
fn port(kind: &str) -> u16 {
    match kind {
        "http" => 8081,
        "https" => 8082,
        "grpc" => 8083,
        "tcp" => 8084,
        _ => 8085,
    }
}

fn container(kind: &str) -> Value {
    let port = port(kind);
    let (serve, probe) = match kind {
        "http" => ("--http", json!({"httpGet": {"path": "/health/ready", "port": port}})),
        "https" => ("--https", json!({"httpGet": {"path": "/health/ready", "port": port, "scheme": "HTTPS"}})),
        "grpc" => ("--http", json!({"grpc": {"port": port}})),
        "tcp" => ("--tcp", json!({"tcpSocket": {"port": port}})),
        _ => {
            let command = ["weir-test-app", "probe", "http://127.0.0.1:8085/health/ready"];
            ("--http", json!({"exec": {"command": command}}))
        }
    };
    let mut readiness = probe.clone();
    readiness["periodSeconds"] = 1.into();
    readiness["failureThreshold"] = 1.into();
    let mut startup = probe;
    startup["periodSeconds"] = 1.into();
    startup["failureThreshold"] = 60.into();
    json!({
        "name": kind,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["serve", "--name", kind, serve, port.to_string(), "--control", (port + 10_000).to_string()],
        "ports": [{"containerPort": port}],
        "startupProbe": startup,
        "readinessProbe": readiness,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn probes_of_every_kind_pass_under_strict_policy_and_fail_when_the_application_does() {
    let scenario = Scenario::begin("probes").await;
    let app = App::running("probed", &[]).annotation("weir.dev/mtls", "strict");
    let app = app.pod(|spec| spec["containers"] = KINDS.iter().map(|(kind, _)| container(kind)).collect());
    scenario.apply(&app.single()).await;
    scenario.pod_is_ready("probed").await;
    let control = |kind: &str| (port(kind) + 10_000).to_string();
    for (failing, word) in KINDS {
        let tell = ["exec", "probed", "-c", failing, "--", "weir-test-app", "tell", word, "--control", &control(failing)];
        scenario.kubectl(&tell).await;
        until(&format!("the {failing} probe fails"), async || {
            let pod = scenario.pod("probed").await;
            ensure(pod.container_status(failing)["ready"] == false, || format!("{failing} is ready still"))
        })
        .await;
        let pod = scenario.pod("probed").await;
        let told = KINDS.iter().position(|(kind, _)| *kind == failing).unwrap();
        for (other, _) in &KINDS[told + 1..] {
            assert_eq!(pod.container_status(other)["ready"], true, "{other} does not suffer from {failing}");
        }
        assert_eq!(pod.container_status("weir-proxy")["ready"], true, "the sidecar is well");
    }
    // What is taken back is ready again, through the same sidecar.
    scenario
        .kubectl(&["exec", "probed", "-c", "http", "--", "weir-test-app", "tell", "mend", "--control", &control("http")])
        .await;
    until("the http probe passes again", async || {
        let pod = scenario.pod("probed").await;
        ensure(pod.container_status("http")["ready"] == true, || "it does not".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_failing_liveness_probe_restarts_the_application_and_not_its_sidecar() {
    let scenario = Scenario::begin("liveness").await;
    let probe = json!({"httpGet": {"path": "/health/live", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    let app = App::serving("fragile").annotation("weir.dev/mtls", "strict").probe("livenessProbe", &probe);
    scenario.deploy(&[app]).await;
    scenario.exec("deployment/fragile", &["weir-test-app", "tell", "fail-live"]).await.unwrap();
    let pod = until("the application is started again", async || {
        let pod = scenario.pod_of("fragile").await;
        let status = pod.container_status("app");
        let restarts = status["restartCount"].as_u64().unwrap_or_default();
        ensure(restarts >= 1 && status["ready"] == true, || format!("{status}")).map(|()| pod)
    })
    .await;
    assert_eq!(pod.container_status("weir-proxy")["restartCount"], 0);
}
