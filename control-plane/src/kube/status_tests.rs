//! What is written into a route's status, and when.

use std::slice;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::status::{StatusObject, StatusQueue, StatusWriter};
use super::status_merge::{Known, Verdict, judge};
use super::testing::{Answer, Script, script};
use super::{Cluster, Leadership};
use crate::ca::Authority;
use crate::ca::sign::LEAF_LIFETIME;
use crate::index::Event;
use crate::metrics::Metrics;
use crate::objects::{self, Decoded, Kind, ObjectKey};
use crate::publish::Hub;
use crate::translate::{CONTROLLER, Condition, ParentStatus, Status};

const BEFORE: &str = "2025-01-01T00:00:00Z";
const NOW: &str = "2026-01-01T00:00:00Z";

fn key() -> ObjectKey {
    ObjectKey { kind: Kind::HttpRoute, namespace: "shop".into(), name: "r".into() }
}

/// As an API server has it: with defaults filled in.
fn parent(name: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name, "port": 80})
}

fn gateway() -> Value {
    json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"})
}

fn entry(parent: &Value, controller: &str, status: &str, generation: i64, since: &str) -> Value {
    let condition = json!({
        "type": "Accepted", "status": status, "reason": "Accepted", "message": "m",
        "observedGeneration": generation, "lastTransitionTime": since,
    });
    json!({"parentRef": parent, "controllerName": controller, "conditions": [condition]})
}

fn others() -> Value {
    entry(&gateway(), "example.com/gateway", "True", 1, BEFORE)
}

fn object(generation: i64, parents: &[Value], status: &[Value]) -> StatusObject {
    let value = json!({
        "metadata": {"name": "r", "namespace": "shop", "generation": generation, "resourceVersion": "7"},
        "spec": {"parentRefs": parents}, "status": {"parents": status},
    });
    StatusObject::read(&key(), &value, None).unwrap()
}

/// Judged at `generation`, with a status for each parent at these positions.
fn known(generation: i64, status: &'static str, positions: &[usize]) -> Known {
    let parents = positions.iter().map(|position| ParentStatus {
        parent: String::new(),
        parent_index: *position,
        controller_name: CONTROLLER,
        conditions: vec![Condition {
            kind: "Accepted",
            status,
            reason: "Accepted",
            message: "m".to_owned(),
            observed_generation: generation,
        }],
    });
    let status = (!positions.is_empty()).then(|| Status {
        kind: "HTTPRoute",
        namespace: "shop".to_owned(),
        name: "r".to_owned(),
        parents: parents.collect(),
    });
    Known { generation, status }
}

fn ours(name: &str, status: &str, generation: i64, since: &str) -> Value {
    entry(&parent(name), CONTROLLER, status, generation, since)
}

#[test]
fn only_our_entries_are_ever_others() {
    let (a, b, edge) = (parent("a"), parent("b"), gateway());
    let table: Vec<(&str, StatusObject, Known, Verdict)> = vec![
        (
            "a new route: beside what others say",
            object(1, &[edge.clone(), a.clone()], &[others()]),
            known(1, "True", &[1]),
            Verdict::Write(vec![others(), ours("a", "True", 1, NOW)]),
        ),
        (
            "nothing differs",
            object(1, slice::from_ref(&a), &[ours("a", "True", 1, BEFORE), others()]),
            known(1, "True", &[0]),
            Verdict::AsItShouldBe,
        ),
        (
            "another generation: the time of the change stays",
            object(2, slice::from_ref(&a), &[ours("a", "True", 1, BEFORE), others()]),
            known(2, "True", &[0]),
            Verdict::Write(vec![ours("a", "True", 2, BEFORE), others()]),
        ),
        (
            "another status: the time is now",
            object(1, slice::from_ref(&a), &[ours("a", "True", 1, BEFORE)]),
            known(1, "False", &[0]),
            Verdict::Write(vec![ours("a", "False", 1, NOW)]),
        ),
        (
            "a parent is gone, and one has come",
            object(3, slice::from_ref(&b), &[ours("a", "True", 2, BEFORE), others()]),
            known(3, "True", &[0]),
            Verdict::Write(vec![others(), ours("b", "True", 3, NOW)]),
        ),
        (
            "no parent is a Service any more",
            object(3, slice::from_ref(&edge), &[ours("a", "True", 2, BEFORE), others()]),
            known(3, "True", &[]),
            Verdict::Write(vec![others()]),
        ),
        ("nothing is ours, and nothing was", object(3, &[edge], &[others()]), known(3, "True", &[]), Verdict::AsItShouldBe),
        (
            "twice the same entry",
            object(1, slice::from_ref(&a), &[ours("a", "True", 1, BEFORE), ours("a", "True", 1, BEFORE)]),
            known(1, "True", &[0]),
            Verdict::Write(vec![ours("a", "True", 1, BEFORE)]),
        ),
        ("not judged yet", object(2, &[a], &[ours("a", "True", 1, BEFORE)]), known(1, "True", &[0]), Verdict::NotJudged),
    ];
    for (name, object, known, expected) in table {
        assert_eq!(judge(&object, Some(&known), NOW), expected, "{name}");
    }
    assert_eq!(judge(&object(1, &[parent("a")], &[]), None, NOW), Verdict::NotJudged);
}

