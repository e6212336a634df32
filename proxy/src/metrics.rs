//! What the proxy counts.
//!
//! Label values come from configuration, certificates and closed lists, never from a request's bytes. A request does not look its
//! labels up: workers keep [`RequestSeries`] where the route was compiled and increment plain atomics. The number of series is
//! bounded all the same ([`MAX_GROUPS`]); what goes beyond is counted together under `overflow`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use weir_core::names::{BackendRef, Identity};
use weir_core::route::RouteRef;

use crate::fault::{Hop, Reason};
use crate::shared::Shared;

/// Distinct combinations of direction, service, route, backend and peer that are counted apart. Five thousand is what a proxy
/// with 50 destinations and 100 callers of one service reaches; each costs about 4 KB with its histogram.
const MAX_GROUPS: usize = 5_000;

/// From half a millisecond to a minute; the first step is near what two sidecars add.
const DURATION_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const GROUP_LABELS: [&str; 7] = ["direction", "service", "namespace", "route", "backend", "peer", "tls"];

/// Everything that the proxy counts.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    retries: IntCounterVec,
    budget_exhausted: IntCounterVec,
    hedges: IntCounterVec,
    errors: IntCounterVec,
    connections: IntCounterVec,
    open_connections: IntGaugeVec,
    concurrency_limit: IntGaugeVec,
    bytes: IntCounterVec,
    ejections: IntCounterVec,
    mirrored: IntCounterVec,
    /// The combinations counted so far. Only looked at when a worker meets one for the first time.
    groups: Mutex<HashSet<[String; 7]>>,
    config_age: Gauge,
    /// How many updates have been applied.
    pub(crate) config_version: IntGauge,
    /// Updates that were refused.
    pub(crate) config_rejected: IntCounter,
    /// When the certificate ends, in seconds since 1970 (UTC); 0 before there is one.
    pub(crate) certificate_expiry: Gauge,
    /// Certificates asked for, by result (`success`, `failure`).
    pub(crate) certificate_renewals: IntCounterVec,
}

impl Metrics {
    /// A set of its own, with the metrics of the process.
    ///
    /// # Errors
    ///
    /// Two metrics with one name, which would be a mistake in this file.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let made = Made(&registry);
        let connection = ["direction", "service", "namespace", "backend", "peer", "tls"];
        let retries = ["direction", "service", "namespace", "route", "backend"];
        let metrics = Self {
            requests: made.counters(
                "weir_http_requests_total",
                "HTTP requests, counted when the answer has ended.",
                &[&GROUP_LABELS[..], &["status", "grpc_status"]].concat(),
            )?,
            durations: made.durations()?,
            retries: made.counters("weir_http_retries_total", "Attempts after the first of a request.", &retries)?,
            budget_exhausted: made.counters(
                "weir_http_retries_over_budget_total",
                "Retries that were not made because the budget was spent.",
                &["service", "namespace", "backend"],
            )?,
            hedges: made.counters(
                "weir_http_hedges_total",
                "Second attempts beside a first one that took long: `won` when they were answered first, else `lost`.",
                &["service", "namespace", "backend", "result"],
            )?,
            errors: made.counters(
                "weir_mesh_errors_total",
                "Answers and closed connections of the mesh's own, by reason.",
                &["direction", "reason"],
            )?,
            connections: made.counters("weir_tcp_connections_total", "Opaque connections that were carried.", &connection)?,
            open_connections: made.gauges("weir_tcp_open_connections", "Opaque connections being carried.", &connection)?,
            bytes: made.counters(
                "weir_tcp_bytes_total",
                "Bytes of opaque connections: `sent` towards the server, `received` from it.",
                &[&connection[..], &["flow"]].concat(),
            )?,
            ejections: made.counters(
                "weir_endpoint_ejections_total",
                "Endpoints that were taken out of balancing for a while.",
                &["service", "namespace", "backend", "cause"],
            )?,
            mirrored: made.counters(
                "weir_http_mirrored_requests_total",
                "Copies of requests: `answered` by the mirror, `failed`, or `dropped` because the mirror could not keep up.",
                &["service", "namespace", "backend", "result"],
            )?,
            concurrency_limit: made.gauges(
                "weir_concurrency_limit",
                "Requests that may be under way at a port of the workload, where that is found out (adaptive concurrency).",
                &["port"],
            )?,
            groups: Mutex::default(),
            config_age: made.gauge(
                "weir_config_age_seconds",
                "How long ago the configuration was last known to be current; -1 if never in this process.",
            )?,
            config_version: register(&registry, IntGauge::new("weir_config_version", "Configuration updates applied so far.")?)?,
            config_rejected: register(
                &registry,
                IntCounter::new("weir_config_rejected_total", "Configuration updates that were refused; the old one serves on.")?,
            )?,
            certificate_expiry: made
                .gauge("weir_certificate_expiry_timestamp_seconds", "When the certificate ends, as Unix time.")?,
            certificate_renewals: made.counters(
                "weir_certificate_renewals_total",
                "Certificates asked for, by result.",
                &["result"],
            )?,
            registry,
        };
        for hop in [Hop::Outbound, Hop::Inbound] {
            for reason in Reason::ALL {
                metrics.errors.with_label_values(&[hop.as_str(), reason.as_str()]);
            }
        }
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts an answer or a closed connection of the mesh's own.
    pub(crate) fn fault(&self, hop: Hop, reason: Reason) {
        self.errors.with_label_values(&[hop.as_str(), reason.as_str()]).inc();
    }

