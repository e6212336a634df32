//! The authority's directory.
//!
//! `ca.crt` (every trusted root, what proxies are given), `ca.key`, `issuer.crt`, `issuer.key`. Keys have mode 0600 and the
//! directory 0700. Files are written under another name and renamed, so nobody ever reads half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use weir_core::names::TrustDomain;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::AuthorityError;
use super::sign::{self, Made, Signer};

const ROOT_CERTIFICATE: &str = "ca.crt";
const ROOT_KEY: &str = "ca.key";
const ISSUER_CERTIFICATE: &str = "issuer.crt";
const ISSUER_KEY: &str = "issuer.key";
const ALL: [&str; 4] = [ROOT_CERTIFICATE, ROOT_KEY, ISSUER_CERTIFICATE, ISSUER_KEY];
/// A new issuer, key and certificate in one file, until both are in their places: a crash between the two loses nothing.
const NEXT_ISSUER: &str = "issuer.next";
/// Held while the directory is looked at and written, against a second control plane that starts at the same time.
const LOCK: &str = ".lock";

/// What a directory holds.
#[derive(Debug)]
pub struct Opened {
    /// Every trusted root.
    pub roots: Vec<CertificateDer<'static>>,
    /// The root whose key is here.
    pub root: Signer,
    /// The issuer.
    pub issuer: Signer,
}

/// Reads the authority in `dir`; makes one if there is none.
///
/// # Errors
///
/// When files are missing, cannot be read, do not belong together, or are of another trust domain.
pub fn open(dir: &Path, trust_domain: &TrustDomain) -> Result<Opened, AuthorityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make the directory", dir))?;
    let lock = dir.join(LOCK);
    let held = OpenOptions::new().create(true).append(true).mode(0o600).open(&lock).map_err(io("open", &lock))?;
    held.lock().map_err(io("lock", &lock))?;
    let (present, missing): (Vec<&str>, Vec<&str>) = ALL.iter().partition(|name| dir.join(name).exists());
    if present.is_empty() {
        make(dir, trust_domain)?;
    } else if !missing.is_empty() {
        let (present, missing) = (present.join(", "), missing.join(", "));
        return Err(AuthorityError::HalfWritten { dir: dir.to_owned(), present, missing });
    }
    finish_renewal(dir)?;
    warn_about_readable_keys(dir);
    read(dir, trust_domain)
}

fn make(dir: &Path, trust_domain: &TrustDomain) -> Result<(), AuthorityError> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io("set the mode of", dir))?;
    let now = SystemTime::now();
    let root = sign::root(trust_domain, now)?;
    let issuer = root.signer.issuer(trust_domain, now)?;
    write(dir, ROOT_KEY, &root.key_pem, 0o600)?;
    write(dir, ISSUER_KEY, &issuer.key_pem, 0o600)?;
    write(dir, ISSUER_CERTIFICATE, &issuer.certificate_pem, 0o644)?;
    // Last, because others wait for it to appear.
    write(dir, ROOT_CERTIFICATE, &root.certificate_pem, 0o644)?;
    tracing::info!(dir = %dir.display(), %trust_domain, "made a new certificate authority; proxies are given its ca.crt");
    Ok(())
}

/// Keeps a new issuer.
///
/// # Errors
///
/// When it cannot be written; then the one before is still in its place.
pub fn replace_issuer(dir: &Path, issuer: &Made) -> Result<(), AuthorityError> {
    write(dir, NEXT_ISSUER, &format!("{}{}", issuer.key_pem, issuer.certificate_pem), 0o600)?;
    finish_renewal(dir)
}

fn finish_renewal(dir: &Path) -> Result<(), AuthorityError> {
    let path = dir.join(NEXT_ISSUER);
    let both = match fs::read_to_string(&path) {
        Ok(both) => both,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("read", &path)(error)),
    };
    let begin = both.find("-----BEGIN CERTIFICATE");
    let (key, certificate) = both.split_at(begin.ok_or_else(|| unusable(&path, "it has no certificate; remove it"))?);
    write(dir, ISSUER_KEY, key, 0o600)?;
    write(dir, ISSUER_CERTIFICATE, certificate, 0o644)?;
    fs::remove_file(&path).map_err(io("remove", &path))
}

