//! `AdmissionReview` of `admission.k8s.io/v1`, as far as it is used.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::decide::SkipReason;
use crate::patch::Add;
use crate::ports::excerpt;

/// The API server takes objects of 3 MiB at most, and a review may hold an old one beside the new.
pub const MAX_REVIEW_BYTES: usize = 8 * 1024 * 1024;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the API server asks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Named again in the answer.
    pub uid: String,
    /// What `object` is.
    pub kind: Kind,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: String,
    /// Namespace of the object. The object's own metadata may not have it yet.
    #[serde(default)]
    pub namespace: String,
    /// Name of the object, empty while it is still to be made from `generateName`.
    #[serde(default)]
    pub name: String,
    /// Whether nothing is stored in the end.
    #[serde(default)]
    pub dry_run: bool,
    /// Set for a part of the object only, such as `ephemeralcontainers`.
    #[serde(default)]
    pub sub_resource: String,
    /// The object.
    #[serde(default)]
    pub object: Value,
}

/// Group, version and kind of an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Kind {
    /// Empty for pods.
    #[serde(default)]
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Pod`.
    pub kind: String,
}

/// Why a body is no review. The API server's fault, or somebody else's who calls the webhook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReview {
    /// Longer than any review is.
    #[error("the body has {0} bytes, more than the {MAX_REVIEW_BYTES} of the largest review")]
    TooLong(usize),
    /// Not what the type says.
    #[error("the body is not an {KIND}: {0}")]
    Malformed(String),
    /// Another kind or version.
    #[error(
        "the body is `{kind}` of `{api_version}`; the webhook speaks {KIND} of {API_VERSION}: set admissionReviewVersions: [v1]"
    )]
    OtherVersion {
        /// What it says it is.
        kind: String,
        /// And of which version.
        api_version: String,
    },
    /// A review of nothing.
    #[error("the review has no request")]
    NoRequest,
}

impl Request {
    /// Reads the body of an admission call.
    ///
    /// # Errors
    ///
    /// [`InvalidReview`]; the caller answers with status 400.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidReview> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Review {
            #[serde(default)]
            api_version: String,
            #[serde(default)]
            kind: String,
            #[serde(default)]
            request: Value,
        }
        if body.len() > MAX_REVIEW_BYTES {
            return Err(InvalidReview::TooLong(body.len()));
        }
        let malformed = |error: serde_json::Error| InvalidReview::Malformed(error.to_string());
        let review: Review = serde_json::from_slice(body).map_err(malformed)?;
        if review.api_version != API_VERSION || review.kind != KIND {
            return Err(InvalidReview::OtherVersion { kind: excerpt(&review.kind), api_version: excerpt(&review.api_version) });
        }
        if review.request.is_null() {
            return Err(InvalidReview::NoRequest);
        }
        serde_json::from_value(review.request).map_err(malformed)
    }

    /// Whether a pod is being created, which is the only time that a sidecar can be put into it.
    #[must_use]
    pub fn creates_pod(&self) -> bool {
        let pod = self.kind.group.is_empty() && self.kind.version == "v1" && self.kind.kind == "Pod";
        pod && self.operation == "CREATE" && self.sub_resource.is_empty()
    }

    /// What log lines call the object: its name, or what its name is to begin with.
    #[must_use]
    pub fn object_name(&self) -> &str {
        let written = |pointer| self.object.pointer(pointer).and_then(Value::as_str).filter(|name| !name.is_empty());
        let given = Some(self.name.as_str()).filter(|name| !name.is_empty());
        given.or_else(|| written("/metadata/name")).or_else(|| written("/metadata/generateName")).unwrap_or_default()
    }
}

/// What was done with the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is nothing to decide about.
    Ignored,
    /// It gets a sidecar.
    Injected,
    /// It has a sidecar, which learns what others added since.
    Completed,
    /// It stays as it is.
    Skipped(SkipReason),
    /// It is not admitted.
    Refused,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What was done, for logs and metrics.
    pub outcome: Outcome,
    /// `None`: admitted. Otherwise why not.
    pub refused: Option<String>,
    /// What is changed before it is admitted; empty for nothing.
    pub patch: Vec<Add>,
    /// Shown to whoever created the object.
    pub warnings: Vec<String>,
}

impl Answer {
    /// Admits the object as it is.
    #[must_use]
    pub const fn allow() -> Self {
        Self { outcome: Outcome::Ignored, refused: None, patch: Vec::new(), warnings: Vec::new() }
    }

    /// Admits the object as it is, for this reason.
    #[must_use]
    pub fn skipped(reason: SkipReason) -> Self {
        Self { outcome: Outcome::Skipped(reason), ..Self::allow() }
    }

    /// Admits the object with changes.
    #[must_use]
    pub fn patched(outcome: Outcome, patch: Vec<Add>) -> Self {
        Self { outcome, patch, ..Self::allow() }
    }

    /// Does not admit the object, with a message for its author.
    #[must_use]
    pub fn refuse(message: String) -> Self {
        Self { outcome: Outcome::Refused, refused: Some(message), ..Self::allow() }
    }

    /// With these warnings.
    #[must_use]
    pub fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// The review that answers the request with this `uid`.
    #[must_use]
    pub fn to_review(&self, uid: &str) -> Value {
        let mut response = Map::new();
        response.insert("uid".into(), uid.into());
        response.insert("allowed".into(), self.refused.is_none().into());
        if let Some(message) = &self.refused {
            response.insert("status".into(), json!({"code": 422, "reason": "Invalid", "message": message}));
        }
        if self.refused.is_none() && !self.patch.is_empty() {
            let patch = Value::Array(self.patch.iter().map(Add::to_json).collect()).to_string();
            response.insert("patchType".into(), "JSONPatch".into());
            response.insert("patch".into(), STANDARD.encode(patch).into());
        }
        if !self.warnings.is_empty() {
            response.insert("warnings".into(), bounded(&self.warnings).into());
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response})
    }
}

/// API servers may cut off warnings longer than this many characters, and those that are too many.
const MAX_WARNING: usize = 256;
/// Nobody reads more.
const MAX_WARNINGS: usize = 10;

/// As many warnings, and as much of each, as an API server passes on.
fn bounded(warnings: &[String]) -> Vec<String> {
    let short = |text: &String| {
        if text.chars().count() < MAX_WARNING {
            return text.clone();
        }
        let start: String = text.chars().take(MAX_WARNING - 2).collect();
        format!("{start}…")
    };
    let shown = if warnings.len() > MAX_WARNINGS { MAX_WARNINGS - 1 } else { MAX_WARNINGS };
    let mut bounded: Vec<String> = warnings.iter().take(shown).map(short).collect();
    if warnings.len() > shown {
        bounded.push(format!("weir: and {} more", warnings.len() - shown));
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &Value) -> Result<Request, InvalidReview> {
        Request::parse(body.to_string().as_bytes())
    }

    fn review(kind: &str, operation: &str, sub_resource: &str) -> Request {
        let kind = json!({"group": "", "version": "v1", "kind": kind});
        let request = json!({"uid": "1", "kind": kind, "operation": operation, "subResource": sub_resource, "object": {}});
        parse(&json!({"apiVersion": API_VERSION, "kind": KIND, "request": request})).unwrap()
    }

    #[test]
    fn only_the_creation_of_pods_is_looked_at() {
        assert!(review("Pod", "CREATE", "").creates_pod());
        assert!(!review("Pod", "UPDATE", "").creates_pod());
        assert!(!review("Pod", "CREATE", "ephemeralcontainers").creates_pod());
        assert!(!review("Deployment", "CREATE", "").creates_pod());
    }

    #[test]
    fn what_is_no_review_is_said_to_be_none() {
        assert!(matches!(Request::parse(b""), Err(InvalidReview::Malformed(_))));
        assert!(matches!(Request::parse(b"[]"), Err(InvalidReview::OtherVersion { .. })));
        assert_eq!(parse(&json!({"apiVersion": API_VERSION, "kind": KIND})), Err(InvalidReview::NoRequest));
        let beta = parse(&json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND})).unwrap_err();
        assert!(beta.to_string().contains("admissionReviewVersions: [v1]"), "{beta}");
        assert_eq!(Request::parse(&vec![b' '; MAX_REVIEW_BYTES + 1]), Err(InvalidReview::TooLong(MAX_REVIEW_BYTES + 1)));
        let nested = "[".repeat(100_000);
        assert!(matches!(Request::parse(nested.as_bytes()), Err(InvalidReview::Malformed(_))));
    }

    #[test]
    fn warnings_are_few_and_short() {
        let long = "ü".repeat(300);
        let many: Vec<String> = (0..12).map(|i| if i == 0 { long.clone() } else { format!("warning {i}") }).collect();
        let few = bounded(&many);
        assert_eq!(few.len(), 10);
        assert_eq!(few[0].chars().count(), 255);
        assert!(few[0].ends_with('…'));
        assert_eq!(few[9], "weir: and 3 more");
        assert_eq!(bounded(&many[1..11]), many[1..11]);
    }

    #[test]
    fn log_lines_have_a_name_for_every_object() {
        let named = |name: &str, object: Value| {
            let mut request = review("Pod", "CREATE", "");
            (request.name, request.object) = (name.into(), object);
            request.object_name().to_owned()
        };
        assert_eq!(named("web", json!({"metadata": {"name": "other"}})), "web");
        assert_eq!(named("", json!({"metadata": {"name": "web"}})), "web");
        assert_eq!(named("", json!({"metadata": {"name": "", "generateName": "web-"}})), "web-");
        assert_eq!(named("", json!(7)), "");
    }

    #[test]
    fn a_refusal_carries_no_patch() {
        let answer = Answer { patch: vec![Add { path: "/a".into(), value: json!(1) }], ..Answer::refuse("no".into()) };
        let review = answer.to_review("7");
        assert_eq!(review.pointer("/response/allowed"), Some(&json!(false)));
        assert_eq!(review.pointer("/response/status/message"), Some(&json!("no")));
        assert_eq!(review.pointer("/response/patch"), None);
        assert_eq!(review.pointer("/response/uid"), Some(&json!("7")));
    }
}
