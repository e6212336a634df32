use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P521_SHA512, SanType,
};

use super::*;
use crate::testing::trust_domain;

struct Made {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(30 * 86_400)).into();
    params
}

fn root_of(algorithm: &'static SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = params("a root");
    change(&mut params);
    let pem = params.self_signed(&key).unwrap().pem();
    Made { params, key, pem }
}

fn root(change: impl FnOnce(&mut CertificateParams)) -> Made {
    root_of(&PKCS_ECDSA_P256_SHA256, change)
}

fn below(above: &Made, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let key = KeyPair::generate().unwrap();
    let mut params = params(name);
    change(&mut params);
    let issuer = Issuer::from_params(&above.params, &above.key);
    let pem = params.signed_by(&key, &issuer).unwrap().pem();
    Made { params, key, pem }
}

fn checked(certificate: &str, key: &str, root: Option<&str>) -> Result<Line, String> {
    let entries = Entries { certificate: certificate.as_bytes(), key: key.as_bytes(), root: root.map(str::as_bytes) };
    line(entries, &trust_domain(), SystemTime::now())
}

#[test]
fn every_usual_kind_of_key_can_sign() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let root = root_of(algorithm, |_| {});
        let line = checked(&root.pem, &root.key.serialize_pem(), Some(&root.pem)).unwrap();
        assert_eq!((line.chain.as_str(), line.given, line.anchor_key), ("", true, None), "{algorithm:?}");
    }
    let other = root_of(&PKCS_ECDSA_P521_SHA512, |_| {});
    assert!(checked(&other.pem, &other.key.serialize_pem(), None).unwrap_err().contains("use ECDSA P-256 or P-384"));
}

/// cert-manager writes EC keys as SEC 1 and RSA keys as PKCS #1 unless it is told otherwise; both stand inside of PKCS #8.
#[test]
fn keys_in_the_encodings_of_cert_manager_are_read() {
    for (algorithm, tag) in [
        (&PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY"),
        (&PKCS_ECDSA_P384_SHA384, "EC PRIVATE KEY"),
        (&PKCS_RSA_SHA256, "RSA PRIVATE KEY"),
    ] {
        let root = root_of(algorithm, |_| {});
        let pkcs8 = root.key.serialize_der();
        // SEQUENCE { version, AlgorithmIdentifier, OCTET STRING }: the last field that begins with a SEQUENCE of its own.
        let inner = (0..pkcs8.len()).rev().find(|&i| {
            let der = &pkcs8[i..];
            let length = match der {
                [0x30, 0x82, high, low, ..] => 4 + usize::from(*high) * 256 + usize::from(*low),
                [0x30, 0x81, length, ..] => 3 + usize::from(*length),
                [0x30, length, ..] if *length < 0x80 => 2 + usize::from(*length),
                _ => return false,
            };
            i > 20 && length == der.len() && der.len() > 40
        });
        let inner = &pkcs8[inner.unwrap()..];
        let key = ::pem::encode(&::pem::Pem::new(tag, inner));
        let line = checked(&root.pem, &key, None);
        assert!(line.is_ok(), "{tag}: {line:?}");
    }
}

#[test]
fn an_intermediate_comes_with_its_chain_and_its_root() {
    let root = root(|_| {});
    let middle = below(&root, "middle", |_| {});
    let lowest = below(&middle, "lowest", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let chain = format!("{}{}", lowest.pem, middle.pem);
    let key = lowest.key.serialize_pem();
    let line = checked(&chain, &key, Some(&root.pem)).unwrap();
    assert_eq!(
        (line.chain.replace('\r', ""), line.anchor.replace('\r', "")),
        (chain.replace('\r', ""), root.pem.replace('\r', ""))
    );
    // The root may stand in tls.crt, in both, or beside others in ca.crt.
    let with_root = format!("{chain}{}", root.pem);
    assert_eq!(checked(&with_root, &key, None).unwrap(), line);
    assert_eq!(checked(&with_root, &key, Some(&root.pem)).unwrap(), line);
    let other = self::root(|_| {});
    assert_eq!(checked(&chain, &key, Some(&format!("{}{}", other.pem, root.pem))).unwrap(), line);
    // What is signed with it is what proxies accept, with the root alone.
    let document = crate::ca::Document::of(line, SystemTime::now());
    let authority = crate::ca::Authority::new(trust_domain(), Duration::from_secs(3600), &document).unwrap();
    let credentials = authority.own_credentials(SystemTime::now()).unwrap();
    assert_eq!(credentials.chain.len(), 3);
    authority.roots().unwrap().verify(&credentials, SystemTime::now()).unwrap();
}

/// `tls.crt`, `tls.key` and `ca.crt` of a Secret.
type Texts = (String, String, Option<String>);

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let good = root(|_| {});
    let key = good.key.serialize_pem();
    let other = root(|_| {});
    let middle = below(&good, "middle", |_| {});
    let middle_key = middle.key.serialize_pem();
    let no_authority = root(|params| params.is_ca = IsCa::ExplicitNoCa);
    let no_signing = root(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let old = root(|params| params.not_after = (SystemTime::now() - Duration::from_secs(60)).into());
    let early = root(|params| params.not_before = (SystemTime::now() + Duration::from_secs(600)).into());
    let foreign = root(|params| params.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())]);
    let shallow = root(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below_shallow = below(&shallow, "too deep", |_| {});
    let own = |made: &Made| (made.pem.clone(), made.key.serialize_pem(), None);
    let table: Vec<(&str, Texts)> = vec![
        ("tls.crt has no certificate", (String::new(), key.clone(), None)),
        ("tls.crt is not PEM", ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned(), key.clone(), None)),
        ("there is no private key in PEM", (good.pem.clone(), String::new(), None)),
        ("tls.key is not the key of", (good.pem.clone(), other.key.serialize_pem(), None)),
        ("not one of an authority", own(&no_authority)),
        ("may not sign certificates", own(&no_signing)),
        ("is valid from", own(&old)),
        ("is valid from", own(&early)),
        ("of the trust domain `other.example`", own(&foreign)),
        ("there is no ca.crt", (middle.pem.clone(), middle_key.clone(), None)),
        ("not signed by a certificate of ca.crt", (middle.pem.clone(), middle_key.clone(), Some(other.pem.clone()))),
        ("the root in tls.crt is not the one in ca.crt", (good.pem.clone(), key.clone(), Some(other.pem.clone()))),
        ("not signed by the one that follows", (format!("{}{}{}", middle.pem, other.pem, good.pem), middle_key, None)),
        ("pathLenConstraint", (below_shallow.pem.clone(), below_shallow.key.serialize_pem(), Some(shallow.pem.clone()))),
        ("has 17 certificates", (good.pem.repeat(17), key.clone(), None)),
    ];
    for (reason, (certificate, key, root)) in table {
        let refused = checked(&certificate, &key, root.as_deref()).unwrap_err();
        assert!(refused.contains(reason), "{reason}: {refused}");
        assert!(!refused.contains("PRIVATE KEY-----"), "{refused}");
    }
}

#[test]
fn constraints_on_dns_names_do_not_matter() {
    let permitted = vec![GeneralSubtree::DnsName("example.com".to_owned())];
    let constraints = NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() };
    let root = root(|_| {});
    let narrow = below(&root, "narrow", |params| params.name_constraints = Some(constraints));
    // Constraints on DNS names say nothing of URIs, so this one is good (RFC 5280, section 4.2.1.10).
    assert!(checked(&narrow.pem, &narrow.key.serialize_pem(), Some(&root.pem)).is_ok());
}
