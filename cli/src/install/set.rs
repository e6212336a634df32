//! `--set KEY=VALUE`, as Helm reads it.

use serde_json::{Map, Value};

/// A list given by numbers has no more items: `tolerations[1000000]` is a mistake.
const MAX_ITEMS: usize = 1024;

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(usize),
}

/// What a flag sets, as values to merge: `a.b=1,c={x,y},d[0].e=text`. A backslash takes away what `,`, `.`, `=`, `[`, `{` mean.
///
/// # Errors
///
/// What of it is wrong.
pub(super) fn parse(flag: &str, as_text: bool) -> Result<Value, String> {
    let mut values = Value::Object(Map::new());
    for pair in split(flag, ',') {
        if pair.trim().is_empty() {
            continue;
        }
        let mut halves = split(&pair, '=').into_iter();
        let key = halves.next().unwrap_or_default();
        let rest: Vec<String> = halves.collect();
        if rest.is_empty() {
            return Err(format!("`{pair}` has no value: write KEY=VALUE"));
        }
        put(&mut values, &steps(key.trim())?, value(&rest.join("="), as_text))?;
    }
    Ok(values)
}

/// Splits outside of braces, and not behind a backslash, which stays.
fn split(text: &str, at: char) -> Vec<String> {
    let (mut parts, mut depth, mut escaped) = (vec![String::new()], 0_usize, false);
    for c in text.chars() {
        let splits = c == at && depth == 0 && !escaped;
        match c {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if splits {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        out.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    out
}

fn steps(key: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for part in split(key, '.') {
        let mut pieces = split(&part, '[').into_iter();
        let name = unescaped(&pieces.next().unwrap_or_default());
        if name.is_empty() {
            return Err(format!("`{key}` is no name of a value: write for example controlPlane.replicas"));
        }
        steps.push(Step::Member(name));
        for piece in pieces {
            let number = piece.strip_suffix(']').and_then(|number| number.parse().ok()).filter(|number| *number < MAX_ITEMS);
            steps.push(Step::Item(
                number.ok_or_else(|| format!("`{key}`: `[{piece}` is no place in a list; write for example [0]"))?,
            ));
        }
    }
    Ok(steps)
}

fn value(text: &str, as_text: bool) -> Value {
    if let Some(items) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let items = if items.is_empty() { Vec::new() } else { split(items, ',') };
        return Value::Array(items.iter().map(|item| value(item.trim(), as_text)).collect());
    }
    let plain = unescaped(text);
    if as_text {
        return Value::String(plain);
    }
    match plain.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        // Text with zeros in front is an identifier rather than a number.
        number if number == "0" || !number.starts_with('0') => number.parse::<i64>().map_or(Value::String(plain), Value::from),
        _ => Value::String(plain),
    }
}

fn put(values: &mut Value, steps: &[Step], value: Value) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *values = value;
        return Ok(());
    };
    match step {
        Step::Member(name) => {
            if !values.is_object() {
                *values = Value::Object(Map::new());
            }
            let members = values.as_object_mut().ok_or("a mapping is expected")?;
            put(members.entry(name.clone()).or_insert(Value::Null), rest, value)
        }
        Step::Item(number) => {
            if !values.is_array() {
                *values = Value::Array(Vec::new());
            }
            let items = values.as_array_mut().ok_or("a list is expected")?;
            items.resize(items.len().max(number + 1), Value::Null);
            items.get_mut(*number).map_or(Ok(()), |item| put(item, rest, value))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_as_helm_reads_them() {
        for (flag, expected) in [
            ("a=1", json!({"a": 1})),
            ("a.b=x,a.c=true", json!({"a": {"b": "x", "c": true}})),
            ("a={x,y}", json!({"a": ["x", "y"]})),
            ("a={}", json!({"a": []})),
            ("a[1].b=x,a[0].b=y", json!({"a": [{"b": "y"}, {"b": "x"}]})),
            ("a=null", json!({"a": null})),
            ("a=", json!({"a": ""})),
            ("a=b=c", json!({"a": "b=c"})),
            (r"a=x\,y", json!({"a": "x,y"})),
            (r"a.kubernetes\.io/os=linux", json!({"a": {"kubernetes.io/os": "linux"}})),
            ("a=007", json!({"a": "007"})),
            ("a=0", json!({"a": 0})),
            ("a=1.5", json!({"a": "1.5"})),
            ("", json!({})),
        ] {
            assert_eq!(parse(flag, false), Ok(expected), "{flag}");
        }
        assert_eq!(parse("a=1,b=true", true), Ok(json!({"a": "1", "b": "true"})));
    }

    #[test]
    fn mistakes_are_named() {
        for flag in ["a", "=1", "a..b=1", "a[x]=1", "a[0=1", "a[99999]=1"] {
            assert!(parse(flag, false).is_err(), "{flag}");
        }
    }
}
