//! Prometheus' text format (version 0.0.4), read strictly: whatever a scraper could stumble over is an error here.

mod line;

use std::collections::{BTreeMap, BTreeSet};

use line::{Line, Sample};

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Any value.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
    /// Quantiles, a sum and a count.
    Summary,
    /// Not said.
    Untyped,
}

/// Names and values of one series' labels, without the name of the metric.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Family {
    kind: Option<Kind>,
    help: bool,
    samples: Vec<Sample>,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    families: BTreeMap<String, Family>,
}

impl Metrics {
    /// Reads a page.
    ///
    /// # Errors
    ///
    /// The first line that breaks a rule of the format, and which rule.
    pub fn parse(page: &str) -> Result<Self, String> {
        if !page.is_empty() && !page.ends_with('\n') {
            return Err("the page does not end with a line feed".to_owned());
        }
        let mut metrics = Self::default();
        let mut current = String::new();
        for (index, text) in page.lines().enumerate() {
            let at = |reason: String| format!("line {}: {reason}: `{text}`", index + 1);
            match Line::parse(text).map_err(at)? {
                Line::Blank => {}
                Line::Help { name } => metrics.describe(&mut current, name, None).map_err(at)?,
                Line::Type { name, kind } => metrics.describe(&mut current, name, Some(kind)).map_err(at)?,
                Line::Sample(sample) => metrics.add(&current, sample).map_err(at)?,
            }
        }
        metrics.check()?;
        Ok(metrics)
    }

    /// A HELP or TYPE line. All lines of one metric stand together.
    fn describe(&mut self, current: &mut String, name: String, kind: Option<Kind>) -> Result<(), String> {
        if *current != name && self.families.contains_key(&name) {
            return Err("lines of one metric do not stand together".to_owned());
        }
        let family = self.families.entry(name.clone()).or_default();
        if !family.samples.is_empty() {
            return Err("HELP and TYPE come before the samples".to_owned());
        }
        let repeated = match kind {
            Some(kind) => family.kind.replace(kind).is_some(),
            None => std::mem::replace(&mut family.help, true),
        };
        if repeated {
            return Err("said twice for one metric".to_owned());
        }
        *current = name;
        Ok(())
    }

    fn add(&mut self, current: &str, sample: Sample) -> Result<(), String> {
        let family = self.families.get_mut(current).ok_or("a sample before any TYPE")?;
        let kind = family.kind.ok_or("a sample before its TYPE")?;
        let suffixes: &[&str] = match kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"],
            Kind::Summary => &["", "_sum", "_count"],
            Kind::Counter | Kind::Gauge | Kind::Untyped => &[""],
        };
        if !suffixes.iter().any(|suffix| sample.name.strip_suffix(suffix) == Some(current)) {
            return Err(format!("a sample that does not belong to {current}"));
        }
        if kind == Kind::Counter && (sample.value.is_nan() || sample.value < 0.0) {
            return Err("a counter below zero".to_owned());
        }
        if family.samples.iter().any(|other| other.name == sample.name && other.labels == sample.labels) {
            return Err("one series twice".to_owned());
        }
        family.samples.push(sample);
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        for (name, family) in &self.families {
            let kind = family.kind.ok_or_else(|| format!("{name} has no TYPE"))?;
            if !family.help {
                return Err(format!("{name} has no HELP"));
            }
            if kind == Kind::Counter && !name.ends_with("_total") {
                return Err(format!("the counter {name} does not end in _total"));
            }
            if kind == Kind::Histogram {
                check_histogram(name, &family.samples)?;
            }
        }
        Ok(())
    }

    /// Kind of a metric, if it is on the page.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.families.get(name)?.kind
    }

    /// All series of `name` (with `_bucket`, `_sum` or `_count` for parts of a histogram): labels and value.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.filter(move |sample| sample.name == name).map(|sample| (&sample.labels, sample.value))
    }

    /// Sum over the series of `name` that have all of `labels`; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = |found: &Labels| labels.iter().all(|(label, value)| found.get(*label).is_some_and(|v| v == value));
        self.series(name).filter(|(found, _)| matching(found)).map(|(_, value)| value).sum()
    }

    /// Number of series on the page.
    #[must_use]
    pub fn len(&self) -> usize {
        self.families.values().map(|family| family.samples.len()).sum()
    }

    /// Whether the page is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    /// Names of all metrics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }
}

