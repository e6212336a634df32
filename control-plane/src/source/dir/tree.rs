//! What the files of a directory say together. Pure: contents in, a batch out.
//!
//! A file that stops being YAML, and an object that stops being valid, count as they were when they were last good: an edit that
//! went wrong must not take down what runs. Of an object that stands in two places the first counts, by file name and then by
//! line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::yaml::{self, Content, Node};
use crate::diagnostics::{Diagnostic, Level, Locate, Location};
use crate::index::Event;
use crate::objects::{self, Decoded, FieldPath, Object, ObjectKey, Problem};
use crate::source::Batch;

/// The contents of all files, or why one cannot be read.
pub type Contents = BTreeMap<Arc<Path>, Result<Arc<[u8]>, String>>;

/// All files as they were last seen.
#[derive(Default)]
pub struct Tree {
    files: BTreeMap<Arc<Path>, File>,
    served: Arc<Served>,
    /// Unknown kinds that somebody was told about.
    warned: BTreeMap<(String, String), Diagnostic>,
}

type Served = BTreeMap<ObjectKey, Found>;

/// A file.
struct File {
    content: Result<Arc<[u8]>, String>,
    /// What it says; what it said when it was last good, where it says nothing now.
    objects: Vec<Found>,
    diagnostics: Vec<Diagnostic>,
}

/// An object in a file.
#[derive(Clone)]
struct Found {
    key: ObjectKey,
    object: Object,
    file: Arc<Path>,
    written: Arc<Node>,
    /// What is not honoured in it.
    problems: Vec<Problem>,
}

impl Found {
    fn location(&self, field: &FieldPath) -> Location {
        let at = self.written.locate(field);
        Location { file: Arc::clone(&self.file), line: at.line, column: at.column }
    }
}

impl Tree {
    /// Takes what the files say now. `None`: nothing is different.
    pub fn update(&mut self, contents: &Contents) -> Option<Batch> {
        let gone: BTreeSet<Arc<Path>> = self.files.keys().filter(|path| !contents.contains_key(*path)).cloned().collect();
        let mut changed = !gone.is_empty();
        self.files.retain(|path, _| !gone.contains(path));
        for (path, content) in contents {
            if self.files.get(path).is_none_or(|file| file.content != *content) {
                let last_good = self.files.remove(path).map(|file| file.objects).unwrap_or_default();
                let file = self.read(path, content, &last_good);
                self.files.insert(Arc::clone(path), file);
                changed = true;
            }
        }
        changed.then(|| self.merge())
    }

    fn read(&mut self, path: &Arc<Path>, content: &Result<Arc<[u8]>, String>, last_good: &[Found]) -> File {
        let mut reading = Reading { path, last_good, objects: Vec::new(), diagnostics: Vec::new(), warned: &mut self.warned };
        let kept = if last_good.is_empty() { "" } else { "; what it said before still counts" };
        let documents = match content {
            Err(reason) => Err((None, format!("cannot be read: {reason}{kept}"))),
            Ok(bytes) => match std::str::from_utf8(bytes) {
                Err(error) => Err((None, format!("is not UTF-8 text at byte {}{kept}", error.valid_up_to()))),
                Ok(text) => yaml::parse(text.trim_start_matches('\u{feff}'))
                    .map_err(|error| (Some(error.at), format!("is not YAML: {}{kept}", error.message))),
            },
        };
        match documents {
            Ok(documents) => documents.into_iter().for_each(|document| reading.document(document)),
            Err((at, message)) => {
                reading.diagnostics.push(diagnostic(path, at, Level::Error, message));
                reading.objects = last_good.to_vec();
            }
        }
        let (objects, diagnostics) = (reading.objects, reading.diagnostics);
        File { content: content.clone(), objects, diagnostics }
    }

    fn merge(&mut self) -> Batch {
        let mut served: Served = BTreeMap::new();
        let mut diagnostics: Vec<Diagnostic> = self.warned.values().cloned().collect();
        // A warning about a file that is gone is of no use.
        diagnostics.retain(|it| it.file.as_ref().is_none_or(|file| self.files.contains_key(file)));
        for file in self.files.values() {
            diagnostics.extend(file.diagnostics.iter().cloned());
            for found in &file.objects {
                if let Some(first) = served.get(&found.key) {
                    diagnostics.push(duplicate(found, first));
                    continue;
                }
                diagnostics.extend(found.problems.iter().map(|problem| describe(found, problem)));
                served.insert(found.key.clone(), found.clone());
            }
        }
        let events = difference(&self.served, &served);
        self.served = Arc::new(served);
        Batch { events, diagnostics, locate: self.locate(), judged: Vec::new() }
    }

