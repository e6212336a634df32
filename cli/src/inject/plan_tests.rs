use proptest::prelude::*;
use serde_json::{Map, json};
use weir_injector::installation::{Installation, KubernetesVersion};

use super::*;

fn settings(minor: u16) -> Settings {
    let kubernetes = KubernetesVersion { major: 1, minor };
    Settings { namespace: "shop".into(), installation: Installation { kubernetes, ..Installation::default() } }
}

fn input(name: &str, text: &str) -> Input {
    Input { name: name.to_owned(), text: text.to_owned() }
}

fn one(text: &str) -> Injected {
    inject(&[input("a.yaml", text)], &settings(29)).unwrap()
}

fn errors(text: &str) -> Vec<String> {
    inject(&[input("a.yaml", text)], &settings(29)).unwrap_err()
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n";

#[test]
fn a_namespace_of_the_input_decides_wherever_it_stands() {
    let namespace =
        |word: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{weir.dev/inject: {word}}}}}\n");
    let disabled = inject(&[input("a.yaml", POD), input("b.yaml", &namespace("disabled"))], &settings(29)).unwrap();
    assert_eq!(disabled.text, format!("{POD}---\n{}", namespace("disabled")));
    assert_eq!(disabled.notes, ["a.yaml:1: skipped Pod shop/web: weir.dev/inject of namespace `shop` is `disabled`"]);
    let silent = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {weir.dev/skip-inbound-ports: \"9\"}}\n";
    let injected = inject(&[input("a.yaml", silent), input("b.yaml", POD)], &settings(29)).unwrap();
    assert_eq!(injected.notes, ["b.yaml:1: injected Pod shop/web"]);
    assert!(injected.text.contains("value: 9,15420") || injected.text.contains("value: \"9,15420\""), "{}", injected.text);
    let unclear = inject(&[input("a.yaml", POD), input("b.yaml", &namespace("maybe"))], &settings(29)).unwrap_err();
    assert_eq!(
        unclear,
        ["a.yaml:1: Pod shop/web: weir.dev/inject of namespace `shop` is `maybe`: this is neither; allowed: enabled or disabled"]
    );
}

#[test]
fn a_probe_that_is_added_to_an_injected_pod_goes_through_its_sidecar() {
    let injected = one(POD).text;
    let again = one(&injected);
    assert_eq!(again.text, injected);
    assert!(again.notes[0].contains("skipped Pod shop/web: it has one already"), "{:?}", again.notes);
    let probe = "  - name: web\n    livenessProbe: {tcpSocket: {port: 8080}}\n";
    let completed = one(&injected.replace("  - name: web\n", probe));
    assert_eq!(completed.notes, ["a.yaml:1: completed Pod shop/web: its probes go through the sidecar that it has"]);
    assert!(completed.text.contains("/probe/web/liveness") && completed.text.contains("WEIR_PROBES"), "{}", completed.text);
    assert_eq!(one(&completed.text).text, completed.text);
}

#[test]
fn an_object_without_a_namespace_is_in_the_one_of_the_command_line() {
    let system = Settings { namespace: "kube-system".into(), ..settings(29) };
    let skipped = inject(&[input("a.yaml", POD)], &system).unwrap();
    assert_eq!(skipped.text, POD);
    assert!(skipped.notes[0].starts_with("a.yaml:1: skipped Pod kube-system/web: namespace `kube-system` is"), "{skipped:?}");
    let own = POD.replace("{name: web}", "{name: web, namespace: shop}");
    assert_eq!(inject(&[input("a.yaml", &own)], &system).unwrap().notes, ["a.yaml:1: injected Pod shop/web"]);
}

#[test]
fn everything_wrong_is_named_at_once_with_its_line() {
    let template =
        "    metadata:\n      annotations:\n        weir.dev/skip-inbound-ports: \"0\"\n        weir.dev/mtls: loose\n";
    let text = format!(
        "{POD}---\n# a comment\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: api\nspec:\n  template:\n{template}    spec:\n      \
         containers: [{{name: weir-proxy}}]\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: odd}}\nspec: {{containers: 7}}\n"
    );
    let errors = errors(&text);
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(
        errors[0].starts_with("a.yaml:17: Deployment shop/api: weir.dev/skip-inbound-ports of the pod is `0`"),
        "{errors:#?}"
    );
    assert!(errors[1].starts_with("a.yaml:18: Deployment shop/api: weir.dev/mtls of the pod is `loose`"), "{errors:#?}");
    assert!(errors[2].starts_with("a.yaml:9: Deployment shop/api: container `weir-proxy` has the name"), "{errors:#?}");
    assert!(errors[3].starts_with("a.yaml:22: Pod shop/odd: weir cannot read this pod: "), "{errors:#?}");
}

