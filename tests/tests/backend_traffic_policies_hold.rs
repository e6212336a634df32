//! An XBackendTrafficPolicy from a directory: a retry budget, over which the answer is 503, and sessions that stay with an endpoint.

use std::collections::BTreeSet;

use serde_json::Value;
use weir_tests::app::Fault;
use weir_tests::client::Client;
use weir_tests::prelude::*;

/// A policy of a Service, its `spec` but the targets in YAML.
fn policy(name: &str, service: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: {service}}}]
{spec}"
    )
}

/// Weir's own kind of policy for the Service `reviews`.
const TRAFFIC_POLICY: &str = "apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: reviews}]
  SPEC
";

fn apply(mesh: &Mesh, spec: &str) {
    mesh.manifests().write("policy", &policy("reviews", "reviews", spec));
}

/// What the control plane says of a policy at its first target.
async fn is_told(mesh: &Mesh, name: &str, status: &str, reason: &str, words: &str) {
    until(&format!("policy {name} has the status {status}, {reason}"), async || {
        let answer = Client::to(mesh.control_plane().http()).try_get(&mesh.control_plane().url("/api/v1/policies")).await?;
        let all: Value = serde_json::from_str(&answer.text()).map_err(|error| error.to_string())?;
        let of_kind = |it: &&Value| it["name"] == name && it["kind"] == "XBackendTrafficPolicy";
        let found = all.as_array().into_iter().flatten().find(of_kind);
        let condition = found.map(|policy| policy["parents"][0]["conditions"][0].clone()).unwrap_or_default();
        let message = condition["message"].as_str().unwrap_or_default();
        ensure(condition["status"] == status && condition["reason"] == reason && message.contains(words), || all.to_string())
    })
    .await;
}

/// One backend whose failures are retried, a caller with one worker (budgets are kept per worker).
async fn retried() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, reviews) = tokio::join!(start, mesh.backend("reviews"));
    mesh.route("reviews", "- {backendRefs: [{name: reviews, port: 80}], retry: {attempts: 1, codes: [500], backoff: 1ms}}");
    mesh.reaches(&caller, "http://reviews/").await;
    until("the route is there", async || {
        reviews.app().fail_next(1, Fault::Status(500));
        let answer = caller.client().get("http://reviews/").await;
        ensure(answer.status == 200, || format!("{answer:?}"))
    })
    .await;
    (mesh, caller, reviews)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_its_budget_a_request_that_would_be_retried_is_answered_with_503() {
    let (mesh, caller, reviews) = retried().await;
    let client = caller.client();
    apply(&mesh, "  retryConstraint: {budget: {percent: 0, interval: 1h}, minRetryRate: {count: 1, interval: 1h}}");
    is_told(&mesh, "reviews", "True", "Accepted", "in force for Service shop/reviews on port 80").await;
    // One retry an hour, and nothing else.
    let answer = mesh.sees(&caller, "http://reviews/status/500", |it| ensure(it.status == 503, || "no budget yet".into())).await;
    let error = answer.made_by_mesh(503, "outbound");
    assert_eq!(error.reason, "retry-budget");
    assert!(error.detail.contains("answered 500"), "{}", error.detail);
    let before = reviews.app().requests("/status/500");
    let answer = client.get("http://reviews/status/500").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(reviews.app().requests("/status/500"), before + 1, "no retry was made");
    // What is not to be retried is passed on as it is.
    let answer = client.get("http://reviews/status/502").await;
    assert_eq!((answer.status.as_u16(), answer.app()), (502, "reviews"));
    // To a gRPC client it is UNAVAILABLE.
    let call = client.request(Method::POST, "http://reviews/status/500").header("content-type", "application/grpc");
    assert_eq!(call.send().await.header("grpc-status"), Some("14"));

    // A TrafficPolicy's budget goes before it, and over that one the answer itself is passed on.
    let budget = "retryBudget: {percent: 0, minRetryRate: {count: 0}}";
    mesh.manifests().write("traffic", TRAFFIC_POLICY.replace("SPEC", budget).as_str());
    is_told(&mesh, "reviews", "True", "Accepted", "the retryBudget of TrafficPolicy shop/reviews counts instead").await;
    let answer = mesh.sees(&caller, "http://reviews/status/500", |it| ensure(it.status == 500, || "still 503".into())).await;
    assert_eq!(answer.app(), "reviews");
    mesh.manifests().remove("traffic");
    mesh.gets(&caller, "http://reviews/status/500", 503).await;

    // One that is wrong is named, and the version before it holds on.
    apply(&mesh, "  retryConstraint: {budget: {percent: 101}}");
    mesh.control_plane().diagnoses(&["policy.yaml", "spec.retryConstraint.budget.percent"]).await;
    assert_eq!(client.get("http://reviews/status/500").await.status, 503);
    mesh.manifests().remove("policy");
    let answer = mesh.sees(&caller, "http://reviews/status/500", |it| ensure(it.status == 500, || "still 503".into())).await;
    assert_eq!(answer.app(), "reviews", "without a policy there is the usual budget");
}

