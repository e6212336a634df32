//! A tree of what a file says, with the bytes that say it.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

use super::scalar::resolve;

/// Nodes in one file, aliases written out. A few aliases of aliases can stand for billions.
const MAX_NODES: usize = 2_000_000;
/// How deep nodes may be nested; Kubernetes objects are some ten deep, their schemas some fifty.
const MAX_DEPTH: usize = 200;

/// One document of a file.
#[derive(Clone, Debug)]
pub(in crate::inject) struct Document {
    /// What it says.
    pub(in crate::inject) root: Node,
    /// Whether it has tags beyond `!!str`, whose meaning is not in the tree.
    pub(super) has_tags: bool,
}

/// A value, and where it is written.
#[derive(Clone, Debug)]
pub(in crate::inject) struct Node {
    /// First byte of it; of a block list its first dash or what is behind it.
    pub(super) start: usize,
    /// The byte behind it, comments and empty lines not counted.
    pub(super) end: usize,
    /// Line, from 1.
    pub(in crate::inject) line: usize,
    /// Column, from 0.
    pub(super) column: usize,
    /// An alias stands here, and the content is that of something above.
    pub(super) is_alias: bool,
    /// The value.
    pub(super) content: Content,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Text, a number, true, false or null.
    Scalar(Value),
    /// A list; `flow` is the kind with brackets.
    List { items: Vec<Node>, flow: bool },
    /// A mapping in the order it is written; `flow` is the kind with braces.
    Mapping { entries: Vec<Entry>, flow: bool },
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    /// Line of the key.
    pub(super) line: usize,
    /// The byte behind the key.
    pub(super) key_end: usize,
    /// It is not written here but comes from a mapping that a merge key names.
    pub(super) is_merged: bool,
    pub(super) value: Node,
}

/// Where a file stops being YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::inject) struct SyntaxError {
    /// Line, from 1.
    pub(in crate::inject) line: usize,
    /// What is wrong.
    pub(in crate::inject) message: String,
}

impl Node {
    /// As JSON.
    pub(in crate::inject) fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List { items, .. } => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Mapping { entries, .. } => {
                Value::Object(entries.iter().map(|entry| (entry.key.to_string(), entry.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The line on which a member is written, or that of the nearest thing around it.
    pub(in crate::inject) fn line_of(&self, path: &[&str]) -> usize {
        let (mut node, mut line) = (self, self.line);
        for step in path {
            let inner = match &node.content {
                Content::Mapping { entries, .. } => {
                    entries.iter().find(|entry| *entry.key == **step).map(|entry| (entry.line, &entry.value))
                }
                Content::List { items, .. } => {
                    step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|item| (item.line, item))
                }
                Content::Scalar(_) => None,
            };
            let Some((inner_line, inner)) = inner else { break };
            (line, node) = (inner_line, inner);
        }
        line
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.content, Content::Scalar(Value::Null))
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List { items, .. } => items.iter().map(Self::size).sum(),
            Content::Mapping { entries, .. } => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// Reads all documents of a file. Empty ones are left out.
///
/// # Errors
///
/// The first place where the text is not YAML.
pub(in crate::inject) fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let mut options = Options::default();
    options.emit_comments = false;
    let mut builder = Builder { text, ..Builder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| wrong(error.marker().line(), error.info()))?;
        builder.take(event, span)?;
    }
    Ok(builder.documents)
}

/// Puts nodes together from events.
#[derive(Default)]
struct Builder<'a> {
    text: &'a str,
    documents: Vec<Document>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    has_tags: bool,
    nodes: usize,
}

/// A list or mapping that has begun.
struct Open {
    place: Place,
    anchor: usize,
    flow: bool,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<Key>, merged: Vec<Node>, end: usize },
}

struct Key {
    text: Arc<str>,
    line: usize,
    end: usize,
}

/// Where an event stands.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
    line: usize,
    column: usize,
}

impl Place {
    fn of(span: Span) -> Self {
        let byte = |marker: granit_parser::Marker| marker.byte_offset().unwrap_or_default();
        Self { start: byte(span.start), end: byte(span.end), line: span.start.line(), column: span.start.col() }
    }

    fn node(self, content: Content) -> Node {
        Node { start: self.start, end: self.end, line: self.line, column: self.column, is_alias: false, content }
    }
}

