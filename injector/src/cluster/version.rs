//! Which version of Kubernetes pods run on, and so how a sidecar may stand in them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, header};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::{CALL_TIMEOUT, ClusterError, call};
use crate::installation::{Installation, KubernetesVersion};

/// Upgrades of a cluster take longer, and nodes that join are of the API server's version or older by rules.
const REFRESH: Duration = Duration::from_secs(300);
/// When the first answer fails: nothing can be decided without it.
const RETRY: Duration = Duration::from_secs(2);
/// Nodes in one answer.
const PAGE: u32 = 500;
/// Five thousand nodes are the most that Kubernetes is made for.
const MAX_PAGES: usize = 40;
/// Kubelets may be this many minor versions behind the API server (Kubernetes' version skew policy). What says to be older is no
/// kubelet, but a virtual node that calls itself something.
const MAX_SKEW: u16 = 3;
/// Only what `kubectl get nodes` prints: the objects have lists of all images.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// The oldest version that a pod may meet.
#[must_use]
pub fn oldest<'a>(api_server: KubernetesVersion, kubelets: impl Iterator<Item = &'a str>) -> KubernetesVersion {
    let supported = |version: &KubernetesVersion| {
        version.major == api_server.major && version.minor.saturating_add(MAX_SKEW) >= api_server.minor
    };
    kubelets.filter_map(|text| text.parse().ok()).filter(supported).fold(api_server, KubernetesVersion::min)
}

/// Keeps the version in `installation` up to date, and says when it is known. Never ends.
pub fn follow(client: Client, installation: Arc<ArcSwap<Installation>>, known: watch::Sender<bool>) -> impl Future<Output = ()> {
    let mut asked_nodes = true;
    async move {
        loop {
            match ask(&client, &mut asked_nodes).await {
                Ok(version) => {
                    adopt(version, &installation);
                    known.send_replace(true);
                }
                Err(error) => tracing::warn!("{error}; trying again"),
            }
            tokio::time::sleep(if *known.borrow() { REFRESH } else { RETRY }).await;
        }
    }
}

fn adopt(version: KubernetesVersion, installation: &ArcSwap<Installation>) {
    let current = installation.load();
    if current.kubernetes != version {
        installation.store(Arc::new(Installation { kubernetes: version, ..Installation::clone(&current) }));
        let placement = version.placement();
        tracing::info!(kubernetes = %version, sidecars = placement.as_str(), "pods are made for this version");
    }
}

async fn ask(client: &Client, may_ask_nodes: &mut bool) -> Result<KubernetesVersion, ClusterError> {
    let what = "cannot read the version of the API server";
    let info = call(what, CALL_TIMEOUT, client.apiserver_version()).await?;
    let version = info.git_version.parse::<KubernetesVersion>();
    let api_server = version.map_err(|error| ClusterError::Call { what: what.to_owned(), reason: error.to_string() })?;
    if !*may_ask_nodes {
        return Ok(api_server);
    }
    match kubelets(client).await {
        Ok(kubelets) => Ok(oldest(api_server, kubelets.iter().map(String::as_str))),
        // A right that may be withheld; it is not asked for again.
        Err(error @ ClusterError::Forbidden { .. }) => {
            *may_ask_nodes = false;
            tracing::info!("{error} The version of the API server counts alone: have no nodes below 1.29 with a newer one");
            Ok(api_server)
        }
        Err(error) => Err(error),
    }
}

/// What a list of nodes looks like as a table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    #[serde(default)]
    metadata: Page,
    #[serde(default)]
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Option<Vec<Row>>,
}

