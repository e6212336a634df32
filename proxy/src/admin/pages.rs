//! Readiness, the certificate, and what the workers say.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use weir_core::snapshot::ResourceName;
use weir_tls::Utc;

use super::{Answer, text};
use crate::shared::{ClusterView, Phase, Shared, WorkerQuestion};

/// Time for all workers to answer. One that takes longer is stuck, which the page then says.
const WORKER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn ready(shared: &Shared) -> Answer {
    match not_ready(shared).as_slice() {
        [] => text(StatusCode::OK, "ready\n"),
        reasons => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready:\n- {}\n", reasons.join("\n- "))),
    }
}

/// Why traffic should not be sent here.
fn not_ready(shared: &Shared) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match shared.lifecycle.phase() {
        Phase::Starting => reasons.push("not every worker listens yet"),
        Phase::Serving => {}
        Phase::Draining => reasons.push("draining"),
    }
    if !shared.redirected.load(Ordering::Relaxed) {
        reasons.push("the workload's traffic is not redirected here: the rules of weir-init are not in place");
    }
    if shared.tls.load().is_none() {
        reasons.push("there is no certificate yet; the log says why");
    }
    let snapshot = shared.snapshot.load();
    if snapshot.trust().is_none() {
        reasons.push("the trust bundle has not come yet; is the control plane reachable?");
    }
    if !snapshot.versions().contains_key(&ResourceName::Inbound) {
        reasons.push("the inbound policy has not come yet; is the control plane reachable?");
    }
    reasons
}

pub(super) fn certs(shared: &Shared) -> Value {
    let Some(tls) = shared.tls.load_full() else {
        return json!({ "certificate": null, "roots": [] });
    };
    let own = &tls.credentials;
    let roots: Vec<Value> = tls
        .roots
        .subjects()
        .into_iter()
        .map(|root| {
            json!({
                "subject": root.subject,
                "serial": root.serial,
                "notBefore": Utc(root.validity.not_before).to_string(),
                "notAfter": Utc(root.validity.not_after).to_string(),
            })
        })
        .collect();
    json!({
        "generation": tls.generation,
        "trustDomain": tls.roots.trust_domain().as_str(),
        "certificate": {
            "identity": own.identity.to_string(),
            "serial": own.serial,
            "issuer": own.issuer,
            "notBefore": Utc(own.validity.not_before).to_string(),
            "notAfter": Utc(own.validity.not_after).to_string(),
        },
        "roots": roots,
    })
}

pub(super) async fn clusters(shared: &Shared) -> Value {
    let workers = shared.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let deadline = Instant::now() + WORKER_TIMEOUT;
    let mut answers = Vec::with_capacity(workers.len());
    // All are asked before the first is waited for.
    for worker in &workers {
        let (answer, answered) = oneshot::channel();
        let _ = worker.try_send(WorkerQuestion::Clusters(answer));
        answers.push(answered);
    }
    let mut clusters: Vec<ClusterView> = Vec::new();
    let mut silent = 0;
    for answered in answers {
        match timeout_at(deadline, answered).await {
            Ok(Ok(views)) => clusters.extend(views),
            Ok(Err(_)) | Err(_) => silent += 1,
        }
    }
    clusters.sort_by(|a, b| (&a.backend, a.worker).cmp(&(&b.backend, b.worker)));
    json!({ "clusters": clusters, "workersThatDidNotAnswer": silent })
}
