//! What the sidecars say about the traffic between them, read from their metrics.

use std::borrow::Cow;
use std::ops::Add;

use super::tally::percent;

/// Counters of one sidecar, or the sum over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Requests to other services.
    pub(crate) calls: u64,
    /// Of these, over mutual TLS.
    pub(crate) mutual_calls: u64,
    /// Requests that were let in without it.
    pub(crate) plain_arrivals: u64,
    /// Attempts after a first one.
    pub(crate) retries: u64,
    /// Times that an endpoint was taken out of the balancing.
    pub(crate) ejections: u64,
}

impl Counters {
    /// Percent of the traffic between services that was mutual TLS, as both ends saw it.
    pub(crate) fn mutual_share(self) -> f64 {
        percent(self.mutual_calls, self.calls + self.plain_arrivals)
    }
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            mutual_calls: self.mutual_calls + other.mutual_calls,
            plain_arrivals: self.plain_arrivals + other.plain_arrivals,
            retries: self.retries + other.retries,
            ejections: self.ejections + other.ejections,
        }
    }
}

/// Reads a sidecar's metrics.
///
/// `takes_load`: its arrivals come from the load, which stands outside the mesh, and say nothing about calls between services.
pub(crate) fn read(metrics: &str, takes_load: bool) -> Counters {
    let mut counters = Counters::default();
    for sample in metrics.lines().filter_map(sample) {
        match (sample.name, sample.label("direction").as_deref()) {
            ("weir_http_requests_total", Some("outbound")) => {
                counters.calls += sample.count;
                if sample.label("tls").as_deref() == Some("mutual") {
                    counters.mutual_calls += sample.count;
                }
            }
            ("weir_http_requests_total", Some("inbound")) if !takes_load && sample.label("tls").as_deref() != Some("mutual") => {
                counters.plain_arrivals += sample.count;
            }
            ("weir_http_retries_total", _) => counters.retries += sample.count,
            ("weir_endpoint_ejections_total", _) => counters.ejections += sample.count,
            _ => {}
        }
    }
    counters
}

/// A line of the Prometheus text format (0.0.4) that carries a count.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    count: u64,
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => inside.split_at(end_of_labels(inside)?),
        None => ("", rest),
    };
    let value = rest.trim_start_matches('}').split_whitespace().next()?;
    Some(Sample { name, labels, count: count(value)? })
}

/// Where the closing brace is: the first one outside a quoted value.
fn end_of_labels(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// A counter is written as a float; above 2^53 it would not be exact, and nothing here counts that far.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a whole number in range")]
fn count(value: &str) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.parse().ok().filter(|value| (0.0..=EXACT).contains(value)).map(|value: f64| value as u64)
}

impl Sample<'_> {
    /// A label's value.
    fn label(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut rest = self.labels;
        loop {
            let (key, after) = rest.split_once("=\"")?;
            let end = end_of_value(after)?;
            let (value, after) = after.split_at(end);
            if key.trim_start_matches([',', ' ']) == name {
                return Some(unescaped(value));
            }
            rest = after.strip_prefix('"')?;
        }
    }
}

fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP weir_http_requests_total Requests.
# TYPE weir_http_requests_total counter
weir_http_requests_total{backend="shop/a:80",direction="outbound",peer="spiffe://x/ns/shop/sa/a",route="a \"}, b",status="200",tls="mutual"} 40
weir_http_requests_total{direction="outbound",tls="none",status="503"} 2
weir_http_requests_total{direction="inbound",tls="mutual"} 7
weir_http_requests_total{direction="inbound",tls="none"} 3 1700000000
weir_http_retries_total{direction="outbound"} 5
weir_endpoint_ejections_total 1
weir_http_request_duration_seconds_bucket{direction="outbound",tls="none",le="+Inf"} 40
weir_http_requests_total{direction="outbound",tls="none"} NaN
broken{direction="outbound
"#;

    #[test]
    fn calls_are_counted_where_they_leave_and_checked_where_they_arrive() {
        let expected = Counters { calls: 42, mutual_calls: 40, plain_arrivals: 3, retries: 5, ejections: 1 };
        assert_eq!(read(METRICS, false), expected);
        assert_eq!(read(METRICS, true), Counters { plain_arrivals: 0, ..expected });
        assert_eq!(format!("{:.2}", expected.mutual_share()), "88.89");
        assert_eq!(Counters::default().mutual_share(), 0.0);
    }

    #[test]
    fn labels_are_read_through_quotes_and_braces() {
        let line = METRICS.lines().nth(2).unwrap();
        let sample = sample(line).unwrap();
        assert_eq!(sample.label("route").as_deref(), Some("a \"}, b"));
        assert_eq!(sample.label("tls").as_deref(), Some("mutual"));
        assert_eq!(sample.label("ls"), None);
        assert_eq!(sample.count, 40);
    }
}
