//! Traffic is split by weight, request by request, and the weights can be changed while it flows.

use std::collections::BTreeMap;

use weir_tests::client::request;
use weir_tests::prelude::*;

/// Enough that five hundredths are more than four standard deviations of any split.
const REQUESTS: u32 = 800;
/// What the Gateway API's conformance suite allows.
const TOLERANCE: f64 = 0.05;

/// A mesh with two versions behind one Service, a caller, and this split.
async fn canary(v1: u32, v2: u32) -> (Mesh, Workload, [Workload; 2]) {
    let mesh = Mesh::start().await;
    let (caller, one, two) = tokio::join!(mesh.caller(), mesh.backend("reviews-v1"), mesh.backend("reviews-v2"));
    mesh.service("reviews").apply();
    shift(&mesh, v1, v2);
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, [one, two])
}

fn shift(mesh: &Mesh, v1: u32, v2: u32) {
    mesh.route(
        "reviews",
        &format!(
            "
            - backendRefs:
              - name: reviews-v1
                port: 80
                weight: {v1}
              - name: reviews-v2
                port: 80
                weight: {v2}"
        ),
    );
}

fn assert_share(seen: &BTreeMap<String, u32>, app: &str, wanted: f64) {
    let share = f64::from(seen.get(app).copied().unwrap_or_default()) / f64::from(REQUESTS);
    assert!((share - wanted).abs() <= TOLERANCE, "{app} was to get {wanted} of {REQUESTS} requests and got {share}: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_gets_its_tenth_of_fresh_connections() {
    let (_mesh, caller, _backends) = canary(90, 10).await;
    let mut seen = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = caller.client().get("http://reviews/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        *seen.entry(answer.app().to_owned()).or_default() += 1;
    }
    assert_share(&seen, "reviews-v1", 0.9);
    assert_share(&seen, "reviews-v2", 0.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_one_http2_connection_are_split_as_well() {
    let (_mesh, caller, _backends) = canary(70, 30).await;
    let mut connection = caller.client().h2().connect().await.unwrap();
    let mut seen = BTreeMap::new();
    for _ in 0..REQUESTS {
        let answer = connection.send(request(Method::GET, "http://reviews/")).await.unwrap();
        *seen.entry(answer.app().to_owned()).or_default() += 1;
    }
    assert_share(&seen, "reviews-v1", 0.7);
    assert_share(&seen, "reviews-v2", 0.3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weight_of_zero_takes_nothing_and_may_name_a_service_that_does_not_exist() {
    let (mesh, caller, [_one, two]) = canary(1, 0).await;
    let load = Load::get(caller.client(), 4, "http://reviews/zero");
    load.passes(300).await;
    mesh.route(
        "reviews",
        "
        - backendRefs:
          - name: reviews-v1
            port: 80
          - name: not-there-yet
            port: 80
            weight: 0",
    );
    load.passes(300).await;
    load.stop().await.lost_none();
    assert_eq!(two.app().requests("/zero"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_shifts_from_nothing_to_everything_without_losing_a_request() {
    let (mesh, caller, _backends) = canary(100, 0).await;
    let load = Load::get(caller.client(), 4, "http://reviews/");
    for (v1, v2) in [(90, 10), (50, 50), (0, 100)] {
        load.passes(200).await;
        shift(&mesh, v1, v2);
    }
    until("the canary alone answers", async || {
        for _ in 0..20 {
            let answer = caller.client().get("http://reviews/").await;
            ensure(answer.app() == "reviews-v2", || format!("{} answered", answer.app()))?;
        }
        Ok(())
    })
    .await;
    let tally = load.stop().await;
    tally.lost_none();
    assert_eq!(tally.answered.len(), 2, "both versions answered: {tally:?}");
}
