//! Why a request to the API server did not work.

use std::error::Error;
use std::fmt;

/// Longest text of a failure; an API server may answer with a page of HTML.
const MAX_TEXT: usize = 300;

/// What a failed request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered.
    Unreachable(String),
    /// 401: the token or certificate is not taken.
    Unauthenticated(String),
    /// 403: the service account may not do this.
    Forbidden(String),
    /// 404: there is no such object, or no such kind.
    NotFound(String),
    /// 409: somebody else changed it in the meantime.
    Conflict(String),
    /// 410: that far back the API server does not remember.
    Expired,
    /// 400 or 422: the request is not taken as it is.
    Refused(String),
    /// 429 or 503: later. An API server that starts says this as well.
    Busy(String),
    /// The API server has a problem of its own, or says something that cannot be read.
    Server(String),
}

impl Failure {
    /// What an error of the client means.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
                Self::Unreachable(plain_words(error))
            }
            other => Self::Server(plain_words(other)),
        }
    }

    /// What a Status object means.
    #[must_use]
    pub fn of_status(status: &kube::core::Status) -> Self {
        let text = if status.message.is_empty() { &status.reason } else { &status.message };
        let text = shortened(text);
        match status.code {
            401 => Self::Unauthenticated(text),
            403 => Self::Forbidden(text),
            404 => Self::NotFound(text),
            409 => Self::Conflict(text),
            410 => Self::Expired,
            400 | 422 => Self::Refused(text),
            429 | 503 => Self::Busy(text),
            code => Self::Server(format!("{code} {text}")),
        }
    }

    /// In one word, for a metric.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Expired => "expired",
            Self::Refused(_) => "refused",
            Self::Busy(_) => "busy",
            Self::Server(_) => "server",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "the API server cannot be reached: {why}"),
            Self::Unauthenticated(why) => write!(
                f,
                "the API server does not take our credentials ({why}): was the service account deleted, or has the token ended?"
            ),
            Self::Forbidden(why) => write!(f, "{why}: the ClusterRole or Role of the control plane's service account lacks this"),
            Self::NotFound(why) | Self::Conflict(why) | Self::Refused(why) | Self::Server(why) => {
                write!(f, "the API server says: {why}")
            }
            Self::Expired => f.write_str("the API server does not remember so far back"),
            Self::Busy(why) => write!(f, "the API server is starting or has too much to do: {why}"),
        }
    }
}

/// An error with its causes, each said once.
pub(crate) fn plain_words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    // The names of the client's own error types tell nobody anything.
    let text = text.strip_prefix("ServiceError: ").or_else(|| text.strip_prefix("HyperError: ")).unwrap_or(&text);
    shortened(text)
}

fn shortened(text: &str) -> String {
    let clean = text.chars().map(|it| if it.is_control() { ' ' } else { it });
    clean.take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_status_says_what_it_means() {
        for (code, reason) in [
            (400, "refused"),
            (401, "unauthenticated"),
            (403, "forbidden"),
            (404, "not_found"),
            (409, "conflict"),
            (410, "expired"),
            (422, "refused"),
            (429, "busy"),
            (503, "busy"),
            (500, "server"),
            (504, "server"),
        ] {
            let failure = Failure::of_status(&Status::failure("no", "Because").with_code(code));
            assert_eq!(failure.reason(), reason, "{code}");
        }
    }

    #[test]
    fn text_from_outside_is_short_and_plain() {
        let page = format!("<html>\n{}", "x".repeat(10_000));
        let failure = Failure::of_status(&Status::failure(&page, "").with_code(502));
        let text = failure.to_string();
        assert!(text.len() < 400 && !text.contains('\n'), "{text}");
    }
}
