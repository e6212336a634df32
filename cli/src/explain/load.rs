//! The objects that an explanation is made of.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weir_control_plane::index::{Event, Index};
use weir_control_plane::objects::{Decoded, Kind, decode};
use weir_control_plane::source::dir::{scan, tree::Tree};
use weir_control_plane::source::kube::kinds::WATCHED;

use crate::cluster::{Cluster, ContextArgs};

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The API server.
    Cluster,
    /// Manifests below a directory.
    Directory(PathBuf),
}

impl Source {
    /// Reads `--source`.
    ///
    /// # Errors
    ///
    /// What to write instead.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        match text.strip_prefix("dir:") {
            Some(path) if !path.is_empty() => Ok(Self::Directory(path.into())),
            None if text == "kubernetes" => Ok(Self::Cluster),
            _ => Err(format!("--source (WEIR_SOURCE) is {text:?}: write kubernetes, or dir:PATH with a directory of manifests")),
        }
    }
}

/// All objects, as the control plane takes them.
pub(super) struct Loaded {
    /// The objects.
    pub(super) index: Index,
    /// What is wrong with some of them, a line each.
    pub(super) warnings: Vec<String>,
}

/// Reads the manifests of a directory.
///
/// # Errors
///
/// When it cannot be read, or holds none.
pub(super) fn directory(path: &Path) -> Result<Loaded, String> {
    let listing = scan::list(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if listing.is_empty() {
        return Err(format!("there are no manifests (.yaml, .yml, .json) below {}", path.display()));
    }
    let mut index = Index::default();
    let mut warnings = Vec::new();
    if let Some(batch) = Tree::default().update(&scan::read(&listing)) {
        for event in batch.events {
            index.apply(event);
        }
        warnings.extend(batch.diagnostics.iter().map(ToString::to_string));
    }
    Ok(Loaded { index, warnings })
}

/// Reads the objects of a cluster.
///
/// # Errors
///
/// When the cluster cannot be reached, or does not show what is needed.
pub(super) async fn cluster(args: &ContextArgs) -> Result<Loaded, String> {
    let cluster = Cluster::connect(args).await?;
    let mut index = Index::default();
    let mut warnings = Vec::new();
    for watched in &WATCHED {
        // Only policies ask for them, and not everybody may list them.
        if watched.kind == Kind::ConfigMap && index.tls_policies().next().is_none() {
            continue;
        }
        let items = match cluster.list(&watched.path()).await {
            Ok(items) => items,
            Err(failure) if failure.is_not_found() && watched.optional => continue,
            // An API server says so of a kind that it does not have as well, to whoever was not given the right.
            Err(failure) if failure.is_forbidden() && watched.kind == Kind::BackendTrafficPolicy => {
                warnings.push(format!("{}s are left out: {failure}", watched.kind.as_str()));
                continue;
            }
            Err(failure) => {
                let kind = watched.kind.as_str();
                return Err(format!("the {kind}s of the cluster cannot be listed: {failure}; the right to list them is needed"));
            }
        };
        for item in items {
            match decode(&with_kind(item, watched.kind, &watched.api_version())) {
                Decoded::Object(object, _) => {
                    index.apply(Event::Apply(object));
                }
                Decoded::Refused(key, problems) => {
                    let name = key.map(|key| key.to_string()).unwrap_or_default();
                    warnings.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
                }
                Decoded::Unknown { .. } => {}
            }
        }
    }
    Ok(Loaded { index, warnings })
}

/// Items of a list do not say what they are.
fn with_kind(mut item: Value, kind: Kind, api_version: &str) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.insert("apiVersion".to_owned(), json!(api_version));
        fields.insert("kind".to_owned(), json!(kind.as_str()));
    }
    item
}
