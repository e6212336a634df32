//! HTTP through a forwarded port: it goes by way of the pod's own node, where no NetworkPolicy stands between.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use super::{Failure, one_line};

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What ten thousand proxies are in the control plane's JSON, several times over.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Asks a pod for a page.
pub(super) async fn forwarded(
    client: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
    path: &str,
) -> Result<(u16, String), Failure> {
    match tokio::time::timeout(TIMEOUT, ask(client, namespace, pod, port, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(failure(format!("no answer through a forwarded port within {} s", TIMEOUT.as_secs()))),
    }
}

async fn ask(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> Result<(u16, String), Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut forwarder = pods.portforward(pod, &[port]).await.map_err(|error| match error {
        kube::Error::Api(status) => Failure { code: Some(status.code), text: one_line(&status.message) },
        other => Failure::unanswered(&other),
    })?;
    let stream = forwarder.take_stream(port).ok_or_else(|| failure("the port was not forwarded"))?;
    let reason = forwarder.take_error(port);
    let answer = exchange(stream, path).await;
    let answer = match (answer, reason) {
        (Ok(answer), _) => Ok(answer),
        // The kubelet says why, for example that nobody listens; it may also say nothing at all.
        (Err(error), Some(reason)) => match tokio::time::timeout(Duration::from_secs(1), reason).await {
            Ok(Some(said)) => Err(failure(said)),
            _ => Err(error),
        },
        (Err(error), None) => Err(error),
    };
    forwarder.abort();
    answer
}

async fn exchange(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> Result<(u16, String), Failure> {
    let unanswered = |error: &dyn std::error::Error| Failure::unanswered(error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unanswered(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .uri(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| unanswered(&error))?;
    let response = sender.send_request(request).await.map_err(|error| unanswered(&error))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| failure(error.to_string()))?;
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

fn failure(text: impl AsRef<str>) -> Failure {
    Failure { code: None, text: one_line(text.as_ref()) }
}
