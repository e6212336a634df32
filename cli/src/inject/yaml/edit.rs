//! The smallest edits that turn what a document says into something else.
//!
//! The text around them stays as it is, comments, quotes and order included. Where that cannot be done, because anchors share
//! what is to differ or because of a layout that nobody writes, the document is written anew. Either way the result is read
//! again and compared with what was wanted.

use serde_json::{Map, Value};

use super::tree::{Content, Document, Entry, Node, parse};
use super::write::{Layout, flow, flow_member};

/// Replaces some bytes, or none, by text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::inject) struct Edit {
    start: usize,
    end: usize,
    insert: String,
}

/// How a document is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::inject) struct Rewrite {
    /// The edits, in the bytes of the whole file.
    pub(in crate::inject) edits: Vec<Edit>,
    /// The document is written anew: its comments are gone and its aliases are written out.
    pub(in crate::inject) is_anew: bool,
}

/// The edits that make a document say `target`. `None`: it cannot be done without losing something of what it says.
pub(in crate::inject) fn rewrite(text: &str, document: &Document, target: &Value) -> Option<Rewrite> {
    let root = &document.root;
    let layout = Layout { list_offset: list_offset(text, root).unwrap_or_default() };
    let mut editor = Editor { text, layout, edits: Vec::new() };
    if editor.change(root, target, Slot::Other).is_some() && says(text, root, &editor.edits, target) {
        return Some(Rewrite { edits: editor.edits, is_anew: false });
    }
    if document.has_tags {
        return None;
    }
    let edits = vec![editor.anew(root, target)];
    says(text, root, &edits, target).then_some(Rewrite { edits, is_anew: true })
}

/// Makes the edits, which do not overlap. Those at one place are made in the order given.
pub(in crate::inject) fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.start);
    let crlf = text.contains("\r\n");
    let mut out = String::with_capacity(text.len() + edits.iter().map(|edit| edit.insert.len()).sum::<usize>());
    let mut done = 0;
    for edit in edits {
        out.push_str(text.get(done..edit.start).unwrap_or_default());
        if crlf {
            out.push_str(&edit.insert.replace('\n', "\r\n"))
        } else {
            out.push_str(&edit.insert)
        }
        done = edit.end.max(done);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Whether the document says `target` after the edits.
fn says(text: &str, root: &Node, edits: &[Edit], target: &Value) -> bool {
    let (start, end) = (line_start(text, root.start), next_line(text, root.end).unwrap_or(text.len()));
    let moved =
        |edit: &Edit| Edit { start: edit.start - start.min(edit.start), end: edit.end - start.min(edit.end), ..edit.clone() };
    let Some(slice) = text.get(start..end) else { return false };
    let edited = apply(slice, edits.iter().map(moved).collect());
    parse(&edited).is_ok_and(|documents| matches!(documents.as_slice(), [only] if only.root.to_json() == *target))
}

/// Where a value stands.
#[derive(Clone, Copy)]
enum Slot {
    /// Behind a key of a block mapping whose keys stand in this column.
    Block { column: usize, key_end: usize },
    /// Within brackets or braces.
    Flow,
    /// Anywhere else.
    Other,
}

struct Editor<'a> {
    text: &'a str,
    layout: Layout,
    edits: Vec<Edit>,
}

