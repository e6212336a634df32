//! Connects to the API server.

use std::path::Path;
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::failure::plain_words;

/// How long the API server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to begin an answer. A list of everything is made before it begins; a watch begins at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection on which nothing comes is asked this often whether the other side is still there. Watches are silent for
/// minutes, and a node that went away without a word must not look like one on which nothing happens.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Unanswered questions of that kind after which the connection counts as dead.
const KEEPALIVE_PROBES: u32 = 3;
/// The same for bytes of ours that are not acknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Why the API server cannot be spoken to. That it does not answer at the moment is not among them.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nothing that says where the API server is.
    #[error(
        "--source kubernetes: there is no API server to speak to. In a Pod, its service account tells ({in_cluster}): is \
         automountServiceAccountToken false? Elsewhere, give a kubeconfig with --kubeconfig or KUBECONFIG ({kubeconfig})"
    )]
    Nowhere {
        /// Why the Pod's service account does not tell.
        in_cluster: String,
        /// Why there is no kubeconfig.
        kubeconfig: String,
    },
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {path} cannot be used: {reason}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// What was found cannot be used.
    #[error("cannot set up the connection to the API server at {server}: {reason}")]
    Setup {
        /// Its address.
        server: String,
        /// Why.
        reason: String,
    },
}

/// A client for the API server that a kubeconfig names, or else the Pod's service account, or else the usual kubeconfig.
/// Nothing is sent yet, so it does not matter whether the API server is there at the moment.
///
/// # Errors
///
/// When nothing says where it is, or what is said cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let config = match kubeconfig {
        Some(path) => named(path).await?,
        None => found().await?,
    };
    let server = config.cluster_url.to_string();
    client(config).map_err(|error| ClientError::Setup { server, reason: plain_words(&error) })
}

async fn named(path: &Path) -> Result<Config, ClientError> {
    let wrong = |error: kube::config::KubeconfigError| ClientError::Kubeconfig {
        path: path.display().to_string(),
        reason: plain_words(&error),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// The service account comes first: a Pod that has one and a kubeconfig in its image means the cluster that it runs in.
async fn found() -> Result<Config, ClientError> {
    let in_cluster = match Config::incluster() {
        Ok(config) => return Ok(config),
        Err(error) => plain_words(&error),
    };
    Config::from_kubeconfig(&KubeConfigOptions::default())
        .await
        .map_err(|error| ClientError::Nowhere { in_cluster, kubeconfig: plain_words(&error) })
}

/// The layers of kube's own client without the one that logs every failure as an error (whoever asked says it once, in words),
/// and with bounds on silence.
fn client(config: Config) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let https = config.rustls_https_connector_with_connector(tcp)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(https);
    let layers = ServiceBuilder::new()
        .map_err(BoxError::from)
        .timeout(ANSWER_TIMEOUT)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from);
    Ok(Client::new(layers.service(http), config.default_namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let error = connect(Some(Path::new("/does/not/exist"))).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("--kubeconfig /does/not/exist cannot be used: "), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_kubeconfig_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n\
                    clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: a, user: {token: t}}]\n";
        std::fs::write(&path, text).unwrap();
        let client = connect(Some(&path)).await.unwrap();
        let failure = super::super::Failure::of(&client.apiserver_version().await.unwrap_err());
        assert!(matches!(&failure, super::super::Failure::Unreachable(why) if why.contains("refused")), "{failure:?}");
    }
}
