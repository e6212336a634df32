//! What the injector asks of the cluster: [`namespaces`] (labels and annotations), [`version`] (how sidecars may stand in pods)
//! and [`upkeep`] (the own certificate and the webhook configurations). Decisions are made elsewhere.

pub mod namespaces;
pub mod upkeep;
pub mod version;

use std::future::Future;
use std::time::Duration;

/// A call that the API server has not answered by then is as good as failed. Those on the way of a review have less.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the cluster did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The injector has no right to it.
    #[error("{what}: forbidden: {reason}; are the ClusterRole and the Role of weir-injector in place?")]
    Forbidden {
        /// What was tried.
        what: String,
        /// What the API server says.
        reason: String,
    },
    /// It said no, or could not be reached.
    #[error("{what}: {reason}")]
    Call {
        /// What was tried.
        what: String,
        /// Why not, with the likely cause.
        reason: String,
    },
    /// It did not answer.
    #[error("{what}: the API server did not answer within {} seconds", .timeout.as_secs())]
    Timeout {
        /// What was tried.
        what: String,
        /// How long it was waited for.
        timeout: Duration,
    },
}

/// Waits for a call, not too long.
async fn call<T>(what: &str, timeout: Duration, call: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(ClusterError::Forbidden { what: what.to_owned(), reason: status.message.clone() })
        }
        Ok(Err(error)) => Err(ClusterError::Call { what: what.to_owned(), reason: explain(&error) }),
        Err(_) => Err(ClusterError::Timeout { what: what.to_owned(), timeout }),
    }
}

/// An error of the client with its likely cause.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("forbidden: {}; are the ClusterRole and the Role of weir-injector in place?", status.message)
        }
        kube::Error::Api(status) if status.code == 401 => {
            format!("not authenticated: {}; is the service account's token mounted?", status.message)
        }
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        other => format!("the API server cannot be reached: {}", chain(other)),
    }
}

/// An error with what caused it; the outermost one often says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    // A bound, since a chain is somebody else's to make.
    for _ in 0..8 {
        let Some(cause) = source else { break };
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
