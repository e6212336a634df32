//! A root or intermediate of the user's own, as cert-manager writes it: `tls.crt`, `tls.key`, `ca.crt`.
//!
//! `tls.crt` is the authority that signs leaves, then its issuers if there are any. `ca.crt` has the root; without it the last
//! certificate of `tls.crt` must be one. Everything is checked before it is let in, and at the end a certificate is signed with it
//! and verified as a proxy would: what no rule here thought of is found out then.

use std::time::SystemTime;

use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use weir_core::names::TrustDomain;
use weir_core::rotation::Validity;
use weir_tls::{Credentials, KeyRequest, Roots, Utc, control_plane_identity};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::document::Line;
use super::request;
use super::sign::{self, Signer};

/// More certificates than any chain has.
const MAX_CERTIFICATES: usize = 16;
/// Most bytes of each of the three.
const MAX_BYTES: usize = 128 * 1024;

/// Kinds of keys that sign.
const KINDS: [&SignatureAlgorithm; 4] = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256];

/// The three entries.
#[derive(Clone, Copy)]
pub struct Entries<'a> {
    /// `tls.crt`.
    pub certificate: &'a [u8],
    /// `tls.key`.
    pub key: &'a [u8],
    /// `ca.crt`.
    pub root: Option<&'a [u8]>,
}

/// Checks what the user gave.
///
/// # Errors
///
/// A sentence: what is wrong, and what would be right.
pub fn line(entries: Entries<'_>, trust_domain: &TrustDomain, now: SystemTime) -> Result<Line, String> {
    let mut chain = certificates("tls.crt", entries.certificate)?;
    let first = chain.first().cloned().ok_or("tls.crt has no certificate")?;
    let key = key(entries.key)?;
    authority("the first certificate of tls.crt", &first, trust_domain, now)?;
    let belongs = parsed(&first)?.public_key().raw == key.subject_public_key_info();
    if !belongs {
        return Err("tls.key is not the key of the first certificate of tls.crt".to_owned());
    }
    for (index, certificate) in chain.iter().enumerate().skip(1) {
        authority(&format!("certificate {} of tls.crt", index + 1), certificate, trust_domain, now)?;
    }
    let candidates = match entries.root.filter(|pem| !pem.trim_ascii().is_empty()) {
        Some(pem) => certificates("ca.crt", pem)?,
        None => Vec::new(),
    };
    let anchor = anchor(&mut chain, candidates)?;
    authority("the root (ca.crt)", &anchor, trust_domain, now)?;
    path_lengths(&chain, &anchor)?;
    let signer = Signer::new(chain.first().unwrap_or(&anchor).clone(), key)?;
    try_out(&signer, &chain, &anchor, trust_domain, now)?;
    Ok(Line {
        given: true,
        anchor: pem(&anchor),
        anchor_key: None,
        chain: chain.iter().map(pem).collect(),
        key: String::from_utf8_lossy(entries.key).into_owned(),
    })
}

/// The private key of a PEM text: PKCS #8, PKCS #1 (RSA) or SEC 1 (EC).
///
/// # Errors
///
/// A sentence.
pub fn key(text: &[u8]) -> Result<KeyPair, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("the private key has more than {MAX_BYTES} bytes"));
    }
    let der = PrivateKeyDer::from_pem_slice(text).map_err(|_| "there is no private key in PEM".to_owned())?;
    let key = KeyPair::try_from(&der).ok().filter(|key| KINDS.iter().any(|kind| *kind == key.algorithm()));
    key.ok_or_else(|| {
        "the private key is of a kind that cannot sign here: use ECDSA P-256 or P-384, Ed25519, or RSA with 2048 bits or more"
            .to_owned()
    })
}

fn certificates(name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("{name} has more than {MAX_BYTES} bytes"));
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let all = all.map_err(|error| format!("{name} is not PEM: {error}"))?;
    match all.len() {
        0 => Err(format!("{name} has no certificate")),
        1..=MAX_CERTIFICATES => Ok(all),
        many => Err(format!("{name} has {many} certificates, and a chain has at most {MAX_CERTIFICATES}")),
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    X509Certificate::from_der(certificate).map(|(_, it)| it).map_err(|error| format!("it is no certificate: {error}"))
}