#[test]
fn a_version_that_cannot_be_taken_is_not_accepted() {
    let value = json!({
        "metadata": {"name": "r", "namespace": "shop", "generation": 4, "resourceVersion": "7"},
        "spec": {"parentRefs": [gateway(), parent("a")]}, "status": {"parents": [others(), ours("a", "True", 3, BEFORE)]},
    });
    let object = StatusObject::read(&key(), &value, Some("spec.rules[0]: no".to_owned())).unwrap();
    for (known, says) in [(Some(known(3, "True", &[1])), "(generation 3) is served on"), (None, "nothing of it is served")] {
        let Verdict::Write(parents) = judge(&object, known.as_ref(), NOW) else { panic!("nothing to write") };
        assert_eq!(parents.len(), 2);
        assert_eq!(parents[0], others());
        let condition = &parents[1]["conditions"][0];
        assert_eq!((condition["status"].as_str(), condition["observedGeneration"].as_i64()), (Some("False"), Some(4)));
        assert_eq!(condition["lastTransitionTime"], NOW);
        let message = condition["message"].as_str().unwrap();
        assert!(message.starts_with("spec.rules[0]: no") && message.contains(says), "{message}");
    }
}

/// A hub that knows the route and its Service, and a writer in a cluster that answers by script.
fn writer(answers: Vec<Answer>) -> (Script, StatusQueue) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    });
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), "cluster.local".parse().unwrap(), LEAF_LIFETIME).unwrap();
    let hub = Hub::new(authority.bundle(), Metrics::new().unwrap(), CancellationToken::new());
    let applied = hub.apply([service, route("7", &[])].iter().map(|value| match objects::decode(value) {
        Decoded::Object(object, _) => Event::Apply(object),
        other => panic!("{other:?}"),
    }));
    assert_eq!(applied.statuses.len(), 1);
    let script = script(answers);
    let queue = StatusQueue::default();
    let cluster =
        Cluster { client: script.client.clone(), namespace: "weir-system".to_owned(), leadership: Leadership::always() };
    tokio::spawn(StatusWriter::new(queue.clone(), hub, cluster).run(CancellationToken::new()));
    let object = StatusObject::read(&key(), &route("7", &[others()]), None).unwrap();
    queue.update(vec![object], std::iter::empty(), std::iter::empty());
    (script, queue)
}

