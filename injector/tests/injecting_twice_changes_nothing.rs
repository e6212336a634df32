//! Injection is idempotent, keeps everything that it found, and survives whatever it is sent.

mod support;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use support::{answered, apply, shop};
use weir_injector::answer;
use weir_injector::installation::{Installation, KubernetesVersion};
use weir_injector::pod::{Namespace, Pod};
use weir_injector::review::Request;

fn installation(minor: u16) -> Installation {
    Installation { kubernetes: KubernetesVersion { major: 1, minor }, ..Installation::default() }
}

/// Absent, `null`, or a list of objects with names.
fn items(prefix: &'static str) -> impl Strategy<Value = Option<Value>> {
    let item = move |i| json!({"name": format!("{prefix}{i}"), "x": i, "readinessProbe": {"tcpSocket": {"port": 8080 + i}}});
    let named = move |count: usize| Some((0..count).map(item).collect());
    prop_oneof![Just(None), Just(Some(Value::Null)), (0..4_usize).prop_map(named)]
}

fn texts() -> impl Strategy<Value = Option<Value>> {
    let text = proptest::collection::btree_map("[a-z/~.]{1,12}", "\\PC{0,8}", 0..4);
    prop_oneof![Just(None), Just(Some(Value::Null)), text.prop_map(|map| Some(json!(map)))]
}

fn with(members: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    Value::Object(members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Map<_, _>>())
}

prop_compose! {
    fn pods()(init in items("init"), containers in items("app"), volumes in items("data"), labels in texts(), annotations in texts(),
              metadata in any::<bool>(), spec in any::<bool>()) -> Value {
        let metadata = metadata.then(|| with([("labels", labels), ("annotations", annotations)]));
        let spec = spec.then(|| with([("initContainers", init), ("containers", containers), ("volumes", volumes)]));
        with([("metadata", metadata), ("spec", spec)])
    }
}

/// Any JSON, with the words in it that matter here.
fn arbitrary_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        "\\PC{0,12}",
        Just("weir.dev/inject".to_owned()),
        Just("weir.dev/status".to_owned()),
        Just("enabled".to_owned()),
        Just("weir.dev/skip-inbound-ports".to_owned()),
        Just("weir.dev/proxy-memory-limit".to_owned()),
        Just("Pod".to_owned()),
    ];
    let key = prop_oneof![
        word.clone(),
        "(metadata|spec|labels|annotations|containers|initContainers|volumes|name|ports|securityContext|os)",
        "(request|uid|kind|version|group|operation|object|apiVersion|hostNetwork|containerPort|runAsUser)",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let items = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array).cloned().unwrap_or_default();
    items.iter().map(|item| item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()).collect()
}

proptest! {
    #[test]
    fn injecting_twice_changes_nothing_more(pod in pods(), minor in 27..31_u16) {
        let installation = installation(minor);
        let (_, patch) = answered(&pod, &shop(&Value::Null), &installation).expect("an answer");
        let once = apply(pod.clone(), &patch.expect("a patch")).expect("the patch fits");
        let (review, again) = answered(&once, &shop(&Value::Null), &installation).expect("an answer");
        prop_assert_eq!(again, None);
        prop_assert_eq!(review.pointer("/response/allowed"), Some(&json!(true)));
        prop_assert!(Pod::read(&once).is_ok());
    }

    #[test]
    fn nothing_of_the_pod_is_lost_or_reordered(pod in pods(), minor in 27..31_u16) {
        let (_, patch) = answered(&pod, &shop(&Value::Null), &installation(minor)).expect("an answer");
        let once = apply(pod.clone(), &patch.expect("a patch")).expect("the patch fits");
        for list in ["initContainers", "containers", "volumes"] {
            let kept: Vec<String> = names(&once, list).into_iter().filter(|name| !name.starts_with("weir-")).collect();
            prop_assert_eq!(kept, names(&pod, list));
        }
        let annotations = once.pointer("/metadata/annotations").expect("annotations");
        for (name, value) in pod.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten() {
            prop_assert_eq!(annotations.get(name), Some(value));
        }
        let init = names(&once, "initContainers");
        let redirection = init.iter().position(|name| name == "weir-init").expect("redirection");
        if minor >= 29 {
            prop_assert_eq!(&init[..2], ["weir-init", "weir-proxy"]);
        } else {
            prop_assert_eq!(redirection, init.len() - 1);
            prop_assert_eq!(&names(&once, "containers")[0], "weir-proxy");
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::parse(&bytes);
    }

    #[test]
    fn no_object_panics_and_every_patch_fits(pod in arbitrary_json(), namespace in arbitrary_json(), minor in 27..31_u16) {
        let namespace = Namespace::read(&json!({"metadata": namespace})).unwrap_or_else(|_| shop(&Value::Null));
        for namespace in [namespace, shop(&Value::Null)] {
            let (_, patch) = answered(&pod, &namespace, &installation(minor)).expect("an answer");
            if let Some(patch) = patch {
                prop_assert!(apply(pod.clone(), &patch).is_some(), "{pod} does not take {patch}");
            }
        }
    }

    #[test]
    fn no_review_panics(request in arbitrary_json()) {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        for body in [review, request] {
            if let Ok(request) = Request::parse(body.to_string().as_bytes()) {
                let _ = answer(&request, &shop(&Value::Null), &Installation::default()).to_review(&request.uid);
            }
        }
    }
}
