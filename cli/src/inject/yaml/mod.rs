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

/// A value in block style, for tests.
#[cfg(test)]
pub(super) fn written(value: &serde_json::Value, list_offset: usize) -> String {
    write::Layout { list_offset }.block(value, 0, None)
}
