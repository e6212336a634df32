//! A TrafficPolicy from a directory: how its Service is balanced, bounded and disturbed, and what its author is told.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::collections::BTreeMap;

use serde_json::Value;
use weir_tests::app::Fault;
use weir_tests::client::{Client, Connection, request};
use weir_tests::prelude::*;

/// A policy of the Service `reviews`, its `spec` but the targets in YAML.
fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, {target}}}]
{spec}"
    )
}

fn apply(mesh: &Mesh, spec: &str) {
    mesh.manifests().write("policy", &policy("reviews", "name: reviews", spec));
}

/// A caller with one worker, because each worker balances by itself, and a Service with three backends.
async fn three_backends() -> (Mesh, Workload, Vec<Workload>) {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, a, b, c) = tokio::join!(start, mesh.backend("a"), mesh.backend("b"), mesh.backend("c"));
    let backends = vec![a, b, c];
    mesh.service("reviews").backed_by(&backends).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, backends)
}

/// Who answers so many requests with this value of `x-user`.
async fn answered_by(client: Client, user: &str, count: usize) -> BTreeMap<String, usize> {
    let mut connection: Connection = client.connect().await.unwrap();
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let mut request = request(Method::GET, "http://reviews/");
        request.headers_mut().insert("x-user", user.parse().unwrap());
        let answer = connection.send(request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        *seen.entry(answer.app().to_owned()).or_default() += 1;
    }
    seen
}

/// What the control plane says of a policy at its first target.
async fn condition(mesh: &Mesh, name: &str) -> Result<Value, String> {
    let answer = Client::to(mesh.control_plane().http()).try_get(&mesh.control_plane().url("/api/v1/policies")).await?;
    let all: Value = serde_json::from_str(&answer.text()).map_err(|error| error.to_string())?;
    let found = all.as_array().into_iter().flatten().find(|policy| policy["name"] == name);
    found.map(|policy| policy["parents"][0]["conditions"][0].clone()).ok_or_else(|| format!("{name} is not in {all}"))
}