impl Editor<'_> {
    /// Makes `node` say `target`. `None`: not in place.
    fn change(&mut self, node: &Node, target: &Value, slot: Slot) -> Option<()> {
        if node.to_json() == *target {
            return Some(());
        }
        match (&node.content, target) {
            _ if node.is_alias => self.replace(node, target, slot),
            (Content::Mapping { entries, flow }, Value::Object(members)) if !entries.is_empty() => {
                self.change_mapping(node, entries, *flow, members)
            }
            (Content::List { items, flow }, Value::Array(values)) if !items.is_empty() => {
                if items.len() == values.len() {
                    let slot = if *flow { Slot::Flow } else { Slot::Other };
                    return items.iter().zip(values).try_for_each(|(item, value)| self.change(item, value, slot));
                }
                let (at, added) = inserted(items, values)?;
                let kept = values.iter().take(at).chain(values.iter().skip(at + added.len()));
                let slot = if *flow { Slot::Flow } else { Slot::Other };
                items.iter().zip(kept).try_for_each(|(item, value)| self.change(item, value, slot))?;
                if *flow { self.insert_flow_items(node, items, at, added) } else { self.insert_items(node, items, at, added) }
            }
            (Content::Scalar(_), Value::Bool(_) | Value::Number(_) | Value::String(_)) if node.end > node.start => {
                self.replace_scalar(node, target)
            }
            _ => self.replace(node, target, slot),
        }
    }

    fn change_mapping(&mut self, node: &Node, entries: &[Entry], flow: bool, members: &Map<String, Value>) -> Option<()> {
        let mut added = members.clone();
        let is_removed = |entry: &Entry| !members.contains_key(&*entry.key);
        if flow && entries.iter().any(is_removed) {
            return self.insert_instead(node, flow_text(members));
        }
        for entry in entries {
            let Some(value) = members.get(&*entry.key) else {
                self.remove(entry)?;
                continue;
            };
            if entry.is_merged {
                // What comes from elsewhere and is to differ is written here, where it counts more.
                if entry.value.to_json() == *value {
                    added.remove(&*entry.key);
                }
                continue;
            }
            added.remove(&*entry.key);
            let slot = if flow { Slot::Flow } else { Slot::Block { column: node.column, key_end: entry.key_end } };
            self.change(&entry.value, value, slot)?;
        }
        if added.is_empty() {
            return Some(());
        }
        if !flow {
            let block = self.layout.block(&Value::Object(added), node.column, None);
            return self.insert_line_after(node.end, block);
        }
        let last = entries.iter().rfind(|entry| !entry.is_merged)?;
        let indent = self.flow_indent(node, last.line, last.key_end);
        let members = added.iter().map(|(key, value)| flow_member(key, value, indent.as_deref()));
        let text: String = members.map(|member| format!("{}{member}", separator(indent.as_deref()))).collect();
        self.insert(last.value.end.max(last.key_end), text)
    }

    fn insert_items(&mut self, list: &Node, items: &[Node], at: usize, added: &[Value]) -> Option<()> {
        let dash = dash(self.text, list)?;
        let block = self.layout.block(&Value::Array(added.to_vec()), dash.column, None);
        match at.checked_sub(1) {
            Some(before) => self.insert_line_after(items.get(before)?.end, block),
            None => {
                let start = line_start(self.text, dash.at);
                let is_alone = self.text.get(start..dash.at)?.trim().is_empty();
                is_alone.then(|| self.insert(above_comments(self.text, start), block))?
            }
        }
    }

    fn insert_flow_items(&mut self, list: &Node, items: &[Node], at: usize, added: &[Value]) -> Option<()> {
        let first = items.first()?;
        let indent = self.flow_indent(list, first.line, first.start);
        let indent = indent.as_deref();
        match at.checked_sub(1) {
            Some(before) => {
                let text: String = added.iter().map(|item| format!("{}{}", separator(indent), flow(item, indent))).collect();
                self.insert(items.get(before)?.end, text)
            }
            None => {
                let text: String = added.iter().map(|item| format!("{}{}", flow(item, indent), separator(indent))).collect();
                self.insert(first.start, text)
            }
        }
    }

    /// Takes the lines of an entry of a block mapping away.
    fn remove(&mut self, entry: &Entry) -> Option<()> {
        let start = line_start(self.text, entry.key_end);
        // Behind a dash or another key it is not alone on its line; what comes from elsewhere cannot be taken away here.
        let before = self.text.get(start..entry.key_end)?;
        let is_alone = before.trim_start().trim_matches(['"', '\'']) == &*entry.key;
        if entry.is_merged || entry.value.is_alias || !is_alone {
            return None;
        }
        let end = next_line(self.text, entry.value.end.max(entry.key_end)).unwrap_or(self.text.len());
        self.edits.push(Edit { start, end, insert: String::new() });
        Some(())
    }

    /// Replaces a word by another one.
    fn replace_scalar(&mut self, node: &Node, target: &Value) -> Option<()> {
        let written = self.text.get(node.start..node.end)?;
        let is_word = !written.contains('\n') && !written.starts_with(['|', '>', '&', '!', '*']);
        is_word.then(|| self.insert_instead(node, flow(target, None)))?
    }

    fn insert_instead(&mut self, node: &Node, text: String) -> Option<()> {
        self.edits.push(Edit { start: node.start, end: node.end, insert: text });
        Some(())
    }

    /// Replaces nothing (`null`, `[]`, `{}`) or an alias by a value.
    fn replace(&mut self, node: &Node, target: &Value, slot: Slot) -> Option<()> {
        let is_nothing = match &node.content {
            Content::Scalar(value) => value.is_null(),
            Content::List { items, flow } => items.is_empty() && *flow,
            Content::Mapping { entries, flow } => entries.is_empty() && *flow,
        };
        if !is_nothing && !node.is_alias {
            return None;
        }
        match slot {
            Slot::Block { column, key_end } => {
                let rest = self.text.get(key_end..)?;
                let colon = key_end + rest.len() - rest.trim_start().len();
                let after = self.text.get(colon..)?.starts_with(':').then_some(colon + 1)?;
                let end = node.end.max(after);
                let is_written = node.end > node.start;
                // Only white space: an anchor or a comment there would be lost.
                if is_written && !self.text.get(after..node.start)?.trim().is_empty() {
                    return None;
                }
                let indent = if target.is_array() { column + self.layout.list_offset } else { column + 2 };
                let block = self.layout.block(target, indent, None);
                self.edits.push(Edit { start: after, end: if is_written { end } else { after }, insert: String::new() });
                self.insert_line_after(end, block)
            }
            Slot::Flow if node.end > node.start => {
                self.edits.push(Edit { start: node.start, end: node.end, insert: flow(target, None) });
                Some(())
            }
            Slot::Flow | Slot::Other => None,
        }
    }

    /// The whole document in other words.
    fn anew(&self, root: &Node, target: &Value) -> Edit {
        let is_flow = matches!(root.content, Content::Mapping { flow: true, .. } | Content::List { flow: true, .. });
        if is_flow {
            return Edit { start: root.start, end: root.end, insert: flow(target, Some("")) };
        }
        let start = line_start(self.text, root.start);
        let end = next_line(self.text, root.end).unwrap_or(self.text.len());
        Edit { start, end, insert: self.layout.block(target, 0, Some(root)) }
    }

    /// The white space before what is in braces, if they stand over several lines. `None`: one line.
    fn flow_indent(&self, node: &Node, line: usize, within: usize) -> Option<String> {
        let start = line_start(self.text, within);
        let rest = self.text.get(start..)?;
        let indent = rest.get(..rest.len() - rest.trim_start_matches([' ', '\t']).len())?;
        (node.line != line).then(|| indent.to_owned())
    }

    fn insert(&mut self, at: usize, text: String) -> Option<()> {
        self.edits.push(Edit { start: at, end: at, insert: text });
        Some(())
    }

    /// Inserts whole lines below the one that has the byte `end`.
    fn insert_line_after(&mut self, end: usize, block: String) -> Option<()> {
        match next_line(self.text, end) {
            Some(at) => self.insert(at, block),
            None => self.insert(self.text.len(), format!("\n{}", block.trim_end_matches('\n'))),
        }
    }
}

