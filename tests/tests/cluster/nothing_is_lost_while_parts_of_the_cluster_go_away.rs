//! The injector, the control plane, the API server, the root of all certificates: each goes away under load, and comes back.

use std::process::Command;

use weir_tests::cluster::installation::{self, has_replicas};
use weir_tests::cluster::kubectl::{cluster, json, kubectl, run};
use weir_tests::cluster::objects::service;
use weir_tests::cluster::{App, Load, Pod, SYSTEM, Scenario, until};
use weir_tests::tools;
use weir_tests::wait::ensure;

const CONTROL_PLANE: &str = "weir-control-plane";
const INJECTOR: &str = "weir-injector";

async fn with_server(name: &str) -> Scenario {
    let scenario = Scenario::alone(name).await;
    scenario.apply(&[service("server")]).await;
    scenario.deploy(&[App::serving("server").replicas(2)]).await;
    scenario
}

async fn under_load(scenario: &Scenario) -> [Load; 2] {
    let kept = Load::start(scenario, "kept", "http://server/", &["--rate", "40"]).await;
    let fresh = Load::start(scenario, "fresh", "http://server/", &["--rate", "10", "--fresh", "--method", "POST"]).await;
    [kept, fresh]
}

async fn nothing_was_lost(loads: [Load; 2]) {
    for load in loads {
        load.passes(30).await;
        load.lost_none().await;
    }
}

