//! Batches: what is in them, and when they are made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::collect::Collector;
use super::follow::{Change, What};
use crate::index::Event;
use crate::kube::testing::service;
use crate::objects::backend_tls::CaBundle;
use crate::objects::{Kind, Object};
use crate::source::Batch;

const KINDS: [Kind; 4] = [Kind::Pod, Kind::Service, Kind::EndpointSlice, Kind::HttpRoute];

struct Run {
    collector: Collector,
    now: Instant,
}

impl Run {
    fn new() -> Self {
        Self { collector: Collector::new(KINDS), now: Instant::now() }
    }

    /// Everything has been listed, and there was nothing.
    fn begun() -> Self {
        let mut run = Self::new();
        for kind in KINDS {
            run.take(kind, What::Listing);
            run.take(kind, What::Listed);
        }
        assert!(run.batch().is_some());
        run
    }

    fn take(&mut self, kind: Kind, what: What) {
        self.collector.take(Change { kind, what }, self.now);
    }

    fn put(&mut self, kind: Kind, value: Value) {
        self.take(kind, What::Put(value));
    }

    fn batch(&mut self) -> Option<Batch> {
        self.collector.batch(self.now)
    }

    /// The events in short, once they are due.
    fn events(&mut self) -> BTreeSet<String> {
        self.now = self.collector.due().unwrap();
        self.batch().unwrap().events.iter().map(short).collect()
    }
}

fn short(event: &Event) -> String {
    match event {
        Event::Apply(object) => format!("+{}", object.key()),
        Event::Delete(key) => format!("-{key}"),
    }
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(ToString::to_string).collect()
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"}})
}

fn slice(name: &str, pods: &[&str]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| json!({"addresses": ["10.1.0.1"], "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "a"}},
        "endpoints": endpoints, "ports": [{"name": "", "port": 80}],
    })
}

fn route(port: i64) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop", "generation": 1, "resourceVersion": "7"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "a", "port": port}], "rules": []},
    })
}

#[test]
fn the_first_batch_waits_for_every_list_and_has_everything() {
    let mut run = Run::new();
    for kind in KINDS {
        run.take(kind, What::Listing);
    }
    run.put(Kind::Service, service("a", 1));
    run.put(Kind::EndpointSlice, slice("s", &["unknown"]));
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Pod] {
        assert_eq!(run.collector.due(), None);
        run.take(kind, What::Listed);
    }
    run.now += Duration::from_secs(60);
    assert!(run.batch().is_none(), "routes have not been listed");
    run.take(Kind::HttpRoute, What::Absent);
    assert_eq!(run.events(), set(&["+Service shop/a", "+EndpointSlice shop/s"]));
    assert!(run.batch().is_none());
}

#[test]
fn nothing_at_all_is_a_first_batch_too() {
    let mut run = Run::begun();
    assert_eq!(run.collector.due(), None);
    run.now += Duration::from_secs(60);
    assert!(run.batch().is_none());
}

#[test]
fn a_list_after_a_gap_tells_what_is_gone() {
    let mut run = Run::begun();
    for name in ["a", "b", "c"] {
        run.put(Kind::Service, service(name, 1));
    }
    run.put(Kind::Pod, pod("p"));
    assert_eq!(run.events().len(), 4);
    run.take(Kind::Service, What::Listing);
    run.put(Kind::Service, service("a", 2));
    assert_eq!(run.events(), set(&["+Service shop/a"]), "the rest may follow");
    run.put(Kind::Service, service("c", 1));
    run.take(Kind::Service, What::Listed);
    assert_eq!(run.events(), set(&["+Service shop/c", "-Service shop/b"]));
}

#[test]
fn a_list_that_was_begun_anew_forgets_nothing_and_invents_nothing() {
    let mut run = Run::begun();
    run.put(Kind::Service, service("a", 1));
    run.put(Kind::Service, service("b", 1));
    run.events();
    run.take(Kind::Service, What::Listing);
    run.put(Kind::Service, service("b", 1));
    run.take(Kind::Service, What::Listing);
    run.put(Kind::Service, service("a", 1));
    run.take(Kind::Service, What::Listed);
    assert_eq!(run.events(), set(&["+Service shop/a", "-Service shop/b"]));
}

#[test]
fn a_kind_that_is_uninstalled_takes_its_objects_along() {
    let mut run = Run::begun();
    run.put(Kind::HttpRoute, route(80));
    run.put(Kind::Service, service("a", 1));
    run.events();
    run.take(Kind::HttpRoute, What::Absent);
    assert_eq!(run.events(), set(&["-HTTPRoute shop/r"]));
}

#[test]
fn of_several_changes_the_last_counts() {
    let mut run = Run::begun();
    run.put(Kind::Service, service("a", 1));
    run.put(Kind::Service, service("b", 1));
    run.take(Kind::Service, What::Delete(service("a", 2)));
    run.put(Kind::Service, service("b", 2));
    assert_eq!(run.events(), set(&["-Service shop/a", "+Service shop/b"]));
}

