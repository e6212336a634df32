//! Names under `weir.dev/`: where they mean something, and what was probably meant by one that means nothing.

use std::fmt;

use crate::pod::Metadata;
use crate::ports::excerpt;
use crate::settings::{INJECT, KNOWN, OPAQUE_PORTS, STATUS};

/// What carries labels and annotations for the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Pod.
    Pod,
    /// A Namespace, which speaks for its Pods.
    Namespace,
    /// A Service.
    Service,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
        })
    }
}

impl Kind {
    fn reads(self, annotation: &str) -> bool {
        match self {
            Self::Pod => KNOWN.contains(&annotation),
            Self::Namespace => KNOWN.contains(&annotation) && annotation != STATUS,
            Self::Service => annotation == OPAQUE_PORTS,
        }
    }

    fn reads_label(self, label: &str) -> bool {
        label == INJECT && self != Self::Service
    }
}

/// What starts all names of the project.
const PREFIX: &str = "weir.dev/";
/// As many slips of the pen make a word another one.
const MAX_DISTANCE: usize = 3;
/// Names may have 63 characters after the prefix; a longer one is compared no further.
const MAX_COMPARED: usize = 80;

/// What is to be said of names that mean nothing where they stand.
#[must_use]
pub fn warnings(kind: Kind, metadata: &Metadata) -> Vec<String> {
    let own = |name: &&String| name.starts_with(PREFIX);
    let annotations = metadata.annotations.keys().filter(own).filter_map(|name| of_annotation(kind, name));
    let labels = metadata.labels.keys().filter(own).filter_map(|name| of_label(kind, name));
    annotations.chain(labels).collect()
}

fn of_annotation(kind: Kind, name: &str) -> Option<String> {
    if kind.reads(name) {
        None
    } else if KNOWN.contains(&name) {
        Some(format!("weir: the annotation `{name}` has no effect on a {kind}"))
    } else {
        Some(format!("weir does not know the annotation `{}`, and it has no effect{}", excerpt(name), suggestion(name)))
    }
}

fn of_label(kind: Kind, name: &str) -> Option<String> {
    if kind.reads_label(name) {
        None
    } else if kind.reads(name) {
        Some(format!("weir: `{name}` has no effect as a label: write it as an annotation"))
    } else if KNOWN.contains(&name) {
        Some(format!("weir: the label `{name}` has no effect on a {kind}"))
    } else {
        Some(format!("weir does not know the label `{}`, and it has no effect{}", excerpt(name), suggestion(name)))
    }
}

/// The known name that is nearest, if one is near.
fn suggestion(name: &str) -> String {
    let distances = KNOWN.iter().filter(|known| **known != STATUS).map(|known| (distance(name, known), known));
    match distances.min() {
        Some((distance, known)) if distance <= MAX_DISTANCE => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// How many letters have to be added, taken away or replaced (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(MAX_COMPARED).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().take(MAX_COMPARED).enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut before = i + 1;
        next.push(before);
        for (r, pair) in right.iter().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            before = (diagonal + usize::from(l != *r)).min(above + 1).min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Kind, labels: &[&str], annotations: &[&str]) -> Vec<String> {
        let map = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        warnings(kind, &Metadata { labels: map(labels), annotations: map(annotations) })
    }

    #[test]
    fn what_means_something_is_not_spoken_of() {
        assert!(said(Kind::Pod, &[INJECT, "app"], &KNOWN).is_empty());
        assert!(said(Kind::Service, &[], &[OPAQUE_PORTS, "other.dev/x"]).is_empty());
        assert!(said(Kind::Namespace, &[INJECT], &["weir.dev/mtls", OPAQUE_PORTS]).is_empty());
    }

    #[test]
    fn what_means_nothing_here_is_told_from_what_means_nothing() {
        let table = [
            (
                Kind::Pod,
                &[][..],
                &["weir.dev/mlts"][..],
                "weir does not know the annotation `weir.dev/mlts`, and it has no effect; did you mean `weir.dev/mtls`?",
            ),
            (Kind::Pod, &[], &["weir.dev/color"], "weir does not know the annotation `weir.dev/color`, and it has no effect"),
            (Kind::Pod, &["weir.dev/mtls"], &[], "weir: `weir.dev/mtls` has no effect as a label: write it as an annotation"),
            (Kind::Namespace, &[], &[STATUS], "weir: the annotation `weir.dev/status` has no effect on a Namespace"),
            (
                Kind::Namespace,
                &["weir.dev/injet"],
                &[],
                "weir does not know the label `weir.dev/injet`, and it has no effect; did you mean `weir.dev/inject`?",
            ),
            (Kind::Service, &[], &["weir.dev/mtls"], "weir: the annotation `weir.dev/mtls` has no effect on a Service"),
            (Kind::Service, &[INJECT], &[], "weir: the label `weir.dev/inject` has no effect on a Service"),
        ];
        for (kind, labels, annotations, expected) in table {
            assert_eq!(said(kind, labels, annotations), [expected]);
        }
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (left, right, expected) in
            [("", "", 0), ("kitten", "sitting", 3), ("abc", "", 3), ("", "abc", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }
}
