use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use weir_core::names::Identity;
use weir_core::rotation::overlap::{Evidence, Pace, PhaseName};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::document::Line;
use super::request::{Unsignable, public_key};
use super::{Authority, AuthorityError, CertifyError, Document, keep, plan};
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
    assert_eq!((mode("authority.json"), mode("ca.crt")), (0o600, 0o644));
    let second = open(&path).unwrap();
    assert_eq!(first.bundle(), second.bundle());
    assert_eq!(first.document(), second.document());
    assert!(fs::read_dir(&path).unwrap().all(|it| !it.unwrap().file_name().to_string_lossy().starts_with(".new")));
}

#[test]
fn what_was_half_written_is_refused_with_the_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    fs::remove_file(dir.path().join("authority.json")).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("has ca.crt but not authority.json (or ca.key, issuer.crt, issuer.key)"), "{error}");
}

#[test]
fn roots_that_were_not_written_are_written_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = open(dir.path()).unwrap().document().bundle_pem();
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    open(dir.path()).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("ca.crt")).unwrap(), bundle);
}

#[test]
fn what_cannot_be_read_is_refused_without_showing_a_key() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let path = dir.path().join("authority.json");
    let text = fs::read_to_string(&path).unwrap();
    let other = Document::make(&trust_domain(), SystemTime::now()).unwrap().to_json(&trust_domain()).unwrap();
    let key = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["signs"]["key"].as_str().unwrap().to_owned();
    for (broken, reason) in [
        (text[..text.len() / 2].to_owned(), "it cannot be read (line"),
        (text.replace("\"format\": 1", "\"format\": 2"), "it has the format 2"),
        (text.replace("\"stable\"", "\"published\""), "do not go together"),
        (text.replace("\"stable\"", "\"future\""), "a phase that this version of Weir does not know"),
        (text.replace(&key(&text).replace('\n', "\\n"), &key(&other).replace('\n', "\\n")), "the key is not the certificate's"),
    ] {
        fs::write(&path, broken).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!error.contains("PRIVATE") && !error.contains("MIG"), "{error}");
    }
}