async fn system(arguments: &[&str]) -> String {
    run(kubectl(&[&["-n", SYSTEM], arguments].concat()), None).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn parts(part: &str) -> Vec<Pod> {
    let selector = format!("app.kubernetes.io/name={part}");
    let list = json(&["-n", SYSTEM, "get", "pods", "--selector", &selector]).await.unwrap();
    list["items"].as_array().into_iter().flatten().cloned().map(Pod::from).collect()
}

async fn scale(part: &str, replicas: usize) {
    system(&["scale", &format!("deployment/{part}"), &format!("--replicas={replicas}")]).await;
    has_replicas(part, replicas).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn one_of_two_control_planes_is_killed_under_load() {
    let scenario = with_server("replica").await;
    let loads = under_load(&scenario).await;
    for pod in parts(CONTROL_PLANE).await {
        system(&["delete", "pod", pod.name(), "--force", "--grace-period=0"]).await;
        // The other one serves: whoever is new becomes ready, whoever calls is answered.
        scenario.kubectl(&["rollout", "restart", "deployment/server"]).await;
        scenario.rolled_out("deployment/server").await;
        has_replicas(CONTROL_PLANE, 2).await;
    }
    nothing_was_lost(loads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn without_a_control_plane_running_pods_serve_restarted_sidecars_come_back_and_new_pods_wait() {
    let scenario = with_server("orphaned").await;
    let loads = under_load(&scenario).await;
    scale(CONTROL_PLANE, 0).await;

    let caller = App::idle("newcomer");
    scenario.apply(&caller.deployment()).await;
    let restarted = scenario.pods("app=server").await.remove(0);
    kill_sidecar(&restarted).await;
    until("the sidecar is back with what it had saved", async || {
        let pod = scenario.pod(restarted.name()).await;
        let status = pod.container_status("weir-proxy");
        let back = status["restartCount"].as_u64().unwrap_or_default() >= 1 && status["ready"] == true;
        ensure(back && pod.is_ready(), || status.to_string())
    })
    .await;
    for load in &loads {
        load.passes(200).await;
    }
    until("the new pod's sidecar runs and waits", async || {
        let pods = scenario.try_pods("app=newcomer").await?;
        let status = pods.first().ok_or("there is no pod")?.container_status("weir-proxy");
        ensure(status["state"].get("running").is_some(), || status.to_string())
    })
    .await;
    assert!(!scenario.pod_of("newcomer").await.is_ready(), "who has no identity yet is not ready");

    scale(CONTROL_PLANE, 2).await;
    scenario.rolled_out("deployment/newcomer").await;
    scenario.seen("newcomer", &["http://server/"]).await;
    // Requests that were under way in the sidecar that was killed may have been lost with it, and no others.
    let [kept, fresh] = loads;
    for load in [kept, fresh] {
        load.passes(30).await;
        let summary = load.stop().await;
        assert!(summary.failed <= 2, "{:#?}", summary.failures);
    }
}

/// Ends the sidecar's process in a pod, as the kernel does when memory is short.
async fn kill_sidecar(pod: &Pod) {
    let processes = pod.network().await.unwrap().processes();
    let is_sidecar =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "weir-proxy");
    let sidecar = processes.into_iter().find(is_sidecar).unwrap_or_else(|| panic!("{} has no sidecar", pod.name()));
    let mut kill = Command::new("kill");
    kill.args(["-KILL", &sidecar.to_string()]);
    tools::stdout(&tools::run(kill).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn traffic_goes_on_while_the_api_server_is_gone() {
    let scenario = with_server("headless").await;
    let loads = under_load(&scenario).await;
    run(cluster(&["stop", "apiserver"]), None).await.unwrap();
    // Long enough for every watch and lease to end.
    loads[0].passes(1_500).await;
    run(cluster(&["start", "apiserver"]), None).await.unwrap();
    until("the API server answers", async || run(kubectl(&["get", "--raw", "/readyz"]), None).await).await;
    // Kubernetes' own controllers come back after a minute and more, which is not what is tested.
    let controllers = ["controller-manager", "scheduler"];
    run(cluster(&[&["stop"], &controllers[..]].concat()), None).await.unwrap();
    run(cluster(&[&["start"], &controllers[..]].concat()), None).await.unwrap();
    has_replicas(CONTROL_PLANE, 2).await;
    has_replicas(INJECTOR, 2).await;
    scenario.deploy(&[App::idle("newcomer")]).await;
    scenario.seen("newcomer", &["http://server/"]).await;
    nothing_was_lost(loads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn while_the_injector_is_gone_no_pod_slips_by_and_system_namespaces_go_on() {
    let scenario = Scenario::alone("webhook").await;
    scale(INJECTOR, 0).await;
    let refusal = scenario.try_apply(&App::idle("early").single()).await.expect_err("a pod was created without a sidecar");
    assert!(refusal.contains("inject.weir.dev"), "{refusal}");
    // The cluster's own namespaces do not wait for it, whatever a pod in them asks for.
    let own = App::idle("weir-test-system").account("default").label("weir.dev/inject", "enabled").single();
    let kube_system = ["-n", "kube-system"];
    run(kubectl(&[&kube_system[..], &["apply", "-f", "-"]].concat()), Some(own[1].to_string())).await.unwrap();
    let wait = ["wait", "pod/weir-test-system", "--for=condition=Ready", "--timeout=120s"];
    run(kubectl(&[&kube_system[..], &wait].concat()), None).await.unwrap();
    let pod = Pod::from(json(&["-n", "kube-system", "get", "pod", "weir-test-system"]).await.unwrap());
    assert!(!pod.is_injected(), "{:?}", pod.container_names());
    run(kubectl(&[&kube_system[..], &["delete", "pod", "weir-test-system", "--now", "--wait=false"]].concat()), None)
        .await
        .unwrap();

    system(&["scale", &format!("deployment/{INJECTOR}"), "--replicas=2"]).await;
    installation::is_ready().await.unwrap();
    // Ready means listening: the first pod after that is admitted, and has a sidecar.
    scenario.apply(&App::idle("late").single()).await;
    scenario.pod_is_ready("late").await;
    assert!(scenario.pod("late").await.is_injected());

    // Both replicas are killed at once; a pod that is created meanwhile is refused or has a sidecar.
    for pod in parts(INJECTOR).await {
        system(&["delete", "pod", pod.name(), "--force", "--grace-period=0", "--wait=false"]).await;
    }
    let name = |index: usize| format!("meanwhile-{index}");
    for index in 0..5 {
        let _ = scenario.try_apply(&App::idle(&name(index)).single()).await;
    }
    has_replicas(INJECTOR, 2).await;
    for pod in scenario.pods("app").await {
        assert!(pod.is_injected(), "{} has slipped by", pod.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn the_root_is_rotated_twice_under_load_and_no_handshake_fails() {
    let scenario = with_server("rotation").await;
    // The pace of a rotation follows the life of certificates.
    installation::install(&["--set", "controlPlane.leafLifetime=1m"]).await.unwrap();
    installation::is_ready().await.unwrap();
    let loads = under_load(&scenario).await;
    for turn in ["1", "2"] {
        let before = roots(&scenario).await.unwrap();
        assert_eq!(before.len(), 1, "nothing is under way");
        system(&["annotate", "--overwrite", "secret", "weir-ca", &format!("weir.dev/rotate-root={turn}")]).await;
        until("both roots are trusted", async || {
            let roots = roots(&scenario).await?;
            ensure(roots.len() == 2 && roots.contains(&before[0]), || format!("{} roots are", roots.len()))
        })
        .await;
        until("the old root is retired", async || {
            let roots = roots(&scenario).await?;
            ensure(roots.len() == 1 && roots != before, || format!("{} roots are trusted", roots.len()))
        })
        .await;
    }
    // New connections are made with certificates of the new root, by pods that never knew another.
    scenario.kubectl(&["rollout", "restart", "deployment/server"]).await;
    scenario.rolled_out("deployment/server").await;
    nothing_was_lost(loads).await;
    installation::install(&[]).await.unwrap();
    installation::is_ready().await.unwrap();
}

/// The roots in the namespace's trust bundle, as PEM.
async fn roots(scenario: &Scenario) -> Result<Vec<String>, String> {
    let bundle = scenario.json(&["get", "configmap", "weir-trust-bundle"]).await?;
    let text = bundle["data"]["ca.crt"].as_str().unwrap_or_default().to_owned();
    const END: &str = "-----END CERTIFICATE-----";
    Ok(text.split_inclusive(END).filter(|part| part.contains(END)).map(|part| part.trim().to_owned()).collect())
}
