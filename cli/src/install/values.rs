//! Defaults, files and flags as one set of values.

use serde_json::{Map, Value};

use super::set;
use crate::inject::yaml;

/// Where values come from. Later ones win.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A file.
    File { name: String, text: String },
    /// `--set`.
    Set(String),
    /// `--set-string`.
    SetString(String),
}

/// All values.
///
/// # Errors
///
/// Everything that cannot be read.
pub(super) fn merge(defaults: &str, sources: &[Source]) -> Result<Value, Vec<String>> {
    let (mut values, mut errors) = (Value::Object(Map::new()), Vec::new());
    let defaults = mapping(defaults).map_err(|error| format!("charts/weir/values.yaml: {error}"));
    let read = |source: &Source| match source {
        Source::File { name, text } => mapping(text).map_err(|error| format!("--values: {name}: {error}")),
        Source::Set(flag) => set::parse(flag, false).map_err(|error| format!("--set: {error}")),
        Source::SetString(flag) => set::parse(flag, true).map_err(|error| format!("--set-string: {error}")),
    };
    for layer in std::iter::once(defaults).chain(sources.iter().map(read)) {
        match layer {
            Ok(layer) => put(&mut values, layer),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

fn mapping(text: &str) -> Result<Value, String> {
    let mut documents = yaml::read(text)?.into_iter();
    match (documents.next(), documents.next()) {
        (None | Some(Value::Null), None) => Ok(Value::Object(Map::new())),
        (Some(value @ Value::Object(_)), None) => Ok(value),
        (Some(_), None) => Err("values are a mapping, for example `logFormat: json`".to_owned()),
        (_, Some(_)) => Err("values are one document, and these are several".to_owned()),
    }
}

/// Mappings are merged, everything else is replaced, and null takes away.
fn put(values: &mut Value, layer: Value) {
    match (values, layer) {
        (Value::Object(values), Value::Object(layer)) => {
            for (name, value) in layer {
                if value.is_null() {
                    values.remove(&name);
                } else {
                    put(values.entry(name).or_insert_with(|| Value::Object(Map::new())), value);
                }
            }
        }
        (values, layer) => *values = layer,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_sources_win_and_mappings_are_merged() {
        let file = |text: &str| Source::File { name: "f".to_owned(), text: text.to_owned() };
        let sources = [file("a: {b: 2, d: [1, 2]}"), file("a: {d: [3]}\ne: text\n"), Source::Set("a.b=3,a.c=null".to_owned())];
        assert_eq!(merge("a: {b: 1, c: 1}", &sources), Ok(json!({"a": {"b": 3, "d": [3]}, "e": "text"})));
        assert_eq!(merge("a: 1", &[file("# nothing\n")]), Ok(json!({"a": 1})));
    }

    #[test]
    fn all_sources_that_cannot_be_read_are_named() {
        let file = |text: &str| Source::File { name: "f".to_owned(), text: text.to_owned() };
        let errors = merge("a: 1", &[file("- 1"), file("a: [\n"), file("a: 1\n---\nb: 1\n"), Source::Set("x".to_owned())]);
        assert_eq!(errors.unwrap_err().len(), 4);
    }
}