fn separator(indent: Option<&str>) -> String {
    indent.map_or_else(|| ", ".to_owned(), |indent| format!(",\n{indent}"))
}

/// Where and what was inserted, if all items are still there and in order. One that has changed is known by its name.
fn inserted<'a>(items: &[Node], values: &'a [Value]) -> Option<(usize, &'a [Value])> {
    let count = values.len().checked_sub(items.len())?;
    let old: Vec<Value> = items.iter().map(Node::to_json).collect();
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    let is_same = |(old, new): (&Value, &Value)| old == new || (name(old).is_some() && name(old) == name(new));
    let at = old.iter().zip(values).take_while(|pair| is_same(*pair)).count();
    let (kept, rest) = (values.get(at + count..)?, old.get(at..)?);
    let is_kept = kept.len() == rest.len() && rest.iter().zip(kept).all(is_same);
    is_kept.then_some((at, values.get(at..at + count)?))
}

fn flow_text(members: &Map<String, Value>) -> String {
    flow(&Value::Object(members.clone()), None)
}

struct Dash {
    at: usize,
    column: usize,
}

/// The first dash of a block list.
fn dash(text: &str, list: &Node) -> Option<Dash> {
    let Content::List { items, .. } = &list.content else { return None };
    // The parser reports a list that is indented at its first dash, and one that is not at its first item.
    let is_dash = items.first()?.start > list.start && text.get(list.start..)?.starts_with('-');
    let at = if is_dash { list.start } else { text.get(..list.start)?.trim_end().strip_suffix('-')?.len() };
    Some(Dash { at, column: at - line_start(text, at) })
}

/// How far the first list of a document stands to the right of its key.
fn list_offset(text: &str, node: &Node) -> Option<usize> {
    match &node.content {
        _ if node.is_alias => None,
        Content::Mapping { entries, flow: false } => entries.iter().filter(|entry| !entry.is_merged).find_map(|entry| {
            let own = match &entry.value.content {
                Content::List { flow: false, .. } if !entry.value.is_alias => dash(text, &entry.value),
                _ => None,
            };
            own.and_then(|dash| dash.column.checked_sub(node.column)).or_else(|| list_offset(text, &entry.value))
        }),
        Content::List { items, flow: false } => items.iter().find_map(|item| list_offset(text, item)),
        _ => None,
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// Start of the line below the one with this byte.
fn next_line(text: &str, at: usize) -> Option<usize> {
    text.get(at..).and_then(|rest| rest.find('\n')).map(|newline| at + newline + 1)
}

/// Start of the comment lines that stand directly above a line: they belong to it.
fn above_comments(text: &str, mut start: usize) -> usize {
    while let Some(above) = start.checked_sub(1).map(|newline| line_start(text, newline)) {
        if !text.get(above..start).is_some_and(|line| line.trim_start().starts_with('#')) {
            break;
        }
        start = above;
    }
    start
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