/// Buckets are cumulative, end in `+Inf`, and that one equals the count; sum and count are there.
fn check_histogram(name: &str, samples: &[Sample]) -> Result<(), String> {
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut sums: BTreeSet<Labels> = BTreeSet::new();
    for sample in samples {
        let mut labels = sample.labels.clone();
        match sample.name.strip_prefix(name) {
            Some("_bucket") => {
                let le = labels.remove("le").ok_or_else(|| format!("a bucket of {name} has no `le`"))?;
                let bound = line::number(&le).map_err(|_| format!("`le` of {name} is not a number: {le}"))?;
                buckets.entry(labels).or_default().push((bound, sample.value));
            }
            Some("_count") => drop(counts.insert(labels, sample.value)),
            _ => drop(sums.insert(labels)),
        }
    }
    if buckets.len() != counts.len() || counts.len() != sums.len() {
        return Err(format!("{name} does not have buckets, sum and count for each series"));
    }
    for (labels, buckets) in &buckets {
        let wrong = |what: &str| Err(format!("the histogram {name}{labels:?} {what}"));
        if !buckets.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return wrong("has bounds that do not rise");
        }
        if !buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1) {
            return wrong("has buckets that are not cumulative");
        }
        match (buckets.last(), counts.get(labels)) {
            (Some((bound, inside)), Some(count)) if *bound == f64::INFINITY && inside == count => {}
            _ => return wrong("does not end in a +Inf bucket that equals its count"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"# HELP a_total Requests.
# TYPE a_total counter
a_total{x="1",y="with \"quotes\", a \\ and a \n"} 3
a_total{x="2",y=""} 4.5e1 1700000000000
# HELP b_seconds Time.
# TYPE b_seconds histogram
b_seconds_bucket{le="0.1"} 1
b_seconds_bucket{le="+Inf"} 2
b_seconds_sum 0.7
b_seconds_count 2
# HELP c A gauge.
# TYPE c gauge
c -Inf
"#;

    #[test]
    fn a_good_page_is_read_whole() {
        let metrics = Metrics::parse(GOOD).unwrap();
        assert_eq!(metrics.kind("a_total"), Some(Kind::Counter));
        assert_eq!(metrics.sum("a_total", &[]), 48.0);
        assert_eq!(metrics.sum("a_total", &[("x", "2")]), 45.0);
        assert_eq!(metrics.sum("b_seconds_count", &[]), 2.0);
        assert_eq!(metrics.len(), 7);
        let (labels, _) = metrics.series("a_total").next().unwrap();
        assert_eq!(labels["y"], "with \"quotes\", a \\ and a \n");
    }

    #[test]
    fn every_broken_rule_is_an_error() {
        let typed = |kind: &str, rest: &str| format!("# HELP x_total X.\n# TYPE x_total {kind}\n{rest}\n");
        for (page, reason) in [
            ("x 1\n".to_owned(), "before any TYPE"),
            ("# TYPE x gauge\nx 1\n".to_owned(), "no HELP"),
            ("# HELP x X.\nx 1\n".to_owned(), "before its TYPE"),
            ("# HELP x X.\n# TYPE x counter\nx 1\n".to_owned(), "_total"),
            (typed("counter", "x_total 1\nx_total 1"), "twice"),
            (typed("counter", "x_total -1"), "below zero"),
            (typed("counter", "x_total{a=\"1\",a=\"2\"} 1"), "twice"),
            (typed("counter", "x_total{a=1} 1"), "quote"),
            (typed("counter", "x_total{a=\"\\t\"} 1"), "escape"),
            (typed("counter", "x_total{a-b=\"1\"} 1"), "label"),
            (typed("counter", "x_total one"), "number"),
            (typed("counter", "x_total 1 2 3"), "timestamp"),
            (typed("counter", " x_total 1"), "name"),
            (typed("counter", "x_total"), "value"),
            (typed("counter", "y_total 1"), "belong"),
            (typed("kounter", "x_total 1"), "type"),
            (typed("histogram", "x_total_bucket{le=\"1\"} 1\nx_total_sum 1\nx_total_count 1"), "+Inf"),
            (
                typed("histogram", "x_total_bucket{le=\"1\"} 2\nx_total_bucket{le=\"+Inf\"} 1\nx_total_sum 1\nx_total_count 1"),
                "cumulative",
            ),
            (typed("histogram", "x_total_bucket{le=\"+Inf\"} 1\nx_total_count 1"), "sum and count"),
            ("# HELP x X.\n# TYPE x gauge\nx 1".to_owned(), "line feed"),
        ] {
            let error = Metrics::parse(&page).expect_err(&page);
            assert!(error.contains(reason), "{page}\nsays {error}, not {reason}");
        }
    }

    #[test]
    fn lines_of_one_metric_stand_together() {
        let page = "# HELP x X.\n# TYPE x gauge\nx 1\n# HELP y Y.\n# TYPE y gauge\ny 1\n# HELP x X.\n";
        assert!(Metrics::parse(page).unwrap_err().contains("together"));
    }
}
