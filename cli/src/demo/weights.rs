//! Edits the weights of a route as a person would: in the text, leaving every other byte as it is.

/// An edit that could not be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    /// The route has no backend of this name.
    #[error("the route has no backend `{0}`")]
    NoBackend(String),
    /// The backend is there, without a weight of its own.
    #[error("the backend `{0}` has no line `weight:`")]
    NoWeight(String),
}

/// The manifest with the backends' weights replaced.
///
/// A backend is a list item with `name: NAME` in block style; its weight is the line `weight:` of the same item.
///
/// # Errors
/// A backend is not there, or has no weight to replace.
pub(crate) fn set_weights(manifest: &str, weights: &[(&str, u32)]) -> Result<String, EditError> {
    let mut lines: Vec<String> = manifest.split_inclusive('\n').map(str::to_owned).collect();
    for (backend, weight) in weights {
        let named = |item: &[String]| item.iter().any(|line| field(line, "name") == Some(*backend));
        let weight_line = |line: &String| field(line, "weight").is_some();
        let named: Vec<_> = items(&lines).filter(|item| lines.get(item.clone()).is_some_and(named)).collect();
        if named.is_empty() {
            return Err(EditError::NoBackend((*backend).to_owned()));
        }
        // A parent may have the backend's name: the backend is the one with a weight.
        let at = named.into_iter().flatten().find(|at| lines.get(*at).is_some_and(weight_line));
        let line = at.and_then(|at| lines.get_mut(at)).ok_or_else(|| EditError::NoWeight((*backend).to_owned()))?;
        *line = with_value(line, "weight", &weight.to_string());
    }
    Ok(lines.concat())
}

/// The innermost list items, as ranges of lines.
fn items(lines: &[String]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let starts: Vec<_> = lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("- ")).collect();
    let ends = starts.iter().map(|(start, line)| {
        let indent = indent(line);
        let inside =
            |line: &str| line.trim().is_empty() || (indent_of_text(line) > indent && !line.trim_start().starts_with("- "));
        start + 1 + lines.iter().skip(start + 1).take_while(|line| inside(line)).count()
    });
    let ranges: Vec<_> = starts.iter().map(|(start, _)| *start).zip(ends).map(|(start, end)| start..end).collect();
    ranges.into_iter()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Comments may stand anywhere and do not end an item.
fn indent_of_text(line: &str) -> usize {
    if line.trim_start().starts_with('#') { usize::MAX } else { indent(line) }
}

/// The value of `key: value`, whether or not the line opens a list item.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let text = line.trim_start();
    let text = text.strip_prefix("- ").unwrap_or(text).trim_start();
    let value = text.strip_prefix(key)?.strip_prefix(':')?;
    let value = value.split(" #").next().unwrap_or(value).trim();
    Some(value.trim_matches(['"', '\'']))
}

fn with_value(line: &str, key: &str, value: &str) -> String {
    let Some((before, after)) = line.split_once(&format!("{key}:")) else {
        return line.to_owned();
    };
    let comment = after.find(" #").map_or("", |at| after.get(at..).unwrap_or_default().trim_end());
    let end = if line.ends_with('\n') { "\n" } else { "" };
    format!("{before}{key}: {value}{comment}{end}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::demo::manifest;

    const ROUTE: &str = include_str!("../../../examples/canary/route.yaml");

    #[test]
    fn the_weights_change_and_nothing_else() {
        let edited = set_weights(ROUTE, &[("catalog-v1", 90), ("catalog-v2", 10)]).unwrap();
        assert_eq!(manifest::split(&edited), BTreeMap::from([("catalog-v1".to_owned(), 90), ("catalog-v2".to_owned(), 10)]));
        let changed: Vec<_> = ROUTE.lines().zip(edited.lines()).filter(|(before, after)| before != after).collect();
        assert_eq!(changed, [("          weight: 100", "          weight: 90"), ("          weight: 0", "          weight: 10")]);
        assert_eq!(set_weights(&edited, &[("catalog-v1", 100), ("catalog-v2", 0)]).unwrap(), ROUTE);
    }

    #[test]
    fn a_persons_way_of_writing_survives() {
        let text = "rules:\n  - backendRefs:\n    # the old one\n    - weight: 3   # for now\n      name: \"a\"\n    - name: b\n\n      weight: 1";
        let expected = "rules:\n  - backendRefs:\n    # the old one\n    - weight: 7 # for now\n      name: \"a\"\n    - name: b\n\n      weight: 9";
        assert_eq!(set_weights(text, &[("a", 7), ("b", 9)]).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_edited_is_named() {
        assert_eq!(set_weights(ROUTE, &[("catalog-v3", 1)]), Err(EditError::NoBackend("catalog-v3".to_owned())));
        let without = ROUTE.replace("          weight: 0\n", "");
        assert_eq!(set_weights(&without, &[("catalog-v2", 1)]), Err(EditError::NoWeight("catalog-v2".to_owned())));
    }
}
