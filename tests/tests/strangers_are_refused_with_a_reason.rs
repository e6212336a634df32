//! Who is not of the mesh does not get in, and both the log and a metric say why.

use weir_tests::authority::{Authority, connect_anonymously, verdict};
use weir_tests::body;
use weir_tests::client::Connection;
use weir_tests::prelude::*;
use weir_tests::workload::POD_PORT;
use weir_tests::{address, client};

const MESH_HTTP: &[u8] = b"weir/h2";
const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/caller";

async fn strict() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let start = mesh.workload("reviews").strict().app(App::http("reviews")).start();
    let (caller, reviews) = tokio::join!(mesh.caller(), start);
    mesh.service("reviews").backed_by([&reviews]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

/// The issuer of a mesh, for what it would never sign itself.
fn issuer(mesh: &Mesh) -> Authority {
    Authority::kept_in(&mesh.control_plane().ca_dir())
}

async fn refused(reviews: &Workload, reason: &str, words: &[&str]) {
    reviews.proxy().counts("weir_mesh_errors_total", &[("direction", "inbound"), ("reason", reason)], 1.0).await;
    reviews.proxy().process().logs(words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_refused_where_policy_is_strict() {
    let (_mesh, caller, reviews) = strict().await;
    until("the strict policy is in force", async || {
        let answer = Client::to(reviews.inbound()).try_get("http://reviews/plain").await?;
        ensure(answer.status == 403, || format!("plaintext got {}", answer.status))?;
        assert_eq!(answer.made_by_mesh(403, "inbound").reason, "plaintext-refused");
        Ok(())
    })
    .await;
    reviews.proxy().counts("weir_mesh_errors_total", &[("direction", "inbound"), ("reason", "plaintext-refused")], 1.0).await;
    assert_eq!(caller.client().get("http://reviews/").await.seen_header("weir-client-id"), [CALLER], "the mesh gets in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_may_enter_where_policy_is_permissive_and_carries_no_identity() {
    let mesh = Mesh::start().await;
    let reviews = mesh.backend("reviews").await;
    let spoofed = Client::to(reviews.inbound()).request(Method::GET, "http://reviews/").header("weir-client-id", CALLER);
    let answer = spoofed.send().await;
    assert_eq!((answer.status.as_u16(), answer.app()), (200, "reviews"));
    assert!(answer.seen_header("weir-client-id").is_empty(), "who is not authenticated has no identity");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_becomes_strict_takes_effect_without_a_restart() {
    let mesh = Mesh::start().await;
    let reviews = mesh.backend("reviews").await;
    assert_eq!(Client::to(reviews.inbound()).get("http://reviews/").await.status, 200);
    mesh.manifests().write(
        "namespaces",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations:\n    weir.dev/mtls: strict\n",
    );
    until("plaintext is refused", async || {
        let answer = Client::to(reviews.inbound()).try_get("http://reviews/").await?;
        ensure(answer.status == 403, || format!("plaintext got {}", answer.status))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_a_client_claims_is_replaced_by_the_true_one() {
    let (_mesh, caller, _reviews) = strict().await;
    let admin = "spiffe://cluster.local/ns/shop/sa/admin";
    let answer = caller.client().request(Method::GET, "http://reviews/").header("weir-client-id", admin).send().await;
    assert_eq!(answer.seen_header("weir-client-id"), [CALLER]);
    let named = caller.client().request(Method::GET, "http://reviews/").header("connection", "weir-client-id").send().await;
    assert_eq!(named.seen_header("weir-client-id"), [CALLER], "a hop-by-hop list cannot remove it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_a_foreign_authority_is_refused() {
    let (_mesh, _caller, reviews) = strict().await;
    let peer = Authority::foreign().sign(CALLER);
    verdict(peer.connect(reviews.inbound(), MESH_HTTP).await).await.expect_err("a foreign peer got in");
    refused(&reviews, "handshake-failed", &["does not lead to a root of this mesh"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_certificate_has_ended_is_refused() {
    let (mesh, _caller, reviews) = strict().await;
    let valid = issuer(&mesh).sign(CALLER);
    verdict(valid.connect(reviews.inbound(), MESH_HTTP).await).await.expect("the same, still valid, gets in");
    let expired = issuer(&mesh).sign_expired(CALLER);
    verdict(expired.connect(reviews.inbound(), MESH_HTTP).await).await.expect_err("an expired peer got in");
    refused(&reviews, "handshake-failed", &["expired"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_a_certificate_is_refused() {
    let (_mesh, _caller, reviews) = strict().await;
    let stream = connect_anonymously(reviews.inbound(), MESH_HTTP).await;
    verdict(stream).await.expect_err("an anonymous peer got in");
    refused(&reviews, "handshake-failed", &["showed no certificate"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_trust_domain_is_refused() {
    let (mesh, _caller, reviews) = strict().await;
    let peer = issuer(&mesh).sign("spiffe://evil.example/ns/shop/sa/caller");
    let got_in = async {
        let stream = peer.connect(reviews.inbound(), MESH_HTTP).await.map_err(|error| error.to_string())?;
        let mut connection = Connection::over(stream, true).await?;
        connection.send(client::request(Method::GET, "http://reviews/evil")).await
    };
    match got_in.await {
        Ok(answer) => assert_eq!(answer.status, 403, "{answer:?}"),
        Err(reason) => assert!(!reason.is_empty()),
    }
    assert_eq!(reviews.app().requests("/evil"), 0);
    reviews.proxy().process().logs(&["evil.example"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_a_certificate_of_the_mesh_speaks_to_the_application() {
    let (mesh, _caller, reviews) = strict().await;
    let peer = issuer(&mesh).sign(CALLER);
    let stream = peer.connect(reviews.inbound(), MESH_HTTP).await.unwrap();
    let mut connection = Connection::over(stream, true).await.unwrap();
    let mut spoofing = client::request(Method::POST, "http://reviews/");
    spoofing.headers_mut().insert("weir-client-id", "spiffe://cluster.local/ns/shop/sa/admin".parse().unwrap());
    *spoofing.body_mut() = body::full("hello");
    let answer = connection.send(spoofing).await.unwrap();
    assert_eq!(answer.seen_header("weir-client-id"), [CALLER]);
    assert_eq!(answer.seen()["body"], "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_the_mesh_are_tls_1_3_with_a_post_quantum_key_exchange() {
    let (mesh, _caller, reviews) = strict().await;
    for alpn in [MESH_HTTP, b"weir/tcp"] {
        let stream = issuer(&mesh).sign(CALLER).connect(reviews.inbound(), alpn).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(alpn));
        let group = session.negotiated_key_exchange_group().map(|group| group.name());
        assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_who_it_should_be_gets_no_request() {
    for (who, reason) in [("foreign", "another mesh"), ("other", "sa/caller"), ("expired", "expired")] {
        let mesh = Mesh::start().await;
        let caller = mesh.caller().await;
        let home = address::loopback();
        let reviews = "spiffe://cluster.local/ns/shop/sa/reviews";
        let impostor = match who {
            "foreign" => Authority::foreign().sign(reviews),
            "other" => issuer(&mesh).sign(CALLER),
            _ => issuer(&mesh).sign_expired(reviews),
        };
        impostor.impersonate((home, POD_PORT).into(), MESH_HTTP).await;
        let pod = weir_tests::manifest::Pod {
            name: "reviews",
            namespace: "shop",
            service_account: "reviews",
            address: home,
            meshed: true,
            annotations: &[],
        };
        mesh.manifests().write("pod-reviews", &pod.yaml());
        mesh.service("reviews").backed_by_address("reviews", home).apply();
        let answer = mesh.gets(&caller, "http://reviews/", 502).await;
        let error = answer.made_by_mesh(502, "outbound");
        assert_eq!(error.reason, "mtls-failed", "{who}");
        assert!(error.detail.contains(reason), "{who}: the detail says {reason}: {error:?}");
        caller.proxy().counts("weir_mesh_errors_total", &[("reason", "mtls-failed")], 1.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_gets_no_certificate_and_is_told_why() {
    let mesh = Mesh::start().await;
    let stranger = mesh.workload("stranger").token("not-a-token-of-this-mesh").spawn();
    let told = stranger.proxy().process().logs(&["token"]).await;
    assert!(!told.contains("not-a-token-of-this-mesh"), "a token is a secret and stays out of logs: {told}");
    mesh.control_plane().logs(&["token"]).await;
    assert!(!mesh.control_plane().log().contains("not-a-token-of-this-mesh"));
    assert_ne!(stranger.proxy().ask("/ready").await.unwrap().status, 200, "without an identity it is not ready");
    stranger.proxy().counts("weir_certificate_renewals_total", &[("result", "failure")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_token_gets_no_certificate() {
    let mesh = Mesh::start().await;
    let honest = mesh.workload("honest").start().await;
    let thief = mesh.workload("thief").service_account("admin").token(&format!("token-of-shop-{}", honest.name())).spawn();
    thief.proxy().process().logs(&["admin"]).await;
    assert_ne!(thief.proxy().ask("/ready").await.unwrap().status, 200);
    thief.proxy().counts("weir_certificate_renewals_total", &[("result", "failure")], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_added_later_lets_its_workload_in() {
    let mesh = Mesh::start().await;
    let late = mesh.workload("late").token("a-token-for-later").spawn();
    late.proxy().process().logs(&["token"]).await;
    std::fs::write(mesh.control_plane().token_file(), "a-token-for-later shop late\n").unwrap();
    late.proxy().ready().await;
}
