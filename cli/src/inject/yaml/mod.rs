//! YAML that is changed in place: read with the place of everything in it, changed by the smallest edits, checked by being read
//! again.
//!
//! [`tree`] reads, [`scalar`] knows what plain text means to Kubernetes, [`edit`] finds the edits that turn one value into
//! another, [`write`] writes new parts.

mod edit;
mod scalar;
mod tree;
mod write;

pub(super) use edit::{Edit, apply, rewrite};
pub(super) use tree::{Document, parse};

/// The documents of a text.
///
/// # Errors
///
/// Where it stops being YAML, and why.
pub(crate) fn read(text: &str) -> Result<Vec<serde_json::Value>, String> {
    let documents = parse(text).map_err(|error| format!("line {}: {}", error.line, error.message))?;
    Ok(documents.iter().map(|document| document.root.to_json()).collect())
}

/// A value in block style, which ends with a new line.
pub(crate) fn block(value: &serde_json::Value) -> String {
    write::Layout::default().block(value, 0, None)
}

/// A value in block style, for tests.
#[cfg(test)]
pub(super) fn written(value: &serde_json::Value, list_offset: usize) -> String {
    write::Layout { list_offset }.block(value, 0, None)
}
