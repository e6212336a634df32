//! Whose service account token it is, asked of the API server (TokenReview).
//!
//! A proxy shows a projected token with the audience [`AUDIENCE`]. The API server knows whether it is genuine and of whom; what
//! counts as good enough is decided here, in [`decide`], which is pure. Neither a token nor anything made of one is ever logged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use weir_core::names::{Label, ObjectName};

use super::Failure;
use crate::tokens::Account;

/// The audience of the tokens that are meant for the mesh: what is meant for the API server does not count here.
pub const AUDIENCE: &str = "weir";
/// Reviews at once. More would only wait in the API server's own queue, at the cost of everybody else there.
const MAX_REVIEWS: usize = 32;
/// How long a review may wait for its turn and for its answer, each. A proxy waits 15 seconds for its certificate.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest token, in bytes. One has about a kilobyte; with many audiences and a long issuer some more.
const MAX_TOKEN: usize = 16 * 1024;
/// Longest text of the API server's that is passed on.
const MAX_TEXT: usize = 200;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Whom a proxy claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Namespace and service account.
    pub account: Account,
    /// Its pod.
    pub pod: String,
}

/// Why a token does not count. A closed set: each is a `reason` of a metric and a sentence for two logs, the proxy's and this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGood {
    /// Meant for somebody else.
    #[error(
        "the token is not meant for the mesh: its audience is not `{AUDIENCE}`. It must be the projected token that the injector \
         mounts (serviceAccountToken with audience: {AUDIENCE}), not the one that Kubernetes mounts by default"
    )]
    WrongAudience,
    /// Over.
    #[error("the token has expired; the kubelet replaces it in time, so is WEIR_TOKEN a copy, or is a clock wrong?")]
    Expired,
    /// Its pod is gone.
    #[error("the token's pod (or its service account or node) has been deleted, or was made anew; the token died with it")]
    Deleted,
    /// Anybody with the service account may have it.
    #[error(
        "the token is not bound to a pod: it was made by hand (kubectl create token) or is of a Secret. A projected token is bound"
    )]
    NotBound,
    /// Of somebody else.
    #[error("the token is that of the service account {token}, and the request is for {asked}")]
    OtherAccount {
        /// Whose it is.
        token: String,
        /// Who is asked for.
        asked: String,
    },
    /// Of another pod.
    #[error("the token is that of the pod `{token}`, and the request is for the pod `{asked}`; is WEIR_POD_NAME right?")]
    OtherPod {
        /// Whose it is.
        token: String,
        /// Who is asked for.
        asked: String,
    },
    /// A user, a node, or something that a webhook made up.
    #[error("the token is not one of a service account, but of `{0}`")]
    NotAServiceAccount(String),
    /// The API server says no, for another reason.
    #[error("the API server does not take the token: {0}")]
    Rejected(String),
    /// Nobody knows whose it is.
    #[error("the token cannot be reviewed now: {0}")]
    Unreachable(String),
    /// The control plane may not ask.
    #[error(
        "the control plane may not ask the API server whose token it is ({0}); its ClusterRole needs `create` on \
         tokenreviews.authentication.k8s.io: install the chart's RBAC again"
    )]
    Forbidden(String),
    /// Too many at once.
    #[error("too many tokens are being reviewed at once")]
    Busy,
}

impl NotGood {
    /// For the metric.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::WrongAudience => "wrong-audience",
            Self::Expired => "token-expired",
            Self::Deleted => "pod-deleted",
            Self::NotBound => "not-bound-to-a-pod",
            Self::OtherAccount { .. } => "somebody-elses-token",
            Self::OtherPod { .. } => "another-pods-token",
            Self::NotAServiceAccount(_) => "not-a-service-account",
            Self::Rejected(_) => "token-rejected",
            Self::Unreachable(_) => "api-server-unreachable",
            Self::Forbidden(_) => "token-review-forbidden",
            Self::Busy => "busy",
        }
    }

    /// As gRPC says it.
    #[must_use]
    pub fn code(&self) -> tonic::Code {
        match self {
            Self::WrongAudience
            | Self::Expired
            | Self::Deleted
            | Self::NotBound
            | Self::NotAServiceAccount(_)
            | Self::Rejected(_) => tonic::Code::Unauthenticated,
            Self::OtherAccount { .. } | Self::OtherPod { .. } => tonic::Code::PermissionDenied,
            Self::Unreachable(_) | Self::Forbidden(_) | Self::Busy => tonic::Code::Unavailable,
        }
    }
}

