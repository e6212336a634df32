//! Metrics have the names and labels that dashboards rely on, count right, and take no label from a request's bytes.

use std::collections::BTreeSet;

use weir_tests::metrics::{Kind, Labels, Metrics};
use weir_tests::prelude::*;

const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/caller";
const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.route(
        "reviews",
        "
        - filters:
          - type: ResponseHeaderModifier
            responseHeaderModifier: {set: [{name: x-route, value: in-force}]}
          backendRefs: [{name: reviews, port: 80}]",
    );
    mesh.sees(&caller, "http://reviews/", |answer| ensure(answer.header("x-route").is_some(), || "no route yet".into())).await;
    knows_its_service(&caller, &reviews, "http://reviews/", "reviews").await;
    (mesh, caller, reviews)
}

/// The two sides are told apart from each other: waits until requests are counted under the Service at the callee as well.
async fn knows_its_service(caller: &Workload, callee: &Workload, url: &str, service: &str) {
    until("the callee knows the Service it is reached by", async || {
        caller.client().try_get(url).await?;
        let counted = callee.metrics().await.sum("weir_http_requests_total", &[("service", service)]);
        ensure(counted >= 1.0, || "no request is counted under it".to_owned())
    })
    .await;
}

fn label_names(labels: &Labels) -> BTreeSet<&str> {
    labels.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_on_both_sides_with_the_labels_of_the_interface() {
    let (_mesh, caller, reviews) = pair().await;
    let ours = [("direction", "outbound"), ("service", "reviews"), ("namespace", "shop"), ("tls", "mutual"), ("peer", REVIEWS)];
    let theirs = [("direction", "inbound"), ("service", "reviews"), ("namespace", "shop"), ("tls", "mutual"), ("peer", CALLER)];
    let with = |labels: &[(&'static str, &'static str)], status| [labels, &[("status", status)]].concat();
    let before = caller.metrics().await;
    for _ in 0..7 {
        caller.client().get("http://reviews/").await;
    }
    for _ in 0..3 {
        caller.client().get("http://reviews/status/418").await;
    }
    for (proxy, labels) in [(caller.proxy(), &ours[..]), (reviews.proxy(), &theirs[..])] {
        proxy.counts("weir_http_requests_total", &with(labels, "418"), 3.0).await;
        proxy.counts("weir_http_requests_total", &with(labels, "200"), 7.0).await;
    }
    let after = caller.metrics().await;
    let grown = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    let close = |a: f64, b: f64| (a - b).abs() < 0.5;
    assert!(close(grown("weir_http_requests_total", &[]), 10.0), "ten requests are ten");
    assert!(close(grown("weir_http_request_duration_seconds_count", &ours), 10.0), "and have ten durations");
    assert!(close(grown("weir_http_requests_total", &with(&ours, "418")), 3.0));
    assert!(close(grown("weir_http_requests_total", &[("route", "shop/reviews"), ("backend", "shop/reviews:80")]), 10.0));

    let wanted: BTreeSet<&str> =
        ["direction", "service", "namespace", "route", "backend", "peer", "tls", "status", "grpc_status"].into();
    for (labels, _) in after.series("weir_http_requests_total") {
        assert_eq!(label_names(labels), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_of_the_interface_is_there_with_its_kind() {
    let (mesh, caller, _reviews) = pair().await;
    mesh.gets(&caller, "http://nobody/", 503).await;
    let metrics = caller.metrics().await;
    for (name, kind) in [
        ("weir_http_requests_total", Kind::Counter),
        ("weir_http_request_duration_seconds", Kind::Histogram),
        ("weir_mesh_errors_total", Kind::Counter),
        ("weir_config_version", Kind::Gauge),
        ("weir_config_age_seconds", Kind::Gauge),
        ("weir_config_rejected_total", Kind::Counter),
        ("weir_certificate_expiry_timestamp_seconds", Kind::Gauge),
        ("process_cpu_seconds_total", Kind::Counter),
        ("process_resident_memory_bytes", Kind::Gauge),
        ("process_start_time_seconds", Kind::Gauge),
        ("process_open_fds", Kind::Gauge),
    ] {
        assert_eq!(metrics.kind(name), Some(kind), "{name}");
    }
    let expiry = metrics.sum("weir_certificate_expiry_timestamp_seconds", &[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(expiry > now + 20.0 * 3600.0 && expiry < now + 25.0 * 3600.0, "a leaf lives for a day: {}", expiry - now);
    assert!(metrics.sum("weir_config_version", &[]) >= 1.0);
    assert!(metrics.sum("process_resident_memory_bytes", &[]) > 1e6);
    for name in metrics.names() {
        assert!(name.starts_with("weir_") || name.starts_with("process_"), "{name} is nobody's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_planes_metrics_are_readable_as_well() {
    let (mesh, _caller, _reviews) = pair().await;
    let metrics = mesh.control_plane().metrics().await;
    assert_eq!(metrics.kind("process_resident_memory_bytes"), Some(Kind::Gauge));
    assert!(metrics.names().any(|name| name.starts_with("weir_")), "it counts something of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_hosts_paths_and_methods_make_no_series() {
    let (_mesh, caller, reviews) = pair().await;
    let client = caller.client();
    let storm = async |round: u32| {
        client.get(&format!("http://host-{round}.example.invalid/{round}")).await;
        client.get(&format!("http://nobody-{round}/{round}")).await;
        client.get(&format!("http://reviews/path-{round}?q={round}")).await;
        let method = Method::from_bytes(format!("METHOD{round}").as_bytes()).unwrap();
        client.request(method, "http://reviews/").header("user-agent", &format!("agent-{round}")).send().await;
    };
    let both = async || [caller.metrics().await.len(), reviews.metrics().await.len()];
    for round in 0..5 {
        storm(round).await;
    }
    let before = both().await;
    for round in 100..150 {
        storm(round).await;
    }
    assert_eq!(both().await, before, "the number of series depends on the configuration alone");
    let page = caller.proxy().ask("/metrics").await.unwrap().text();
    for never in ["host-", "path-", "METHOD", "agent-", "nobody-"] {
        assert!(!page.contains(never), "{never} of a request became part of a label");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_statuses_are_counted_apart_from_http_statuses() {
    let mesh = Mesh::start().await;
    let (caller, server) = tokio::join!(mesh.caller(), mesh.workload("echo").app(App::http("echo")).start());
    mesh.service("echo").port(50051, "grpc").backed_by([&server]).apply();
    knows_its_service(&caller, &server, "http://echo:50051/", "echo").await;
    for method in ["Say", "Fail"] {
        let words = weir_tests::app::Words { text: "x".to_owned(), count: 1 };
        let sending = caller.client().h2().request(Method::POST, &format!("http://echo:50051/weir.test.Echo/{method}"));
        sending.header("content-type", "application/grpc").header("te", "trailers").body(words.frame()).send().await;
    }
    for (grpc_status, proxy) in [("0", caller.proxy()), ("7", caller.proxy()), ("0", server.proxy()), ("7", server.proxy())] {
        let labels = [("service", "echo"), ("status", "200"), ("grpc_status", grpc_status)];
        proxy.counts("weir_http_requests_total", &labels, 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_under_load_is_whole_and_counters_never_fall() {
    let (_mesh, caller, _reviews) = pair().await;
    let load = Load::get(caller.client(), 4, "http://reviews/");
    let mut last = 0.0;
    for _ in 0..15 {
        load.passes(20).await;
        let now = caller.metrics().await.sum("weir_http_requests_total", &[]);
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    load.stop().await.lost_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_says_what_format_it_has() {
    let (_mesh, caller, _reviews) = pair().await;
    let page = caller.proxy().ask("/metrics").await.unwrap();
    let kind = page.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain") && kind.contains("version=0.0.4"), "{kind}");
    assert!(!Metrics::parse(&page.text()).unwrap().is_empty());
}
