//! Checks values against the chart's JSON schema, with errors that say what to write instead.
//!
//! It knows what that schema uses of JSON Schema: `type`, `properties`, `required`, `additionalProperties`, `items`, `enum`,
//! `pattern`, `minLength`, `maxLength`, `minimum`, `maximum`. A test holds the schema to that.

use regex::Regex;
use serde_json::{Map, Value};

/// Checks all of it.
///
/// # Errors
///
/// Everything that is wrong.
pub(super) fn check(schema: &str, values: &Value) -> Result<(), Vec<String>> {
    let schema = serde_json::from_str(schema).map_err(|error| vec![format!("charts/weir/values.schema.json: {error}")])?;
    let mut errors = Vec::new();
    walk(&schema, values, "", &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn walk(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    let wrong = |instead: String| {
        let description = schema.get("description").and_then(Value::as_str).map(|text| format!("{text}; ")).unwrap_or_default();
        format!("{path} is {value}: {description}it must {instead}")
    };
    if let Some(types) = schema.get("type")
        && !allowed(types).iter().any(|name| is(value, name))
    {
        let names: Vec<&str> = allowed(types).into_iter().map(in_words).collect();
        errors.push(wrong(format!("be {}", names.join(" or "))));
        return;
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array)
        && !options.contains(value)
    {
        let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
        errors.push(wrong(format!("be one of {}", options.join(", "))));
    }
    match value {
        Value::String(text) => errors.extend(text_error(schema, text).map(wrong)),
        Value::Number(number) => errors.extend(number_error(schema, number.as_f64().unwrap_or_default()).map(wrong)),
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                schema.get("items").iter().for_each(|schema| walk(schema, item, &format!("{path}[{number}]"), errors));
            }
        }
        Value::Object(members) => object(schema, members, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
}

fn object(schema: &Value, members: &Map<String, Value>, path: &str, errors: &mut Vec<String>) {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    for (name, value) in members {
        match (known.get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => walk(schema, value, &inner(name), errors),
            (None, Some(Value::Bool(false))) => {
                let near =
                    nearest(name, known.keys()).map(|near| format!("; `{}` is the nearest", inner(near))).unwrap_or_default();
                errors.push(format!("{}: there is no such value{near}", inner(name)));
            }
            (None, _) => {}
        }
    }
    let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for name in required.iter().filter_map(Value::as_str).filter(|name| !members.contains_key(*name)) {
        errors.push(format!("{} is missing: it cannot be null", inner(name)));
    }
}

fn text_error(schema: &Value, text: &str) -> Option<String> {
    let length = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
    let characters = text.chars().count();
    if let Some(most) = length("maxLength").filter(|most| characters > *most) {
        return Some(format!("have {most} characters at most"));
    }
    if length("minLength").is_some_and(|least| characters < least) {
        return Some("not be empty".to_owned());
    }
    let pattern = schema.get("pattern")?.as_str()?;
    match Regex::new(pattern) {
        Ok(regex) if regex.is_match(text) => None,
        _ => Some(format!("match {pattern}")),
    }
}

fn number_error(schema: &Value, number: f64) -> Option<String> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    if let Some(least) = bound("minimum").filter(|least| number < *least) {
        return Some(format!("be {least} or more"));
    }
    bound("maximum").filter(|most| number > *most).map(|most| format!("be {most} or less"))
}

fn allowed(types: &Value) -> Vec<&str> {
    match types {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

fn in_words(name: &str) -> &str {
    match name {
        "string" => "text (in quotes in a file, --set-string as a flag)",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

/// The name that is most like this one, if any is.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate.as_str()))
        .min()
        .filter(|(distance, candidate)| distance * 2 <= candidate.len().max(name.len()))
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed or changed.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (slot, to) in row.iter_mut().skip(1).zip(b.chars()) {
            let here = (diagonal + usize::from(from != to)).min(left + 1).min(*slot + 1);
            (diagonal, left) = (*slot, here);
            *slot = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::chart::{SCHEMA, VALUES};
    use super::super::values::{Source, merge};
    use super::*;

    fn with(set: &str) -> Result<(), Vec<String>> {
        check(SCHEMA, &merge(VALUES, &[Source::Set(set.to_owned())]).unwrap())
    }

    #[test]
    fn the_defaults_keep_to_the_schema_and_every_one_of_them_is_in_it() {
        assert_eq!(with(""), Ok(()));
    }

    #[test]
    fn every_value_is_in_the_users_guide() {
        fn walk(schema: &Value, path: &str, guide: &str) {
            for (name, inner) in schema["properties"].as_object().unwrap() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match inner.get("required") {
                    Some(_) => walk(inner, &path, guide),
                    None => {
                        assert!(path == "global" || guide.contains(&format!("| `{path}` |")), "docs/INSTALL.md has no {path}")
                    }
                }
            }
        }
        let guide = include_str!("../../../docs/INSTALL.md");
        walk(&serde_json::from_str(SCHEMA).unwrap(), "", guide);
    }

    #[test]
    fn the_schema_uses_what_is_known_here() {
        fn walk(schema: &Value, path: &str) {
            for (keyword, value) in schema.as_object().unwrap() {
                let inner = |value: &Value, name: &str| walk(value, &format!("{path}/{name}"));
                match keyword.as_str() {
                    "properties" => value.as_object().unwrap().iter().for_each(|(name, value)| inner(value, name)),
                    "items" => inner(value, "items"),
                    "additionalProperties" if value.is_object() => inner(value, "*"),
                    "pattern" => drop(Regex::new(value.as_str().unwrap()).unwrap()),
                    "type" => assert!(allowed(value).iter().all(|name| in_words(name) != *name), "{path}: {value}"),
                    "$schema" | "title" | "description" | "additionalProperties" | "required" | "enum" => {}
                    "minimum" | "maximum" | "minLength" | "maxLength" => {}
                    other => panic!("{path}: {other}"),
                }
            }
            if schema.get("properties").is_some() {
                assert!(schema["additionalProperties"] == json!(false), "{path}: additionalProperties");
            }
        }
        walk(&serde_json::from_str(SCHEMA).unwrap(), "");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write_instead() {
        for (set, expected) in [
            ("controlplane.replicas=3", "controlplane: there is no such value; `controlPlane` is the nearest"),
            ("injector.replica=3", "injector.replica: there is no such value; `injector.replicas` is the nearest"),
            ("zebra=1", "zebra: there is no such value"),
            ("image.registry=null", "image.registry is missing: it cannot be null"),
            (
                "image.tag=7",
                "image.tag is 7: Version of all three images, or empty; it must be text (in quotes in a file, --set-string as a flag)",
            ),
            ("logFormat=xml", "logFormat is \"xml\": How log lines look; it must be one of text, json"),
            ("injector.replicas=0", "injector.replicas is 0: How many pods; it must be 1 or more"),
            ("injector.replicas=two", "injector.replicas is \"two\": How many pods; it must be a whole number"),
            (
                "namespace.create=yes",
                "namespace.create is \"yes\": Whether the Namespace is one of the objects; it must be true or false",
            ),
            ("logLevel=", "logLevel is \"\": Which log lines are written; it must not be empty"),
            (
                "controlPlane.leafLifetime=1w",
                "controlPlane.leafLifetime is \"1w\": How long certificates of workloads live; it must match ^[1-9][0-9]*(s|m|h|d)$",
            ),
            (
                "image.pullSecrets={A_b}",
                "image.pullSecrets[0] is \"A_b\": it must match ^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$",
            ),
            (
                "injector.nodeSelector.a=1",
                "injector.nodeSelector.a is 1: it must be text (in quotes in a file, --set-string as a flag)",
            ),
        ] {
            assert_eq!(with(set), Err(vec![expected.to_owned()]), "{set}");
        }
        for good in [
            "injector.nodeSelector.a=b",
            "controlPlane.resources.limits.cpu=2",
            "global.x=1",
            "image.tag=dev",
            "proxy.resources.limits.cpu=500m",
        ] {
            assert_eq!(with(good), Ok(()), "{good}");
        }
    }
}