/// Asks the API server. Cheap to clone.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
    turns: Arc<Semaphore>,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").field("turns", &self.turns.available_permits()).finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Asks through `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, turns: Arc::new(Semaphore::new(MAX_REVIEWS)) }
    }

    /// Whether a token is that of whoever shows it.
    ///
    /// # Errors
    ///
    /// When it is not, or nobody can say at the moment.
    pub async fn account(&self, token: String, claim: &Claim) -> Result<Account, NotGood> {
        if token.len() > MAX_TOKEN {
            return Err(NotGood::Rejected(format!("it has more than {MAX_TOKEN} bytes")));
        }
        let turn = tokio::time::timeout(PATIENCE, self.turns.acquire()).await;
        let _turn = turn.ok().and_then(Result::ok).ok_or(NotGood::Busy)?;
        let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let answer = tokio::time::timeout(PATIENCE, reviews.create(&parameters, &review)).await;
        let answer = answer.map_err(|_| NotGood::Unreachable(format!("the API server did not answer within {PATIENCE:?}")))?;
        let answer = answer.map_err(|error| refused(Failure::of(&error)))?;
        decide(&answer.status.unwrap_or_default(), claim)
    }
}

fn refused(failure: Failure) -> NotGood {
    match failure {
        Failure::Forbidden(why) => NotGood::Forbidden(why),
        // What the API server does not take as a request may quote the token.
        Failure::Refused(_) => NotGood::Rejected("it is not a token".to_owned()),
        Failure::Busy(_) => NotGood::Busy,
        other => NotGood::Unreachable(other.to_string()),
    }
}

/// What a review means for a claim.
///
/// # Errors
///
/// Everything but a genuine token, meant for the mesh, of exactly that pod of that service account.
pub fn decide(status: &TokenReviewStatus, claim: &Claim) -> Result<Account, NotGood> {
    if status.authenticated != Some(true) {
        return Err(unauthenticated(status.error.as_deref().unwrap_or_default()));
    }
    // An API server that does not know audiences would answer without any (KEP-1205).
    if !status.audiences.iter().flatten().any(|it| it == AUDIENCE) {
        return Err(NotGood::WrongAudience);
    }
    let user = status.user.clone().unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = account(&username).ok_or_else(|| NotGood::NotAServiceAccount(plain(&username)))?;
    if account != claim.account {
        let name = |it: &Account| format!("{}/{}", it.namespace, it.service_account);
        return Err(NotGood::OtherAccount { token: name(&account), asked: name(&claim.account) });
    }
    let extra = user.extra.unwrap_or_default();
    let (Some(pod), Some(_)) = (only(&extra, POD_NAME), only(&extra, POD_UID)) else { return Err(NotGood::NotBound) };
    if pod != claim.pod {
        return Err(NotGood::OtherPod { token: plain(pod), asked: plain(&claim.pod) });
    }
    Ok(account)
}

/// The API server says in words why a token is none; there is no other way to tell.
fn unauthenticated(error: &str) -> NotGood {
    const MEANINGS: [(&str, NotGood); 7] = [
        ("is invalid for the target audiences", NotGood::WrongAudience),
        ("token has expired", NotGood::Expired),
        ("has been invalidated", NotGood::Deleted),
        ("has been deleted", NotGood::Deleted),
        ("does not match service account", NotGood::Deleted),
        ("does not match claim", NotGood::Deleted),
        ("\" not found", NotGood::Deleted),
    ];
    match MEANINGS.into_iter().find(|(words, _)| error.contains(words)) {
        Some((_, meaning)) => meaning,
        None if error.is_empty() => NotGood::Rejected("it does not know it (another cluster's, or no token at all?)".to_owned()),
        None => NotGood::Rejected(plain(error)),
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`.
fn account(username: &str) -> Option<Account> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let (namespace, service_account): (Label, ObjectName) = (namespace.parse().ok()?, name.parse().ok()?);
    Some(Account { namespace, service_account })
}

/// The value of a key that has exactly one.
fn only<'a>(extra: &'a BTreeMap<String, Vec<String>>, key: &str) -> Option<&'a str> {
    match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value),
        _ => None,
    }
}

fn plain(text: &str) -> String {
    text.chars().take(MAX_TEXT).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
