//! Files that are replaced whole and read with distrust.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

pub(super) const SNAPSHOT: &str = "snapshot";
pub(super) const CERTIFICATE: &str = "certificate.pem";
pub(super) const ROOTS: &str = "roots.pem";

/// The first line of a snapshot. Another number is another format, which this version does not read.
const HEADER: &[u8] = b"weir-snapshot 1\n";
/// No file of ours comes near this; a larger one is not read into memory.
const MAX_FILE: u64 = 256 << 20;

/// Why a saved file is ignored.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damaged(pub(super) String);

/// Makes the directory of one pod, which nobody else can look into.
pub(super) fn prepare(state_dir: &Path, own: &str) -> io::Result<PathBuf> {
    let directory = state_dir.join(own);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    // It may have been there before. Only its owner can do this, so it also finds out a directory that is somebody else's.
    fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
    Ok(directory)
}

/// A file's bytes. `None`: there is none.
pub(super) fn read(path: &Path) -> Option<Result<Vec<u8>, Damaged>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(Damaged(error.to_string()))),
    };
    let mut bytes = Vec::new();
    Some(match file.take(MAX_FILE + 1).read_to_end(&mut bytes) {
        Ok(length) if length as u64 > MAX_FILE => Err(Damaged(format!("it is larger than {MAX_FILE} bytes"))),
        Ok(_) => Ok(bytes),
        Err(error) => Err(Damaged(error.to_string())),
    })
}

/// Replaces files, each whole.
pub(super) fn write_all(directory: &Path, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    files.iter().try_for_each(|(name, bytes)| replace(directory, name, bytes))
}

fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = directory.join(format!(".{name}.new"));
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, directory.join(name))
}

/// The body with its header.
pub(super) fn with_checksum(body: &[u8]) -> Vec<u8> {
    [HEADER, digest(&SHA256, body).as_ref(), body].concat()
}

/// The body, if it is what was written.
pub(super) fn checked(bytes: &[u8]) -> Result<&[u8], Damaged> {
    let rest = bytes.strip_prefix(HEADER).ok_or_else(|| Damaged("it is not a snapshot of this version's format".into()))?;
    let (sum, body) = rest.split_at_checked(SHA256_OUTPUT_LEN).ok_or_else(|| Damaged("it is cut off".into()))?;
    if digest(&SHA256, body).as_ref() == sum {
        Ok(body)
    } else {
        Err(Damaged("its checksum is wrong; it was cut off or changed".into()))
    }
}
