//! YAML with the place of everything in it.
//!
//! The text becomes a tree of [`Node`]s that know line and column; the tree becomes JSON, which is what Kubernetes makes of YAML
//! too. So an error in a field can be shown where the field is written.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use crate::objects::{FieldPath, Segment};

/// Nodes in one file, aliases written out. A few aliases of aliases can stand for billions.
const MAX_NODES: usize = 1_000_000;
/// How deep nodes may be nested; Kubernetes objects are some ten deep.
const MAX_DEPTH: usize = 100;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A file that is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where it stops being YAML.
    pub at: Position,
    /// What is wrong.
    pub message: String,
}

/// A value, and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// The value.
    pub content: Content,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text, a number, true, false or null.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order it is written. The position is that of the key.
    Mapping(Vec<(Arc<str>, Position, Node)>),
}

impl Node {
    /// As JSON. Keys whose value is null are left out: to Kubernetes they are absent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Mapping(entries) => {
                let given = entries.iter().filter(|(_, _, value)| value.content != Content::Scalar(Value::Null));
                Value::Object(given.map(|(key, _, value)| (key.to_string(), value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// Where a field is written, or if it is not written the nearest thing around it. Keys, where the field is in a mapping.
    #[must_use]
    pub fn locate(&self, field: &FieldPath) -> Position {
        let (mut node, mut at) = (self, self.at);
        for segment in field.segments() {
            let inner = match (segment, &node.content) {
                (Segment::Key(key), Content::Mapping(entries)) => {
                    entries.iter().find(|(name, _, _)| name == key).map(|(_, at, value)| (*at, value))
                }
                (Segment::Index(index), Content::List(items)) => items.get(*index).map(|item| (item.at, item)),
                _ => None,
            };
            let Some((inner_at, inner)) = inner else { break };
            (at, node) = (inner_at, inner);
        }
        at
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|(name, _, _)| **name == *key).map(|(_, _, value)| value),
            Content::Scalar(_) | Content::List(_) => None,
        }
    }

    /// Its text, if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Content::Scalar(Value::String(text)) = &self.content { Some(text) } else { None }
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Self::size).sum(),
            Content::Mapping(entries) => entries.iter().map(|(_, _, value)| value.size()).sum(),
        }
    }
}

/// Reads all documents of a file. Empty ones are left out.
///
/// # Errors
///
/// The first place where the text is not YAML.
pub fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut options = Options::default();
    options.emit_comments = false;
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| SyntaxError {
            at: Position { line: error.marker().line(), column: error.marker().col() + 1 },
            message: error.info(),
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.documents)
}

/// Puts nodes together from events.
#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

/// A list or mapping that has begun.
struct Open {
    at: Position,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Mapping { entries: Vec<(Arc<str>, Position, Node)>, key: Option<(Arc<str>, Position)>, merged: Vec<Node> },
}

/// The key of YAML 1.1 that takes over the entries of another mapping; Kubernetes' tools know it.
const MERGE_KEY: &str = "<<";

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let at = Position { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
                let plain = style == ScalarStyle::Plain && !forced;
                let value = if plain { resolve(&text) } else { Value::String(text.into_owned()) };
                self.close(Node { at, content: Content::Scalar(value) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(at, anchor, OpenContent::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.begin(at, anchor, OpenContent::Mapping { entries: Vec::new(), key: None, merged: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { at, anchor, content }) => self.close(Node { at, content: content.finish() }, anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| wrong(at, "an alias that stands inside of what it is an alias for"))?;
                self.count(node.size(), at)?;
                self.place(node, at)
            }
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Position, anchor: usize, content: OpenContent) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(wrong(at, format!("nested deeper than {MAX_DEPTH}")));
        }
        self.open.push(Open { at, anchor, content });
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.count(1, node.at)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let at = node.at;
        self.place(node, at)
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES { Err(wrong(at, format!("more than {MAX_NODES} values, aliases written out"))) } else { Ok(()) }
    }

    /// Puts a node where it belongs. `at` is where it is written, which for an alias is not where the node is.
    fn place(&mut self, node: Node, at: Position) -> Result<(), SyntaxError> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => {
                if node.content != Content::Scalar(Value::Null) {
                    self.documents.push(node);
                }
                Ok(())
            }
            Some(OpenContent::List(items)) => {
                items.push(node);
                Ok(())
            }
            Some(OpenContent::Mapping { entries, key, merged }) => match key.take() {
                None => {
                    *key = Some((key_text(&node).ok_or_else(|| wrong(at, "a key must be text"))?, at));
                    Ok(())
                }
                Some((name, _)) if *name == *MERGE_KEY => {
                    merged.push(node);
                    Ok(())
                }
                Some((name, key_at)) => {
                    if let Some((_, first, _)) = entries.iter().find(|(other, _, _)| *other == name) {
                        return Err(wrong(key_at, format!("the key `{name}` stands here twice, first on line {}", first.line)));
                    }
                    entries.push((name, key_at, node));
                    Ok(())
                }
            },
        }
    }
}

