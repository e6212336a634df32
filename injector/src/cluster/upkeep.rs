//! Keeps the Secret with the certificate and the `caBundle` of both webhook configurations as they have to be.
//!
//! Every replica does this, and no lease is needed: the Secret is written with create or with the version that was read, so of
//! two replicas one wins, and the other takes what the winner wrote.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use futures_util::{Stream, StreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Error as WatchError, watch_object};
use kube::{Api, Client, ResourceExt};

use super::namespaces::{is_routine, why};
use super::{CALL_TIMEOUT, ClusterError, call};
use crate::certificate::bundle::{Hook, lacking, repair};
use crate::certificate::plan::{Plan, plan, retained};
use crate::certificate::stored::{AUTHORITIES, Authority, Stored};
use crate::certificate::{Shown, Swap, make, swap};
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// What marks the Secret as the injector's own.
const KEEPER_LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value, which is also the field manager of all that is written.
const KEEPER: &str = "weir-injector";
/// How often everything is looked at when nothing changes: certificates grow older.
const LOOK: Duration = Duration::from_secs(60);
/// The longest wait after something failed.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What has to be known to start.
#[derive(Clone, Debug)]
pub struct Names {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Its name.
    pub secret: String,
    /// Name of both configurations.
    pub configuration: String,
    /// Names in the certificate.
    pub certificate: Vec<String>,
    /// What spreads renewals: the pod's name.
    pub spread: String,
}

/// The task.
pub struct Upkeep {
    names: Names,
    secrets: Api<Secret>,
    mutating: Api<MutatingWebhookConfiguration>,
    validating: Api<ValidatingWebhookConfiguration>,
    shown: Arc<Shown>,
    readiness: Arc<Readiness>,
    metrics: Metrics,
    view: View,
    /// Since when the configurations carry what the Secret's certificate needs.
    carried_since: Option<Instant>,
    /// Authorities of the Secret as it was last: when it is deleted, API servers trust them for a while yet.
    last_authorities: Vec<Authority>,
    /// What was last said of somebody else's Secret, so that it is not said every minute.
    complaint: Option<String>,
}

/// What is known of the cluster. The outer `None`: not read yet; the inner: it does not exist.
#[derive(Default)]
struct View {
    secret: Option<Option<Secret>>,
    mutating: Option<Option<Vec<Hook>>>,
    validating: Option<Option<Vec<Hook>>>,
}