/// The cookie of this name that an answer sets, as a client brings it along.
fn cookie(answer: &Answer, name: &str) -> Option<String> {
    let (pair, _) = answer.header("set-cookie")?.split_once(';')?;
    pair.starts_with(&format!("{name}=")).then(|| pair.to_owned())
}

async fn with_cookie(caller: &Workload, url: &str, cookie: &str) -> Answer {
    caller.client().request(Method::GET, url).header("cookie", cookie).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_with_its_endpoint_whoever_leads_to_the_service() {
    let mesh = Mesh::start().await;
    let (caller, a, b, c) = tokio::join!(mesh.caller(), mesh.backend("a"), mesh.backend("b"), mesh.backend("c"));
    mesh.service("reviews").backed_by([&a, &b]).apply();
    mesh.service("front").backed_by([&c]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    mesh.reaches(&caller, "http://front/").await;
    // Those without a session go round, so that it is not by chance that others stay.
    mesh.manifests().write("traffic", TRAFFIC_POLICY.replace("SPEC", "loadBalancing: {type: RoundRobin}").as_str());
    apply(&mesh, "  sessionPersistence: {sessionName: sid}");
    let first = mesh.sees(&caller, "http://reviews/", |it| cookie(it, "sid").map(drop).ok_or("no session yet".into())).await;
    let session = cookie(&first, "sid").unwrap_or_default();
    for _ in 0..10 {
        let answer = with_cookie(&caller, "http://reviews/", &session).await;
        assert_eq!((answer.status.as_u16(), answer.app()), (200, first.app()));
        assert_eq!(cookie(&answer, "sid"), None, "the client knows it");
    }
    // Those without one are spread, and get one each.
    until("requests go round", async || {
        let mut used = BTreeSet::new();
        for _ in 0..20 {
            let answer = caller.client().get("http://reviews/").await;
            assert!(cookie(&answer, "sid").is_some(), "{answer:?}");
            used.insert(answer.app().to_owned());
        }
        ensure(used.len() == 2, || format!("{used:?}"))
    })
    .await;

    // A route that leads there from another Service keeps it too; its share for others has no sessions.
    mesh.route("front", "- {backendRefs: [{name: reviews, port: 80}, {name: front, port: 80}]}");
    mesh.sees(&caller, "http://front/", |it| ensure(it.app() != "c", || "no route yet".into())).await;
    for _ in 0..20 {
        assert_eq!(with_cookie(&caller, "http://front/", &session).await.app(), first.app(), "a session goes before weights");
    }
    let other = mesh.sees(&caller, "http://front/", |it| ensure(it.app() == "c", || "not c".into())).await;
    assert_eq!(cookie(&other, "sid"), None);

    // A rule's own word wins.
    mesh.route("front", "- {sessionPersistence: {sessionName: own}, backendRefs: [{name: reviews, port: 80}]}");
    let own = mesh.sees(&caller, "http://front/", |it| cookie(it, "own").map(drop).ok_or("not the rule's".into())).await;
    let told = with_cookie(&caller, "http://front/", &session).await;
    assert!(cookie(&told, "own").is_some() && cookie(&told, "sid").is_none(), "{told:?}");
    assert_eq!(with_cookie(&caller, "http://front/", &cookie(&own, "own").unwrap_or_default()).await.app(), own.app());

    mesh.manifests().remove("policy");
    mesh.sees(&caller, "http://reviews/", |it| ensure(cookie(it, "sid").is_none(), || "still a session".into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_author_of_a_policy_is_told_what_became_of_it() {
    let mesh = Mesh::start().await;
    let (caller, _reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    apply(&mesh, "  sessionPersistence: {sessionName: first}");
    is_told(&mesh, "reviews", "True", "Accepted", "in force").await;
    mesh.manifests().write("second", &policy("second", "reviews", "  sessionPersistence: {sessionName: second}"));
    is_told(&mesh, "second", "False", "Conflicted", "XBackendTrafficPolicy shop/reviews has port 80").await;
    mesh.manifests().write("nothing", &policy("nothing", "nothing", "  sessionPersistence: {}"));
    is_told(&mesh, "nothing", "False", "TargetNotFound", "Service shop/nothing does not exist").await;
    mesh.control_plane().diagnoses(&["nothing.yaml", "spec.targetRefs[0]", "does not exist"]).await;
    mesh.manifests().write("strict", &policy("strict", "reviews", "  sessionPersistence: {strict: true}"));
    mesh.control_plane().diagnoses(&["strict.yaml", "spec.sessionPersistence.strict", "is no field"]).await;
    mesh.manifests().remove("policy");
    is_told(&mesh, "second", "True", "Accepted", "in force").await;
    let answer = mesh.sees(&caller, "http://reviews/", |it| cookie(it, "second").map(drop).ok_or("not yet".into())).await;
    assert_eq!(answer.status, 200);
}