#[test]
fn the_four_files_of_the_first_versions_are_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let line = Line::make(&trust_domain(), SystemTime::now()).unwrap();
    for (name, text) in [
        ("ca.crt", &line.anchor),
        ("ca.key", line.anchor_key.as_ref().unwrap()),
        ("issuer.crt", &line.chain),
        ("issuer.key", &line.key),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let authority = open(dir.path()).unwrap();
    assert_eq!(*authority.document().succession.signs(), line);
    assert_eq!(open(dir.path()).unwrap().document(), authority.document());
    fs::remove_file(dir.path().join("authority.json")).unwrap();
    fs::write(dir.path().join("issuer.key"), line.anchor_key.unwrap()).unwrap();
    assert!(open(dir.path()).unwrap_err().to_string().contains("tls.key is not the key"));
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
    let behind = now - Duration::from_secs(60);
    assert!(certified.validity.not_before <= behind, "a peer whose clock is a minute behind takes it at once");
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

/// Looks at an authority as if nobody else were there.
fn step(document: &Document, now: SystemTime, asked: Option<&str>, behind: usize) -> Option<(Document, plan::Action)> {
    let evidence = Evidence { proxies_behind: behind, ..Evidence::default() };
    let look = keep::Look { document, given: None, asked, evidence, taken_at: document.succession.since };
    let authority = Authority::new(trust_domain(), DAY, document).unwrap();
    keep::Course::default().next(look, &authority, now).unwrap()
}

#[test]
fn the_issuer_is_renewed_before_it_ends_and_never_outlives_the_root() {
    let now = SystemTime::now();
    let first = Document::make(&trust_domain(), now).unwrap();
    let ends = |document: &Document| Authority::new(trust_domain(), DAY, document).unwrap().issuer_ends();
    assert_eq!(step(&first, now + 200 * DAY, None, 0), None);
    let (second, action) = step(&first, now + 300 * DAY, None, 0).unwrap();
    assert_eq!(action, plan::Action::NewIssuer);
    assert!(ends(&first) > now + 330 * DAY, "there is time for a renewal that fails");
    assert!(ends(&second) > ends(&first));
    let (before, after) = (first.succession.signs(), second.succession.signs());
    assert!(before.same_root(after) && before.key != after.key);
    assert_eq!(second.succession.epoch, first.succession.epoch, "nobody has to be told");
}

#[test]
fn a_root_that_comes_to_its_end_is_replaced_carefully() {
    let now = SystemTime::now();
    let first = Document::make(&trust_domain(), now).unwrap();
    let late = now + 2_500 * DAY;
    let (published, action) = step(&first, late, None, 0).unwrap();
    assert_eq!(action, plan::Action::Publish { line: None, why: plan::Why::End });
    assert_eq!(published.succession.pace(), Some(Pace::Careful));
    assert_eq!(published.bundle_pem(), format!("{}{}", first.bundle_pem(), published.succession.other().unwrap().anchor));
    // The old issuer has ended meanwhile, and signs on with a new one until it is retired.
    let (renewed, action) = step(&published, late, None, 0).unwrap();
    assert_eq!(action, plan::Action::NewIssuer);
    assert_eq!(step(&renewed, late + DAY / 2, None, 0), None);
    let (signing, _) = step(&renewed, late + 2 * DAY, None, 1).unwrap();
    assert_eq!(signing.succession.name(), PhaseName::Signing);
    let (stable, _) = step(&signing, late + 4 * DAY, None, 0).unwrap();
    assert_eq!(stable.succession.name(), PhaseName::Stable);
    assert_eq!(stable.bundle_pem(), published.succession.other().unwrap().anchor);
}

#[test]
fn what_is_written_down_can_be_read_again_in_every_phase() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut document = Document::make(&trust_domain(), now).unwrap();
    for phase in [PhaseName::Stable, PhaseName::Published, PhaseName::Signing] {
        assert_eq!(document.succession.name(), phase);
        let text = document.to_json(&trust_domain()).unwrap();
        assert_eq!(Document::from_json(text.as_bytes(), &trust_domain()).unwrap(), document);
        let action = match phase {
            PhaseName::Stable => plan::Action::Publish { line: None, why: plan::Why::Asked },
            PhaseName::Published | PhaseName::Signing => plan::Action::Advance { left_behind: Evidence::default() },
        };
        document = plan::carry_out(&document, &action, Some("once"), &trust_domain(), now).unwrap();
    }
    assert_eq!(document.asked, "once");
}

#[test]
fn while_both_roots_are_trusted_certificates_of_both_are_good() {
    let now = SystemTime::now();
    let authority = Authority::new(trust_domain(), DAY, &Document::make(&trust_domain(), now).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let credentials = |authority: &Authority| {
        let certified = authority.certify(&identity(), &csr(&key), SystemTime::now()).unwrap();
        weir_tls::Credentials::new(certified.chain, key.serialize_der().try_into().unwrap()).unwrap()
    };
    let (old, old_roots) = (credentials(&authority), authority.roots().unwrap());
    let (published, _) = step(&authority.document(), now, Some("1"), 0).unwrap();
    assert!(authority.take(&published).unwrap());
    assert!(!authority.take(&published).unwrap(), "it is in force already");
    let (still_old, both) = (credentials(&authority), authority.roots().unwrap());
    assert_eq!(both.led_to(&still_old.chain, now), [&both.ders()[0]]);
    let signing =
        plan::carry_out(&published, &plan::Action::Advance { left_behind: Evidence::default() }, None, &trust_domain(), now);
    authority.take(&signing.unwrap()).unwrap();
    let new = credentials(&authority);
    let now_first = authority.roots().unwrap();
    assert_eq!(now_first.led_to(&new.chain, now), [&now_first.ders()[0]]);
    assert_eq!(now_first.led_to(&old.chain, now), [&now_first.ders()[1]]);
    for (roots, good) in [(&old_roots, [true, true, false]), (&both, [true, true, true]), (&now_first, [true, true, true])] {
        assert_eq!([&old, &still_old, &new].map(|it| roots.verify(it, now).is_ok()), good);
    }
}
