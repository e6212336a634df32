//! Certificates, keys and roots survive a round trip through files, and keys are never printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh;

use std::time::SystemTime;

use mesh::{Ca, Leaf, domain, identity};
use time::Duration;
use weir_tls::{Credentials, Refusal, Roots, TlsError};

#[test]
fn credentials_survive_a_file() {
    let own = Ca::new("mesh").workload("reviews");
    let again = Credentials::from_pem(&own.chain_pem(), &own.key_pem()).unwrap();
    assert_eq!((again.chain.clone(), again.key_pem()), (own.chain.clone(), own.key_pem()));
    assert_eq!((again.identity, again.validity, again.serial), (own.identity.clone(), own.validity, own.serial.clone()));
    // Both in one text.
    let one = own.key_pem() + &own.chain_pem();
    assert_eq!(Credentials::from_pem(&one, &one).unwrap().chain, own.chain);
}

#[test]
fn a_key_is_never_printed() {
    let own = Ca::new("mesh").workload("reviews");
    let key = own.key_pem();
    let secret: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let shown = format!("{own:?} {own:#?}");
    assert!(shown.contains("reviews"), "{shown}");
    assert!(!shown.contains(&secret[..20]) && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = Ca::new("mesh");
    let (chain, _) = ca.sign(&Leaf::of(&identity("reviews")));
    let (_, key) = ca.sign(&Leaf::of(&identity("reviews")));
    assert!(matches!(Credentials::new(chain, key), Err(TlsError::KeyMismatch)));
    let (_, key) = ca.sign(&Leaf::of(&identity("reviews")));
    assert!(matches!(Credentials::new(Vec::new(), key), Err(TlsError::EmptyChain)));
}

#[test]
fn damaged_text_is_an_error_and_not_a_panic() {
    let own = Ca::new("mesh").workload("reviews");
    let (chain, key) = (own.chain_pem(), own.key_pem());
    for cut in [0, 10, chain.len() / 4, chain.len() / 2] {
        let _ = Credentials::from_pem(&chain[..cut], &key).unwrap_err();
    }
    let _ = Credentials::from_pem(&chain, &chain).unwrap_err();
    for byte in [40, 200, 400] {
        let mut der = own.chain[0].to_vec();
        der.truncate(byte);
        let _ = weir_tls::peer_identity(Some(&[der.into()])).unwrap_err();
    }
}

#[test]
fn roots_survive_a_file_and_say_who_they_are() {
    let (one, two) = (Ca::new("one"), Ca::new("two"));
    let roots = Roots::from_der(domain(), [one.root.der(), two.root.der()]).unwrap();
    let again = Roots::from_pem(domain(), &format!("# comments are fine\n{}", roots.pem())).unwrap();
    assert_eq!(again, roots);
    let subjects: Vec<_> = roots.subjects().into_iter().map(|root| root.subject).collect();
    assert!(subjects[0].contains("one root") && subjects[1].contains("two root"), "{subjects:?}");
}

#[test]
fn a_bundle_needs_certificates() {
    assert!(matches!(Roots::from_pem(domain(), ""), Err(TlsError::NoRoots)));
    assert!(matches!(Roots::from_pem(domain(), "-----BEGIN CERTIFICATE-----\n"), Err(TlsError::Pem { .. })));
    let good = Ca::new("mesh");
    let mixed: [&[u8]; 2] = [good.root.der(), b"not a certificate"];
    assert!(matches!(Roots::from_der(domain(), mixed), Err(TlsError::Root { position: 2, .. })));
}

#[test]
fn roots_tell_beforehand_whom_they_accept() {
    let (ca, other) = (Ca::new("mesh"), Ca::new("other"));
    let now = SystemTime::now();
    assert!(ca.roots().verify(&ca.workload("reviews"), now).is_ok());
    let refused = other.roots().verify(&ca.workload("reviews"), now);
    assert!(matches!(refused, Err(TlsError::NotAccepted(Refusal::UnknownIssuer))), "{refused:?}");
    let late = Leaf { starts_in: Duration::hours(-2), ends_in: Duration::hours(-1), ..Leaf::of(&identity("reviews")) };
    let refused = ca.roots().verify(&ca.credentials(&late), now);
    assert!(matches!(refused, Err(TlsError::NotAccepted(Refusal::Expired(_)))), "{refused:?}");
}
