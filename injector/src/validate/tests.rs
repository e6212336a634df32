use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::review::{Kind, Outcome};

fn request(group: &str, kind: &str, operation: &str, object: Value) -> Request {
    let version = "v1".to_owned();
    Request {
        uid: "1".into(),
        kind: Kind { group: group.into(), version, kind: kind.into() },
        operation: operation.into(),
        namespace: if kind == "Namespace" { String::new() } else { "shop".into() },
        name: String::new(),
        dry_run: false,
        sub_resource: String::new(),
        object,
    }
}

fn http_route(spec: &Value) -> Request {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "shop"}, "spec": spec,
    });
    request(GATEWAY_GROUP, "HTTPRoute", "CREATE", object)
}

/// A route of Service `web` with these rules.
fn rules(rules: &Value) -> Vec<String> {
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    judge(&http_route(&json!({"parentRefs": parents, "rules": rules}))).warnings
}

fn backend(weight: i64) -> Value {
    json!({"name": "web", "port": 80, "weight": weight})
}

#[test]
fn a_good_route_is_let_through_without_a_word() {
    assert_eq!(rules(&json!([{"backendRefs": [backend(9), backend(0)]}])), [""; 0]);
    let redirect = json!([{"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]}]);
    assert_eq!(rules(&redirect), [""; 0]);
}

#[test]
fn what_weir_does_not_serve_is_said() {
    let authorizer = json!([{"filters": [{"type": "ExternalAuth", "externalAuth": {}}], "backendRefs": [backend(1)]}]);
    assert_eq!(
        rules(&authorizer),
        ["weir: spec.rules[0].filters[0].type: ExternalAuth is not served by this version of Weir, and is never skipped: its \
          requests get 500"]
    );
    let path = json!([{"matches": [{"path": {"type": "Glob", "value": "/*"}}], "backendRefs": [backend(1)]}]);
    let said = rules(&path);
    assert!(said.len() == 1 && said[0].starts_with("weir: spec.rules[0].matches[0].path.type: "), "{said:?}");
    assert!(said[0].ends_with("(the rule matches nothing)"), "{said:?}");
    let sticky = rules(&json!([{"sessionPersistence": {"type": "Query"}, "backendRefs": [backend(1)]}]));
    assert!(sticky[0].contains("sessionPersistence.type: expected Cookie or Header"), "{sticky:?}");
    assert!(sticky[0].ends_with("(requests of the rule get 500)"), "{sticky:?}");
}

#[test]
fn what_nobody_gets_is_said() {
    assert_eq!(
        rules(&json!([{"backendRefs": [backend(0), backend(0)]}])),
        ["weir: spec.rules[0].backendRefs: all weights are 0, so its requests get 500"]
    );
    assert_eq!(rules(&json!([{}])), ["weir: spec.rules[0]: has no backendRefs, so its requests get 500"]);
    let bucket = json!([{"backendRefs": [{"group": "storage.dev", "kind": "Bucket", "name": "b"}, backend(1)]}]);
    assert_eq!(
        rules(&bucket),
        ["weir: spec.rules[0].backendRefs[0]: `Bucket` of group `storage.dev` is not a kind of backend: only Services are (its \
          share gets 500)"]
    );
}

#[test]
fn what_is_wrong_altogether_is_warned_of_and_not_refused() {
    let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
    let spec = json!({"parentRefs": parents, "rules": [{"backendRefs": [{"name": "web"}]}]});
    let mut route = http_route(&spec);
    let created = judge(&route);
    assert_eq!(created.refused, None);
    let problem = "spec.rules[0].backendRefs[0].port: is missing: a Service is named with its port";
    assert_eq!(created.warnings, [format!("weir cannot use this, so the route is not served: {problem}")]);
    route.operation = "UPDATE".into();
    let updated = judge(&route).warnings;
    assert_eq!(updated, [format!("weir cannot use this, so the route as it was before serves on: {problem}")]);
}

#[test]
fn hostnames_are_ignored_with_a_word() {
    let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
    let spec = json!({"parentRefs": parents, "hostnames": ["shop.example"], "rules": [{"backendRefs": [backend(1)]}]});
    let said = judge(&http_route(&spec)).warnings;
    assert_eq!(said, ["weir: spec.hostnames: ignored, since a Service's route counts under all names of the Service"]);
}

#[test]
fn routes_of_gateways_are_none_of_weirs_business() {
    let gateway =
        json!({"parentRefs": [{"name": "edge"}], "hostnames": ["a.example"], "rules": [{"filters": [{"type": "ExternalAuth"}]}]});
    assert_eq!(judge(&http_route(&gateway)), Answer::allow());
    assert_eq!(judge(&http_route(&json!({"rules": [{"filters": [{"type": "ExternalAuth"}]}]}))), Answer::allow());
    let misplaced =
        json!({"parentRefs": [{"kind": "Service", "name": "web"}], "rules": [{"filters": [{"type": "ExternalAuth"}]}]});
    let said = judge(&http_route(&misplaced)).warnings;
    assert!(said.len() == 1 && said[0].starts_with("weir: spec.parentRefs[0]: kind Service is in the core group"), "{said:?}");
}

#[test]
fn a_kind_of_route_that_is_not_served_has_no_effect_on_a_service() {
    let route = |kind: &str, parent: Value| {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "dns", "namespace": "shop"},
            "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [{"name": "dns", "port": 53}]}]},
        });
        judge(&request(GATEWAY_GROUP, kind, "CREATE", object))
    };
    let service = json!({"group": "", "kind": "Service", "name": "dns"});
    for kind in ["UDPRoute", "QUICRoute"] {
        let answer = route(kind, service.clone());
        assert_eq!(answer.refused, None);
        let expected =
            format!("weir: {kind} is not a kind of route that Weir serves: with a Service as its parent it has no effect");
        assert_eq!(answer.warnings, [expected]);
        assert_eq!(route(kind, json!({"name": "edge"})), Answer::allow(), "it is for a Gateway");
    }
}

