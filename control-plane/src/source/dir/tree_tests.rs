use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::tree::{Contents, Tree};
use crate::index::Event;
use crate::source::Batch;

fn contents(files: &[(&str, &str)]) -> Contents {
    let content = |text: &str| Ok(Arc::from(text.as_bytes()));
    files.iter().map(|(path, text)| (Arc::from(Path::new(path)), content(text))).collect::<BTreeMap<_, _>>()
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  ports:\n  - port: {port}\n---\n"
    )
}

fn happened(batch: &Batch) -> Vec<String> {
    let text = |event: &Event| match event {
        Event::Apply(object) => format!("apply {}", object.key()),
        Event::Delete(key) => format!("delete {key}"),
    };
    batch.events.iter().map(text).collect()
}

fn said(batch: &Batch) -> Vec<String> {
    batch.diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn files_become_events_and_only_changes_do() {
    let mut tree = Tree::default();
    let first = contents(&[("a.yaml", &(service("x", 1) + &service("y", 2))), ("b.yaml", &service("z", 3))]);
    let batch = tree.update(&first).unwrap();
    assert_eq!(happened(&batch), ["apply Service shop/x", "apply Service shop/y", "apply Service shop/z"]);
    assert!(tree.update(&first).is_none());
    let batch = tree.update(&contents(&[("a.yaml", &(service("x", 1) + "# moved down\n" + &service("y", 9)))])).unwrap();
    assert_eq!(happened(&batch), ["delete Service shop/z", "apply Service shop/y"]);
    let batch = tree.update(&contents(&[("c.yaml", &(service("y", 9) + &service("x", 1)))])).unwrap();
    assert_eq!(happened(&batch), Vec::<String>::new(), "a file that is renamed changes nothing");
}

#[test]
fn a_file_that_stops_parsing_serves_its_last_good_objects() {
    let mut tree = Tree::default();
    tree.update(&contents(&[("a.yaml", &service("x", 1)), ("b.yaml", &service("y", 1))])).unwrap();
    let broken = contents(&[("a.yaml", "kind: Service\nmetadata: {name: [\n"), ("b.yaml", &service("y", 2))]);
    let batch = tree.update(&broken).unwrap();
    assert_eq!(happened(&batch), ["apply Service shop/y"]);
    let said = said(&batch);
    assert!(said[0].starts_with("a.yaml:") && said[0].contains("what it said before still counts"), "{said:?}");
    let batch = tree.update(&contents(&[("a.yaml", &service("x", 1)), ("b.yaml", &service("y", 2))])).unwrap();
    assert_eq!((happened(&batch).len(), batch.diagnostics.len()), (0, 0));
}

#[test]
fn an_invalid_object_is_named_with_line_and_field_and_its_last_good_one_serves() {
    let mut tree = Tree::default();
    let good = service("x", 1) + &service("y", 2);
    tree.update(&contents(&[("a.yaml", &good)])).unwrap();
    let bad = service("x", 1).replace("port: 1", "port: 99999") + &service("y", 3);
    let batch = tree.update(&contents(&[("a.yaml", &bad)])).unwrap();
    assert_eq!(happened(&batch), ["apply Service shop/y"]);
    assert_eq!(
        said(&batch),
        [
            "a.yaml:6:5: Service shop/x: spec.ports[0].port: expected a port from 1 to 65535, found 99999; the object before still counts"
        ]
    );
    let bad = bad.replace("99999", "\"80\"");
    let batch = tree.update(&contents(&[("a.yaml", &bad)])).unwrap();
    assert_eq!(
        said(&batch),
        [
            "a.yaml:6:5: Service shop/x: spec.ports[0].port: invalid type: string \"80\", expected a whole number; the object before still counts"
        ]
    );
}

#[test]
fn several_reasons_are_said_at_once() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: Bad_Name\n  namespace: UPPER\nstatus:\n  podIP: nowhere\n";
    let mut tree = Tree::default();
    let batch = tree.update(&contents(&[("a.yaml", text)])).unwrap();
    let lines: Vec<Option<usize>> = batch.diagnostics.iter().map(|it| it.line).collect();
    assert_eq!(lines, [Some(5), Some(4), Some(7)], "{:?}", said(&batch));
}