    /// Counts an ejection.
    pub(crate) fn ejection(&self, backend: &BackendRef, cause: &str) {
        let service = &backend.service;
        self.ejections.with_label_values(&[service.name.as_str(), service.namespace.as_str(), &backend.to_string(), cause]).inc();
    }

    /// How many requests may be under way at a port.
    pub(crate) fn concurrency_limit(&self, port: u16, limit: u32) {
        self.concurrency_limit.with_label_values(&[&port.to_string()]).set(limit.into());
    }

    /// Counts a retry that the budget forbade.
    pub(crate) fn over_budget(&self, backend: &BackendRef) {
        let service = &backend.service;
        self.budget_exhausted.with_label_values(&[service.name.as_str(), service.namespace.as_str(), &backend.to_string()]).inc();
    }

    /// Counts a second attempt beside a first one.
    pub(crate) fn hedged(&self, backend: &BackendRef, won: bool) {
        let (service, result) = (&backend.service, if won { "won" } else { "lost" });
        let labels = [service.name.as_str(), service.namespace.as_str(), &backend.to_string(), result];
        self.hedges.with_label_values(&labels).inc();
    }

    /// The counters of requests that are mirrored to a backend. Slow; keep what it returns.
    pub(crate) fn mirrored(&self, backend: &BackendRef) -> MirrorSeries {
        let (service, text) = (&backend.service, backend.to_string());
        let counter =
            |result| self.mirrored.with_label_values(&[service.name.as_str(), service.namespace.as_str(), &text, result]);
        MirrorSeries { answered: counter("answered"), failed: counter("failed"), dropped: counter("dropped") }
    }

    /// The series for one combination of labels. Slow; keep what it returns.
    pub(crate) fn requests(&self, labels: &Labels) -> RequestSeries {
        let values = self.bounded(labels);
        let strs = values.each_ref().map(String::as_str);
        let [direction, service, namespace, route, backend, ..] = strs;
        RequestSeries {
            duration: self.durations.with_label_values(&strs),
            retries: self.retries.with_label_values(&[direction, service, namespace, route, backend]),
            values,
        }
    }

    /// The counter of requests that ended with these statuses. `grpc` is empty for requests that are not gRPC.
    pub(crate) fn requests_with_status(&self, series: &RequestSeries, status: &str, grpc: &str) -> IntCounter {
        let [direction, service, namespace, route, backend, peer, tls] = series.values.each_ref().map(String::as_str);
        self.requests.with_label_values(&[direction, service, namespace, route, backend, peer, tls, status, grpc])
    }

    /// The series of opaque connections for one combination of labels.
    pub(crate) fn connections(&self, labels: &Labels) -> ConnectionSeries {
        let values = self.bounded(labels);
        let [direction, service, namespace, _, backend, peer, tls] = values.each_ref().map(String::as_str);
        let common = [direction, service, namespace, backend, peer, tls];
        let bytes = |flow| self.bytes.with_label_values(&[direction, service, namespace, backend, peer, tls, flow]);
        ConnectionSeries {
            total: self.connections.with_label_values(&common),
            open: self.open_connections.with_label_values(&common),
            sent: bytes("sent"),
            received: bytes("received"),
        }
    }

    fn bounded(&self, labels: &Labels) -> [String; 7] {
        let values = labels.values();
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.contains(&values) || groups.len() < MAX_GROUPS {
            groups.insert(values.clone());
            return values;
        }
        let [direction, .., tls] = values;
        let overflow = || String::from("overflow");
        [direction, overflow(), overflow(), overflow(), overflow(), overflow(), tls]
    }

