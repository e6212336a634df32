//! Collects everything that is wrong with an object while it is read.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_core::names::{Label, ObjectName};

use super::field::{FieldPath, Problem, Segment};
use super::raw::Metadata;
use super::{DEFAULT_NAMESPACE, NamespacedName};

/// The structure of an object, or where it is not as it should be.
pub(super) fn structure<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Problem>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut field = FieldPath::root();
        for segment in error.path() {
            field = match segment {
                serde_path_to_error::Segment::Seq { index } => field.with(Segment::Index(*index)),
                serde_path_to_error::Segment::Map { key } => field.key(key),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => field,
            };
        }
        vec![Problem::new(field, plain_words(&error.inner().to_string()))]
    })
}

/// The names of Rust's types mean nothing to somebody who writes YAML.
fn plain_words(message: &str) -> String {
    message
        .replace("expected i64", "expected a whole number")
        .replace("expected f64", "expected a number")
        .replace("expected a sequence", "expected a list")
        .replace("invalid type: sequence", "invalid type: list")
        .replace("invalid type: map", "invalid type: mapping")
        .replace("expected a map", "expected a mapping")
        .replace("expected a boolean", "expected true or false")
        .replace("mappingping", "mapping")
}

/// What is wrong so far: with all of the object, and with parts of it.
#[derive(Debug, Default)]
pub(super) struct Reader {
    refused: Vec<Problem>,
    partial: Vec<Problem>,
}

impl Reader {
    /// The object cannot be taken.
    pub(super) fn refuse(&mut self, field: FieldPath, message: impl Into<String>) {
        self.refused.push(Problem::new(field, message));
    }

    /// A part of the object is not honoured.
    pub(super) fn note(&mut self, field: FieldPath, message: impl Into<String>) {
        self.partial.push(Problem::new(field, message));
    }

    /// Text that must be there and in form; without it the object is refused.
    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, field: FieldPath, text: &str) -> Option<T> {
        if text.is_empty() {
            self.refuse(field, "is missing");
            return None;
        }
        match text.parse() {
            Ok(it) => Some(it),
            Err(error) => {
                self.refuse(field, error.to_string());
                None
            }
        }
    }

    /// A port from 1 to 65535; without it the object is refused.
    pub(super) fn port(&mut self, field: FieldPath, number: Option<i64>) -> Option<u16> {
        match number.map(u16::try_from) {
            Some(Ok(port)) if port != 0 => Some(port),
            Some(_) => {
                self.refuse(field, format!("expected a port from 1 to 65535, found {}", number.unwrap_or_default()));
                None
            }
            None => {
                self.refuse(field, "is missing: expected a port from 1 to 65535");
                None
            }
        }
    }

    /// The namespace that the object is in.
    pub(super) fn namespace(&mut self, metadata: &Metadata) -> Option<Label> {
        let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        self.parse(FieldPath::of(&["metadata", "namespace"]), namespace)
    }

    /// Namespace and name.
    pub(super) fn key(&mut self, metadata: &Metadata) -> Option<NamespacedName> {
        let namespace = self.namespace(metadata);
        let name: Option<ObjectName> = self.parse(FieldPath::of(&["metadata", "name"]), &metadata.name);
        Some(NamespacedName { namespace: namespace?, name: name? })
    }

    /// The object with what is wrong in parts of it, unless something refuses it.
    pub(super) fn finish<T>(self, object: Option<T>) -> Result<(T, Vec<Problem>), Vec<Problem>> {
        match object {
            Some(object) if self.refused.is_empty() => Ok((object, self.partial)),
            _ => Err(self.refused),
        }
    }
}
