//! Every way in which a certificate can be wrong ends the handshake, with a reason that both sides can print.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh;

use std::sync::Arc;

use mesh::{Ca, Failed, Leaf, Pair, domain, handshake, identity};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, ServerConfig};
use time::Duration;
use weir_tls::{Accept, ClientAuth, Credentials, Refusal, Roots, alpn, client_config, control_plane_identity, peer_identity};
use weir_tls::{explain, provider, refusal, server_config};

const MESH: &[&[u8]] = &[alpn::HTTP2, alpn::TCP];

fn server(credentials: &Credentials, roots: &Roots) -> Arc<ServerConfig> {
    server_config(credentials, roots, ClientAuth::Required, MESH).unwrap()
}

fn client(credentials: &Credentials, roots: &Roots, accept: Accept) -> Arc<ClientConfig> {
    client_config(Some(credentials), roots, accept, &[alpn::HTTP2]).unwrap()
}

/// What the client says of the server's credentials, and the server of the client's, in a mesh of `ca`.
fn client_refuses(ca: &Ca, shown: &Credentials) -> (Refusal, String) {
    let client = client(&ca.workload("web"), &ca.roots(), Accept::Identity(identity("reviews")));
    match handshake(&client, &server(shown, &ca.roots())) {
        Err((Failed::Client(error), other)) => {
            let Some(Failed::Server(alert)) = other else { panic!("the server heard nothing") };
            assert!(matches!(refusal(&alert), Refusal::PeerRefused { .. }), "{alert}");
            (refusal(&error), explain(&error))
        }
        Err((Failed::Server(error), _)) => panic!("the server refused: {error}"),
        Ok(_) => panic!("let in"),
    }
}

fn server_refuses(ca: &Ca, shown: &Credentials) -> (Refusal, String) {
    let client = client(shown, &ca.roots(), Accept::AnyInDomain);
    match handshake(&client, &server(&ca.workload("reviews"), &ca.roots())) {
        Err((Failed::Server(error), other)) => {
            let Some(Failed::Client(alert)) = other else { panic!("the client heard nothing") };
            assert!(matches!(refusal(&alert), Refusal::PeerRefused { .. }), "{alert}");
            (refusal(&error), explain(&error))
        }
        Err((Failed::Client(error), _)) => panic!("the client refused: {error}"),
        Ok(_) => panic!("let in"),
    }
}

fn both_refuse(ca: &Ca, shown: &Credentials) -> (Refusal, String) {
    let (by_client, text) = client_refuses(ca, shown);
    let (by_server, _) = server_refuses(ca, shown);
    assert_eq!(by_client.as_str(), by_server.as_str());
    (by_client, text)
}

#[test]
fn workloads_of_one_mesh_know_each_other() {
    let ca = Ca::new("mesh");
    let client = client(&ca.workload("web"), &ca.roots(), Accept::Identity(identity("reviews")));
    let Pair { client, server } = handshake(&client, &server(&ca.workload("reviews"), &ca.roots())).unwrap();
    assert_eq!(peer_identity(client.peer_certificates()).unwrap(), Some(identity("reviews")));
    assert_eq!(peer_identity(server.peer_certificates()).unwrap(), Some(identity("web")));
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.negotiated_cipher_suite().unwrap().suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(server.alpn_protocol(), Some(alpn::HTTP2));
    assert_eq!(server.server_name(), None, "no SNI is sent");
}

