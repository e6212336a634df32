//! The Secret of the authority, read and written.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use weir_core::names::TrustDomain;

use super::{PHASE, SECRET, TAKEN_UP};
use crate::ca::AuthorityError;
use crate::ca::document::Document;
use crate::kube::{Cluster, FIELD_MANAGER, Failure};

const DOCUMENT: &str = "authority.json";
const BUNDLE: &str = "ca.crt";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is kept where.
#[derive(Clone, Debug)]
pub struct Place {
    /// The API server, the namespace, and whether this replica leads.
    pub cluster: Cluster,
    /// This replica.
    pub pod_name: String,
    /// The trust domain.
    pub trust_domain: TrustDomain,
}

/// The Secret as it was read, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) secret: Secret,
    pub(super) document: Document,
}

impl Place {
    pub(super) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    pub(super) fn read(&self, secret: &Secret) -> Result<Stored, AuthorityError> {
        let text = secret.data.as_ref().and_then(|data| data.get(DOCUMENT));
        let text = text.ok_or_else(|| AuthorityError::Document(format!("the Secret {SECRET} has no entry {DOCUMENT}")))?;
        let document = Document::from_json(&text.0, &self.trust_domain)
            .map_err(|error| AuthorityError::Document(format!("the Secret {SECRET}: {error}")))?;
        Ok(Stored { secret: secret.clone(), document })
    }

    pub(super) async fn fetch(&self) -> Result<Option<Stored>, AuthorityError> {
        self.secret(SECRET).await?.as_ref().map(|secret| self.read(secret)).transpose()
    }

    pub(super) async fn secret(&self, name: &str) -> Result<Option<Secret>, AuthorityError> {
        match bounded(self.secrets().get(name)).await {
            Ok(secret) => Ok(Some(secret)),
            Err(Failure::NotFound(_)) => Ok(None),
            Err(failure) => Err(api(format!("cannot read the Secret {name}"), failure)),
        }
    }

    pub(super) async fn create(&self, document: &Document) -> Result<(), AuthorityError> {
        let metadata = ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() };
        let secret = self.filled(Secret { metadata, type_: Some("Opaque".to_owned()), ..Secret::default() }, document)?;
        let what = || format!("cannot make the Secret {SECRET}");
        bounded(self.secrets().create(&parameters(), &secret)).await.map_err(|failure| api(what(), failure))?;
        Ok(())
    }

    /// Writes the next document in the place of the one that was read.
    pub(super) async fn replace(&self, stored: &Stored, document: &Document) -> Result<Stored, AuthorityError> {
        let secret = self.filled(stored.secret.clone(), document)?;
        let what = || format!("cannot write the Secret {SECRET}");
        let written = bounded(self.secrets().replace(SECRET, &parameters(), &secret)).await;
        let secret = written.map_err(|failure| api(what(), failure))?;
        Ok(Stored { secret, document: document.clone() })
    }

    pub(super) fn filled(&self, mut secret: Secret, document: &Document) -> Result<Secret, AuthorityError> {
        let text = document.to_json(&self.trust_domain)?;
        secret.data = Some(BTreeMap::from([
            (DOCUMENT.to_owned(), ByteString(text.into_bytes())),
            // For people, and for whoever is outside of the cluster and needs it.
            (BUNDLE.to_owned(), ByteString(document.bundle_pem().into_bytes())),
        ]));
        secret.labels_mut().insert("app.kubernetes.io/part-of".to_owned(), "weir".to_owned());
        let annotations = secret.annotations_mut();
        annotations.insert(PHASE.to_owned(), document.succession.name().as_str().to_owned());
        annotations.insert(TAKEN_UP.to_owned(), document.asked.clone());
        Ok(secret)
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(done) => done.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::Unreachable(format!("no answer within {PATIENCE:?}"))),
    }
}

pub(super) const fn api(what: String, failure: Failure) -> AuthorityError {
    AuthorityError::Api { what, failure }
}