#[test]
fn batches_wait_for_quiet_but_not_for_long() {
    let mut run = Run::begun();
    let start = run.now;
    let mut batches = 0;
    // A change every 2 ms for 200 ms.
    for step in 0..100_u32 {
        run.now = start + Duration::from_millis(2) * step;
        run.put(Kind::Pod, pod("p"));
        batches += u32::from(run.batch().is_some());
    }
    assert!((3..=5).contains(&batches), "{batches}");
    run.now += Duration::from_millis(5);
    assert!(run.batch().is_some());
}

#[test]
fn very_many_changes_do_not_wait() {
    let mut run = Run::begun();
    for number in 0..4096 {
        run.put(Kind::Pod, pod(&format!("p{number}")));
    }
    assert_eq!(run.batch().unwrap().events.len(), 4096);
}

#[test]
fn a_slice_waits_for_its_pods() {
    let mut run = Run::begun();
    run.put(Kind::EndpointSlice, slice("s", &["p"]));
    assert_eq!(run.events(), set(&[]));
    run.put(Kind::Pod, pod("p"));
    assert_eq!(run.events(), set(&["+EndpointSlice shop/s", "+Pod shop/p"]));
    run.put(Kind::EndpointSlice, slice("s", &["p"]));
    assert_eq!(run.events(), set(&["+EndpointSlice shop/s"]));
}

#[test]
fn a_slice_does_not_wait_for_ever() {
    let mut run = Run::begun();
    let start = run.now;
    run.put(Kind::EndpointSlice, slice("s", &["p"]));
    assert_eq!(run.events(), set(&[]));
    // Another version does not start the wait anew.
    run.now = start + Duration::from_secs(3);
    run.put(Kind::EndpointSlice, slice("s", &["p", "q"]));
    assert_eq!(run.events(), set(&[]));
    let due = run.collector.due().unwrap();
    assert!(due <= start + Duration::from_millis(5_010), "{:?}", due - start);
    assert_eq!(run.events(), set(&["+EndpointSlice shop/s"]));
}

#[test]
fn a_slice_that_goes_does_not_come_back() {
    let mut run = Run::begun();
    run.put(Kind::EndpointSlice, slice("s", &["p"]));
    run.events();
    run.take(Kind::EndpointSlice, What::Delete(slice("s", &[])));
    assert_eq!(run.events(), set(&["-EndpointSlice shop/s"]));
    run.put(Kind::Pod, pod("p"));
    assert_eq!(run.events(), set(&["+Pod shop/p"]));
}

#[test]
fn an_object_that_cannot_be_taken_leaves_the_version_before_it() {
    let mut run = Run::begun();
    run.put(Kind::HttpRoute, route(80));
    run.now = run.collector.due().unwrap();
    let batch = run.batch().unwrap();
    assert!(matches!(batch.events.as_slice(), [Event::Apply(Object::Route(_))]));
    assert_eq!(batch.judged.len(), 1);
    run.put(Kind::HttpRoute, route(70_000));
    run.now = run.collector.due().unwrap();
    let batch = run.batch().unwrap();
    assert!(batch.events.is_empty());
    assert_eq!(batch.diagnostics.len(), 1, "{:?}", batch.diagnostics);
    assert_eq!(batch.judged.len(), 1, "its status says so");
    // It is there, so a list that names it takes nothing away.
    run.take(Kind::HttpRoute, What::Listing);
    run.put(Kind::HttpRoute, route(70_000));
    run.take(Kind::HttpRoute, What::Listed);
    assert_eq!(run.events(), set(&[]));
    run.take(Kind::HttpRoute, What::Delete(route(70_000)));
    run.now = run.collector.due().unwrap();
    let batch = run.batch().unwrap();
    assert_eq!(batch.events.iter().map(short).collect::<Vec<_>>(), ["-HTTPRoute shop/r"]);
    assert!(batch.diagnostics.is_empty());
}

#[test]
fn of_config_maps_only_those_with_ca_certificates_are_kept() {
    let config_map = |name: &str, key: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"}, "data": {key: "pem"}});
    let mut run = Run::begun();
    run.take(Kind::ConfigMap, What::Listing);
    run.put(Kind::ConfigMap, config_map("ca", "ca.crt"));
    run.put(Kind::ConfigMap, config_map("same", "ca.crt"));
    run.put(Kind::ConfigMap, config_map("settings", "application.yaml"));
    run.take(Kind::ConfigMap, What::Listed);
    run.now = run.collector.due().unwrap();
    let batch = run.batch().unwrap();
    assert_eq!(batch.events.iter().map(short).collect::<BTreeSet<_>>(), set(&["+ConfigMap shop/ca", "+ConfigMap shop/same"]));
    let texts: Vec<Arc<str>> = batch
        .events
        .iter()
        .map(|event| match event {
            Event::Apply(Object::ConfigMap(it)) if let CaBundle::Text(text) = &it.ca => Arc::clone(text),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(Arc::ptr_eq(&texts[0], &texts[1]), "what is the same is held once");

    // One whose certificates are gone is as good as gone.
    run.put(Kind::ConfigMap, config_map("ca", "application.yaml"));
    assert_eq!(run.events(), set(&["-ConfigMap shop/ca"]));
}