#[test]
fn of_an_object_in_two_places_the_first_counts() {
    let mut tree = Tree::default();
    let both = contents(&[("a.yaml", &service("x", 1)), ("b.yaml", &("\n".to_owned() + &service("x", 2)))]);
    let batch = tree.update(&both).unwrap();
    assert_eq!(happened(&batch), ["apply Service shop/x"]);
    assert_eq!(said(&batch), ["b.yaml:2:1: Service shop/x: stands also in a.yaml on line 1, and that one counts"]);
    let batch = tree.update(&contents(&[("b.yaml", &service("x", 2))])).unwrap();
    assert_eq!(happened(&batch), ["apply Service shop/x"], "then the second one does");
}

#[test]
fn unknown_kinds_warn_once_and_lists_are_unpacked() {
    let mut tree = Tree::default();
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: shop}\n\
                - apiVersion: apps/v1\n  kind: Deployment\n  metadata: {name: x}\n- apiVersion: apps/v1\n  kind: Deployment\n";
    let batch = tree.update(&contents(&[("a.yaml", list)])).unwrap();
    assert_eq!(happened(&batch), ["apply Namespace shop"]);
    let said_now = said(&batch);
    assert_eq!(said_now.len(), 1);
    assert!(said_now[0].starts_with("a.yaml:7:3: Deployment (apps/v1) is not a kind that Weir reads"), "{said_now:?}");
}

#[test]
fn what_is_no_object_is_said() {
    let mut tree = Tree::default();
    let batch =
        tree.update(&contents(&[("a.yaml", "- 1\n"), ("b.yaml", "a: 1\n"), ("c.yaml", "kind: 5\napiVersion: v1\n")])).unwrap();
    assert_eq!(
        said(&batch),
        [
            "a.yaml:1:1: expected a Kubernetes object, which is a mapping",
            "b.yaml:1:1: apiVersion: is missing: every Kubernetes object has `apiVersion` and `kind`",
            "b.yaml:1:1: kind: is missing: every Kubernetes object has `apiVersion` and `kind`",
            "c.yaml:1:1: kind: expected text, found 5",
        ]
    );
}

#[test]
fn a_field_of_a_served_object_is_found() {
    use crate::objects::FieldPath;
    let mut tree = Tree::default();
    let batch = tree.update(&contents(&[("a.yaml", &("# comment\n".to_owned() + &service("x", 1)))])).unwrap();
    let Event::Apply(object) = &batch.events[0] else { panic!() };
    let location = (batch.locate)(&object.key(), &FieldPath::of(&["spec", "ports"]).index(0).key("port")).unwrap();
    assert_eq!((location.line, location.column), (7, 5));
}

#[test]
fn a_route_with_a_slip_of_the_pen_serves_as_it_was() {
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules:
  - matches: [{path: {value: /x}}]
    backendRefs:
    - name: reviews
      port: 80
      weight: 50
    timeouts: {request: 10s}
";
    let mut tree = Tree::default();
    tree.update(&contents(&[("route.yaml", route)])).unwrap();
    for (good, bad, line, field) in [
        ("weight: 50", "weight: -1", 11, "spec.rules[0].backendRefs[0].weight"),
        ("weight: 50", "weight: many", 11, "spec.rules[0].backendRefs[0].weight"),
        ("port: 80", "port: 80000", 10, "spec.rules[0].backendRefs[0].port"),
        ("request: 10s", "request: ten", 12, "spec.rules[0].timeouts.request"),
        ("request: 10s", "request: 1s, backendRequest: 2s", 12, "spec.rules[0].timeouts.backendRequest"),
        ("value: /x", "value: x", 7, "spec.rules[0].matches[0].path.value"),
        ("name: reviews}", "name: Reviews}", 5, "spec.parentRefs[0].name"),
    ] {
        let batch = tree.update(&contents(&[("route.yaml", &route.replacen(good, bad, 1))])).unwrap();
        assert!(batch.events.is_empty(), "{bad}: {:?}", batch.events);
        let [only] = batch.diagnostics.as_slice() else { panic!("{bad}: {:?}", said(&batch)) };
        assert_eq!((only.line, only.field.as_deref()), (Some(line), Some(field)), "{only}");
        assert!(only.message.ends_with("; the object before still counts"), "{only}");
    }
    let batch = tree.update(&contents(&[("route.yaml", &route.replace("weight: 50", "weight: 60"))])).unwrap();
    assert_eq!(happened(&batch), ["apply HTTPRoute shop/split"]);
}
