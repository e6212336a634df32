use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use weir_core::names::Identity;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::request::{Unsignable, public_key};
use super::{Authority, AuthorityError, CertifyError};
use crate::testing::trust_domain;

const DAY: Duration = Duration::from_secs(86_400);

fn open(dir: &Path) -> Result<Authority, AuthorityError> {
    Authority::open(dir, trust_domain(), DAY)
}

fn identity() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap()
}

fn csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/other/sa/admin".try_into().unwrap())];
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn an_authority_is_made_once_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/ca");
    let first = open(&path).unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    assert_eq!((mode("ca.key"), mode("issuer.key")), (0o600, 0o600));
    let second = open(&path).unwrap();
    assert_eq!(first.bundle(), second.bundle());
    assert_eq!(first.issuer.load().certificate, second.issuer.load().certificate);
    assert!(fs::read_dir(&path).unwrap().all(|it| !it.unwrap().file_name().to_string_lossy().starts_with(".new")));
}

#[test]
fn what_was_half_written_is_refused_with_the_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    fs::remove_file(dir.path().join("issuer.key")).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("has ca.crt, ca.key, issuer.crt but not issuer.key"), "{error}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(one.path()).unwrap();
    open(other.path()).unwrap();
    let swap = |name: &str| fs::copy(other.path().join(name), one.path().join(name)).unwrap();
    swap("issuer.key");
    assert!(open(one.path()).unwrap_err().to_string().contains("the key is not the certificate's"));
    swap("issuer.crt");
    assert!(open(one.path()).unwrap_err().to_string().contains("not signed by the root"));
    swap("ca.key");
    assert!(open(one.path()).unwrap_err().to_string().contains("not the key of any certificate in ca.crt"));
    fs::write(one.path().join("ca.crt"), "nothing").unwrap();
    assert!(open(one.path()).unwrap_err().to_string().contains("it has no certificate"));
}

#[test]
fn another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let error = Authority::open(dir.path(), "other.example".parse().unwrap(), DAY).unwrap_err().to_string();
    assert!(error.contains("`cluster.local`") && error.contains("`other.example`"), "{error}");
}

#[test]
fn a_leaf_says_who_the_token_says_and_nothing_of_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let certified = authority.certify(&identity(), &csr(&key), now).unwrap();
    assert_eq!(certified.chain.len(), 2);
    let (_, leaf) = X509Certificate::from_der(&certified.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert_eq!(format!("{names:?}"), "[URI(\"spiffe://cluster.local/ns/shop/sa/reviews\")]");
    assert!(!leaf.is_ca());
    assert!(certified.validity.not_before < now, "clocks differ");
    let again = authority.certify(&identity(), &csr(&key), now).unwrap();
    let (_, again) = X509Certificate::from_der(&again.chain[0]).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial(), "two certificates for one key");
    let chain: Vec<_> = certified.chain.clone();
    let credentials = weir_tls::Credentials::new(chain, key.serialize_der().try_into().unwrap()).unwrap();
    assert_eq!(credentials.identity, identity());
}

#[test]
fn keys_of_other_kinds_and_broken_requests_are_refused() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        assert!(public_key(&csr(&KeyPair::generate_for(algorithm).unwrap())).is_ok(), "{algorithm:?}");
    }
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    assert_eq!(public_key(&csr(&rsa)).unwrap_err(), Unsignable::Algorithm);
    let good = csr(&KeyPair::generate().unwrap());
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(public_key(&forged).unwrap_err(), Unsignable::NotProven);
    assert_eq!(public_key(&[good.clone(), vec![0]].concat()).unwrap_err(), Unsignable::Malformed);
    assert_eq!(public_key(&[]).unwrap_err(), Unsignable::Malformed);
    assert_eq!(public_key(&vec![0x30; 20_000]).unwrap_err(), Unsignable::TooLong);
    for cut in 0..good.len() {
        assert!(public_key(&good[..cut]).is_err());
    }
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let ends = authority.issuer_ends();
    let request = csr(&KeyPair::generate().unwrap());
    let late = authority.certify(&identity(), &request, ends - Duration::from_secs(3600)).unwrap();
    assert_eq!(late.validity.not_after, ends);
    let too_late = authority.certify(&identity(), &request, ends + Duration::from_secs(1)).unwrap_err();
    assert!(matches!(too_late, CertifyError::Authority(AuthorityError::IssuerEnded)), "{too_late}");
}

#[test]
fn the_issuer_is_renewed_before_it_ends_and_never_outlives_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let (due, ends) = (authority.issuer_renewal_due(), authority.issuer_ends());
    assert!(due + 30 * DAY < ends, "there is time for a renewal that fails");
    assert!(!authority.renew_issuer_if_due(due - Duration::from_secs(1)).unwrap());
    assert!(authority.renew_issuer_if_due(due).unwrap());
    assert!(authority.issuer_ends() > ends);
    let last = authority.root_ends() - DAY;
    assert!(authority.renew_issuer_if_due(last).unwrap());
    assert_eq!(authority.issuer_ends(), authority.root_ends());
}

#[test]
fn a_renewal_that_was_cut_short_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let before = authority.issuer.load().certificate.clone();
    let next = authority.root.issuer(&trust_domain(), SystemTime::now()).unwrap();
    let both = format!("{}{}", next.key_pem, next.certificate_pem);
    fs::write(dir.path().join("issuer.next"), both).unwrap();
    // The crash came after the key was in its place and before the certificate was.
    fs::write(dir.path().join("issuer.key"), &next.key_pem).unwrap();
    let after = open(dir.path()).unwrap();
    assert_ne!(after.issuer.load().certificate, before);
    assert_eq!(after.issuer.load().certificate, next.signer.certificate);
    assert!(!dir.path().join("issuer.next").exists());
}
