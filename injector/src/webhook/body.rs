//! Bodies of requests, read within bounds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::review::MAX_REVIEW_BYTES;

/// Bytes of all bodies that are being read or answered at one time. Parsed they take some ten times the space, and the
/// container has a limit; ordinary pods are a few thousand bytes, so hundreds of them fit.
const BUDGET_KIB: usize = 2 * MAX_REVIEW_BYTES / 1024;
/// How long a request may wait for its part of that.
const WAIT: Duration = Duration::from_secs(3);
/// How long the body may take. The API server itself waits for ten seconds at most.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// Memory for bodies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_KIB)))
    }
}

/// A body, with its part of the budget: that is free again when the answer has been made.
#[derive(Debug)]
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    _part: OwnedSemaphorePermit,
}

/// Why a body was not read: the status to answer with, and a sentence.
pub type NotRead = (StatusCode, String);

/// Reads a body.
///
/// # Errors
///
/// [`NotRead`] when it is too long, of another type, too slow, or there is no memory for it.
pub async fn read(headers: &HeaderMap, body: Incoming, budget: &Budget) -> Result<Held, NotRead> {
    if let Some(kind) = headers.get(header::CONTENT_TYPE)
        && !kind.as_bytes().to_ascii_lowercase().starts_with(b"application/json")
    {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review is sent as application/json".to_owned()));
    }
    // Without a length it may turn out to be the longest.
    let length = body.size_hint().exact().unwrap_or(MAX_REVIEW_BYTES as u64);
    let too_long = || (StatusCode::PAYLOAD_TOO_LARGE, format!("a review has at most {MAX_REVIEW_BYTES} bytes"));
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_REVIEW_BYTES).ok_or_else(too_long)?;
    let part = u32::try_from(length.div_ceil(1024).max(1)).map_err(|_| too_long())?;
    let busy = || (StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once; try again".to_owned());
    let waited = tokio::time::timeout(WAIT, Arc::clone(&budget.0).acquire_many_owned(part)).await;
    let part = waited.map_err(|_| busy())?.map_err(|_| busy())?;
    let collected = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, MAX_REVIEW_BYTES).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(Held { bytes: collected.to_bytes(), _part: part }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not come in time".to_owned())),
    }
}
