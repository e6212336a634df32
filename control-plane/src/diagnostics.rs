//! What is wrong in the source, where, and what to do about it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::metrics::Metrics;
use crate::objects::{FieldPath, ObjectKey, Problem};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that was written is not served.
    Error,
    /// Something may not be what its author meant.
    Warning,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// The file.
    pub file: Option<Arc<Path>>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column, from 1.
    pub column: Option<usize>,
    /// How bad it is.
    pub level: Level,
    /// The object: `HTTPRoute shop/reviews`.
    pub object: Option<String>,
    /// The field: `spec.rules[0].backendRefs[1].port`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            for number in [self.line, self.column].into_iter().flatten() {
                write!(f, ":{number}")?;
            }
            f.write_str(": ")?;
        }
        for text in [&self.object, &self.field].into_iter().flatten() {
            write!(f, "{text}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Where something stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
}

/// Finds where a field of an object is written. A source without files finds nothing.
pub type Locate = Arc<dyn Fn(&ObjectKey, &FieldPath) -> Option<Location> + Send + Sync>;

/// What is wrong at the moment.
#[derive(Debug, Default)]
pub struct Diagnostics {
    current: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Puts together what the source found and what objects say of others that is not so; logs what is new and what is right
    /// again.
    pub fn replace(&mut self, found: &[Diagnostic], problems: &[(ObjectKey, Problem)], locate: &Locate, metrics: &Metrics) {
        let between = problems.iter().map(|(key, problem)| at(key, problem, locate));
        let mut current: Vec<Diagnostic> = found.iter().cloned().chain(between).collect();
        current.sort();
        current.dedup();
        let old = std::mem::take(&mut self.current);
        let (before, now): (BTreeSet<Subject<'_>>, BTreeSet<Subject<'_>>) =
            (old.iter().map(subject).collect(), current.iter().map(subject).collect());
        for new in current.iter().filter(|it| !before.contains(&subject(it))) {
            match new.level {
                Level::Error => tracing::error!("{new}"),
                Level::Warning => tracing::warn!("{new}"),
            }
        }
        for fixed in old.iter().filter(|it| it.level == Level::Error && !now.contains(&subject(it))) {
            tracing::info!("no longer: {fixed}");
        }
        self.current = current;
        for level in [Level::Error, Level::Warning] {
            let count = self.current.iter().filter(|it| it.level == level).count();
            metrics.diagnostics.with_label_values(&[level.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// All of them, by file and line.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.current
    }
}

/// What a diagnostic is about. Not the line: an edit further up moves every line below, and that is not news.
type Subject<'a> = (Option<&'a Path>, Level, Option<&'a str>, Option<&'a str>, &'a str);

fn subject(it: &Diagnostic) -> Subject<'_> {
    (it.file.as_deref(), it.level, it.object.as_deref(), it.field.as_deref(), &it.message)
}

/// A problem of an object with its place.
#[must_use]
pub fn at(key: &ObjectKey, problem: &Problem, locate: &Locate) -> Diagnostic {
    let location = locate(key, &problem.field);
    Diagnostic {
        line: location.as_ref().map(|it| it.line),
        column: location.as_ref().map(|it| it.column),
        file: location.map(|it| it.file),
        level: Level::Error,
        object: Some(key.to_string()),
        field: Some(problem.field.to_string()).filter(|field| !field.is_empty()),
        message: problem.message.clone(),
    }
}
