//! What a check finds.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// Somebody should look at it; the mesh works.
    Warning,
    /// Something does not work.
    Failure,
}

/// One line of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What it is about.
    pub(super) area: &'static str,
    /// How bad it is.
    pub(super) level: Level,
    /// What was checked, or what is wrong.
    pub(super) what: String,
    /// Why, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<String>,
    /// What mends it: a command, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn good(area: &'static str, what: impl Into<String>) -> Self {
        Self { area, level: Level::Good, what: what.into(), cause: None, fix: None }
    }

    pub(super) fn warning(area: &'static str, what: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::failure(area, what, cause, fix) }
    }

    pub(super) fn failure(area: &'static str, what: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        let text = |text: String| (!text.is_empty()).then_some(text);
        Self { area, level: Level::Failure, what: what.into(), cause: text(cause.into()), fix: text(fix.into()) }
    }
}

/// How many of many things are named one by one.
const NAMED: usize = 5;

/// Names, the first few of them.
pub(super) fn names<T: AsRef<str>>(all: &[T]) -> String {
    let shown: Vec<&str> = all.iter().take(NAMED).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