    fn locate(&self) -> Locate {
        let served = Arc::clone(&self.served);
        Arc::new(move |key, field| served.get(key).map(|found| found.location(field)))
    }
}

/// One file while it is read.
struct Reading<'a> {
    path: &'a Arc<Path>,
    last_good: &'a [Found],
    objects: Vec<Found>,
    diagnostics: Vec<Diagnostic>,
    warned: &'a mut BTreeMap<(String, String), Diagnostic>,
}

impl Reading<'_> {
    fn document(&mut self, node: Node) {
        let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
        // `kubectl get -o yaml` writes a List; its items are objects like any.
        if kind.ends_with("List") && matches!(node.get("items").map(|items| &items.content), Some(Content::List(_))) {
            if let Content::Mapping(entries) = node.content {
                let items = entries.into_iter().find(|(key, _, _)| **key == *"items").map(|(_, _, items)| items.content);
                if let Some(Content::List(items)) = items {
                    items.into_iter().for_each(|item| self.document(item));
                }
            }
            return;
        }
        self.object(Arc::new(node));
    }

    fn object(&mut self, node: Arc<Node>) {
        match objects::decode(&node.to_json()) {
            Decoded::Object(object, problems) => {
                let (key, file) = (object.key(), Arc::clone(self.path));
                self.objects.push(Found { key, object, file, written: node, problems });
            }
            Decoded::Unknown { api_version, kind } => {
                let message =
                    format!("{kind} ({api_version}) is not a kind that Weir reads, and is ignored (said once for each kind)");
                let warning = diagnostic(self.path, Some(node.at), Level::Warning, message);
                self.warned.entry((api_version, kind)).or_insert(warning);
            }
            Decoded::Refused(key, problems) => self.refused(key, &problems, &node),
        }
    }

    fn refused(&mut self, key: Option<ObjectKey>, problems: &[Problem], node: &Node) {
        let last_good = self.last_good.iter().find(|found| Some(&found.key) == key.as_ref());
        let kept = if last_good.is_some() { "; the object before still counts" } else { "" };
        for problem in problems {
            let message = format!("{}{kept}", problem.message);
            let mut diagnostic = diagnostic(self.path, Some(node.locate(&problem.field)), Level::Error, message);
            diagnostic.object = key.as_ref().map(ToString::to_string);
            diagnostic.field = Some(problem.field.to_string()).filter(|field| !field.is_empty());
            self.diagnostics.push(diagnostic);
        }
        // Its problems were those of a text that is gone.
        self.objects.extend(last_good.map(|found| Found { problems: Vec::new(), ..found.clone() }));
    }
}

fn difference(old: &Served, new: &Served) -> Vec<Event> {
    let deleted = old.keys().filter(|key| !new.contains_key(*key)).map(|key| Event::Delete(key.clone()));
    let changed = new.iter().filter(|(key, found)| old.get(*key).is_none_or(|before| before.object != found.object));
    deleted.chain(changed.map(|(_, found)| Event::Apply(found.object.clone()))).collect()
}

fn describe(found: &Found, problem: &Problem) -> Diagnostic {
    let at = found.written.locate(&problem.field);
    let mut diagnostic = diagnostic(&found.file, Some(at), Level::Error, problem.message.clone());
    diagnostic.object = Some(found.key.to_string());
    diagnostic.field = Some(problem.field.to_string());
    diagnostic
}

fn duplicate(second: &Found, first: &Found) -> Diagnostic {
    let message = format!("stands also in {} on line {}, and that one counts", first.file.display(), first.written.at.line);
    let mut diagnostic = diagnostic(&second.file, Some(second.written.at), Level::Error, message);
    diagnostic.object = Some(second.key.to_string());
    diagnostic
}

fn diagnostic(path: &Arc<Path>, at: Option<yaml::Position>, level: Level, message: String) -> Diagnostic {
    Diagnostic {
        file: Some(Arc::clone(path)),
        line: at.map(|at| at.line),
        column: at.map(|at| at.column),
        level,
        object: None,
        field: None,
        message,
    }
}