/// Whether a certificate may stand above others of this mesh, now.
fn authority(what: &str, der: &CertificateDer<'_>, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
    let certificate = parsed(der).map_err(|why| format!("{what}: {why}"))?;
    if !certificate.is_ca() {
        return Err(format!("{what} is not one of an authority (basicConstraints CA:TRUE); with cert-manager, set isCA: true"));
    }
    if let Ok(Some(usage)) = certificate.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err(format!("{what} may not sign certificates (keyUsage lacks keyCertSign); with cert-manager, add `cert sign`"));
    }
    let Validity { not_before, not_after } = sign::validity(&certificate);
    if now < not_before || now >= not_after {
        let (from, until, now) = (Utc(not_before), Utc(not_after), Utc(now));
        return Err(format!("{what} is valid from {from} until {until}, and it is {now} here"));
    }
    if let Some(said) = trust_domain_of(&certificate)
        && said != trust_domain.as_str()
    {
        return Err(format!("{what} is of the trust domain `{said}`, and this mesh's is `{trust_domain}`"));
    }
    Ok(())
}

/// The trust domain that an authority names (X.509-SVID, section 3.1). One that was not made for a mesh names none.
fn trust_domain_of(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
        _ => None,
    })
}

/// The root that the chain leads to, which is taken out of the chain if it stands there.
fn anchor(
    chain: &mut Vec<CertificateDer<'static>>,
    candidates: Vec<CertificateDer<'static>>,
) -> Result<CertificateDer<'static>, String> {
    let own_root = chain.last().filter(|last| signed_by(last, last)).cloned();
    if own_root.is_some() {
        chain.pop();
    }
    for (index, pair) in chain.windows(2).enumerate() {
        if let [one, next] = pair
            && !signed_by(one, next)
        {
            return Err(format!("certificate {} of tls.crt is not signed by the one that follows it", index + 1));
        }
    }
    // What stands at the end of the chain must itself be the root, or be signed by it.
    let leads_to = |root: &CertificateDer<'static>| chain.last().is_none_or(|last| signed_by(last, root));
    match (own_root, candidates.is_empty()) {
        (Some(root), true) if leads_to(&root) => Ok(root),
        (Some(root), false) if candidates.contains(&root) && leads_to(&root) => Ok(root),
        (Some(_), _) => Err("the root in tls.crt is not the one in ca.crt, or not the one that the chain leads to".to_owned()),
        (None, true) => Err("tls.crt does not end with a root, and there is no ca.crt: put the root into ca.crt".to_owned()),
        (None, false) => candidates.into_iter().find(|root| leads_to(root)).ok_or_else(|| {
            "tls.crt is not signed by a certificate of ca.crt: it must have the root, or what signed tls.crt".to_owned()
        }),
    }
}

fn signed_by(certificate: &CertificateDer<'_>, by: &CertificateDer<'_>) -> bool {
    match (parsed(certificate), parsed(by)) {
        (Ok(certificate), Ok(by)) => {
            certificate.issuer() == by.subject() && certificate.verify_signature(Some(by.public_key())).is_ok()
        }
        _ => false,
    }
}

/// RFC 5280, section 4.2.1.9: how many authorities may stand below one.
fn path_lengths(chain: &[CertificateDer<'_>], anchor: &CertificateDer<'_>) -> Result<(), String> {
    for (below, der) in chain.iter().chain([anchor]).enumerate() {
        let certificate = parsed(der)?;
        let constraints = certificate.basic_constraints().ok().flatten();
        if let Some(most) = constraints.and_then(|it| it.value.path_len_constraint)
            && usize::try_from(most).is_ok_and(|most| below > most)
        {
            let subject = certificate.subject();
            return Err(format!(
                "`{subject}` allows {most} authorities below it (pathLenConstraint), and in tls.crt there are {below}"
            ));
        }
    }
    Ok(())
}

fn try_out(
    signer: &Signer,
    chain: &[CertificateDer<'static>],
    anchor: &CertificateDer<'static>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| {
        format!(
            "a certificate that is signed with it is not accepted by a proxy: {why}; are there name constraints, or weak keys?"
        )
    };
    let identity = control_plane_identity(trust_domain);
    let KeyRequest { key, csr_der } = KeyRequest::generate().map_err(|error| failed(&error))?;
    let public_key = request::public_key(&csr_der).map_err(|error| failed(&error))?;
    let validity = sign::leaf_validity(now, sign::BACKDATED).clamp(signer.validity).ok_or_else(|| failed(&"it has ended"))?;
    let leaf = signer.leaf(&identity, &public_key, validity).map_err(|error| failed(&error))?;
    let all = std::iter::once(leaf).chain(chain.iter().cloned()).collect();
    let credentials = Credentials::new(all, key).map_err(|error| failed(&error))?;
    let roots = Roots::from_der(trust_domain.clone(), [anchor]).map_err(|error| failed(&error))?;
    roots.verify(&credentials, now).map_err(|error| failed(&error))
}

fn pem(der: &CertificateDer<'_>) -> String {
    let lines = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", der.as_ref()), lines)
}

#[cfg(test)]
mod tests;