/// The key of YAML 1.1 that takes over the entries of another mapping; Kubernetes' tools know it.
const MERGE_KEY: &str = "<<";

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let mut place = Place::of(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.as_ref().is_some_and(|tag| tag.core_suffix() == Some("str"));
                self.has_tags |= tag.is_some() && !is_text;
                if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                    place.end = self.end_of_block_scalar(place.end);
                }
                let plain = style == ScalarStyle::Plain && !is_text;
                let value = if plain { resolve(&text) } else { Value::String(text.into_owned()) };
                self.close(place.node(Content::Scalar(value)), anchor)
            }
            Event::SequenceStart(style, anchor, tag) => {
                self.has_tags |= tag.is_some();
                self.begin(place, anchor, is_flow(style), OpenContent::List(Vec::new()))
            }
            Event::MappingStart(style, anchor, tag) => {
                self.has_tags |= tag.is_some();
                let content = OpenContent::Mapping { entries: Vec::new(), key: None, merged: Vec::new(), end: place.start };
                self.begin(place, anchor, is_flow(style), content)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    let anchor = open.anchor;
                    let node = open.finish(place.end);
                    self.close(node, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| wrong(place.line, "an alias that stands inside of what it is an alias for"))?;
                self.count(node.size(), place.line)?;
                self.place(Node { is_alias: true, ..place.node(node.content) })
            }
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.has_tags = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The parser takes the indentation of what follows to belong to `|` and `>`. They end with the line before.
    fn end_of_block_scalar(&self, end: usize) -> usize {
        let before = self.text.get(..end).unwrap_or_default();
        let trimmed = before.trim_end_matches([' ', '\t']);
        if trimmed.ends_with('\n') { trimmed.len() - 1 } else { end }
    }

    fn begin(&mut self, place: Place, anchor: usize, flow: bool, content: OpenContent) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(wrong(place.line, format!("nested deeper than {MAX_DEPTH}")));
        }
        self.open.push(Open { place, anchor, flow, content });
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.count(1, node.line)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node)
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), SyntaxError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            Err(wrong(line, format!("more than {MAX_NODES} values, aliases written out")))
        } else {
            Ok(())
        }
    }

    /// Puts a node where it belongs.
    fn place(&mut self, node: Node) -> Result<(), SyntaxError> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => {
                if !node.is_null() {
                    self.documents.push(Document { root: node, has_tags: self.has_tags });
                }
                Ok(())
            }
            Some(OpenContent::List(items)) => {
                items.push(node);
                Ok(())
            }
            Some(OpenContent::Mapping { entries, key, merged, end }) => {
                *end = node.end;
                match key.take() {
                    None => {
                        let text = key_text(&node).ok_or_else(|| wrong(node.line, "a key must be text"))?;
                        *key = Some(Key { text, line: node.line, end: node.end });
                    }
                    Some(key) if *key.text == *MERGE_KEY => merged.push(node),
                    Some(key) => {
                        if let Some(first) = entries.iter().find(|entry| entry.key == key.text) {
                            let message = format!("the key `{}` stands here twice, first on line {}", key.text, first.line);
                            return Err(wrong(key.line, message));
                        }
                        entries.push(Entry { key: key.text, line: key.line, key_end: key.end, is_merged: false, value: node });
                    }
                }
                Ok(())
            }
        }
    }
}

impl Open {
    /// The node, whose end event ends at `end`. What has no bracket ends with what is last in it.
    fn finish(self, end: usize) -> Node {
        let flow = self.flow;
        let (content, last) = match self.content {
            OpenContent::List(items) => {
                let last = items.last().map_or(self.place.end, |item| item.end);
                (Content::List { items, flow }, last)
            }
            OpenContent::Mapping { mut entries, merged, end, .. } => {
                take_over(&mut entries, merged);
                (Content::Mapping { entries, flow }, end)
            }
        };
        Node { end: if flow { end } else { last }, ..self.place.node(content) }
    }
}

/// What the mapping says itself counts more than what it takes over, and the first of several sources most.
fn take_over(entries: &mut Vec<Entry>, merged: Vec<Node>) {
    for source in merged {
        let sources = if let Content::List { items, .. } = source.content { items } else { vec![source] };
        for entry in sources.into_iter().flat_map(mapping_entries) {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(Entry { is_merged: true, ..entry });
            }
        }
    }
}

fn mapping_entries(node: Node) -> Vec<Entry> {
    if let Content::Mapping { entries, .. } = node.content { entries } else { Vec::new() }
}

fn is_flow(style: granit_parser::StructureStyle) -> bool {
    style == granit_parser::StructureStyle::Flow
}

fn key_text(node: &Node) -> Option<Arc<str>> {
    match &node.content {
        Content::Scalar(Value::String(text)) => Some(text.as_str().into()),
        Content::Scalar(value) => Some(value.to_string().into()),
        Content::List { .. } | Content::Mapping { .. } => None,
    }
}

fn wrong(line: usize, message: impl Into<String>) -> SyntaxError {
    SyntaxError { line, message: message.into() }
}