fn route(version: &str, status: &[Value]) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop", "generation": 1, "resourceVersion": version},
        "spec": {"parentRefs": [parent("a")], "rules": []}, "status": {"parents": status},
    })
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_against_the_version_that_was_read() {
    let (mut script, _queue) = writer(vec![]);
    let asked = script.asked.recv().await.unwrap();
    assert_eq!(asked.method, "PATCH");
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r/status?";
    assert!(asked.path.starts_with(path), "{}", asked.path);
    assert_eq!(asked.body["metadata"], json!({"resourceVersion": "7"}));
    let parents = asked.body["status"]["parents"].as_array().unwrap();
    assert_eq!(parents[0], others());
    assert_eq!(parents[1]["parentRef"], parent("a"));
    assert_eq!(parents[1]["controllerName"], "weir.dev/mesh");
    let kinds: Vec<&str> = parents[1]["conditions"].as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Accepted", "ResolvedRefs"]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_read_again_and_an_absent_server_waited_for() {
    let second = entry(&gateway(), "example.com/second", "True", 1, BEFORE);
    let answers = vec![Answer::Status(409), Answer::Json(route("8", &[others(), second.clone()])), Answer::Refused];
    let (mut script, _queue) = writer(answers);
    assert_eq!(script.asked.recv().await.unwrap().method, "PATCH");
    assert_eq!(script.asked.recv().await.unwrap().method, "GET");
    for _ in 0..2 {
        let asked = script.asked.recv().await.unwrap();
        assert_eq!(asked.body["metadata"], json!({"resourceVersion": "8"}));
        assert_eq!(asked.body["status"]["parents"].as_array().unwrap().len(), 3);
        assert_eq!(asked.body["status"]["parents"][1], second);
    }
}

#[test]
fn a_policys_status_has_the_names_of_its_own_form() {
    for kind in [Kind::TrafficPolicy, Kind::BackendTlsPolicy, Kind::BackendTrafficPolicy] {
        has_the_names_of_its_own_form(kind);
    }
}

#[test]
fn a_policy_has_sixteen_ancestors_at_most_and_others_keep_theirs() {
    let target = |index: usize| json!({"group": "", "kind": "Service", "name": format!("s{index}")});
    let targets: Vec<Value> = (0..16).map(target).collect();
    let of_another = |index: usize| json!({"ancestorRef": {"kind": "Gateway", "name": format!("g{index}")}, "controllerName": "example.com/other", "conditions": []});
    let key = ObjectKey { kind: Kind::BackendTrafficPolicy, namespace: "shop".into(), name: "p".into() };
    for (others, expected) in [(0, 16), (1, 15), (15, 1), (16, 0)] {
        let entries: Vec<Value> = (0..others).map(of_another).collect();
        let value = json!({
            "metadata": {"name": "p", "namespace": "shop", "generation": 2, "resourceVersion": "7"},
            "spec": {"targetRefs": targets}, "status": {"ancestors": entries},
        });
        let object = StatusObject::read(&key, &value, None).unwrap();
        let every: Vec<usize> = (0..16).collect();
        let written = match judge(&object, Some(&known(2, "True", &every)), NOW) {
            Verdict::Write(written) => written,
            Verdict::AsItShouldBe => entries.clone(),
            Verdict::NotJudged => panic!("not judged"),
        };
        assert_eq!(written[..others], entries[..], "{others} of others");
        assert_eq!(written.len() - others, expected, "{others} of others");
        // Written again it stays as it is.
        let mut again = value.clone();
        again["status"]["ancestors"] = json!(written);
        let object = StatusObject::read(&key, &again, None).unwrap();
        assert_eq!(judge(&object, Some(&known(2, "True", &every)), NOW), Verdict::AsItShouldBe);
    }
}

fn has_the_names_of_its_own_form(kind: Kind) {
    let target = json!({"group": "", "kind": "Service", "name": "a"});
    let key = ObjectKey { kind, namespace: "shop".into(), name: "p".into() };
    let value = json!({
        "metadata": {"name": "p", "namespace": "shop", "generation": 2, "resourceVersion": "7"},
        "spec": {"targetRefs": [target]},
    });
    let object = StatusObject::read(&key, &value, None).unwrap();
    let Verdict::Write(entries) = judge(&object, Some(&known(2, "True", &[0])), NOW) else { panic!("nothing to write") };
    assert_eq!(entries[0]["ancestorRef"], target);
    assert_eq!(entries[0]["controllerName"], CONTROLLER);
    let refused = StatusObject::read(&key, &value, Some("spec.faults[0]: no".to_owned())).unwrap();
    let Verdict::Write(entries) = judge(&refused, None, NOW) else { panic!("nothing to write") };
    assert_eq!(
        (&entries[0]["conditions"][0]["reason"], &entries[0]["conditions"][0]["status"]),
        (&json!("Invalid"), &json!("False"))
    );
}
