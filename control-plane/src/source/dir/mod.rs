//! A directory of manifests.
//!
//! [`scan`] reads the files, [`tree`] says what they mean together, [`yaml`] knows where in them everything stands. This file
//! decides when to look: shortly after the system says that something happened, and every few seconds in case it did not say so.

pub mod scan;
pub mod tree;
#[cfg(test)]
mod tree_tests;
#[cfg(test)]
mod watch_tests;
pub mod yaml;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use self::scan::Listing;
use self::tree::{Contents, Tree};
use crate::source::Batch;

/// After something happened, wait until nothing has happened for this long: editors write, truncate and rename in bursts.
const QUIET: Duration = Duration::from_millis(50);
/// But look after this long, even if it goes on and on.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// A file that is suddenly gone or empty is looked at again after this long before that is believed: it may be in the middle of
/// being replaced.
const SECOND_LOOK: Duration = Duration::from_millis(100);
/// Look this often although nothing was heard: files behind symbolic links and on some file systems change silently.
const RESCAN: Duration = Duration::from_secs(2);

/// A directory that cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the directory {path} (--source): {source}")]
pub struct SourceError {
    path: PathBuf,
    source: std::io::Error,
}

/// Watches a directory and sends batches, the first one when all files have been read. Ends when nobody receives any more.
///
/// # Errors
///
/// When the directory cannot be read at the start. Later such failures are logged, and what was read before counts.
pub async fn watch(root: PathBuf, batches: mpsc::Sender<Batch>) -> Result<(), SourceError> {
    let heard = Arc::new(Notify::new());
    let _watcher = listen(&root, Arc::clone(&heard));
    let mut tree = Tree::default();
    let mut seen = scan(&root).await.map_err(|source| SourceError { path: root.clone(), source })?;
    // An empty directory is worth a batch too: everything has been read.
    let first = tree.update(&seen.contents).unwrap_or_else(|| Batch {
        events: Vec::new(),
        diagnostics: Vec::new(),
        locate: Arc::new(|_, _| None),
        judged: Vec::new(),
    });
    if batches.send(first).await.is_err() {
        return Ok(());
    }
    loop {
        let looked = tokio::select! {
            () = settled(&heard) => look(&root, &seen).await.map(Some),
            () = tokio::time::sleep(RESCAN) => look_if_stamped(&root, &seen).await,
            () = batches.closed() => return Ok(()),
        };
        match looked {
            Ok(Some(now)) => seen = now,
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(root = %root.display(), %error, "cannot read the directory; what was read before still counts");
                continue;
            }
        }
        if let Some(batch) = tree.update(&seen.contents)
            && batches.send(batch).await.is_err()
        {
            return Ok(());
        }
    }
}

/// The directory at one time.
struct Seen {
    listing: Listing,
    contents: Contents,
}

/// Without a watcher (the system allows only so many) the regular look has to do.
fn listen(root: &Path, heard: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event as well, and must not cause the next reading.
        if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
            heard.notify_one();
        }
    });
    let watching = watcher.and_then(|mut watcher| watcher.watch(root, RecursiveMode::Recursive).map(|()| watcher));
    watching
        .inspect_err(
            |error| tracing::warn!(root = %root.display(), %error, "cannot watch the directory; looking every {RESCAN:?}"),
        )
        .ok()
}

/// When something was heard and then nothing for a while.
async fn settled(heard: &Notify) {
    heard.notified().await;
    let latest = Instant::now() + MAX_WAIT;
    while tokio::time::timeout_at((Instant::now() + QUIET).min(latest), heard.notified()).await.is_ok() {
        if Instant::now() >= latest {
            return;
        }
    }
}

/// Reads the directory if the file system says that a file is another one now.
async fn look_if_stamped(root: &Path, before: &Seen) -> std::io::Result<Option<Seen>> {
    let path = root.to_owned();
    let listing = blocking(move || scan::list(&path)).await?;
    if listing == before.listing { Ok(None) } else { look(root, before).await.map(Some) }
}

/// Reads the directory, twice if files seem to have gone.
async fn look(root: &Path, before: &Seen) -> std::io::Result<Seen> {
    let now = scan(root).await?;
    if lost(&before.contents, &now.contents).is_empty() {
        return Ok(now);
    }
    tokio::time::sleep(SECOND_LOOK).await;
    scan(root).await
}

/// Files that had something in them and are now gone or empty.
fn lost(before: &Contents, now: &Contents) -> BTreeSet<Arc<Path>> {
    let has_content = |contents: &Contents, path: &Arc<Path>| match contents.get(path) {
        Some(Ok(content)) => !content.is_empty(),
        Some(Err(_)) => true,
        None => false,
    };
    before.keys().filter(|path| has_content(before, path) && !has_content(now, path)).cloned().collect()
}

async fn scan(root: &Path) -> std::io::Result<Seen> {
    let root = root.to_owned();
    blocking(move || {
        let listing = scan::list(&root)?;
        let contents = scan::read(&listing);
        Ok(Seen { listing, contents })
    })
    .await
}

/// Reading files must not stop the thread that serves proxies.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