#[derive(Debug, Default, Deserialize)]
struct Page {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Column {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Row {
    #[serde(default)]
    cells: Vec<Value>,
}

async fn kubelets(client: &Client) -> Result<Vec<String>, ClusterError> {
    let what = "cannot list nodes";
    let mut versions = Vec::new();
    let mut token = String::new();
    for _ in 0..MAX_PAGES {
        let uri = format!(
            "/api/v1/nodes?limit={PAGE}&includeObject=None{}",
            if token.is_empty() { String::new() } else { format!("&continue={token}") }
        );
        let request = Request::get(uri).header(header::ACCEPT, TABLE).body(Vec::new());
        let request = request.map_err(|error| ClusterError::Call { what: what.to_owned(), reason: error.to_string() })?;
        let table: Table = call(what, CALL_TIMEOUT, client.request(request)).await?;
        versions.extend(table_versions(&table));
        match table.metadata.next.filter(|next| !next.is_empty()) {
            // Base64 without padding for URLs; anything else is not put into a URL.
            Some(next) if next.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')) => {
                token = next
            }
            _ => break,
        }
    }
    Ok(versions)
}

fn table_versions(table: &Table) -> Vec<String> {
    let Some(column) = table.column_definitions.iter().position(|column| column.name == "Version") else { return Vec::new() };
    let rows = table.rows.iter().flatten();
    rows.filter_map(|row| row.cells.get(column)?.as_str()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_kubelet_counts() {
        let version = |text: &str| text.parse::<KubernetesVersion>().unwrap();
        for (api_server, kubelets, expected) in [
            ("1.31", vec![], "1.31"),
            ("v1.31.2", vec!["v1.31.2", "v1.29.9-eks-1"], "1.29"),
            ("1.30", vec!["v1.28.15", "v1.30.0"], "1.28"),
            ("1.29", vec!["v1.30.1"], "1.29"),
            ("1.34", vec!["v1.19.10-vk-azure-aci-1.4", "unknown", ""], "1.34"),
            ("1.34", vec!["v1.31.0", "v1.30.9"], "1.31"),
        ] {
            assert_eq!(oldest(version(api_server), kubelets.iter().copied()), version(expected), "{api_server} {kubelets:?}");
        }
    }

    async fn asked(server: &crate::testing::Server, may_ask_nodes: &mut bool) -> Result<String, String> {
        ask(&server.client(), may_ask_nodes).await.map(|version| version.to_string()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn nodes_are_asked_where_that_is_allowed() {
        let server = crate::testing::Server::default();
        let mut may_ask_nodes = true;
        assert!(asked(&server, &mut may_ask_nodes).await.is_err_and(|error| error.contains("the version of the API server")));
        let info = json!({
            "major": "1", "minor": "31+", "gitVersion": "v1.31.2-eks-7", "buildDate": "", "compiler": "", "gitCommit": "",
            "gitTreeState": "", "goVersion": "", "platform": "",
        });
        server.put("/version", info);
        let nodes = json!({"columnDefinitions": [{"name": "Version"}], "rows": [{"cells": ["v1.28.9"]}, {"cells": ["v1.31.0"]}]});
        server.put("/api/v1/nodes", nodes);
        assert_eq!(asked(&server, &mut may_ask_nodes).await, Ok("1.28".into()));
        // Anything but a right that is missing may pass, and is no reason to believe that all nodes are new.
        server.fail("/api/v1/nodes", 500);
        assert!(asked(&server, &mut may_ask_nodes).await.is_err());
        server.fail("/api/v1/nodes", 403);
        assert_eq!(asked(&server, &mut may_ask_nodes).await, Ok("1.31".into()));
        assert!(!may_ask_nodes);
        server.calls();
        assert_eq!(asked(&server, &mut may_ask_nodes).await, Ok("1.31".into()));
        assert_eq!(server.calls(), ["GET /version"]);
    }

    #[test]
    fn versions_are_found_by_the_columns_name() {
        let table = json!({
            "kind": "Table",
            "metadata": {"resourceVersion": "7"},
            "columnDefinitions": [{"name": "Name"}, {"name": "Version"}],
            "rows": [{"cells": ["a", "v1.30.1"]}, {"cells": ["b"]}, {"cells": ["c", 7]}, {"cells": ["d", "v1.29.0"]}],
        });
        let table: Table = serde_json::from_value(table).unwrap();
        assert_eq!(table_versions(&table), ["v1.30.1", "v1.29.0"]);
        let none: Table = serde_json::from_value(json!({"rows": null})).unwrap();
        assert!(table_versions(&none).is_empty());
    }
}
