//! The authority's directory.
//!
//! `authority.json` is the whole of it, keys included (mode 0600, in a directory of mode 0700), and `ca.crt` every trusted root,
//! which proxies are given. Files are written under another name and renamed, so nobody ever reads half of one. Whoever writes
//! `rotate` asks for another root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use weir_core::names::TrustDomain;

use super::document::{Document, Line, MAX_DOCUMENT};
use super::{AuthorityError, Standing, given};

const STATE: &str = "authority.json";
const ROOTS: &str = "ca.crt";
/// What the first versions wrote instead of [`STATE`], beside [`ROOTS`].
const OLD_ROOT_KEY: &str = "ca.key";
const OLD_ISSUER: &str = "issuer.crt";
const OLD_ISSUER_KEY: &str = "issuer.key";
/// Its presence, and each new time of writing, asks for another root.
const ASK: &str = "rotate";
/// Held while the directory is looked at and written, against another control plane with the same directory.
const LOCK: &str = ".lock";

/// The directory, while nobody else has it.
#[derive(Debug)]
pub struct Held<'a> {
    dir: &'a Path,
    /// Given back when it is closed.
    _lock: File,
}

/// Reads the authority in `dir`; makes one if there is none.
///
/// # Errors
///
/// When files are missing, cannot be read, do not belong together, or are of another trust domain.
pub fn open(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Document, AuthorityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make the directory", dir))?;
    let held = Held::hold(dir)?;
    let document = match held.read(trust_domain)? {
        Some(document) => document,
        None => held.first(trust_domain, now)?,
    };
    // Cut short between the two files, or by hand.
    let bundle = document.bundle_pem();
    if fs::read_to_string(dir.join(ROOTS)).ok().as_deref() != Some(&bundle) {
        write(dir, ROOTS, &bundle, 0o644)?;
    }
    warn_about_readable_keys(dir);
    Ok(document)
}

impl<'a> Held<'a> {
    /// Waits until nobody else has the directory.
    ///
    /// # Errors
    ///
    /// When it cannot be locked.
    pub fn hold(dir: &'a Path) -> Result<Self, AuthorityError> {
        let path = dir.join(LOCK);
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io("open", &path))?;
        lock.lock().map_err(io("lock", &path))?;
        Ok(Self { dir, _lock: lock })
    }

    /// What is written down, if anything is.
    ///
    /// # Errors
    ///
    /// When it cannot be read or used.
    pub fn read(&self, trust_domain: &TrustDomain) -> Result<Option<Document>, AuthorityError> {
        let path = self.dir.join(STATE);
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", &path)(error)),
            Ok(metadata) if metadata.len() > MAX_DOCUMENT as u64 => {
                return Err(unusable(&path, format!("it has more than {MAX_DOCUMENT} bytes")));
            }
            Ok(_) => fs::read(&path).map_err(io("read", &path))?,
        };
        let document = Document::from_json(&text, trust_domain).and_then(|it| Standing::new(&it).map(|_| it));
        document.map(Some).map_err(|error| unusable(&path, error.to_string()))
    }

    /// Writes it down.
    ///
    /// # Errors
    ///
    /// When it cannot be written; then what was written before is still there.
    pub fn write(&self, document: &Document, trust_domain: &TrustDomain) -> Result<(), AuthorityError> {
        write(self.dir, STATE, &document.to_json(trust_domain)?, 0o600)?;
        // Last, because others wait for it to appear.
        write(self.dir, ROOTS, &document.bundle_pem(), 0o644)
    }

    /// What somebody asks for, if anybody does: another text each time.
    #[must_use]
    pub fn asked(&self) -> Option<String> {
        let written = fs::metadata(self.dir.join(ASK)).and_then(|metadata| metadata.modified()).ok()?;
        Some(written.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos().to_string())
    }

    fn first(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Document, AuthorityError> {
        let old = [ROOTS, OLD_ROOT_KEY, OLD_ISSUER, OLD_ISSUER_KEY];
        let (present, missing): (Vec<&str>, Vec<&str>) = old.iter().partition(|name| self.dir.join(name).exists());
        let mut document = if present.is_empty() {
            fs::set_permissions(self.dir, fs::Permissions::from_mode(0o700)).map_err(io("set the mode of", self.dir))?;
            let dir = self.dir.display();
            tracing::info!(%dir, %trust_domain, "made a new certificate authority; proxies are given its ca.crt");
            Document::make(trust_domain, now)?
        } else if missing.is_empty() {
            self.old(trust_domain, now)?
        } else {
            let (present, missing) = (present.join(", "), format!("{STATE} (or {})", missing.join(", ")));
            return Err(AuthorityError::HalfWritten { dir: self.dir.to_owned(), present, missing });
        };
        document.asked = self.asked().unwrap_or_default();
        self.write(&document, trust_domain)?;
        Ok(document)
    }

    /// Reads the four files of the first versions.
    fn old(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Document, AuthorityError> {
        let text = |name: &str| {
            let path = self.dir.join(name);
            fs::read(&path).map_err(io("read", &path))
        };
        let (roots, root_key, issuer, issuer_key) = (text(ROOTS)?, text(OLD_ROOT_KEY)?, text(OLD_ISSUER)?, text(OLD_ISSUER_KEY)?);
        let path = self.dir.join(ROOTS);
        let root = given::Entries { certificate: &roots, key: &root_key, root: None };
        let root = given::line(root, trust_domain, now).map_err(|reason| unusable(&path, reason))?;
        let path = self.dir.join(OLD_ISSUER);
        let below = given::Entries { certificate: &issuer, key: &issuer_key, root: Some(root.anchor.as_bytes()) };
        let below = given::line(below, trust_domain, now).map_err(|reason| unusable(&path, reason))?;
        tracing::info!(
            dir = %self.dir.display(),
            "took over the authority of {OLD_ROOT_KEY}, {OLD_ISSUER} and {OLD_ISSUER_KEY} into {STATE}; they are not read any more"
        );
        Ok(Document::of(Line { given: false, anchor_key: Some(root.key), ..below }, now))
    }
}

fn warn_about_readable_keys(dir: &Path) {
    for name in [STATE, OLD_ROOT_KEY, OLD_ISSUER_KEY] {
        let path = dir.join(name);
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.permissions().mode() & 0o077 != 0
        {
            let mode = format!("{:o}", metadata.permissions().mode() & 0o777);
            tracing::warn!(path = %path.display(), mode, "others may read the keys in this file and become anybody in the mesh: chmod 600 it");
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
