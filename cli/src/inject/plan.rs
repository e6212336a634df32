//! What happens to each object of the input.

use std::collections::BTreeMap;

use serde_json::Value;
use weir_injector::decide::{Decision, Refusal, SkipReason, decide, warnings};
use weir_injector::installation::Placement;
use weir_injector::patch;
use weir_injector::pod::{Namespace, Pod};
use weir_injector::settings::{INJECT, Owner};

use super::flags::Settings;
use super::workload::{Kind, Object, name, objects, shown};
use super::yaml::{Document, Edit, apply, parse, rewrite};

/// A file that was read.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// As messages call it.
    pub(super) name: String,
    /// What is in it.
    pub(super) text: String,
}

/// What comes out.
#[derive(Clone, Debug)]
pub(super) struct Injected {
    /// All files, one behind the other.
    pub(super) text: String,
    /// A line for each workload, and warnings.
    pub(super) notes: Vec<String>,
}

/// Injects into all workloads of all inputs.
///
/// # Errors
///
/// Everything that is wrong, each with file, line and object. There is no output then.
pub(super) fn inject(inputs: &[Input], settings: &Settings) -> Result<Injected, Vec<String>> {
    let files = read(inputs)?;
    let mut plan = Plan { settings, namespaces: namespaces(&files)?, notes: Vec::new(), errors: Vec::new() };
    let mut texts = Vec::new();
    let mut wanted = Vec::new();
    for file in &files {
        let mut edits = Vec::new();
        for (document, value) in &file.documents {
            let mut target = value.clone();
            for object in objects(value) {
                plan.take(file, document, &object, &mut target);
            }
            edits.extend(plan.edits(file, document, value, &target));
            wanted.push(target);
        }
        texts.push(apply(&file.input.text, edits));
    }
    if !plan.errors.is_empty() {
        return Err(plan.errors);
    }
    let text = joined(&texts);
    let says = parse(&text).map(|documents| documents.iter().map(|it| it.root.to_json()).collect::<Vec<_>>());
    if says.as_ref() == Ok(&wanted) {
        Ok(Injected { text, notes: plan.notes })
    } else {
        let advice = "give the files one by one, and report the one that it fails for";
        Err(vec![format!("weir inject: the files put together would not say what they should, a fault of weir: {advice}")])
    }
}

/// A file with what it says.
struct File<'a> {
    input: &'a Input,
    documents: Vec<(Document, Value)>,
}

fn read(inputs: &[Input]) -> Result<Vec<File<'_>>, Vec<String>> {
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for input in inputs {
        match parse(&input.text) {
            Ok(documents) => {
                let with_value = |document: Document| {
                    let value = document.root.to_json();
                    (document, value)
                };
                files.push(File { input, documents: documents.into_iter().map(with_value).collect() });
            }
            Err(error) => errors.push(format!("{}:{}: this is not YAML: {}", input.name, error.line, shown(&error.message))),
        }
    }
    if errors.is_empty() { Ok(files) } else { Err(errors) }
}

