//! The chart, as part of this program, and its objects in the order in which Helm installs them.

use serde_json::{Value, json};

use super::template::Templates;
use crate::inject::yaml;

/// The defaults, with their comments.
pub(super) const VALUES: &str = include_str!("../../../charts/weir/values.yaml");
/// What values may be.
pub(super) const SCHEMA: &str = include_str!("../../../charts/weir/values.schema.json");
const CHART: &str = include_str!("../../../charts/weir/Chart.yaml");

macro_rules! templates {
    ($($file:literal),* $(,)?) => {
        [$(($file, include_str!(concat!("../../../charts/weir/templates/", $file)))),*]
    };
}

/// All templates but the notes, which are for `helm install` to show.
const TEMPLATES: [(&str, &str); 9] = templates!(
    "_helpers.tpl",
    "control-plane-rbac.yaml",
    "control-plane.yaml",
    "injector-rbac.yaml",
    "injector.yaml",
    "namespace.yaml",
    "pod-monitors.yaml",
    "traffic-policy-crd.yaml",
    "webhooks.yaml",
);

/// The order of kinds in which nothing is missing what it refers to. Kinds that are not here come last.
const ORDER: [&str; 11] = [
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "Deployment",
];

/// One object.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// What it says.
    pub(crate) value: Value,
    /// The template that it comes from.
    file: &'static str,
    text: String,
}

impl Object {
    /// The text at a JSON pointer, empty if there is none.
    pub(crate) fn at(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The objects for values that were checked.
///
/// # Errors
///
/// What of the chart is wrong, with file and line. Values that keep to the schema do not lead to it.
pub(super) fn render(namespace: &str, values: &Value) -> Result<Vec<Object>, String> {
    let chart = yaml::read(CHART).map_err(|error| format!("charts/weir/Chart.yaml: {error}"))?;
    let member = |name: &str| chart.first().and_then(|chart| chart.get(name)).cloned().unwrap_or_default();
    let root = json!({
        "Values": values,
        "Release": {"Namespace": namespace},
        "Chart": {"Name": member("name"), "Version": member("version"), "AppVersion": member("appVersion")},
    });
    let mut templates = Templates::default();
    for (file, text) in TEMPLATES {
        templates.add(file, text).map_err(|error| error.to_string())?;
    }
    let mut objects = Vec::new();
    for (file, _) in TEMPLATES.into_iter().filter(|(file, _)| file.ends_with(".yaml")) {
        let text = templates.render(file, &root).map_err(|error| error.to_string())?;
        for text in documents(&text) {
            let read = yaml::read(&text).map_err(|error| format!("{file}: what it renders to is no YAML: {error}\n{text}"))?;
            objects.extend(read.into_iter().next().map(|value| Object { value, file, text }));
        }
    }
    objects.sort_by_key(|object| {
        let kind = object.at("/kind").to_owned();
        (ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len()), kind)
    });
    Ok(objects)
}

/// The objects of an installation with the defaults: what to look for, and what to delete.
///
/// # Errors
///
/// As [`render`].
pub(crate) fn defaults(namespace: &str) -> Result<Vec<Object>, String> {
    let values = super::values::merge(VALUES, &[super::Source::Set("namespace.create=true".to_owned())]);
    render(namespace, &values.map_err(|errors| errors.join("; "))?)
}

/// Objects as one text.
pub(super) fn text(objects: &[Object]) -> String {
    objects.iter().map(|object| format!("---\n# Source: weir/templates/{}\n{}\n", object.file, object.text.trim_end())).collect()
}

/// The documents of a file, without empty lines around them. Text without a separator is one.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            documents.push(String::new());
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents.into_iter().map(|text| text.trim_matches('\n').to_owned()).filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_template_of_the_chart_is_here() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/weir/templates");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> = files.filter(|file| file != "NOTES.txt").collect();
        assert_eq!(files, TEMPLATES.iter().map(|(file, _)| (*file).to_owned()).collect());
    }

    #[test]
    fn the_chart_has_the_version_of_the_programs() {
        let chart = &yaml::read(CHART).unwrap()[0];
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn an_installation_with_the_defaults() {
        insta::assert_snapshot!(text(&defaults("weir-system").unwrap()));
    }
}
