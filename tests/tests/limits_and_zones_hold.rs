//! What a TrafficPolicy bounds and prefers: requests and connections under way, the age of connections, endpoints that do badly
//! now and then, endpoints of the caller's own zone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir_tests::app::Fault;
use weir_tests::prelude::*;

fn apply(mesh: &Mesh, spec: &str) {
    let policy = format!(
        "apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: reviews, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: reviews}}]
{spec}"
    );
    mesh.manifests().write("policy", &policy);
}

/// Waits until the caller's sidecar shows this at `pointer` of the policy that it keeps to.
async fn keeps_to(caller: &Workload, pointer: &str, expected: &Value) {
    until(&format!("{pointer} is {expected}"), async || {
        let page: Value =
            serde_json::from_str(&caller.proxy().ask("/config").await?.text()).map_err(|error| error.to_string())?;
        let found = page["policies"]["shop/reviews:80"].pointer(pointer);
        ensure(found == Some(expected), || format!("{found:?} of {}", page["policies"]))
    })
    .await;
}

/// Who answers so many requests.
async fn answered_by(caller: &Workload, count: usize) -> BTreeMap<String, usize> {
    let client = caller.client();
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        *seen.entry(client.get("http://reviews/").await.app().to_owned()).or_default() += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_requests_are_under_way_and_wait_as_the_policy_says() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    apply(&mesh, "  limits: {requests: 1, pending: 1}");
    keeps_to(&caller, "/limits/requests", &1.into()).await;
    mesh.reaches(&caller, "http://reviews/").await;

    let client = caller.client();
    let first = tokio::spawn(async move { client.get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    let mut others: FuturesUnordered<_> = (0..2).map(|_| client.get("http://reviews/other")).collect();
    // One of the two waits, whichever came first; both of the caller's workers count.
    let refused = others.next().await.unwrap().made_by_mesh(503, "outbound");
    assert_eq!(refused.reason, "overloaded");
    let told = "1 requests of this workload are under way to shop/reviews:80 and 1 wait, as many as limits.requests";
    assert!(refused.detail.contains(told), "{}", refused.detail);
    assert_eq!(reviews.app().requests("/other"), 0, "and the one that waits has not been sent");
    reviews.app().release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(others.next().await.unwrap().status, 200, "it was its turn");
    // A refusal by the caller's own bound is nobody's failure.
    assert_eq!(caller.metrics().await.sum("weir_endpoint_ejections_total", &[]), 0.0);

    mesh.manifests().remove("policy");
    until("without the policy there is no bound", async || {
        let all = futures_util::future::join_all((0..8).map(|_| client.get("http://reviews/"))).await;
        ensure(all.iter().all(|answer| answer.status == 200), || format!("{all:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_keeps_to_its_routes_time() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        "- {matches: [{path: {value: /other}}], backendRefs: [{name: reviews, port: 80}], timeouts: {request: 200ms}}
- {backendRefs: [{name: reviews, port: 80}]}",
    );
    apply(&mesh, "  limits: {requests: 1, pending: 5}");
    mesh.reaches(&caller, "http://reviews/").await;
    keeps_to(&caller, "/limits/requests", &1.into()).await;
    mesh.reaches(&caller, "http://reviews/").await;
    let client = caller.client();
    let first = tokio::spawn(async move { client.get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    let late = client.get("http://reviews/other").await.made_by_mesh(504, "outbound");
    assert_eq!(late.reason, "request-timeout");
    assert!(late.detail.contains("while 1 other requests of this workload were under way"), "{}", late.detail);
    reviews.app().release();
    assert_eq!(first.await.unwrap().status, 200);
    mesh.reaches(&caller, "http://reviews/other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_connections_are_carried_as_the_policy_says() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let reviews = mesh.workload("reviews").app(App::TcpEcho).start().await;
    mesh.service("reviews").port(80, "tcp").backed_by([&reviews]).apply();
    apply(&mesh, "  limits: {connections: 1}");
    let tunnel = async || -> Result<tokio::net::TcpStream, String> {
        let mut stream = tokio::net::TcpStream::connect(caller.client().address()).await.map_err(|error| error.to_string())?;
        stream.write_all(b"CONNECT reviews:80 HTTP/1.1\r\nhost: reviews:80\r\n\r\n").await.map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.map_err(|error| error.to_string())?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        ensure(head.starts_with("HTTP/1.1 200"), || head).map(|()| stream)
    };
    let first = until("the first is open", tunnel).await;
    keeps_to(&caller, "/limits/connections", &1.into()).await;
    drop(first);
    let open = until("one is open under the policy", async || {
        let open = tunnel().await?;
        match tunnel().await {
            Err(refused) if refused.contains("weir-error: overloaded") => Ok(open),
            Err(other) => Err(other),
            Ok(_) => Err("so is a second".to_owned()),
        }
    })
    .await;
    drop(open);
    until("its place is free", tunnel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_takes_no_new_request() {
    let mesh = Mesh::start().await;
    let caller = mesh.workload("caller").one_worker().start().await;
    let outside = mesh.workload("reviews").app(App::http("reviews")).outside_the_mesh().start().await;
    mesh.service("reviews").backed_by([&outside]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    apply(&mesh, "  connections: {maxAge: 1s}");
    keeps_to(&caller, "/connections/maxAgeSeconds", &1.0.into()).await;
    mesh.reaches(&caller, "http://reviews/").await;
    let before = outside.app().accepted();
    until("another connection was opened", async || {
        mesh.reaches(&caller, "http://reviews/").await;
        let accepted = outside.app().accepted();
        ensure(accepted > before, || format!("{accepted} connections were accepted in all"))
    })
    .await;
}

/// The EndpointSlices of `reviews` and of the caller, each endpoint in a zone.
fn zones(mesh: &Mesh, endpoints: &[(&str, &Workload, &str)]) {
    let mut yaml = String::new();
    for (service, workload, zone) in endpoints {
        let (name, address) = (workload.name(), workload.address());
        let _ = write!(
            yaml,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: zone-{name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints:
- {{addresses: [{address}], zone: {zone}, conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {name}, namespace: shop}}}}
"
        );
    }
    mesh.manifests().write("zones", &yaml);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_stay_in_the_zone_and_leave_it_when_they_must() {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, mut a, b, c) = tokio::join!(start, mesh.backend("a"), mesh.backend("b"), mesh.backend("c"));
    mesh.service("reviews").backed_by([]).apply();
    let at =
        |zone: &'static str| [("callers", &caller, zone), ("reviews", &a, "one"), ("reviews", &b, "two"), ("reviews", &c, "two")];
    zones(&mesh, &at("one"));
    mesh.reaches(&caller, "http://reviews/").await;
    until("without a preference all zones are used", async || {
        let seen = answered_by(&caller, 40).await;
        ensure(seen.len() == 3, || format!("{seen:?}"))
    })
    .await;
    apply(
        &mesh,
        "  locality: {prefer: SameZone}\n  ejection: {consecutiveFailures: 1, maxEjectedPercent: 100, baseTime: 1h, maxTime: 1h}",
    );
    keeps_to(&caller, "/locality/prefer", &"SameZone".into()).await;
    until("all requests stay in zone one", async || {
        let seen = answered_by(&caller, 40).await;
        ensure(seen == BTreeMap::from([("a".to_owned(), 40)]), || format!("{seen:?}"))
    })
    .await;
    // Its only endpoint is ejected after one request that is tried again elsewhere.
    a.kill_app().await;
    let seen = answered_by(&caller, 20).await;
    assert!(!seen.contains_key("a") && seen.values().sum::<usize>() == 20, "{seen:?}");

    zones(&mesh, &[("callers", &caller, "two"), ("reviews", &a, "one"), ("reviews", &b, "two"), ("reviews", &c, "one")]);
    until("the caller's zone is another one now", async || {
        let seen = answered_by(&caller, 20).await;
        ensure(seen == BTreeMap::from([("b".to_owned(), 20)]), || format!("{seen:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_now_and_then_is_ejected_by_its_rate() {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, a, b) = tokio::join!(start, mesh.backend("a"), mesh.backend("b"));
    mesh.service("reviews").backed_by([&a, &b]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    apply(
        &mesh,
        "  loadBalancing: {type: RoundRobin}
  ejection: {consecutiveFailures: 0, minSuccessPercent: 90, minRequests: 10, interval: 1s, baseTime: 1h, maxTime: 1h}",
    );
    keeps_to(&caller, "/ejection/minSuccessPercent", &90.into()).await;
    let client = caller.client();
    // Every other request to `a` fails, never two in a row.
    until("`a` is ejected", async || {
        a.app().fail_next(1, Fault::Status(503));
        for _ in 0..4 {
            client.get("http://reviews/").await;
        }
        let ejected = caller.metrics().await.sum("weir_endpoint_ejections_total", &[("cause", "success-rate")]);
        ensure(ejected == 1.0, || format!("{ejected} ejections"))
    })
    .await;
    let seen = answered_by(&caller, 20).await;
    assert_eq!(seen, BTreeMap::from([("b".to_owned(), 20)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_enough_to_do_refuses_the_least_important_first() {
    let mesh = Mesh::start().await;
    let callers = (mesh.workload("batch").start(), mesh.workload("web").start(), mesh.workload("checkout").start());
    let (batch, web, checkout, reviews) = tokio::join!(callers.0, callers.1, callers.2, mesh.backend("reviews"));
    for caller in [&batch, &web, &checkout] {
        mesh.reaches(caller, "http://reviews/").await;
    }
    apply(
        &mesh,
        "  adaptiveConcurrency:
    min: 4
    max: 4
    priorities:
    - {level: High, namespace: shop, serviceAccount: checkout}
    - {level: Low, namespace: shop, serviceAccount: batch}",
    );
    until("the Pod's sidecar finds its bound out", async || {
        checkout.client().try_get("http://reviews/").await?;
        let limit = reviews.metrics().await.sum("weir_concurrency_limit", &[("port", "8080")]);
        ensure(limit == 4.0, || format!("{limit}"))
    })
    .await;

    // Of four at a time callers of low priority have room while fewer than two are under way, others three, and the highest four.
    let mut held = Vec::new();
    for (caller, refused, words) in [
        (&batch, None, ""),
        (&batch, None, ""),
        (&checkout, Some(&batch), "2 requests are under way at port 8080, as many as keep it fast for callers of low priority"),
        (&checkout, Some(&web), "3 requests are under way at port 8080, as many as keep it fast for callers of normal priority"),
    ] {
        if let Some(refused) = refused {
            let error = refused.client().get("http://reviews/").await.made_by_mesh(503, "inbound");
            assert_eq!(error.reason, "overloaded");
            assert!(error.detail.contains(words) && error.detail.contains("TrafficPolicy shop/reviews"), "{}", error.detail);
        }
        let client = caller.client();
        held.push(tokio::spawn(async move { client.get("http://reviews/hold").await }));
        reviews.app().holds(held.len()).await;
    }
    let error = checkout.client().get("http://reviews/").await.made_by_mesh(503, "inbound");
    assert!(
        error.detail.starts_with("4 requests are under way at port 8080, as many as keep it fast (Traffic"),
        "{}",
        error.detail
    );
    reviews.app().release();
    for request in held {
        assert!(request.await.is_ok_and(|answer| answer.status == 200), "all were served");
    }
    mesh.reaches(&batch, "http://reviews/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_only_reads_does_not_wait_for_a_slow_endpoint() {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, a, b) = tokio::join!(start, mesh.backend("a"), mesh.backend("b"));
    mesh.service("reviews").backed_by([&a, &b]).apply();
    mesh.route("reviews", "- {backendRefs: [{name: reviews, port: 80}], timeouts: {request: 500ms}}");
    apply(
        &mesh,
        "  loadBalancing: {type: RoundRobin}
  ejection: {consecutiveFailures: 0}
  hedging: {after: 20ms}
  retryBudget: {percent: 100, minRetryRate: {count: 100}}",
    );
    mesh.reaches(&caller, "http://reviews/").await;
    keeps_to(&caller, "/hedging/afterSeconds", &0.02.into()).await;
    mesh.reaches(&caller, "http://reviews/").await;
    a.app().fail_next(10_000, Fault::Silence);
    for _ in 0..10 {
        let answer = caller.client().get("http://reviews/read").await;
        assert_eq!((answer.status.as_u16(), answer.app()), (200, "b"), "{answer:?}");
    }
    assert_eq!(b.app().requests("/read"), 10, "each was answered once");
    let won = caller.metrics().await.sum("weir_http_hedges_total", &[("backend", "shop/reviews:80"), ("result", "won")]);
    assert!(won >= 5.0, "every other one at least began at the endpoint that is silent: {won}");

    // What may have an effect is sent once.
    let mut late = 0;
    for _ in 0..4 {
        late += u32::from(caller.client().request(Method::POST, "http://reviews/write").send().await.status == 504);
    }
    assert_eq!((late, a.app().requests("/write"), b.app().requests("/write")), (2, 2, 2));

    apply(
        &mesh,
        "  loadBalancing: {type: RoundRobin}
  ejection: {consecutiveFailures: 0}
  hedging: {after: 20ms}
  retryBudget: {percent: 0, minRetryRate: {count: 0}}",
    );
    keeps_to(&caller, "/retryBudget/percent", &0.into()).await;
    until("without a budget there is no second attempt", async || {
        let late = caller.client().get("http://reviews/read").await;
        ensure(late.status == 504, || format!("{late:?}"))
    })
    .await;
}
