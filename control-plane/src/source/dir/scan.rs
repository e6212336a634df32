//! Reads the files of a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tree::Contents;

/// Files that are read at most. More are an accident, a home directory for example.
const MAX_FILES: usize = 10_000;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// How deep directories are followed.
const MAX_DEPTH: usize = 8;

/// The manifests of a directory, with what shows that one has changed.
pub type Listing = BTreeMap<Arc<Path>, Stamp>;

/// What the file system says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    len: u64,
    inode: u64,
    changed: (i64, i64),
}

/// All manifests below `root`: files that end in `.yaml`, `.yml` or `.json`, without those whose name begins with a dot (editors
/// and mounted ConfigMaps keep their own things there). Symbolic links are followed.
///
/// # Errors
///
/// When the directory itself cannot be read.
pub fn list(root: &Path) -> std::io::Result<Listing> {
    let mut walk = Walk { listing: Listing::new(), seen: BTreeSet::new(), full: false };
    walk.directory(root, 0)?;
    if walk.full {
        tracing::error!(root = %root.display(), "the directory has more than {MAX_FILES} manifests; the rest is not read");
    }
    Ok(walk.listing)
}

/// What stands in them.
#[must_use]
pub fn read(listing: &Listing) -> Contents {
    let mut contents = Contents::new();
    for path in listing.keys() {
        let content = match read_file(path) {
            Ok(content) => Ok(content.into()),
            // Between the listing and now it went away.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => Err(error.to_string()),
        };
        contents.insert(Arc::clone(path), content);
    }
    contents
}

struct Walk {
    listing: Listing,
    /// Directories that were entered: links may go round in circles.
    seen: BTreeSet<PathBuf>,
    full: bool,
}

impl Walk {
    fn directory(&mut self, dir: &Path, depth: usize) -> std::io::Result<()> {
        if depth > MAX_DEPTH || !self.seen.insert(fs::canonicalize(dir)?) {
            return Ok(());
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.is_empty() || name.starts_with('.') {
                continue;
            }
            let is_manifest = matches!(path.extension().and_then(|it| it.to_str()), Some("yaml" | "yml" | "json"));
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if let Err(error) = self.directory(&path, depth + 1) {
                        tracing::warn!(path = %path.display(), %error, "cannot read a directory");
                    }
                }
                Ok(metadata) if metadata.is_file() && is_manifest => self.file(path, &metadata),
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf, metadata: &fs::Metadata) {
        if self.listing.len() >= MAX_FILES {
            self.full = true;
            return;
        }
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        self.listing.insert(path.into(), Stamp { len: metadata.len(), inode: metadata.ino(), changed });
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(content)
}
