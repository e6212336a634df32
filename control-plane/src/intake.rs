//! Takes what the source sends, and tells everybody concerned.

use tokio::sync::mpsc;

use crate::index::Event;
use crate::objects::{Kind, ObjectKey};
use crate::run::Shared;
use crate::source::Batch;
use crate::translate::Status;

/// Takes batches as they come.
pub(crate) async fn follow(mut batches: mpsc::Receiver<Batch>, shared: Shared) {
    while let Some(batch) = batches.recv().await {
        take(batch, &shared);
        shared.set_read();
    }
}

fn take(batch: Batch, shared: &Shared) {
    let (hub, metrics) = (&shared.hub, shared.hub.metrics());
    let Batch { events, diagnostics, locate, judged } = batch;
    let gone: Vec<ObjectKey> = events.iter().filter_map(gone).collect();
    let changes = events.len();
    let applied = hub.apply(events);
    metrics.changes.inc();
    let (objects, mut problems) = {
        let state = hub.state();
        (state.index().len(), state.problems())
    };
    if shared.cluster_statuses().is_some() {
        // Slices follow their Service by themselves there, always a moment later: that is no mistake of anybody's.
        problems.retain(|(key, _)| key.kind != Kind::EndpointSlice);
    }
    metrics.objects.set(i64::try_from(objects).unwrap_or(i64::MAX));
    shared.diagnostics().replace(&diagnostics, &problems, &locate, metrics);
    if changes > 0 {
        // In a cluster something changes every second, and most of it concerns nobody.
        if shared.cluster_statuses().is_some() && shared.is_ready() {
            tracing::debug!(changes, objects, "took a change of the source");
        } else {
            tracing::info!(changes, objects, "took a change of the source");
        }
    }
    if let Some(statuses) = shared.cluster_statuses() {
        statuses.update(judged, gone.iter(), applied.statuses.iter().map(|(key, _)| key));
    }
    for (key, status) in &applied.statuses {
        say(key, status.as_ref());
    }
}

fn say(key: &ObjectKey, status: Option<&Status>) {
    let name = format!("{}/{}", key.namespace, key.name);
    let Some(status) = status else {
        match key.kind.route() {
            Some(_) => tracing::info!(route = %name, "route status: gone"),
            None => tracing::info!(policy = %name, "policy status: gone"),
        }
        return;
    };
    for parent in &status.parents {
        let summary: Vec<String> =
            parent.conditions.iter().map(|it| format!("{}={} ({})", it.kind, it.status, it.reason)).collect();
        let summary = summary.join(", ");
        match key.kind.route() {
            Some(_) => tracing::info!(route = %name, parent = parent.parent, "route status: {summary}"),
            None => tracing::info!(policy = %name, target_service = parent.parent, "policy status: {summary}"),
        }
    }
}

fn gone(event: &Event) -> Option<ObjectKey> {
    match event {
        Event::Delete(key) => Some(key.clone()),
        Event::Apply(_) => None,
    }
}
