//! `weir.v1.Identity`: certificates for workloads that show a token.
//!
//! In a cluster the API server is asked whose token it is; outside, a file of join tokens tells.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status};
use weir_core::names::{Identity, Label, ObjectName};
use weir_proto::v1::identity_server::Identity as IdentityService;
use weir_proto::v1::{CertifyRequest, CertifyResponse, TrustRoots};
use weir_tls::Utc;

use crate::ca::{Authority, Certified, CertifyError};
use crate::kube::review::{Claim, NotGood, Reviewer};
use crate::metrics::Metrics;
use crate::objects::excerpt;
use crate::server::Peer;
use crate::tokens::{Account, Tokens};

/// The service.
#[derive(Clone, Debug)]
pub struct Certifier {
    authority: Arc<Authority>,
    verifier: Verifier,
    metrics: Metrics,
}

/// Who knows whose token it is.
#[derive(Clone, Debug)]
pub enum Verifier {
    /// Nobody: no token file was given.
    Nobody,
    /// A file of join tokens.
    File(Arc<Tokens>),
    /// The API server.
    ApiServer(Reviewer),
}

impl Certifier {
    /// Signs with `authority` for whoever has a token that `verifier` knows.
    #[must_use]
    pub const fn new(authority: Arc<Authority>, verifier: Verifier, metrics: Metrics) -> Self {
        Self { authority, verifier, metrics }
    }

    /// Whether the token is that of whom the request claims to come from.
    async fn verify(&self, token: String, claim: &Claim) -> Result<Account, Refused> {
        let account = match &self.verifier {
            Verifier::Nobody => return Err(Refused::NoTokens),
            Verifier::ApiServer(reviewer) => reviewer.account(token, claim).await?,
            Verifier::File(tokens) => {
                // Reading the file must not stop the thread that serves everybody.
                let tokens = Arc::clone(tokens);
                let found = tokio::task::spawn_blocking(move || tokens.account(&token)).await;
                found.ok().flatten().ok_or(Refused::UnknownToken)?
            }
        };
        if account != claim.account {
            let Account { namespace, service_account } = &claim.account;
            return Err(Refused::SomebodyElses { asked: format!("{namespace}/{service_account}") });
        }
        Ok(account)
    }

    async fn sign(&self, request: CertifyRequest) -> Result<(Identity, Certified), Refused> {
        let asked = |what: &str, error: &dyn std::fmt::Display| Refused::BadName(format!("{what}: {error}"));
        let namespace: Label = request.namespace.parse().map_err(|error| asked("namespace", &error))?;
        let service_account: ObjectName = request.service_account.parse().map_err(|error| asked("service account", &error))?;
        let claim = Claim { account: Account { namespace, service_account }, pod: request.pod };
        let Account { namespace, service_account } = self.verify(request.token, &claim).await?;
        let identity = Identity { trust_domain: self.authority.trust_domain().clone(), namespace, service_account };
        let certified = self.authority.certify(&identity, &request.csr, SystemTime::now()).map_err(Refused::NotSigned)?;
        Ok((identity, certified))
    }
}

#[tonic::async_trait]
impl IdentityService for Certifier {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address.to_string()).unwrap_or_default();
        let request = request.into_inner();
        let pod = excerpt(&request.pod);
        let who = format!("{}/{}", excerpt(&request.namespace), excerpt(&request.service_account));
        let (identity, certified) = self.sign(request).await.map_err(|refused| {
            tracing::warn!(peer, who, pod, label = refused.label(), reason = %refused, "refused a certificate");
            self.metrics.certificates_refused.with_label_values(&[refused.label()]).inc();
            refused.status()
        })?;
        tracing::info!(peer, pod, %identity, ends = %Utc(certified.validity.not_after), "signed a certificate");
        self.metrics.certificates_issued.inc();
        let bundle = &certified.bundle;
        Ok(Response::new(CertifyResponse {
            chain: certified.chain.iter().map(|der| bytes::Bytes::copy_from_slice(der)).collect(),
            not_before_seconds: Utc(certified.validity.not_before).unix_seconds(),
            not_after_seconds: Utc(certified.validity.not_after).unix_seconds(),
            roots: Some(TrustRoots {
                trust_domain: bundle.trust_domain.to_string(),
                roots: bundle.roots.iter().map(|root| bytes::Bytes::copy_from_slice(root)).collect(),
                generation: bundle.generation,
            }),
        }))
    }
}

/// Why nobody was given a certificate.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no tokens are known here: the control plane was started without --token-file")]
    NoTokens,
    #[error("the token is not one of the token file's; it is wrong, or was taken out")]
    UnknownToken,
    #[error("the request names nobody: {0}")]
    BadName(String),
    #[error("the token is not that of {asked}")]
    SomebodyElses { asked: String },
    #[error(transparent)]
    NotGood(#[from] NotGood),
    #[error(transparent)]
    NotSigned(CertifyError),
}

impl Refused {
    const fn label(&self) -> &'static str {
        match self {
            Self::NoTokens => "no-tokens",
            Self::UnknownToken => "unknown-token",
            Self::BadName(_) => "bad-name",
            Self::SomebodyElses { .. } => "somebody-elses-token",
            Self::NotGood(reason) => reason.label(),
            Self::NotSigned(CertifyError::Request(_)) => "bad-request",
            Self::NotSigned(CertifyError::Authority(_)) => "no-issuer",
        }
    }

    fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::NoTokens | Self::UnknownToken => Status::unauthenticated(message),
            Self::SomebodyElses { .. } => Status::permission_denied(message),
            Self::NotGood(reason) => Status::new(reason.code(), message),
            Self::BadName(_) | Self::NotSigned(CertifyError::Request(_)) => Status::invalid_argument(message),
            Self::NotSigned(CertifyError::Authority(_)) => Status::unavailable(message),
        }
    }
}