impl Upkeep {
    /// The task for this cluster.
    #[must_use]
    pub fn new(client: &Client, names: Names, shown: Arc<Shown>, readiness: Arc<Readiness>, metrics: Metrics) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &names.namespace),
            mutating: Api::all(client.clone()),
            validating: Api::all(client.clone()),
            names,
            shown,
            readiness,
            metrics,
            view: View::default(),
            carried_since: None,
            last_authorities: Vec::new(),
            complaint: None,
        }
    }

    /// Works for as long as the process lives.
    pub async fn run(mut self) {
        let Names { secret, configuration, .. } = self.names.clone();
        let secrets = watch_object(self.secrets.clone(), &secret).default_backoff();
        let mut secrets = std::pin::pin!(quiet(secrets, "Secret", secret));
        let mutating = watch_object(self.mutating.clone(), &configuration).default_backoff();
        let mut mutating = std::pin::pin!(quiet(mutating, "MutatingWebhookConfiguration", configuration.clone()));
        let validating = watch_object(self.validating.clone(), &configuration).default_backoff();
        let mut validating = std::pin::pin!(quiet(validating, "ValidatingWebhookConfiguration", configuration));
        let mut failures = 0_u32;
        let mut wait = LOOK;
        loop {
            tokio::select! {
                Some(found) = secrets.next() => self.view.secret = Some(found),
                Some(found) = mutating.next() => self.view.mutating = Some(found.map(|it| mutating_hooks(&it))),
                Some(found) = validating.next() => self.view.validating = Some(found.map(|it| validating_hooks(&it))),
                () = tokio::time::sleep(wait) => {}
            }
            match self.step(SystemTime::now(), Instant::now()).await {
                Ok(next) => {
                    failures = 0;
                    wait = next;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    wait = Duration::from_secs(1_u64.checked_shl(failures - 1).unwrap_or(u64::MAX)).min(MAX_RETRY);
                    tracing::warn!("{error}; trying again in {} seconds", wait.as_secs());
                }
            }
        }
    }

    /// Does what is to be done, and says when to look again.
    async fn step(&mut self, now: SystemTime, instant: Instant) -> Result<Duration, ClusterError> {
        let Some(secret) = &self.view.secret else { return Ok(LOOK) };
        let stored = secret.as_ref().map(stored);
        let mut dice = Rng::with_seed(seed(&self.names.spread));
        let plan = plan(stored.as_ref(), &self.names.certificate, now, &mut dice);
        let data = self.data(&plan, stored.as_ref(), now)?;
        if let Some((data, reason)) = data {
            self.write(data, &reason).await?;
        }
        let Some(Some(secret)) = &self.view.secret else { return Ok(LOOK) };
        let stored = self::stored(secret);
        self.last_authorities.clone_from(&stored.authorities);
        let next = self.show(&stored, now, instant);
        self.repair(&stored).await?;
        self.judge();
        Ok(next)
    }

    /// What the Secret is to hold, and why; `None` where it stays as it is.
    fn data(&mut self, plan: &Plan, stored: Option<&Stored>, now: SystemTime) -> Result<Option<(Data, String)>, ClusterError> {
        let names = &self.names.certificate;
        let made = match (plan, stored.map(|it| (it.signer.as_ref(), it.authorities.first(), it))) {
            (Plan::NotOurs(complaint), _) => {
                self.complain(complaint.clone());
                return Ok(None);
            }
            (Plan::Retire, Some((_, _, stored))) => {
                let kept = retained(stored, now);
                let bundle = crate::certificate::stored::to_pem(kept.iter().map(|it| &it.certificate)).into_bytes();
                Ok((Data::from([(AUTHORITIES.to_owned(), bundle)]), "an old authority is no longer needed".to_owned()))
            }
            (Plan::NewLeaf(why), Some((Ok(signer), Some(first), _))) => {
                make::leaf(signer, &first.certificate, names, now).map(|data| (data, why.clone()))
            }
            (Plan::NewAuthority(why) | Plan::NewLeaf(why), stored) => {
                let before = stored.map_or(&self.last_authorities, |(_, _, stored)| &stored.authorities);
                make::authority(before, names, now).map(|data| (data, why.clone()))
            }
            (Plan::Keep | Plan::Retire, _) => return Ok(None),
        };
        let made =
            made.map_err(|error| ClusterError::Call { what: "cannot renew the certificate".into(), reason: error.to_string() });
        made.map(Some)
    }

    fn complain(&mut self, complaint: Option<String>) {
        if complaint != self.complaint {
            if let Some(problem) = &complaint {
                let secret = &self.names.secret;
                tracing::error!(
                    secret,
                    "somebody else keeps the certificate, and {problem}; renew it, or delete the Secret for a new one"
                );
            }
            self.complaint = complaint;
        }
    }

    /// Creates or replaces the Secret. Who loses a race reads what the winner wrote.
    async fn write(&mut self, data: Data, reason: &str) -> Result<(), ClusterError> {
        let name = &self.names.secret;
        let what = format!("cannot write Secret {}/{name}", self.names.namespace);
        let current = self.view.secret.clone().flatten();
        let exists = current.is_some();
        let mut secret = current.unwrap_or_else(|| Secret { type_: Some("kubernetes.io/tls".to_owned()), ..Secret::default() });
        secret.metadata.name = Some(name.clone());
        secret.metadata.managed_fields = None;
        secret.labels_mut().insert(KEEPER_LABEL.to_owned(), KEEPER.to_owned());
        let parts = data.into_iter().map(|(name, value)| (name, ByteString(value)));
        secret.data.get_or_insert_default().extend(parts);
        let params = PostParams { field_manager: Some(KEEPER.to_owned()), ..PostParams::default() };
        let written = async {
            let written = if exists {
                self.secrets.replace(name, &params, &secret).await
            } else {
                self.secrets.create(&params, &secret).await
            };
            match written {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                other => other.map(Some),
            }
        };
        if let Some(written) = call(&what, CALL_TIMEOUT, written).await? {
            tracing::info!(secret = %name, reason, "wrote a certificate of the injector's own");
            self.view.secret = Some(Some(written));
        } else {
            tracing::debug!(secret = %name, "another replica was faster");
            self.read_secret().await?;
        }
        Ok(())
    }

    async fn read_secret(&mut self) -> Result<(), ClusterError> {
        let name = &self.names.secret;
        let what = format!("cannot read Secret {}/{name}", self.names.namespace);
        let found = call(&what, CALL_TIMEOUT, self.secrets.get_opt(name)).await?;
        self.view.secret = Some(found);
        Ok(())
    }

    /// Shows the Secret's certificate as soon as API servers trust it, and says when to look again.
    fn show(&mut self, stored: &Stored, now: SystemTime, instant: Instant) -> Duration {
        let Some(offered) = stored.served() else { return LOOK };
        let carries = |hooks: &Option<Option<Vec<Hook>>>| {
            hooks.as_ref().is_some_and(|found| found.as_ref().is_none_or(|hooks| lacking(hooks, &offered.anchors).is_none()))
        };
        if carries(&self.view.mutating) && carries(&self.view.validating) {
            self.carried_since.get_or_insert(instant);
        } else {
            self.carried_since = None;
        }
        let carried = self.carried_since.map(|since| instant.saturating_duration_since(since));
        match swap(self.shown.current().as_deref(), &offered, carried, now) {
            Swap::Same => LOOK,
            Swap::Later(wait) => wait.min(LOOK),
            Swap::Now => {
                let ends = time::OffsetDateTime::from(offered.validity.not_after);
                tracing::info!(%ends, "showing this certificate from now on");
                self.metrics
                    .certificate_ends(offered.validity.not_after, stored.authorities.first().map(|it| it.validity.not_after));
                self.shown.show(offered);
                LOOK
            }
        }
    }

    /// Makes both configurations tell API servers what to trust.
    async fn repair(&mut self, stored: &Stored) -> Result<(), ClusterError> {
        let needed = |hooks: &Option<Option<Vec<Hook>>>, wanted: &[u8]| repair(hooks.as_ref()?.as_ref()?, wanted);
        let wanted = stored.bundle();
        if needed(&self.view.mutating, &wanted).is_none() && needed(&self.view.validating, &wanted).is_none() {
            return Ok(());
        }
        // Another replica may have renewed the Secret and told API servers already; what it wrote must not be undone.
        self.read_secret().await?;
        let Some(Some(secret)) = &self.view.secret else { return Ok(()) };
        let wanted = self::stored(secret).bundle();
        let name = self.names.configuration.clone();
        let params = PatchParams { field_manager: Some(KEEPER.to_owned()), ..PatchParams::default() };
        if let Some(patch) = needed(&self.view.mutating, &wanted) {
            let what = format!("cannot write caBundle of MutatingWebhookConfiguration {name}");
            let patch = Patch::Strategic(&patch);
            let patched = call(&what, CALL_TIMEOUT, self.mutating.patch(&name, &params, &patch)).await?;
            self.view.mutating = Some(Some(mutating_hooks(&patched)));
            tracing::info!(configuration = %name, "wrote caBundle of the mutating webhooks");
        }
        if let Some(patch) = needed(&self.view.validating, &wanted) {
            let what = format!("cannot write caBundle of ValidatingWebhookConfiguration {name}");
            let patch = Patch::Strategic(&patch);
            let patched = call(&what, CALL_TIMEOUT, self.validating.patch(&name, &params, &patch)).await?;
            self.view.validating = Some(Some(validating_hooks(&patched)));
            tracing::info!(configuration = %name, "wrote caBundle of the validating webhooks");
        }
        Ok(())
    }

    /// Says whether API servers can call.
    fn judge(&self) {
        let name = &self.names.configuration;
        let problem = match (self.shown.current(), &self.view.mutating, &self.view.validating) {
            (None, _, _) => Some("there is no certificate yet".to_owned()),
            (_, None, _) | (_, _, None) => Some("the webhook configurations have not been read yet".to_owned()),
            (_, Some(None), _) => Some(format!("there is no MutatingWebhookConfiguration {name}: install the chart again")),
            (Some(shown), Some(Some(mutating)), Some(validating)) => {
                let validating = validating.as_deref().unwrap_or_default();
                let lacking = lacking(mutating, &shown.anchors).or_else(|| lacking(validating, &shown.anchors));
                lacking.map(|hook| format!("caBundle of webhook {hook} does not trust the certificate that is served"))
            }
        };
        self.readiness.callable(problem);
    }
}

