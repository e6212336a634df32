//! What `weir explain request` says of a request is what a pair of sidecars does with it.
#![expect(clippy::panic, reason = "a scenario ends by panicking; that is how it fails")]

use std::process::Command;

use http::Method;
use serde_json::Value;
use weir_tests::binaries;
use weir_tests::client::Answer;
use weir_tests::prelude::*;
use weir_tests::tools;

const RULES: &str = "
    - matches: [{path: {type: Exact, value: /exact}}]
      backendRefs: [{name: two, port: 80}]
    - matches: [{path: {value: /beta}, headers: [{name: x-beta, value: 'true'}]}, {path: {value: /beta}, method: POST}]
      backendRefs: [{name: two, port: 80}]
    - matches: [{path: {value: /beta}}]
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /old}}}]
      backendRefs: [{name: one, port: 80}]
    - matches: [{path: {value: /away}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 301}}]
    - matches: [{path: {value: /lost}}]
      backendRefs: [{name: nobody, port: 80}]
    - matches: [{path: {value: /empty}}]
      backendRefs: [{name: idle, port: 80}]
    - matches: [{path: {value: /future}}]
      filters: [{type: ExtensionRef}]
      backendRefs: [{name: one, port: 80}]";

/// Exit code and what was said.
async fn explain(mesh: &Mesh, method: &Method, url: &str, header: Option<&str>) -> (i32, Value) {
    let mut command = Command::new(binaries::weir());
    command.args(["explain", "request", "--from", "shop/caller", "--output", "json", "--to", url, "--method", method.as_str()]);
    command.args(["--source", &format!("dir:{}", mesh.manifests().path().display())]);
    command.args(header.iter().flat_map(|header| ["--header", *header]));
    let output = tools::run(command).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?} {output:?}"));
    (output.status.code().unwrap_or(-1), value)
}

fn agree(said: &Value, code: i32, answer: &Answer) {
    let outcome = &said["outcome"];
    match outcome["kind"].as_str().unwrap_or_default() {
        "forwarded" => {
            assert_eq!((code, answer.status.as_u16()), (0, 200), "{said:#} {answer:?}");
            let backend = said["backends"][0]["backend"].as_str().unwrap_or_default();
            assert_eq!(backend, format!("shop/{}:80", answer.app()), "{said:#}");
            let sent = said["backends"][0]["sent"].as_str();
            let path = answer.seen()["path"].as_str().unwrap_or_default().to_owned();
            assert!(sent.is_none_or(|sent| sent.contains(&format!(" {path} "))), "{path} arrived, and {sent:?} was said");
        }
        "answered" => assert_eq!((code, outcome["status"].as_u64()), (0, Some(answer.status.as_u16().into())), "{said:#}"),
        "fails" => {
            let error = answer.mesh_error().unwrap_or_else(|| panic!("an application answered: {said:#} {answer:?}"));
            let status = Some(u64::from(answer.status.as_u16()));
            assert_eq!((code, outcome["status"].as_u64()), (1, status), "{said:#} {answer:?}");
            assert_eq!(outcome["reason"].as_str(), Some(error.reason.as_str()), "{said:#}");
        }
        other => panic!("{other}: {said:#}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_that_a_request_can_go_is_foretold() {
    let mesh = Mesh::start().await;
    let (caller, one, _two) = tokio::join!(mesh.caller(), mesh.backend("one"), mesh.backend("two"));
    mesh.service("front").apply();
    mesh.service("idle").unready(&one).apply();
    mesh.route("front", RULES);
    mesh.gets(&caller, "http://front/exact", 200).await;
    mesh.manifests().write(
        "policy",
        "apiVersion: weir.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: front, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: front}]
  faults: [{headers: [{name: x-beta, value: fault}], abort: {status: 418}}]
",
    );
    until("the policy is in force", async || {
        let answer = caller.client().request(Method::GET, "http://front/exact").header("x-beta", "fault").send().await;
        ensure(answer.status == 418, || format!("{answer:?}"))
    })
    .await;
    mesh.reaches(&caller, "http://one/").await;
    let outside = mesh.workload("outside").outside_the_mesh().app(App::http("outside")).start().await;
    mesh.service("outside").backed_by([&outside]).apply();
    mesh.manifests().write(
        "backend-tls",
        "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: outside, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: outside}]
  validation: {hostname: outside.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]}
",
    );
    mesh.gets(&caller, "http://outside/", 502).await;

    let get = Method::GET;
    for (method, url, header) in [
        (&get, "http://front/exact", None),
        (&get, "http://front/exact", Some("x-beta: fault")),
        (&get, "http://front/away", Some("x-beta: fault")),
        (&get, "http://front/exact/not", None),
        (&get, "http://front/beta/x", None),
        (&get, "http://front/beta/x", Some("x-beta: true")),
        (&get, "http://front/beta", Some("x-beta: false")),
        (&Method::POST, "http://front/beta", None),
        (&get, "http://front/away", None),
        (&get, "http://front/lost", None),
        (&get, "http://front/empty", None),
        (&get, "http://front/future", None),
        (&get, "http://front/", None),
        (&get, "http://one.shop.svc/x", None),
        (&get, "http://outside/", None),
        (&get, "http://front:81/", None),
        (&get, "http://nobody.shop/", None),
    ] {
        let mut sending = caller.client().request(method.clone(), url);
        if let Some((_, value)) = header.and_then(|header: &str| header.split_once(": ")) {
            sending = sending.header("x-beta", value);
        }
        let answer = sending.send().await;
        let (code, said) = explain(&mesh, method, url, header).await;
        agree(&said, code, &answer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_has_no_effect_says_why() {
    let mesh = Mesh::start().await;
    mesh.service("front").apply();
    mesh.service("one").apply();
    mesh.route("front", "- backendRefs: [{name: one, port: 80}]");
    let tcp = "parentRefs: [{group: '', kind: Service, name: front}]\n  rules: [{backendRefs: [{name: one, port: 80}]}]";
    mesh.manifests().write(
        "route-tcp",
        &format!("apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{name: lower, namespace: shop}}\nspec:\n  {tcp}\n"),
    );
    let elsewhere = "parentRefs: [{group: '', kind: Service, name: front, namespace: shop}]\n  rules: [{backendRefs: [{name: one, port: 80}]}]";
    mesh.manifests().write(
        "route-elsewhere",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: mine, namespace: other}}\nspec:\n  {elsewhere}\n"
        ),
    );
    let (code, said) = explain(&mesh, &Method::GET, "http://front/", None).await;
    assert_eq!((code, said["outcome"]["reason"].as_str()), (1, Some("no-endpoint")), "{said:#}");
    let why = said["withoutEffect"].to_string();
    assert!(why.contains("TCPRoute shop/lower") && why.contains("Conflicted: HTTPRoute shop/front has port 80"), "{why}");
    assert!(why.contains("HTTPRoute other/mine") && why.contains("for clients in namespace other only"), "{why}");
    assert!(said["notes"].to_string().contains("Pod shop/caller is not known"), "{said:#}");
}