#[test]
fn a_route_without_a_name_yet_is_judged_like_any_other() {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"generateName": "web-"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{"backendRefs": [backend(0)]}]},
    });
    let said = judge(&request(GATEWAY_GROUP, "GRPCRoute", "CREATE", object)).warnings;
    assert_eq!(said, ["weir: spec.rules[0].backendRefs: all weights are 0, so its requests get 500"]);
}

#[test]
fn namespaces_are_told_what_their_words_do() {
    let said = |name: &str, labels: Value, annotations: Value| {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels, "annotations": annotations},
        });
        let answer = judge(&request("", "Namespace", "UPDATE", object));
        assert_eq!(answer.refused, None);
        answer.warnings
    };
    assert_eq!(said("shop", json!({"weir.dev/inject": "enabled"}), json!({"weir.dev/mtls": "strict"})), [""; 0]);
    let word = said("shop", json!({"weir.dev/inject": "true"}), Value::Null);
    assert!(
        word.len() == 1 && word[0].starts_with("weir refuses new pods here: weir.dev/inject of namespace `shop`"),
        "{word:?}"
    );
    let ports = said("shop", Value::Null, json!({"weir.dev/opaque-ports": "0", "weir.dev/mtls": "on"}));
    assert_eq!(ports.len(), 2, "{ports:?}");
    let annotated = said("shop", Value::Null, json!({"weir.dev/inject": "enabled"}));
    assert!(annotated.len() == 1 && annotated[0].contains("as a label they wait for it"), "{annotated:?}");
    let system = said("kube-system", json!({"weir.dev/inject": "enabled"}), Value::Null);
    assert!(system.len() == 1 && system[0].contains("has no effect here"), "{system:?}");
}

#[test]
fn services_are_told_what_their_annotations_do() {
    let said = |annotations: Value| {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop", "annotations": annotations},
            "spec": {"ports": [{"port": 3306}]},
        });
        judge(&request("", "Service", "CREATE", object)).warnings
    };
    assert_eq!(said(json!({"weir.dev/opaque-ports": "3306"})), [""; 0]);
    let ports = said(json!({"weir.dev/opaque-ports": "mysql"}));
    assert!(ports.len() == 1 && ports[0].starts_with("weir: metadata.annotations[weir.dev/opaque-ports]: "), "{ports:?}");
    assert_eq!(said(json!({"weir.dev/mtls": "strict"})), ["weir: the annotation `weir.dev/mtls` has no effect on a Service"]);
}

#[test]
fn only_weirs_own_group_is_refused() {
    let unknown = json!({"apiVersion": "weir.dev/v1", "kind": "Marvel", "metadata": {"name": "x"}});
    let said = judge(&request(OWN_GROUP, "Marvel", "CREATE", unknown));
    assert_eq!(said.warnings, ["weir: this version does not know Marvel of weir.dev/v1, and it has no effect"]);
    assert_eq!(said.refused, None);
    let problems =
        vec![Problem::new(FieldPathOf::of(&["spec", "to"]), "is missing"), Problem::new(FieldPathOf::of(&["spec"]), "is empty")];
    let refused = own(&Decoded::Refused(None, problems));
    assert_eq!(refused.outcome, Outcome::Refused);
    assert_eq!(refused.refused.unwrap(), "weir cannot use this object, for 2 reasons:\n- spec.to: is missing\n- spec: is empty");
}

use weir_objects::FieldPath as FieldPathOf;

#[test]
fn what_is_not_being_written_is_not_judged() {
    let bad = json!([{"filters": [{"type": "ExternalAuth"}]}]);
    let parents = json!([{"group": "", "kind": "Service", "name": "web"}]);
    let route = http_route(&json!({"parentRefs": parents, "rules": bad}));
    assert!(!judge(&route).warnings.is_empty());
    let deleted = Request { operation: "DELETE".into(), ..route.clone() };
    let status = Request { sub_resource: "status".into(), ..route.clone() };
    let mut ending = route.clone();
    ending.object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let pod = Request { kind: Kind { group: String::new(), version: "v1".into(), kind: "Pod".into() }, ..route };
    for request in [deleted, status, ending, pod] {
        assert_eq!(judge(&request), Answer::allow());
    }
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let word =
        prop_oneof!["\\PC{0,8}", "(Service|HTTPRoute|RequestMirror|ExternalAuth|weir.dev/mtls|weir.dev/inject|enabled|shop|v1)"];
    let key = "(apiVersion|kind|metadata|name|generateName|namespace|labels|annotations|spec|parentRefs|rules|matches|path|type|value|filters|backendRefs|weight|port|group|hostnames|ports)";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.prop_map(Value::from)
    ];
    leaf.prop_recursive(8, 80, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_panics_and_nothing_of_others_is_refused(mut object in arbitrary_json(), spec in arbitrary_json()) {
        for (group, version, kind) in [(GATEWAY_GROUP, "gateway.networking.k8s.io/v1", "HTTPRoute"), (GATEWAY_GROUP, "gateway.networking.k8s.io/v1", "GRPCRoute"),
                                       ("", "v1", "Namespace"), ("", "v1", "Service")] {
            if let Some(fields) = object.as_object_mut() {
                fields.insert("apiVersion".into(), version.into());
                fields.insert("kind".into(), kind.into());
                fields.insert("spec".into(), spec.clone());
            }
            prop_assert_eq!(judge(&request(group, kind, "UPDATE", object.clone())).refused, None);
        }
        let _ = judge(&request(OWN_GROUP, "X", "CREATE", object));
    }
}
