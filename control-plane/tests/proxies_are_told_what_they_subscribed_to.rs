//! The control plane as a process, seen by proxies.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use common::{ControlPlane, OTHER_TOKEN, Proxy, TOKEN, hello, names, request};
use tonic::Code;
use weir_tls::KeyRequest;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  ports:
  - {name: http, port: 80}
---
apiVersion: v1
kind: Service
metadata: {name: canary, namespace: shop}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [127.10.0.1]}]
";

fn route(weight: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews}}]
  rules:
  - backendRefs: [{{name: reviews, port: 80}}, {{name: canary, port: 80, weight: {weight}}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_comes_with_its_endpoints_and_an_edit_with_nothing_else() {
    let control_plane = ControlPlane::start(&[("shop.yaml", SHOP), ("route.yaml", &route(1))], &[]);
    let mut proxy = control_plane.stream().await;
    let first = proxy.take().await;
    assert_eq!(first.sequence, 1);
    assert_eq!(names(&first).len(), 2, "inbound and trust: {first:?}");
    proxy.subscribe(&["shop/reviews", "shop/nobody"]).await;
    let second = proxy.take().await;
    assert_eq!(names(&second), ["shop/reviews", "shop/canary:80", "shop/reviews:80", "-shop/nobody"]);

    // What changes nothing that the proxy sees is not sent: the next response is the one for the edit after it.
    control_plane.write("other.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {a: b}}\n");
    control_plane.wait_until("the edit is taken", || control_plane.log().contains("objects=5"));
    control_plane.write("route.yaml", &route(2));
    let third = proxy.take().await;
    assert_eq!((third.sequence, names(&third)), (3, vec!["shop/reviews".to_owned()]));

    std::fs::remove_file(control_plane.path("manifests/route.yaml")).unwrap();
    assert_eq!(names(&proxy.take().await), ["shop/reviews", "-shop/canary:80"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_named() {
    let control_plane = ControlPlane::start(&[("shop.yaml", SHOP), ("route.yaml", &route(1))], &[]);
    let mut proxy = control_plane.stream().await;
    proxy.subscribe(&["shop/reviews"]).await;
    proxy.take_until("shop/reviews").await;
    control_plane.write("route.yaml", "kind: HTTPRoute\nspec: {rules: [\n");
    control_plane.wait_until("the file is reported", || {
        let found = control_plane.json("/api/v1/diagnostics");
        found
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it["file"].as_str().is_some_and(|file| file.ends_with("route.yaml")) && it["line"].as_u64().is_some())
    });
    assert!(control_plane.get("/metrics").unwrap().1.contains("weir_control_plane_diagnostics{level=\"error\"} 1"));
    control_plane.write("shop.yaml", &SHOP.replace("127.10.0.1", "127.10.0.2"));
    let next = proxy.take().await;
    assert_eq!(names(&next), ["shop/reviews:80", ""], "the other file serves on, and the route too: {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_and_not_repeated() {
    let control_plane = ControlPlane::start(&[("shop.yaml", SHOP), ("route.yaml", &route(1))], &[]);
    let mut proxy = control_plane.stream().await;
    proxy.subscribe(&["shop/reviews"]).await;
    proxy.take_until("shop/reviews").await;
    control_plane.write("route.yaml", &route(7));
    let refused = proxy.next().await.unwrap();
    proxy.nack(&refused, "weights must be even").await;
    control_plane.wait_until("the refusal is shown", || {
        control_plane.json("/api/v1/proxies")[0]["refused"]["reason"] == "weights must be even"
    });
    assert!(control_plane.get("/metrics").unwrap().1.contains("weir_control_plane_nacks_total 1"));
    control_plane.write("route.yaml", &route(8));
    let better = proxy.take().await;
    assert_eq!((better.sequence, names(&better)), (refused.sequence + 1, vec!["shop/reviews".to_owned()]));
    control_plane.wait_until("nothing is refused any more", || control_plane.json("/api/v1/proxies")[0]["refused"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_answer_gets_only_the_newest_and_delays_nobody() {
    let control_plane = ControlPlane::start(&[("shop.yaml", SHOP), ("route.yaml", &route(1))], &[]);
    let (mut slow, mut quick) = (control_plane.stream().await, control_plane.stream().await);
    for proxy in [&mut slow, &mut quick] {
        proxy.subscribe(&["shop/reviews"]).await;
        proxy.take_until("shop/reviews").await;
    }
    control_plane.write("route.yaml", &route(2));
    let unanswered = slow.next().await.unwrap();
    quick.take().await;
    for weight in 3..6 {
        control_plane.write("route.yaml", &route(weight));
        assert_eq!(names(&quick.take().await), ["shop/reviews"], "weight {weight}");
    }
    slow.ack(&unanswered).await;
    let newest = slow.take().await;
    assert_eq!(newest.sequence, unanswered.sequence + 1);
    assert!(format!("{newest:?}").contains("weight: 5"), "{newest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_brings_along_is_not_sent_again() {
    let control_plane = ControlPlane::start(&[("shop.yaml", SHOP), ("route.yaml", &route(1))], &[]);
    let mut proxy = control_plane.stream().await;
    let first = proxy.take().await;
    proxy.subscribe(&["shop/reviews"]).await;
    let second = proxy.take().await;
    let held = first
        .updated
        .iter()
        .chain(&second.updated)
        .map(|it| weir_proto::v1::Held { name: it.name.clone(), version: it.version.clone() });
    let credentials = control_plane.credentials(TOKEN, "reviews").await;
    let channel = control_plane.connect(Some(&credentials)).await.unwrap();
    let hello = weir_proto::v1::Hello { held: held.collect(), ..hello("shop", "reviews") };
    let mut again = Proxy::open(channel, hello).await.unwrap();
    again.subscribe(&["shop/reviews"]).await;
    control_plane.write("route.yaml", &route(3));
    let response = again.take().await;
    assert_eq!((response.sequence, names(&response)), (1, vec!["shop/reviews".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_a_token_is_given_a_certificate() {
    let control_plane = ControlPlane::start(&[], &[]);
    let csr = || KeyRequest::generate().unwrap().csr_der;
    for (wanted, token, namespace, account) in [
        (Code::Unauthenticated, "wrong-token", "shop", "reviews"),
        (Code::Unauthenticated, "", "shop", "reviews"),
        (Code::PermissionDenied, OTHER_TOKEN, "shop", "reviews"),
        (Code::PermissionDenied, TOKEN, "other", "reviews"),
        (Code::InvalidArgument, TOKEN, "Shop", "reviews"),
    ] {
        let refused = control_plane.certify(request(token, namespace, account, csr())).await.unwrap_err();
        assert_eq!(refused.code(), wanted, "{token} {namespace}/{account}: {refused:?}");
    }
    let refused = control_plane.certify(request(TOKEN, "shop", "reviews", vec![1, 2, 3])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(!control_plane.log().contains(TOKEN), "a token is never logged");

    let response = control_plane.certify(request(TOKEN, "shop", "reviews", csr())).await.unwrap();
    assert_eq!(response.chain.len(), 2);
    assert_eq!(response.roots.unwrap().trust_domain, "cluster.local");
    let lifetime = response.not_after_seconds - response.not_before_seconds;
    assert_eq!(lifetime, 24 * 3600 + 120, "a day, and two minutes for clocks that differ");

    // A token that is taken out of the file is worth nothing at once.
    std::fs::write(control_plane.path("tokens"), "another-token shop reviews\n").unwrap();
    let refused = control_plane.certify(request(TOKEN, "shop", "reviews", csr())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    control_plane.certify(request("another-token", "shop", "reviews", csr())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_is_for_certified_proxies_and_each_is_who_it_is() {
    let control_plane = ControlPlane::start(&[], &[]);
    let nobody = control_plane.connect(None).await.unwrap();
    let refused = Proxy::open(nobody, hello("shop", "reviews")).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");

    let credentials = control_plane.credentials(TOKEN, "reviews").await;
    for (namespace, account) in [("shop", "ratings"), ("other", "reviews")] {
        let channel = control_plane.connect(Some(&credentials)).await.unwrap();
        let mut liar = Proxy::open(channel, hello(namespace, account)).await.unwrap();
        assert_eq!(liar.next().await.unwrap_err().code(), Code::PermissionDenied);
    }
    let elsewhere = ControlPlane::start(&[], &[]);
    let foreign = elsewhere.credentials(TOKEN, "reviews").await;
    let channel = control_plane.connect(Some(&foreign)).await;
    let ended = match channel {
        Err(_) => true,
        Ok(channel) => Proxy::open(channel, hello("shop", "reviews")).await.is_err(),
    };
    assert!(ended, "a certificate of another authority");
    control_plane.wait_until("the reason is counted", || {
        let metrics = control_plane.get("/metrics").unwrap().1;
        metrics.contains("weir_control_plane_handshakes_failed_total{reason=\"unknown-issuer\"}")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_breaks_the_protocol_is_told_so() {
    use weir_proto::v1::discovery_request::Kind;
    let control_plane = ControlPlane::start(&[], &[]);
    let wrong_ack = Kind::Ack(weir_proto::v1::Ack { sequence: 77 });
    let alone =
        weir_proto::v1::ResourceName { kind: weir_proto::v1::ResourceKind::Endpoints.into(), name: "shop/reviews:80".into() };
    let endpoints = Kind::Subscribe(weir_proto::v1::Subscribe { names: vec![alone] });
    let nonsense = weir_proto::v1::ResourceName { kind: 99, name: "x".into() };
    let unknown = Kind::Subscribe(weir_proto::v1::Subscribe { names: vec![nonsense] });
    for kind in [wrong_ack, endpoints, unknown, Kind::Hello(hello("shop", "reviews"))] {
        let mut proxy = control_plane.stream().await;
        proxy.next().await.unwrap();
        proxy.send(kind.clone()).await;
        assert_eq!(proxy.next().await.unwrap_err().code(), Code::InvalidArgument, "{kind:?}");
    }
    control_plane.wait_until("no proxy is left", || control_plane.json("/api/v1/proxies").as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_certificate() {
    let control_plane = ControlPlane::start(&[], &["--leaf-lifetime", "5s"]);
    let mut proxy = control_plane.stream().await;
    proxy.take().await;
    let ended = proxy.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(ended.message().contains("certificate ended at"), "{ended:?}");
    // The control plane has renewed its own meanwhile, and goes on.
    let mut again = control_plane.stream().await;
    again.take().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_with_a_reason() {
    let mut control_plane = ControlPlane::start(&[], &[]);
    let mut proxy = control_plane.stream().await;
    proxy.take().await;
    control_plane.signal_terminate();
    let ended = proxy.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    drop(proxy);
    assert_eq!(control_plane.wait_for_exit().code(), Some(0));
}