    /// All of it in Prometheus' text format.
    pub(crate) fn render(&self, shared: &Shared) -> String {
        self.config_age.set(shared.control.age(shared.now()).map_or(-1.0, |age| age.as_secs_f64()));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Makes metrics and registers them.
struct Made<'a>(&'a Registry);

impl Made<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        register(self.0, IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        register(self.0, IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        register(self.0, Gauge::new(name, help)?)
    }

    fn durations(&self) -> Result<HistogramVec, prometheus::Error> {
        let help = "Time from a request's arrival to the end of its answer.";
        let options = HistogramOpts::new("weir_http_request_duration_seconds", help).buckets(DURATION_BUCKETS.to_vec());
        register(self.0, HistogramVec::new(options, &GROUP_LABELS)?)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// What a request or connection is counted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels {
    /// Which side this proxy is on.
    pub(crate) hop: Hop,
    /// The destination that the client asked for.
    pub(crate) service: Option<weir_core::names::ServiceRef>,
    /// The route that was taken.
    pub(crate) route: Option<RouteRef>,
    /// Who got it.
    pub(crate) backend: Option<BackendRef>,
    /// The other side, when authenticated.
    pub(crate) peer: Option<Arc<Identity>>,
}

impl Labels {
    /// Labels for what has no known destination.
    pub(crate) const fn unknown(hop: Hop) -> Self {
        Self { hop, service: None, route: None, backend: None, peer: None }
    }

    fn values(&self) -> [String; 7] {
        let text = |value: Option<String>| value.unwrap_or_default();
        [
            self.hop.as_str().to_owned(),
            text(self.service.as_ref().map(|it| it.name.to_string())),
            text(self.service.as_ref().map(|it| it.namespace.to_string())),
            text(self.route.as_ref().map(ToString::to_string)),
            text(self.backend.as_ref().map(ToString::to_string)),
            text(self.peer.as_ref().map(ToString::to_string)),
            if self.peer.is_some() { "mutual" } else { "none" }.to_owned(),
        ]
    }
}

/// Where requests of one kind are counted.
pub(crate) struct RequestSeries {
    /// Their durations, in seconds.
    pub(crate) duration: Histogram,
    /// Attempts after the first.
    pub(crate) retries: IntCounter,
    values: [String; 7],
}

/// Where requests that are mirrored to one backend are counted.
pub(crate) struct MirrorSeries {
    /// The mirror answered, whatever it said.
    pub(crate) answered: IntCounter,
    /// The mirror could not be reached, broke, or took too long.
    pub(crate) failed: IntCounter,
    /// The mirror did not keep up with the body, or too many copies were under way.
    pub(crate) dropped: IntCounter,
}

/// Where opaque connections of one kind are counted.
#[derive(Clone)]
pub(crate) struct ConnectionSeries {
    total: IntCounter,
    open: IntGauge,
    /// Bytes towards the server.
    pub(crate) sent: IntCounter,
    /// Bytes from the server.
    pub(crate) received: IntCounter,
}

impl ConnectionSeries {
    /// Counts a connection as open for as long as the guard lives.
    pub(crate) fn open(&self) -> OpenGauge {
        self.total.inc();
        self.open.inc();
        OpenGauge(self.open.clone())
    }
}

/// A connection that is counted as open.
pub(crate) struct OpenGauge(IntGauge);

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::names::ServiceRef;

    fn labels(number: usize) -> Labels {
        let service: ServiceRef = format!("shop/s{number}").parse().unwrap();
        Labels { service: Some(service), ..Labels::unknown(Hop::Outbound) }
    }

    #[test]
    fn combinations_are_counted_once_however_often_they_are_met() {
        let metrics = Metrics::new().unwrap();
        for _ in 0..MAX_GROUPS * 2 {
            assert_eq!(metrics.bounded(&labels(1))[1], "s1");
        }
    }

    #[test]
    fn over_the_bound_everything_is_counted_together() {
        let metrics = Metrics::new().unwrap();
        for number in 0..MAX_GROUPS {
            assert_eq!(metrics.bounded(&labels(number))[1], format!("s{number}"));
        }
        assert_eq!(metrics.bounded(&labels(MAX_GROUPS))[1], "overflow");
        assert_eq!(metrics.bounded(&labels(0))[1], "s0");
    }
}