#[test]
fn what_is_no_yaml_is_named_in_every_file() {
    let files = [input("a.yaml", "a: [1\nb: 2\n"), input("b.yaml", "\n\n{{ template }}: x: y\n"), input("c.yaml", POD)];
    let errors = inject(&files, &settings(29)).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("a.yaml:2: this is not YAML: "), "{errors:#?}");
    assert!(errors[1].starts_with("b.yaml:3: this is not YAML: "), "{errors:#?}");
}

#[test]
fn what_is_no_workload_is_neither_changed_nor_mentioned() {
    let text = "# only a comment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:   {name: x}\ndata: {a:   'b'}  # odd\n---\n- not\n- an object\n---\ntext\n...\n";
    let injected = one(text);
    assert_eq!((injected.text.as_str(), injected.notes), (text, vec![]));
    let empty = one("");
    assert_eq!((empty.text.as_str(), empty.notes), ("", vec![]));
}

#[test]
fn a_workload_without_a_template_is_left_to_the_api_server() {
    let injected = one("apiVersion: v1\nkind: ReplicationController\nmetadata: {name: x}\nspec: {replicas: 0}\n");
    assert_eq!(injected.notes, ["a.yaml:1: skipped ReplicationController shop/x: it has no pod template (`spec.template`)"]);
}

#[test]
fn what_may_be_meant_otherwise_is_warned_of() {
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, labels: {weir.dev/inject: disabled}}\nspec:\n  template:\n    \
               metadata: {annotations: {weir.dev/mlts: strict}}\n    spec: {containers: [{name: a}]}\n";
    let notes = inject(&[input("a.yaml", job)], &settings(28)).unwrap().notes;
    assert_eq!(notes.len(), 4, "{notes:#?}");
    assert_eq!(notes[0], "a.yaml:1: injected Job shop/x");
    assert!(notes[1].contains("warning: Job shop/x: weir does not know the annotation `weir.dev/mlts`"), "{notes:#?}");
    assert!(notes[2].contains("its pod never ends"), "{notes:#?}");
    assert!(
        notes[3].contains("weir.dev/inject counts on the pod template (`spec.template.metadata`), and not on the Job"),
        "{notes:#?}"
    );
    assert_eq!(inject(&[input("a.yaml", job)], &settings(29)).unwrap().notes.len(), 3);
}

#[test]
fn files_are_put_together_as_documents_of_their_own() {
    for (texts, expected) in [
        (["a: 1", "b: 2"], "a: 1\n---\nb: 2"),
        (["a: 1\n", "---\nb: 2\n"], "a: 1\n---\nb: 2\n"),
        (["a: 1\n", "# c\n\n--- # d\nb: 2\n"], "a: 1\n# c\n\n--- # d\nb: 2\n"),
        (["a: 1\n", "\u{feff}b: 2\n"], "a: 1\n---\nb: 2\n"),
        (["a: 1\n", "%YAML 1.2\n---\nb: 2\n"], "a: 1\n...\n%YAML 1.2\n---\nb: 2\n"),
        (["", "b: 2\n"], "b: 2\n"),
    ] {
        let out = joined(&texts.map(str::to_owned));
        assert_eq!(out, expected);
        assert!(!parse(&out).unwrap().is_empty());
    }
}

/// A pod or pod template as people write them, in one of many layouts.
fn templates() -> impl Strategy<Value = Value> {
    let list = |prefix: &'static str| {
        let items =
            move |n: usize| Some((0..n).map(|i| json!({"name": format!("{prefix}{i}"), "args": ["a: b", "yes"]})).collect());
        prop_oneof![Just(None), Just(Some(Value::Null)), (0..3_usize).prop_map(items)]
    };
    let texts =
        || prop_oneof![Just(None), Just(Some(json!(null))), Just(Some(json!({}))), Just(Some(json!({"k/x": "yes # no"})))];
    let with = |members: Vec<(&str, Option<Value>)>| {
        Value::Object(members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Map<_, _>>())
    };
    let metadata =
        (texts(), texts()).prop_map(move |(labels, annotations)| with(vec![("labels", labels), ("annotations", annotations)]));
    let spec = (list("init"), list("app"), list("data")).prop_map(move |(init, app, volumes)| {
        with(vec![("initContainers", init), ("containers", app), ("volumes", volumes), ("nodeName", Some(json!("n")))])
    });
    (prop::option::of(metadata), prop::option::of(spec))
        .prop_map(move |(metadata, spec)| with(vec![("metadata", metadata), ("spec", spec)]))
}

