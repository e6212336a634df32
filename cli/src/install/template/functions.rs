//! The functions that templates may call, besides `include`.

use serde_json::{Map, Value};

use crate::inject::yaml;

/// Calls one.
pub(super) fn call(function: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let text = match (function, arguments.as_slice()) {
        ("not", [value]) => return Ok(Value::Bool(!is_set(value))),
        ("default", [default, value]) => return Ok(if is_set(value) { value } else { default }.clone()),
        ("dict", _) => return dict(arguments),
        ("quote", [value]) => Value::String(plain(value)?).to_string(),
        ("toYaml", [value]) => yaml::block(value).trim_end_matches('\n').to_owned(),
        ("nindent", [Value::Number(by), Value::String(text)]) => nindent(by.as_u64(), text)?,
        ("nindent", _) => return Err("nindent takes a number and a text".to_owned()),
        ("printf", [Value::String(format), values @ ..]) => printf(format, values)?,
        ("not" | "default" | "quote" | "toYaml" | "printf", _) => {
            return Err(format!("{function}: these are not the values that it takes"));
        }
        _ => return Err(format!("the function `{function}` is not supported")),
    };
    Ok(Value::String(text))
}

/// Whether `if` and `with` take it for something.
pub(super) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// How a value is written into text.
pub(super) fn plain(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Err("this is not set".to_owned()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Array(_) | Value::Object(_) => Err(format!("{} cannot be written as it is; use toYaml", kind(value))),
    }
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn dict(arguments: Vec<Value>) -> Result<Value, String> {
    let mut members = Map::new();
    let mut arguments = arguments.into_iter();
    while let Some(key) = arguments.next() {
        let (Value::String(key), Some(value)) = (key, arguments.next()) else {
            return Err("dict takes names and values in turn".to_owned());
        };
        members.insert(key, value);
    }
    Ok(Value::Object(members))
}

/// A new line, and the text with every line of it indented.
fn nindent(by: Option<u64>, text: &str) -> Result<String, String> {
    let by = by.and_then(|by| usize::try_from(by).ok()).filter(|by| *by <= 64);
    let padding = " ".repeat(by.ok_or("nindent takes a number up to 64")?);
    Ok(format!("\n{padding}{}", text.replace('\n', &format!("\n{padding}"))))
}

fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let (mut out, mut values) = (String::new(), values.iter());
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match characters.next() {
            Some('%') => out.push('%'),
            Some('s' | 'v') => {
                let value = values.next().ok_or("printf: there are fewer values than places for them")?;
                out.push_str(&plain(value)?);
            }
            other => {
                return Err(format!("printf: `%{}` is not supported; use %s or %v", other.map(String::from).unwrap_or_default()));
            }
        }
    }
    if values.next().is_some() {
        return Err("printf: there are more values than places for them".to_owned());
    }
    Ok(out)
}
