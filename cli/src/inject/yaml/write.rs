//! New YAML: in blocks as people write it, and in one line or in braces as JSON does.

use serde_json::{Map, Value};

use super::scalar::is_plain;
use super::tree::{Content, Node};

/// Writes blocks the way that the file around them is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    /// How far the dashes of a list stand to the right of the key that it belongs to.
    pub(super) list_offset: usize,
}

impl Layout {
    /// A value in block style, every line of it indented and ended. `like`, if there is one, says in which order keys stand.
    pub(super) fn block(self, value: &Value, indent: usize, like: Option<&Node>) -> String {
        let mut out = String::new();
        match value {
            Value::Object(members) if !members.is_empty() => self.members(members, indent, like, &mut out),
            Value::Array(items) if !items.is_empty() => self.items(items, indent, like, &mut out),
            scalar => {
                out.push_str(&" ".repeat(indent));
                out.push_str(&leaf(scalar));
                out.push('\n');
            }
        }
        out
    }

    fn members(self, members: &Map<String, Value>, indent: usize, like: Option<&Node>, out: &mut String) {
        for (key, value) in ordered(members, like) {
            out.push_str(&" ".repeat(indent));
            out.push_str(&text(key));
            out.push(':');
            let like = like.and_then(|node| member(node, key));
            match value {
                Value::Object(inner) if !inner.is_empty() => {
                    out.push('\n');
                    self.members(inner, indent + 2, like, out);
                }
                Value::Array(inner) if !inner.is_empty() => {
                    out.push('\n');
                    self.items(inner, indent + self.list_offset, like, out);
                }
                scalar => {
                    out.push(' ');
                    out.push_str(&leaf(scalar));
                    out.push('\n');
                }
            }
        }
    }

    fn items(self, items: &[Value], indent: usize, like: Option<&Node>, out: &mut String) {
        for (i, item) in items.iter().enumerate() {
            let block = self.block(item, indent + 2, like.and_then(|node| counterpart(node, items.len(), i, item)));
            out.push_str(&" ".repeat(indent));
            out.push_str("- ");
            out.push_str(block.get(indent + 2..).unwrap_or(&block));
        }
    }
}

/// A value as JSON, whose strings are those of YAML too. With `indent`, the white space before the line it begins on, over
/// several lines.
pub(super) fn flow(value: &Value, indent: Option<&str>) -> String {
    let inner = indent.map(|indent| format!("{indent}  "));
    let (open, between) = match &inner {
        Some(inner) => (format!("\n{inner}"), format!(",\n{inner}")),
        None => (String::new(), ", ".to_owned()),
    };
    let close = indent.map(|indent| format!("\n{indent}")).unwrap_or_default();
    match value {
        Value::Object(members) if !members.is_empty() => {
            let members = ordered(members, None).into_iter().map(|(key, value)| flow_member(key, value, inner.as_deref()));
            format!("{{{open}{}{close}}}", members.collect::<Vec<_>>().join(&between))
        }
        Value::Array(items) if !items.is_empty() => {
            let items = items.iter().map(|item| flow(item, inner.as_deref()));
            format!("[{open}{}{close}]", items.collect::<Vec<_>>().join(&between))
        }
        Value::String(text) => double_quoted(text),
        other => other.to_string(),
    }
}

/// One member of an object in braces.
pub(super) fn flow_member(key: &str, value: &Value, indent: Option<&str>) -> String {
    format!("{}: {}", double_quoted(key), flow(value, indent))
}

/// Members in the order of `like`, then those that it does not have: names first, as people write containers.
fn ordered<'a>(members: &'a Map<String, Value>, like: Option<&Node>) -> Vec<(&'a String, &'a Value)> {
    let position = |key: &str| match like.map(|node| &node.content) {
        Some(Content::Mapping { entries, .. }) => entries.iter().position(|entry| *entry.key == *key).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let mut ordered: Vec<_> = members.iter().collect();
    ordered.sort_by_key(|(key, _)| (position(key), key.as_str() != "name"));
    ordered
}

fn member<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    let Content::Mapping { entries, .. } = &node.content else { return None };
    entries.iter().find(|entry| *entry.key == *key).map(|entry| &entry.value)
}

/// What an item was before: the one in its place, or if items were added the one that is equal.
fn counterpart<'a>(node: &'a Node, len: usize, i: usize, item: &Value) -> Option<&'a Node> {
    let Content::List { items, .. } = &node.content else { return None };
    if items.len() == len { items.get(i) } else { items.iter().find(|old| old.to_json() == *item) }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

fn text(text: &str) -> String {
    let has_quotes = text.contains('"') && !text.contains('\'');
    if is_plain(text) {
        text.to_owned()
    } else if has_quotes && text.chars().all(|c| (' '..='~').contains(&c)) {
        format!("'{text}'")
    } else {
        double_quoted(text)
    }
}

fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Neither YAML nor a terminal takes these as they are; the last three would break the line or vanish.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::tree::parse;
    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,10}".prop_map(Value::from),
            "[a-zA-Z0-9'\":,#\\-\\[\\]{}&*!|>%@`?~= \\n\\t\\r\\\\]{0,10}".prop_map(Value::from),
            "(yes|no|on|y|null|~|0x1f|0o17|010|1e3|1_0|\\.inf|<<|-|\\?|---|\\.\\.\\.)".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-z~:#' ]{1,6}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn blocks_look_as_people_write_them() {
        let value = json!({"volumes": [{"name": "a", "emptyDir": {}}], "args": ["init", "yes"], "status": "{\"v\":1}"});
        let flat = "args:\n- init\n- \"yes\"\nstatus: '{\"v\":1}'\nvolumes:\n- name: a\n  emptyDir: {}\n";
        assert_eq!(Layout { list_offset: 0 }.block(&value, 0, None), flat);
        let indented =
            "  args:\n    - init\n    - \"yes\"\n  status: '{\"v\":1}'\n  volumes:\n    - name: a\n      emptyDir: {}\n";
        assert_eq!(Layout { list_offset: 2 }.block(&value, 2, None), indented);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in any_json(), list_offset in 0..4_usize, indent in 0..5_usize) {
            let wrapped = json!({"value": value});
            let layout = Layout { list_offset };
            for text in [layout.block(&wrapped, indent, None), flow(&wrapped, None), flow(&wrapped, Some(""))] {
                let documents = parse(&text).map_err(|error| TestCaseError::fail(format!("{error:?}:\n{text}")))?;
                prop_assert_eq!(documents[0].root.to_json(), wrapped.clone(), "{}", text);
                // A second reader, which knows nothing of the first.
                let other: Value = serde_saphyr::from_str(&text).map_err(|error| TestCaseError::fail(format!("{error}:\n{text}")))?;
                prop_assert_eq!(other, wrapped.clone(), "{}", text);
            }
        }
    }
}