async fn is_told(mesh: &Mesh, name: &str, status: &str, reason: &str, words: &[&str]) {
    until(&format!("policy {name} has the status {status}, {reason}"), async || {
        let condition = condition(mesh, name).await?;
        let message = condition["message"].as_str().unwrap_or_default();
        let holds = condition["status"] == status && condition["reason"] == reason && words.iter().all(|it| message.contains(it));
        ensure(holds, || condition.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_balancer_is_the_one_that_the_policy_names() {
    let (mesh, caller, _backends) = three_backends().await;
    apply(&mesh, "  loadBalancing: {type: RoundRobin}");
    until("requests go round", async || {
        let seen = answered_by(caller.client(), "ann", 30).await;
        ensure(seen.len() == 3 && seen.values().all(|count| *count == 10), || format!("{seen:?}"))
    })
    .await;

    apply(&mesh, "  loadBalancing: {type: RingHash, hashOn: {type: Header, name: x-user}}");
    until("a user stays with an endpoint", async || {
        let seen = answered_by(caller.client(), "ann", 30).await;
        ensure(seen.len() == 1, || format!("{seen:?}"))
    })
    .await;
    // Another sidecar comes to the same endpoint for each user, and users are spread.
    let other = mesh.workload("other").start().await;
    mesh.reaches(&other, "http://reviews/").await;
    let mut used = BTreeMap::new();
    for user in 0..20 {
        let user = format!("user-{user}");
        let here = answered_by(caller.client(), &user, 3).await;
        assert_eq!(here.len(), 1, "{user}: {here:?}");
        assert_eq!(answered_by(other.client(), &user, 3).await, here, "{user}");
        used.extend(here);
    }
    assert_eq!(used.len(), 3, "{used:?}");

    mesh.manifests().remove("policy");
    until("without the policy a user is balanced as everybody", async || {
        let seen = answered_by(caller.client(), "ann", 30).await;
        ensure(seen.len() == 3, || format!("{seen:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_has_the_rate_that_the_policy_gives() {
    let mesh = Mesh::start().await;
    let (ann, bob, reviews) = tokio::join!(mesh.workload("ann").start(), mesh.workload("bob").start(), mesh.backend("reviews"));
    mesh.reaches(&ann, "http://reviews/").await;
    mesh.reaches(&bob, "http://reviews/").await;
    apply(&mesh, "  rateLimits: [{requests: 5, per: 1h}]");
    let refused = |answer: &Answer| ensure(answer.status == 429, || "not limited yet".into());
    let answer = mesh.sees(&ann, "http://reviews/", refused).await;
    let error = answer.made_by_mesh(429, "inbound");
    assert_eq!(error.reason, "rate-limited");
    for words in ["TrafficPolicy shop/reviews", "caller spiffe://cluster.local/ns/shop/sa/ann", "5 requests in 3600s"] {
        assert!(error.detail.contains(words), "{}", error.detail);
    }
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    // Somebody else has a limit of their own; both of the callee's workers count as one.
    let mut passed = 0;
    for _ in 0..10 {
        passed += u32::from(bob.client().get("http://reviews/counted").await.status == 200);
    }
    assert_eq!((passed, reviews.app().requests("/counted")), (5, 5));
    reviews.proxy().counts("weir_mesh_errors_total", &[("reason", "rate-limited")], 6.0).await;
    // Nobody is held responsible for it.
    assert_eq!(bob.metrics().await.sum("weir_endpoint_ejections_total", &[]), 0.0);

    mesh.manifests().remove("policy");
    mesh.reaches(&ann, "http://reviews/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_happen_to_those_that_match() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route("reviews", "- {backendRefs: [{name: reviews, port: 80}], timeouts: {request: 300ms}}");
    mesh.reaches(&caller, "http://reviews/").await;
    apply(
        &mesh,
        "  faults:
  - {headers: [{name: x-test, value: fail}], abort: {status: 418}}
  - {headers: [{name: x-test, value: slow}], delay: 1m}
  - {headers: [{name: x-test, value: late}], delay: 20ms}",
    );
    let client = caller.client();
    let with = async |value: &str| client.request(Method::GET, "http://reviews/faulty").header("x-test", value).send().await;
    let failed = until("the fault is injected", async || {
        let answer = with("fail").await;
        ensure(answer.status == 418, || format!("{answer:?}")).map(|()| answer)
    })
    .await;
    assert_eq!(failed.made_by_mesh(418, "outbound").reason, "fault-injected");
    let before = reviews.app().requests("/faulty");
    let slow = with("slow").await.made_by_mesh(504, "outbound");
    assert_eq!(slow.reason, "request-timeout", "the route's time runs during the delay");
    assert!(slow.detail.contains("TrafficPolicy delays"), "{}", slow.detail);
    assert_eq!(reviews.app().requests("/faulty"), before, "no backend has seen them");
    assert_eq!(with("late").await.status, 200);
    assert_eq!(with("other").await.status, 200);
    // To a gRPC client a fault is a gRPC status.
    let call = client.request(Method::POST, "http://reviews/faulty").header("x-test", "fail");
    let answer = call.header("content-type", "application/grpc").send().await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some("2")), "{answer:?}");
    caller.proxy().counts("weir_mesh_errors_total", &[("reason", "fault-injected")], 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ejection_and_retries_keep_to_the_policy() {
    let (mesh, caller, backends) = three_backends().await;
    mesh.route("reviews", "- {backendRefs: [{name: reviews, port: 80}], retry: {attempts: 3, codes: [503], backoff: 1ms}}");
    apply(
        &mesh,
        "  loadBalancing: {type: RoundRobin}
  ejection: {consecutiveFailures: 1, baseTime: 1h, maxTime: 1h, maxEjectedPercent: 100}
  retryBudget: {percent: 0, minRetryRate: {count: 0}}",
    );
    until("the policy is in force", async || {
        let seen = answered_by(caller.client(), "ann", 30).await;
        ensure(seen.values().all(|count| *count == 10), || format!("{seen:?}"))
    })
    .await;
    let [a, ..] = backends.as_slice() else { panic!("three backends") };
    a.app().fail_next(1, Fault::Status(503));
    let mut failures = 0;
    for _ in 0..3 {
        failures += u32::from(caller.client().get("http://reviews/").await.status == 503);
    }
    assert_eq!(failures, 1, "the budget gives no retry");
    let seen = answered_by(caller.client(), "ann", 30).await;
    assert_eq!(seen, BTreeMap::from([("b".to_owned(), 15), ("c".to_owned(), 15)]), "one failure was enough");
    caller.proxy().counts("weir_endpoint_ejections_total", &[("backend", "shop/reviews:80")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_author_of_a_policy_is_told_what_became_of_it() {
    let mesh = Mesh::start().await;
    let (caller, _reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    apply(&mesh, "  faults: [{abort: {status: 418}}]");
    is_told(&mesh, "reviews", "True", "Accepted", &["in force for Service shop/reviews on port 80"]).await;
    mesh.gets(&caller, "http://reviews/", 418).await;

    mesh.manifests().write("nothing", &policy("nothing", "name: nothing", ""));
    is_told(&mesh, "nothing", "False", "TargetNotFound", &["Service shop/nothing does not exist"]).await;
    mesh.control_plane().diagnoses(&["nothing.yaml", "spec.targetRefs[0]", "does not exist"]).await;
    mesh.manifests().write("no-port", &policy("no-port", "name: reviews, sectionName: admin", ""));
    is_told(&mesh, "no-port", "False", "TargetNotFound", &["names no port", "ports named `http`"]).await;
    mesh.manifests().write("second", &policy("second", "name: reviews", ""));
    is_told(&mesh, "second", "False", "Conflicted", &["TrafficPolicy shop/reviews has port 80"]).await;

    // A policy for the port goes before one for the Service.
    mesh.manifests().write("port", &policy("port", "name: reviews, sectionName: http", "  faults: [{abort: {status: 420}}]"));
    is_told(&mesh, "reviews", "False", "Conflicted", &["TrafficPolicy shop/port has port 80"]).await;
    mesh.gets(&caller, "http://reviews/", 420).await;

    // One that is wrong is named, and the version before it serves on.
    mesh.manifests().write("port", &policy("port", "name: reviews, sectionName: http", "  faults: [{abort: {status: 42}}]"));
    let entry = mesh.control_plane().diagnoses(&["port.yaml", "spec.faults[0].abort.status"]).await;
    assert_eq!(entry["line"], 6, "{entry}");
    mesh.gets(&caller, "http://reviews/", 420).await;
    mesh.manifests().remove("port");
    mesh.gets(&caller, "http://reviews/", 418).await;
}