type Data = BTreeMap<String, Vec<u8>>;

fn stored(secret: &Secret) -> Stored {
    let labelled = secret.labels().get(KEEPER_LABEL).is_some_and(|value| value == KEEPER);
    let parts = secret.data.iter().flatten().map(|(name, value)| (name.clone(), value.0.clone())).collect();
    Stored::read(&parts, labelled)
}

fn mutating_hooks(configuration: &MutatingWebhookConfiguration) -> Vec<Hook> {
    let hooks = configuration.webhooks.iter().flatten();
    hooks.map(|it| hook(&it.name, it.client_config.ca_bundle.as_ref())).collect()
}

fn validating_hooks(configuration: &ValidatingWebhookConfiguration) -> Vec<Hook> {
    let hooks = configuration.webhooks.iter().flatten();
    hooks.map(|it| hook(&it.name, it.client_config.ca_bundle.as_ref())).collect()
}

fn hook(name: &str, bundle: Option<&ByteString>) -> Hook {
    Hook { name: name.to_owned(), bundle: bundle.map(|it| it.0.clone()).unwrap_or_default() }
}

fn seed(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A watch without its errors, which are logged.
fn quiet<T, S>(changes: S, kind: &'static str, name: String) -> impl Stream<Item = Option<T>> + use<T, S>
where
    S: Stream<Item = Result<Option<T>, WatchError>>,
{
    changes.filter_map(move |change| {
        let change = match change {
            Ok(change) => Some(change),
            Err(error) if is_routine(&error) => {
                tracing::debug!(kind, name, reason = %why(&error), "reading it again");
                None
            }
            Err(error) => {
                tracing::warn!(kind, name, reason = %why(&error), "cannot watch");
                None
            }
        };
        std::future::ready(change)
    })
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