impl OpenContent {
    fn finish(self) -> Content {
        match self {
            Self::List(items) => Content::List(items),
            Self::Mapping { mut entries, merged, .. } => {
                // What the mapping says itself counts more than what it takes over, and the first of several sources most.
                for source in merged {
                    let sources = if let Content::List(items) = source.content { items } else { vec![source] };
                    for (key, at, value) in sources.into_iter().flat_map(mapping_entries) {
                        if !entries.iter().any(|(other, _, _)| *other == key) {
                            entries.push((key, at, value));
                        }
                    }
                }
                Content::Mapping(entries)
            }
        }
    }
}

fn mapping_entries(node: Node) -> Vec<(Arc<str>, Position, Node)> {
    if let Content::Mapping(entries) = node.content { entries } else { Vec::new() }
}

fn key_text(node: &Node) -> Option<Arc<str>> {
    match &node.content {
        Content::Scalar(Value::String(text)) => Some(text.as_str().into()),
        Content::Scalar(value) => Some(value.to_string().into()),
        Content::List(_) | Content::Mapping(_) => None,
    }
}

/// What a plain scalar means (YAML 1.2, core schema).
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    // Only what begins like a number is one: Rust also reads `inf` and `nan`.
    let unsigned = text.trim_start_matches(['+', '-']);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Value::String(text.to_owned());
    }
    let based = |prefix: &str, base| unsigned.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, base).ok());
    let integer = text.parse::<i64>().ok().or_else(|| based("0x", 16)).or_else(|| based("0o", 8));
    if let Some(integer) = integer {
        return Value::Number(integer.into());
    }
    let float = text.parse::<f64>().ok().and_then(Number::from_f64);
    float.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn wrong(at: Position, message: impl Into<String>) -> SyntaxError {
    SyntaxError { at, message: message.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        parse(text).unwrap()[0].to_json()
    }

    #[test]
    fn yaml_becomes_what_kubernetes_reads() {
        let text = concat!(
            "a: 1\nb: \"1\"\nc: yes\nd: [1.5, true, ~]\ne:\nf: 0x10\ng: 10.0.0.1\nh: !!str 5\n8080: x\n",
            "i: &x {p: 1, q: 2}\nj: {<<: *x, q: 3}\nk: *x\n"
        );
        let expected = json!({
            "a": 1, "b": "1", "c": "yes", "d": [1.5, true, null], "f": 16, "g": "10.0.0.1", "h": "5", "8080": "x",
            "i": {"p": 1, "q": 2}, "j": {"p": 1, "q": 3}, "k": {"p": 1, "q": 2},
        });
        assert_eq!(one(text), expected);
    }

    #[test]
    fn documents_are_kept_apart_and_empty_ones_left_out() {
        let documents = parse("---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
        assert_eq!(documents.iter().map(Node::to_json).collect::<Vec<_>>(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(documents[1].at, Position { line: 6, column: 1 });
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn fields_are_found_where_they_are_written() {
        let text = "spec:\n  rules:\n  - backendRefs:\n    - name: a\n    - name: b\n      port: 80\n";
        let node = &parse(text).unwrap()[0];
        let refs = FieldPath::of(&["spec", "rules"]).index(0).key("backendRefs");
        assert_eq!(node.locate(&refs.index(1).key("port")), Position { line: 6, column: 7 });
        assert_eq!(node.locate(&refs.index(0).key("port")), Position { line: 4, column: 7 }, "the nearest thing around it");
        assert_eq!(node.locate(&refs.index(9)), Position { line: 3, column: 5 });
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.at.line >= 2, "{error:?}");
        let error = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((error.at.line, error.message.as_str()), (3, "the key `a` stands here twice, first on line 1"));
        assert!(parse("? [a]\n: b\n").is_err());
    }

    #[test]
    fn aliases_of_aliases_do_not_explode() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let last = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", [last.as_str(); 10].join(", ")));
        }
        assert!(parse(&text).unwrap_err().message.contains("aliases"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-a:\\[\\]{}&*!|>'\"%@`#,? \n0.~<]{0,60}") {
            if let Ok(documents) = parse(&text) {
                for document in documents {
                    let _ = document.to_json();
                }
            }
        }
    }
}
