//! `/mutate`: a pod is being created.

use http::StatusCode;

use super::Webhook;
use super::respond::Reply;
use crate::answer;
use crate::cluster::ClusterError;
use crate::decide::SkipReason;
use crate::installation::Installation;
use crate::pod::Namespace;
use crate::ports::excerpt;
use crate::review::{Answer, Outcome, Request};
use crate::settings::Owner;

/// What the API server's own selectors have found in the namespace's labels. The watch may be behind that, for a moment or while
/// it is broken; where both disagree, the API server is asked before the pod gets or misses a sidecar by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// Namespace or pod asks for a sidecar by label.
    ByLabel,
    /// Neither does.
    ByNoLabel,
}

/// Answers a review.
pub async fn mutate(webhook: &Webhook, request: &Request, selected: Selected) -> Reply {
    let installation = webhook.installation.load_full();
    match decided(webhook, request, selected, &installation).await {
        Ok(answer) => {
            log(request, &answer);
            Reply::review(answer.to_review(&request.uid), result(&answer.outcome))
        }
        Err(error) => Reply::failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), "error"),
    }
}

async fn decided(
    webhook: &Webhook,
    request: &Request,
    selected: Selected,
    installation: &Installation,
) -> Result<Answer, ClusterError> {
    if !request.creates_pod() {
        return Ok(answer(request, &Namespace::default(), installation));
    }
    let known = webhook.namespaces.find(&request.namespace).await?;
    let first = answer(request, &known, installation);
    if disagrees(selected, &first.outcome) {
        let asked = webhook.namespaces.ask(&request.namespace).await?;
        return Ok(answer(request, &asked, installation));
    }
    Ok(first)
}

/// Whether the outcome does not follow from labels as the API server sees them.
fn disagrees(selected: Selected, outcome: &Outcome) -> bool {
    let left_alone = matches!(outcome, Outcome::Skipped(SkipReason::NotAsked | SkipReason::Disabled(Owner::Namespace(_))));
    match selected {
        Selected::ByLabel => left_alone,
        // Those who use annotations are here as well; they are few.
        Selected::ByNoLabel => matches!(outcome, Outcome::Injected | Outcome::Refused),
    }
}

const fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ignored => "ignored",
        Outcome::Injected => "injected",
        Outcome::Completed => "completed",
        Outcome::Skipped(_) => "skipped",
        Outcome::Refused => "refused",
    }
}

/// One line for each pod that is changed or refused.
fn log(request: &Request, answer: &Answer) {
    let (namespace, pod, dry_run) = (excerpt(&request.namespace), excerpt(request.object_name()), request.dry_run);
    let warnings = answer.warnings.len();
    match &answer.outcome {
        Outcome::Injected => tracing::info!(namespace, pod, dry_run, warnings, "injected"),
        Outcome::Refused => {
            let reason = answer.refused.as_deref().unwrap_or_default();
            tracing::warn!(namespace, pod, dry_run, reason, "refused");
        }
        Outcome::Completed => tracing::info!(namespace, pod, dry_run, "took in what others added to an injected pod"),
        Outcome::Skipped(reason) => tracing::debug!(namespace, pod, dry_run, %reason, "skipped"),
        Outcome::Ignored => tracing::debug!(namespace, pod, operation = excerpt(&request.operation), "not the creation of a pod"),
    }
}
