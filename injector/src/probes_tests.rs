use super::*;
use crate::installation::{Installation, KubernetesVersion};
use crate::patch::{apply, complete, patch};
use crate::pod::Pod;
use crate::settings::Settings;

fn app(members: Value) -> Value {
    let mut container = json!({"name": "app", "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9090}]});
    if let (Value::Object(container), Value::Object(members)) = (&mut container, members) {
        container.extend(members);
    }
    json!({"spec": {"containers": [container]}})
}

/// The pod as it is then, and what the sidecar is told.
fn sent(pod: &Value, direct: &[u16]) -> (Value, Value) {
    let mut after = pod.clone();
    let (patch, probes) = through_sidecar(pod, &PortSet::of(direct), 0, Probes::default());
    apply(&mut after, &patch).unwrap();
    (after, serde_json::from_str(&probes.to_text()).unwrap())
}

#[test]
fn each_kind_of_probe_goes_through_the_sidecar() {
    for (probe, told) in [
        (json!({"httpGet": {"port": 8080, "path": "/up"}}), json!({"httpGet": {"port": 8080, "path": "/up"}})),
        (json!({"httpGet": {"port": "web"}}), json!({"httpGet": {"port": 8080}, "portName": "web"})),
        (json!({"httpGet": {"port": "9090", "host": ""}}), json!({"httpGet": {"port": 9090, "host": ""}, "portName": "9090"})),
        (
            json!({"httpGet": {"port": 8443, "scheme": "HTTPS", "httpHeaders": [{"name": "Host", "value": "a"}]}}),
            json!({"httpGet": {"port": 8443, "scheme": "HTTPS", "httpHeaders": [{"name": "Host", "value": "a"}]}}),
        ),
        (json!({"tcpSocket": {"port": "web"}, "exec": null}), json!({"tcpSocket": {"port": 8080}, "portName": "web"})),
        (json!({"grpc": {"port": 9090, "service": "s"}}), json!({"grpc": {"port": 9090, "service": "s"}})),
        (json!({"grpc": {"port": 9090}, "timeoutSeconds": 3}), json!({"grpc": {"port": 9090}, "timeoutSeconds": 3})),
    ] {
        for (field, kind) in PROBES {
            let (after, told_all) = sent(&app(json!({field: probe})), &[]);
            let asked = json!({"path": format!("/probe/app/{kind}"), "port": 15420, "scheme": "HTTP"});
            let probe_after = &after["spec"]["containers"][0][field];
            assert_eq!(probe_after["httpGet"], asked, "{probe}");
            assert!(probe_after.get("tcpSocket").is_none() && probe_after.get("grpc").is_none(), "{probe_after}");
            assert_eq!(told_all, json!({format!("app/{kind}"): told}));
        }
    }
}

#[test]
fn everything_else_of_a_probe_is_kept() {
    let probe = json!({
        "tcpSocket": {"port": 8080}, "initialDelaySeconds": 1, "periodSeconds": 2, "timeoutSeconds": 3, "successThreshold": 4,
        "failureThreshold": 5, "terminationGracePeriodSeconds": 6,
    });
    let (after, _) = sent(&app(json!({"readinessProbe": probe})), &[]);
    let mut expected = probe.clone();
    expected.as_object_mut().unwrap().remove("tcpSocket");
    expected["httpGet"] = json!({"path": "/probe/app/readiness", "port": 15420, "scheme": "HTTP"});
    assert_eq!(after["spec"]["containers"][0]["readinessProbe"], expected);
}

#[test]
fn what_the_kubelet_can_ask_itself_stays_with_it() {
    for probe in [
        json!({"exec": {"command": ["true"]}}),
        json!({"httpGet": {"port": 8080, "host": "example.com"}}),
        json!({"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}),
        json!({"httpGet": {"port": 7070}}),
        json!({"httpGet": {"port": 15420, "path": "/probe/app/readiness"}}),
        json!({"httpGet": {"port": "none"}}),
        json!({"httpGet": {"port": 0}}),
        json!({"httpGet": {"port": 70000}}),
        json!({"httpGet": {"port": null}}),
        json!({"httpGet": {}}),
        json!({"grpc": {"port": -1}}),
        json!({"httpGet": {"port": 8080}, "tcpSocket": {"port": 8080}}),
        json!({}),
        json!(null),
        json!("text"),
    ] {
        let pod = app(json!({"readinessProbe": probe}));
        assert_eq!(sent(&pod, &[7070]), (pod, json!({})), "{probe}");
    }
}

#[test]
fn hooks_by_http_go_the_same_way_and_others_stay() {
    let get = json!({"httpGet": {"port": "web", "path": "/bye"}});
    let (after, told) = sent(&app(json!({"lifecycle": {"postStart": get, "preStop": get, "stopSignal": "SIGUSR1"}})), &[]);
    let lifecycle = &after["spec"]["containers"][0]["lifecycle"];
    for (field, kind) in HOOKS {
        let asked = json!({"path": format!("/probe/app/{kind}"), "port": 15420, "scheme": "HTTP"});
        assert_eq!(lifecycle[field], json!({"httpGet": asked}));
        assert_eq!(told[format!("app/{kind}")], json!({"httpGet": {"port": 8080, "path": "/bye"}, "portName": "web"}));
    }
    assert_eq!(lifecycle["stopSignal"], "SIGUSR1");
    let pod = app(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}, "postStart": {"exec": {"command": ["a"]}}}}));
    assert_eq!(sent(&pod, &[]), (pod, json!({})));
}

