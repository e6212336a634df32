//! A second connection is a cheap one, and never lets anybody in who would not get in by a full handshake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Ca, Leaf, Pair, handshake, handshake_as, identity};
use rustls::HandshakeKind;
use time::Duration;
use weir_tls::{Accept, ClientAuth, TlsError, alpn, client_config, peer_identity, server_config};

const ALPN: &[&[u8]] = &[alpn::TCP];

fn kind(pair: &Pair) -> HandshakeKind {
    let (client, server) = (pair.client.handshake_kind().unwrap(), pair.server.handshake_kind().unwrap());
    assert_eq!(client, server);
    client
}

#[test]
fn connection_after_connection_is_resumed_and_keeps_both_identities() {
    let ca = Ca::new("mesh");
    let server = server_config(&ca.workload("reviews"), &ca.roots(), ClientAuth::Required, ALPN).unwrap();
    let accept = Accept::Identity(identity("reviews"));
    let client = client_config(Some(&ca.workload("web")), &ca.roots(), accept, ALPN).unwrap();
    assert_eq!(kind(&handshake(&client, &server).unwrap()), HandshakeKind::Full);
    for _ in 0..100 {
        let pair = handshake(&client, &server).unwrap();
        assert_eq!(kind(&pair), HandshakeKind::Resumed);
        assert_eq!(peer_identity(pair.server.peer_certificates()).unwrap(), Some(identity("web")));
        assert_eq!(peer_identity(pair.client.peer_certificates()).unwrap(), Some(identity("reviews")));
    }
}

#[test]
fn servers_do_not_share_sessions() {
    let ca = Ca::new("mesh");
    let config = || server_config(&ca.workload("reviews"), &ca.roots(), ClientAuth::Required, ALPN).unwrap();
    let (one, two) = (config(), config());
    let client = client_config(Some(&ca.workload("web")), &ca.roots(), Accept::AnyInDomain, ALPN).unwrap();
    handshake_as(&client, &one, "10.0.0.1").unwrap();
    assert_eq!(kind(&handshake_as(&client, &two, "10.0.0.2").unwrap()), HandshakeKind::Full);
    assert_eq!(kind(&handshake_as(&client, &one, "10.0.0.1").unwrap()), HandshakeKind::Resumed);
    // The address was given to another workload: its keys differ, and the handshake is a full one.
    assert_eq!(kind(&handshake_as(&client, &two, "10.0.0.1").unwrap()), HandshakeKind::Full);
}

#[test]
fn a_server_with_a_new_certificate_or_new_roots_starts_anew() {
    let ca = Ca::new("mesh");
    let own = ca.workload("reviews");
    let config = || server_config(&own, &ca.roots(), ClientAuth::Required, ALPN).unwrap();
    let client = client_config(Some(&ca.workload("web")), &ca.roots(), Accept::AnyInDomain, ALPN).unwrap();
    handshake(&client, &config()).unwrap();
    assert_eq!(kind(&handshake(&client, &config()).unwrap()), HandshakeKind::Full);
}

#[test]
fn what_one_configuration_accepted_is_nothing_to_another() {
    let ca = Ca::new("mesh");
    let server = server_config(&ca.workload("reviews"), &ca.roots(), ClientAuth::Required, ALPN).unwrap();
    let web = ca.workload("web");
    let any = client_config(Some(&web), &ca.roots(), Accept::AnyInDomain, ALPN).unwrap();
    handshake(&any, &server).unwrap();
    let only = client_config(Some(&web), &ca.roots(), Accept::Identity(identity("ratings")), ALPN).unwrap();
    assert!(handshake(&only, &server).is_err());
}

#[test]
fn more_servers_than_are_remembered_take_full_handshakes_and_no_more_memory() {
    let ca = Ca::new("mesh");
    let server = server_config(&ca.workload("reviews"), &ca.roots(), ClientAuth::Required, ALPN).unwrap();
    let client = client_config(Some(&ca.workload("web")), &ca.roots(), Accept::AnyInDomain, ALPN).unwrap();
    let names: Vec<String> = (0..300).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    for name in &names {
        handshake_as(&client, &server, name).unwrap();
    }
    let kinds = names.iter().map(|name| kind(&handshake_as(&client, &server, name).unwrap()));
    let resumed = kinds.filter(|kind| *kind == HandshakeKind::Resumed).count();
    assert!((1..=256).contains(&resumed), "{resumed}");
}

#[test]
fn an_expired_peer_is_noticed_though_its_session_resumes() {
    let ca = Ca::new("mesh");
    let leaf = Leaf { starts_in: Duration::hours(-2), ends_in: Duration::hours(-1), ..Leaf::of(&identity("web")) };
    let expired = ca.credentials(&leaf);
    let error = peer_identity(Some(&expired.chain)).unwrap_err();
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("sa/web"), "{error}");
}
