//! Reads the files of a directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tree::Contents;

/// Files that are read at most. More are an accident, a home directory for example.
const MAX_FILES: usize = 10_000;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// How deep directories are followed.
const MAX_DEPTH: usize = 8;

/// All manifests below `root`: files that end in `.yaml`, `.yml` or `.json`, without those whose name begins with a dot (editors
/// and mounted ConfigMaps keep their own things there). Symbolic links are followed.
///
/// # Errors
///
/// When the directory itself cannot be read.
pub fn scan(root: &Path) -> std::io::Result<Contents> {
    let mut walk = Walk { contents: Contents::new(), seen: BTreeSet::new(), full: false };
    walk.directory(root, 0)?;
    if walk.full {
        tracing::error!(root = %root.display(), "the directory has more than {MAX_FILES} manifests; the rest is not read");
    }
    Ok(walk.contents)
}

struct Walk {
    contents: Contents,
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
                Ok(metadata) if metadata.is_file() && is_manifest => self.file(&path),
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) {
        if self.contents.len() >= MAX_FILES {
            self.full = true;
            return;
        }
        let content = match read(path) {
            Ok(content) => Ok(content.into()),
            // Between the listing and now it went away.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => Err(error.to_string()),
        };
        self.contents.insert(Arc::from(path), content);
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(content)
}
