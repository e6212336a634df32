//! `/validate`: an object that speaks to the mesh is being written.

use super::respond::Reply;
use crate::ports::excerpt;
use crate::review::Request;
use crate::validate::judge;

/// Answers a review.
#[must_use]
pub fn validate(request: &Request) -> Reply {
    let answer = judge(request);
    let (namespace, name, kind) = (excerpt(&request.namespace), excerpt(request.object_name()), excerpt(&request.kind.kind));
    let result = match (&answer.refused, answer.warnings.as_slice()) {
        (Some(reason), _) => {
            tracing::warn!(kind, namespace, name, reason, "refused");
            "refused"
        }
        (None, []) => "allowed",
        (None, warnings) => {
            tracing::debug!(kind, namespace, name, warnings = warnings.len(), "warned");
            "warned"
        }
    };
    Reply::review(answer.to_review(&request.uid), result)
}
