//! With a real directory: what editors and mounted ConfigMaps do to files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tokio::sync::mpsc;

use super::watch;
use crate::index::Event;
use crate::source::Batch;

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n---\n")
}

struct Watched {
    dir: tempfile::TempDir,
    batches: mpsc::Receiver<Batch>,
}

impl Watched {
    async fn start(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (sender, batches) = mpsc::channel(1);
        tokio::spawn(watch(dir.path().to_owned(), sender));
        let mut watched = Self { dir, batches };
        watched.batches.recv().await.unwrap();
        watched
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The names that come and go, until `count` events have been seen.
    async fn next(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let batch = self.batches.recv().await.unwrap();
            seen.extend(batch.events.iter().map(|event| match event {
                Event::Apply(object) => format!("+{}", object.key().name),
                Event::Delete(key) => format!("-{}", key.name),
            }));
        }
        seen
    }
}

#[tokio::test]
async fn edits_new_files_and_deletions_are_seen() {
    let mut watched = Watched::start(|dir| fs::write(dir.join("a.yaml"), service("a")).unwrap()).await;
    fs::write(watched.path("b.yaml"), service("b")).unwrap();
    assert_eq!(watched.next(1).await, ["+b"]);
    fs::write(watched.path("a.yaml"), service("a") + &service("a2")).unwrap();
    assert_eq!(watched.next(1).await, ["+a2"]);
    fs::remove_file(watched.path("b.yaml")).unwrap();
    assert_eq!(watched.next(1).await, ["-b"]);
    fs::create_dir(watched.path("deep")).unwrap();
    fs::write(watched.path("deep/c.yml"), service("c")).unwrap();
    assert_eq!(watched.next(1).await, ["+c"]);
    // What is not a manifest, or hidden, is nobody's business.
    fs::write(watched.path("notes.txt"), "kind: x").unwrap();
    fs::write(watched.path(".a.yaml.swp"), service("hidden")).unwrap();
    fs::write(watched.path("d.yaml"), service("d")).unwrap();
    assert_eq!(watched.next(1).await, ["+d"]);
}

#[tokio::test]
async fn an_editor_that_renames_takes_nothing_away() {
    let mut watched = Watched::start(|dir| fs::write(dir.join("a.yaml"), service("a") + &service("b")).unwrap()).await;
    // As vim does: the old file is moved away, the new one written in its place.
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).unwrap();
    fs::write(watched.path("a.yaml"), "").unwrap();
    fs::write(watched.path("a.yaml"), service("a") + &service("c")).unwrap();
    fs::remove_file(watched.path("a.yaml~")).unwrap();
    assert_eq!(watched.next(2).await, ["-b", "+c"]);
    // As many others do: the new file is written beside it and renamed over it.
    fs::write(watched.path(".a.yaml.tmp"), service("a") + &service("d")).unwrap();
    fs::rename(watched.path(".a.yaml.tmp"), watched.path("a.yaml")).unwrap();
    assert_eq!(watched.next(2).await, ["-c", "+d"]);
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let mut watched = Watched::start(|dir| {
        fs::create_dir(dir.join("..1")).unwrap();
        fs::write(dir.join("..1/a.yaml"), service("a")).unwrap();
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    })
    .await;
    // As the kubelet does: a new directory, and the link swapped over to it.
    fs::create_dir(watched.path("..2")).unwrap();
    fs::write(watched.path("..2/a.yaml"), service("b")).unwrap();
    symlink("..2", watched.path("..data_tmp")).unwrap();
    fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
    fs::remove_dir_all(watched.path("..1")).unwrap();
    assert_eq!(watched.next(2).await, ["-a", "+b"]);
}

#[tokio::test]
async fn links_in_a_circle_end() {
    let mut watched = Watched::start(|dir| {
        symlink(".", dir.join("again")).unwrap();
        fs::write(dir.join("a.yaml"), service("a")).unwrap();
    })
    .await;
    fs::write(watched.path("a.yaml"), service("b")).unwrap();
    assert_eq!(watched.next(2).await, ["-a", "+b"]);
}