/// The Namespace objects of the input by name; of two with one name the last counts, as when both are applied.
fn namespaces(files: &[File<'_>]) -> Result<BTreeMap<String, Namespace>, Vec<String>> {
    let (mut found, mut errors) = (BTreeMap::new(), Vec::new());
    for file in files {
        for (document, value) in &file.documents {
            for object in objects(value).iter().filter(|object| object.is_namespace()) {
                match object.read(value).map(Namespace::read) {
                    Some(Ok(namespace)) => drop(found.insert(namespace.name.clone(), namespace)),
                    Some(Err(error)) => {
                        let line = line(document, &object.path, &[]);
                        let name = object.read(value).map(name).unwrap_or_default();
                        errors.push(format!("{}:{line}: Namespace {name}: it cannot be read: {error}", file.input.name));
                    }
                    None => {}
                }
            }
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// Line of an object, or of something in it.
fn line(document: &Document, object: &[String], within: &[&str]) -> usize {
    let path: Vec<&str> = object.iter().map(String::as_str).chain(within.iter().copied()).collect();
    document.root.line_of(&path)
}

struct Plan<'a> {
    settings: &'a Settings,
    namespaces: BTreeMap<String, Namespace>,
    notes: Vec<String>,
    errors: Vec<String>,
}

/// A workload as messages name it.
struct Subject<'a> {
    file: &'a str,
    line: usize,
    title: String,
}

impl Plan<'_> {
    /// Decides about one object, and makes `target` what it is to be.
    fn take(&mut self, file: &File<'_>, document: &Document, object: &Object, target: &mut Value) {
        let (Some(kind), Some(value)) = (object.workload(), object.read(target)) else { return };
        let own = value.pointer("/metadata/namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
        let namespace = self.namespace(own.unwrap_or(&self.settings.namespace));
        let title = format!("{} {}/{}", kind.name, shown(&namespace.name), name(value));
        let misplaced = says_inject(value) && !kind.template.is_empty();
        let subject = Subject { file: &file.input.name, line: line(document, &object.path, &[]), title };
        let Some(template) = object.template(kind, target) else {
            let way = kind.template.join(".");
            return self.note(&subject, "skipped", &format!(": it has no pod template (`{way}`)"));
        };
        let pod = match Pod::read(template) {
            Ok(pod) => pod,
            Err(invalid) => return self.error(&subject, None, &format!("weir cannot read this pod: {invalid}")),
        };
        match decide(&pod, &namespace, &self.settings.installation) {
            Decision::Inject(settings) => {
                let patch = patch::patch(template, &pod, &settings, &self.settings.installation);
                if let Err(misfit) = patch::apply(template, &patch) {
                    return self.error(&subject, None, &misfit.to_string());
                }
                self.note(&subject, "injected", "");
                self.warn(&subject, &warnings(&pod));
                self.warn_of_what_never_ends(&subject, kind);
            }
            Decision::Skip(SkipReason::AlreadyInjected) => self.complete(&subject, template),
            Decision::Skip(reason) => self.note(&subject, "skipped", &format!(": {reason}")),
            Decision::Refuse(refusals) => {
                for refusal in refusals {
                    let line = setting_line(document, object, kind, &pod, &refusal);
                    self.error(&subject, line, &refusal.to_string());
                }
            }
        }
        if misplaced {
            let way = kind.template.join(".");
            self.warn(
                &subject,
                &[format!("{INJECT} counts on the pod template (`{way}.metadata`), and not on the {}", kind.name)],
            );
        }
    }

    /// Sends through the sidecar that a pod has what was added since: containers and probes.
    fn complete(&mut self, subject: &Subject<'_>, template: &mut Value) {
        let patch = patch::complete(template);
        if let Err(misfit) = patch::apply(template, &patch) {
            return self.error(subject, None, &misfit.to_string());
        }
        if patch.is_empty() {
            self.note(subject, "skipped", &format!(": {}", SkipReason::AlreadyInjected));
        } else {
            self.note(subject, "completed", ": its probes go through the sidecar that it has");
        }
    }

    /// The namespace with what the input says about it. Whoever runs the command asks for sidecars, so that a namespace that
    /// says nothing counts as enabled.
    fn namespace(&self, name: &str) -> Namespace {
        let unknown = || Namespace { name: name.to_owned(), ..Namespace::default() };
        let mut namespace = self.namespaces.get(name).cloned().unwrap_or_else(unknown);
        let metadata = &mut namespace.metadata;
        if !metadata.labels.contains_key(INJECT) && !metadata.annotations.contains_key(INJECT) {
            metadata.labels.insert(INJECT.to_owned(), "enabled".to_owned());
        }
        namespace
    }

    /// The edits that turn a document into what it is to be.
    fn edits(&mut self, file: &File<'_>, document: &Document, value: &Value, target: &Value) -> Vec<Edit> {
        if value == target {
            return Vec::new();
        }
        let (name, line) = (&file.input.name, document.root.line);
        match rewrite(&file.input.text, document, target) {
            Some(rewrite) => {
                if rewrite.is_anew {
                    self.notes.push(format!(
                        "{name}:{line}: warning: this document is written anew, without its comments and aliases, since they \
                         share what differs now"
                    ));
                }
                rewrite.edits
            }
            None => {
                self.errors.push(format!(
                    "{name}:{line}: weir cannot change this document without changing what its tags mean: write values \
                     without `!…`"
                ));
                Vec::new()
            }
        }
    }

    /// Before native sidecars, a container that keeps running keeps its pod from ending.
    fn warn_of_what_never_ends(&mut self, subject: &Subject<'_>, kind: Kind) {
        let version = self.settings.installation.kubernetes;
        if kind.ends && version.placement() == Placement::Container {
            let advice = format!("say {INJECT}: disabled on its pod template, or use Kubernetes 1.29");
            let warning =
                format!("on Kubernetes {version} the sidecar runs on when the job is done, and its pod never ends: {advice}");
            self.warn(subject, &[warning]);
        }
    }

    fn note(&mut self, subject: &Subject<'_>, verb: &str, reason: &str) {
        self.notes.push(format!("{}:{}: {verb} {}{reason}", subject.file, subject.line, subject.title));
    }

    fn warn(&mut self, subject: &Subject<'_>, warnings: &[String]) {
        let lines = warnings.iter().map(|text| format!("{}:{}: warning: {}: {text}", subject.file, subject.line, subject.title));
        self.notes.extend(lines);
    }

    fn error(&mut self, subject: &Subject<'_>, line: Option<usize>, message: &str) {
        let line = line.unwrap_or(subject.line);
        self.errors.push(format!("{}:{line}: {}: {message}", subject.file, subject.title));
    }
}

/// Where a bad annotation or label of the pod is written.
fn setting_line(document: &Document, object: &Object, kind: Kind, pod: &Pod, refusal: &Refusal) -> Option<usize> {
    let Refusal::Setting(setting) = refusal else { return None };
    if setting.owner != Owner::Pod {
        return None;
    }
    let holder = if pod.metadata.annotations.contains_key(setting.name) { "annotations" } else { "labels" };
    let within: Vec<&str> = kind.template.iter().copied().chain(["metadata", holder, setting.name]).collect();
    Some(line(document, &object.path, &within))
}

fn says_inject(object: &Value) -> bool {
    let holders = ["/metadata/labels", "/metadata/annotations"].into_iter();
    holders.filter_map(|holder| object.pointer(holder)).any(|holder| holder.get(INJECT).is_some())
}

/// Files one behind the other, each beginning a document.
fn joined(texts: &[String]) -> String {
    let mut out = String::new();
    for text in texts {
        if out.is_empty() {
            out.push_str(text);
            continue;
        }
        let text = text.trim_start_matches('\u{feff}');
        if !out.ends_with('\n') {
            out.push('\n');
        }
        match text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            Some(first) if first.starts_with('%') => out.push_str("...\n"),
            Some(first) if first != "---" && !first.starts_with("--- ") => out.push_str("---\n"),
            _ => {}
        }
        out.push_str(text);
    }
    out
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