#[test]
fn another_ca_is_refused_even_under_the_same_name() {
    let ca = Ca::new("mesh");
    for stranger in [Ca::new("elsewhere"), Ca::new("mesh")] {
        let (refusal, text) = both_refuse(&ca, &stranger.workload("reviews"));
        assert_eq!(refusal, Refusal::UnknownIssuer, "{text}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_refused_with_both_times() {
    let ca = Ca::new("mesh");
    let over = Leaf { ends_in: Duration::hours(-1), starts_in: Duration::hours(-25), ..Leaf::of(&identity("reviews")) };
    let (refusal, text) = both_refuse(&ca, &ca.credentials(&over));
    assert_eq!(refusal.as_str(), "expired", "{text}");
    assert_eq!(text.matches("T").count(), 2, "{text}");
    let future = Leaf { starts_in: Duration::hours(1), ..Leaf::of(&identity("reviews")) };
    let (refusal, text) = both_refuse(&ca, &ca.credentials(&future));
    assert_eq!(refusal.as_str(), "not-yet-valid", "{text}");
    assert_eq!(text.matches("T").count(), 2, "{text}");
}

#[test]
fn another_workload_is_not_the_one_that_was_called() {
    let ca = Ca::new("mesh");
    let (refusal, text) = client_refuses(&ca, &ca.workload("ratings"));
    assert_eq!(refusal.as_str(), "wrong-identity");
    assert!(text.contains("sa/ratings") && text.contains("sa/reviews"), "{text}");
}

#[test]
fn roots_speak_for_their_own_trust_domain_only() {
    let ca = Ca::new("mesh");
    let leaf = Leaf::with_uris(&["spiffe://example.org/ns/shop/sa/reviews"]);
    let (refusal, text) = both_refuse(&ca, &ca.credentials(&leaf));
    assert_eq!(refusal.as_str(), "wrong-identity", "{text}");
}

#[test]
fn a_certificate_that_names_no_workload_or_several_is_refused() {
    let ca = Ca::new("mesh");
    let name = identity("reviews").to_string();
    for uris in [&[][..], &["https://example.org/"], &[&name, "spiffe://cluster.local/ns/shop/sa/other"], &[&name, &name]] {
        let (chain, key) = ca.sign(&Leaf::with_uris(uris));
        assert!(Credentials::new(chain.clone(), key.clone_key()).is_err(), "{uris:?}");
        // A hostile peer does not ask Credentials for permission.
        let certified = rustls::sign::CertifiedKey::from_der(chain, key, &provider()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![alpn::HTTP2.to_vec()];
        let client = client(&ca.workload("web"), &ca.roots(), Accept::AnyInDomain);
        match handshake(&client, &Arc::new(config)) {
            Err((Failed::Client(error), _)) => assert_eq!(refusal(&error).as_str(), "bad-certificate", "{uris:?}: {error}"),
            _ => panic!("{uris:?}: let in"),
        }
    }
}

#[test]
fn a_certificate_for_another_purpose_is_refused() {
    let ca = Ca::new("mesh");
    let leaf = Leaf { usages: vec![ExtendedKeyUsagePurpose::CodeSigning], ..Leaf::of(&identity("reviews")) };
    let (refusal, text) = both_refuse(&ca, &ca.credentials(&leaf));
    assert_eq!(refusal.as_str(), "bad-certificate", "{text}");
}

#[test]
fn a_client_without_a_certificate_enters_only_where_that_is_allowed() {
    let ca = Ca::new("mesh");
    let own = ca.workload("reviews");
    let nobody = client_config(None, &ca.roots(), Accept::AnyInDomain, &[alpn::HTTP2]).unwrap();
    match handshake(&nobody, &server(&own, &ca.roots())) {
        Err((Failed::Server(error), Some(Failed::Client(alert)))) => {
            assert_eq!(refusal(&error), Refusal::NoCertificate);
            assert!(explain(&alert).contains("certificate_required"), "{}", explain(&alert));
        }
        other => panic!("{:?}", other.err()),
    }
    let optional = server_config(&own, &ca.roots(), ClientAuth::Optional, MESH).unwrap();
    let Pair { server, .. } = handshake(&nobody, &optional).unwrap();
    assert_eq!(peer_identity(server.peer_certificates()).unwrap(), None);
    // One that is shown must be good all the same.
    let stranger = client(&Ca::new("elsewhere").workload("web"), &ca.roots(), Accept::AnyInDomain);
    assert!(handshake(&stranger, &optional).is_err());
}

#[test]
fn the_control_plane_is_known_by_its_name() {
    let ca = Ca::new("mesh");
    let name = control_plane_identity(&domain());
    assert_eq!(name.to_string(), "spiffe://cluster.local/ns/weir-system/sa/weir-control-plane");
    let client = client_config(None, &ca.roots(), Accept::Identity(name.clone()), &[alpn::GRPC]).unwrap();
    let serve = |own: &Credentials| server_config(own, &ca.roots(), ClientAuth::Optional, &[alpn::GRPC]).unwrap();
    assert!(handshake(&client, &serve(&ca.credentials(&Leaf::of(&name)))).is_ok());
    assert!(handshake(&client, &serve(&ca.workload("reviews"))).is_err());
}

#[test]
fn new_roots_are_accepted_beside_the_old_ones() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let both = Roots::from_der(domain(), [old.root.der(), new.root.der()]).unwrap();
    for (caller, called) in [(&old, &new), (&new, &old), (&new, &new)] {
        let client = client(&caller.workload("web"), &both, Accept::Identity(identity("reviews")));
        assert!(handshake(&client, &server(&called.workload("reviews"), &both)).is_ok());
    }
}

#[test]
fn an_application_protocol_that_is_not_the_meshs_is_refused() {
    let ca = Ca::new("mesh");
    let client = client_config(Some(&ca.workload("web")), &ca.roots(), Accept::AnyInDomain, &[b"h3"]).unwrap();
    match handshake(&client, &server(&ca.workload("reviews"), &ca.roots())) {
        Err((Failed::Server(_), Some(Failed::Client(alert)))) => {
            assert!(explain(&alert).contains("no_application_protocol"), "{}", explain(&alert));
        }
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn bytes_that_are_not_tls_are_called_so() {
    let ca = Ca::new("mesh");
    let config = client(&ca.workload("web"), &ca.roots(), Accept::AnyInDomain);
    let name = weir_tls::server_name([127, 0, 0, 1].into());
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    client.read_tls(&mut &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..]).unwrap();
    let error = std::io::Error::other(client.process_new_packets().unwrap_err());
    assert_eq!(refusal(&error).as_str(), "not-tls", "{error}");
}
