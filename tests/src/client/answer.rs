//! A whole answer, and what can be asked of it.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

/// An answer that was read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Version it came in.
    pub version: Version,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

/// What `weir-error` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshError {
    /// The reason, in kebab-case.
    pub reason: String,
    /// `outbound` or `inbound`.
    pub hop: String,
    /// For a person.
    pub detail: String,
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    ///
    /// When it breaks off.
    pub async fn read(response: Response<Incoming>) -> Result<Self, String> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.map_err(|error| format!("the answer ({}) broke off: {error}", head.status))?;
        let trailers = collected.trailers().cloned();
        Ok(Self { status: head.status, version: head.version, headers: head.headers, body: collected.to_bytes(), trailers })
    }

    /// A header's value, if it is there once and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A trailer's value.
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name)?.to_str().ok()
    }

    /// The application that answered, empty when none did.
    #[must_use]
    pub fn app(&self) -> &str {
        self.header("x-app").unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the application says that the request looked like.
    ///
    /// # Panics
    ///
    /// When an application did not describe the request.
    #[must_use]
    pub fn seen(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no description of the request: {error}: {self:?}"))
    }

    /// The values of a header of the request as the application saw it.
    ///
    /// # Panics
    ///
    /// When an application did not describe the request.
    #[must_use]
    pub fn seen_header(&self, name: &str) -> Vec<String> {
        let values = self.seen()["headers"][name].as_array().cloned().unwrap_or_default();
        values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// What the mesh says about an answer that it made itself.
    ///
    /// # Panics
    ///
    /// When `weir-error` is there and does not have its form.
    #[must_use]
    pub fn mesh_error(&self) -> Option<MeshError> {
        let text = self.header("weir-error")?;
        let mut parts = text.split(';').map(str::trim);
        let reason = parts.next().unwrap_or_default().to_owned();
        let rest = text.split_once(';').map(|(_, rest)| rest).unwrap_or_default();
        let hop = parts.find_map(|part| part.strip_prefix("hop=")).unwrap_or_default().to_owned();
        let detail = rest.split_once("detail=").map(|(_, detail)| detail.trim_matches('"').to_owned()).unwrap_or_default();
        let kebab = !reason.is_empty() && reason.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        assert!(kebab && ["outbound", "inbound"].contains(&hop.as_str()), "weir-error does not have its form: {text}");
        Some(MeshError { reason, hop, detail })
    }

    /// Fails unless the mesh made this answer, with this status, at this hop; answers with the reason.
    ///
    /// # Panics
    ///
    /// When it is otherwise.
    #[track_caller]
    #[must_use]
    pub fn made_by_mesh(&self, status: u16, hop: &str) -> MeshError {
        let error = self.mesh_error().unwrap_or_else(|| panic!("the mesh did not make this answer: {self:?}"));
        assert_eq!((self.status.as_u16(), error.hop.as_str()), (status, hop), "{self:?}");
        error
    }
}