fn read(dir: &Path, trust_domain: &TrustDomain) -> Result<Opened, AuthorityError> {
    let path = dir.join(ROOT_CERTIFICATE);
    let roots = certificates(&path)?;
    for root in &roots {
        check_trust_domain(&path, root, trust_domain)?;
    }
    let key_path = dir.join(ROOT_KEY);
    let root_key = key(&key_path)?;
    let matching = roots.iter().find(|root| belongs(root, &root_key)).cloned();
    let matching = matching.ok_or_else(|| unusable(&key_path, "it is not the key of any certificate in ca.crt"))?;
    let root = Signer::new(matching, root_key).map_err(|reason| unusable(&path, reason))?;

    let path = dir.join(ISSUER_CERTIFICATE);
    let certificate = certificates(&path)?.into_iter().next().ok_or_else(|| unusable(&path, "it has no certificate"))?;
    let issuer = Signer::new(certificate, key(&dir.join(ISSUER_KEY))?);
    let issuer = issuer.map_err(|reason| unusable(&path, reason))?;
    if !signed_by(&issuer.certificate, &root.certificate) {
        return Err(unusable(&path, "it is not signed by the root whose key is ca.key"));
    }
    Ok(Opened { roots, root, issuer })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let pem = fs::read(path).map_err(io("read", path))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| unusable(path, format!("it is not PEM: {error}")))?;
    if all.is_empty() { Err(unusable(path, "it has no certificate")) } else { Ok(all) }
}

fn key(path: &Path) -> Result<KeyPair, AuthorityError> {
    let pem = fs::read_to_string(path).map_err(io("read", path))?;
    KeyPair::from_pem(&pem).map_err(|error| unusable(path, format!("it is no private key in PEM (PKCS #8): {error}")))
}

fn belongs(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    use rcgen::PublicKeyData;
    X509Certificate::from_der(certificate).is_ok_and(|(_, it)| it.public_key().raw == key.subject_public_key_info())
}

fn signed_by(certificate: &CertificateDer<'_>, root: &CertificateDer<'_>) -> bool {
    match (X509Certificate::from_der(certificate), X509Certificate::from_der(root)) {
        (Ok((_, certificate)), Ok((_, root))) => certificate.verify_signature(Some(root.public_key())).is_ok(),
        _ => false,
    }
}

/// An authority that says whom it signs for must sign for this trust domain. One that somebody else made may say nothing.
fn check_trust_domain(path: &Path, root: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Result<(), AuthorityError> {
    let (_, parsed) =
        X509Certificate::from_der(root).map_err(|error| unusable(path, format!("it is no certificate: {error}")))?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let said = names.iter().flat_map(|it| &it.value.general_names).find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
        _ => None,
    });
    match said {
        Some(said) if said != trust_domain.as_str() => {
            let fix = "start with that --trust-domain, or with another --ca-dir";
            Err(unusable(path, format!("it is of the trust domain `{said}`, and --trust-domain says `{trust_domain}`: {fix}")))
        }
        _ => Ok(()),
    }
}

fn warn_about_readable_keys(dir: &Path) {
    for name in [ROOT_KEY, ISSUER_KEY] {
        let path = dir.join(name);
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.permissions().mode() & 0o077 != 0
        {
            let mode = format!("{:o}", metadata.permissions().mode() & 0o777);
            tracing::warn!(path = %path.display(), mode, "others may read this key and become anybody in the mesh: chmod 600 it");
        }
    }
}

fn write(dir: &Path, name: &str, content: &str, mode: u32) -> Result<(), AuthorityError> {
    let (path, new) = (dir.join(name), dir.join(format!(".new-{name}")));
    // One that a crash left behind may have another mode.
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    let mut file = file.map_err(io("write", &new))?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &new))?;
    fs::rename(&new, &path).map_err(io("write", &path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("write", dir))
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io { what, path, source }
}

fn unusable(path: &Path, reason: impl Into<String>) -> AuthorityError {
    AuthorityError::Unusable { path: path.to_owned(), reason: reason.into() }
}