#[test]
fn init_containers_that_keep_running_have_probes_too() {
    let probe = json!({"httpGet": {"port": 8080}});
    let container = |name: &str, policy: Value| {
        json!({"name": name, "restartPolicy": policy, "startupProbe": probe, "livenessProbe": probe,
               "lifecycle": {"postStart": probe, "preStop": probe}})
    };
    let sidecar = json!({"name": "weir-proxy", "restartPolicy": "Always", "startupProbe": probe});
    let init = [container("early", json!("Always")), sidecar, container("late", json!("Always")), container("once", json!(null))];
    let (_, probes) = through_sidecar(&json!({"spec": {"initContainers": init}}), &PortSet::default(), 1, Probes::default());
    let told: Vec<&str> = probes.0.keys().map(String::as_str).collect();
    // What stands before the sidecar starts without it.
    assert_eq!(told, ["early/liveness", "early/pre-stop", "late/liveness", "late/post-start", "late/pre-stop", "late/startup"]);
}

#[test]
fn the_text_has_nothing_that_kubernetes_expands() {
    let (_, probes) = through_sidecar(
        &app(json!({"livenessProbe": {"httpGet": {"port": 8080, "path": "/$(HOME)/$$/\"x"}}})),
        &PortSet::default(),
        0,
        Probes::default(),
    );
    let text = probes.to_text();
    assert!(!text.contains('$'), "{text}");
    assert_eq!(Probes::of_text(&text), probes);
    assert_eq!(probes.0["app/liveness"]["httpGet"]["path"], "/$(HOME)/$$/\"x");
}

#[test]
fn more_than_a_variable_holds_stays_with_the_kubelet() {
    let probe = |size: usize| json!({"httpGet": {"port": 8080, "path": "/".repeat(size)}});
    let pod = app(json!({"startupProbe": probe(MAX_BYTES), "livenessProbe": probe(10)}));
    let (after, told) = sent(&pod, &[]);
    assert_eq!(after["spec"]["containers"][0]["startupProbe"], probe(MAX_BYTES));
    assert_eq!(told.as_object().unwrap().len(), 1);
}

fn injected(pod: &Value, minor: u16) -> Value {
    let installation = Installation { kubernetes: KubernetesVersion { major: 1, minor }, ..Installation::default() };
    let mut after = pod.clone();
    let read = Pod::read(pod).unwrap();
    apply(&mut after, &patch(pod, &read, &Settings::default(), &installation)).unwrap();
    after
}

fn told(pod: &Value) -> Vec<String> {
    let all = ["initContainers", "containers"].into_iter().flat_map(|list| containers(pod, list));
    let environment = all.map(|(_, it)| it).find(|it| name(it) == "weir-proxy").unwrap()["env"].as_array().unwrap().clone();
    let values: Vec<_> = environment.iter().filter(|it| name(it) == VARIABLE).collect();
    assert!(values.len() <= 1, "{values:?}");
    let text = values.first().map_or("{}", |it| it["value"].as_str().unwrap());
    Probes::of_text(text).0.into_keys().collect()
}

#[test]
fn what_another_webhook_adds_later_is_added_to_what_the_sidecar_knows() {
    let probe = json!({"httpGet": {"port": 8080}});
    for minor in [28, 29] {
        for first in [app(json!({"readinessProbe": probe})), app(json!({}))] {
            let mut pod = injected(&first, minor);
            assert_eq!(complete(&pod), [], "nothing has changed");
            let before = told(&pod);
            pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "late", "livenessProbe": probe}));
            let additions = complete(&pod);
            apply(&mut pod, &additions).unwrap();
            assert_eq!(told(&pod), [before, vec!["late/liveness".into()]].concat());
            assert_eq!(complete(&pod), []);
        }
    }
    assert_eq!(complete(&app(json!({"readinessProbe": probe}))), [], "no sidecar, nothing to complete");
}

#[test]
fn what_passes_the_sidecar_by_does_so_for_late_containers() {
    let pod = json!({"metadata": {"annotations": {"weir.dev/skip-inbound-ports": "7070"}}, "spec": {"containers": []}});
    let settings =
        Settings::read(&Pod::read(&pod).unwrap(), &crate::pod::Namespace::default(), &Installation::default().sidecars).unwrap();
    let mut after = pod.clone();
    apply(&mut after, &patch(&pod, &Pod::read(&pod).unwrap(), &settings, &Installation::default())).unwrap();
    after["spec"]["containers"] = json!([{"name": "late", "livenessProbe": {"tcpSocket": {"port": 7070}}}]);
    assert_eq!(complete(&after), []);
}
