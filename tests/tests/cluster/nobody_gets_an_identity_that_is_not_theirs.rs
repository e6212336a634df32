//! Certificates are given to pods, for their own names only; and strict policy asks everybody for one.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use prost::Message;
use weir_proto::v1::{CertifyRequest, CertifyResponse};
use weir_tests::authority::secure_anonymously;
use weir_tests::body;
use weir_tests::client::Connection;
use weir_tests::cluster::kubectl::json;
use weir_tests::cluster::objects::service;
use weir_tests::cluster::{App, Pod, SYSTEM, Scenario, until, wire};
use weir_tests::wait::ensure;

const OK: &str = "0";
const PERMISSION_DENIED: &str = "7";
const UNAUTHENTICATED: &str = "16";

/// Who somebody says that they are, and with which token.
#[derive(Clone)]
struct Claim {
    token: String,
    namespace: String,
    account: String,
    pod: String,
}

/// What the control plane says to it: the status and its message, or how many certificates it gave.
async fn certify(control_plane: SocketAddr, claim: &Claim) -> Result<(String, String), String> {
    let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key).map_err(|error| error.to_string())?;
    let request = CertifyRequest {
        token: claim.token.clone(),
        csr: csr.der().to_vec().into(),
        namespace: claim.namespace.clone(),
        service_account: claim.account.clone(),
        pod: claim.pod.clone(),
    };
    let stream = secure_anonymously(wire::node().connect(control_plane).map_err(|error| error.to_string())?, b"h2")
        .await
        .map_err(|error| error.to_string())?;
    let mut connection = Connection::over(stream, true).await?;
    let request = Request::post("http://weir-control-plane/weir.v1.Identity/Certify")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body::full(framed(&request.encode_to_vec())))
        .map_err(|error| error.to_string())?;
    let answer = connection.send(request).await?;
    let said = |name: &str| answer.trailer(name).or_else(|| answer.header(name)).unwrap_or_default().to_owned();
    let status = said("grpc-status");
    if status != OK {
        return Ok((status, said("grpc-message")));
    }
    let response = CertifyResponse::decode(answer.body.get(5..).unwrap_or_default()).map_err(|error| error.to_string())?;
    Ok((status, format!("{} certificates", response.chain.len())))
}

/// A gRPC message that is not compressed.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(message);
    frame.freeze()
}

/// A token as the kubelet asks for it, for a pod or for nobody in particular.
async fn token(scenario: &Scenario, account: &str, audience: &str, pod: Option<&Pod>) -> String {
    let mut arguments = vec!["create", "token", account, "--audience", audience];
    let uid = pod.map(|pod| pod.object()["metadata"]["uid"].as_str().unwrap_or_default().to_owned()).unwrap_or_default();
    if let Some(pod) = pod {
        arguments.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod.name(), "--bound-object-uid", &uid]);
    }
    scenario.kubectl(&arguments).await.trim().to_owned()
}

async fn control_plane() -> SocketAddr {
    let selector = "app.kubernetes.io/name=weir-control-plane";
    let list = json(&["-n", SYSTEM, "get", "pods", "--selector", selector]).await.unwrap();
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let pod = pods.into_iter().map(Pod::from).find(Pod::is_ready).unwrap_or_else(|| panic!("no control plane is ready"));
    (pod.address(), 15410).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn a_certificate_is_given_for_the_pods_own_token_and_its_own_names_only() {
    let scenario = Scenario::begin("identity").await;
    let elsewhere = Scenario::begin("elsewhere").await;
    scenario.deploy(&[App::idle("caller"), App::idle("catalog")]).await;
    let (caller, catalog) = (scenario.pod_of("caller").await, scenario.pod_of("catalog").await);
    let control_plane = control_plane().await;
    let own = Claim {
        token: token(&scenario, "caller", "weir", Some(&caller)).await,
        namespace: scenario.namespace().to_owned(),
        account: "caller".to_owned(),
        pod: caller.name().to_owned(),
    };
    let (status, certificates) = certify(control_plane, &own).await.unwrap();
    assert_eq!(status, OK, "{certificates}");
    assert!(certificates.starts_with(['1', '2', '3']), "{certificates}");

    let with_token = |token: String| Claim { token, ..own.clone() };
    let refused = [
        ("no token", with_token(String::new()), UNAUTHENTICATED),
        ("a made-up token", with_token("a.b.c".to_owned()), UNAUTHENTICATED),
        ("another audience", with_token(token(&scenario, "caller", "vault", Some(&caller)).await), UNAUTHENTICATED),
        ("a token of no pod", with_token(token(&scenario, "caller", "weir", None).await), UNAUTHENTICATED),
        ("another account", Claim { account: "catalog".to_owned(), ..own.clone() }, PERMISSION_DENIED),
        ("another pod", Claim { pod: catalog.name().to_owned(), ..own.clone() }, PERMISSION_DENIED),
        ("another namespace", Claim { namespace: elsewhere.namespace().to_owned(), ..own.clone() }, PERMISSION_DENIED),
    ];
    for (what, claim, wanted) in refused {
        let (status, message) = certify(control_plane, &claim).await.unwrap();
        assert_eq!(status, wanted, "{what}: {message}");
        assert!(!message.is_empty(), "{what} is refused without a reason");
    }
    scenario.kubectl(&["delete", "pod", caller.name(), "--now"]).await;
    until("the token of a pod that is gone is refused", async || {
        let (status, message) = certify(control_plane, &own).await?;
        ensure([UNAUTHENTICATED, PERMISSION_DENIED].contains(&status.as_str()), || format!("{status} {message}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make cluster-test"]
async fn strict_policy_refuses_plaintext_and_takes_effect_without_a_restart() {
    let scenario = Scenario::begin("strict").await;
    let stranger = App::idle("stranger").label("weir.dev/inject", "disabled");
    scenario.apply(&[service("catalog")]).await;
    scenario.deploy(&[App::serving("catalog"), App::idle("caller"), stranger]).await;
    let seen = scenario.seen("stranger", &["http://catalog/"]).await;
    assert!(seen["headers"].get("weir-client-id").is_none(), "who is not authenticated has no identity: {seen}");
    let before = scenario.pod_of("catalog").await;

    scenario.kubectl(&["annotate", "namespace", scenario.namespace(), "weir.dev/mtls=strict"]).await;
    let refusal = until("plaintext is refused", async || match scenario.call("stranger", &["http://catalog/"]).await {
        Ok(answer) => Err(format!("the stranger was answered: {answer}")),
        Err(error) => Ok(error),
    })
    .await;
    assert!(refusal.contains("403") && refusal.contains("plaintext-refused"), "{refusal}");
    scenario.seen("caller", &["http://catalog/"]).await;
    let after = scenario.pod_of("catalog").await;
    assert_eq!(before.name(), after.name(), "nothing was restarted");
    assert!(after.is_ready(), "the probes of a pod under strict policy pass");
}