fn deployments() -> impl Strategy<Value = Value> {
    let deployment = |template: Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": template}});
    let one = templates().prop_map(deployment).boxed();
    prop_oneof![
        one.clone(),
        proptest::collection::vec(one, 0..4).prop_map(|items| json!({"apiVersion": "v1", "kind": "List", "items": items}))
    ]
}

fn written(value: &Value, style: u8) -> String {
    let yaml = |text: &str| super::super::yaml::written(value, text.len());
    match style {
        0 => serde_json::to_string_pretty(value).unwrap(),
        1 => value.to_string(),
        2 => yaml(""),
        _ => yaml("  "),
    }
}

proptest! {
    #[test]
    fn injecting_twice_changes_nothing_and_lines_are_only_added(deployment in deployments(), style in 0..4_u8, minor in 27..31_u16, crlf: bool) {
        let body = written(&deployment, style);
        let text = format!("# before\na: 'b'\n--- # here\n{}\n---\nc:   d # after\n", body.trim_end());
        let text = if crlf { text.replace('\n', "\r\n") } else { text };
        let once = inject(&[input("a", &text)], &settings(minor)).map_err(|errors| TestCaseError::fail(format!("{errors:?}\n{text}")))?;
        let twice = inject(&[input("a", &once.text)], &settings(minor)).map_err(|errors| TestCaseError::fail(format!("{errors:?}\n{}", once.text)))?;
        prop_assert_eq!(&once.text, &twice.text);
        prop_assert!(twice.notes.iter().all(|note| note.ends_with("it has one already")), "{:?}", twice.notes);
        prop_assert!(once.notes.iter().all(|note| note.contains(": injected ")), "{:?}\n{}", once.notes, text);
        prop_assert!(once.text.starts_with(text.split("--- # here").next().unwrap()));
        prop_assert!(once.text.trim_end().ends_with("c:   d # after"));
        if style >= 2 {
            // Nothing of a text in blocks goes away but what said "nothing".
            let mut lines = once.text.lines();
            for line in text.lines() {
                let line = line.trim_end_matches(" null").trim_end_matches(" []").trim_end_matches(" {}");
                prop_assert!(lines.any(|kept| kept.starts_with(line)), "{line:?} is lost or moved:\n{}", once.text);
            }
        }
    }

    #[test]
    fn the_output_says_what_the_webhook_would_have_made(template in templates(), style in 0..4_u8, minor in 27..31_u16) {
        let mut object = template;
        let members = object.as_object_mut().unwrap();
        members.extend([("apiVersion".to_owned(), json!("v1")), ("kind".to_owned(), json!("Pod"))]);
        let out = inject(&[input("a", &written(&object, style))], &settings(minor)).unwrap();
        let namespace = json!({"metadata": {"name": "shop", "labels": {"weir.dev/inject": "enabled"}}});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "1", "kind": {"version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "shop", "object": object,
        }});
        let request = weir_injector::review::Request::parse(review.to_string().as_bytes()).unwrap();
        let namespace = Namespace::read(&namespace).unwrap();
        let answer = weir_injector::answer(&request, &namespace, &settings(minor).installation);
        patch::apply(&mut object, &answer.patch).unwrap();
        let out: Value = serde_saphyr::from_str(&out.text).unwrap();
        prop_assert_eq!(out, object);
    }

    #[test]
    fn no_text_panics_and_what_passes_can_be_read_again(text in "(apiVersion: v1\nkind: Pod\n|spec:|metadata:|containers:|\n *- |- name: a|volumes: ?|\\[|\\]|\\{|\\}|&a|\\*a|\n|  |#x|\\|\n|: |,|'|\"|!t |<<: |---\n|\r\n|\t){0,25}") {
        if let Ok(once) = inject(&[input("a", &text)], &settings(29)) {
            let twice = inject(&[input("a", &once.text)], &settings(29));
            prop_assert_eq!(twice.map(|it| it.text), Ok(once.text));
        }
    }
}
