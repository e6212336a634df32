//! What of a manifest is a workload, and where in it the pod is.

use serde_json::Value;

/// A kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// As manifests write it.
    pub(super) name: &'static str,
    group: &'static str,
    /// The way to what has the shape of a pod.
    pub(super) template: &'static [&'static str],
    /// Whether its pods are meant to end.
    pub(super) ends: bool,
}

const fn kind(name: &'static str, group: &'static str, template: &'static [&'static str], ends: bool) -> Kind {
    Kind { name, group, template, ends }
}

const TEMPLATE: &[&str] = &["spec", "template"];

/// Everything that a sidecar can be put into.
const KINDS: [Kind; 8] = [
    kind("Pod", "", &[], false),
    kind("ReplicationController", "", TEMPLATE, false),
    kind("Deployment", "apps", TEMPLATE, false),
    kind("StatefulSet", "apps", TEMPLATE, false),
    kind("DaemonSet", "apps", TEMPLATE, false),
    kind("ReplicaSet", "apps", TEMPLATE, false),
    kind("Job", "batch", TEMPLATE, true),
    kind("CronJob", "batch", &["spec", "jobTemplate", "spec", "template"], true),
];

/// An object of a document: the document itself, or an item of a list in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// The way to it, empty for the document itself.
    pub(super) path: Vec<String>,
    kind: String,
    group: String,
}

/// Lists within lists: `kubectl` makes one level, and nobody more.
const MAX_LISTS: usize = 4;

/// The objects of a document: itself, or the items of a List.
pub(super) fn objects(document: &Value) -> Vec<Object> {
    let mut found = Vec::new();
    collect(document, Vec::new(), None, &mut found);
    found
}

fn collect(value: &Value, path: Vec<String>, inherited: Option<(&str, &str)>, found: &mut Vec<Object>) {
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    // The items of a PodList need not say that they are pods.
    let kind = field("kind").or(inherited.map(|(kind, _)| kind));
    let version = field("apiVersion").or(inherited.map(|(_, version)| version));
    let (Some(kind), Some(version)) = (kind, version) else { return };
    if let Some(item_kind) = kind.strip_suffix("List")
        && let Some(items) = value.get("items").and_then(Value::as_array)
        && path.len() < MAX_LISTS * 2
    {
        let inherited = (!item_kind.is_empty()).then_some((item_kind, version));
        for (i, item) in items.iter().enumerate() {
            let path = path.iter().cloned().chain(["items".to_owned(), i.to_string()]).collect();
            collect(item, path, inherited, found);
        }
        return;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    found.push(Object { path, kind: kind.to_owned(), group: group.to_owned() });
}

impl Object {
    /// What kind of workload it is, if it is one.
    pub(super) fn workload(&self) -> Option<Kind> {
        KINDS.into_iter().find(|kind| kind.name == self.kind && kind.group == self.group)
    }

    /// Whether it is a Namespace.
    pub(super) fn is_namespace(&self) -> bool {
        self.kind == "Namespace" && self.group.is_empty()
    }

    /// The object, in the document that it was found in.
    pub(super) fn read<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        document.pointer(&pointer(&self.path))
    }

    /// What has the shape of a pod in it, to be changed.
    pub(super) fn template<'a>(&self, kind: Kind, document: &'a mut Value) -> Option<&'a mut Value> {
        document.pointer_mut(&pointer(&self.path))?.pointer_mut(&pointer(kind.template)).filter(|template| !template.is_null())
    }
}

/// Keys here have neither `~` nor `/`, so nothing is escaped (RFC 6901, section 3).
fn pointer(path: &[impl AsRef<str>]) -> String {
    path.iter().map(|step| format!("/{}", step.as_ref())).collect()
}

/// The name of an object, or what stands for it.
pub(super) fn name(object: &Value) -> String {
    let field = |name: &str| object.pointer(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (field("/metadata/name"), field("/metadata/generateName")) {
        (Some(name), _) => shown(name),
        (None, Some(prefix)) => format!("{}*", shown(prefix)),
        (None, None) => "(no name)".to_owned(),
    }
}

/// What a file says, made fit for one line of a terminal.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workloads(document: &Value) -> Vec<(String, Option<&'static str>)> {
        objects(document).iter().map(|it| (pointer(&it.path), it.workload().map(|kind| kind.name))).collect()
    }

    #[test]
    fn workloads_are_known_by_kind_and_group() {
        for (version, kind, known) in [
            ("v1", "Pod", true),
            ("apps/v1", "Deployment", true),
            ("batch/v1", "CronJob", true),
            ("v1", "Deployment", false),
            ("apps.example.com/v1", "Deployment", false),
            ("v1", "ConfigMap", false),
        ] {
            let found = workloads(&json!({"apiVersion": version, "kind": kind}));
            assert_eq!(found, [(String::new(), known.then_some(kind))], "{version} {kind}");
        }
        assert_eq!(workloads(&json!({"kind": "Pod"})), []);
        assert_eq!(workloads(&json!("text")), []);
    }

    #[test]
    fn items_of_lists_are_objects_and_may_take_their_kind_from_the_list() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod"});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod, {"x": 1}, 7]});
        assert_eq!(workloads(&list), [("/items/0".to_owned(), Some("Pod"))]);
        let list = json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{}, {}]});
        assert_eq!(workloads(&list).last(), Some(&("/items/1".to_owned(), Some("Deployment"))));
    }

    #[test]
    fn names_do_not_reach_the_terminal_as_they_are() {
        assert_eq!(name(&json!({"metadata": {"name": "a\u{1b}[2J"}})), "a\\u{1b}[2J");
        assert_eq!(name(&json!({"metadata": {"generateName": "job-"}})), "job-*");
        assert_eq!(name(&json!({})), "(no name)");
    }
}
